"""An index of media: the vectors of all windows of the files of folders.

FOLDER/index.sqlite3 has a row a file: where it lies (from FOLDER, so that an
index inside of the media moves with them), its size and time, and of its
windows the times and the vectors of each space; or why it cannot be used. A row
is written at once, so whenever a run is killed, the next one goes on with the
file that was in work.
"""
import contextlib
import json
import os
import re
import sqlite3
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vatt import locks, pools
from vatt.data.ingest import clip_sources
from vatt.errors import UserError, one_line, visible
from vatt.findings import SILENT, Found
from vatt.inference import Model

NAME = "index.sqlite3"
INSIDE = ".vatt-index"  # the index of a folder, where no other is asked for
SPACES = ("video_vt", "audio_vt", "video_va", "audio_va")
VERSION = 1
WAIT = 60.0  # seconds for another process that writes a file's row
# Fields that the vectors of windows do not depend on, beside pools.FREE_FIELDS.
FREE_FIELDS = ("data.captions", "data.datasets", "data.eval_split",
               "data.words", "eval.average", "eval.windows")
# Problems that may be none of the file and soon show: tried at each update.
REFUSED = re.compile(
    "Permission denied|Input/output error|Stale file handle|Too many open files"
    "|Cannot allocate memory|MemoryError")
# Such that may take long to show: tried once more, as what was read in part is.
BROKEN_OFF = re.compile("the decoder crashed|took longer than")
TRIED = " (tried again)"
# AUTOINCREMENT: the id of a file that is gone never becomes another's.
TABLES = f"""
CREATE TABLE facts (json TEXT NOT NULL);
CREATE TABLE files (
  id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL UNIQUE,
  size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, problem TEXT NOT NULL,
  times BLOB NOT NULL, {", ".join(f"{space} BLOB" for space in SPACES)});
PRAGMA user_version = {VERSION};
"""


class File(NamedTuple):
  """A file of an index.

  Attributes:
    id: its number, which no other file gets.
    path: where it lies.
    size, mtime_ns: when it was indexed; bytes, nanoseconds.
    problem: why it, or a part of it, cannot be used; or "".
    times: float64 [W, 2], seconds at which its windows start and end.
    kinds: of video and audio, what it has.
  """
  id: int
  path: str
  size: int
  mtime_ns: int
  problem: str
  times: np.ndarray
  kinds: tuple[str, ...]


class Changes(NamedTuple):
  """What an update did: numbers of files."""
  added: int
  changed: int
  dropped: int
  kept: int
  unusable: int


