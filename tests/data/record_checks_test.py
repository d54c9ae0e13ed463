"""Every record is read back: what is wrong is named, and nothing else."""
import json
import os
import re
import shutil
import struct
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf

from vatt.data import (
  caption_files,
  extents,
  record_checks,
  record_files,
  split_index,
)

SHARD = "clips/official/1.0.0/clips-train.tfrecord-0000{}-of-00003"


@pytest.fixture
def data(tmp_path, clips_dir):
  """A copy of the built dataset: 23 records to train, 7 to test."""
  return shutil.copytree(clips_dir, tmp_path / "data")


def check(data, name="clips/official", split=None, read=True):
  """What is wrong, as (name of the file, record, reason)s and in full; and the
  check. Reading takes a second; without, records are looked for alone."""
  made = record_checks.Check(name, str(data), split)
  found = [*made.lay_out(), *(made.read() if read else ())]
  for bad in found:
    assert (bad.record is None) == (bad.offset is None)
  return ([(os.path.basename(bad.file), bad.record, bad.reason)
           for bad in found], found, made)


def test_what_is_whole_is_not_named(clips_dir):
  done = []
  made = record_checks.Check("clips/official", str(clips_dir))
  assert list(made.lay_out()) == list(made.read(done.append)) == []
  assert made.num_records == sum(done) == 30
  assert len(made.found.files) == 6
  _, _, made = check(clips_dir, split="test", read=False)
  assert made.num_records == 7


def test_a_flipped_byte_costs_its_record_alone(data):
  """In the length, its CRC and the content of records; with and without what
  says where they are."""
  crc = "its CRC is not that of its content"
  expected = []
  for shard, places in (0, (3, 9, 500)), (1, (3, 9, 500)):
    path = data / SHARD.format(shard)
    offsets = json.loads(
        path.with_name(path.name + ".index.json").read_text())["offsets"]
    if shard:
      os.remove(f"{path}.index.json")
    content = bytearray(path.read_bytes())
    for record, place in zip((1, 3, 4), places):
      content[offsets[record] + place] ^= 16
      expected.append((path.name, record, crc if place > 11 else
                       "its header is damaged"))
    path.write_bytes(content)
  named, found, _ = check(data)
  assert sorted(named) == expected
  last = found[-1]
  assert last.offset == offsets[4]
  assert last.id == "clip11"  # 7 are in the first shard
  assert not any(bad.written_so for bad in found)
  assert str(last) == f"{path}: record 4 at byte {last.offset}: clip11: {crc}"


def test_a_shard_cut_short_and_one_missing_are_told(data):
  cut, gone = (data / SHARD.format(i) for i in (0, 2))
  offsets = json.loads(
      cut.with_name(cut.name + ".index.json").read_text())["offsets"]
  size = cut.stat().st_size
  os.truncate(cut, offsets[5] + 100)
  gone.unlink()
  named, _, made = check(data)
  after = offsets[6] - offsets[5] - 100
  assert named == [
      (gone.name, None, "shard 2 of the 3 of split 'train' is missing"),
      (cut.name, None, f"{offsets[5] + 100} bytes with 5 whole records, "
       f"expected {size} bytes with 7: it was cut or changed"),
      (cut.name, 5, f"it is cut, {after} bytes of it are missing")]
  assert made.num_records == 6 + 8 + 7


def test_bytes_that_are_lost_inside_a_file_cost_one_record(data):
  path = data / SHARD.format(0)
  offsets = json.loads(
      path.with_name(path.name + ".index.json").read_text())["offsets"]
  os.remove(f"{path}.index.json")
  content = path.read_bytes()
  place = offsets[2] + 50
  path.write_bytes(content[:place] + content[place + 33:])
  named, _, _ = check(data, read=False)
  assert named == [(path.name, 2, "bytes of it are missing")]


def test_a_count_that_others_state_tells_a_cut_between_records(data):
  path = data / SHARD.format(1)
  offsets = json.loads(
      path.with_name(path.name + ".index.json").read_text())["offsets"]
  os.remove(f"{path}.index.json")
  os.truncate(path, offsets[6])
  assert check(data, read=False)[0] == []
  (path.parent / "dataset_info.json").write_text(json.dumps({"splits": [
      {"name": "train", "shardLengths": ["7", "8", "8"]}]}))
  assert check(data, read=False)[0] == [(path.name, None, (
      "6 whole records, expected 8 as in dataset_info.json: it was cut or "
      "changed"))]


