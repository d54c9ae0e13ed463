"""Which captions a record keeps, by looking at every window there can be."""
import csv

import numpy as np
import pytest

from vatt.data.ingest.cues import Cues


def nearest(cues, middle):
  """The numbers of the cues that can be among the five nearest to a time:
  fewer than five others are nearer."""
  distance = [max(0, start - middle, middle - end) for _, start, end in cues]
  return {i for i, own in enumerate(distance)
          if sum(d < own - 1e-9 for d in distance) < 5}


def needed(cues, start, end, window, step):
  """The numbers that windows of a clip can need, and those of each."""
  middles = (np.arange(start, max(end - window, start) + 1e-9, step)
             + window / 2)
  return [nearest(cues, middle) for middle in middles]


def kept(cues, start, end):
  """The numbers of the cues that the record keeps, in its order."""
  found = Cues(cues).of_clip(start, end)
  for text, begin, stop in found:
    original = cues[int(text)]
    assert begin == pytest.approx(original[1] - start, abs=1e-9)
    assert stop == pytest.approx(original[2] - start, abs=1e-9)
  return [int(text) for text, *_ in found]


def numbered(times):
  return [(str(i), start, end) for i, (start, end) in enumerate(times)]


def test_a_window_has_its_nearest_cues_whatever_they_are():
  """Cues of any lengths, that overlap, of equal times, out of order, far
  away; clips of any lengths, shorter than a window, with no cue in them."""
  chance = np.random.default_rng(0)
  for _ in range(60):
    count = int(chance.integers(1, 40))
    # Whole tenths, so that many are equally near.
    starts = chance.integers(0, 600, count) / 10
    lengths = np.ceil(chance.exponential(chance.choice([3, 30, 150]), count))
    cues = numbered(zip(starts, starts + lengths / 10))
    start = int(chance.integers(0, 500)) / 10
    end = start + int(chance.choice([5, 20, 32, 100, 200])) / 10
    found = kept(cues, start, end)
    own = [i for i, (_, a, b) in enumerate(cues)
           if round(b - start, 3) > 0 and round(end - a, 3) > 0]
    assert found[:len(own)] == own
    assert found[len(own):] == sorted(found[len(own):])
    every = set()
    for window in (1.0, 3.2, 10.0):
      for one in needed(cues, start, end, window, 0.5):
        assert one <= set(found)
        every |= one
    # Not many more: ties at the ends, and cues just behind a short clip.
    for i in set(found) - set(own) - every:
      a = cues[i][1]
      assert (i in nearest(cues, start) | nearest(cues, max(end, start + 5))
              or a < start + 5)


def test_cues_by_hand():
  """Ten seconds apart, a second long."""
  cues = numbered((t, t + 1) for t in range(0, 200, 10))
  # From 95 s the nearest end at 91, 81, 71 or start at 100, 110; from 105 s
  # they end at 101, 91, 81 or start at 110, 120. That of 100 s is in the clip.
  assert kept(cues, 95, 105) == [10, 7, 8, 9, 11, 12]
  assert Cues(cues).of_clip(95, 105)[:2] == [("10", 5, 6), ("7", -25, -24)]
  assert kept(cues, 195, None) == [15, 16, 17, 18, 19]
  assert kept(cues, 95, None) == [*range(10, 20), 7, 8, 9]
  assert kept(cues, 1000, 1010) == [15, 16, 17, 18, 19]
  assert kept(cues[:3], 1000, 1010) == [0, 1, 2]
  assert Cues([]).of_clip(0, 10) == Cues([]).of_clip(0, None) == []


def test_cues_of_howto100m(test_data):
  """Twenty cues of real spacing each, windows of 3.2 s at every tenth of a
  second: those that overlap a clip of ten seconds are two thirds of the five
  nearest, of the paper's clips all are there."""
  here = overlapping = total = 0
  for path in sorted((test_data / "official/howto100m").glob("*.csv")):
    with open(path, newline="") as file:
      cues = [(float(row["start"]), float(row["end"]))
              for row in csv.DictReader(file)][:20]
    cues = numbered(cues)
    for start in np.arange(0, cues[-1][2], 10.0):
      end = start + 10.0
      found = kept(cues, start, end)
      own = {i for i, (_, a, b) in enumerate(cues) if b > start and a < end}
      for one in needed(cues, start, end, 3.2, 0.1):
        here += len(one & set(found))
        overlapping += len(one & own)
        total += len(one)
  print(f"{here / total:.1%}, of overlapping ones {overlapping / total:.1%}")
  assert here == total > 5000
  assert overlapping / total < 0.75
