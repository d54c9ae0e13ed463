"""Batches of any step: which record is in which row, and how it is processed.

The stream position of a sample is p = step·B + row. In a mixture the rows of a
batch are dealt out to the data sets in a fixed pattern; the rank of a row among
those of its data set d gives the position in that one's own stream of epochs,
p_d = step·B_d + rank. So a batch is a function of (seed, step) alone, wherever
a run starts and however many hosts share the batch.
"""
import contextlib
import os
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from vatt import seeds
from vatt.data import record_index, text, video, windows
from vatt.data.sources import Source, failed_assertion
from vatt.errors import UserError
from vatt.host import num_cores

ENDLESS = np.iinfo(np.int64).max
# Of a split: a batch numbers them by int32, and train.py from 1 on.
MAX_RECORDS = np.iinfo(np.int32).max - 1


@tf.autograph.experimental.do_not_convert  # nothing to convert, and slow
def train_dataset(data: ConfigDict, sources: Sequence[Source], batch_size: int,
                  seed: int, start_step: int, input_id: int = 0,
                  num_inputs: int = 1, rows_per_batch: int | None = None
                  ) -> tf.data.Dataset:
  """Makes the endless dataset of training batches, from any step on.

  Args:
    data: config.data.
    sources: the split of each of data.datasets.
    batch_size: B, of the global batch.
    seed: of the run.
    start_step: the first step to make batches of.
    input_id: h, this host's number among those that read.
    num_inputs: H; host h has rows [h·B/H, (h+1)·B/H) of each global batch.
    rows_per_batch: rows of a batch of this dataset; default all of the host's.

  Returns:
    tf.data.Dataset of dicts: video uint8 [R, T, H, W, 3], audio int16 [R, S,
    1], text int32 [R, K, W], word_mask bool [R, K, W], caption_mask bool [R,
    K], video_mask, audio_mask and corrupt bool [R], index int64 [R] (the stream
    position), record int32 [R] (its number in the data set of the row), label
    int32 [R] (for tasks where a clip has one: the record's first, or -1); with
    data.classes, labels bool [R, classes] (all of them, of which any is right);
    and, with data.enlarge_on_device, video_part int32 [R, 2], which
    `video.enlarge` needs.

  Raises:
    UserError: the batch cannot be divided as asked, the config and the data do
      not fit, or a split has more records than an int32 can number.
  """
  dataset_of_row, rank_of_row = mixture(data, batch_size)
  rows = _host_rows(batch_size, input_id, num_inputs)
  table = _table(data, sources)
  streams = []
  for d, source in enumerate(sources):
    if len(source.index) > MAX_RECORDS:
      raise UserError(f"{source.directory}: split '{source.split}' has "
                      f"{len(source.index):,} records, expected at most "
                      f"{MAX_RECORDS:,}, which an int32 can number")
    mine = rows[dataset_of_row[rows] == d]
    streams.append(_train_stream(
        data, source, table, _stream_seed(seed, source), start_step, batch_size,
        np.sum(dataset_of_row == d), mine, rank_of_row[mine]))
  dataset = streams[0]
  if len(streams) > 1:
    pattern = tf.data.Dataset.from_tensor_slices(dataset_of_row[rows]).repeat()
    dataset = tf.data.Dataset.choose_from_datasets(streams, pattern)
  # Said, as several workers would else ask for each batch whether it is there,
  # and lose its size.
  return _batches(dataset, len(rows), rows_per_batch).apply(
      tf.data.experimental.assert_cardinality(
          tf.data.experimental.INFINITE_CARDINALITY))


