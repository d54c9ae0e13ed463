"""AudioSet: https://research.google.com/audioset

`--annotations`: unbalanced_train_segments.csv, balanced_train_segments.csv,
eval_segments.csv: after comments, `YTID, start, end, "mid,mid"`; beside them
class_labels_indices.csv with the columns index, mid, display_name.
`--manual_dir`: {YTID}.mp4, the whole video, in any folders.
"""
import os
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds

from vatt.data.datasets.clips import Options
from vatt.data.datasets.official import Official
from vatt.data.ingest import annotations, tables
from vatt.data.ingest.annotations import Listed, seconds, unlike

AUDIOSET_SPLITS = {"unbalanced_train": ("train",), "eval": ("test",),
                   "balanced_train": ("train", "balanced")}


def read(path: str, match: re.Match) -> Iterator[Listed]:
  """Reads a file of the annotations: as of `annotations.Format`."""
  table = os.path.join(os.path.dirname(path), "class_labels_indices.csv")
  names = {cells["mid"]: cells["display_name"] for _, cells in
           tables.read_table(table, ("mid", "display_name"), others=True)}
  for row, cells in tables.read_csv(path):
    if cells[0].startswith("# "):
      continue
    if len(cells) != 4:
      raise unlike(path, row, ",".join(cells), 'YTID, start, end, "mid,mid"')
    mids = cells[3].split(",")
    for mid in mids:
      if mid not in names:
        raise unlike(path, row, mid, f"a mid of {table}")
    start, end = (seconds(path, row, cell) for cell in cells[1:3])
    yield Listed(cells[0], AUDIOSET_SPLITS[match[1]], start, end,
                 tuple(names[mid] for mid in mids))


class Audioset(Official, skip_registration=True):
  """Sounds of videos, 527 classes: splits train, balanced, test."""

  VERSION = tfds.core.Version("1.0.0")
  DEFAULTS = Options()
  FORMAT = annotations.Format(
      read, f"({'|'.join(AUDIOSET_SPLITS)})_segments\\.csv",
      "unbalanced_train_segments.csv, ...")
