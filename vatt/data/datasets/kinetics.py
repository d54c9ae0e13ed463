"""Kinetics-400, 600 and 700: https://github.com/cvdfoundation/kinetics-dataset

`--annotations`: train.csv, val.csv, ... with the columns youtube_id,
time_start, time_end, split, of classes label, and others.
`--manual_dir`: {youtube_id}_{start:06d}_{end:06d}.mp4, which is the clip, or
{youtube_id}.mp4, the whole video; in any folders.
"""
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds

from vatt.data.datasets.clips import Options
from vatt.data.datasets.official import Official
from vatt.data.ingest import annotations, tables
from vatt.data.ingest.annotations import Listed, some, unlike

KINETICS_SPLITS = {"train": "train", "val": "validation", "validate":
                   "validation", "validation": "validation", "test": "test"}


def read(path: str, match: re.Match) -> Iterator[Listed]:
  """Reads a file of the annotations: as of `annotations.Format`."""
  for row, cells in tables.read_table(
      path, ("youtube_id", "time_start", "time_end", "split"), ("label",),
      others=True, times=("time_start", "time_end")):
    start, end = cells["time_start"], cells["time_end"]
    split, name = KINETICS_SPLITS.get(cells["split"]), cells["youtube_id"]
    if start is None or end is None:
      raise unlike(path, row, "", "seconds")
    if not split:
      raise unlike(path, row, cells["split"],
                   f"a split of {', '.join(KINETICS_SPLITS)}")
    yield Listed(name, (split,), start, end, some(cells.get("label")),
                 own_file=f"{name}_{int(start):06d}_{int(end):06d}")


FORMAT = annotations.Format(
    read, r"(?!clips\.csv).+\.csv", "train.csv, val.csv, ...")


class _Kinetics(Official, skip_registration=True):
  DEFAULTS = Options(fps=12.5, size=320)
  FORMAT = FORMAT


class Kinetics400(_Kinetics, skip_registration=True):
  """Human actions of 400 classes: splits train, validation, test."""

  VERSION = tfds.core.Version("1.0.0")


class Kinetics600(_Kinetics, skip_registration=True):
  """Human actions of 600 classes: splits train, validation, test."""

  VERSION = tfds.core.Version("1.0.0")


class Kinetics700(_Kinetics, skip_registration=True):
  """Human actions of 700 classes: splits train, validation, test."""

  VERSION = tfds.core.Version("1.0.0")
