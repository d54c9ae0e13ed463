"""ESC-50: https://github.com/karolpiczak/ESC-50

`--annotations`: esc50.csv, with the columns filename, fold, category and
others.
`--manual_dir`: 1-100032-A-0.wav, ... in any folders.
"""
import os
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds

from vatt.data.datasets.clips import Options
from vatt.data.datasets.official import Official
from vatt.data.ingest import annotations, tables
from vatt.data.ingest.annotations import Listed, unlike

ESC50_FOLDS = 5


def read(path: str, match: re.Match) -> Iterator[Listed]:
  """Reads a file of the annotations: as of `annotations.Format`."""
  folds = range(1, ESC50_FOLDS + 1)
  for row, cells in tables.read_table(
      path, ("filename", "fold", "category"), others=True):
    if cells["fold"] not in map(str, folds):
      raise unlike(path, row, cells["fold"], f"a fold of 1 to {ESC50_FOLDS}")
    yield Listed(
        os.path.splitext(cells["filename"])[0],
        tuple(f"{'test' if int(cells['fold']) == k else 'train'}{k}"
              for k in folds), labels=(cells["category"],))


class Esc50(Official, skip_registration=True):
  """Sounds: the split test1 is fold 1, train1 the other four; ... 5."""

  VERSION = tfds.core.Version("1.0.0")
  DEFAULTS = Options()
  FORMAT = annotations.Format(
      read, r"esc50.*\.csv",
      "esc50.csv")
