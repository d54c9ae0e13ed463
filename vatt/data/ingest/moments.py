"""Moments of media files, to be shown: a few pictures, or the sound as a curve.

Runs in the processes of `workers`: no TensorFlow here.
"""
from typing import NamedTuple

import numpy as np

from vatt.data.ingest import encoding, media

COUNT = 4  # pictures of a moment
SIZE = 144  # their shorter side, pixels
BARS = 64  # of the curve
AUDIO_RATE = 8000  # samples a second that it is made of


class Moment(NamedTuple):
  """What a moment looks like.

  Attributes:
    pictures: JPEG files, evenly spread from its start; [] without any.
    bars: loudness of its parts, 0 to 1; [] without sound.
  """
  pictures: list[bytes]
  bars: list[float]


def read_moment(path: str, start: float, end: float) -> Moment:
  """Reads a moment of a file.

  Args:
    path: of a local file.
    start, end: seconds. What lies behind the file's end is left out.

  Raises:
    MediaError: it cannot be read.
  """
  length, _ = media.examine(path)
  end = min(end, length)
  start = max(0.0, min(start, end - 0.1))
  clip, = media.read_clips(
      path, [(start, end)], fps=COUNT / (end - start), size=SIZE,
      audio_rate=AUDIO_RATE, convert=encoding.JpegEncoder())
  if isinstance(clip, media.MediaError):
    raise clip
  parts = [] if clip.audio is None else np.array_split(
      np.abs(clip.audio / 32768), BARS)
  return Moment(list(clip.frames or [])[:COUNT],
                [float(part.max(initial=0)) for part in parts])
