"""Photographs as a dataset, and spoken_digits from its command line."""
import csv
import hashlib
import json
import os
import pathlib
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf
import tensorflow_datasets as tfds

from vatt.data import caption_files, record_files, record_index, split_index
from vatt.data.ingest import builder, engines, plans, rejected, shards
from vatt.errors import UserError, one_line

ROOT = pathlib.Path(__file__).parents[3]


class Photos(builder.ClipsBuilder, skip_registration=True):
  """Two frames of each photograph in a folder, no sound, no labels."""

  VERSION = tfds.core.Version("1.0.0")
  NUM_SHARDS = 5

  def make_plan(self, manual_dir):
    files = sorted(os.listdir(manual_dir))
    clips = [builder.Clip(name.split(".")[0], name,
                       (os.path.getsize(f"{manual_dir}/{name}"),))
             for name in files]
    return builder.Plan(
        clips=[*(("train", clip) for clip in clips[:-2]),
               *(("test", clip) for clip in clips[-2:])],
        read=PhotoReader(manual_dir),
        label_names=("photograph",),
        needed=("train", "test"),
        least={"train": self.NUM_SHARDS, "test": 1})


class PhotoReader:
  seen = []  # ids of the clips that were read

  def __init__(self, folder):
    self.folder = folder

  def __call__(self, clips):
    return map(self.read, clips)

  def read(self, clip):
    self.seen.append(clip.id)
    data = pathlib.Path(self.folder, clip.file).read_bytes()
    try:
      image = tf.io.decode_jpeg(data).numpy()
    except tf.errors.InvalidArgumentError as error:
      return builder.Rejected(f"not an image: {one_line(error)}")
    return {
        "id": clip.id,
        "start": 0.5,
        "frames": [data, tf.io.encode_jpeg(image[:, ::-1]).numpy()],
        "fps": 2.0,
        "audio": b"",
        "audio_rate": 0,
        "captions": [{"text": "a photograph", "start": 0.0, "end": 1.0}
                     ] * (clip.id != "0-4"),
        "label": [],
    }


@pytest.fixture
def one_core():
  """So that shards are built one after the other."""
  cores = os.sched_getaffinity(0)
  os.sched_setaffinity(0, {min(cores)})
  yield
  os.sched_setaffinity(0, cores)


@pytest.fixture
def photos(tmp_path):
  """A folder of 24 crops of two real photographs as JPEG files."""
  folder = tmp_path / "photos"
  folder.mkdir()
  for p, image in enumerate(sklearn.datasets.load_sample_images().images):
    for i in range(12):
      crop = image[30 * i:30 * i + 48, 40 * i:40 * i + 64]
      folder.joinpath(f"{p}-{i}.jpg").write_bytes(
          tf.io.encode_jpeg(crop).numpy())
  return folder


