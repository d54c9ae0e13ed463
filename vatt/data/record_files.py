"""Where the records of one TFRecord file lie: by what is said beside it, or by
following its headers.

A build writes `<file>.index.json` beside each shard. Of other files, which are
scanned once, the same is kept there, or in ~/.cache/vatt.
"""
import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vatt import files as files_lib
from vatt.errors import UserError, one_line

INDEX_SUFFIX = ".index.json"  # of the file that says where records are
HEADER = 12  # Bytes before a record: uint64 length, uint32 CRC of the length.
FOOTER = 4  # Bytes behind it: uint32 CRC of the record.
READ_ALL = 1 << 24  # bytes to read at once, where all of a file is read
HEADERS = 1024  # to read before they are checked
COMPRESSED = (b"\x1f\x8b", b"\x78\x9c", b"\x78\x01")  # how that begins


def other_size(path: str, size: int, expected: int, said_by: str) -> UserError:
  """The error of a file that has another size than is said of it."""
  return UserError(
      f"{path}: {size} bytes, expected {expected} as in {said_by}; it was cut "
      "or changed, build it again, or mend it by scripts/prepare_dataset.py "
      "--repair")


def sizes_in(path: str) -> np.ndarray:
  """The sizes of the records of a file, with header and footer, int64 [N].

  A file that comes with `<file>.index.json` must have the size given in that.
  Another is scanned once by its record headers, and the result is cached beside
  it, or in ~/.cache/vatt where that is not writable or something is there: what
  is no index may be a build's, which mends it.

  Args:
    path: of the file.

  Raises:
    UserError: it is missing, compressed or not the one that was indexed.
  """
  if not files_lib.is_listed(path):
    return _sizes_on_the_web(path)
  try:
    found = tf.io.gfile.stat(path)
  except tf.errors.OpError:
    why = files_lib.failure(path)
    raise UserError(f"{path}: no such file{why and f' ({why})'}, expected "
                    "TFRecords") from None
  if found.is_directory:  # as a pattern may match
    raise UserError(f"{path}: a folder, expected TFRecords")
  size = found.length
  cache, beside = cache_of(path), path + INDEX_SUFFIX
  for sidecar in (beside, cache):
    content = read_sidecar(sidecar)
    if content is None:
      continue
    if content["bytes"] == size:
      return np.diff([*content["offsets"], size])
    if not content.get("scanned"):
      raise other_size(path, size, content["bytes"], sidecar)
  sizes = np.diff([*scan(path), size])
  broken = tf.io.gfile.exists(beside) and read_sidecar(beside) is None
  _keep(sizes, [cache] if broken else [beside, cache])
  return sizes


def _keep(sizes, sidecars):
  """Writes the first of some sidecars that can be, for the next time."""
  *offsets, size = itertools.accumulate(sizes.tolist(), initial=0)
  content = sidecar_of({"bytes": size, "offsets": offsets, "scanned": True})
  for sidecar in sidecars:
    with contextlib.suppress(OSError, tf.errors.OpError):
      tf.io.gfile.makedirs(os.path.dirname(sidecar))
      files_lib.write_whole(sidecar, content)
      return


def _sizes_on_the_web(path):
  """The sizes of records in a file whose own size is not to be had: by its
  sidecar, whatever became of the file, or by reading all of it once."""
  cache = cache_of(path)
  for sidecar in (path + INDEX_SUFFIX, cache):
    if content := read_sidecar(sidecar):
      return np.diff([*content["offsets"], content["bytes"]])
  try:
    sizes = _whole_records(path)
  except files_lib.REFUSED + (tf.errors.OpError,) as error:
    raise UserError(f"{path}: cannot be read as TFRecords ({one_line(error)}), "
                    "expected a server that knows ranges of bytes") from None
  _keep(sizes, [cache])
  return sizes


def cache_of(path: str) -> str:
  """Where what is found in a file is kept that has no place beside it."""
  hidden = hashlib.sha256(path.encode()).hexdigest()[:32]
  return os.path.expanduser(f"~/.cache/vatt/{hidden}{INDEX_SUFFIX}")