@tf.autograph.experimental.do_not_convert
def eval_dataset(data: ConfigDict, source: Source, batch_size: int,
                 num_windows: int = 1, num_crops: int = 1, input_id: int = 0,
                 num_inputs: int = 1, rows_per_batch: int | None = None
                 ) -> tf.data.Dataset:
  """Makes the dataset of evaluation batches: every record, every view, once.

  The windows of a record are evenly spread over the clip (a single one is in
  the middle); the crops of a window, which is decoded once, are those of
  `video.square_boxes`. The views of a record are next to each other, all crops
  of a window before the next window.

  Args:
    data: config.data.
    source: the split.
    batch_size: B, of the global batch.
    num_windows: windows of a record.
    num_crops: crops of a window.
    input_id: h, this host's number among those that read.
    num_inputs: H; host h has rows [h·B/H, (h+1)·B/H) of each global batch.
    rows_per_batch: rows of a batch of this dataset; default all of the host's.

  Returns:
    tf.data.Dataset of the dicts of `train_dataset`, but index is the number of
    the record, in place of `record`, and valid bool [R] is false in the rows
    that fill the last global batch up.
  """
  rows = _host_rows(batch_size, input_id, num_inputs)
  table = _table(data, [source])
  total = len(source.index) * num_windows * num_crops
  steps = -(-total // batch_size)

  def load(raw, record, number, mine):
    share = (tf.cast(number, tf.float64) / (num_windows - 1)
             if num_windows > 1 else 0.5)
    return windows.read_window(
        data, source, raw, lambda steps: tf.floor(steps * share + 1e-6),
        num_crops=num_crops)

  def views(record, number, mine, window):
    row = windows.make_row(data, table, window) | {
        "index": record, "valid": tf.constant(True)}
    # All but the video is the same in all crops: [...] -> [n, ...]
    count = tf.math.count_nonzero(mine, dtype=tf.int32)
    return {key: tf.repeat(value[None], count, 0)
            for key, value in row.items()} | {
                "video": tf.boolean_mask(window["video"], mine)}

  padding = windows.make_row(data, table, windows.empty_window(data, False)) | {
      "index": tf.constant(-1, tf.int64), "valid": tf.constant(False)}
  numbers = (np.arange(steps)[:, None] * batch_size + rows).reshape(-1)
  numbers = numbers[numbers < total]  # The host's last rows are the padding.
  # The windows that they are crops of, and which of its crops are this host's.
  chosen = np.unique(numbers // num_crops)
  mine = np.isin(
      chosen[:, None] * num_crops + np.arange(num_crops), numbers)
  tensors = record_index.file_tensors(source.index)
  dataset = _windows(data, tensors, tf.data.Dataset.from_tensor_slices(
      (chosen // num_windows, chosen % num_windows, mine)),
                     _reader(data, source, tensors), load, num_crops)
  dataset = dataset.map(
      views, num_parallel_calls=num_cores(), deterministic=True)
  # `unbatch` would crash where a value is empty, such as text without captions.
  dataset = dataset.flat_map(tf.data.Dataset.from_tensor_slices).apply(
      tf.data.experimental.assert_cardinality(len(numbers)))
  padding = tf.data.Dataset.from_tensors(padding).repeat(
      steps * len(rows) - len(numbers))
  return _batches(dataset.concatenate(padding), len(rows), rows_per_batch)


def mixture(data: ConfigDict, batch_size: int
            ) -> tuple[np.ndarray, np.ndarray]:
  """Deals the rows of a global batch out to the data sets.

  Args:
    data: config.data.
    batch_size: B, of the global batch.

  Returns:
    int [B], the number of each row's data set, those of each spread evenly over
    the batch; and int [B], the row's rank among the rows of its data set.

  Raises:
    UserError: a data set's share of the batch is not a whole number.
  """
  shares = np.asarray(
      data.shares or [1] * len(data.datasets), np.float64)
  if (len(shares) != len(data.datasets) or not len(shares)
      or not np.all(shares > 0)):
    raise UserError(f"data.shares is {tuple(data.shares)}, expected a "
                    "positive number for each of data.datasets, or none, "
                    f"{tuple(data.datasets)}")
  if len(set(data.datasets)) != len(data.datasets):
    raise UserError(f"data.datasets is {tuple(data.datasets)}, expected "
                    "each of them once; data.shares weighs them")
  counts = batch_size * shares / shares.sum()
  if np.any(np.abs(counts - np.round(counts)) > 1e-6):
    raise UserError(
        f"batch_size is {batch_size} and data.shares is "
        f"{tuple(data.shares)}: {counts.tolist()} rows a batch, expected whole "
        "numbers")
  counts = np.round(counts).astype(np.int64)
  # Rows of a data set are at the centres of equal parts of the batch.
  centres = np.concatenate([(np.arange(n) + 0.5) / n for n in counts])
  owners = np.repeat(np.arange(len(counts)), counts)
  dataset_of_row = owners[np.argsort(centres, kind="stable")]
  rank_of_row = np.zeros(batch_size, np.int64)
  for d, n in enumerate(counts):
    rank_of_row[dataset_of_row == d] = np.arange(n)
  return dataset_of_row, rank_of_row


def _table(data, sources):
  """The lookup table word -> id; None where no captions are read."""
  return text.make_table(load_vocabulary(data, sources)) if (
      data.captions) else None


def load_vocabulary(data: ConfigDict, sources: Sequence[Source]) -> list[str]:
  """The words of config.data.vocabulary, or of the first data set's own."""
  return text.load_vocabulary(
      data.vocabulary or os.path.join(sources[0].directory, "vocabulary.txt"))


# -----------------------------------------------------------------------------
# Which record is where.
# -----------------------------------------------------------------------------
def _host_rows(batch_size, input_id, num_inputs):
  if batch_size % num_inputs:
    raise UserError(f"batch_size is {batch_size}, expected a multiple "
                    f"of the {num_inputs} hosts that read")
  rows = batch_size // num_inputs
  return np.arange(input_id * rows, (input_id + 1) * rows)


def _batches(dataset, host_rows, rows_per_batch):
  rows_per_batch = rows_per_batch or host_rows
  if host_rows % rows_per_batch:
    raise UserError(f"batch_size: a host has {host_rows} of the rows, "
                    "expected a multiple of the "
                    f"{rows_per_batch} of a replica")
  dataset = dataset.batch(rows_per_batch, drop_remainder=True).prefetch(2)
  options = tf.data.Options()
  options.deterministic = True
  # All sizes are given. The thread that looks for better ones is not wanted: it
  # holds up the end of a process for minutes.
  options.autotune.enabled = False
  options.experimental_distribute.auto_shard_policy = (
      tf.data.experimental.AutoShardPolicy.OFF)  # Hosts' rows are cut above.
  return dataset.with_options(options)


def _stream_seed(seed, source):
  return seeds.fold(seeds.root(seed), source.name)


def _train_stream(data, source, table, seed, start_step, batch_size, num_rows,
                  rows, ranks):
  """The rows of one data set in the batches of one host, one by one.

  Args:
    seed: int32 [2], of this data set's stream.
    num_rows: B_d, rows of this data set in a global batch.
    rows, ranks: int64 [R], those of them on this host: their rows in the global
      batch, and their ranks among the B_d.
  """
  num_records = len(source.index)
  first_epoch, first_record = divmod(start_step * int(num_rows), num_records)
  order_seed, window_seed, crop_seed, captions_seed, ties_seed = (
      seeds.fold(seed, site)
      for site in ("order", "window", "crop", "captions", "ties"))
  tensors = record_index.file_tensors(source.index)
  read = _reader(data, source, tensors)
  others = (record_index.epoch_order(num_records, captions_seed, 0)
            if data.shuffle_captions else None)

  def order(epoch):
    records = record_index.epoch_order(num_records, order_seed, epoch)
    return records[tf.where(epoch == first_epoch, first_record, 0):]

  def rows_of_step(step, records):
    # Drawn for all hosts, so that a row gets the same numbers on any of them.
    starts = tf.cast(seeds.uniform_rows(
        num_rows, [], seeds.fold(window_seed, step), first_row=0), tf.float64)
    crops = seeds.uniform_rows(
        num_rows, video.CROP_DRAW, seeds.fold(crop_seed, step), first_row=0)
    ties = seeds.bits_rows(
        num_rows, [2], seeds.fold(ties_seed, step), first_row=0)
    mine = (tf.gather(values, ranks)
            for values in (records, starts, crops, ties))
    return (*mine, step * batch_size + rows)

  def load(raw, record, start, crop, ties, position):
    window = windows.read_window(
        data, source, raw, lambda steps: tf.floor(start * (steps + 1.0)), crop)
    if others is not None:  # Another record's captions, on purpose.
      other = source.parse(read(tf.gather(others, record)))
      window |= {key: other[key] for key in windows.CAPTIONS}
    return window

  def make_row(record, start, crop, ties, position, window):
    row = windows.make_row(data, table, window, ties)
    row["caption_mask"] &= ~row["corrupt"]
    return row | {"index": position, "record": tf.cast(record, tf.int32)}

  # The order of the next epoch is drawn while this one is read.
  requests = (
      tf.data.Dataset.range(first_epoch, ENDLESS).map(order).prefetch(1)
      .flat_map(tf.data.Dataset.from_tensor_slices)
      .batch(num_rows, drop_remainder=True).enumerate(start_step)
      .map(rows_of_step).unbatch())
  return _windows(data, tensors, requests, read, load).map(
      make_row, num_parallel_calls=num_cores(), deterministic=True)


def _windows(data, tensors, requests, read, load, num_crops=1):
  """Reads records and decodes a window of each.

  Args:
    data: config.data.
    tensors: the index of the split.
    requests: Dataset of tuples that start with the number of a record.
    read: the number of a record, int64 [] -> the record, string [].
    load: a record and the parts of its request -> the dict of a window.
    num_crops: crops of a window.

  Returns:
    Dataset of tuples, a request's parts and the window's dict.
  """
  def check(i, *rest):
    """Ends the run if a label is no class; -1 is none, as in tfds."""
    label = rest[-1]["label"]
    wrong = tf.boolean_mask(label, (label < -1) | (label >= data.classes))
    path, offset, _ = tensors.place(i)
    fits = tf.debugging.Assert(tf.equal(tf.size(wrong), 0), [tf.strings.join([
        path, ": the record at byte ", tf.as_string(offset), " has label ",
        tf.strings.reduce_join(tf.as_string(wrong[:1])),
        f", expected 0 to {data.classes - 1}"])])
    with tf.control_dependencies([fits]):
      return tf.identity(i), *rest

  found = record_index.process_records(
      tensors, requests, load, windows.empty_window(data, True, num_crops),
      read)
  return found.map(check) if data.classes else found


def _reader(data, source, tensors):
  """A function: the number of a record, int64 [] -> the record, string []. With
  `data.cache` all of them are read here and kept."""
  if not data.cache:
    return lambda i: record_index.read_record(tensors, i)
  everything = record_index.read_all(source.index)
  if everything is not None:
    return lambda i: tf.gather(everything, i)
  records = record_index.process_records(
      tensors, len(source.index),
      lambda raw, i: (raw, True), (tf.constant(""), tf.constant(False)))
  raw, readable = (tf.concat(parts, 0) for parts in zip(
      *records.map(lambda i, record: record).batch(1024)))

  def read(i):
    with tf.control_dependencies([tf.debugging.Assert(
        readable[i], ["a record that cannot be read"])]):
      return tf.gather(raw, i)

  return read


@contextlib.contextmanager
def tell_in_a_line() -> Iterator[None]:
  """Raises what a dataset found wrong with its files as a UserError.

  That is a label which is no class, or a file that is gone. Put it around the
  loop over the batches.
  """
  try:
    yield
  except tf.errors.InvalidArgumentError as error:
    found = failed_assertion(error)
    if not found:
      raise
    raise UserError(found) from None


def record_ids(source: Source) -> list[str]:
  """Names every record: its id or, without one, its file and byte offset.

  Args:
    source: the split; all of it is read.

  Returns:
    The names, in the order of the records.
  """
  ids = record_index.process_records(
      record_index.file_tensors(source.index), len(source.index),
      lambda raw, i: source.parse(raw)["id"], tf.constant(""))
  return [id_.decode() or "{}@{}".format(*source.index.place(i))
          for i, id_ in ids.as_numpy_iterator()]
