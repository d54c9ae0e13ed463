"""UCF101: https://www.crcv.ucf.edu/data/UCF101.php

`--annotations`: ucfTrainTestlist of UCF101TrainTestSplits-RecognitionTask.zip:
trainlist01.txt, testlist01.txt, ... 03, of rows
`Class/v_Class_g01_c01.avi [number]`, and classInd.txt, of rows `number Class`
from 1. The splits are train1, test1, ... 3. The classes have the numbers of
classInd.txt; if it is gone, those in the lists; if none has numbers, those of
their names in order without regard to capitals, which is the same if the lists
are whole. The capitals of classes may differ: HandStandPushups, as copies of
the lists have it, is HandstandPushups, as in classInd.txt.
`--manual_dir`: v_Class_g01_c01.avi, in any folders.
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

LIST = r"(train|test)list(\d+)\.txt"
CLASSES = "classInd.txt"
SPELLED = {"handstandpushups": "HandstandPushups"}  # as there


def read_classes(folder: str) -> class_names.ClassNames:
  """Reads the classes by their numbers; of all lists of the folder, whichever
  are asked for.

  Raises:
    UserError: two numbers of a class, or two classes of one; names the row.
  """
  path = os.path.join(folder, CLASSES)
  if os.path.exists(path):
    rows = []
    for row, line in tables.read_lines(path):
      number, *name = line.split(maxsplit=1)
      rows.append((row, number, "".join(name)))
    return class_names.in_order(path, rows, 1)
  names, numbers, owners = {}, {}, {}
  for file in sorted(os.listdir(folder)):
    if not re.fullmatch(LIST, file):
      continue
    path = os.path.join(folder, file)
    for row, _, name, number in _rows(path):
      key = name.casefold()
      names.setdefault(key, SPELLED.get(key, name))
      if number and (numbers.setdefault(key, number) != number
                     or owners.setdefault(number, key) != key):
        raise unlike(path, row, f"{name} {number}",
                     "one class of a number, and one number of a class")
  if not numbers:
    return class_names.ClassNames(names[key] for key in sorted(names))
  lacking = [name for key, name in names.items() if key not in numbers]
  if lacking:
    raise UserError(f"{folder}: no list has the number of {lacking[0]}, "
                    f"expected {CLASSES}, or a number of each class or of none")
  return class_names.in_order(
      f"{folder} without {CLASSES}",
      [(i, numbers[key], name)
       for i, (key, name) in enumerate(names.items(), 1)], 1)


def _rows(path):
  """Yields (row, file without suffix, class, number or "") of a list."""
  for row, line in tables.read_lines(path):
    found = re.fullmatch(r"(([^/]+)/[^/]+)\.avi(?:\s+0*(\d+))?", line)
    if not found:
      raise unlike(path, row, line, "Class/v_Class_g01_c01.avi [number]")
    yield row, found[1], found[2], found[3] or ""


def read(path: str, match: re.Match) -> Iterator[Listed]:
  """Reads a file of the annotations: as of `annotations.Format`."""
  folder = os.path.dirname(path)
  numbers = {name: str(i) for i, name in enumerate(read_classes(folder), 1)}
  classes = class_names.ClassNames(numbers)
  for row, file, name, number in _rows(path):
    label = classes.find(name)
    if not label or number not in ("", numbers[label]):
      raise unlike(path, row, f"{name} {number}".strip(),
                   f"a class of {os.path.join(folder, CLASSES)} and its number")
    yield Listed(file, (f"{match[1]}{int(match[2])}",), labels=(label,))


class Ucf101(Official, skip_registration=True):
  """Human actions: splits train1, test1, ... 3."""

  VERSION = tfds.core.Version("1.1.0")
  DEFAULTS = Options(fps=25.0)
  FORMAT = annotations.Format(
      read, LIST, "trainlist01.txt, testlist01.txt, ...",
      lambda folder, clips: read_classes(folder))
