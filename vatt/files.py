"""Files: written whole or not at all, and read by paths of any letters."""
import contextlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator

import tensorflow as tf

from vatt.errors import UserError

# What Python and TensorFlow raise when a file system fails. Others, as those of
# a lost worker, are no matter of files and pass through.
REFUSED = (
    OSError, tf.errors.ResourceExhaustedError, tf.errors.OutOfRangeError,
    tf.errors.PermissionDeniedError, tf.errors.NotFoundError,
    tf.errors.FailedPreconditionError, tf.errors.UnknownError)
TEMPORARY = ".tmp"  # how the name ends of what is not whole yet


def write_whole(path: str, data: bytes | str) -> None:
  """Writes bytes, or text as UTF-8, to outlast a power cut.

  What is there already stays as it is until all is written. A file of another
  name that ends in TEMPORARY is left by a kill, and nothing else.

  Raises:
    One of REFUSED.
  """
  data = data.encode() if isinstance(data, str) else data

  def write(temporary):
    with tf.io.gfile.GFile(temporary, "wb") as file:
      file.write(data)

  write_whole_by(path, write, len(data))


def write_whole_by(path: str, write: Callable[[str], object],
                   size: int | None = None) -> None:
  """As `write_whole`, what write(temporary path) writes.

  Args:
    path: of the file.
    write: called once.
    size: how many bytes it writes; None if that is not known.
  """
  # A name of its own: two programs may write the same file.
  temporary = f"{path}.{uuid.uuid4().hex[:8]}{TEMPORARY}"
  try:
    write(temporary)
    sync(temporary)
    found = tf.io.gfile.stat(temporary).length
    if size not in (None, found):
      raise OSError(f"{path}: {found} bytes of {size} were written")
    tf.io.gfile.rename(temporary, path, overwrite=True)
  except BaseException:
    with contextlib.suppress(*REFUSED):
      tf.io.gfile.remove(temporary)
    raise
  sync(os.path.dirname(path) or ".")


def put_in_place(path: str, size: int) -> None:
  """Renames `<path>.tmp` to `path`, if it has all its bytes; else OSError."""
  temporary = path + TEMPORARY
  found = tf.io.gfile.stat(temporary).length
  if found != size:
    raise OSError(f"{temporary}: {found} bytes of {size} were written")
  sync(temporary)
  tf.io.gfile.rename(temporary, path, overwrite=True)


@contextlib.contextmanager
def checkpoint_path(prefix: str) -> Iterator[str]:
  """A path by which TensorFlow reads a checkpoint whatever it is called.

  What reads checkpoints there takes a path for a pattern, and finds none of
  lr[0.1]: such a checkpoint is read through links of plain names.

  Args:
    prefix: path of the checkpoint, without .index.

  Raises:
    UserError: a path with such letters that is not local.
  """
  if not set(prefix) & set("*?[]\\"):
    yield prefix
    return
  if "://" in prefix:
    raise UserError(f"{prefix}: has one of * ? [ ] \\, which TensorFlow takes "
                    "for a pattern; expected a path without them, or a local "
                    "copy")
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
