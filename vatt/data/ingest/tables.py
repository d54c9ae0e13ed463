"""Reads lists and tables as people and programs save them: lines, CSV, JSON."""
import collections
import contextlib
import csv
import io
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from vatt.data.ingest import stores
from vatt.errors import UserError, one_line

# The longer mark comes first where one begins like another.
MARKS = ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"),
         (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"),
         (b"\xef\xbb\xbf", "utf-8-sig"))
SEPARATORS = ",;\t"
# Whatever ends a line to some program: files with a name a line would break.
LINE_BREAK = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
UTF8 = "expected UTF-8, which spreadsheets save as 'CSV UTF-8'"


@contextlib.contextmanager
def open_text(path: str) -> Iterator[io.TextIOBase]:
  """Opens a text to read, its line ends as they are: in UTF-8, or what its byte
  order mark says.

  Raises:
    UserError: it cannot be read, or is in another encoding; names the line.
  """
  encoding = "utf-8"
  try:
    with stores.local(path) as copy:
      with open(copy, "rb") as file:
        start = file.read(4)
      encoding = next((name for mark, name in MARKS if start.startswith(mark)),
                      encoding)
      with open(copy, encoding=encoding, newline="") as file:
        yield file
  except OSError as error:
    raise UserError(f"{path}: cannot be read: {one_line(error)}") from error
  except UnicodeError as error:
    raise UserError(
        f"{path}: {_undecodable(path, encoding)}, {UTF8}") from error


def _undecodable(path, encoding):
  """Where a text is not in its encoding. It is read again: what was read of it
  came in blocks, which have no lines."""
  with stores.local(path) as copy, open(copy, "rb") as file:
    data = file.read()
  try:
    data.decode(encoding)
  except UnicodeDecodeError as error:
    before = data[:error.start].decode(encoding, errors="replace")
    line = len(re.split("\r\n?|\n", before))
    return f"line {line}: byte 0x{data[error.start]:02x} is not {encoding}"
  return f"not {encoding}"


def read_lines(path: str) -> Iterator[tuple[int, str]]:
  """Yields (row, line) of a text, counted from 1; without empty lines, and
  blanks around one."""
  with open_text(path) as file:
    for row, line in enumerate(file, 1):
      if line.strip():
        yield row, line.strip()


def read_csv(path: str, separator: str = ","
             ) -> Iterator[tuple[int, list[str]]]:
  """Yields (row, cells) of a CSV file; without blanks around a cell, and rows
  of empty cells.

  Rows are counted from 1, as spreadsheets do: also empty ones, and one whose
  cells have line breaks once.

  Args:
    path: of the file.
    separator: of cells.

  Raises:
    UserError: it is no such file; names the row.
  """
  row = 0
  try:
    with open_text(path) as file:
      # A quote behind a blank begins a cell nevertheless.
      for row, cells in enumerate(csv.reader(
          file, delimiter=separator, skipinitialspace=True, strict=True), 1):
        whole = "".join(cells)
        if "\0" in whole:
          raise UserError(f"{path}: row {row}: has NUL bytes, {UTF8}")
        if "#NAME?" in whole and "#NAME?" in map(str.strip, cells):
          raise UserError(
              f"{path}: row {row}: '#NAME?', which spreadsheets write in place "
              "of what begins like a formula, such as -x; expected the text "
              "itself")
        if whole.strip():
          yield row, [cell.strip() for cell in cells]
  except csv.Error as error:
    raise UserError(
        f"{path}: row {row + 1}: cannot be read as CSV ({one_line(error)}), "
        "expected quotes around whole cells, and doubled ones within"
    ) from error


