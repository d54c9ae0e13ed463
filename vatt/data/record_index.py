"""Where every record of a data set lies, the order of an epoch, reading one.

Records are numbered 0 … N-1 over the shards of a data set. Any of them is read
by its number, so any step of a run can be produced without those before it.
"""
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import re

import numpy as np
import tensorflow as tf

from vatt import seeds
from vatt.errors import UserError

HEADER = 12  # Bytes before a record: uint64 length, uint32 CRC of the length.
FOOTER = 4  # Bytes behind it: uint32 CRC of the record.
THREADS = 16  # Remote file systems answer in parallel.


@dataclasses.dataclass(frozen=True)
class RecordIndex:
  """Files of a data set and where its records start.

  files: list of paths. file_ids: int32 [N], the file of each record.
  offsets: int64 [N], the byte in that file where its header starts.
  """
  files: list
  file_ids: np.ndarray
  offsets: np.ndarray

  def __len__(self):
    return len(self.offsets)

  def place(self, i):
    """The file of record i, and the byte in it."""
    return self.files[self.file_ids[i]], int(self.offsets[i])


def load(files):
  """Loads or makes the index of a list of TFRecord files.

  A file that comes with `<file>.index.json` must have the size written there.
  Another is scanned once by its record headers, and the result is cached beside
  it, or in ~/.cache/vatt where that is not writable.

  Args:
    files: list of paths, in the order in which their records are numbered.

  Returns:
    RecordIndex.

  Raises:
    UserError: a file is missing, compressed or not the one that was indexed.
  """
  with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
    offsets = list(pool.map(_offsets_of_file, files))
  file_ids = np.repeat(np.arange(len(files), dtype=np.int32),
                       [len(o) for o in offsets])
  offsets = np.concatenate(offsets) if offsets else np.zeros([0], np.int64)
  return RecordIndex(list(files), file_ids, offsets)


def _offsets_of_file(path):
  try:
    size = tf.io.gfile.stat(path).length
  except tf.errors.OpError:
    raise UserError(f"{path}: no such file, expected TFRecords") from None
  hidden = hashlib.sha256(path.encode()).hexdigest()[:32]
  cache = os.path.expanduser(f"~/.cache/vatt/{hidden}.index.json")
  beside = path + ".index.json"
  for sidecar in (beside, cache):
    content = _read_sidecar(sidecar)
    if content is None:
      continue
    if content["bytes"] == size:
      return np.asarray(content["offsets"], np.int64)
    if not content.get("scanned"):
      raise UserError(f"{path}: {size} bytes, expected {content['bytes']} as "
                      f"in {sidecar}; it was cut or changed, build it again")
  offsets = scan(path)
  content = json.dumps(
      {"bytes": size, "offsets": offsets.tolist(), "scanned": True})
  for sidecar in (beside, cache):
    try:
      _write_whole(sidecar, content)
      break
    except (OSError, tf.errors.OpError):
      continue  # Not writable: the next place, or scan again next time.
  return offsets


def _read_sidecar(path):
  """The content of a sidecar, None where there is none or a broken one."""
  try:
    with tf.io.gfile.GFile(path) as f:
      content = json.loads(f.read())
    return content if {"bytes", "offsets"} <= content.keys() else None
  except (OSError, ValueError, AttributeError, tf.errors.OpError):
    return None


def _write_whole(path, content):
  tf.io.gfile.makedirs(os.path.dirname(path))
  temporary = f"{path}.{os.getpid()}.tmp"
  with tf.io.gfile.GFile(temporary, "w") as f:
    f.write(content)
  tf.io.gfile.rename(temporary, path, overwrite=True)


