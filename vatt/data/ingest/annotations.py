"""Official lists of datasets, as they are published.

What a list looks like, and what files of media are called, is in the modules of
vatt/data/datasets, one for each dataset."""
import os
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from vatt.data.ingest import tables
from vatt.errors import UserError, one_line


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


class Format(NamedTuple):
  """What the annotations of a dataset look like.

  Attributes:
    read: the path of a file of them, and the match of its name -> the clips
      that it lists, in order.
    pattern: regular expression of such a name.
    expected: the names, in words.
    classes: the folder of the annotations and the clips of all of them -> the
      classes in the order of their numbers, whatever media are there.
  """
  read: Callable[[str, re.Match], Iterator[Listed]]
  pattern: str
  expected: str
  classes: Callable[[str, list[Listed]], tuple[str, ...]] = (
      lambda folder, clips: tuple(sorted(
          {label for clip in clips for label in clip.labels})))


class Listing(NamedTuple):
  """What annotations say: the clips, each once with all of its splits, labels
  and captions; and the classes, in the order of their numbers."""
  clips: list[Listed]
  classes: tuple[str, ...]


def some(cell: str | None) -> tuple[str, ...]:
  """The text of a cell that may be empty."""
  return (cell,) if cell else ()


def seconds(path: str, row: int, cell: str) -> float:
  """The time in a cell; UserError names the row."""
  try:
    return tables.seconds(cell)
  except ValueError:
    raise unlike(path, row, cell, "seconds") from None


def unlike(path: str, row: int, found: str, expected: str) -> UserError:
  """The error of a row that is not in the official form."""
  return UserError(f"{path}: row {row}: {found!r}, expected {expected}")


def read(dataset: str, form: Format, path: str) -> Listing:
  """Reads annotations.

  Args:
    dataset: its name, for errors.
    form: of its annotations.
    path: a file of them, or the folder of all.

  Raises:
    UserError: they are missing or not in the official form; names the row.
  """
  try:
    names = (sorted(os.listdir(path)) if os.path.isdir(path)
             else [os.path.basename(path)])
  except OSError as error:
    raise UserError(
        f"--annotations={path}: {one_line(error)}") from error
  folder = path if os.path.isdir(path) else os.path.dirname(path)
  found = [match for name in names
           if (match := re.fullmatch(form.pattern, name))]
  if not found:
    raise UserError(f"--annotations={path}: no annotations of {dataset} by "
                    f"their names, expected {form.expected}")
  clips = {}
  for name in found:
    for clip in form.read(os.path.join(folder, name[0]), name):
      known = clips.setdefault((clip.file, clip.start, clip.end), clip)
      if known is not clip:
        clips[clip.file, clip.start, clip.end] = known._replace(**{
            field: tuple(dict.fromkeys(
                getattr(known, field) + getattr(clip, field)))
            for field in ("splits", "labels", "captions")})
  clips = list(clips.values())
  return Listing(clips, form.classes(folder, clips))
