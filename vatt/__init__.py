"""VATT: Transformers for video, audio and text, trained on raw signals."""
import os

# What TensorFlow says from C++ at each start, of processors and GPU libraries
# that register twice, is no news; its errors come as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# TensorFlow turns these kernels on by itself on some processors only. They are
# twice as fast in attention on others too, with AVX2.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Of gs://, TensorFlow reads 64 MiB at once, wherever a record is. It looks here
# when it is loaded; the first one, in MiB, is its users' own and comes first.
if "GCS_READ_CACHE_BLOCK_SIZE_MB" not in os.environ:
  os.environ.setdefault("GCS_READAHEAD_BUFFER_SIZE_BYTES", str(1 << 16))


def load(path, vocabulary=""):
  """A trained model in use, see `inference.Model`: files in, vectors out.

  Args:
    path: of a workdir of training, of a converted or an exported model.
    vocabulary: file with the model's words, a word a line, where the folder has
      none.
  """
  from vatt import inference  # and TensorFlow with it, which takes seconds

  return inference.Model(path, vocabulary)
