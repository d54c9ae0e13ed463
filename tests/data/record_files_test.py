"""Where records lie, against what TensorFlow's writer wrote."""
import json
import os

import numpy as np
import pytest

from vatt.data import record_files, record_index
from vatt.errors import UserError


def test_scan_finds_what_the_writer_wrote(tmp_path, records):
  path = str(tmp_path / "x.tfrecord")
  offsets = records.write_records(path, [b"ab", b"", b"x" * 3000])
  assert record_files.scan(path).tolist() == offsets == [0, 18, 34]


def test_masked_crc_is_that_of_the_writer(tmp_path, records):
  path = tmp_path / "x.tfrecord"
  records.write_records(path, [b"hello"])
  header = np.frombuffer(path.read_bytes()[:12], np.uint8)
  assert (record_files.masked_crc(header[None, :8])[0]
          == int.from_bytes(header[8:].tobytes(), "little"))


def test_scan_is_cached_and_follows_the_file(tmp_path, records):
  path = tmp_path / "x.tfrecord"
  records.write_records(path, [b"a", b"b"])
  assert len(record_index.load([str(path)])) == 2
  assert json.loads((tmp_path / "x.tfrecord.index.json").read_text())[
      "offsets"] == [0, 17]
  records.write_records(path, [b"a", b"b", b"c"])  # Not the file scanned.
  assert len(record_index.load([str(path)])) == 3


def test_scan_is_cached_at_home_where_the_place_is_read_only(
    tmp_path, records, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  path = tmp_path / "x.tfrecord"
  records.write_records(path, [b"a", b"b"])
  # A folder in its place: not writable for root either.
  (tmp_path / "x.tfrecord.index.json").mkdir()
  assert len(record_index.load([str(path)])) == 2
  cached = list((tmp_path / "home/.cache/vatt").iterdir())
  assert [p.suffixes[-2:] for p in cached] == [[".index", ".json"]]
  cached[0].write_text(json.dumps(
      {"bytes": path.stat().st_size, "offsets": [0], "scanned": True}))
  assert len(record_index.load([str(path)])) == 1  # It is what is read.


def test_a_file_that_changed_since_it_was_built_is_refused(tmp_path, records):
  path = tmp_path / "x.tfrecord"
  offsets = records.write_records(path, [b"a", b"b"])
  (tmp_path / "x.tfrecord.index.json").write_text(
      json.dumps({"bytes": 99, "offsets": offsets}))
  with pytest.raises(UserError, match="x.tfrecord: 34 bytes, expected 99"):
    record_index.load([str(path)])


@pytest.mark.parametrize("content", [
    b"", b"{", b"\xff\xfe", b"[]", b"{}", b'{"bytes": 34}',
    b'{"bytes": 34, "offsets": ["0", "17"]}',
    b'{"bytes": 34, "offsets": [0, 17.5]}',
    b'{"bytes": 34, "offsets": [0, true]}',
    b'{"bytes": 34, "offsets": [17, 0]}', b'{"bytes": 34, "offsets": [0, 34]}',
    b'{"bytes": 34, "offsets": []}', b'{"bytes": [34], "offsets": [0, 17]}',
    b'{"bytes": 34, "offsets": [0, 16], "digest": "of others"}'])
def test_a_broken_index_is_none(tmp_path, records, monkeypatch, content):
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  path = tmp_path / "x.tfrecord"
  records.write_records(path, [b"a", b"b"])
  sidecar = tmp_path / "x.tfrecord.index.json"
  sidecar.write_bytes(content)
  for _ in range(2):  # the second is read from the cache at home
    assert record_index.load([str(path)]).offsets.tolist() == [0, 17]
  assert sidecar.read_bytes() == content  # for its build to mend


def test_records_are_where_they_should_be_and_what_was_written(
    tmp_path, records):
  path = str(tmp_path / "x.tfrecord")
  offsets = records.write_records(path, [b"ab", b"", b"x" * 3000])
  whole = open(path, "rb").read()

  def check(data, offsets=offsets):
    with open(path, "wb") as file:
      file.write(data)
    return (record_files.has_records_at(path, offsets),
            record_files.has_whole_records_at(path, offsets))

  assert check(whole) == (True, True)
  assert check(b"", []) == (True, True)
  for wrong in ([0, 18], [0, 18, 34, 50], [0, 17, 34], []):
    assert check(whole, wrong) == (False, False)
  for data in (whole[:-1], whole + b"\0", b"", bytes(len(whole)),
               whole[:20] + b"\1" + whole[21:], b"\x1f\x8b" + whole[2:]):
    assert check(data) == (False, False)
  # In a record: the headers do not tell.
  assert check(whole[:100] + b"y" + whole[101:]) == (True, False)
  assert check(whole[:-1] + b"\0") == (True, False)
  os.remove(path)
  assert not record_files.has_records_at(path, offsets)
  assert not record_files.has_whole_records_at(path, offsets)


def test_zeros_are_no_records(tmp_path):
  """Else each sixteen of them would be one, and take a while."""
  path = tmp_path / "x.tfrecord"
  with open(path, "wb") as file:
    file.truncate(1 << 34)
  assert record_files.scan(str(path)).tolist() == [0]