def sidecar_of(content: dict[str, Any]) -> str:
  """What `read_sidecar` reads: JSON, with a digest of its own."""
  return json.dumps(content | {"digest": _digest(content)})


def _digest(content):
  return hashlib.sha256(
      json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_sidecar(path: str) -> dict[str, Any] | None:
  """Reads what says where the records of a file are.

  Args:
    path: of the sidecar.

  Returns:
    A dict with "bytes", the size of the file, and "offsets", increasing and
    within it; None if it is missing, or anything else than what was written.
    Only those of older versions have no "digest".
  """
  try:
    with tf.io.gfile.GFile(path, "rb") as f:
      content = json.loads(f.read())
    size, offsets = content["bytes"], content["offsets"]
    digest = content.get("digest")
  except (OSError, ValueError, LookupError, TypeError, AttributeError,
          RecursionError, tf.errors.OpError):
    return None
  if digest is not None and digest != _digest(
      {key: value for key, value in content.items() if key != "digest"}):
    return None
  # True is an int, too.
  if not isinstance(offsets, list) or {int} != {
      type(value) for value in (size, *offsets)}:
    return None
  edges = [*offsets, size]
  fits = edges[0] == 0 and all(a < b for a, b in zip(edges, edges[1:]))
  return content if fits else None


def scan(path: str) -> np.ndarray:
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
  offsets, _ = _follow(path)
  return np.asarray(offsets, np.int64)


def has_records_at(path: str, offsets: Sequence[int]) -> bool:
  """Whether a file has records at these offsets and no others, by their
  headers: what is in the records is not read."""
  try:
    return _follow(path) == (list(offsets), True)
  except (UserError, *files_lib.REFUSED):
    return False


def has_whole_records_at(path: str, offsets: Sequence[int]) -> bool:
  """Whether a file has records at these offsets and no others, and each is what
  was written, by its CRC."""
  try:
    sizes = _whole_records(path).tolist()
  except files_lib.REFUSED + (tf.errors.DataLossError,):
    return False
  *starts, end = itertools.accumulate(sizes, initial=0)
  return starts == list(offsets) and end == tf.io.gfile.stat(path).length


def _whole_records(path):
  """The sizes of the records of a file, int64 [N], all of which is read."""
  sizes = [np.zeros([0], np.int64)]
  records = tf.data.TFRecordDataset(path, buffer_size=READ_ALL)
  for lengths in records.map(tf.strings.length).batch(HEADERS):
    sizes.append(HEADER + lengths.numpy().astype(np.int64) + FOOTER)
  return np.concatenate(sizes)


def _follow(path):
  """Follows the headers from record to record.

  Returns:
    Offsets up to that of the first header that is broken, and whether none is
    and the last record ends where the file does.
  """
  offsets, headers = [], []
  with tf.io.gfile.GFile(path, "rb") as f:
    size, offset = f.size(), 0
    while offset < size:
      f.seek(offset)
      header = f.read(HEADER)
      offsets.append(offset)
      headers.append(header.ljust(HEADER, b"\0"))
      # The length of a record may begin so, too.
      if offset == 0 and header[:2] in COMPRESSED and _broken(headers).size:
        raise UserError(f"{path}: compressed TFRecords, expected uncompressed "
                        "ones: records cannot be read by index in these")
      offset += HEADER + int.from_bytes(header[:8], "little") + FOOTER
      # Not all at the end: zeros are a header at each sixteenth byte.
      if len(headers) == HEADERS or offset >= size:
        broken = _broken(headers)
        if broken.size:
          return offsets[:len(offsets) - len(headers) + broken[0] + 1], False
        headers.clear()
  return offsets, offset == size


def _broken(headers):
  """The numbers of those headers whose CRC is not that of their length."""
  # [N] x bytes -> [N, HEADER]
  rows = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, HEADER)
  stored = np.ascontiguousarray(rows[:, 8:]).view("<u4")[:, 0]  # [N]
  return np.flatnonzero(masked_crc(rows[:, :8]) != stored)


def masked_crc(rows: np.ndarray) -> np.ndarray:
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
