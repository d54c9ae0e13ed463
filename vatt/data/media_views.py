"""Views of files and arrays: what evaluation would cut from records of them."""
import collections
import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from vatt.data import levels
from vatt.data import windows as windows_lib
from vatt.data.ingest import views
from vatt.data.ingest.media import MediaError
from vatt.data.ingest.workers import Workers
from vatt.errors import UserError
from vatt.host import num_cores

LIMIT = 180  # seconds of processor time for a part of a file
AHEAD = 8  # views that wait, for each core
NO_FRAMES, NO_SOUND = np.zeros([0, 1, 1, 3], np.uint8), np.zeros([0], np.int16)


class Clip(NamedTuple):
  """A clip in hand, in place of a file.

  Attributes:
    frames: uint8 [F, H, W, 3], or None.
    fps: of the frames, a second.
    audio: int16 [S], mono, or None.
    audio_rate: samples a second.
  """
  frames: np.ndarray | None = None
  fps: float = 0.0
  audio: np.ndarray | None = None
  audio_rate: int = 0


class View(NamedTuple):
  """A view of a file: a row of a batch.

  Attributes:
    file: number of the file.
    window: number of its window.
    start: seconds of the file at which the window starts.
    share: of the windows of the file, of which this is one, and of its views.
    silent: whether the file has sound there and all of it is 0.
    row: video uint8 [T, H, W, 3], audio int16 [S, 1], video_mask and
      audio_mask bool [].
  """
  file: int
  window: int
  start: float
  share: float
  silent: bool
  row: dict[str, np.ndarray]


class End(NamedTuple):
  """Comes behind the last view of a file.

  Attributes:
    file: number of the file.
    problems: what of it could not be read, and why; [] for nothing.
  """
  file: int
  problems: list[str]


