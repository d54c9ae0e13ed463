"""Where every record of a data set lies, the order of an epoch, reading one.

Records are numbered 0 … N-1 over the shards of a data set. Any of them is read
by its number, so any step of a run can be produced without those before it.
"""
import concurrent.futures
import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vatt import files as files_lib
from vatt import seeds
from vatt.data import record_files
from vatt.data.record_files import FOOTER, HEADER, READ_ALL
from vatt.errors import UserError, one_line
from vatt.host import num_cores

LARGEST_READ = 1 << 26  # bytes of a record to read at once
THREADS = 16  # Remote file systems answer in parallel.


@dataclasses.dataclass(frozen=True)
class RecordIndex:
  """Files of a data set and where their records lie: 8 bytes a record, as long
  as files are smaller than 4 GiB.

  Attributes:
    files: their paths.
    edges: int64 [F + 1]; the records of file f are edges[f] ... edges[f+1] - 1.
    offsets: uint32 or int64 [N], the byte in its file where the header of each
      record starts.
    sizes: uint32 or int64 [N], its bytes, with header and footer.
  """
  files: list[str]
  edges: np.ndarray
  offsets: np.ndarray
  sizes: np.ndarray

  def __len__(self) -> int:
    return len(self.offsets)

  @property
  def file_ids(self) -> np.ndarray:
    """The file of each record, int32 [N]."""
    return np.repeat(np.arange(len(self.files), dtype=np.int32),
                     np.diff(self.edges))

  def place(self, i: int) -> tuple[str, int]:
    """The file of record i, and its byte offset in that."""
    file = np.searchsorted(self.edges, i, side="right") - 1
    return self.files[file], int(self.offsets[i])

  def take(self, numbers: Sequence[int] | np.ndarray) -> "RecordIndex":
    """The index of some of the records, by their numbers, which increase."""
    numbers = np.asarray(numbers, np.int64)
    return RecordIndex(self.files, np.searchsorted(numbers, self.edges),
                       self.offsets[numbers], self.sizes[numbers])

  def fingerprint(self) -> str:
    """SHA-256 of the names of the files, wherever they lie, and of where their
    records start."""
    digest = hashlib.sha256()
    for path in self.files:
      digest.update(f"{os.path.basename(path)}\n".encode())
    digest.update(self.edges.tobytes())
    digest.update(self.offsets.tobytes())
    return digest.hexdigest()


