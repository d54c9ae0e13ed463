"""A trained model in use: vectors, labels and rankings of files and arrays."""
import collections
import contextlib
import functools
import numbers
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special
import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

from vatt import fields, restore, similarity
from vatt.data import media_views, text
from vatt.data import windows as windows_lib
from vatt.data.ingest import media
from vatt.data.ingest.workers import Workers
from vatt.errors import UserError

BATCH_BYTES = 20 << 20  # of the views that the model sees at once
SHOWN = 3  # problems of a file
SILENT = "its sound is silent in all windows that were taken"
PROGRESS = ("{percentage:3.0f}%|{bar}| {n:.1f}/{total} files "
            "[{elapsed}<{remaining}, {rate_fmt}]")
File = str | os.PathLike | np.ndarray
Files = File | Sequence[File]


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


class Model:
  """A trained model in use: files and arrays in, vectors, labels and rankings
  out.

  A file is any that FFmpeg reads, of any length. What the model sees of it are
  windows, as evaluation cuts them: so many, evenly spread (`windows=4`; default
  `eval.windows` of its config), or all, end to end (`windows="all"`); the value
  of a file is the mean over them. Files are decoded as many at a time as there
  are cores.

  Vectors are float32 and of unit length, unless `normalize=False`. They are in
  a space: "va", which video and audio share; "vt", which all three share (sound
  is carried into it, section 3.2); or "features", those of a tower, as probes
  use them.

  Of a list of files, those that cannot be used have rows of NaN, and a warning
  says why; a file alone that cannot be used is an error.

  Args:
    path: of a workdir of training, of a converted or an exported model.
    vocabulary: file with the model's words, a word a line, where the folder has
      none.
    config, strategy: as of `restore.load_model`.

  Attributes:
    task: with the config that it is used with, and its words.
    model: of the task.
    step: of the checkpoint.

  Raises:
    UserError: there is no model, or the words are not its own.
  """

  def __init__(self, path: str | os.PathLike, vocabulary: str = "",
               config: ConfigDict | None = None,
               strategy: tf.distribute.Strategy | None = None):
    self.path = os.path.expanduser(os.fspath(path))
    self.strategy = strategy or tf.distribute.get_strategy()
    self.task, self.model, self.step = restore.load_model(
        self.path, config, self.strategy, vocabulary)
    self.config = self.task.config
    for part in "data", "eval":
      fields.check(self.config[part], part)
    self._workers = Workers()  # which stay for the next files
    # Each is traced once.
    self._cutter = functools.cache(functools.partial(
        windows_lib.make_cutter, self.config.data))
    self._infer = tf.function(self._infer_batch, autograph=False)

  def _infer_batch(self, batch):
    return self.task.infer(self.model, batch)

  # ---- What there is --------------------------------------------------------
  @property
  def modalities(self) -> tuple[str, ...]:
    """Those of video, audio and text that the model understands."""
    return tuple(self.model.towers)

  @property
  def signals(self) -> list[str]:
    """Those of video and audio that the model understands."""
    return [kind for kind in media.KINDS if kind in self.model.towers]

  def require_text(self) -> None:
    """Raises UserError unless the model understands sentences."""
    if "text" not in self.model.towers:
      raise UserError(f"{self.path}: a model of the task {self.config.task}, "
                      "expected a pre-trained one, which understands text")
    if not self.task.words:
      raise UserError(
          f"{self.path}: has no {self.task.WORDS_FILE}, expected the words of "
          "its model, one a line, there or as `vocabulary`")

  def require(self, modality: str) -> None:
    """Raises UserError unless the model has a modality."""
    if modality not in self.model.towers:
      raise UserError(
          f"{self.path}: a model of {', '.join(self.modalities)}, expected one "
          f"that has {modality}")

  def _name_of(self, modality, space):
    """The name of a modality's vectors in a space, or UserError."""
    self.require(modality)
    known = (["va", "vt", "features"] if self.config.task == "pretrain"
             else ["features"])
    space = (space or ("vt" if "vt" in known else "features")).removeprefix(
        f"{modality}_")
    if space not in known:
      raise UserError(f"space is {space!r}, expected one of {known}, which "
                      f"{modality} has in {self.path}")
    return f"{modality}_{space}"

  # ---- Vectors --------------------------------------------------------------
  def embed_text(self, sentences: str | Sequence[str], normalize: bool = True
                 ) -> np.ndarray:
    """Embeds sentences in S_vt: float32 [n, E]; a single one is [E].

    Words that the vocabulary does not have, to the model all the same, and
    those behind the last that it reads are named in the log.

    Raises:
      UserError: a sentence has no word that the model knows.
    """
    self.require_text()
    if isinstance(sentences, str):
      return self.embed_text([sentences], normalize)[0]
    sentences = list(sentences)
    if not sentences:
      raise UserError("no sentence, expected at least one")
    understood = text.understand(
        self.task.words, sentences, self.config.data.words)
    for one in understood:
      if not one.known:
        raise UserError(f"sentence {one.problem}")
    text.warn_of(understood, "sentence")
    vectors = self.task.embed_sentences(self.model, self.strategy, sentences)
    return similarity.normalize(vectors) if normalize else vectors

  def embed_video(self, files: Files, space: str = "", *,
                  windows: int | str | None = None, each: bool = False,
                  normalize: bool = True, fps: float = 0.0
                  ) -> np.ndarray | list[tuple[np.ndarray, np.ndarray]]:
    """Embeds the pictures of files.

    Args:
      files: a path, an array of frames uint8 [T, H, W, 3], or a list of these.
      space: va, vt or features; default vt, or features if there is no space.
      windows: of a file; a number or "all".
      each: whether to return the vectors of each window, with its times.
      normalize: whether to scale vectors to unit length.
      fps: frames a second of arrays; default those that the model reads.

    Returns:
      float32 [n, E], or [E] of a single file. With `each`, a list of pairs (of
      a single file one): float32 [W, E], and float64 [W, 2], the seconds at
      which its windows start and end.

    Raises:
      UserError: the model has no such space; a single file, or each of a list,
        cannot be used; an array is none of these.
    """
    name = self._name_of("video", space)
    return self._embed(files, name, windows, each, normalize, fps=fps)

  def embed_audio(self, files: Files, space: str = "", *,
                  windows: int | str | None = None, each: bool = False,
                  normalize: bool = True, rate: int = 0
                  ) -> np.ndarray | list[tuple[np.ndarray, np.ndarray]]:
    """Embeds the sound of files.

    Args:
      files: a path, of sound or of video; an array of samples, int16 or float
        in [-1, 1], [S] or [S, channels]; or a list of these.
      space, windows, each, normalize: as of `embed_video`.
      rate: samples a second of arrays.

    Returns, raises:
      As `embed_video`.
    """
    name = self._name_of("audio", space)
    return self._embed(files, name, windows, each, normalize, rate=rate)

  def embed_clip(self, files: Files, *, windows: int | str | None = None,
                 each: bool = False, normalize: bool = True
                 ) -> dict[str, Any]:
    """Embeds pictures and sound of files, decoded once.

    Args:
      files: paths; else as of `embed_video`.
      windows, each, normalize: as of `embed_video`.

    Returns:
      What `embed_video` and `embed_audio` return, by name: `video_va`,
      `video_vt`, `audio_va`, `audio_vt` and the towers' features. What a file
      does not have, such as sound, is NaN.

    Raises:
      UserError: as `embed_video`.
    """
    single, inputs = self._inputs(files)
    found = self.find(inputs, self.signals, windows)
    tell(found, [one.used for one in found])
    names = dict.fromkeys(name for one in found for name in one.values
                          if name != "logits")
    table = {name: [self.vectors(one, name, each, normalize) for one in found]
             if each else self.table(found, name, normalize) for name in names}
    return {name: rows[0] if single else rows for name, rows in table.items()}

  def similarity(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines of vectors of one space: float32 [n, m] of [n, E] and [m, E]; a
    single vector, [E], counts as one row.

    Raises:
      UserError: they are of different lengths, as of two spaces.
    """
    a, b = (np.atleast_2d(np.asarray(each, np.float32)) for each in (a, b))
    if a.shape[1] != b.shape[1]:
      raise UserError(f"vectors of {a.shape[1]} and {b.shape[1]} numbers, "
                      "expected those of one space")
    return similarity.normalize(a) @ similarity.normalize(b).T

  # ---- Labels ---------------------------------------------------------------
  def classify(self, files: Files, top: int | None = 5, *,
               windows: int | str | None = None, fps: float = 0.0,
               rate: int = 0) -> list[Any]:
    """Classifies files by a fine-tuned model. Where its folder does not name
    the classes, as of a released model, they have their numbers, from 0.

    Args:
      files: as of `embed_video` or `embed_audio`, whichever the model sees.
      top: how many classes of a file; None for all.
      windows, fps, rate: as of these; logits are averaged over the windows.

    Returns:
      Of each file (label, probability)s, the highest first; [] of one that
      cannot be used. Of a single file, its own.

    Raises:
      UserError: the model is no fine-tuned one; as `embed_video`.
    """
    if self.config.task == "pretrain":
      raise UserError(f"{self.path}: a pre-trained model, expected a "
                      "fine-tuned one, which has classes")
    single, inputs = self._inputs(files, fps, rate)
    found = self.find(inputs, self.signals, windows)
    results = [self.scores(one, top) for one in found]
    tell(found, [one.mask(f"{self.signals[0]}_features").any()
                 for one in found])
    return results[0] if single else results

  def scores(self, found: Found, top: int | None = None
             ) -> list[tuple[str, float]]:
    """The (label, probability)s of a file, the highest first; [] if it could
    not be used."""
    mask = found.masks[self.signals[0]]
    if not mask.any():
      return []
    logits = found.values["logits"][mask].mean(axis=0)
    if self.config.finetune.multi_label:
      scores = scipy.special.expit(logits)
    else:
      scores = scipy.special.softmax(logits)
    order = np.argsort(-scores, kind="stable")[:top]
    labels = self.task.words or [str(i) for i in range(len(scores))]
    return [(labels[i], float(scores[i])) for i in order]

  # ---- Files ----------------------------------------------------------------
  def infer(self, inputs: Sequence[str | media_views.Clip],
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
    windows = self.config.eval.windows if windows is None else windows
    if windows != "all" and not (
        isinstance(windows, numbers.Integral) and windows > 0):
      raise UserError(f"windows is {windows!r}, expected a number from 1 or "
                      "'all'")
    if not len(inputs):
      raise UserError("no file, expected at least one")
    data = self.config.data
    crops = self.config.eval.crops if "video" in kinds else 1
    span = windows_lib.span(data)
    view = data.frames * data.size ** 2 * 3 if "video" in kinds else (
        2 * data.audio_samples)
    size = max(1, min(self.config.eval.batch_size, BATCH_BYTES // view))
    size = 1 << size.bit_length() - 1  # as `run` fills up to
    done, batch, ended = {}, [], []
    waiting = collections.Counter()  # views in the batch, by file

    def run():
      rows = [view.row for view in batch]
      # Of few sizes, each a program; what is added is left out again.
      rows += rows[:1] * (2 ** (len(rows) - 1).bit_length() - len(rows))
      stacked = {name: tf.constant(np.stack([row[name] for row in rows]))
                 for name in rows[0]}
      # Not called as it is: TensorFlow would warn of the programs.
      values = self._infer.get_concrete_function(stacked)(stacked)
      values = {name: value.numpy() for name, value in values.items()}
      if self.config.eval.average == "similarity":
        values = {name: similarity.normalize(value) if name.endswith(
            ("_va", "_vt")) else value for name, value in values.items()}
      for i, view in enumerate(batch):  # and no longer its frames
        row = {name: view.row[name] for name in ("video_mask", "audio_mask")}
        done.setdefault(view.file, []).append((
            view._replace(row=row),
            {name: value[i] for name, value in values.items()}))
      batch.clear()
      waiting.clear()

    def finished():
      """Yields what is found in files of which no view waits any more."""
      for end in [end for end in ended if not waiting[end.file]]:
        ended.remove(end)
        one = inputs[end.file]
        yield _found(one if isinstance(one, str) else f"array {end.file}", end,
                     done.pop(end.file, []), span)

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

  def find(self, inputs: Sequence[str | media_views.Clip],
           kinds: Sequence[str], windows: int | str | None = None
           ) -> list[Found]:
    """What `infer` yields, in the order of the inputs."""
    return sorted(self.infer(inputs, kinds, windows),
                  key=lambda found: found.number)

  def windows(self, found: Found, name: str, normalize: bool = True
              ) -> np.ndarray:
    """The vectors of all windows of a file: float32 [W, E], with rows of NaN
    for those that have none; see `vectors`."""
    vectors = np.where(found.mask(name)[:, None], found.values[name], np.nan)
    return similarity.normalize(vectors) if normalize else vectors

  def vectors(self, found: Found, name: str, each: bool = False,
              normalize: bool = True) -> Any:
    """The vectors of a file.

    Args:
      found: of `infer`.
      name: of the vectors, such as `video_vt`.
      each, normalize: as of `embed_video`.

    Returns:
      Their mean over the windows as `eval.average` takes it, float32 [E], or
      None if there is no window with any; with `each`, all with their times.
    """
    mask = found.mask(name)
    values = found.values.get(name, np.zeros([0, 0], np.float32))[mask]
    if each:
      return (similarity.normalize(values) if normalize else values,
              found.times[mask])
    if not len(values):
      return None
    mean = values.mean(axis=0)
    return similarity.normalize(mean[None])[0] if normalize else mean

  def table(self, found: Sequence[Found], name: str, normalize: bool = True
            ) -> np.ndarray:
    """The vectors of n files: float32 [n, E], with rows of NaN for those that
    have none; see `vectors`."""
    rows = [self.vectors(one, name, normalize=normalize) for one in found]
    size = max((len(row) for row in rows if row is not None), default=0)
    return np.stack([np.full([size], np.nan, np.float32) if row is None else row
                     for row in rows])

  def _embed(self, files, name, windows, each, normalize, **rates):
    """What `embed_video` and `embed_audio` return of vectors of that name."""
    single, inputs = self._inputs(files, **rates)
    found = self.find(inputs, [name.partition("_")[0]], windows)
    tell(found, [one.mask(name).any() for one in found])
    vectors = ([self.vectors(one, name, each, normalize) for one in found]
               if each else self.table(found, name, normalize))
    return vectors[0] if single else vectors

  def _inputs(self, files, fps=0.0, rate=0):
    """Whether `files` is a single one; and a list of paths and Clips."""
    # An array of paths, as a column of a table, is a list of them.
    single = isinstance(files, (str, os.PathLike)) or (
        hasattr(files, "dtype") and np.asarray(files).dtype.kind not in "OU")
    inputs = []
    for number, one in enumerate([files] if single else files):
      if isinstance(one, (str, os.PathLike)):
        inputs.append(os.path.expanduser(os.fspath(one)))
      elif hasattr(one, "dtype"):
        inputs.append(media_views.make_clip(
            one, fps or self.config.data.fps, rate, f"array {number}"))
      else:
        raise UserError(f"file {number} is {one!r:.60}, expected a path or an "
                        "array")
    return single, inputs


def _found(name, end, views, span):
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