def cut(manual_dir, count=Photos.NUM_SHARDS):
  """The clips to train as they are in shards: sorted by a hash, cut evenly."""
  clips = [clip for split, clip in Photos(data_dir="unused").make_plan(
      str(manual_dir)).clips if split == "train"]
  clips.sort(key=lambda clip: hashlib.sha256(
      f"train\0{clip.id}".encode()).digest())
  ends = [len(clips) * i // count for i in range(count + 1)]
  return [clips[a:b] for a, b in zip(ends, ends[1:])]


def build(data_dir, manual_dir, builder=Photos, **kwargs):
  builder(data_dir=data_dir, manual_dir=str(manual_dir),
          **kwargs).download_and_prepare()


def contents(folder):
  """Name to bytes of what must be the same in two builds."""
  return {path.name: path.read_bytes()
          for path in pathlib.Path(folder).iterdir()
          if "tfrecord" in path.name or path.name == "rejected.csv"}


def raw_records(path):
  """The records of a TFRecord file, by its format: length, CRC, data, CRC."""
  data, at = pathlib.Path(path).read_bytes(), 0
  while at < len(data):
    length, = struct.unpack_from("<Q", data, at)
    yield at, data[at + 12:at + 12 + length]
    at += length + 16


def test_draw_is_a_uniform_hash():
  assert builder.draw(10 ** 6, "clip", 3) == int(
      hashlib.sha256(b"clip\x003").hexdigest()[:16], 16) % 10 ** 6
  counts = np.bincount([builder.draw(4, i, "flip") for i in range(4000)])
  assert abs(counts - 1000).max() < 5 * np.sqrt(4000 * 3 / 16)


def test_built_dataset_is_what_was_read_and_tfds_reads_it(tmp_path, photos,
                                                          capsys):
  damaged = (photos / "0-3.jpg")
  damaged.write_bytes(damaged.read_bytes()[:100])
  build(tmp_path / "data", photos)
  folder = tmp_path / "data/photos/1.0.0"
  assert capsys.readouterr().out.splitlines()[-1] == (
      f"{folder}: built 23 clips (train 21, test 2; with pictures 23, sound 0, "
      f"captions 22), rejected 1 (see {folder}/rejected.csv)")

  header, row = csv.reader(open(folder / "rejected.csv"))
  assert header == ["id", "file", "reason"]
  assert row[:2] == ["0-3", "0-3.jpg"] and row[2].startswith("not an image")

  builder = tfds.builder_from_directory(folder)
  assert builder.info.splits["train"].num_examples == 21
  assert builder.info.splits["train"].num_shards == 5
  examples = {split: list(builder.as_dataset(split=split).as_numpy_iterator())
              for split in ("train", "test")}
  files = sorted(path.stem for path in photos.iterdir())
  assert sorted(e["id"].decode() for e in examples["test"]) == files[-2:]
  assert sorted(e["id"].decode() for e in examples["train"]) == sorted(
      set(files[:-2]) - {"0-3"})
  for example in examples["train"] + examples["test"]:
    data = (photos / f"{example['id'].decode()}.jpg").read_bytes()
    assert example["frames"][0] == data and len(example["frames"]) == 2
    assert example["start"] == 0.5 and example["fps"] == 2.0
    assert example["audio"] == b"" and example["audio_rate"] == 0
    assert list(example["captions"]["text"]) == [b"a photograph"] * (
        example["id"] != b"0-4")
    assert example["label"].shape == (0,)

  # The sidecars have every record's place, and a record is read with the spec.
  names = [path for split in builder.info.splits.values()
           for path in split.filepaths]
  spec = builder.info.features.tf_example_spec
  for name in names:
    index = json.loads(pathlib.Path(f"{name}.index.json").read_text())
    assert index["bytes"] == pathlib.Path(name).stat().st_size
    assert index["offsets"] == [at for at, _ in raw_records(name)]
    eager = [tf.io.parse_single_example(raw, spec)["id"].numpy()
             for _, raw in raw_records(name)]
    graph = [parsed["id"] for parsed in tf.data.TFRecordDataset(
        str(name)).map(lambda raw: tf.io.parse_single_example(raw, spec)
                       ).as_numpy_iterator()]
    assert len(eager) == len(index["offsets"])
    np.testing.assert_array_equal(eager, graph)


def test_shard_whose_clips_are_all_rejected(tmp_path, photos):
  for clip in cut(photos)[2]:
    (photos / clip.file).write_bytes(b"no image")
  build(tmp_path / "data", photos)
  folder = tmp_path / "data/photos/1.0.0"
  made = tfds.builder_from_directory(folder)
  lengths = made.info.splits["train"].shard_lengths
  assert lengths[2] == 0 and sum(lengths) == len(list(
      made.as_dataset(split="train")))


def test_all_clips_of_a_split_rejected(tmp_path, photos):
  for name in ("1-8.jpg", "1-9.jpg"):
    (photos / name).write_bytes(b"no image")
  with pytest.raises(UserError, match="every clip of split 'test'"):
    build(tmp_path / "data", photos)
  assert not (tmp_path / "data/photos/1.0.0/dataset_info.json").exists()


def test_stopped_build_goes_on_unless_the_plan_has_changed(
    tmp_path, photos, one_core):
  cuts = cut(photos)
  missing = photos / cuts[3][1].file
  image = missing.read_bytes()
  plan = Photos(data_dir=tmp_path).make_plan(str(photos))

  class Stopped(Photos, skip_registration=True):
    name = "photos"

    def make_plan(self, manual_dir):
      # The source goes away after planning: an error of the machine, not of the
      # clip, so nothing is rejected and the build stops.
      missing.unlink()
      return plan

  with pytest.raises(UserError, match="run the same command") as error:
    build(tmp_path / "data", photos, Stopped)
  assert missing.name in str(error.value) and "\n" not in str(error.value)
  folder = tmp_path / "data/photos/1.0.0"
  done = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()
          if "tfrecord" in path.name}
  assert sorted(done) == sorted(
      f"photos-train.tfrecord-0000{i}-of-00005{suffix}"
      for i in range(3) for suffix in ("", ".index.json"))
  with pytest.raises(FileNotFoundError):  # nobody takes it for a dataset
    tfds.builder_from_directory(folder)
  copy = tmp_path / "copy/photos/1.0.0"
  shutil.copytree(folder, copy)

  # The source is back: what is finished stays, the rest is built.
  missing.write_bytes(image)
  build(tmp_path / "data", photos)
  build(tmp_path / "undisturbed", photos)
  assert {n: (folder / n).stat().st_mtime_ns for n in done} == done
  assert everything(folder) == everything(
      tmp_path / "undisturbed/photos/1.0.0")

  # Another file has changed, and one has come: that moves where most shards are
  # cut, and all clips that were built and are the same are not read again.
  (photos / cuts[2][0].file).write_bytes((photos / "1-9.jpg").read_bytes())
  (photos / "0-55.jpg").write_bytes((photos / "1-9.jpg").read_bytes())
  now = cut(photos)
  after = {clip for shard in now for clip in shard}
  known = {clip for shard in cuts[:3] for clip in shard} & after
  assert len(known) >= 10
  PhotoReader.seen.clear()
  build(tmp_path / "copy", photos)
  assert sorted(PhotoReader.seen) == sorted(
      {clip.id for clip in after - known} | {"1-8", "1-9"})
  same = [i for i in range(3) if cuts[i] == now[i]]
  assert 0 < len(same) < 3
  for i in same:
    name = f"photos-train.tfrecord-{i:05d}-of-00005"
    assert (copy / name).stat().st_mtime_ns == done[name]
  build(tmp_path / "fresh", photos)
  assert everything(copy) == everything(tmp_path / "fresh/photos/1.0.0")
  assert contents(copy) != contents(folder)


