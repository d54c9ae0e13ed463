"""One file that says where all records of a built split lie.

`<base>-<split>.index.npz` lies beside the shards, and a run reads it in place
of a sidecar a shard. It is numpy's format, with a CRC of each array:

  counts    uint32 [F], the number of records of each shard
  sizes     uint32 [N], or uint64 if one is larger: the bytes of each record,
            its header and footer with it, shard after shard

Records lie one behind the other, so all else follows: where each starts, how
many bytes a shard has, and the names of the shards from how many there are.
"""
import io
import os
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vatt import files as files_lib
from vatt.errors import UserError, one_line

SUFFIX = ".index.npz"


class SplitIndex(NamedTuple):
  """Where the records of a split lie, as at the head of this file.

  Attributes:
    counts: int64 [F].
    sizes: uint32 or int64 [N].
  """
  counts: np.ndarray
  sizes: np.ndarray


def file_name(base: str, split: str) -> str:
  """The name of the file, in the folder of the dataset."""
  return f"{base}-{split}{SUFFIX}"


def shard_name(base: str, split: str, number: int, count: int) -> str:
  """The name of a shard, one of as many as `count`."""
  return f"{base}-{split}.tfrecord-{number:05d}-of-{count:05d}"


def pack(sidecars: Iterable[Mapping[str, Any]]) -> bytes:
  """The content of the file.

  Args:
    sidecars: of each shard, in order, its "bytes" and the "offsets" of its
      records, as its sidecar says them. One is held at a time.
  """
  counts, sizes = [], [np.zeros([0], np.uint32)]
  for sidecar in sidecars:
    mine = np.diff([*sidecar["offsets"], sidecar["bytes"]])
    large = mine.size and mine.max() > np.iinfo(np.uint32).max
    counts.append(len(mine))
    sizes.append(mine.astype(np.uint64 if large else np.uint32))
  buffer = io.BytesIO()
  np.savez(buffer, counts=np.array(counts, np.uint32),
           sizes=np.concatenate(sizes))
  return buffer.getvalue()


def write(folder: str, base: str, split: str,
          sidecars: Iterable[Mapping[str, Any]]) -> None:
  """Writes the file of a split.

  Args:
    folder: of the dataset.
    base: what the names of its shards begin with.
    split: name of the built split.
    sidecars: as of `pack`.

  Raises:
    One of files.REFUSED.
  """
  files_lib.write_whole(
      os.path.join(folder, file_name(base, split)), pack(sidecars))


def read(path: str) -> SplitIndex:
  """Reads the file of a split.

  Raises:
    UserError: it cannot be read, or is not what was written.
  """
  try:
    # In one request, where a GFile makes one for each 512 KiB.
    content = io.BytesIO(tf.io.read_file(path).numpy())
    with np.load(content, allow_pickle=False) as arrays:
      counts, sizes = arrays["counts"], arrays["sizes"]
    fits = counts.ndim == sizes.ndim == 1 and counts.sum() == len(sizes) and (
        counts.dtype == np.uint32 and sizes.dtype in (np.uint32, np.uint64))
  except tf.errors.OpError as error:
    raise UserError(f"{path}: cannot be read ({one_line(error)}), expected "
                    "what the build wrote") from None
  except (OSError, EOFError, ValueError, LookupError, AttributeError,
          NotImplementedError, RuntimeError, zipfile.BadZipFile):
    fits = False
  if not fits:
    raise UserError(f"{path}: damaged, expected what the build wrote; "
                    "scripts/prepare_dataset.py --repair writes it anew")
  # TensorFlow counts in int64.
  return SplitIndex(counts.astype(np.int64), sizes if (
      sizes.dtype == np.uint32) else sizes.astype(np.int64))
