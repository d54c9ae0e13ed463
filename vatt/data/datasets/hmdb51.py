"""HMDB51: https://serre-lab.clps.brown.edu

`--annotations`: brush_hair_test_split1.txt, ... of rows `name.avi 0|1|2`: a
clip that is left out, to train, to test.
`--manual_dir`: {class}/name.avi, in any folders.
"""
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds

from vatt.data.datasets.clips import Options
from vatt.data.datasets.official import Official
from vatt.data.ingest import annotations, tables
from vatt.data.ingest.annotations import Listed, unlike


def read(path: str, match: re.Match) -> Iterator[Listed]:
  """Reads a file of the annotations: as of `annotations.Format`."""
  for row, line in tables.read_lines(path):
    found = re.fullmatch(r"(.+)\.avi\s+([012])", line)
    if not found:
      raise unlike(path, row, line, "name.avi and 0, 1 or 2")
    splits = (), (f"train{match[2]}",), (f"test{match[2]}",)
    yield Listed(f"{match[1]}/{found[1]}", splits[int(found[2])],
                 labels=(match[1],))


class Hmdb51(Official, skip_registration=True):
  """Human motions: splits train1, test1, ... 3."""

  VERSION = tfds.core.Version("1.0.0")
  DEFAULTS = Options(fps=25.0)
  FORMAT = annotations.Format(
      read, r"(.+)_test_split(\d)\.txt",
      "brush_hair_test_split1.txt, ...")
