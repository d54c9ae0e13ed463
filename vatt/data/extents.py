"""Where the records of a file lie, also of one that is damaged.

`record_files` trusts what a build wrote, and ends at the first header that is
broken. Here the next one that is whole is looked for, by its CRC.
"""
import array
import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vatt.data import record_files
from vatt.data.record_files import COMPRESSED, FOOTER, HEADER

CHUNK = 1 << 20  # bytes of a file to look for a header in, at once
NO_HEADER = "its header is damaged"


class Layout(NamedTuple):
  """Where the records of a file lie. Each byte of it is of one of them.

  Attributes:
    starts: int64 [N], the bytes where their headers are.
    size: of the file.
    reasons: by the number of a record, why it cannot be read.
    problem: what is wrong with all of the file, or "".
  """
  starts: np.ndarray
  size: int
  reasons: dict[int, str]
  problem: str = ""

  @property
  def sizes(self) -> np.ndarray:
    """The bytes of each record, int64 [N]."""
    return np.diff(self.starts, append=self.size)

  def place(self, number: int) -> tuple[int, int]:
    """The bytes [start, end) of a record."""
    edges = [*self.starts[number:number + 2].tolist(), self.size]
    return edges[0], edges[1]


NOTHING = Layout(np.zeros([0], np.int64), 0, {})


def lay_out(path: str, count: int | None = None,
            sizes: np.ndarray | None = None) -> Layout:
  """Finds the records of a file by their headers, and what is wrong with those.

  Args:
    path: of the file.
    count: of its records, as stated elsewhere.
    sizes: of its records, as stated elsewhere; by default as its sidecar says.

  Raises:
    One of files.REFUSED.
  """
  if sizes is None:
    sizes = _stated_beside(path)
  ends = None if sizes is None else np.cumsum([0, *sizes], dtype=np.int64)
  with tf.io.gfile.GFile(path, "rb") as file:
    size = file.size()
    if ends is not None and ends[-1] == size:
      layout = Layout(ends[:-1], size, {})
      for number in range(len(layout.starts)):
        start, end = layout.place(number)
        if _length(_read(file, start, HEADER)) != end - start - HEADER - FOOTER:
          layout.reasons[number] = NO_HEADER
      return layout
    header = _read(file, 0, HEADER)
    if _length(header) is None and header[:2] in COMPRESSED:
      return NOTHING._replace(
          problem="compressed TFRecords, expected uncompressed ones")
    starts, reasons = array.array("q"), {}
    for start, reason in _walk(file, size):
      if reason:
        reasons[len(starts)] = reason
      starts.append(start)
  layout = Layout(np.array(starts, np.int64), size, reasons)
  whole = len(starts) - len(reasons)
  if ends is not None:
    return layout._replace(problem=(
        f"{size} bytes with {whole} whole records, expected {ends[-1]} bytes "
        f"with {len(sizes)}: it was cut or changed"))
  if count not in (None, len(starts)):
    return layout._replace(problem=(
        f"{whole} whole records, expected {count} as in dataset_info.json: it "
        "was cut or changed"))
  return layout


def _stated_beside(path):
  """The sizes of the records of a file as its build wrote them, or None."""
  sidecar = record_files.read_sidecar(path + record_files.INDEX_SUFFIX)
  if not sidecar or sidecar.get("scanned"):  # perhaps after it was damaged
    return None
  return np.diff([*sidecar["offsets"], sidecar["bytes"]])


def _walk(file, size):
  """Follows the headers; yields where a record starts, and why it cannot be
  read or ""."""
  last, start = None, 0  # the record before, which is not yielded yet
  while start < size:
    length = _length(_read(file, start, HEADER))
    end = start + HEADER + (length or 0) + FOOTER
    if length is not None and end <= size:
      if last is not None:
        yield last, ""
      last, start = start, end
      continue
    # What is lost may be of the record before, which ends too early then.
    first = start + 1 if last is None else last + HEADER
    found = _next_header(file, first, size)
    if last is not None:
      yield last, "bytes of it are missing" if found < start else ""
    if found > start:
      yield start, NO_HEADER if length is None else (
          f"it is cut, {end - size} bytes of it are missing")
    last, start = None, found
  if last is not None:
    yield last, ""


def _next_header(file, start, size):
  """The first byte from `start` on where a header lies whose record is within
  the file; its size if there is none."""
  while start < size:
    data = np.frombuffer(_read(file, start, CHUNK + HEADER - 1), np.uint8)
    if len(data) < HEADER:
      return size
    rows = np.lib.stride_tricks.sliding_window_view(data, HEADER)  # [N, 12]
    # Hardly any bytes are a length that can be: the CRC is of few.
    likely = np.flatnonzero(~rows[:, 5:8].any(1) & rows[:, 8:].any(1))
    stored = np.ascontiguousarray(rows[likely, 8:]).view("<u4")[:, 0]
    for i in likely[record_files.masked_crc(rows[likely, :8]) == stored]:
      length = int.from_bytes(rows[i, :8].tobytes(), "little")
      if start + int(i) + HEADER + length + FOOTER <= size:
        return start + int(i)
    start += CHUNK
  return size


def _length(header):
  """The length that a header says; None if it is damaged."""
  if len(header) < HEADER:
    return None
  crc = 0xFFFFFFFF
  for byte in header[:8]:
    crc = _table()[(crc ^ byte) & 0xFF] ^ crc >> 8
  crc ^= 0xFFFFFFFF
  masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
  if masked != int.from_bytes(header[8:], "little"):
    return None
  return int.from_bytes(header[:8], "little")


@functools.cache
def _table():
  """CRC-32C of each byte."""
  table = list(range(256))
  for _ in range(8):
    table = [crc >> 1 ^ (0x82F63B78 if crc & 1 else 0) for crc in table]
  return table


def _read(file, start, count):
  file.seek(start)
  return file.read(count)