def read_table(path: str, needed: Collection[str],
               optional: Collection[str] = (), *, others: bool = False,
               times: Collection[str] = (), sentences: Collection[str] = (),
               other_names: Mapping[str, str] = {}
               ) -> Iterator[tuple[int, dict[str, str | float | None]]]:
  """Yields the rows of a CSV file whose first row names its columns.

  Commas separate cells, or semicolons or tabs if the first row has more of
  these: so do spreadsheets where the comma is a decimal one, which it is in
  times then. In the names of columns, capitals are small letters, and blanks
  and hyphens are underscores.

  Args:
    path: of the file.
    needed: columns that it must have.
    optional: columns that it may have.
    others: whether it may have any others, which are not read.
    times: columns of seconds.
    sentences: columns of sentences, in which line breaks become blanks; all
      other cells that are read have none.
    other_names: that columns may have -> theirs.

  Yields:
    (row, {column: text, or seconds as a float, None for an empty cell}), the
    row as of `read_csv`.

  Raises:
    UserError: it is no such file; names the row.
  """
  with open_text(path) as file:
    first = next(filter(str.strip, file), "")
  separator = max(SEPARATORS, key=first.count)
  rows = read_csv(path, separator)
  row, header = next(rows, (1, []))
  header = [re.sub(r"[\s-]+", "_", name.lower()) for name in header]
  header = [other_names.get(name, name) for name in header]
  while header and not header[-1]:  # Spreadsheets add columns of nothing.
    header.pop()
  read = [*needed, *optional]
  missing = [name for name in needed if name not in header]
  twice = [name for name in read if header.count(name) > 1]
  unknown = [name for name in header if not others and name not in read]
  if missing or twice or unknown:
    wrong = (f"no column {missing[0]!r} in {', '.join(header)[:200]!r}"
             if missing else
             f"column {twice[0]!r} is there twice" if twice else
             f"unknown column {unknown[0]!r}")
    may = f" and of {', '.join(optional)} what there is" if optional else ""
    raise UserError(
        f"{path}: row {row}: {wrong}, expected {', '.join(needed)}{may}")

  def understand(row, column, cell):
    wrong = f"{path}: row {row}, column {column}: {cell!r}, expected "
    if column in sentences:
      return sentence(cell)
    if column in times:
      try:
        return seconds(cell, separator) if cell else None
      except ValueError:
        raise UserError(wrong + "seconds") from None
    if LINE_BREAK.search(cell):
      raise UserError(wrong + "no line break in it")
    return cell

  for row, cells in rows:
    while len(cells) > len(header) and not cells[-1]:
      cells.pop()
    if len(cells) != len(header):
      more = (f"; a cell with {separator!r} in it needs quotes"
              if len(cells) > len(header) else "")
      raise UserError(f"{path}: row {row}: {len(cells)} cells, expected "
                      f"{len(header)} as in the first row{more}")
    yield row, {column: understand(row, column, cell)
                for column, cell in zip(header, cells) if column in read}


def sentence(cell: str) -> str:
  """A text with blanks for its line breaks."""
  return " ".join(filter(None, map(str.strip, LINE_BREAK.split(cell))))


def read_json(path: str, expected: str) -> dict[str, Any]:
  """Reads a file of JSON with an object, in any encoding that JSON may have.

  Args:
    path: of the file.
    expected: what it should have, for errors.

  Raises:
    UserError: it is no such file.
  """
  try:
    with open(path, "rb") as file:
      found = json.loads(file.read(), object_pairs_hook=_once)
    if isinstance(found, dict):
      return found
    problem = f"is a {type(found).__name__}"
  except (OSError, ValueError, RecursionError) as error:
    problem = one_line(error)
  raise UserError(f"{path}: cannot be read as JSON with {expected}: {problem}")


def _once(pairs):
  """An object of JSON, none of whose members is lost for one of its name."""
  found = dict(pairs)
  if len(found) < len(pairs):
    counts = collections.Counter(name for name, _ in pairs)
    raise ValueError(f"{counts.most_common(1)[0][0]!r} is there twice")
  return found


def seconds(cell: str, separator: str = ",") -> float:
  """The time that a cell states.

  Args:
    cell: a number with a decimal point or, where no comma can separate cells,
      with a decimal comma.
    separator: of cells.

  Raises:
    ValueError: it is no finite number.
  """
  if separator != ",":
    cell = cell.replace(",", ".")
  value = float(cell)
  if not math.isfinite(value) or "_" in cell:
    raise ValueError
  return value