def test_what_else_is_in_the_folder_of_a_build_goes(tmp_path, photos):
  """A plan of another number of shards, and what a kill left."""
  folder = tmp_path / "data/photos/1.0.0"
  folder.mkdir(parents=True)
  for name, content in (
      ("train.tfrecord-00000-of-00009", "old"), ("plan.jsonl", "[cut"),
      ("train.tfrecord-00000-of-00005.12345678.tmp", "old"),
      ("train.tfrecord-00001-of-00005", "cut"),
      ("train.tfrecord-00002-of-00005.index.json", "{")):
    (folder / f"photos-{name}").write_text(content)
  # What file systems have in any folder is not ours.
  (folder / "@eaDir").mkdir()
  (folder / ".nfs0001").touch()
  build(tmp_path / "data", photos)
  (folder / "@eaDir").rmdir()
  (folder / ".nfs0001").unlink()
  build(tmp_path / "fresh", photos)
  assert everything(folder) == everything(tmp_path / "fresh/photos/1.0.0")


def test_what_is_not_there_in_the_end_or_is_of_another(tmp_path, photos):
  """As of workers that write to another disk, and of a job of before."""
  def build_by(change):
    def engine(job, all_shards, progress):
      for shard in all_shards:
        shards.build(job, shard)
      change(tmp_path / "data/photos/1.0.0" / f"photos-train.{name}")

    build(tmp_path / "data", photos, engine=engine)

  def of_another(path):
    sidecar = path.with_name(f"{path.name}.index.json")
    content = json.loads(sidecar.read_text()) | {"fingerprint": "0" * 64}
    del content["digest"]
    sidecar.write_text(record_files.sidecar_of(content))

  name = "tfrecord-00002-of-00005"
  for change in os.remove, of_another:
    with pytest.raises(UserError, match=f"{name}: missing, or another than was "
                       "built, .*; run the same command to go on$"):
      build_by(change)
  build_by(str)


