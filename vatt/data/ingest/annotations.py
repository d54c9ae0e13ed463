"""Official lists of data sets, as they are published, made into a `clips.csv`.

A function a data set yields what a file of its annotations says, in order:

  ucf101    trainlist01.txt, testlist01.txt, ... 03: `Class/v_x_g01_c01.avi [n]`
  hmdb51    {class}_test_split1.txt, ... 3: `name.avi 0|1|2` for a clip that is
            left out, to train, to test
  esc50     esc50.csv: filename, fold, category among its columns
  msrvtt    the test set 1k-A (JSFusion's): video_id, sentence among its columns
  youcook2  youcookii_annotations_trainval.json: database -> video ->
            {subset, annotations: [{segment: [start, end], sentence}]}
  kinetics  train.csv, ...: youtube_id, time_start, time_end, split and, where
            it is known, label among its columns
  moments   trainingSet.csv, validationSet.csv: `class/file.mp4,class,...`
  audioset  unbalanced_train_segments.csv, balanced_train_..., eval_...: after
            comments, `YTID, start, end, "mid,mid"`; beside them
            class_labels_indices.csv: index, mid, display_name
"""
import collections
import csv
import io
import itertools
import json
import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from vatt.data.ingest import clip_sources, media, tables
from vatt.errors import UserError, one_line, visible
from vatt.files import REFUSED, write_whole

ESC50_FOLDS = 5
KINETICS_SPLITS = {"train": "train", "val": "validation", "validate":
                   "validation", "validation": "validation", "test": "test"}
YOUCOOK2_SPLITS = {"training": "train", "validation": "validation",
                   "testing": "test"}
MOMENTS_SPLITS = {"training": "train", "validation": "validation"}
AUDIOSET_SPLITS = {"unbalanced_train": ("train",), "eval": ("test",),
                   "balanced_train": ("train", "balanced")}
TRIED = 20  # files


class Listed(NamedTuple):
  """A clip as it is listed.

  Attributes:
    file: name of its media file without the suffix; folders before it tell
      files of one name apart.
    splits: all that it is in.
    start, end: seconds in that file; None for all of it.
    labels, captions: of the clip.
    own_file: name of a file that is no more than this clip, if it has one.
  """
  file: str
  splits: tuple[str, ...]
  start: float | None = None
  end: float | None = None
  labels: tuple[str, ...] = ()
  captions: tuple[str, ...] = ()
  own_file: str = ""


# -----------------------------------------------------------------------------
# A file's path, and what its name says -> what it lists.
# -----------------------------------------------------------------------------
def _ucf101(path, name):
  split = f"{name[1]}{int(name[2])}"
  for row, line in tables.read_lines(path):
    found = re.fullmatch(r"(([^/]+)/[^/]+)\.avi(\s+\d+)?", line)
    if not found:
      raise _unlike(path, row, line, "Class/v_Class_g01_c01.avi [number]")
    yield Listed(found[1], (split,), labels=(found[2],))


def _hmdb51(path, name):
  for row, line in tables.read_lines(path):
    found = re.fullmatch(r"(.+)\.avi\s+([012])", line)
    if not found:
      raise _unlike(path, row, line, "name.avi and 0, 1 or 2")
    splits = (), (f"train{name[2]}",), (f"test{name[2]}",)
    yield Listed(f"{name[1]}/{found[1]}", splits[int(found[2])],
                 labels=(name[1],))


def _esc50(path, _):
  folds = range(1, ESC50_FOLDS + 1)
  for row, cells in tables.read_table(
      path, ("filename", "fold", "category"), others=True):
    if cells["fold"] not in map(str, folds):
      raise _unlike(path, row, cells["fold"], f"a fold of 1 to {ESC50_FOLDS}")
    yield Listed(
        os.path.splitext(cells["filename"])[0],
        tuple(f"{'test' if int(cells['fold']) == k else 'train'}{k}"
              for k in folds), labels=(cells["category"],))


def _msrvtt(path, _):
  for _, cells in tables.read_table(
      path, ("video_id", "sentence"), others=True, sentences=("sentence",)):
    yield Listed(cells["video_id"], ("test",), captions=(cells["sentence"],))


def _youcook2(path, _):
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


def _kinetics(path, _):
  for row, cells in tables.read_table(
      path, ("youtube_id", "time_start", "time_end", "split"), ("label",),
      others=True, times=("time_start", "time_end")):
    start, end = cells["time_start"], cells["time_end"]
    split, name = KINETICS_SPLITS.get(cells["split"]), cells["youtube_id"]
    if start is None or end is None:
      raise _unlike(path, row, "", "seconds")
    if not split:
      raise _unlike(path, row, cells["split"],
                    f"a split of {', '.join(KINETICS_SPLITS)}")
    yield Listed(name, (split,), start, end, _some(cells.get("label")),
                 own_file=f"{name}_{int(start):06d}_{int(end):06d}")


