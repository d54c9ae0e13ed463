"""Reads a JSON object of any size, a member at a time."""
import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from vatt.data.ingest import stores
from vatt.errors import UserError, one_line

CHUNK = 4 << 20  # bytes read at once
LARGEST = 64 << 20  # characters of a member
MARK = "\ufeff"  # of byte order
BLANK = re.compile(r"[ \t\r\n]*")
NAME = re.compile(rf'{BLANK.pattern}("[^"\\]*(?:\\.[^"\\]*)*"){BLANK.pattern}:'
                  + BLANK.pattern, re.S)


class Member(NamedTuple):
  """A member of a JSON object.

  Attributes:
    name: of it.
    value: what it is.
    offset, size: bytes of the value in the file.
  """
  name: str
  value: Any
  offset: int
  size: int


def members(path: str) -> Iterator[Member]:
  """Yields the members of the object that a JSON file in UTF-8 is.

  Args:
    path: of the file. No more of it is in memory than a member and CHUNK, or
      twice the longest member.

  Raises:
    UserError: it cannot be read, or is something else; names the byte.
  """
  try:
    with stores.local(path) as copy, open(copy, "rb") as file:
      yield from _Text(path, file).members()
  except OSError as error:
    raise UserError(f"{path}: cannot be read: {one_line(error)}") from error


def value_at(path: str, offset: int, size: int) -> Any:
  """The value of a member again, by its place.

  Raises:
    UserError: the file is not what it was, or cannot be read.
  """
  try:
    return json.loads(stores.read(path, offset, size).decode(), strict=False)
  except OSError as error:
    raise UserError(f"{path}: cannot be read: {one_line(error)}") from error
  except (ValueError, RecursionError) as error:
    raise UserError(f"{path}: byte {offset}: no longer what it was "
                    f"({one_line(error)}); run the command again") from error


class _Text:
  """A part of a file's text, which moves on."""

  def __init__(self, path, file):
    self._path, self._file = path, file
    self._decode = codecs.getincrementaldecoder("utf-8")()
    self._fed = 0  # bytes
    self._text, self._at = "", 0  # how much of it is read
    self._offset = 0  # of that, in bytes
    self._ended = False

  def members(self):
    while not self._text and not self._ended:
      self._grow()
    if self._text.startswith(MARK):
      self._pass(1)
    self._take("{", "an object of videos")
    self._skip()
    ended = self._text[self._at] == "}"
    while not ended:
      yield self._member()
      ended = self._take(",}", "a comma or the object's end") == "}"
    self._pass(1 if self._text.startswith("}", self._at) else 0)
    self._skip(must=False)
    if self._at < len(self._text):
      raise self._error(self._at, "more behind the object")

  def _member(self):
    """The next member, of which as much is read as it takes."""
    decode = json.JSONDecoder(strict=False).raw_decode
    while True:
      name = NAME.match(self._text, self._at)
      why, wrong = "no name of a member", self._at
      if name:
        try:
          key, _ = decode(self._text, name.start(1))
          value, end = decode(self._text, name.end())
          # What ends with the text may be the beginning of a number.
          if end < len(self._text) or self._ended:
            self._pass(name.end() - self._at)
            offset = self._offset
            self._pass(end - self._at)
            return Member(key, value, offset, self._offset - offset)
        except json.JSONDecodeError as error:
          why, wrong = error.msg, max(error.pos, self._at)
        except (ValueError, RecursionError) as error:
          why, wrong = one_line(error), name.end()
      if self._ended or len(self._text) - self._at > LARGEST:
        raise self._error(wrong, why)
      self._grow()

  def _take(self, marks, expected):
    """The next character, which is one of those."""
    self._skip()
    found = self._text[self._at]
    if found not in marks:
      raise self._error(self._at, f"{found!r}, expected {expected}")
    self._pass(1)
    return found

  def _skip(self, must=True):
    """To the next character that is no blank."""
    while True:
      self._pass(BLANK.match(self._text, self._at).end() - self._at)
      if self._at < len(self._text):
        return
      if self._ended:
        if must:
          raise self._error(self._at, "ends too soon")
        return
      self._grow()

  def _pass(self, count):
    part = self._text[self._at:self._at + count]
    self._offset += len(part) if part.isascii() else len(part.encode())
    self._at += count

  def _grow(self):
    """Reads on: twice as much as there is, if a member takes that."""
    self._text, self._at = self._text[self._at:], 0
    data = self._file.read(max(CHUNK, len(self._text)))
    self._ended = not data
    kept = len(self._decode.getstate()[0])
    try:
      self._text += self._decode.decode(data, self._ended)
    except UnicodeDecodeError as error:
      raise UserError(
          f"{self._path}: byte {self._fed - kept + error.start}: 0x"
          f"{error.object[error.start]:02x} is not UTF-8, expected JSON in it"
      ) from error
    self._fed += len(data)

  def _error(self, at, what):
    byte = self._offset + len(self._text[self._at:at].encode())
    return UserError(f"{self._path}: byte {byte}: cannot be read as JSON of "
                     f"videos: {what}")