def test_what_says_where_records_are_is_checked_too(data):
  """The index of a split and its captions, without which no run opens it."""
  folder = (data / SHARD).parent
  shards = sorted(folder.glob("*-train.tfrecord-*-of-00003"))
  sidecars = [json.loads((folder / f"{shard.name}.index.json").read_text())
              for shard in shards]
  split_index.write(str(folder), "clips", "train", sidecars)
  caption_files.write(str(folder), "clips", "train", [["a"]] * 23)
  (folder / "dataset_info.json").write_text(json.dumps({"splits": [
      {"name": "train", "shardLengths": ["7", "8", "8"]}]}))
  for path in folder.glob("*.index.json"):
    path.unlink()
  assert check(data, read=False)[0] == []
  size = shards[0].stat().st_size
  os.truncate(shards[0], sidecars[0]["offsets"][6])  # between two records
  assert check(data, read=False)[0] == [(shards[0].name, None, (
      f"{sidecars[0]['offsets'][6]} bytes with 6 whole records, expected {size}"
      " bytes with 7: it was cut or changed"))]
  split_index.write(str(folder), "clips", "train", sidecars[:2])
  caption_files.write(str(folder), "clips", "train", [["a"]] * 22)
  (name, _, index), (_, _, captions), _ = check(data, read=False)[0]
  assert name == "clips-train.index.npz" and index.startswith(
      "2 shards with 15 records, expected 3 with 23 as in dataset_info.json; ")
  assert captions.startswith(
      "damaged, or of other records than the 23 that are there; ")


SMALL = tf.io.encode_jpeg(np.zeros([8, 24, 3], np.uint8)).numpy()
PNG = tf.io.encode_png(np.zeros([32, 32, 3], np.uint8)).numpy()


