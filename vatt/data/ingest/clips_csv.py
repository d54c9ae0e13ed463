"""Reads `clips.csv`, a list of clips."""
import functools
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Sequence

from vatt.data.ingest import sorting, stores, tables
from vatt.data.ingest.clip_sources import SUFFIXES, Found, Span
from vatt.data.ingest.plans import split_order
from vatt.errors import UserError
from vatt.files import is_listed

LIST, CLASSES = "clips.csv", "classes.txt"
COLUMNS = ("video_path", "start", "end", "label", "caption", "split")
NEEDED, TIMES = COLUMNS[:3], COLUMNS[1:3]
SOUND = "sound_path"  # another, of a file that has the sound
# One of a clip's splits. They are joined by "_" to the name of a built split,
# which is a part of files' names; "all" is taken by tensorflow-datasets.
SPLIT = re.compile(r"(?!all$)[A-Za-z0-9]+")
LONGEST_SPLIT = 150  # characters
KNOWN = 1024  # files that are looked for once


def read(path: str, classes: Sequence[str] | None = None) -> Found:
  """Reads `clips.csv`.

  Args:
    path: of the list.
    classes: those that labels must be of; None for any, in the order of their
      names.

  Raises:
    UserError: it is no such list; names the row, as spreadsheets count.
  """
  rows = sorting.Rows(_rows_of(path, classes), 9, path, "row")
  rejected, files, silent, names = [], set(), set(), set()

  def usable():
    for row, span, why in _merge(path, rows.in_order(4)):
      if why:
        rejected.append((row, (span.id, span.file, f"row {row}: {why}")))
        continue
      files.add(span.file)
      names.update(span.labels)
      if not span.captions:
        silent.add(span.file)
      yield span._replace(labels=json.dumps(span.labels),
                          captions=json.dumps(span.captions))

  spans = sorting.Rows(usable(), len(Span._fields), f"{path}: clips", "clip")

  def again():
    for span in map(Span._make, spans):
      yield span._replace(labels=tuple(json.loads(span.labels)),
                          captions=tuple(json.loads(span.captions)))

  return Found(again, files, silent, [facts for _, facts in sorted(rejected)],
               tuple(sorted(names)) if classes is None else tuple(classes))


def _rows_of(path, classes):
  """Yields of each row of a list: file, start, end, row; split, label, caption,
  file of sound, and why the clip is of no use."""
  folder = os.path.dirname(path)
  inside = os.path.join(
      folder if "://" in folder else os.path.abspath(folder), "")
  known = classes and frozenset(classes)

  @functools.cache
  def listed():
    """What is in the folder, if that is in a store: asked once for all."""
    return {os.path.join(parent, name).removeprefix(inside)
            for parent, _, names in stores.walk(folder, SUFFIXES)
            for name in names}

  @functools.lru_cache(KNOWN)
  def is_there(file):
    path = stores.join(folder, file)
    if "://" not in path:
      return os.path.isfile(path)
    return file in listed() if "://" not in file else stores.exists(path)

  for row, cells in tables.read_table(
      path, NEEDED, (*COLUMNS[len(NEEDED):], SOUND), times=TIMES,
      sentences=("caption",)):
    for column in "video_path", SOUND:
      if not is_listed(cells.get(column, "")):
        raise UserError(f"{path}: row {row}, column {column}: "
                        f"{cells[column]!r}, expected a path, s3:// or gs://")
    file, sound = (  # one file has one name
        (name if "://" in name else os.path.normpath(name)).removeprefix(inside)
        for name in (cells["video_path"], cells.get(SOUND, "")))
    sound = "" if sound == "." else sound
    start, end = (None if cells[name] is None else round(cells[name], 3) + 0.0
                  for name in TIMES)  # there is no -0.0
    splits = set(cells.get("split", "").split())
    split = "_".join(sorted(splits, key=split_order))
    if "split" in cells and not (splits and all(map(SPLIT.fullmatch, splits))
                                 and len(split) <= LONGEST_SPLIT):
      raise UserError(f"{path}: row {row}, column split: {cells['split']!r}, "
                      "expected train, test or other names of letters and "
                      "digits (not all), with spaces between")
    label, caption = (unicodedata.normalize("NFC", cells.get(column, ""))
                      for column in ("label", "caption"))
    if label and known is not None and label not in known:
      raise UserError(f"{path}: row {row}, column label: {label!r}, expected a "
                      f"class of {CLASSES} beside it")
    span = Span(file, start or 0.0, end)
    why = span.why_unusable()
    if not is_there(file):
      why = "no such file"
    elif sound and not is_there(sound):
      why = f"no such file of sound: {sound}"
    yield (file, span.start, end, row, split, label, caption, sound, why)


def _merge(path, rows):
  """Yields (row, Span, why it is of no use, or "") of each clip of a list: of
  rows as of `_rows_of` with those of a clip together, in order.

  Raises:
    UserError: they contradict each other, at the end; names the first that
      does.
  """
  wrong = []
  for (file, start, end), same in itertools.groupby(rows, lambda row: row[:3]):
    known, first, refused = None, 0, None
    for row, split, label, caption, sound, why in (row[3:] for row in same):
      span = Span(file, start, end, split, sound=sound)
      if known and known.split != split:
        wrong.append((row, f"column split: {split!r}, but the same clip is in "
                      f"{known.split!r} in row {first}"))
      if known and known.sound != sound:
        wrong.append((row, f"column {SOUND}: {sound!r}, but {known.sound!r} "
                      f"for the same clip in row {first}"))
      if why:
        refused = refused or (row, span, why)
        continue
      if not known:
        known, first = span, row
      known = known._replace(**{
          field: getattr(known, field) + (text,)
          for field, text in (("labels", label), ("captions", caption))
          if text and text not in getattr(known, field)})
    if refused:
      yield refused
    if known:
      yield first, known, ""
    wrong = sorted(wrong)[:1]
  for row, what in wrong:
    raise UserError(f"{path}: row {row}, {what}")
