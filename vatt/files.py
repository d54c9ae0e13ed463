"""Files: written whole or not at all, and read by paths of any letters.

Some are on the disks of this machine, others in an object store (gs://, s3://).
There a file appears whole and at once, but gets another name only by a copy: so
it is written here first, and then goes there under its own name.
"""
import contextlib
import errno
import hashlib
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from vatt import stopping
from vatt.errors import UserError, one_line

# What Python and TensorFlow raise when a file system fails. Others, as those of
# a lost worker, are no matter of files and pass through.
REFUSED = (
    OSError, tf.errors.ResourceExhaustedError, tf.errors.OutOfRangeError,
    tf.errors.PermissionDeniedError, tf.errors.NotFoundError,
    tf.errors.FailedPreconditionError, tf.errors.UnknownError)
PATTERN = set("*?[]\\")
TEMPORARY = ".tmp"  # how the name ends of what is not whole yet
CHUNK = 16 << 20  # bytes read at once
# File systems of tensorflow-io.
OTHERS = ("az", "har", "hdfs", "http", "https", "oss", "s3", "viewfs")


def is_in_store(path: str) -> bool:
  """Whether a file is where a new name is a copy; ram:// is memory."""
  return "://" in path and not path.startswith("ram://")


def is_listed(path: str) -> bool:
  """Whether the folder of a file can be listed, and what it has be looked for:
  not on the web, where the size of a file is known once all of it is read."""
  return not path.startswith(("http://", "https://"))


def know(text: str) -> None:
  """Has TensorFlow know the file systems of all paths in a text, such as a
  command line; what else has a "://", such as grpc://, does not matter.

  It has gs:// itself. What tensorflow-io has is loaded only for paths there:
  workers on TPUs do not have it.

  Raises:
    UserError: tensorflow-io is needed and not there.
  """
  for path, scheme in re.findall(r"\b(([a-z][a-z0-9]*)://\S*)", text):
    if scheme == "s3":
      # A read by range is one request then, in place of two.
      os.environ.setdefault("S3_DISABLE_MULTI_PART_DOWNLOAD", "1")
      # The client aborts at the end of a process.
      stopping.end_at_once()
    if scheme in OTHERS and scheme not in tf.io.gfile.get_registered_schemes():
      try:
        import tensorflow_io  # noqa: F401
      except ImportError as error:
        raise UserError(f"{path}: needs tensorflow-io ({one_line(error)}), "
                        "expected that, a path or gs://") from None


def write_whole(path: str, data: bytes | str) -> None:
  """Writes bytes, or text as UTF-8, to outlast a power cut.

  What is there already stays as it is until all is written. On a disk, a file
  of another name that ends in TEMPORARY is left by a kill, and nothing else.

  Raises:
    One of REFUSED.
  """
  write_whole_by(path, _writer(data))


def write_whole_by(path: str, write: Callable[[str], int | None]) -> None:
  """As `write_whole`, what write(temporary path) writes.

  Args:
    path: of the file.
    write: called once; returns the number of bytes that the file is to have,
      or None if it does not know.
  """
  with aside(path) as temporary:
    size = write(temporary)
    sync(temporary)
    found = tf.io.gfile.stat(temporary).length
    if size not in (None, found):
      raise OSError(f"{path}: {found} bytes of {size} were written")
    put(temporary, path)
  sync(os.path.dirname(path) or ".")


def _writer(data):
  """A function that writes bytes, or text, to a path."""
  def write(path):
    content = data.encode() if isinstance(data, str) else data
    with tf.io.gfile.GFile(path, "wb") as file:
      file.write(content)
    return len(content)
  return write


def temporary_folder() -> tempfile.TemporaryDirectory:
  """A new folder for what may be large, in TMPDIR or, without that, in
  /var/tmp: where other temporary files are is often in memory."""
  places = filter(None, (os.environ.get("TMPDIR"), "/var/tmp"))
  return tempfile.TemporaryDirectory(dir=next((
      place for place in places if os.access(place, os.W_OK | os.X_OK)), None))


