"""Reads what is said in videos from files of captions: a CSV a video, or one
JSON of all."""
import collections
import hashlib
import json
import math
import operator
import unicodedata
from typing import Any, NamedTuple

from vatt.data.ingest import tables
from vatt.errors import UserError

COLUMNS = ("start", "end", "text")
# What may be odd about a caption.
KEPT = OVERLAPS, UNSORTED = "overlapping", "out of order"
LEFT_OUT = EMPTY, BAD_TIMES, UNLIKE = (
    "without text", "with impossible times", "not understood")
LOST = "\0\ufffd"  # characters that stand for what is no longer known


class Spoken(NamedTuple):
  """The captions of a video.

  Attributes:
    cues: (text, start, end), seconds, in the order of their starts.
    counts: how many are odd: those of KEPT among the cues, and of LEFT_OUT.
    wrong: the first that is not understood, in words; "" without any.
  """
  cues: list[tuple[str, float, float]]
  counts: collections.Counter = collections.Counter()
  wrong: str = ""

  @property
  def digest(self) -> str:
    """A hash of the captions, whatever file they come from; "" for none."""
    if not self.cues:
      return ""
    return hashlib.sha256(json.dumps(self.cues).encode()).hexdigest()[:16]


def of_csv(path: str) -> Spoken:
  """The captions of a CSV file with the columns start, end and text, or what
  can be understood of it."""
  wrong = []

  def rows():
    try:
      found = tables.read_csv(path)
      first, header = next(found, (1, COLUMNS))
      header = [cell.lower() for cell in header]
      if missing := [name for name in COLUMNS if name not in header]:
        raise UserError(f"{path}: row {first}: no column {missing[0]!r} in "
                        f"{','.join(header)[:80]!r}, expected start, end, text")
      places = [header.index(name) for name in COLUMNS]
      take = operator.itemgetter(*places)
      for row, cells in found:
        if len(cells) == len(header):
          yield f"{path}: row {row}", take(cells)
        else:
          yield (f"{path}: row {row}: {len(cells)} cells, expected "
                 f"{len(header)} as in the first row"), None
    except UserError as error:
      wrong.append(str(error))

  cues, counts, first = _understood(rows(), _number_in)
  if wrong:
    counts[UNLIKE] += 1
  return Spoken(cues, counts, first or "".join(wrong))


def of_json(value: Any, place: str) -> Spoken:
  """The captions of a member of a JSON file, {start: [...], end: [...],
  text: [...]}, or what can be understood of it.

  Args:
    value: as it was read.
    place: of it, to name what is wrong.
  """
  lists = [value.get(name) if isinstance(value, dict) else None
           for name in COLUMNS]
  if not all(isinstance(each, list) for each in lists):
    wrong = "expected {start: [...], end: [...], text: [...]}"
  elif len({len(each) for each in lists}) > 1:
    sizes = ", ".join(f"{len(each)} of {name}"
                      for each, name in zip(lists, COLUMNS))
    wrong = f"{sizes}, expected as many"
  else:
    return Spoken(*_understood(
        ((f"{place}: caption {i}", cells)
         for i, cells in enumerate(zip(*lists), 1)), _number))
  return Spoken([], collections.Counter({UNLIKE: 1}), f"{place}: {wrong}")


def _number_in(cell):
  """The time in a cell, or None."""
  try:
    return tables.seconds(cell)
  except ValueError:
    return None


def _number(value):
  """A JSON value as a time, or None."""
  try:
    value = value if isinstance(value, float) else float(
        None if isinstance(value, bool | str) else value)
  except (TypeError, OverflowError):
    return None
  return value if math.isfinite(value) else None


def _understood(rows, number):
  """(cues, counts, the first thing wrong) of rows: (place, (start, end,
  text)), or (what is wrong, None)."""
  cues, counts, wrong = [], collections.Counter(), ""
  for place, cells in rows:
    if cells is None:
      counts[UNLIKE] += 1
      wrong = wrong or place
      continue
    start, end, text = cells
    begin, stop = number(start), number(end)
    if isinstance(text, str) and begin is not None and stop is not None:
      text = _plain(text)
      if not text:
        counts[EMPTY] += 1
      elif begin < 0 or stop < begin:
        counts[BAD_TIMES] += 1
      elif not _known(text):
        counts[UNLIKE] += 1
        wrong = wrong or f"{place}: a character of its text is lost"
      else:
        cues.append((text, begin, stop))
    elif text is None or text != text:  # NaN, as of a table's empty cell
      counts[EMPTY] += 1
    else:
      counts[UNLIKE] += 1
      wrong = wrong or (f"{place}: {cells!r}"[:200]
                        + ", expected seconds, seconds, a text")
  _count_order(cues, counts)
  return cues, counts, wrong


def _plain(text):
  """A text as records have it: composed, in a line."""
  text = " ".join(text.split())
  return text if text.isascii() else unicodedata.normalize("NFC", text)


def _known(text):
  """Whether a text can be written, and nothing of it is lost."""
  if text.isascii():
    return "\0" not in text
  return (not any(mark in text for mark in LOST)
          and text == text.encode(errors="ignore").decode())


def _count_order(cues, counts):
  """Sorts cues, and counts those that are not in order or overlap."""
  starts = list(map(operator.itemgetter(1), cues))
  late = sum(map(operator.gt, starts, starts[1:]))
  if late:
    counts[UNSORTED] += late
    cues.sort(key=operator.itemgetter(1))
    starts.sort()
  ends = map(operator.itemgetter(2), cues)
  counts[OVERLAPS] += sum(map(operator.gt, ends, starts[1:]))
