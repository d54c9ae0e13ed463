"""AudioSet: https://research.google.com/audioset/download.html

`--annotations`: unbalanced_train_segments.csv, balanced_train_segments.csv,
eval_segments.csv: rows `YTID, start_seconds, end_seconds, "mid,mid"`, with
their three lines of comments, or a row of these names, or neither; and
class_labels_indices.csv, with the columns index from 0, mid, display_name:
beside them, in the folder above or in one beside them, such as ontology/. The
splits are train (both of the first), balanced, test. The 527 classes have the
numbers of `index`, and the names of `display_name`.
`--manual_dir`, in any folders: {YTID}_{start}_{end}.flac or {YTID}_{start}.mp4,
in seconds or milliseconds, which is the clip; {YTID}.wav or {YTID}_0.mp4, the
whole video or the clip by its length. A Y may be before each. Where x.mp4 has
no sound of its own, that of x.wav is taken.
"""
import os
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds

from vatt.data.datasets.clips import Options
from vatt.data.datasets.official import Official
from vatt.data.ingest import annotations, class_names, file_names, tables
from vatt.data.ingest.annotations import Listed, seconds, unlike
from vatt.errors import UserError

AUDIOSET_SPLITS = {"unbalanced_train": ("train",), "eval": ("test",),
                   "balanced_train": ("train", "balanced")}
HEADER = re.compile(r"#(\s|$)|#?ytid$", re.IGNORECASE)
CLASSES = "class_labels_indices.csv"


def read_classes(folder: str) -> dict[str, str]:
  """Reads the classes: mid -> name, in the order of their numbers.

  Args:
    folder: of the lists.

  Raises:
    UserError: the file is missing or damaged; names the row.
  """
  above = os.path.join(folder, "..")
  tried = [os.path.join(place, CLASSES) for place in (folder, above, *(
      each.path for each in sorted(
          os.scandir(folder), key=lambda each: each.name)
      if each.is_dir()))]
  path = next(filter(os.path.isfile, tried), "")
  if not path:
    raise UserError(f"{tried[0]}: no such file, nor in the folder above, nor in"
                    " those beside it, expected the columns index, mid and "
                    "display_name, as it comes with AudioSet")
  rows = [(row, cells["index"], cells["display_name"], cells["mid"])
          for row, cells in tables.read_table(
              path, ("index", "mid", "display_name"), others=True)]
  mids = class_names.in_order(path, [(*row[:2], row[3]) for row in rows], 0)
  names = class_names.in_order(path, [row[:3] for row in rows], 0)
  return dict(zip(mids, names))


def read(path: str, match: re.Match) -> Iterator[Listed]:
  """Reads a file of the annotations: as of `annotations.Format`."""
  names = read_classes(os.path.dirname(path))
  splits = AUDIOSET_SPLITS[match[1]]
  known = {}  # what a cell means: clips share it
  for row, cells in tables.read_csv(path):
    if HEADER.match(cells[0]):
      continue
    if len(cells) != 4 or tables.LINE_BREAK.search(cells[0]):
      raise unlike(path, row, ",".join(cells), 'YTID, start, end, "mid,mid"')
    video, start, end, mids = cells
    if mids not in known:
      for mid in (found := mids.split(",")):
        if mid not in names:
          raise unlike(path, row, mid, f"a mid of {CLASSES}")
      known[mids] = tuple(dict.fromkeys(map(names.get, found)))
    yield Listed(video, splits, seconds(path, row, start),
                 seconds(path, row, end), known[mids])


def own_names(clip: Listed) -> Iterator[str]:
  """Names of files that are a clip alone: as of `annotations.Format`."""
  for name in clip.file, f"Y{clip.file}":
    yield from file_names.of_cut(name, clip.start, clip.end)
    # {YTID}_0 may be the whole video, of a clip that starts at 0 too.
    yield from (cut for cut in file_names.of_cut(name, clip.start)
                if cut != f"{name}_0")


def video_names(clip: Listed) -> Iterator[str]:
  """Names of files that a clip is in: as of `annotations.Format`."""
  for name in clip.file, f"Y{clip.file}":
    yield name
    yield f"{name}_0"


class Audioset(Official, skip_registration=True):
  """Sounds of videos, 527 classes: splits train, balanced, test."""

  VERSION = tfds.core.Version("1.1.0")
  DEFAULTS = Options()
  FORMAT = annotations.Format(
      read, f"({'|'.join(AUDIOSET_SPLITS)})_segments\\.csv",
      f"unbalanced_train_segments.csv, ... and {CLASSES}",
      lambda folder, clips: tuple(read_classes(folder).values()),
      own_names, video_names)
