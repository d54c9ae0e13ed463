"""The index of a split, whole, of older datasets, and damaged."""
import io
import json
import zipfile

import numpy as np
import pytest

from vatt.data import record_index, sources, split_index
from vatt.errors import UserError


@pytest.fixture
def built(tmp_path, records):
  """A dataset of three shards a split, with sidecars, and its folder."""
  examples = [records.serialize(records.clip(i, 1 + i)) for i in range(7)]
  folder = records.write_built(
      tmp_path, "clips/a", {"train": examples[:5], "test": examples[5:]})
  return folder


def write_index(folder, split="train", base="clips"):
  sidecars = [json.loads(path.read_text()) for path in sorted(
      folder.glob(f"{base}-{split}.tfrecord-*.index.json"))]
  split_index.write(str(folder), base, split, sidecars)
  return folder / f"{base}-{split}.index.npz"


def open_split(folder, split="train"):
  return sources.open_source("clips/a", str(folder.parents[2]), split).index


def test_a_split_opens_by_one_file_as_by_its_sidecars(built):
  by_sidecars = open_split(built)
  path = write_index(built)
  for sidecar in built.glob("*train*.index.json"):
    sidecar.unlink()
  index = open_split(built)
  assert index.files == by_sidecars.files and len(index.files) == 3
  for name in ("edges", "offsets", "sizes", "file_ids"):
    np.testing.assert_array_equal(
        getattr(index, name), getattr(by_sidecars, name))
  assert index.fingerprint() == by_sidecars.fingerprint()
  assert index.offsets.dtype == index.sizes.dtype == np.uint32
  # No shard was scanned, which leaves a sidecar.
  assert not list(built.glob("*train*.index.json"))
  # Four bytes a record and a shard, and what numpy and the zip say of them.
  with zipfile.ZipFile(path) as content:
    assert sum(info.file_size for info in content.infolist()) == (
        2 * 128 + 4 * 5 + 4 * 3)


def test_splits_with_and_without_an_index_together(built):
  before = open_split(built, "test+train")
  write_index(built)
  index = open_split(built, "train+test")
  assert index.files == before.files and len(index) == 7
  np.testing.assert_array_equal(index.edges, before.edges)
  np.testing.assert_array_equal(index.offsets, before.offsets)
  np.testing.assert_array_equal(index.sizes, before.sizes)


def test_what_is_written():
  """Worked by hand: sizes are from offset to offset, then to the end."""
  packed = split_index.pack(iter([
      {"offsets": [0, 18, 34], "bytes": 90}, {"offsets": [], "bytes": 0},
      {"offsets": [0], "bytes": 20}]))
  with np.load(io.BytesIO(packed)) as arrays:
    assert {name: arrays[name].tolist() for name in arrays} == {
        "counts": [3, 0, 1], "sizes": [18, 16, 56, 20]}
  # The same bytes whenever it is written.
  with zipfile.ZipFile(io.BytesIO(packed)) as content:
    assert {info.date_time[0] for info in content.infolist()} == {1980}


def test_a_record_of_more_than_four_gibibytes(tmp_path):
  split_index.write(str(tmp_path), "a", "b", [
      {"offsets": [0, 20], "bytes": 2 ** 32 + 20},
      {"offsets": [0], "bytes": 30}])
  counts, sizes = split_index.read(str(tmp_path / "a-b.index.npz"))
  assert counts.tolist() == [2, 1] and sizes.tolist() == [20, 2 ** 32, 30]
  index = record_index.from_sizes(["x", "y"], counts, sizes)
  assert index.offsets.tolist() == [0, 20, 0]
  assert index.place(1) == ("x", 20) and index.place(2) == ("y", 0)


def test_damage_is_told(built):
  path = write_index(built)
  whole = path.read_bytes()
  for wrong in (b"", b"PK", whole[:-1], whole[:len(whole) // 2]):
    path.write_bytes(wrong)
    with pytest.raises(UserError, match="train.index.npz: damaged"):
      open_split(built)
  # Any byte of what is said of records.
  place = whole.index(b"NUMPY", whole.index(b"sizes.npy")) - 1
  for i in (0, 20, 127, 128, 128 + 4 * 5 - 1):
    path.write_bytes(whole[:place + i] + bytes([whole[place + i] ^ 4])
                     + whole[place + i + 1:])
    with pytest.raises(UserError, match="train.index.npz: damaged"):
      open_split(built)
  buffer = io.BytesIO()  # pickled objects are not read
  np.savez(buffer, counts=np.array([{}]), sizes=np.array([{}]))
  path.write_bytes(buffer.getvalue())
  with pytest.raises(UserError, match="train.index.npz: damaged"):
    open_split(built)


def test_shards_that_are_not_as_the_index_says(built):
  write_index(built)
  shard = built / "clips-train.tfrecord-00001-of-00003"
  whole = shard.read_bytes()
  shard.write_bytes(whole[:-1])
  with pytest.raises(UserError, match=(
      f"{shard.name}: {len(whole) - 1} bytes, expected {len(whole)} as in .*"
      "clips-train.index.npz; it was cut")):
    open_split(built)
  shard.unlink()
  with pytest.raises(UserError, match=(
      "1.0.0: shard 1 of the 3 of split 'train' is missing")):
    open_split(built)
  shard.symlink_to("nowhere")  # a listing has it
  with pytest.raises(UserError, match=f"{shard.name}: cannot be read"):
    open_split(built)


def test_an_index_of_other_shards(built):
  write_index(built)
  (built / "dataset_info.json").write_text(json.dumps(
      {"splits": [{"name": "train", "shardLengths": ["1", "2", "3"]}]}))
  with pytest.raises(UserError, match=(
      "train.index.npz: 3 shards with 5 records, expected 3 with 6 as in ")):
    open_split(built)
