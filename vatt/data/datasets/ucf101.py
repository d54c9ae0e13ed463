"""UCF101: https://www.crcv.ucf.edu/data/UCF101.php

`--annotations`: trainlist01.txt, testlist01.txt, ... 03, of rows
`Class/v_Class_g01_c01.avi [number]`.
`--manual_dir`: v_Class_g01_c01.avi, in any folders.
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
  split = f"{match[1]}{int(match[2])}"
  for row, line in tables.read_lines(path):
    found = re.fullmatch(r"(([^/]+)/[^/]+)\.avi(\s+\d+)?", line)
    if not found:
      raise unlike(path, row, line, "Class/v_Class_g01_c01.avi [number]")
    yield Listed(found[1], (split,), labels=(found[2],))


class Ucf101(Official, skip_registration=True):
  """Human actions: splits train1, test1, ... 3."""

  VERSION = tfds.core.Version("1.0.0")
  DEFAULTS = Options(fps=25.0)
  FORMAT = annotations.Format(
      read, r"(train|test)list(\d+)\.txt",
      "trainlist01.txt, testlist01.txt, ...")
