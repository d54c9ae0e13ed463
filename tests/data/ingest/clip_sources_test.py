"""How files are cut into clips, by walking along them."""
import os

import numpy as np
import pytest

from vatt.data.ingest.clip_sources import parts, parts_around
from vatt.data.ingest.measured import Measured


def test_parts_by_hand():
  assert parts(25, 10) == parts(25, 10, 10) == [(0, 10), (10, 20), (20, 25)]
  assert parts(24.9, 10) == [(0, 10), (10, 20)]
  assert parts(3, 10) == parts(3, 10, 1) == [(0, 3)]
  assert parts(25, 10, 5) == [(0, 10), (5, 15), (10, 20), (15, 25)]
  assert parts(26, 10, 5)[-2:] == [(15, 25), (20, 26)]
  assert parts(25, 4, 10) == [(0, 4), (10, 14), (20, 24)]
  assert parts(21, 4, 10) == [(0, 4), (10, 14)]


def test_parts_by_walking_along():
  chance = np.random.default_rng(0)
  for _ in range(2000):
    length, stride = map(int, chance.integers(1, 80, 2))
    seconds = int(chance.integers(1, 900)) + 0.25  # never half a clip to a hair
    want, start = [(0, min(length, seconds))], stride
    # Half of it is there, and something that is not in the one before.
    while 2 * (seconds - start) >= length and want[-1][1] < seconds:
      want.append((start, min(start + length, seconds)))
      start += stride
    for scale in (1, 10, 8):
      np.testing.assert_allclose(
          parts(seconds / scale, length / scale, stride / scale),
          np.array(want) / scale, atol=6e-4)


def test_parts_around_cues():
  cues = [("", 2, 4), ("", 1, 1), ("", 2.5, 3.5), ("", 9, 11), ("", 19, 23),
          ("", 20, 21), ("", 30, 31)]
  assert parts_around(cues, 20, 4) == [(1, 5), (0, 4), (8, 12), (16, 20)]
  assert parts_around(cues, 3.5, 4) == [(0, 3.5)]
  assert parts_around([], 20, 4) == []


@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:-5], lambda data: b"\xff" + data,
    lambda data: data.replace(b",", b";"), lambda data: b'"' + data,
    lambda data: data.replace(b"1.5", b"x")])
def test_lengths_that_are_known(tmp_path, damage):
  """Not those of a file that has changed, nor of a table that is damaged."""
  file, path = tmp_path / 'a, "b".mp4', tmp_path / "new/lengths.csv"
  file.write_bytes(b"1234")

  def seconds(known, measured):
    return known.seconds(file.name, str(file), lambda: measured)

  first = Measured(str(path))
  assert seconds(first, 1.5) == 1.5 and seconds(first, 2.5) == 1.5
  first.save()
  assert seconds(Measured(str(path)), 2.5) == 1.5
  assert seconds(Measured(), 2.5) == 2.5
  path.write_bytes(damage(path.read_bytes()))
  again = Measured(str(path))
  assert seconds(again, 3.5) == 3.5
  again.save()
  file.write_bytes(b"12345")
  assert seconds(again, 4.5) == 4.5
  os.utime(file, ns=(0, 10**18))
  assert seconds(again, 5.5) == 5.5
