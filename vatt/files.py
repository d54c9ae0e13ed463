"""Files that are there whole or not at all."""
import tensorflow as tf


def write_whole(path, data):
  """Writes bytes, or text as UTF-8."""
  data = data.encode() if isinstance(data, str) else data
  with tf.io.gfile.GFile(path + ".tmp", "wb") as file:
    file.write(data)
  put_in_place(path, len(data))


def put_in_place(path, size):
  """Gives `<path>.tmp` its name, if it has all its bytes."""
  found = tf.io.gfile.stat(path + ".tmp").length
  if found != size:
    raise OSError(f"{path}.tmp: {found} bytes of {size} were written")
  tf.io.gfile.rename(path + ".tmp", path, overwrite=True)