def read_views(inputs: Sequence[str | Clip], data: ConfigDict,
               cut: Callable[..., dict[str, tf.Tensor]], kinds: Sequence[str],
               windows: int | str, crops: int, workers: Workers
               ) -> Iterator[View | End]:
  """Reads files, as many at a time as there are cores.

  Args:
    inputs: paths of local files, or Clips.
    data: config.data.
    cut: of `windows.make_cutter`, for these kinds and crops.
    kinds: of media.KINDS, what to read.
    windows: how many of each file, evenly spread, or "all": end to end.
    crops: M, squares along the longer side of a frame; a view each.
    workers: the processes that decode.

  Yields:
    Views as they are read, those of several inputs among each other, and the
    End of each input behind its last one.
  """
  # Of files that are fewer than cores, several processes read one.
  shares = max(1, num_cores() // max(1, len(inputs))) if windows == "all" else 1
  jobs = collections.deque(
      (number, share) for number, one in enumerate(inputs)
      for share in range(1 if isinstance(one, Clip) else shares))
  running, problems = collections.Counter(n for n, _ in jobs), {}
  stop, items = threading.Event(), queue.Queue(AHEAD * num_cores())

  def put(item):
    while not stop.is_set():
      try:
        items.put(item, timeout=1.0)
        return
      except queue.Full:
        pass

  def read(number, share):
    views_of = _views_of(number, inputs[number], data, cut, kinds, windows,
                         crops, workers, (share, running[number]))
    with contextlib.closing(views_of):
      for item in views_of:
        put(item)
        if stop.is_set():
          return

  def work():
    while jobs and not stop.is_set():
      try:
        number, share = jobs.popleft()
      except IndexError:  # another thread was first
        return
      try:
        read(number, share)
        put((number, None))
      except BaseException as error:  # raised where the items are taken
        put((number, error))

  for _ in range(min(num_cores(), len(jobs))):
    threading.Thread(target=work, name="reader of views", daemon=True).start()
  left = dict(running)
  try:
    while left:
      item = items.get()
      if isinstance(item, View):
        yield item
        continue
      number, found = item
      if isinstance(found, BaseException) and not isinstance(
          found, MediaError):
        raise found
      if found is not None:
        problems.setdefault(number, []).append(str(found))
      if not isinstance(found, str):  # that share is over
        left[number] -= 1
        if not left[number]:
          del left[number]
          yield End(number, problems.pop(number, []))
  finally:
    stop.set()


def _views_of(number, one, data, cut, kinds, windows, crops, workers, share):
  """The views of a share of an input, and its problems, (number, str)."""
  span = windows_lib.span(data)
  read = max(span, data.audio_samples / data.audio_rate)  # from a start
  if isinstance(one, Clip):
    parts = [_part_of(one, kinds, span, windows)]
    fps, rate = one.fps, one.audio_rate
  else:
    parts = workers.stream(
        LIMIT, views.read_parts, os.path.abspath(one), kinds, windows, span,
        read, data.fps, crops == 1, share)
    fps, rate = data.fps, views.AUDIO_RATE
  for part in parts:
    if part.problem:
      yield number, part.problem
      continue
    frames = NO_FRAMES if part.frames is None else part.frames
    audio = NO_SOUND if part.audio is None else part.audio
    for window, start in enumerate(part.windows, part.first):
      row = {name: value.numpy() for name, value in cut(
          frames, fps, audio, rate, start - part.start).items()}
      silent = "audio" in row and not row["audio"].any()
      for crop in row.pop("video", [None]):
        yield View(number, window, float(start), part.share / crops, silent,
                   row | ({} if crop is None else {"video": crop}))


def _part_of(clip, kinds, span, windows):
  """All of a clip, as of a file: see `views.read_parts`."""
  if clip.frames is None:
    count, rate = len(clip.audio), clip.audio_rate
  else:
    count, rate = len(clip.frames), clip.fps
    if windows == "all" and clip.audio is not None and "audio" in kinds:
      ends = len(clip.audio) / clip.audio_rate * rate
      count = max(count * ("video" in kinds), 1, int(ends + 0.5))
  starts = views.window_starts(count, rate, span, windows) / rate
  return views.Part(0.0, 0, starts, 1 / len(starts), clip.frames, clip.audio)


def make_clip(array: np.ndarray, fps: float, rate: int, name: str) -> Clip:
  """A Clip of frames, uint8 [T, H, W, 3], or of samples, int16 or float in
  [-1, 1], [S] or [S, channels].

  Args:
    array: the frames or samples.
    fps: of frames, a second.
    rate: of samples, a second.
    name: of the array, for errors.

  Raises:
    UserError: it is neither, its rate is none, or the samples are out of range
      or have the channels first.
  """
  array = np.asarray(array)
  found = f"{name}: {array.dtype} {list(array.shape)}"
  if array.ndim == 4:
    if array.dtype != np.uint8 or array.shape[3] != 3 or not array.size:
      raise UserError(f"{found}, expected frames, uint8 [T, H, W, 3]")
    if not 0 < fps < np.inf:
      raise UserError(f"fps is {fps}, expected the frames a second of {name}")
    return Clip(frames=array, fps=float(fps))
  if array.ndim not in (1, 2) or not array.size or (
      array.dtype != np.int16 and array.dtype.kind != "f"):
    raise UserError(f"{found}, expected frames, uint8 [T, H, W, 3], or samples,"
                    " int16 or float, [S] or [S, channels]")
  if array.ndim == 2 and array.shape[1] > array.shape[0]:
    raise UserError(f"{found}, expected samples, [S] or [S, channels]; these "
                    "look like [channels, S]")
  if not rate > 0:
    raise UserError(f"rate is {rate}, expected the samples a second of {name}")
  if array.dtype != np.int16:
    if not np.abs(array).max() <= levels.LOUDEST:  # or NaN
      raise UserError(
          f"{name}: {levels.refusal(array.min(), array.max())}")
    array = array.astype(np.float64) * 32768
  if array.ndim == 2:
    array = array.mean(axis=1, dtype=np.float64)
  return Clip(audio=np.clip(np.round(array), -32768, 32767).astype(np.int16),
              audio_rate=int(rate))
