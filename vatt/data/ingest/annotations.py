"""Official lists of datasets, as they are published.

What a list looks like, and what files of media are called, is in the modules of
vatt/data/datasets, one for each dataset."""
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from vatt.data.ingest import file_names, tables
from vatt.errors import UserError, one_line, visible

# What JSON of another form than expected raises where it is read.
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, OverflowError)


class Listed(NamedTuple):
  """A clip as it is listed.

  Attributes:
    file: name of its media file without the suffix; folders before it tell
      files of one name apart.
    splits: all that it is in.
    start, end: seconds in that file; None for all of it.
    labels, captions: of the clip.
  """
  file: str
  splits: tuple[str, ...]
  start: float | None = None
  end: float | None = None
  labels: tuple[str, ...] = ()
  captions: tuple[str, ...] = ()


class Format(NamedTuple):
  """What the annotations of a dataset look like.

  Attributes:
    read: the path of a file of them, and the match of its name -> the clips
      that it lists, in order.
    pattern: regular expression of such a name.
    expected: the names, in words.
    classes: the folder of the annotations and the clips of all of them -> the
      classes in the order of their numbers, whatever media are there.
    own_names: a clip -> names, without suffixes, of files that are no more than
      it.
    names: a clip -> names of files that it is in; folders before them tell
      files of one name apart. Where a clip has times, such a file may be the
      clip nevertheless: its length tells.
  """
  read: Callable[[str, re.Match], Iterator[Listed]]
  pattern: str
  expected: str
  classes: Callable[[str, list[Listed]], tuple[str, ...]] = (
      lambda folder, clips: tuple(sorted(
          {label for clip in clips for label in clip.labels})))
  own_names: Callable[[Listed], Iterable[str]] = (
      lambda clip: () if clip.start is None
      else file_names.of_cut(clip.file, clip.start, clip.end))
  names: Callable[[Listed], Iterable[str]] = lambda clip: (clip.file,)


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


def unlike(path: str, row: int | str, found: object, expected: str
           ) -> UserError:
  """The error of a row, or of an entry by its name, that is not in the official
  form."""
  where = f"row {row}" if isinstance(row, int) else visible(row)
  return UserError(f"{path}: {where}: {found!r}, expected {expected}")


def text(value: object) -> str:
  """A sentence or a name of JSON, in a line.

  Raises:
    TypeError, ValueError: it is none.
  """
  if not isinstance(value, str):
    raise TypeError(f"{value!r} is no text")
  value.encode()  # Of surrogates by halves, which JSON may have, raises.
  return tables.sentence(value)


def read(dataset: str, form: Format, path: str) -> Listing:
  """Reads annotations. Prints how many rows list a clip again in a split that
  it is in, and how many files are to train and to test.

  Args:
    dataset: its name, for errors.
    form: of its annotations.
    path: a file of them, or the folder of all.

  Raises:
    UserError: they are missing or not in the official form; names the row.
  """
  folder = path if os.path.isdir(path) else os.path.dirname(path) or "."
  clips, again, more = {}, 0, 0
  for match in matches(dataset, form, path):
    for clip in form.read(os.path.join(folder, match[0]), match):
      if clip.captions:
        clip = clip._replace(captions=tuple(
            unicodedata.normalize("NFC", each) for each in clip.captions))
      key = clip.file, clip.start, clip.end
      known = clips.setdefault(key, clip)
      if known is not clip:
        clips[key] = both = known._replace(**{
            field: tuple(dict.fromkeys(
                getattr(known, field) + getattr(clip, field)))
            for field in ("splits", "labels", "captions")})
        if clip.splits and both.splits == known.splits:
          again += 1
          more += both != known
  clips = list(clips.values())
  if again:
    print(f"{path}: clips listed again: {again}, {more} of them with another "
          "label or caption, which they have too")
  splits_of = {}
  for clip in clips:
    splits_of.setdefault(clip.file, set()).update(clip.splits)
  both = [file for file, splits in splits_of.items()
          if _is_on_both_sides(splits)]
  if both:
    print(f"{path}: files to train and to test in one: {len(both)}, such as "
          f"{visible(both[0])}")
  return Listing(clips, form.classes(folder, clips))


def _is_on_both_sides(splits):
  """Whether what is in these splits is in train1 and test1, in train and
  validation, in train9k and test or such."""
  return len(splits) > 1 and any(
      split.startswith("train") and (
          "test" in splits or split.replace("train", "test", 1) in splits
          or split.replace("train", "validation", 1) in splits)
      for split in splits)


def matches(dataset: str, form: Format, path: str) -> list[re.Match]:
  """The files of annotations, by their names: tables before JSON.

  So the sentence of a table, which tells of what there is in JSON the one to
  search by, is a clip's first.

  Args:
    dataset: its name, for errors.
    form: of its annotations.
    path: a file of them, or the folder of all.

  Raises:
    UserError: there is none.
  """
  try:
    os.stat(path)
    names = (os.listdir(path) if os.path.isdir(path)
             else [os.path.basename(path)])
  except OSError as error:
    raise UserError(f"--annotations={path}: {one_line(error)}") from error
  found = [match for name in sorted(names, key=lambda name: (
      os.path.splitext(name)[1], name))
           if not name.startswith("._")  # of macOS, beside each file
           and (match := re.fullmatch(form.pattern, name))]
  if not found:
    raise UserError(f"--annotations={path}: no annotations of {dataset} by "
                    f"their names, expected {form.expected}")
  return found