def _moments(path, name):
  for row, cells in tables.read_csv(path):
    found = re.fullmatch(r"([^/]+/.+)\.\w+", cells[0])
    if (not found or len(cells) < 2 or not cells[1]
        or tables.LINE_BREAK.search(cells[1])):
      raise _unlike(path, row, ",".join(cells), "class/file.mp4,class,...")
    yield Listed(found[1], (MOMENTS_SPLITS[name[1]],), labels=(cells[1],))


def _audioset(path, name):
  table = os.path.join(os.path.dirname(path), "class_labels_indices.csv")
  names = {cells["mid"]: cells["display_name"] for _, cells in
           tables.read_table(table, ("mid", "display_name"), others=True)}
  for row, cells in tables.read_csv(path):
    if cells[0].startswith("# "):
      continue
    if len(cells) != 4:
      raise _unlike(path, row, ",".join(cells), 'YTID, start, end, "mid,mid"')
    mids = cells[3].split(",")
    for mid in mids:
      if mid not in names:
        raise _unlike(path, row, mid, f"a mid of {table}")
    start, end = (_seconds(path, row, cell) for cell in cells[1:3])
    yield Listed(cells[0], AUDIOSET_SPLITS[name[1]], start, end,
                 tuple(names[mid] for mid in mids))


# Data set: its function; the names of its files, as an expression, in words.
FORMATS = {
    "ucf101": (_ucf101, r"(train|test)list(\d+)\.txt",
               "trainlist01.txt, testlist01.txt, ..."),
    "hmdb51": (_hmdb51, r"(.+)_test_split(\d)\.txt",
               "brush_hair_test_split1.txt, ..."),
    "esc50": (_esc50, r"esc50.*\.csv", "esc50.csv"),
    "msrvtt": (_msrvtt, r".*test.*\.csv", "a .csv with 'test' in its name"),
    "youcook2": (_youcook2, r"youcookii.*trainval.*\.json",
                 "youcookii_annotations_trainval.json"),
    "kinetics": (_kinetics, r"(?!clips\.csv).+\.csv", "train.csv, ..."),
    "moments": (_moments, f"({'|'.join(MOMENTS_SPLITS)})Set\\.csv",
                "trainingSet.csv, validationSet.csv"),
    "audioset": (_audioset, f"({'|'.join(AUDIOSET_SPLITS)})_segments\\.csv",
                 "unbalanced_train_segments.csv, ..."),
}


def _some(cell):
  return (cell,) if cell else ()


def _seconds(path, row, cell):
  try:
    return tables.seconds(cell)
  except ValueError:
    raise _unlike(path, row, cell, "seconds") from None


def _unlike(path, row, found, expected):
  return UserError(f"{path}: row {row}: {found!r}, expected {expected}")


# -----------------------------------------------------------------------------
# Annotations and media -> clips.csv.
# -----------------------------------------------------------------------------
def read(dataset: str, path: str) -> list[Listed]:
  """Reads annotations.

  Args:
    dataset: one of FORMATS.
    path: a file of them, or the folder of all.

  Returns:
    The clips, each once with all of its splits, labels and captions.

  Raises:
    UserError: they are missing or not in the official form; names the row.
  """
  function, pattern, expected = FORMATS[dataset]
  try:
    names = (sorted(os.listdir(path)) if os.path.isdir(path)
             else [os.path.basename(path)])
  except OSError as error:
    raise UserError(
        f"--annotations={path}: {one_line(error)}") from error
  folder = path if os.path.isdir(path) else os.path.dirname(path)
  found = list(filter(None, (re.fullmatch(pattern, name) for name in names)))
  if not found:
    raise UserError(f"--annotations={path}: no annotations of {dataset} by "
                    f"their names, expected {expected}")
  clips = {}
  for name in found:
    for clip in function(os.path.join(folder, name[0]), name):
      known = clips.setdefault((clip.file, clip.start, clip.end), clip)
      if known is not clip:
        clips[clip.file, clip.start, clip.end] = known._replace(**{
            field: tuple(dict.fromkeys(
                getattr(known, field) + getattr(clip, field)))
            for field in ("splits", "labels", "captions")})
  return list(clips.values())


