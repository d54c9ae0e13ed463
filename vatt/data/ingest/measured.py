"""Lengths of media files, kept in a file: a build that was stopped does not
open a million videos again to cut them."""
import contextlib
import csv
import io
import os
from collections.abc import Callable

import tensorflow as tf

from vatt.data.ingest import stores
from vatt.files import REFUSED, write_whole


class Measured:
  """What is known of the lengths of files.

  Args:
    path: of the file that has it; none if empty. If it is damaged, nothing is
      known; if it cannot be written, it is not.
  """

  def __init__(self, path: str = ""):
    self._path, self._known, self._new = path, {}, False
    with contextlib.suppress(*REFUSED, ValueError, csv.Error):
      self._known = {
          name: (int(size), int(time), float(seconds)) for
          name, size, time, seconds in csv.reader(io.StringIO(
              tf.io.gfile.GFile(path, "rb").read().decode() if path else ""))}

  def seconds(self, name: str, path: str, measure: Callable[[], float]
              ) -> float:
    """The seconds of a file.

    Args:
      name: by which it is known.
      path: of it. If its size or time is another than before, it is measured.
      measure: does that.
    """
    try:
      now = stores.facts(path)
    except OSError:
      return measure()
    size, time, seconds = self._known.get(name, (None, None, None))
    if (size, time) != now:
      seconds = measure()
      self._known[name] = *now, seconds
      self._new = True
    return seconds

  def save(self) -> None:
    """Writes what was added."""
    if not self._new or not self._path:
      return
    self._new = False  # threads may add more meanwhile
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(
        (name, *facts) for name, facts in list(self._known.items()))
    with contextlib.suppress(*REFUSED):
      tf.io.gfile.makedirs(os.path.dirname(self._path))
      write_whole(self._path, table.getvalue())
