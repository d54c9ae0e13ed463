"""Keeps and sorts rows of any number, on the local disk."""
import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from vatt import stopping
from vatt.errors import UserError, one_line

MEMORY = 32 << 10  # KiB that are sorted at a time
STEPS = 100_000  # of the database, after which a signal is noted
PART = 1000  # rows, after which it is


class Rows:
  """Rows that lie on the local disk: what they take in memory does not grow
  with them.

  They are in files without a name, which go with this object: in the folder
  TMPDIR or, without that, in /var/tmp. While they are sorted, these become
  about three times as large as the rows.
  """

  def __init__(self, rows: Iterable[tuple[Any, ...]], columns: int, what: str,
               unit: str):
    """Takes all rows.

    Args:
      rows: of numbers, strings, bytes and None.
      columns: how many a row has.
      what, unit: of the bar that is shown if it takes some seconds.

    Raises:
      UserError: there is no room for them.
      Stopped: the program is to end.
    """
    self._columns = [f"c{i}" for i in range(columns)]
    # Threads take turns.
    self._table = sqlite3.connect("", check_same_thread=False)
    self._table.set_progress_handler(stopping.asked, STEPS)

    def taken():
      with tqdm(desc=what, unit=unit, mininterval=1, delay=3) as bar:
        for i, row in enumerate(rows, 1):
          yield row
          if not i % PART:
            stopping.check()
            bar.update(PART)

    with _in_a_line():
      # In files, whatever its default is: not in memory.
      self._table.execute("PRAGMA temp_store = FILE")
      self._table.execute(f"CREATE TABLE rows ({', '.join(self._columns)})")
      self._table.executemany(
          f"INSERT INTO rows VALUES ({', '.join('?' * columns)})", taken())

  def __del__(self):
    # A connection refers to itself: it would stay until cycles are looked for.
    self._table.close()

  def __iter__(self) -> Iterator[tuple[Any, ...]]:
    """Yields the rows as they came."""
    with _in_a_line():
      yield from self._table.execute("SELECT * FROM rows ORDER BY rowid")

  def in_order(self, keys: int) -> Iterator[tuple[Any, ...]]:
    """Yields the rows sorted.

    Args:
      keys: how many of a row's values, from the first, it is sorted by. None
        comes before numbers, these before strings, these before bytes.

    Raises:
      UserError: there is no room for it.
      Stopped: the program is to end.
    """
    with _in_a_line():
      self._table.execute(f"PRAGMA cache_size = -{MEMORY}")
      yield from self._table.execute(
          f"SELECT * FROM rows ORDER BY {', '.join(self._columns[:keys])}")


@contextlib.contextmanager
def _in_a_line():
  try:
    yield
  except sqlite3.OperationalError as error:
    stopping.check()  # which interrupts it
    raise UserError(
        f"a list cannot be sorted ({one_line(error)}), expected room for three "
        "times its size in the folder TMPDIR or, without that, in /var/tmp"
    ) from error