class Index:
  """An index, to be read and updated.

  Args:
    folder: that has it, or is to have it.
    model: whose vectors it has. Its `infer` finds them.
    windows: of a file, a number or "all".

  Raises:
    UserError: it cannot be read; it is of another model or of other windows.
  """

  def __init__(self, folder: str, model: Model, windows: int | str = "all"):
    if model.config.task != "pretrain":
      raise UserError(f"{model.path}: a model of the task {model.config.task}, "
                      "expected a pre-trained one, whose vectors of video, "
                      "audio and text can be compared")
    self.folder = os.path.realpath(os.path.expanduser(folder))
    self.path = os.path.join(self.folder, NAME)
    self._model, self._windows = model, windows
    self._facts = pools.describe(model.config, model.model, model.step) | {
        "windows": windows}
    self.read()

  # ---- Read -----------------------------------------------------------------
  def read(self) -> list[File]:
    """Its files, sorted by their paths; [] if it is yet to be made."""
    with self._open() as database:
      if database is None:
        return []
      columns = ", ".join(f"{space} IS NOT NULL" for space in SPACES)
      rows = database.execute(
          "SELECT id, path, size, mtime_ns, problem, times, "
          f"{columns} FROM files").fetchall()
    found = []
    for number, path, size, mtime_ns, problem, times, *there in rows:
      kinds = {space.partition("_")[0] for space, has in zip(SPACES, there)
               if has}
      found.append(File(
          number, self._path_of(path), size, mtime_ns, problem,
          np.frombuffer(times).reshape(-1, 2),  # [2 W] -> [W, 2]
          tuple(sorted(kinds, reverse=True))))
    return sorted(found, key=lambda file: file.path)

  def vectors(self, listed: Sequence[File], space: str) -> np.ndarray:
    """The vectors of files' windows in a space.

    Args:
      listed: of `read`.
      space: one of SPACES.

    Returns:
      float32 [N, E] of unit length, the windows of each file in turn; rows of
      NaN where a window has none, or the file is no longer in the index.
    """
    first, count = {}, 0
    for file in listed:
      first[file.id] = count, len(file.times)
      count += len(file.times)
    table = np.full([count, self._width(space)], np.nan, np.float32)
    with self._open() as database:
      for number, blob in () if database is None else database.execute(
          f"SELECT id, {space} FROM files WHERE {space} IS NOT NULL"):
        if number in first:
          start, rows = first[number]
          table[start:start + rows] = np.frombuffer(  # [W E] -> [W, E]
              blob, np.float32).reshape(rows, -1)
    return table

  def _width(self, space):
    return self._model.config.model[f"dim_{space[-2:]}"]

  def _path_of(self, stored):
    return os.path.normpath(os.path.join(self.folder, os.fsdecode(stored)))

  def _stored(self, path):
    """How a path is kept: names may be of any bytes."""
    return os.fsencode(os.path.relpath(path, self.folder))

  # ---- Update ---------------------------------------------------------------
  def update(self, folders: Sequence[str], retry: bool = False) -> Changes:
    """Takes in what is new or has changed in folders, and drops what is gone.

    Files of other folders stay as they are, and so do those of folders that
    cannot be read. What could not be used, or in part alone, for reasons that
    may have passed is tried again. Nothing is written, and the index is not
    locked, where there is nothing to do.

    Args:
      folders: of media.
      retry: whether to try again all that could not be used, or in part.

    Raises:
      UserError: there is no media file in the folders, nor was one; another
        process updates the index; it cannot be written.
    """
    there, unread = _scan(folders)
    missing, gone = self._plan(folders, there, unread, retry)
    if not (there or gone or unread):
      raise UserError(f"{', '.join(folders)}: no media file in it, expected "
                      "some, whose names end in .mp4, .wav or the like")
    if not missing and not gone:
      return self._changes(there, {}, 0, 0)
    with locks.own(self.folder, "an update of the index", "a folder with room; "
                   "choose another by --index"):
      # Another may have just updated it.
      missing, gone = self._plan(folders, there, unread, retry)
      known = {file.path: file for file in self.read()}
      with self._open(write=True) as database:
        self._begin(database)
        with database:
          database.executemany("DELETE FROM files WHERE id = ?",
                               [[file.id] for file in gone])
        if missing:
          with contextlib.closing(self._model.infer(
              missing, self._model.signals, self._windows)) as found:
            for one in found:
              self._store(database, one, *there[one.name], known.get(one.name))
    changed = len(known.keys() & set(missing))
    return self._changes(there, missing, changed, len(gone))

  def _plan(self, folders, there, unread, retry):
    """Paths of files that are to be taken in; Files that are gone."""
    listed = self.read()
    # Others may search in an index that they cannot write.
    own = os.access(self.folder, os.W_OK)
    known = {file.path: (file.size, file.mtime_ns) for file in listed
             if not (file.problem if retry else own and _may_pass(file))}
    missing = [path for path, facts in there.items()
               if known.get(path) != facts]
    return missing, [file for file in within(listed, folders)
                     if file.path not in there
                     and not file.path.startswith(unread)]

  def _changes(self, there, missing, changed, dropped):
    unusable = sum(not len(file.times) for file in self.read()
                   if file.path in there)
    return Changes(len(missing) - changed, changed, dropped,
                   len(there) - len(missing), unusable)

  def _begin(self, database):
    """Makes the tables, where there are none."""
    if not database.execute("PRAGMA user_version").fetchone()[0]:
      # In one transaction with the model that they are of.
      database.executescript(f"BEGIN; {TABLES}")
      database.execute("INSERT INTO facts VALUES (?)",
                       [json.dumps(self._facts)])
      database.commit()

  def _store(self, database, found: Found, size, mtime_ns, known):
    """Writes the row of a file, in place of the one that it has."""
    if known and (known.size, known.mtime_ns) != (size, mtime_ns):
      known = None  # another file by now
    vectors = {}
    for space in SPACES:
      if found.mask(space).any() and space in found.values:
        vectors[space] = found.windows(space)
    times = found.times if vectors else found.times[:0]
    problem = found.reason or ("" if vectors else "has nothing of that kind")
    if known and problem not in ("", SILENT):
      problem += TRIED
      if len(known.times) > len(times):  # it is worse this time
        problem = known.problem.removesuffix(TRIED) + TRIED
        with database:
          database.execute("UPDATE files SET problem = ? WHERE id = ?",
                           [problem, known.id])
        return
    row = {"path": self._stored(found.name), "size": size, "mtime_ns": mtime_ns,
           "problem": problem.encode(errors="replace").decode(),
           "times": times.astype(np.float64).tobytes()} | {
               space: rows.astype(np.float32).tobytes()
               for space, rows in vectors.items()}
    with database:
      database.execute("DELETE FROM files WHERE path = ?", [row["path"]])
      database.execute(
          f"INSERT INTO files ({', '.join(row)}) VALUES "
          f"({', '.join('?' * len(row))})", list(row.values()))

  # ---- The file -------------------------------------------------------------
  @contextlib.contextmanager
  def _open(self, write: bool = False
            ) -> Iterator[sqlite3.Connection | None]:
    """The database; None if there is none to be read."""
    if not write and not os.path.exists(self.path):
      yield None
      return
    try:
      # Not "ro": what a kill has left may have to be rolled back.
      with contextlib.closing(sqlite3.connect(
          f"file:{urllib.parse.quote(os.fsencode(self.path))}?mode="
          + ("rwc" if write else "rw"), uri=True, timeout=WAIT)) as database:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version:
          self._check(version, database)
        yield database if version or write else None
    except sqlite3.Error as error:
      raise UserError(
          f"{self.path}: cannot be {'written' if write else 'read'} "
          f"({one_line(error)}), expected an index and a disk with room; remove"
          " it to index anew, or choose another --index") from None

  def _check(self, version, database):
    """Raises UserError unless the index is of this model and its windows."""
    if version != VERSION:
      raise UserError(f"{self.path}: of version {version}, expected {VERSION}; "
                      "remove it to index anew, or choose another --index")
    try:
      facts = json.loads(*database.execute(
          "SELECT json FROM facts").fetchone())
    except (TypeError, ValueError):
      raise UserError(f"{self.path}: damaged, expected an index; remove it to "
                      "index anew") from None
    differ = pools.compare(facts, self._facts, FREE_FIELDS)
    others = "choose another --index, or remove it to index anew"
    if differ:
      raise UserError(f"{self.path}: indexed {differ}; {others}")
    if facts["windows"] != self._windows:
      raise UserError(
          f"{self.path}: indexed with --windows={facts['windows']}, not "
          f"{self._windows}; expected that, {others}")


