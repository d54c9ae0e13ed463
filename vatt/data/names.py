"""Names: of data sets with what is said behind a "?", and of classes."""
import math
import urllib.parse
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from vatt.errors import UserError


def read_query(name: str, query: str, kinds: Mapping[str, type]
               ) -> dict[str, Any]:
  """Reads what a data set's name says behind a "?", such as fps=10.

  Args:
    name: all of it, for errors.
    query: what is behind the "?": fields with "&" between them. As in an
      address "%26" is a "&"; a "+" is a plus.
    kinds: int, float or str, by the fields that there may be.

  Returns:
    The values of those fields that are given; numbers are not below 0.

  Raises:
    UserError: a field is unknown, or is no such number.
  """
  values = {}
  for part in filter(None, query.split("&")):
    field, _, value = map(urllib.parse.unquote, part.partition("="))
    if field not in kinds:
      raise UserError(f"{name}: unknown '{field}', expected "
                      + ", ".join(kinds))
    try:
      values[field] = kinds[field](value)
      good = value and (kinds[field] is str or
                        math.isfinite(values[field]) and values[field] >= 0)
    except ValueError:
      good = False
    if not good:
      expected = {int: "a whole number", float: "a number"}.get(
          kinds[field], "a name")
      raise UserError(f"{name}: {field} is '{value}', expected {expected}")
  return values


def read_classes(path: str) -> tuple[str, ...]:
  """Reads the names of classes, one in each line, in the order of their
  numbers.

  Args:
    path: a file in UTF-8.

  Returns:
    The names.

  Raises:
    UserError: the file cannot be read, or a line is empty.
  """
  try:
    with tf.io.gfile.GFile(path, "rb") as f:
      lines = f.read().decode("utf-8-sig").rstrip("\r\n")
  except (UnicodeDecodeError, OSError, tf.errors.OpError) as error:
    what = ("is not UTF-8" if isinstance(error, UnicodeDecodeError)
            else "cannot be read")
    raise UserError(f"{path}: {what}, expected the name of a class in each "
                    "line") from None
  # At line feeds alone: a name may have other white space.
  names = tuple(line.strip("\r") for line in lines.split("\n")) if lines else ()
  if not all(names):
    raise UserError(f"{path}: line {names.index('') + 1} is empty, expected "
                    "the name of a class in each")
  return names
