"""rejected.csv: the clips that a dataset has not, and why; damaged.csv: those
that it has though something of them is damaged."""
import csv
import io
from collections.abc import Iterable, Sequence

from vatt.errors import visible

NAME, DAMAGED = "rejected.csv", "damaged.csv"
HEADER = ("id", "file", "reason")
# A spreadsheet takes what begins so for a formula, and runs it.
FORMULA = tuple("=+-@\t\r\n＝＋－＠")
# Those of other countries part cells at semicolons.
QUOTED = set(',;"')


def table(rows: Iterable[Sequence[str]]) -> bytes:
  """The bytes of such a file.

  Args:
    rows: (id, file, reason) of each clip: any characters, also those by which
      Python stands for bytes that are none.

  Returns:
    CSV in UTF-8. Control characters and what is no character are escaped; a
    cell that a spreadsheet would run begins with an apostrophe.
  """
  lines = [",".join(map(_cell, row)) for row in (HEADER, *rows)]
  return "".join(f"{line}\n" for line in lines).encode()


def _cell(text):
  if text.startswith(FORMULA):
    text = f"'{text}"
  text = visible(text).encode(errors="backslashreplace").decode()
  if QUOTED & set(text) or text != text.strip():
    text = '"{}"'.format(text.replace('"', '""'))
  return text


def count(data: bytes) -> int | None:
  """The number of clips in a file; None if it is not one that was written."""
  try:
    header, *rows = csv.reader(io.StringIO(data.decode()), strict=True)
  except (ValueError, csv.Error):
    return None
  whole = all(len(row) == len(HEADER) for row in rows)
  return len(rows) if whole and tuple(header) == HEADER else None
