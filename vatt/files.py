"""Files that are written whole or not at all."""
import tensorflow as tf


def write_whole(path: str, data: bytes | str) -> None:
  """Writes bytes, or text as UTF-8."""
  data = data.encode() if isinstance(data, str) else data
  with tf.io.gfile.GFile(path + ".tmp", "wb") as file:
    file.write(data)
  put_in_place(path, len(data))


def put_in_place(path: str, size: int) -> None:
  """Renames `<path>.tmp` to `path`, if it has all its bytes; else OSError."""
  found = tf.io.gfile.stat(path + ".tmp").length
  if found != size:
    raise OSError(f"{path}.tmp: {found} bytes of {size} were written")
  tf.io.gfile.rename(path + ".tmp", path, overwrite=True)