def test_databases_that_fail_are_told_as_other_files(tmp_path, photos):
  build(tmp_path / "data", photos)
  nowhere = f"{tmp_path}/none/known.sqlite"
  with pytest.raises(OSError, match=f"^{nowhere}: unable to open"):
    shards.set_aside(f"{tmp_path}/data/photos/1.0.0", [], nowhere)
  with pytest.raises(OSError, match=f"^{nowhere}: unable to open"):
    shards.Known(nowhere).find(["key"])


def test_finished_build(tmp_path, photos, capsys):
  build(tmp_path / "data", photos)
  folder = tmp_path / "data/photos/1.0.0"
  before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
  build(tmp_path / "data", photos)
  Photos(data_dir=tmp_path / "data").download_and_prepare()  # without sources
  last = capsys.readouterr().out.splitlines()[-2:]
  assert last == [f"{folder}: already built 24 clips (train 22, test 2; with "
                  "pictures 24, sound 0, captions 23), rejected 0"] * 2
  assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}

  # Nor are other shards built beside those that are there.
  for clean in build, repair:
    with pytest.raises(UserError, match="other sources"):
      clean(tmp_path / "data", photos, Fine)
  (photos / "2-0.jpg").write_bytes((photos / "1-0.jpg").read_bytes())
  with pytest.raises(UserError, match="other sources"):
    build(tmp_path / "data", photos)
  # Not even to repair it.
  shard = folder / "photos-train.tfrecord-00001-of-00005"
  shard.write_bytes(shard.read_bytes()[:-1])
  with pytest.raises(UserError, match="other sources"):
    repair(tmp_path / "data", photos)
  (photos / "2-0.jpg").unlink()
  with pytest.raises(UserError, match="damaged.*tfrecord-00001-of.*--repair"):
    build(tmp_path / "data", photos)


# ---- damage


def repair(data_dir, manual_dir, builder=Photos):
  builder(data_dir=data_dir, manual_dir=str(manual_dir)).download_and_prepare(
      repair=True)


@pytest.fixture
def built(tmp_path, photos, request):
  """The folder of a built dataset, and of the same as a build that stopped just
  before its end."""
  (photos / "0-3.jpg").write_bytes(b"no image")
  build(tmp_path / "data", photos, getattr(request, "param", Photos))
  folder = tmp_path / "data/photos/1.0.0"
  stopped = tmp_path / "stopped/photos/1.0.0"
  shutil.copytree(folder, stopped, ignore=shutil.ignore_patterns(
      "dataset_info.json", "features.json", "*.txt", "rejected.csv", "*.npz",
      "*.gz"))
  return folder, stopped