def scan(path):
  """Finds the records of a TFRecord file by their headers.

  From a header that is broken or points beyond the end no further record can
  be found: what is left of the file counts as one (unreadable) record.

  Args:
    path: of a TFRecord file.

  Returns:
    int64 [N], the offsets of the headers.

  Raises:
    UserError: the file is compressed.
  """
  offsets, headers = [], []
  with tf.io.gfile.GFile(path, "rb") as f:
    size, offset = f.size(), 0
    while offset < size:
      f.seek(offset)
      header = f.read(HEADER)
      if offset == 0 and header[:2] in (b"\x1f\x8b", b"\x78\x9c", b"\x78\x01"):
        raise UserError(f"{path}: compressed TFRecords, expected uncompressed "
                        "ones: records cannot be read by index in these")
      offsets.append(offset)
      headers.append(header.ljust(HEADER, b"\0"))
      offset += HEADER + int.from_bytes(header[:8], "little") + FOOTER
  offsets = np.asarray(offsets, np.int64)
  headers = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, HEADER)
  stored = np.ascontiguousarray(headers[:, 8:]).view("<u4")[:, 0]
  broken = np.flatnonzero(masked_crc(headers[:, :8]) != stored)
  return offsets[:broken[0] + 1] if broken.size else offsets


def masked_crc(rows):
  """The masked CRC-32C of TFRecord headers, uint8 [N, L] -> uint32 [N]."""
  table = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78),
                     table >> 1)
  crc = np.full(len(rows), 0xFFFFFFFF, np.uint32)
  for column in rows.T:
    crc = table[(crc ^ column) & 0xFF] ^ (crc >> 8)
  crc = ~crc
  return ((crc >> 15) | (crc << 17)) + np.uint32(0xA282EAD8)


def epoch_order(num_records, seed, epoch):
  """The order in which an epoch visits the records, a uniform permutation.

  Args:
    num_records: N, an int.
    seed: int32 [2], of the data set's stream.
    epoch: int or int64 [], from 0.

  Returns:
    int64 [N].
  """
  # 64-bit keys: no ties, so that every permutation is equally likely.
  keys = tf.random.stateless_uniform(
      [num_records], seeds.fold(seed, epoch), None, None, tf.int64)
  return tf.cast(tf.argsort(keys, stable=True), tf.int64)


def file_tensors(index):
  """The index as tensors, for `read_record` within a data set's function."""
  # Glob characters in a path are escaped for `matching_files`.
  patterns = [re.sub(r"([*?\[\\])", r"\\\1", path) for path in index.files]
  return (tf.constant(index.files, tf.string), tf.constant(patterns, tf.string),
          tf.constant(index.file_ids), tf.constant(index.offsets))


def read_record(tensors, i, process, sentinel):
  """Reads and processes record i; whatever fails costs this record only.

  Args:
    tensors: of `file_tensors`.
    i: int64 [], number of the record.
    process: raw record, string [] -> structure of tensors.
    sentinel: such a structure, the result for a record that cannot be read or
      processed.

  Returns:
    The structure.

  Raises:
    tf.errors.InvalidArgumentError: the file is gone (a missing file would make
      `ignore_errors` wait for ever).
  """
  files, patterns, file_ids, offsets = tensors
  file_id = tf.gather(file_ids, i)
  path = tf.gather(files, file_id)
  there = tf.debugging.Assert(
      tf.size(tf.io.matching_files(tf.gather(patterns, file_id))) > 0,
      ["file of records is gone:", path])
  with tf.control_dependencies([there]):
    record = tf.raw_ops.TFRecordDatasetV2(
        filenames=path[None], compression_type="",
        buffer_size=tf.constant(1 << 16, tf.int64),
        byte_offsets=tf.gather(offsets, i)[None])
  record = tf.data.experimental.from_variant(
      record, tf.TensorSpec([], tf.string))
  return guarded(record.take(1), process, sentinel)


def guarded(record, process, sentinel):
  """`process` of the one raw record of a dataset, `sentinel` if that fails."""
  return (record.map(process).ignore_errors()
          .concatenate(tf.data.Dataset.from_tensors(sentinel))
          .take(1).get_single_element())