def within(listed: Sequence[File], folders: Sequence[str]) -> list[File]:
  """The files that lie in folders."""
  roots = [os.path.join(os.path.realpath(folder), "") for folder in folders]
  return [file for file in listed if file.path.startswith(tuple(roots))]


def _may_pass(file):
  """Whether a file may be better read by another try."""
  if not len(file.times) and REFUSED.search(file.problem):
    return True
  in_part = len(file.times) and file.problem not in ("", SILENT)
  return (in_part or bool(BROKEN_OFF.search(file.problem))) and (
      not file.problem.endswith(TRIED))


def _scan(folders):
  """{path: (size, mtime_ns)} of the media in folders, and how paths begin that
  cannot be read now. Tells of folders without media."""
  there, unread = {}, []
  for folder in folders:
    root, closed = os.path.realpath(folder), []
    inside = clip_sources.find_media(folder, INSIDE, closed)
    if not inside and len(folders) > 1:
      print(f"{folder}: no media file in it")
    unread += [os.path.join(os.path.normpath(os.path.join(root, name)), "")
               for name in closed]
    for name in inside:
      path = os.path.join(root, name)
      try:
        facts = os.stat(path)
        there[path] = facts.st_size, facts.st_mtime_ns
      except PermissionError as error:  # of its folder
        print(f"{visible(path)}: left out, cannot be read ({error.strerror})")
        unread.append(path)
      except OSError:  # such as a link to nowhere: reading it will say so
        there[path] = -1, 0
  return there, tuple(unread)
