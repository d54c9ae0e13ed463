"""Float samples that are no sound: no numbers, or of another scale."""
import av
import numpy as np

from vatt.data import levels

FLOATS = {"flt": np.float32, "fltp": np.float32, "dbl": np.float64,
          "dblp": np.float64}
# Of a clip's samples, those that may be louder than LOUDEST: a peak, or damage
# in what a codec made of it, is clipped.
PEAKS = 1e-3
PLANES = 7  # of a frame's planes, PyAV finds the end of so many for certain


class FloatCheck:
  """Checks the float samples of a clip, frame by frame."""

  def __init__(self):
    self._count, self._loud, self._low, self._high = 0, 0, 0.0, 0.0

  def mend(self, frame: av.AudioFrame) -> tuple[av.AudioFrame, np.ndarray]:
    """Silences the samples of a frame that are not finite.

    Returns:
      The frame, or a copy where there are such, which may be in one plane; and
      where they begin and end, in whichever channel: int [n, 2].
    """
    kind = FLOATS.get(frame.format.name)
    if kind is None:
      return frame, np.zeros([0, 2], int)
    if frame.format.is_planar and frame.layout.nb_channels > PLANES:
      frame = _packed(frame)
    channels = 1 if frame.format.is_planar else frame.layout.nb_channels
    # [P, S·C], as planes may be longer
    values = np.stack([np.frombuffer(plane, kind)[:frame.samples * channels]
                       for plane in frame.planes])
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


def _packed(frame):
  """A frame in one plane."""
  packed, = av.AudioResampler(
      frame.format.packed, frame.layout, frame.sample_rate).resample(frame)
  return packed


def _with_samples(frame, values):
  """A copy of a frame with other samples, [planes, n]."""
  copy = av.AudioFrame(frame.format.name, frame.layout, frame.samples)
  copy.sample_rate, copy.pts = frame.sample_rate, frame.pts
  if frame.time_base:
    copy.time_base = frame.time_base
  for plane, samples in zip(copy.planes, values):
    np.frombuffer(plane, values.dtype)[:len(samples)] = samples
  return copy