@contextlib.contextmanager
def aside(path: str) -> Iterator[str]:
  """A path on a disk for what is to become `path`, a file or a folder; what is
  left of it in the end goes away."""
  if is_in_store(path):
    with temporary_folder() as folder:
      yield os.path.join(folder, os.path.basename(path))
    return
  # A name of its own: two programs may write the same file.
  temporary = f"{path}.{uuid.uuid4().hex[:8]}{TEMPORARY}"
  try:
    yield temporary
  finally:
    with contextlib.suppress(*REFUSED):
      if tf.io.gfile.isdir(temporary):
        tf.io.gfile.rmtree(temporary)
      elif tf.io.gfile.exists(temporary):
        tf.io.gfile.remove(temporary)


def put(temporary: str, path: str) -> None:
  """Gives a file that is written `aside` its name, whatever is there."""
  if is_in_store(path):
    tf.io.gfile.copy(temporary, path, overwrite=True)
  else:
    tf.io.gfile.rename(temporary, path, overwrite=True)


def write_together(
    folder: str, mark: str, data: str,
    contents: dict[str, bytes | str | Callable[[str], object]],
    old: Iterable[str] = ()) -> None:
  """Writes files that are whole together, and a mark that vouches for them.

  All are written aside first. Then the mark of before goes, they take their
  names, and the new mark comes last. So where there is a mark, the
  files are those that it was written with, whenever this was killed.

  Args:
    folder: made if need be, as are folders in it.
    mark: name of the mark.
    data: of the mark.
    contents: of the others by their names in the folder: bytes, text, or what
      writes the file, write(path).
    old: names that earlier writes may have left, as of `names`. Those that are
      not written again are removed.

  Raises:
    UserError: the file system refused. Unless it did so at renaming, all is as
      it was.
  """
  folder = folder or "."
  marked = os.path.join(folder, mark)
  paths = {os.path.join(folder, name): content if callable(content)
           else _writer(content)
           for name, content in (contents | {mark: data}).items()}
  folders = sorted({os.path.dirname(path) for path in paths})
  try:
    with contextlib.ExitStack() as temporaries:
      for path in folders:
        tf.io.gfile.makedirs(path)
      written = {path: temporaries.enter_context(aside(path)) for path in paths}
      for path, write in paths.items():
        write(written[path])
        sync(written[path])
      if tf.io.gfile.exists(marked):
        tf.io.gfile.remove(marked)
        sync(folder)
      for name in set(old) - {*contents, mark}:
        with contextlib.suppress(tf.errors.NotFoundError):
          tf.io.gfile.remove(os.path.join(folder, name))
      for path, temporary in written.items():
        if path == marked:  # the last
          for other in folders:
            sync(other)
        put(temporary, path)
      sync(folder)
  except REFUSED as error:
    raise UserError(f"{folder}: cannot be written ({one_line(error)}), "
                    "expected a folder, and room on its disk") from None


@contextlib.contextmanager
def whole_folder(path: str, mark: str) -> Iterator[str]:
  """A new folder, whole or not at all: yields the path of another one, to be
  filled, which gets its name in the end.

  Of several that write a folder of one name, one succeeds. A folder of another
  name that ends in TEMPORARY is left by a kill, and nothing else. In an object
  store, where there are no folders, the mark tells that all is there.

  Args:
    path: of the folder. It may be there, if nothing is in it.
    mark: name of the file in it that goes to an object store last.

  Raises:
    One of REFUSED.
  """
  with aside(path) as temporary:
    tf.io.gfile.makedirs(temporary)
    yield temporary
    written = []
    for folder, _, names_in_it in tf.io.gfile.walk(temporary, topdown=False):
      for name in (*names_in_it, ""):  # the folder last
        sync(os.path.join(folder, name))
      written += [os.path.relpath(os.path.join(folder, name), temporary)
                  for name in names_in_it]
    if "://" not in path:
      os.rename(temporary, path)  # takes the place of an empty folder alone
    elif not is_in_store(path):
      tf.io.gfile.rename(temporary, path)
    elif tf.io.gfile.isdir(path) and tf.io.gfile.listdir(path):
      raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    else:
      for name in sorted(written, key=lambda name: (name == mark, name)):
        target = os.path.join(path, name)
        tf.io.gfile.makedirs(os.path.dirname(target))
        put(os.path.join(temporary, name), target)
  sync(os.path.dirname(path) or ".")


def sha256(path: str) -> str:
  """SHA-256 of a file, 64 hexadecimal digits."""
  digest = hashlib.sha256()
  for chunk in chunks(path):
    digest.update(chunk)
  return digest.hexdigest()


