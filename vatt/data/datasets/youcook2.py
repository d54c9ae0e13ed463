"""YouCook2: http://youcook2.eecs.umich.edu

`--annotations`: youcookii_annotations_trainval.json of
youcookii_annotations_trainval.tar.gz: database -> video -> {subset,
annotations: [{segment: [start, end] in seconds, sentence}]}. The splits are
train and validation; each segment is a clip with its sentence as the caption.
There are no classes.
`--manual_dir`: GLd3aX16zBg.mkv, ... in any folders.
"""
import math
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds

from vatt.data.datasets.clips import Options
from vatt.data.datasets.official import Official
from vatt.data.ingest import annotations, tables
from vatt.data.ingest.annotations import Listed, some, text, unlike
from vatt.errors import UserError

YOUCOOK2_SPLITS = {"training": "train", "validation": "validation",
                   "testing": "test"}
FORM = (f"{{subset: {'|'.join(YOUCOOK2_SPLITS)}, "
        "annotations: [{segment: [start, end], sentence}]}")


def read(path: str, match: re.Match) -> Iterator[Listed]:
  """Reads a file of the annotations: as of `annotations.Format`."""
  expected = "a 'database' of videos"
  videos = tables.read_json(path, expected).get("database")
  if not isinstance(videos, dict):
    raise UserError(f"{path}: cannot be read as JSON with {expected}")
  for video, facts in videos.items():
    try:
      split = YOUCOOK2_SPLITS[facts["subset"]]
      for part in facts["annotations"]:
        start, end = map(float, part["segment"])
        if not math.isfinite(end - start):
          raise ValueError(f"a segment from {start} to {end}")
        yield Listed(text(video), (split,), start, end,
                     captions=some(text(part.get("sentence", ""))))
    except annotations.MALFORMED as error:
      raise unlike(path, f"video {video}", error, FORM) from error


class Youcook2(Official, skip_registration=True):
  """Steps of recipes, a sentence each: splits train, validation."""

  VERSION = tfds.core.Version("1.1.0")
  DEFAULTS = Options(fps=12.5, size=224)
  FORMAT = annotations.Format(
      read, r"youcookii.*trainval.*\.json",
      "youcookii_annotations_trainval.json")
