"""What a model finds in files: their windows, in batches, put together."""
import collections
import contextlib
import functools
import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

from vatt import similarity
from vatt.data import media_views
from vatt.data import windows as windows_lib
from vatt.data.ingest import media
from vatt.data.ingest.workers import Workers
from vatt.errors import UserError

BATCH_BYTES = 20 << 20  # of the views that the model sees at once
SHOWN = 3  # problems of a file
SILENT = "its sound is silent in all windows that were taken"
PROGRESS = ("{percentage:3.0f}%|{bar}| {n:.1f}/{total} files "
            "[{elapsed}<{remaining}, {rate_fmt}]")


class Found(NamedTuple):
  """What a model finds in a file.

  Attributes:
    number: of the file among the inputs.
    name: of the file, or "array" and its number.
    times: float64 [W, 2], seconds at which its windows start and end.
    masks: bool [W] by modality, whether a window has it.
    values: float32 [W, …] by name, as of `Task.infer`, means over the crops of
      a window; not normalized, but with `eval.average` "similarity" means of
      vectors of unit length.
    problems: why windows, or what they should have, are missing.
  """
  number: int
  name: str
  times: np.ndarray
  masks: dict[str, np.ndarray]
  values: dict[str, np.ndarray]
  problems: list[str]

  @property
  def reason(self) -> str:
    """The problems in a line, each once, the first of many."""
    found = list(dict.fromkeys(self.problems))
    more = len(found) - SHOWN
    return "; ".join(found[:SHOWN]) + f"; and {more} more" * (more > 0)

  @property
  def used(self) -> bool:
    """Whether any window has anything."""
    return any(mask.any() for mask in self.masks.values())

  def mask(self, name: str) -> np.ndarray:
    """Bool [W], the windows that have values of that name."""
    return self.masks.get(name.partition("_")[0],
                          np.zeros([len(self.times)], bool))

  def windows(self, name: str, normalize: bool = True) -> np.ndarray:
    """The vectors of all windows: float32 [W, E], with rows of NaN for those
    that have none.

    Args:
      name: of the vectors, such as `video_vt`.
      normalize: whether they are scaled to unit length.
    """
    vectors = np.where(self.mask(name)[:, None], self.values[name], np.nan)
    return similarity.normalize(vectors) if normalize else vectors

  def vectors(self, name: str, normalize: bool = True
              ) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of the windows that have some: float32 [W, E], and float64
    [W, 2], their times; see `windows`."""
    mask = self.mask(name)
    values = self.values.get(name, np.zeros([0, 0], np.float32))[mask]
    return (similarity.normalize(values) if normalize else values,
            self.times[mask])

  def mean(self, name: str, normalize: bool = True) -> np.ndarray | None:
    """The mean of `vectors`, as `eval.average` takes it, float32 [E]; None if
    no window has any."""
    values, _ = self.vectors(name, normalize=False)
    if not len(values):
      return None
    mean = values.mean(axis=0)
    return similarity.normalize(mean[None])[0] if normalize else mean


def means(found: Sequence[Found], name: str, normalize: bool = True
          ) -> np.ndarray:
  """The `Found.mean` of n files: float32 [n, E], with rows of NaN for those
  that have none."""
  rows = [one.mean(name, normalize) for one in found]
  size = max((len(row) for row in rows if row is not None), default=0)
  return np.stack([np.full([size], np.nan, np.float32) if row is None else row
                   for row in rows])


def tell(found: Sequence[Found], used: Sequence[bool]) -> None:
  """Warns of the files that are not used, or in part; UserError if none is."""
  failed = [f"{one.name}: {one.reason or 'has nothing of that kind'}"
            for one, has in zip(found, used) if not has]
  if len(failed) == len(found):
    more = f" (and {len(failed) - 1} more)" * (len(failed) > 1)
    raise UserError(f"{failed[0]}{more}, expected media that can be used")
  for line in failed:
    logging.warning("%s: left out", line)
  for one, has in zip(found, used):
    if has and one.problems:
      logging.warning("%s: in part: %s", one.name, one.reason)


class Finder:
  """Has a model see and hear files.

  Args:
    config: of the model; `eval` says what of a file it gets.
    infer: a function of a batch, `Task.infer` of the model. Each size of a
      batch is traced once.
  """

  def __init__(self, config: ConfigDict,
               infer: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]):
    self._config = config
    self._infer = tf.function(infer, autograph=False)
    self._workers = Workers()  # which stay for the next files
    # Each is traced once.
    self._cutter = functools.cache(functools.partial(
        windows_lib.make_cutter, config.data))

  def find(self, inputs: Sequence[str | media_views.Clip],
           kinds: Sequence[str], windows: int | str | None = None
           ) -> Iterator[Found]:
    """Runs the model on files; shows the progress.

    Args:
      inputs: paths of local files, or clips in hand.
      kinds: video, audio or both, which the model has.
      windows: of a file, a number or "all"; default `eval.windows`.

    Yields:
      What is found in each file, as they are done: see `Found.number`.

    Raises:
      UserError: there are no files, or no such number of windows.
    """
    windows = self._config.eval.windows if windows is None else windows
    if windows != "all" and not (
        isinstance(windows, numbers.Integral) and windows > 0):
      raise UserError(f"windows is {windows!r}, expected a number from 1 or "
                      "'all'")
    if not len(inputs):
      raise UserError("no file, expected at least one")
    data = self._config.data
    crops = self._config.eval.crops if "video" in kinds else 1
    size, span = self._batch_size(kinds), windows_lib.span(data)
    done, batch, ended = {}, [], []
    waiting = collections.Counter()  # views in the batch, by file

    def run():
      for view, values in zip(batch, self._run([view.row for view in batch])):
        # And no longer its frames.
        row = {name: view.row[name] for name in ("video_mask", "audio_mask")}
        done.setdefault(view.file, []).append((view._replace(row=row), values))
      batch.clear()
      waiting.clear()

    def finished():
      """Yields what is found in files of which no view waits any more."""
      for end in [end for end in ended if not waiting[end.file]]:
        ended.remove(end)
        name = inputs[end.file]
        if not isinstance(name, str):
          name = f"array {end.file}"
        yield _put_together(name, end, done.pop(end.file, []), span)

    with contextlib.closing(media_views.read_views(
        inputs, data, self._cutter(tuple(kinds), crops), kinds, windows, crops,
        self._workers)) as items, tqdm(
            total=len(inputs), leave=False, disable=None,
            bar_format=PROGRESS) as progress:
      for item in items:
        if isinstance(item, media_views.View):
          batch.append(item)
          waiting[item.file] += 1
          progress.update(item.share)
          if len(batch) == size:
            run()
        else:
          ended.append(item)
        yield from finished()
      if batch:
        run()
      yield from finished()

  def _batch_size(self, kinds):
    """How many views the model sees at once."""
    data = self._config.data
    view = data.frames * data.size ** 2 * 3 if "video" in kinds else (
        2 * data.audio_samples)
    size = max(1, min(self._config.eval.batch_size, BATCH_BYTES // view))
    return 1 << size.bit_length() - 1  # as `_run` fills up to

  def _run(self, rows):
    """What is inferred of each row, by name."""
    # Of few sizes, each a program; what is added is left out again.
    count = len(rows)
    rows = rows + rows[:1] * (2 ** (count - 1).bit_length() - count)
    batch = {name: tf.constant(np.stack([row[name] for row in rows]))
             for name in rows[0]}
    # Not called as it is: TensorFlow would warn of the programs.
    values = self._infer.get_concrete_function(batch)(batch)
    values = {name: value.numpy() for name, value in values.items()}
    if self._config.eval.average == "similarity":
      values = {name: similarity.normalize(value) if name.endswith(
          ("_va", "_vt")) else value for name, value in values.items()}
    return [{name: value[i] for name, value in values.items()}
            for i in range(count)]


def _put_together(name, end, views, span):
  """The Found of an input.

  Args:
    name: of the input.
    end: its media_views.End.
    views: its media_views.Views, and what was inferred of each by name.
    span: seconds of a window.
  """
  _, first, number, crops = np.unique(
      np.array([view.window for view, _ in views], np.int64),
      return_index=True, return_inverse=True, return_counts=True)
  firsts = [views[i][0] for i in first]
  values = {}
  for key in views[0][1] if views else ():
    each = np.stack([values[key] for _, values in views])  # [V, …]
    values[key] = np.zeros([len(firsts), *each.shape[1:]], np.float32)
    np.add.at(values[key], number, each)
    values[key] /= crops[:, None]
  masks = {kind: np.array([view.row[f"{kind}_mask"] for view in firsts], bool)
           for kind in media.KINDS}
  problems = list(end.problems)
  if masks["audio"].any() and all(
      view.silent for view in firsts if view.row["audio_mask"]):
    masks["audio"][:] = False
    problems.append(SILENT)
  starts = np.array([view.start for view in firsts], np.float64)
  return Found(end.file, name, np.stack([starts, starts + span], 1), masks,
               values, problems)
