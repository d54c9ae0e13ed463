"""Float samples that are no sound: no numbers, or of another scale."""
from collections.abc import Iterator, Sequence

import av
import numpy as np

from vatt.data import levels

FLOATS = {"flt": np.float32, "fltp": np.float32, "dbl": np.float64,
          "dblp": np.float64}
# Of a clip's samples, those that may be louder than LOUDEST: a peak, or damage
# in what a codec made of it, is clipped.
PEAKS = 1e-3
NOWHERE = np.zeros([0, 2], int)
PLANES = 7  # of a frame's planes, PyAV finds the end of so many for certain


class FloatCheck:
  """Checks the float samples of a clip, frame by frame."""

  def __init__(self):
    self._count, self._loud, self._low, self._high = 0, 0, 0.0, 0.0

  def mend(self, frames: Sequence[av.AudioFrame]
           ) -> Iterator[tuple[av.AudioFrame, np.ndarray]]:
    """Silences the samples of frames that are not finite.

    Args:
      frames: of one kind, which follow each other; at least one.

    Yields:
      Frames of all their samples: these frames, one in place of them all, or
      copies where samples are not finite, which may be in one plane. With each,
      where such begin and end, in whichever channel: int [n, 2].
    """
    kind = FLOATS.get(frames[0].format.name)
    if kind is None:
      for frame in frames:
        yield frame, NOWHERE
      return
    layout = frames[0].layout
    if layout.nb_channels <= PLANES:
      values = np.concatenate([_values(frame, kind) for frame in frames], 1)
      # If one is NaN, so are both.
      low, high = values.min(initial=0.0), values.max(initial=0.0)
      if -levels.LOUDEST <= low and high <= levels.LOUDEST:
        self._count += values.size
        self._low, self._high = min(self._low, low), max(self._high, high)
        yield _like(frames[0], av.AudioFrame.from_ndarray(
            values, frames[0].format.name, layout.name)), NOWHERE
        return
    for frame in frames:
      yield self._mend(frame, kind)

  def _mend(self, frame, kind):
    if frame.format.is_planar and frame.layout.nb_channels > PLANES:
      frame = _packed(frame)
    channels = 1 if frame.format.is_planar else frame.layout.nb_channels
    values = _values(frame, kind)
    finite = np.isfinite(values)
    if not finite.all():
      values[~finite] = 0.0
      frame = _with_samples(frame, values)
    self._count += values.size
    self._loud += np.count_nonzero(np.abs(values) > levels.LOUDEST)
    self._low = min(self._low, values.min(initial=0.0))
    self._high = max(self._high, values.max(initial=0.0))
    # [P, S·C] -> [P, S, C] -> [S]
    good = finite.reshape(len(values), -1, channels).all(axis=(0, 2))
    edges = np.diff(np.int8(~good), prepend=0, append=0)
    return frame, np.flatnonzero(edges).reshape(-1, 2)  # [2n] -> [n, 2]

  def refusal(self) -> str:
    """Why the samples are refused, or ""."""
    return (levels.refusal(self._low, self._high)
            if self._loud > PEAKS * self._count else "")


def inside(spans: np.ndarray, count: int) -> np.ndarray:
  """Which of samples 0 ... count - 1 are in spans, float [n, 2]: bool [count].
  """
  edges = np.clip(np.round(spans), 0, count).astype(int)
  change = np.zeros(count + 1, np.int32)
  np.add.at(change, edges[:, 0], 1)
  np.add.at(change, edges[:, 1], -1)
  return np.cumsum(change[:-1], out=change[:-1]) > 0


def _values(frame, kind):
  """A copy of its samples: [P, S·C]."""
  count = frame.samples * (
      1 if frame.format.is_planar else frame.layout.nb_channels)
  # Planes may be longer.
  return np.stack([np.frombuffer(plane, kind)[:count]
                   for plane in frame.planes])


def _packed(frame):
  """A frame in one plane."""
  packed, = av.AudioResampler(
      frame.format.packed, frame.layout, frame.sample_rate).resample(frame)
  return packed


def _with_samples(frame, values):
  """A copy of a frame with other samples, [planes, n]."""
  copy = av.AudioFrame(frame.format.name, frame.layout, frame.samples)
  for plane, samples in zip(copy.planes, values):
    np.frombuffer(plane, values.dtype)[:len(samples)] = samples
  return _like(frame, copy)


def _like(frame, copy):
  """A copy, with the rate and the time of a frame."""
  copy.sample_rate, copy.pts = frame.sample_rate, frame.pts
  if frame.time_base:
    copy.time_base = frame.time_base
  return copy
