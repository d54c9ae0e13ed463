"""rejected.csv: the clips that a dataset has not, and why; damaged.csv: those
that it has though something of them is damaged.

missing.csv: the clips of official lists whose files are not there;
coverage.csv: how many of each split and label are."""
import csv
from collections.abc import Iterable, Sequence

from vatt.errors import visible

NAME, DAMAGED = "rejected.csv", "damaged.csv"
MISSING, COVERAGE = "missing.csv", "coverage.csv"
HEADER = ("id", "file", "reason")
# Of those that only datasets of official lists have.
HEADERS = {MISSING: ("id", "reason", "split", "label"),
           COVERAGE: ("split", "label", "listed", "there")}
# A spreadsheet takes what begins so for a formula, and runs it.
FORMULA = tuple("=+-@\t\r\n＝＋－＠")
# Those of other countries part cells at semicolons.
QUOTED = set(',;"')


def table(rows: Iterable[Sequence[str]], header: Sequence[str] = HEADER
          ) -> bytes:
  """The bytes of such a file.

  Args:
    rows: (id, file, reason) of each clip: any characters, also those by which
      Python stands for bytes that are none.
    header: names of the cells, if they are others.

  Returns:
    CSV in UTF-8. Control characters and what is no character are escaped; a
    cell that a spreadsheet would run begins with an apostrophe.
  """
  return b"".join(map(line, (header, *rows)))


def line(row: Sequence[str]) -> bytes:
  """A row of such a file."""
  return (",".join(map(_cell, row)) + "\n").encode()


def _cell(text):
  if text.startswith(FORMULA):
    text = f"'{text}"
  if not text.isprintable():
    text = visible(text).encode(errors="backslashreplace").decode()
  if QUOTED & set(text) or text != text.strip():
    text = '"{}"'.format(text.replace('"', '""'))
  return text


def count(lines: Iterable[bytes], header: Sequence[str] = HEADER
          ) -> int | None:
  """The number of clips in a file, by its lines; None if it is not one that was
  written."""
  number = -1
  try:
    for row in csv.reader((line.decode() for line in lines), strict=True):
      if len(row) != len(header) or number < 0 and tuple(row) != header:
        return None
      number += 1
  except (ValueError, csv.Error):
    return None
  return number if number >= 0 else None
