"""Moments in Time: http://moments.csail.mit.edu

`--annotations`: trainingSet.csv, validationSet.csv, of rows
`class/file.mp4,class,...`, and beside them moments_categories.txt, of rows
`class,number` from 0, as they come with the videos. The splits are train and
validation. The numbers of the classes (339 of version 1, 305 of version 2) are
in no order of names, and in that file alone: without it nothing is read.
`--manual_dir`: class/file.mp4, in any folders.
"""
import os
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds

from vatt.data.datasets.clips import Options
from vatt.data.datasets.official import Official
from vatt.data.ingest import annotations, class_names, tables
from vatt.data.ingest.annotations import Listed, unlike
from vatt.errors import UserError

MOMENTS_SPLITS = {"training": "train", "validation": "validation"}
CATEGORIES = "moments_categories.txt"


def read_classes(folder: str) -> class_names.ClassNames:
  """Reads the classes; UserError if the folder has none."""
  path = os.path.join(folder, CATEGORIES)
  if not os.path.exists(path):
    raise UserError(f"{path}: no such file, expected the numbers of the classes"
                    " in rows `class,number` from 0, as they come with Moments "
                    "in Time")
  rows = []
  for row, line in tables.read_lines(path):
    name, comma, number = line.rpartition(",")
    if not comma:
      raise unlike(path, row, line, "class,number")
    rows.append((row, number.strip(), name.strip()))
  return class_names.in_order(path, rows, 0)


def read(path: str, match: re.Match) -> Iterator[Listed]:
  """Reads a file of the annotations: as of `annotations.Format`."""
  folder = os.path.dirname(path)
  classes = read_classes(folder)
  for row, cells in tables.read_csv(path):
    found = re.fullmatch(r"([^/]+/.+)\.\w+", cells[0])
    if not found or len(cells) < 2:
      raise unlike(path, row, ",".join(cells), "class/file.mp4,class,...")
    label = classes.find(cells[1])
    if not label:
      raise unlike(path, row, cells[1],
                   f"a class of {os.path.join(folder, CATEGORIES)}")
    yield Listed(found[1], (MOMENTS_SPLITS[match[1]],), labels=(label,))


class Moments(Official, skip_registration=True):
  """Three seconds of what happens: splits train, validation."""

  VERSION = tfds.core.Version("1.1.0")
  DEFAULTS = Options(fps=12.5, size=320)
  FORMAT = annotations.Format(
      read, f"({'|'.join(MOMENTS_SPLITS)})Set\\.csv",
      f"trainingSet.csv, validationSet.csv, and {CATEGORIES}",
      lambda folder, clips: read_classes(folder))
