"""HMDB51: https://serre-lab.clps.brown.edu

`--annotations`: testTrainMulti_7030_splits of test_train_splits.rar: for each
class brush_hair_test_split1.txt, ... 2, 3, of rows `name.avi 0|1|2`: a clip
that is left out, to train, to test. The splits are train1, test1, ... 3. The
51 classes have the numbers of their names in order, also where the files of
some are missing.
`--manual_dir`: {class}/name.avi, in any folders.
"""
import functools
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds

from vatt.data.datasets.clips import Options
from vatt.data.datasets.official import Official
from vatt.data.ingest import annotations, class_names, tables
from vatt.data.ingest.annotations import Listed, unlike
from vatt.errors import UserError


@functools.cache
def classes() -> class_names.ClassNames:
  """The 51 classes."""
  return class_names.shipped(__file__, "hmdb51")


def read(path: str, match: re.Match) -> Iterator[Listed]:
  """Reads a file of the annotations: as of `annotations.Format`."""
  label = classes().find(match[1])
  if not label:
    raise UserError(f"{path}: {match[1]!r} is no class of HMDB51, expected one "
                    f"of its {len(classes())}, such as {classes()[0]}")
  for row, line in tables.read_lines(path):
    found = re.fullmatch(r"(.+)\.avi\s+([012])", line)
    if not found:
      raise unlike(path, row, line, "name.avi and 0, 1 or 2")
    splits = (), (f"train{match[2]}",), (f"test{match[2]}",)
    yield Listed(f"{label}/{found[1]}", splits[int(found[2])], labels=(label,))


class Hmdb51(Official, skip_registration=True):
  """Human motions: splits train1, test1, ... 3."""

  VERSION = tfds.core.Version("1.1.0")
  DEFAULTS = Options(fps=25.0)
  FORMAT = annotations.Format(
      read, r"(.+)_test_split(\d)\.txt",
      "brush_hair_test_split1.txt, ...", lambda folder, clips: classes())
