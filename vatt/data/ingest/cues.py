"""Which captions a record keeps: those of its clip, and those around it."""
from collections.abc import Sequence

import numpy as np

NEAREST = 5  # captions of a window, those nearest in time (section 4.1)
LONGEST_WINDOW = 10.0  # seconds; a longer one in a short clip may lack some


class Cues:
  """The cues of a file.

  Args:
    cues: (text, start, end) of each, times in seconds.
  """

  def __init__(self, cues: Sequence[tuple[str, float, float]]):
    self._cues = cues
    self._times = np.array(
        [times for _, *times in cues], np.float64).reshape(-1, 2).T  # [2, K]

  def of_clip(self, start: float, end: float | None
              ) -> list[tuple[str, float, float]]:
    """The cues that a window of a clip can need.

    That is each which overlaps the clip, or is one of the NEAREST to the middle
    of any window in it, by the distance of `windows.nearest_captions`. As the
    middle moves on by a second, a cue that is behind it all the time comes
    nearer by a second, no other by more: so if it is ever one of the nearest,
    it is so at the end of the clip. And one that is before it is so at the
    start. Of equally near ones all are kept, for any may be drawn.

    Args:
      start, end: of the clip in seconds; None for the file's end.

    Returns:
      (text, start, end), in seconds from the clip's start: in the order of the
      file, first those that overlap the clip, then the others.
    """
    begin, stop = np.rint((self._times - start) * 1000)  # [K] milliseconds
    length = np.inf if end is None else round((end - start) * 1000)
    own = (stop > 0) & (begin < length)
    # In a clip that is shorter than a window, its middle may be behind the end.
    last = max(length, LONGEST_WINDOW / 2 * 1000)
    kept = (stop > 0) & (begin < last) | _nearest(begin, stop, 0)
    if end is not None:
      kept |= _nearest(begin, stop, last)
    return [(text, round(begin - start, 3), round(stop - start, 3))
            for text, begin, stop in map(self._cues.__getitem__, (
                *np.flatnonzero(own), *np.flatnonzero(kept & ~own)))]


def _nearest(begin, stop, middle):
  """Which cues are among the NEAREST, bool [K]: more than these with ties."""
  distance = np.maximum(0, np.maximum(begin - middle, middle - stop))
  if len(distance) <= NEAREST:
    return distance >= 0
  return distance <= np.partition(distance, NEAREST - 1)[NEAREST - 1]
