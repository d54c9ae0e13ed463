"""Moments in Time: http://moments.csail.mit.edu

`--annotations`: trainingSet.csv, validationSet.csv, of rows
`class/file.mp4,class,...`.
`--manual_dir`: class/file.mp4, in any folders.
"""
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds

from vatt.data.datasets.clips import Options
from vatt.data.datasets.official import Official
from vatt.data.ingest import annotations, tables
from vatt.data.ingest.annotations import Listed, unlike

MOMENTS_SPLITS = {"training": "train", "validation": "validation"}


def read(path: str, match: re.Match) -> Iterator[Listed]:
  """Reads a file of the annotations: as of `annotations.Format`."""
  for row, cells in tables.read_csv(path):
    found = re.fullmatch(r"([^/]+/.+)\.\w+", cells[0])
    if (not found or len(cells) < 2 or not cells[1]
        or tables.LINE_BREAK.search(cells[1])):
      raise unlike(path, row, ",".join(cells), "class/file.mp4,class,...")
    yield Listed(found[1], (MOMENTS_SPLITS[match[1]],), labels=(cells[1],))


class Moments(Official, skip_registration=True):
  """Three seconds of what happens: splits train, validation."""

  VERSION = tfds.core.Version("1.0.0")
  DEFAULTS = Options(fps=12.5, size=320)
  FORMAT = annotations.Format(
      read, f"({'|'.join(MOMENTS_SPLITS)})Set\\.csv",
      "trainingSet.csv, validationSet.csv")
