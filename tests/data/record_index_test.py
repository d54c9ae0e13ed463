import gzip
import os

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from vatt import seeds
from vatt.data import record_files, record_index
from vatt.errors import UserError


def read_all(index):
  """Every record by its number, within tf.data; b"corrupt" where it fails."""
  dataset = record_index.process_records(
      record_index.file_tensors(index), len(index), lambda raw, i: raw,
      tf.constant("corrupt"))
  numbers, raw = zip(*dataset.as_numpy_iterator())
  assert numbers == tuple(range(len(index)))
  return list(raw)


@pytest.fixture
def two_files(tmp_path, records):
  raw = [os.urandom(n) for n in (1, 700, 0, 70_000, 5)]
  files = [str(tmp_path / "a.tfrecord"), str(tmp_path / "b[1].tfrecord")]
  records.write_records(files[0], raw[:3])
  records.write_records(files[1], raw[3:])
  return files, raw


def test_reads_any_record_eagerly_and_in_tf_data(two_files):
  files, raw = two_files
  index = record_index.load(files)
  assert len(index) == 5 and index.file_ids.tolist() == [0, 0, 0, 1, 1]
  assert read_all(index) == raw
  tensors = record_index.file_tensors(index)
  for i in (4, 0, 3):
    assert record_index.read_record(
        tensors, tf.constant(i, tf.int64)).numpy() == raw[i]


def test_all_records_at_once_or_none(two_files):
  files, raw = two_files
  index = record_index.load(files)
  assert record_index.read_all(index).numpy().tolist() == raw

  # A part of them is for reading one by one.
  for numbers in ([0, 1, 2, 3], [0, 1, 3, 4], [1, 2, 3, 4], [3], []):
    assert record_index.read_all(index.take(numbers)) is None
  with open(files[0], "r+b") as file:  # within the second record
    file.seek(17 + 12 + 5)
    file.write(b"\0\0\0\0")
  assert record_index.read_all(index) is None
  os.remove(files[1])
  assert record_index.read_all(index) is None


def test_missing_and_compressed_files_are_refused(tmp_path, records):
  with pytest.raises(UserError, match="gone.tfrecord: no such file"):
    record_index.load([str(tmp_path / "gone.tfrecord")])
  path = tmp_path / "x.tfrecord"
  records.write_records(path, [b"a" * 100])
  (tmp_path / "x.gz").write_bytes(gzip.compress(path.read_bytes()))
  with pytest.raises(UserError, match="x.gz: compressed"):
    record_index.load([str(tmp_path / "x.gz")])
  with tf.io.TFRecordWriter(str(tmp_path / "x.zlib"), "ZLIB") as writer:
    writer.write(b"a" * 100)
  with pytest.raises(UserError, match="x.zlib: compressed"):
    record_index.load([str(tmp_path / "x.zlib")])
  (tmp_path / "folder").mkdir()
  with pytest.raises(UserError, match="folder: a folder, expected TFRecords"):
    record_index.load([str(path), str(tmp_path / "folder")])


@pytest.mark.parametrize("start", [b"\x1f\x8b", b"\x78\x9c", b"\x78\x01"])
def test_a_length_that_begins_as_compressed_files_do(tmp_path, records, start):
  path = tmp_path / "x"
  raws = [b"a" * int.from_bytes(start, "little"), b"b"]
  offsets = records.write_records(path, raws)
  index = record_index.load([str(path)])
  assert index.offsets.tolist() == offsets
  assert [record_index.read_one(index, i) for i in range(2)] == raws


def test_a_file_that_goes_away_is_an_error_not_a_hang(two_files):
  files, _ = two_files
  index = record_index.load(files)
  os.remove(files[1])
  with pytest.raises(tf.errors.InvalidArgumentError, match="gone.*b.1.*record"):
    read_all(index)
  with pytest.raises(tf.errors.NotFoundError, match="b.1..tfrecord"):
    record_index.read_record(
        record_index.file_tensors(index), tf.constant(3, tf.int64))


def test_files_on_the_web_are_not_looked_for():
  """Which the web cannot: a record that fails there is corrupt, not gone."""
  index = record_index.from_sizes(["http://x/a[1]", "/y/a[1]"], [1, 1],
                                  np.array([20, 20]))
  web, local = record_index.file_tensors(index).patterns
  assert local.numpy() == rb"/y/a\[1]"
  assert tf.size(tf.io.matching_files(web)) > 0


