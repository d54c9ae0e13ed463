"""The classes of a dataset in the order of their numbers."""
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence

from vatt.data.ingest import tables
from vatt.errors import UserError


class ClassNames(tuple):
  """Names of classes, in the order of their numbers."""

  def __new__(cls, names: Sequence[str]):
    self = super().__new__(cls, names)
    self._by_spelling = {}
    for name in self:
      same = self._by_spelling.setdefault(_letters(name), name)
      if same != name:  # a spelling that does not tell them apart
        self._by_spelling[_letters(name)] = None
    self._by_spelling.update(zip(self, self))
    return self

  def find(self, label: str) -> str | None:
    """The name that a list means: capitals, underscores and quotes come and go
    where lists are copied. None if there is no such class."""
    return (self._by_spelling.get(label)
            or self._by_spelling.get(_letters(label)))


def _letters(name):
  return re.sub(r"[\W_]+", "", unicodedata.normalize("NFC", name)).casefold()


def shipped(module: str, name: str) -> ClassNames:
  """Reads the official names that lie beside a module.

  Args:
    module: the file of the module.
    name: of the text with a class a line, without its suffix.
  """
  return read(os.path.join(os.path.dirname(module), f"{name}.txt"))


def read(path: str) -> ClassNames:
  """Reads a class a line, in the order of their numbers.

  Raises:
    UserError: the file cannot be read, or has a class twice; names the line.
  """
  lines = {}
  for row, text in tables.read_lines(path):
    name = unicodedata.normalize("NFC", text)
    if lines.setdefault(name, row) != row:
      raise UserError(f"{path}: line {row}: {name!r} is in line {lines[name]}, "
                      "expected each class once")
  return ClassNames(lines)


def in_order(path: str, rows: Iterable[tuple[int, str, str]], first: int
             ) -> ClassNames:
  """Sorts classes by their numbers.

  Args:
    path: the file that says them, for errors.
    rows: (row, number, name) of each class.
    first: the first number.

  Raises:
    UserError: a number or a name is missing or there twice; names the row.
  """
  found, names = {}, {}
  for row, number, name in rows:
    name = unicodedata.normalize("NFC", name)
    if not re.fullmatch(r"\d{1,9}", number) or (
        not name or tables.LINE_BREAK.search(name)):
      raise UserError(f"{path}: row {row}: {number!r} and {name!r}, expected "
                      "the number and the name of a class")
    for known, key in (found, int(number)), (names, name):
      if known.setdefault(key, row) != row:
        raise UserError(f"{path}: row {row}: {key!r} is in row {known[key]} "
                        "too, expected each class once")
  expected = range(first, first + len(found))
  gone = [number for number in expected if number not in found]
  if gone or not found:
    raise UserError(f"{path}: no class has the number "
                    f"{(gone or [first])[0]}, expected all from {first}")
  rows = {row: name for name, row in names.items()}
  return ClassNames([rows[found[number]] for number in expected])
