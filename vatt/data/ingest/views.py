"""Windows of a media file of any length, as evaluation cuts them from a record.

Runs in the processes of `workers`: no TensorFlow here.
"""
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vatt.data.ingest import media
from vatt.data.ingest.media import MediaError
from vatt.data.ingest.pictures import Screen

SIZE = 256  # the frames' shorter side, pixels, and samples a second of the
AUDIO_RATE = 48000  # sound: those of a record, where nobody chose others
# A file of at most so many seconds is read as the one clip of a record; of a
# longer one, parts that are no longer.
LONGEST, LONGEST_SOUND = 10.0, 60.0  # frames take memory
TAIL = 5.0  # seconds that the last part has at least


class Part(NamedTuple):
  """A part of a file, and the windows that start in it.

  Attributes:
    start: seconds at which it starts.
    first: number of its first window among those of the file.
    windows: float [W], seconds of the file at which its windows start.
    share: of the file's windows, that one of them is.
    frames: uint8 [F, H, W, 3], frame i at start + i / fps seconds; or None.
    audio: int16 [S], mono, AUDIO_RATE; or None.
    problem: why it could not be read, then without frames and audio; or "".
  """
  start: float
  first: int
  windows: np.ndarray
  share: float
  frames: np.ndarray | None
  audio: np.ndarray | None
  problem: str = ""


def read_parts(path: str, kinds: Sequence[str], windows: int | str,
               span: float, seconds: float, fps: float, square: bool,
               share: tuple[int, int] = (0, 1)) -> Iterator[Part]:
  """Reads the windows of a file, part after part.

  Args:
    path: of a local file.
    kinds: of media.KINDS, what to read; what the file does not have is None.
    windows: how many, evenly spread over the file (a single one is in the
      middle), or "all": end to end, the last one up to the file's end.
    span: seconds of a window, in which they are spread.
    seconds: that are read from a window's start, at least `span`.
    fps: frames a second.
    square: whether frames are cut to the square in their middle.
    share: (k, n): of the n shares of the file, one after the other, the k-th.

  Raises:
    MediaError: the file cannot be read, or has nothing of these kinds.
  """
  length, ends = media.examine(path)
  if not set(kinds) & set(ends):
    raise MediaError(f"has no {' and no '.join(kinds)}")
  # As of a record: numbers of frames, of a file without of samples.
  rate = fps if "video" in ends else AUDIO_RATE
  end = ends.get("video", ends.get("audio"))
  if windows == "all":  # sound behind the last picture, too
    end = max(ends[kind] for kind in kinds if kind in ends)
  count = max(1, int(end * rate + 0.5))
  starts = window_starts(count, rate, span, windows) / rate
  longest = LONGEST if {"video"} & set(kinds) & set(ends) else LONGEST_SOUND
  margin = max(1 / fps, 0.1)  # for the filter that resamples sound
  margin = np.ceil(margin * rate) / rate
  groups = _group(starts, seconds, length, longest)
  k, n = share
  first = len(groups) * k // n
  number = sum(map(len, groups[:first]))
  groups = groups[first:len(groups) * (k + 1) // n]
  # The last frames of a file may be a little before its end.
  last = np.floor((length - TAIL) * rate) / rate
  spans = [(0.0, length) if length <= longest else (
      min(max(0.0, group[0] - margin), last),
      min(length, group[-1] + seconds + margin)) for group in groups]
  clips = media.read_clips(
      path, spans, fps=fps, size=SIZE, audio_rate=AUDIO_RATE, kinds=kinds,
      convert=_square if square else Screen.show)
  for group, (start, _), clip in zip(groups, spans, clips):
    part = start, number, group, 1 / len(starts)
    number += len(group)
    yield (Part(*part, None, None, str(clip))
           if isinstance(clip, MediaError) else
           Part(*part, clip.frames, clip.audio))


def window_starts(count: int, rate: float, span: float, windows: int | str
                  ) -> np.ndarray:
  """Where windows of a clip start, as `input_pipeline.eval_dataset` has them.

  Args:
    count: frames or samples of the clip.
    rate: of these a second.
    span: seconds of a window.
    windows: how many, or "all", as of `read_parts`.

  Returns:
    float64 [W]: whole numbers of frames or samples, ascending.
  """
  # 1e-6: lengths are products of rounded fractions.
  steps = max(0.0, np.floor(count - span * rate + 1e-6))
  if windows == "all":
    starts = np.floor(
        np.arange(0.0, steps + 1e-6, span * rate) + 1e-6)
    return np.unique(np.append(starts, steps))
  share = (np.arange(windows) / (windows - 1) if windows > 1
           else np.array([0.5]))
  return np.floor(steps * share + 1e-6)


def _group(starts, seconds, length, longest):
  """Parts of starts, those of windows that are to be read at once."""
  if length <= longest:
    return [starts]
  cuts, first = [], starts[0]
  for i, (before, start) in enumerate(zip(starts, starts[1:]), 1):
    # 1e-6: starts are rounded fractions.
    if start - before > seconds + 1e-6 or (
        start + seconds - first > longest + 1e-6):
      cuts.append(i)
      first = start
  return np.split(starts, cuts)


def _square(screen, frame):
  """The square in the middle of a frame, as `video.square_boxes` has it."""
  picture = screen.show(frame)
  height, width, _ = picture.shape
  side = min(height, width)
  top, left = (height - side) // 2, (width - side) // 2
  return np.ascontiguousarray(picture[top:top + side, left:left + side])