def test_indices_of_some_records(two_files):
  """Of files without records too, and of numbers beyond four gibibytes."""
  index = record_index.from_sizes(
      ["a", "b", "c", "d"], [2, 0, 3, 0], np.array([16, 2 ** 32, 20, 30, 40]))
  assert index.offsets.tolist() == [0, 16, 0, 20, 50]
  assert index.file_ids.tolist() == [0, 0, 2, 2, 2]
  assert [index.place(i)[0] for i in range(5)] == ["a", "a", "c", "c", "c"]
  some = index.take([1, 2, 4])
  assert some.edges.tolist() == [0, 1, 1, 3, 3]
  assert some.offsets.tolist() == [16, 0, 50]
  assert some.sizes.tolist() == [2 ** 32, 20, 40]
  assert len(index.take([])) == 0
  tensors = record_index.file_tensors(some)
  for i, expected in enumerate(
      [(b"a", 16, 2 ** 32), (b"c", 0, 20), (b"c", 50, 40)]):
    for kind in tf.int32, tf.int64:
      assert tuple(each.numpy() for each in tensors.place(
          tf.constant(i, kind))) == expected


@pytest.mark.parametrize("place", [0, 5, 9, 12, 20, 4011])
def test_a_flipped_byte_costs_one_record(tmp_path, records, place):
  path = tmp_path / "x.tfrecord"
  raw = [bytes([i]) * 4000 for i in range(4)]
  offsets = records.write_records(path, raw)
  index = record_index.load([str(path)])
  content = bytearray(path.read_bytes())
  content[offsets[1] + place] ^= 0x10
  path.write_bytes(content)
  assert read_all(index) == [raw[0], b"corrupt", raw[2], raw[3]]


def test_a_truncated_tail_costs_one_record(tmp_path, records):
  path = tmp_path / "x.tfrecord"
  raw = [bytes([i]) * 4000 for i in range(3)]
  offsets = records.write_records(path, raw)
  for cut in (5, 30, 4015):  # In the header, in the data, in the last CRC.
    whole = path.read_bytes()
    short = tmp_path / f"short{cut}.tfrecord"
    short.write_bytes(whole[:offsets[2] + cut])
    index = record_index.load([str(short)])
    assert read_all(index) == [raw[0], raw[1], b"corrupt"]


def test_scan_stops_at_a_broken_length(tmp_path, records):
  path = tmp_path / "x.tfrecord"
  offsets = records.write_records(path, [b"a" * 50] * 5)
  content = bytearray(path.read_bytes())
  content[offsets[2]] ^= 0x01  # A length that is possible, but not this one's.
  path.write_bytes(content)
  assert record_files.scan(str(path)).tolist() == offsets[:3]
  assert read_all(record_index.load([str(path)])) == [
      b"a" * 50, b"a" * 50, b"corrupt"]


def test_what_fails_in_processing_costs_one_record(tmp_path, records):
  path = str(tmp_path / "x.tfrecord")
  records.write_records(path, [b"1", b"x", b"3"])
  tensors = record_index.file_tensors(record_index.load([path]))
  numbers = record_index.process_records(
      tensors, 3, lambda raw, i: tf.strings.to_number(raw, tf.int32),
      tf.constant(-1))
  assert list(numbers.as_numpy_iterator()) == [(0, 1), (1, -1), (2, 3)]
  # Requests have parts; none of them is lost where all records fail.
  requests = tf.data.Dataset.from_tensor_slices(
      (np.int64([1, 1, 1]), ["a", "b", "c"]))
  failed = record_index.process_records(
      tensors, requests, lambda raw, i, part: tf.strings.to_number(raw + part),
      tf.constant(-1.0))
  assert list(failed.as_numpy_iterator()) == [
      (1, b"a", -1), (1, b"b", -1), (1, b"c", -1)]


def test_epoch_orders_are_permutations_of_their_own():
  seed = seeds.root(3)
  orders = [record_index.epoch_order(50, seed, e).numpy() for e in range(3)]
  for order in orders:
    assert order.dtype == np.int64 and sorted(order) == list(range(50))
  assert not np.array_equal(orders[0], orders[1])
  assert not np.array_equal(
      orders[0], record_index.epoch_order(50, seeds.root(4), 0).numpy())
  again = next(iter(tf.data.Dataset.range(2, 3).map(
      lambda e: record_index.epoch_order(50, seed, e)))).numpy()
  np.testing.assert_array_equal(again, orders[2])


def test_epoch_orders_are_uniform():
  # All 24 permutations of 4 records as often, by Pearson's chi-squared test.
  seed = seeds.root(0)
  orders = np.stack(list(tf.data.Dataset.range(4800).map(
      lambda e: record_index.epoch_order(4, seed, e)).as_numpy_iterator()))
  _, counts = np.unique(orders @ [64, 16, 4, 1], return_counts=True)
  assert len(counts) == 24
  assert scipy.stats.chisquare(counts).pvalue > 1e-3
