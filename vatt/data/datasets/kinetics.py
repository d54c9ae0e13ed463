"""Kinetics-400, 600 and 700: https://github.com/cvdfoundation/kinetics-dataset

`--annotations`, lists of one of the three, in a folder without those of the
others, of which either form will do:
  train.csv, val.csv, test.csv, kinetics-400_val.csv, ...: columns youtube_id,
    time_start, time_end in seconds, split, label unless it is a test set, and
    others. Older copies call them video-id, start-time, end-time, label-name.
    Without a split, or one in the row, the file's name tells it.
  train.json, validate.json, test.json, ...: video -> {annotations: {label,
    segment: [start, end]}, subset}.
The splits are train, validation, test. The classes have the numbers of their
names in order, whatever classes the lists have: kinetics400.txt, ... beside
this file.
`--manual_dir`: {youtube_id}_{start:06d}_{end:06d}.mp4, which is the clip, or
{youtube_id}.mp4, the whole video or the clip by its length; in any folders, by
split and class or not. A file in a folder replacement... takes the place of the
one of its name elsewhere.
"""
import functools
import math
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds

from vatt.data.datasets.clips import Options
from vatt.data.datasets.official import Official
from vatt.data.ingest import annotations, class_names, tables
from vatt.data.ingest.annotations import Listed, some, text, unlike
from vatt.errors import UserError

KINETICS_SPLITS = {"train": "train", "val": "validation", "validate":
                   "validation", "validation": "validation", "test": "test"}
SIZES = (400, 600, 700)
FORM = ("{annotations: {label, segment: [start, end]}, subset: "
        f"{'|'.join(KINETICS_SPLITS)}}}")
OLDER_NAMES = {"video_id": "youtube_id", "start_time": "time_start",
               "end_time": "time_end", "label_name": "label"}


@functools.cache
def classes(size: int) -> class_names.ClassNames:
  """The classes of Kinetics-400, 600 or 700."""
  return class_names.shipped(__file__, f"kinetics{size}")


def read(size: int, path: str, match: re.Match) -> Iterator[Listed]:
  """Reads a file of the annotations: as of `annotations.Format`.

  Args:
    size: the number of classes.
    path, match: of the file.
  """
  name = match[0].lower()
  alone = (f"--dataset=kinetics{size} takes the lists of Kinetics-{size} alone:"
           " give one file, or a folder without those of others")
  said = re.search(r"(?<![a-z])k(?:inetics)?[-_ ]?([467]00)(?!\d)", name)
  if said and int(said[1]) != size:
    raise UserError(f"{path}: is of Kinetics-{said[1]} by its name; {alone}")
  named = re.search("(?<![a-z])(train|validat(e|ion)|val|test)(?![a-z])", name)
  rows = _json_rows if name.endswith(".json") else _csv_rows
  for row, video, start, end, split, label in rows(path):
    if not split and named:
      split = named[0]
    if split.lower() not in KINETICS_SPLITS:
      raise unlike(path, row, split,
                   f"a split of {', '.join(KINETICS_SPLITS)}")
    known = classes(size).find(label)
    if not label and KINETICS_SPLITS[split.lower()] != "test":
      raise unlike(path, row, label, "a label, which test sets alone lack")
    if label and not known:
      labels = {each for *_, each in rows(path) if each}
      having = [other for other in SIZES if classes(other).find(label)]
      fitting = [other for other in having
                 if all(map(classes(other).find, labels))]
      those = " or ".join(map(str, fitting or having))
      raise unlike(path, row, label, f"a class of Kinetics-{size}; " + (
          f"{'these are' if fitting else 'it is'} of Kinetics-{those}; "
          if those else "") + alone)
    yield Listed(
        video, (KINETICS_SPLITS[split.lower()],), start, end, some(known))


def _csv_rows(path):
  """Yields (row, video, start, end, split, label), "" for what it lacks."""
  for row, cells in tables.read_table(
      path, ("youtube_id", "time_start", "time_end"), ("split", "label"),
      others=True, times=("time_start", "time_end"), other_names=OLDER_NAMES):
    start, end = cells["time_start"], cells["time_end"]
    if start is None or end is None:
      raise unlike(path, row, "", "seconds")
    yield (row, cells["youtube_id"], start, end, cells.get("split", ""),
           cells.get("label", ""))


def _json_rows(path):
  """As `_csv_rows`, of JSON."""
  for video, facts in tables.read_json(path, "videos by their ids").items():
    try:
      part = facts["annotations"]
      start, end = map(float, part["segment"])
      if not math.isfinite(end - start):
        raise ValueError(f"a segment from {start} to {end}")
      yield (f"video {video}", text(video), start, end,
             text(facts.get("subset", "")), text(part.get("label", "")))
    except annotations.MALFORMED as error:
      raise unlike(path, f"video {video}", error, FORM) from error


def _format(size):
  return annotations.Format(
      functools.partial(read, size),
      r"(?!(clips|missing|coverage|rejected|damaged)\.csv).+\.csv|"
      r"(.*[^a-z])?(train|val|validate|validation|test)([^a-z].*)?\.json",
      "train.csv, val.csv, ... or train.json, ...",
      lambda folder, clips: classes(size))


class _Kinetics(Official, skip_registration=True):
  DEFAULTS = Options(fps=12.5, size=320)


class Kinetics400(_Kinetics, skip_registration=True):
  """Human actions of 400 classes: splits train, validation, test."""

  VERSION = tfds.core.Version("1.1.0")
  FORMAT = _format(400)


class Kinetics600(_Kinetics, skip_registration=True):
  """Human actions of 600 classes: splits train, validation, test."""

  VERSION = tfds.core.Version("1.1.0")
  FORMAT = _format(600)


class Kinetics700(_Kinetics, skip_registration=True):
  """Human actions of 700 classes: splits train, validation, test."""

  VERSION = tfds.core.Version("1.1.0")
  FORMAT = _format(700)