class Tensors(NamedTuple):
  """A RecordIndex as tensors.

  Attributes:
    files: string [F].
    patterns: string [F], each of them as a glob pattern.
    edges, offsets, sizes: as of RecordIndex.
  """
  files: tf.Tensor
  patterns: tf.Tensor
  edges: tf.Tensor
  offsets: tf.Tensor
  sizes: tf.Tensor

  def file_of(self, i: tf.Tensor) -> tf.Tensor:
    """The number of the file of record i, int64 [] -> int32 []."""
    i = tf.cast(i, tf.int64)
    return tf.searchsorted(self.edges, i[None], side="right")[0] - 1

  def place(self, i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The path of the file of record i, string []; its offset in that, and its
    size, int64 []."""
    return (tf.gather(self.files, self.file_of(i)), *(
        tf.cast(tf.gather(values, i), tf.int64)
        for values in (self.offsets, self.sizes)))


def from_sizes(files: Sequence[str], counts: Sequence[int] | np.ndarray,
               sizes: np.ndarray) -> RecordIndex:
  """The index of files whose records lie one behind the other.

  Args:
    files: paths, in the order in which their records are numbered.
    counts: [F], the number of records of each.
    sizes: integers [N], the bytes of each record, with header and footer.
  """
  edges = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
  ends = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
  offsets = ends[:-1] - np.repeat(ends[edges[:-1]], counts)
  return RecordIndex(list(files), edges, _narrow(offsets), _narrow(sizes))


def _narrow(values):
  """Integers from 0 as uint32 if they can be, or else int64."""
  small = not len(values) or values.max() <= np.iinfo(np.uint32).max
  return values.astype(np.uint32 if small else np.int64)


def join(indices: Sequence[RecordIndex]) -> RecordIndex:
  """The records of several indices, one after the other."""
  if len(indices) == 1:
    return indices[0]
  return from_sizes(
      [file for index in indices for file in index.files],
      np.concatenate([np.diff(index.edges) for index in indices]),
      np.concatenate([index.sizes for index in indices]))


# A split that is found: its index, the parser of `sources.Source`, the names of
# its classes, and the folder that it is in.
Opened = tuple[RecordIndex, Callable[[tf.Tensor], dict[str, tf.Tensor]],
               tuple[str, ...], str]


def load(files: Sequence[str]) -> RecordIndex:
  """Loads or makes the index of a list of TFRecord files.

  Args:
    files: paths, in the order in which their records are numbered.

  Raises:
    UserError: as of `record_files.sizes_in`, of one of them.
  """
  with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
    sizes = list(pool.map(record_files.sizes_in, files))
  return from_sizes(files, [len(mine) for mine in sizes], np.concatenate(
      [np.zeros([0], np.int64), *sizes]))


def check_sizes(index: RecordIndex, said_by: str) -> None:
  """Raises UserError if a local file is not as large as its records.

  An object of a store is there as it was written or not at all, and to ask for
  each takes a while.

  Args:
    index: of whole files.
    said_by: where the sizes come from.
  """
  ends = np.concatenate([[0], np.cumsum(index.sizes, dtype=np.int64)])
  for path, expected in zip(index.files, np.diff(ends[index.edges])):
    if "://" in path:
      continue
    try:
      size = os.stat(path).st_size
    except OSError as error:
      raise UserError(f"{path}: cannot be read ({one_line(error)}), expected "
                      "TFRecords") from None
    if size != expected:
      raise record_files.other_size(path, size, expected, said_by)


def epoch_order(num_records: int, seed: tf.Tensor, epoch: int | tf.Tensor
                ) -> tf.Tensor:
  """The order in which an epoch visits the records, a uniform permutation.

  Args:
    num_records: N.
    seed: int32 [2], of the data set's stream.
    epoch: counted from 0; a tensor is int64 [].

  Returns:
    int64 [N].
  """
  # 64-bit keys: no ties, so that every permutation is equally likely.
  keys = tf.random.stateless_uniform(
      [num_records], seeds.fold(seed, epoch), None, None, tf.int64)
  return tf.cast(tf.argsort(keys, stable=True), tf.int64)


def file_tensors(index: RecordIndex) -> Tensors:
  """The index as tensors, for functions that a tf.data.Dataset maps."""
  # Glob characters in a path are escaped for `matching_files`. What is on the
  # web cannot be looked for: "/" is there.
  patterns = [re.sub(r"([*?\[\\])", r"\\\1", path)
              if files_lib.is_listed(path) else "/" for path in index.files]
  return Tensors(
      tf.constant(index.files, tf.string), tf.constant(patterns, tf.string),
      tf.constant(index.edges, tf.int64), tf.constant(index.offsets),
      tf.constant(index.sizes))


def read_record(tensors: Tensors, i: tf.Tensor) -> tf.Tensor:
  """Reads a record.

  Args:
    tensors: the index, from `file_tensors`.
    i: int64 [], the number of the record.

  Returns:
    string [].

  Raises:
    tf.errors.OpError: its file is gone, or it is not what was written.
  """
  path, offset, size = tensors.place(i)
  # Where all of some files are on s3:// (on TPUs, gs://), TensorFlow reads 127
  # MiB at once. So there is one more file, which is not, and is never opened.
  record = tf.raw_ops.TFRecordDatasetV2(
      filenames=tf.stack([path, ""]), compression_type="",
      buffer_size=tf.minimum(size, LARGEST_READ),
      byte_offsets=tf.stack([offset, 0]))
  record = tf.data.experimental.from_variant(
      record, tf.TensorSpec([], tf.string))
  return record.take(1).get_single_element()


def read_one(index: RecordIndex, i: int) -> tf.Tensor:
  """Reads record i, string [], with no copy of where all others lie.

  Raises:
    tf.errors.OpError: as `read_record`.
  """
  path, _ = index.place(i)
  alone = RecordIndex([path], np.array([0, 1]), index.offsets[i:i + 1],
                      index.sizes[i:i + 1])
  return read_record(file_tensors(alone), tf.constant(0, tf.int64))


def read_all(index: RecordIndex) -> tf.Tensor | None:
  """Reads all records, file by file, which is much faster than one by one.

  Returns:
    string [N]; None if the index has not all records of its files, or one of
    them cannot be read.
  """
  parts = []
  for path, *edges in zip(index.files, index.edges, index.edges[1:]):
    offsets, offset = index.offsets[slice(*edges)], 0
    try:
      records = tf.data.TFRecordDataset(path, buffer_size=READ_ALL)
      for raw in records.batch(1024):
        sizes = tf.strings.length(raw).numpy() + HEADER + FOOTER
        first = offset + np.cumsum(sizes) - sizes
        if not np.array_equal(first, offsets[:len(first)]):
          return None
        parts.append(raw)
        offsets, offset = offsets[len(first):], int(first[-1] + sizes[-1])
    except tf.errors.OpError:
      return None
    if len(offsets):
      return None
  return tf.concat(parts, 0) if parts else None


@tf.autograph.experimental.do_not_convert  # nothing to convert, and slow
def process_records(tensors: Tensors,
                    requests: tf.data.Dataset | int,
                    process: Callable[..., Any], sentinel: Any,
                    read: Callable[[tf.Tensor], tf.Tensor] | None = None
                    ) -> tf.data.Dataset:
  """Reads records and processes them, in parallel and in order; a read error
  costs its record only, and so does a failure of `process`.

  Args:
    tensors: the index, from `file_tensors`.
    requests: Dataset of tuples that start with the number of a record, int64
      []; or an int N for one after the other of the numbers 0 … N - 1.
    process: raw record, string [], and the parts of a request -> structure.
    sentinel: such a structure, the result for a record that cannot be read or
      processed.
    read: number of a record, int64 [] -> string []; default `read_record`.

  Returns:
    Dataset of tuples, a request's parts and the structure. It raises an
    InvalidArgumentError where a file is gone.
  """
  read = read or (lambda i: read_record(tensors, i))
  if isinstance(requests, int):
    requests = tf.data.Dataset.range(requests).map(lambda i: (i,))

  # A failure can be caught only by leaving its element out. So each request is
  # made twice, to be processed and for the sentinel, and the first of the two
  # that comes is taken. (To catch it by a dataset for each record is simpler,
  # but `process` would be set up each time.)
  def attempt(number, request):
    real = number % 2 == 0
    result = tf.cond(real, lambda: process(read(request[0]), *request),
                     lambda: sentinel)
    return number // 2, real, request, result

  def compare(last, element):
    number, *rest = element
    return number, (number > last, *rest)

  def check(_, real, request, result):
    file = tensors.file_of(request[0])
    path, pattern = (tf.gather(names, file)
                     for names in (tensors.files, tensors.patterns))
    exists = tf.cond(real, lambda: True,
                     lambda: tf.size(tf.io.matching_files(pattern)) > 0)
    with tf.control_dependencies([tf.debugging.Assert(
        exists, ["file of records is gone:", path])]):
      return (*request, tf.nest.map_structure(tf.identity, result))

  return (requests
          .flat_map(lambda *request: tf.data.Dataset.from_tensors(
              request).repeat(2))
          .enumerate()
          .map(attempt, num_parallel_calls=2 * num_cores(), deterministic=True)
          .ignore_errors().scan(tf.constant(-1, tf.int64), compare)
          .filter(lambda is_first, *_: is_first).map(check))
