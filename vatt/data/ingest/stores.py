"""Media, lists and subtitles on a disk or in an object store (s3://, gs://).

FFmpeg reads local files: what lies in a store is copied to be read, and the
copy goes when it is read, or with the process. A store that fails is no fault
of a file: it is asked again, and then ends the build, which goes on from there.
"""
import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import tensorflow as tf
from tqdm import tqdm

from vatt import files, stopping
from vatt.data.ingest import threads
from vatt.errors import one_line

PAUSES = 1.0, 10.0  # seconds before the second try, and before the last
THREADS = 16  # that ask a store at a time
# Of names that are not asked for, whether they are of folders: what lies beside
# media, and what media have, which callers say.
BESIDE = frozenset((
    ".csv .description .html .jpeg .jpg .json .md .nfo .part .png .srt .txt "
    ".vtt .webp .xml .ytdl .zip").split())


def _ask(function: Callable[[str], Any], path: str) -> Any:
  """What a function says of a path in a store, if need be in another try, as
  transfers break off. (Requests that fail are repeated by TensorFlow.)

  Raises:
    tf.errors.UnavailableError: it fails, or nothing is there. Nobody takes that
      for the fault of a file: it ends the build.
  """
  files.know(path)
  for pause in (*PAUSES, None):
    try:
      return function(path)
    except tf.errors.OpError as error:
      if pause is None or isinstance(error, tf.errors.NotFoundError):
        raise _unavailable(path, one_line(error)) from error
    time.sleep(pause)
    stopping.check()


def _unavailable(path, why):
  return tf.errors.UnavailableError(
      None, None, f"{path}: cannot be read ({why})")


def _is(function, path):
  """Whether a function says so of a path. A "no" is believed if the store does
  not fail, and if it is said again."""
  if _ask(function, path):
    return True
  if why := files.failure(path):
    raise _unavailable(path, why)
  return _ask(function, path)


def join(folder: str, name: str) -> str:
  """The path of a file that is named relative to a folder, or wholly."""
  return name if "://" in name else os.path.join(folder, name)


def exists(path: str) -> bool:
  """Whether there is a file or folder."""
  return (_is(tf.io.gfile.exists, path) if files.is_in_store(path)
          else os.path.exists(path))


def is_folder(path: str) -> bool:
  """Whether a path is that of a folder: of none on the web."""
  if not files.is_in_store(path):
    return os.path.isdir(path)
  return files.is_listed(path) and _is(tf.io.gfile.isdir, f"{path}/")


def facts(path: str) -> tuple[int, int]:
  """The bytes of a file, and the nanosecond when it was last changed.

  Raises:
    OSError: there is no such file on the disk.
  """
  if files.is_in_store(path):
    found = _ask(tf.io.gfile.stat, path)
    return found.length, found.mtime_nsec
  found = os.stat(path)
  return found.st_size, found.st_mtime_ns


def sizes(folder: str, names: Collection[str]) -> dict[str, int]:
  """The bytes of those files of a folder that are in a store, by their names:
  of many at a time, with a bar if it takes long."""
  names = [name for name in names if files.is_in_store(join(folder, name))]
  return dict(tqdm(threads.in_order(
      lambda name: facts(join(folder, name))[0], names, THREADS), "sizes",
                   len(names), unit="file", mininterval=1, delay=3))


def walk(folder: str, suffixes: Collection[str] = (),
         onerror: Callable[[OSError], object] | None = None,
         followlinks: bool = False
         ) -> Iterator[tuple[str, list[str], list[str]]]:
  """Walks as os.walk does, also in a store.

  Args:
    folder: the uppermost.
    suffixes: of media, in small letters.
    onerror, followlinks: as of os.walk, of folders on a disk.
  """
  if not files.is_in_store(folder):
    yield from os.walk(folder, True, onerror, followlinks)
    return
  names = sorted({name.rstrip("/") for name in _ask(
      tf.io.gfile.listdir, f"{folder}/")})
  folders = [name for name, found in threads.in_order(
      lambda name: is_folder(f"{folder}/{name}"), [
          name for name in names
          if os.path.splitext(name)[1].lower() not in BESIDE.union(suffixes)],
                                                     THREADS)
             if found]
  yield folder, folders, sorted(set(names).difference(folders))
  for name in folders:
    yield from walk(f"{folder}/{name}", suffixes)


def read(path: str, offset: int, size: int) -> bytes:
  """Reads a part of a file."""
  if not files.is_in_store(path):
    with open(path, "rb") as file:
      file.seek(offset)
      return file.read(size)

  def part(path):
    with tf.io.gfile.GFile(path, "rb") as file:
      file.seek(offset)
      return file.read(size)

  return _ask(part, path)


@contextlib.contextmanager
def local(path: str) -> Iterator[str]:
  """A path by which a file can be opened here: its own, or that of a copy of
  the same name.

  The copy is in the folder TMPDIR or, without that, in /var/tmp. It has room as
  long as this process has it open: on Linux, what a kill leaves is a link that
  leads nowhere.
  """
  if not files.is_in_store(path):
    yield path
    return
  with files.temporary_folder() as folder:
    copy = os.path.join(folder, os.path.basename(path))
    with open(copy, "wb") as file:
      _ask(lambda path: _copy(path, file), path)
      opened = f"/proc/{os.getpid()}/fd/{file.fileno()}"
      if os.path.exists(opened):
        os.remove(copy)
        os.symlink(opened, copy)
      yield copy


def _copy(path, file):
  file.seek(0)
  file.truncate()
  for chunk in files.chunks(path):
    file.write(chunk)
  file.flush()