def chunks(path: str) -> Iterator[bytes]:
  """Yields the bytes of a file, at most CHUNK at once, each in one request."""
  if "://" not in path:
    with open(path, "rb") as file:
      while chunk := file.read(CHUNK):
        yield chunk
    return
  # A GFile asks for 512 KiB at once. What lies before records would be read, so
  # all have one length, but for the last bytes.
  size = tf.io.gfile.stat(path).length
  count = max(1, -(-size // CHUNK))
  length, rest = divmod(size, count)
  if length:
    for chunk in tf.data.FixedLengthRecordDataset(
        path, length, 0, rest, buffer_size=length):
      yield chunk.numpy()
  if rest:
    with tf.io.gfile.GFile(path, "rb") as file:
      file.seek(length * count)
      yield file.read(rest)


def damage(folder: str, listed: Mapping[str, Mapping[str, Any]]) -> str | None:
  """What is wrong with files, or None.

  Args:
    folder: of the files.
    listed: {name: {"bytes", "sha256" if it is known}}, as they were written.
  """
  for name, facts in listed.items():
    path = os.path.join(folder, name)
    if not tf.io.gfile.exists(path):
      return f"{name} is missing"
    found = tf.io.gfile.stat(path).length
    if found != facts["bytes"]:
      return f"{name} has {found} bytes, expected {facts['bytes']}"
    if "sha256" in facts and sha256(path) != facts["sha256"]:
      return f"{name} has another SHA-256 than when it was written"
  return None


def listdir(folder: str) -> list[str]:
  """Names of what is in a folder, in order; none if there is no folder, as in a
  store where nothing has been put into it.

  Raises:
    UserError: its store does not say what is in it.
    One of REFUSED.
  """
  try:
    return sorted(n.rstrip("/") for n in tf.io.gfile.listdir(folder))
  except tf.errors.NotFoundError:
    if why := failure(folder):
      raise UserError(f"{folder}: cannot be looked into ({why}), expected a "
                      "bucket that is there, and the right to list and to read "
                      "it") from None
    return []


def failure(path: str) -> str:
  """Why it is not known whether a file or folder is there that seems not to be;
  or "": it is not. The client of s3:// takes for that whatever fails, such as
  the credentials, but where a file is read."""
  if path.startswith("s3://"):
    try:
      tf.io.read_file(os.path.join(path, "nothing"))
    except tf.errors.OpError as error:
      # There are keys of one name alone where the bucket is.
      if (not isinstance(error, tf.errors.NotFoundError)
          or "NoSuchBucket" in error.message):
        return one_line(error).partition(" [Op:")[0]
  return ""


def names(folder: str, pattern: str) -> list[str]:
  """Names of files in a folder, in order, that a pattern matches; also of what
  a kill left of writing these. None if there is no folder."""
  whole = re.compile(rf"({pattern})(\.[0-9a-f]{{8}}{re.escape(TEMPORARY)})?")
  return list(filter(whole.fullmatch, listdir(folder)))


def check_checkpoint_path(prefix: str) -> None:
  """Raises UserError if a checkpoint of that path could not be read: it is not
  local, and TensorFlow would take it for a pattern."""
  if "://" in prefix and set(prefix) & PATTERN:
    raise UserError(f"{prefix}: has one of * ? [ ] \\, which TensorFlow takes "
                    "for a pattern; expected a path without them, or a local "
                    "one")


@contextlib.contextmanager
def checkpoint_path(prefix: str) -> Iterator[str]:
  """A path by which TensorFlow reads a checkpoint whatever it is called.

  What reads checkpoints there takes a path for a pattern, and finds none of
  lr[0.1]: such a checkpoint is read through links of plain names.

  Args:
    prefix: path of the checkpoint, without .index.

  Raises:
    UserError: as of `check_checkpoint_path`.
  """
  check_checkpoint_path(prefix)
  if not set(prefix) & PATTERN:
    yield prefix
    return
  folder, name = os.path.split(os.path.abspath(prefix))
  with tempfile.TemporaryDirectory() as links:
    for file in os.listdir(folder):
      if file.startswith(name + "."):
        os.symlink(os.path.join(folder, file),
                   os.path.join(links, "ckpt" + file[len(name):]))
    yield os.path.join(links, "ckpt")


def sync(path: str) -> None:
  """Brings a local file or directory to the disk; others see to that."""
  if "://" in path:
    return
  number = os.open(path, os.O_RDONLY)
  try:
    os.fsync(number)
  finally:
    os.close(number)