def everything(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def changed(**fields):
  """A function that changes fields of JSON, or removes them."""
  def change(data):
    content = {**json.loads(data), **fields}
    return json.dumps({key: value for key, value in content.items()
                       if value is not None}).encode()
  return change


DAMAGE = {
    ".index.json": [
        None,
        lambda data: b"",
        lambda data: data[:len(data) // 2],
        lambda data: bytes(range(256)),
        lambda data: b"[" * 100_000,
        lambda data: b"null",
        changed(bytes=None),
        changed(offsets=["0"]),
        changed(offsets=[1e300]),
        changed(offsets=[0, 17], count=2, digest=None),
        changed(rejected=[["id", 3, {}]], digest=None),
        changed(fingerprint="0" * 64),  # told by the digest
        changed(fingerprint="0" * 64, digest=None),
        lambda data: data.replace(b'"rejected"', b'"rejectee"')],
    "": [
        None,
        lambda data: bytes(len(data)),
        lambda data: data[:-1],
        lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:]]}


class Fine(Photos, skip_registration=True):
  """A clip a shard."""
  name = "photos"
  NUM_SHARDS = 22


@pytest.mark.parametrize("built", [Fine], indirect=True)
def test_damaged_shards_are_built_alone(tmp_path, photos, built):
  folder, stopped = built
  whole = everything(folder)
  places = [(f"photos-train.tfrecord-{i:05d}-of-00022", clip.id)
            for i, (clip,) in enumerate(cut(photos, Fine.NUM_SHARDS))
            if clip.id != "0-3"]
  cases = [(suffix, damage) for suffix in DAMAGE for damage in DAMAGE[suffix]]
  names = {}
  for (name, clip), (suffix, damage) in zip(places, cases):
    names[clip] = name
    for place in built:
      (place / (name + suffix)).unlink()
      if damage:
        (place / (name + suffix)).write_bytes(damage(whole[name + suffix]))
  for place in built:
    (place / f"{name}.12345678.tmp").write_bytes(b"cut off")
  times = {path: path.stat().st_mtime_ns for place in built
           for path in place.iterdir()
           if path.name.removesuffix(".index.json") not in names.values()
           and path.suffix != ".tmp"}
  assert len(times) > 2 * 2 * 4
  # A byte in a record is not looked for.
  *shown, last = sorted(names.values())[:5] + [len(cases) - 1 - 5]
  for manual_dir in (str(photos), None):
    with pytest.raises(UserError, match=f"damaged.*{', '.join(shown)} and "
                       f"{last} more.*--repair") as error:
      Fine(data_dir=tmp_path / "data", manual_dir=manual_dir
           ).download_and_prepare()
    assert "\n" not in str(error.value)
  for clean, place in (repair, "data"), (build, "stopped"):
    PhotoReader.seen.clear()
    clean(tmp_path / place, photos, Fine)
    assert sorted(PhotoReader.seen) == sorted(names)
  assert everything(folder) == whole == everything(stopped)
  assert times == {path: path.stat().st_mtime_ns for path in times}


def test_a_repaired_dataset_can_be_read_meanwhile(
    tmp_path, photos, built, monkeypatch):
  """Where only a sidecar is damaged, all of it: which records there are."""
  folder, _ = built
  whole = everything(folder)
  names = sorted(name for name in whole if name[-1].isdigit())
  raw = [data for name in names for _, data in raw_records(folder / name)]
  (folder / f"{names[0]}.index.json").write_bytes(b"{}")

  def read():
    index = record_index.load([str(folder / name) for name in names])
    assert record_index.read_all(index).numpy().tolist() == raw
    reads.append(sorted(path.name for path in folder.iterdir()
                        if path.suffix == ".tmp"))

  def make(self, clip):
    read()
    return example(self, clip)

  def rename(source, target, **kwargs):
    if str(folder) not in target:  # a scan
      return do(source, target, **kwargs)
    read()
    do(source, target, **kwargs)  # of a shard, or of its sidecar
    return read()

  reads, example, do = [], PhotoReader.read, tf.io.gfile.rename
  monkeypatch.setenv("HOME", str(tmp_path / "home"))  # where scans are kept
  monkeypatch.setattr(PhotoReader, "read", make)
  monkeypatch.setattr(tf.io.gfile, "rename", rename)
  repair(tmp_path / "data", photos)
  # Two clips were read, two files got their names: each had another before.
  assert len(reads) == 2 + 2 * 2 and len(set(map(tuple, reads))) == 3
  assert everything(folder) == whole


def test_what_describes_a_dataset_is_written_anew(
    tmp_path, photos, built, capsys, monkeypatch):
  folder, _ = built
  whole = everything(folder)
  names = ["dataset_info.json", "features.json", "label.labels.txt",
           "photos-train.index.npz", "photos-train.captions.jsonl.gz",
           "rejected.csv"]
  for name in names:
    for content in (None, b"", whole[name][:-9] + b"=damaged",
                    b"\0\xff" + whole[name],
                    whole[name] + b"more",
                    whole[name].replace(b'tfrecord"', b'photos"')):
      if content == whole[name] or (
          content is None and name == names[0]):  # as of a stopped build
        continue
      (folder / name).unlink(missing_ok=True)
      if content is not None:
        (folder / name).write_bytes(content)
      with pytest.raises(UserError, match=f"damaged.*{name}.*--repair"):
        build(tmp_path / "data", photos)
    if name != names[-1]:
      (folder / name).write_bytes(whole[name])
  for name in names[:-1]:
    (folder / name).write_bytes(b"[")
  PhotoReader.seen.clear()
  with monkeypatch.context() as patch:
    patch.setattr(engines, "run", None)  # nobody is started for no shard
    repair(tmp_path / "data", photos)
  assert everything(folder) == whole and not PhotoReader.seen
  anew, last = capsys.readouterr().out.splitlines()[-2:]
  assert anew.startswith(f"{folder}: built anew: ")
  assert anew.endswith(" and 1 more")
  assert sum(name in anew for name in names) == 5
  assert last == (
      f"{folder}: repaired 23 clips (train 21, test 2; with pictures 23, sound "
      f"0, captions 22), rejected 1 (see {folder}/rejected.csv)")
  repair(tmp_path / "data", photos)
  assert "already built 23 clips" in capsys.readouterr().out
  # What is missing last is written by any build.
  (folder / names[0]).unlink()
  build(tmp_path / "data", photos)
  assert everything(folder) == whole and not PhotoReader.seen


def test_one_file_says_where_the_records_of_a_split_are(tmp_path, photos):
  """And one what is said in its clips."""
  build(tmp_path / "data", photos)
  folder = tmp_path / "data/photos/1.0.0"
  for split, count in ("train", 5), ("test", 1):
    shards = [list(raw_records(path)) for path in sorted(
        folder.glob(f"photos-{split}.tfrecord-*[0-9]"))]
    found = split_index.read(str(folder / f"photos-{split}.index.npz"))
    assert found.counts.tolist() == list(map(len, shards))
    assert len(shards) == count
    records = [record for shard in shards for _, record in shard]
    assert found.sizes.tolist() == [len(record) + 16 for record in records]
    ids = [tf.train.Example.FromString(record).features.feature[
        "id"].bytes_list.value[0] for record in records]
    captions = folder / f"photos-{split}.captions.jsonl.gz"
    assert list(caption_files.read(str(captions), len(ids))) == [
        [] if i == b"0-4" else ["a photograph"] for i in ids]
    assert (b"0-4" in ids) == (split == "train")


def test_a_split_without_a_record(tmp_path, photos):
  """It is in no file but in what says why, and that may be damaged as well."""
  class Named(Photos, skip_registration=True):
    name = "named"

    def make_plan(self, manual_dir):
      plan = super().make_plan(manual_dir)
      return plan._replace(
          clips=[*(("train_test", clip) for _, clip in plan.clips[:2]),
                 *plan.clips[2:]],
          least=dict(plan.least, train_test=2))

  for name in ("0-0.jpg", "0-1.jpg"):
    (photos / name).write_bytes(b"no image")
  build(tmp_path / "data", photos, Named)
  folder = tmp_path / "data/named/1.0.0"
  whole = everything(folder)
  lost = [f"named-train_test.tfrecord-0000{i}-of-00002" for i in range(2)]
  assert {name for name in whole if "train_test" in name} == {
      f"{name}.index.json" for name in lost}
  assert len(whole["rejected.csv"].splitlines()) == 3
  build(tmp_path / "data", photos, Named)
  (folder / f"{lost[1]}.index.json").unlink()
  repair(tmp_path / "data", photos, Named)
  assert everything(folder) == whole


def test_what_cannot_be_built_is_listed_for_spreadsheets():
  names = ["=1+1.mp4", "+1", "-2.mp4", "@SUM(A1)", "\ta", "\rb", "\nc",
           "\udcff\udc80.mp4", 'a"b,c;=1', "x\n=1+1", " blank", "", "\0", "y"]
  table = rejected.table([(name, name, "why") for name in names])
  assert rejected.count(table.splitlines(True)) == len(names)
  header, *rows = csv.reader(table.decode().splitlines())
  assert header == ["id", "file", "reason"]
  assert [row[0] for row in rows] == [
      "'=1+1.mp4", "'+1", "'-2.mp4", "'@SUM(A1)", "'\\ta", "'\\rb", "'\\nc",
      "\\udcff\\udc80.mp4", 'a"b,c;=1', "x\\n=1+1", " blank", "", "\\x00",
      "y"]
  assert b'"a""b,c;=1"' in table  # where semicolons part cells, too
  for damaged in (b"", b"id,file\n", table[:-6], table + b"\xff", b"\0"):
    assert rejected.count(damaged.splitlines(True)) is None


def test_all_is_on_the_disk_before_it_has_its_name(
    tmp_path, photos, monkeypatch):
  """And before that of which it is a part is said to be finished."""
  events = []
  sync, rename = os.fsync, tf.io.gfile.rename
  monkeypatch.setattr(os, "fsync", lambda file: events.append(
      os.readlink(f"/proc/self/fd/{file}")) or sync(file))
  monkeypatch.setattr(tf.io.gfile, "rename", lambda *args, **kwargs: (
      events.append(args), rename(*args, **kwargs)))
  build(tmp_path, photos)
  folder = str(tmp_path / "photos/1.0.0")
  before = {}  # by the name that each file gets
  for i, event in enumerate(events):
    if isinstance(event, tuple):
      before[os.path.basename(event[1])] = i
      assert event[0] in events[:i]
      assert folder in events[i:]
  assert set(before) == {*os.listdir(folder), "plan.jsonl"}
  names = sorted(before, key=before.get)
  assert names[0] == "plan.jsonl" and names[-1] == "dataset_info.json"
  for name in names:
    if f"{name}.index.json" in before:
      # The disk has the shard's name when it gets that of what vouches for it.
      assert folder in events[before[name]:before[f"{name}.index.json"]]
  # And all other names when it gets the last.
  assert folder in events[before[names[-2]]:before[names[-1]]]


def test_bad_plans(tmp_path, photos):
  class Twice(Photos):
    def make_plan(self, manual_dir):
      plan = super().make_plan(manual_dir)
      return plan._replace(clips=plan.clips * 2)

  with pytest.raises(UserError, match="occurs twice"):
    build(tmp_path / "data", photos, Twice)
  with pytest.raises(UserError, match="no configurations"):
    build(tmp_path / "data", photos, config="large")
  for path in photos.iterdir():
    path.unlink()
  with pytest.raises(UserError, match="no clip for split 'train'"):
    build(tmp_path / "data", photos)
  assert not (tmp_path / "data").exists()


def test_a_shard_is_the_same_bytes_whenever_it_is_built(tmp_path, photos):
  dataset = Photos(data_dir=str(tmp_path), manual_dir=str(photos))
  plan, stored = dataset.make_plan(str(photos)), str(tmp_path / "plan")
  shard, = (shard for shard in plans.store(plan, stored, "photos", "common")
            if shard.split == "test")
  made = []
  for name in "ab":
    (tmp_path / name).mkdir()
    shards.build(shards.Job(str(tmp_path / name), stored, "common", plan.read,
                            ()), shard)
    made.append(everything(tmp_path / name))
  assert made[0] == made[1] and sorted(made[0]) == [
      shard.name, f"{shard.name}.index.json"]
  assert shards.finished(f"{tmp_path}/a/{shard.name}")["count"] == 2


def test_an_error_of_a_process_is_told_as_that_of_a_thread(tmp_path, photos):
  """And nothing that is half written stays."""
  missing = photos / cut(photos)[3][1].file

  class Long(Photos, skip_registration=True):
    name = "photos"

    def make_plan(self, manual_dir):
      plan = super().make_plan(manual_dir)._replace(is_long=True)
      missing.unlink()
      return plan

  PhotoReader.seen.clear()
  with pytest.raises(UserError, match=(
      f"{tmp_path}/photos/1.0.0: the build stopped: .*No such file.*"
      f"{missing.name}.*; what is finished is kept, run the same command to go "
      "on$")):
    build(tmp_path, photos, Long)
  assert not PhotoReader.seen  # by this process
  names = os.listdir(tmp_path / "photos/1.0.0")
  assert plans.NAME in names
  assert not [name for name in names if name.endswith(".tmp")]


# ---- the command line


DIGITS = "spoken_digits/official/1.0.1"


def command(manual_dir, data_dir):
  return ["scripts/prepare_dataset.py",
          "--dataset=spoken_digits", f"--manual_dir={manual_dir}",
          f"--data_dir={data_dir}"]


def test_kill_in_mid_run(tmp_path, media, python):
  from vatt.data.datasets.spoken_digits.dataset import SpokenDigits
  manual_dir, _ = media.write_sources(
      tmp_path / "media", digits=range(10), each=170, takes=range(3, 7))
  process = python.start(*command(manual_dir, tmp_path / "killed"))
  folder = tmp_path / "killed" / DIGITS
  while process.poll() is None and not folder.exists():
    time.sleep(0.002)
  second = python.run(*command(manual_dir, tmp_path / "killed"))
  assert second.returncode == 1 and second.stderr.splitlines()[-1].startswith(
      f"error: {folder.parent}: in use by a build of {DIGITS}, process "
      f"{process.pid} of this host"), second.stderr
  while process.poll() is None and len(
      list(folder.glob("*.index.json"))) < 4:
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL, "finished before it was killed"
  assert not (folder / "dataset_info.json").exists()
  done = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()
          if folder.joinpath(path.name + builder.INDEX_SUFFIX).exists()}
  assert 4 <= len(done) < 20
  assert os.listdir(folder.parent).count("owner.json") == 1

  for name in ("killed", "undisturbed"):
    SpokenDigits(data_dir=tmp_path / name,
                 manual_dir=manual_dir).download_and_prepare()
  assert {n: (folder / n).stat().st_mtime_ns for n in done} == done
  assert everything(folder) == everything(tmp_path / "undisturbed" / DIGITS)
  assert os.listdir(folder.parent) == [folder.name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_mid_run(tmp_path, media, python, number):
  manual_dir, _ = media.write_sources(tmp_path / "media", each=150)
  process = python.start(*command(manual_dir, tmp_path))
  folder = tmp_path / DIGITS
  while process.poll() is None and len(
      list(folder.glob("*.index.json"))) < 2:
    time.sleep(0.002)
  process.send_signal(number)
  assert process.wait() == 128 + number
  _, errors = process.communicate()
  assert errors.splitlines()[-1] == (
      "stopped; what is finished is kept, run the same command to go on")
  assert "Traceback" not in errors
  assert os.listdir(folder.parent) == [folder.name]
  assert not list(folder.glob("*.tmp"))
  assert not (folder / "dataset_info.json").exists()


def test_no_space_left(tmp_path, media, small_disk):
  """A file system of 300 kB, a real one."""
  from vatt.data.datasets.spoken_digits.dataset import SpokenDigits
  manual_dir, _ = media.write_sources(tmp_path / "media")
  full = small_disk("300k")
  builder = SpokenDigits(data_dir=full, manual_dir=manual_dir)
  with pytest.raises(UserError, match="[Nn]o space left") as error:
    builder.download_and_prepare()
  assert "\n" not in str(error.value)
  assert not (full / DIGITS / "dataset_info.json").exists()
  subprocess.run(["mount", "-o", "remount,size=9M", str(full)], check=True)
  builder.download_and_prepare()
  build(tmp_path / "fresh", manual_dir, SpokenDigits)
  assert everything(full / DIGITS) == everything(tmp_path / "fresh" / DIGITS)


def test_file_size_limit(tmp_path, media, python_env):
  """The same with the limit that needs no permission, by the command line."""
  from vatt.data.datasets.spoken_digits.dataset import SpokenDigits
  manual_dir, _ = media.write_sources(tmp_path / "media")
  limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
  result = subprocess.run(
      [sys.executable, *command(manual_dir, tmp_path / "data")], cwd=ROOT,
      env=python_env, capture_output=True, text=True, preexec_fn=limit)
  assert result.returncode == 1
  assert "Traceback" not in result.stderr
  last = result.stderr.splitlines()[-1]
  assert last.startswith("error: ") and "run the same command" in last
  SpokenDigits(data_dir=tmp_path / "data",
               manual_dir=manual_dir).download_and_prepare()
  builder = tfds.builder_from_directory(tmp_path / "data" / DIGITS)
  assert len(list(builder.as_dataset(split="train"))) == (
      builder.info.splits["train"].num_examples)