def find(clips: Sequence[Listed], manual_dir: str, trimmed: bool = False
         ) -> tuple[list[tuple[str, Listed]], list[Listed]]:
  """Finds the media files of clips, by their names without the suffixes.

  Args:
    clips: as listed.
    manual_dir: folder of the media, and of folders of them.
    trimmed: whether every file is no more than its clip.

  Returns:
    (path in manual_dir, clip) of those found, the clip's times None where the
    file is the clip; and the clips whose files are missing.

  Raises:
    UserError: two files have the name of one, or there is none at all.
  """
  files = collections.defaultdict(list)
  for path in clip_sources.find_media(manual_dir):
    if (path == path.encode(errors="ignore").decode()
        and not tables.LINE_BREAK.search(path)):  # or no list can have it
      files[os.path.splitext(os.path.basename(path))[0]].append(path)

  def file_of(name):
    same = files.get(os.path.basename(name), [])
    if len(same) > 1:
      same = [path for path in same if os.path.splitext(f"/{path}")[0].endswith(
          f"/{name}")] or same
    if len(same) > 1:
      raise UserError(f"--manual_dir={manual_dir}: both {same[0]} and "
                      f"{same[1]} have the name of {name}, expected one file")
    return same[0] if same else None

  found, missing = [], []
  for clip in clips:
    path = file_of(clip.own_file)
    whole = path or trimmed
    path = path or file_of(clip.file)
    if path:
      found.append((path, clip._replace(start=None, end=None) if whole
                    else clip))
    else:
      missing.append(clip)
  if not found:
    raise UserError(f"--manual_dir={manual_dir}: no file of the {len(clips)} "
                    "clips that are listed"
                    + "".join(f", such as {c.file}.*" for c in clips[:1]))
  return found, missing


def check_times(found: Sequence[tuple[str, Listed]], manual_dir: str,
                trimmed: bool) -> None:
  """Validates on some files that they are what their clips are cut out of.

  Args:
    found: (path in manual_dir, clip) of each clip.
    manual_dir: folder of the media.
    trimmed: whether every file is no more than its clip.

  Raises:
    UserError: none of the files reaches its clip, or one is that of several.
  """
  if trimmed:
    paths = collections.Counter(path for path, _ in found)
    (path, count), = paths.most_common(1)
    if count > 1:
      raise UserError(f"--trimmed: {path} is the file of {count} clips, "
                      "expected a file for each")
  short = []
  for path, clip in [(p, clip) for p, clip in found if clip.start][:TRIED]:
    try:
      length = media.length(os.path.join(manual_dir, path))
    except media.MediaError:
      continue  # the build will tell
    if length > clip.start:
      return
    short.append((path, length, clip.start))
  for path, length, start in short[:1]:
    raise UserError(
        f"{os.path.join(manual_dir, path)}: {length:.1f} s long, but its clip "
        f"starts at {start} s, and so with all of {len(short)} files tried; if "
        "files are no more than their clips, give --trimmed")


def write_clips(dataset: str, annotations: str, manual_dir: str,
                trimmed: bool = False, overwrite: bool = False) -> None:
  """Writes `clips.csv` into the folder of the media, and says what is in it.

  Args:
    dataset: one of FORMATS.
    annotations: file or folder.
    manual_dir: folder of the media.
    trimmed: whether every file is no more than its clip.
    overwrite: whether to replace a `clips.csv`.

  Raises:
    UserError: of the annotations or the media; nothing is written then.
  """
  output = os.path.join(manual_dir, "clips.csv")
  if not os.path.isdir(manual_dir):
    raise UserError(f"--manual_dir={manual_dir}: no such folder")
  if os.path.exists(output) and not overwrite:
    raise UserError(f"{output}: is there already; --overwrite replaces it")
  listed = read(dataset, annotations)
  used = [clip for clip in listed if clip.splits]
  found, missing = find(used, manual_dir, trimmed)
  check_times(found, manual_dir, trimmed)

  table = io.StringIO()
  write = csv.writer(table, lineterminator="\n").writerow
  write(clip_sources.COLUMNS)
  splits, labels = collections.Counter(), set()
  for path, clip in found:
    splits.update(clip.splits)
    labels.update(clip.labels)
    for label, caption in itertools.zip_longest(
        clip.labels or [""], clip.captions, fillvalue=""):
      write([path, *("" if time is None else round(time, 3)
                     for time in (clip.start, clip.end)),
             label, caption, " ".join(clip.splits)])
  try:
    write_whole(output, table.getvalue())
  except REFUSED as error:
    raise UserError(
        f"{output}: cannot be written: {one_line(error)}") from None
  each = ", ".join(f"{split} {splits[split]}" for split in sorted(
      splits, key=clip_sources.split_order))
  print(f"{output}: {len(found)} clips ({each}), {len(labels)} classes; left "
        f"out: {len(listed) - len(used)} in no split, {len(missing)} that are "
        "not there" + "".join(f", such as {c.file}.*" for c in missing[:1]))
