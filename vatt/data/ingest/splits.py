"""Chooses which clips are to train and which to test, where no list says it."""
import collections
import hashlib
import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from vatt.data.ingest import plans
from vatt.data.ingest.clip_sources import Found, Span
from vatt.errors import UserError
from vatt.host import num_cores

SPLITS = ("train", "test")
FEW = 20  # files


def choose(manual_dir: str, found: Found, can: Callable[[Span], bool],
           share: int) -> Callable[[Span], str]:
  """Chooses the split of each clip by a hash of its file's name.

  All clips of a file are on one side; about one file in `share` is for
  testing. Of up to FEW files each is tried, so that both sides have one that
  can be read: if none is for testing, the one with the fewest clips is; if
  there is only one such, its last clips are. Of more files, those for testing
  are tried, if they are few, and another one is if none of them can be read.

  Args:
    manual_dir: folder of the media, for errors.
    found: the clips.
    can: whether a clip can be read.
    share: one file in so many is for testing.

  Returns:
    The split of a clip.

  Raises:
    UserError: there is only one clip.
  """
  files = sorted(found.files, key=lambda file: (
      hashlib.sha256(f"split\0{file}".encode()).digest()))
  test = {f for f in files if not plans.draw(share, "split", f)}
  first, count = {}, collections.Counter()
  if min(len(files), len(test)) <= FEW:
    for span in found.spans():
      first.setdefault(span.file, span)
      count[span.file] += 1
  if len(files) <= FEW:
    with ThreadPoolExecutor(num_cores()) as pool:
      good = list(pool.map(can, map(first.get, files)))
    files = list(itertools.compress(files, good)) or files
    test.intersection_update(files)
  if len(files) > 1:
    if len(files) <= FEW:
      test = test or {min(files, key=count.get)}
    elif len(test) <= FEW and not any(can(first[f]) for f in test):
      test.add(next((f for f in files if f not in test and can(first[f])),
                    files[0]))
    if len(test) == len(files):
      test.remove(files[-1])
    return lambda span: SPLITS[span.file in test]
  own = sorted((span for span in found.spans() if span.file == files[0]),
               key=lambda span: span.start)
  if len(own) == 1:
    raise UserError(f"--manual_dir={manual_dir}: {own[0].file} is the only clip"
                    ", expected one to train and one to test at least")
  last = {span.id for span in own[-math.ceil(len(own) / share):]}
  return lambda span: SPLITS[span.id in last]
