"""ESC-50: https://github.com/karolpiczak/ESC-50

`--annotations`: meta/esc50.csv of that repository, with the columns filename,
fold and category; target, the number of the category, and others as they come.
The splits train1, test1, ... 5 are by the fold. The 50 classes have the numbers
of `target`, also where a copy of the list lacks some.
`--manual_dir`: 1-100032-A-0.wav, ... in any folders.
"""
import functools
import os
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds

from vatt.data.datasets.clips import Options
from vatt.data.datasets.official import Official
from vatt.data.ingest import annotations, class_names, tables
from vatt.data.ingest.annotations import Listed, unlike

ESC50_FOLDS = 5


@functools.cache
def classes() -> class_names.ClassNames:
  """The 50 classes, in the order of `target`."""
  return class_names.shipped(__file__, "esc50")


def read(path: str, match: re.Match) -> Iterator[Listed]:
  """Reads a file of the annotations: as of `annotations.Format`."""
  folds = range(1, ESC50_FOLDS + 1)
  for row, cells in tables.read_table(
      path, ("filename", "fold", "category"), ("target",), others=True):
    if cells["fold"] not in map(str, folds):
      raise unlike(path, row, cells["fold"], f"a fold of 1 to {ESC50_FOLDS}")
    label = classes().find(cells["category"])
    if not label:
      raise unlike(path, row, cells["category"],
                   "a category of ESC-50, such as " + classes()[0])
    number = str(classes().index(label))
    if cells.get("target", number) != number:
      raise unlike(path, row, cells["target"],
                   f"the target {number} of {label}")
    yield Listed(
        os.path.splitext(cells["filename"])[0],
        tuple(f"{'test' if int(cells['fold']) == k else 'train'}{k}"
              for k in folds), labels=(label,))


class Esc50(Official, skip_registration=True):
  """Sounds: the split test1 is fold 1, train1 the other four; ... 5."""

  VERSION = tfds.core.Version("1.1.0")
  DEFAULTS = Options()
  FORMAT = annotations.Format(
      read, r"esc50.*\.csv",
      "esc50.csv", lambda folder, clips: classes())