def wrong_records(records):
  """Records with all CRCs right, and what is to be said of each, if anything.
  """
  def frames(number, frame):
    changed = records.clip(0)["frames"]
    changed[number] = frame or changed[number][:len(changed[number]) // 2]
    return {"frames": changed}

  def caption(text, start=0.0, end=1.0):
    return {"captions": [("a", 0.0, 1.0), (text, start, end)]}

  for changes, reason in (
      ({}, None),
      (frames(5, b"no picture"), "frame 5 of 8 does not decode: Unknown image"),
      (frames(3, None), "frame 3 of 8 does not decode: .*JPEG"),
      (frames(6, SMALL), "frames of several sizes, 32 x 32 and 24 x 8"),
      (frames(6, PNG), "frames of several formats"),
      ({"frames": [], "fps": 0.0}, None),
      ({"fps": float("nan")}, "fps is nan, expected more than 0"),
      ({"audio": b"odd"}, "its sound does not decode: .*length 3"),
      ({"audio": b"fLaC12"},
       "its sound does not decode: sound is FLAC, and was not in the first"),
      ({"audio_rate": 0}, "audio_rate is 0, expected more than 0"),
      ({"audio_rate": 0, "audio": b""}, None),
      ({"label": [9, 0]}, None),
      ({"label": [3, 10]}, "label is 10, expected 0 to 9"),
      ({"label": [-2]}, "label is -2, expected 0 to 9"),
      ({"start": float("inf")}, "a time is not finite"),
      (caption("x", float("nan")), "a time is not finite"),
      (caption("x", 2.0, 1.0), "a caption ends before it starts"),
      (caption("\ufefffête 音楽 😀 \ufffd \U0010ffff \u200f"), None),
  ):
    yield records.serialize(records.clip(0) | changes), reason
  example = tf.train.Example.FromString(records.serialize(records.clip(0)))
  features = example.features.feature
  features["captions/text"].bytes_list.value[:] = [b"caf\xe9"]
  yield example.SerializeToString(), "a caption is not UTF-8"
  features["captions/text"].bytes_list.value[:] = [b"b", b"c"]
  yield example.SerializeToString(), "2 captions, with 1 starts and 1 ends"
  features.pop("audio")
  yield example.SerializeToString(), "is no example of this kind: .*audio"


def test_what_is_wrong_in_a_record_is_said(tmp_path, records):
  raws, reasons = zip(*wrong_records(records))
  records.write_built(tmp_path, "clips/official", {"train": raws}, 1)
  _, found, _ = check(tmp_path)
  assert [bad.record for bad in found] == [
      i for i, reason in enumerate(reasons) if reason]
  for bad in found:
    assert re.match(reasons[bad.record], bad.reason), bad.reason
    assert "[Op:" not in bad.reason and "Tensor" not in bad.reason
    assert bad.written_so and bad.id == "clip0"


def test_other_sources(tmp_path, records):
  """Images of tfds, and SequenceExamples with a gap in their names."""
  images = [tf.train.Example(features=tf.train.Features(feature={
      "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
      "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
  })).SerializeToString() for image, label in (
      (PNG, 0), (PNG[:-30], 1), (PNG, 11))]
  directory = records.write_built(
      tmp_path, "things", {"train": images}, 1, sidecars=False)
  (directory / "features.json").write_text(json.dumps({"featuresDict": {
      "features": {
          "image": {"image": {"shape": {"dimensions": ["32", "32", "3"]}}},
          "label": {"classLabel": {"numClasses": "10"}}}}}))
  named, _, made = check(tmp_path, "tfds:things")
  assert [(record, reason[:21]) for _, record, reason in named] == [
      (1, "frame 0 of 1 does not"), (2, "label is 11, expected")]
  assert made.num_records == 3 and not list(directory.glob("*.index.json"))
  example = tf.train.SequenceExample()
  example.context.feature["clip/key"].bytes_list.value.append(b"a.mp4")
  frame = example.feature_lists.feature_list["image/encoded"].feature.add()
  frame.bytes_list.value.append(SMALL)
  good = example.SerializeToString()
  frame.bytes_list.value[:] = [SMALL[:40]]
  for i in (0, 2):
    records.write_records(
        tmp_path / f"clips-train-0000{i}-of-00003",
        [good, example.SerializeToString()] if i else [good])
  name = f"dmvr:{tmp_path}/clips-{{split}}-*?fps=10&audio_rate=0"
  named, found, made = check("", name)
  assert [row[:2] for row in named] == [
      ("clips-train-00001-of-00003", None), ("clips-train-00002-of-00003", 1)]
  assert named[0][2] == "file 1 of the 3 is missing"
  assert found[1].id == "a.mp4" and made.num_records == 3
  _, _, made = check("", name, "train", read=False)
  assert made.num_records == 3


def test_a_large_file_of_another_kind_is_not_read_at_once(tmp_path):
  """Which a pattern may match: nothing of it is a record with an id."""
  path = tmp_path / "x"
  path.touch()
  os.truncate(path, record_checks.LARGEST + 1)
  tracemalloc.start()
  try:
    assert record_checks.id_at(str(path), 0, path.stat().st_size) == ""
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
  finally:
    tracemalloc.stop()


def test_records_are_found_again_behind_anything(tmp_path):
  """Against a search that tries every byte, one by one."""
  path = tmp_path / "records"
  rng = np.random.default_rng(0)
  raws = [rng.bytes(int(n)) for n in rng.integers(0, 3000, size=20)]
  with tf.io.TFRecordWriter(str(path)) as writer:
    for raw in raws:
      writer.write(raw)
  content = path.read_bytes()
  wholes = {struct.pack("<Q", len(raw)) + record_files.masked_crc(
      np.frombuffer(struct.pack("<Q", len(raw)), np.uint8)[None]).tobytes()
      for raw in raws}
  for trial in range(30):
    a, b = sorted(rng.integers(0, len(content), size=2))
    middle = (b"", bytes(b - a), rng.bytes(int(b - a)))[trial % 3]
    data = content[:a] + middle + content[b:]
    path.write_bytes(data)
    layout = extents.lay_out(str(path))
    starts = layout.starts.tolist()
    assert starts == sorted(set(starts))
    assert starts[:1] == ([0] if data else [])
    there = {i for i in range(len(data)) if data[i:i + 12] in wholes
             and i + 16 + int.from_bytes(data[i:i + 8], "little") <= len(data)}
    assert {start for i, start in enumerate(starts)
            if i not in layout.reasons} <= there
    # All that lie whole behind the damage are found.
    behind = [start for start in there if start >= a + len(middle)]
    assert set(behind) <= set(starts)


def test_compressed_files_are_told(tmp_path):
  path = tmp_path / "x-train"
  with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
    writer.write(b"content")
  layout = extents.lay_out(str(path))
  assert layout.problem == "compressed TFRecords, expected uncompressed ones"
  assert not len(layout.starts)
