"""YouCook2: http://youcook2.eecs.umich.edu

`--annotations`: youcookii_annotations_trainval.json, database -> video ->
{subset, annotations: [{segment: [start, end], sentence}]}.
`--manual_dir`: GLd3aX16zBg.mkv, ... in any folders.
"""
import json
import math
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds

from vatt.data.datasets.clips import Options
from vatt.data.datasets.official import Official
from vatt.data.ingest import annotations
from vatt.data.ingest.annotations import Listed
from vatt.errors import UserError, one_line, visible

YOUCOOK2_SPLITS = {"training": "train", "validation": "validation",
                   "testing": "test"}


def read(path: str, match: re.Match) -> Iterator[Listed]:
  """Reads a file of the annotations: as of `annotations.Format`."""
  try:
    with open(path, "rb") as file:  # in any encoding that JSON may have
      videos = json.loads(file.read())["database"].items()
  except (OSError, ValueError, LookupError, TypeError, AttributeError,
          RecursionError) as error:
    raise UserError(f"{path}: cannot be read as JSON with a 'database' of "
                    f"videos: {one_line(error)}") from error
  for video, facts in videos:
    try:
      split = YOUCOOK2_SPLITS[facts["subset"]]
      for part in facts["annotations"]:
        start, end = map(float, part["segment"])
        if not math.isfinite(start) or not math.isfinite(end):
          raise ValueError(f"a segment from {start} to {end}")
        sentence = part.get("sentence", "")
        yield Listed(video, (split,), start, end, captions=(sentence.strip(),))
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError
            ) as error:
      raise UserError(
          f"{path}: video {visible(video)}: {error!r}, expected {{subset: "
          f"{'|'.join(YOUCOOK2_SPLITS)}, annotations: [{{segment: [start, end],"
          " sentence}]}") from error


class Youcook2(Official, skip_registration=True):
  """Steps of recipes, a sentence each: splits train, validation."""

  VERSION = tfds.core.Version("1.0.0")
  DEFAULTS = Options(fps=12.5, size=224)
  FORMAT = annotations.Format(
      read, r"youcookii.*trainval.*\.json",
      "youcookii_annotations_trainval.json")
