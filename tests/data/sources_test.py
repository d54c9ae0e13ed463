import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from vatt import seeds
from vatt.data import record_index, sources
from vatt.errors import UserError


def read(source, i=0):
  tensors = record_index.file_tensors(source.index)
  return source.parse(
      record_index.read_record(tensors, tf.constant(i, tf.int64)))


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("content", [
    b"", b"{", b"\xff\xfe\0", b"[]", b"3", b'{"featuresDict": {}, "splits": 3}',
    b'{"featuresDict": [], "splits": [{}]}'])
def test_a_damaged_description_is_told_in_a_line(tmp_path, clips_dir, name,
                                                 content):
  folder = shutil.copytree(clips_dir, tmp_path / "data")
  (folder / "clips/official/1.0.0" / name).write_bytes(content)
  with pytest.raises(UserError, match=f"{name}: damaged.*--repair"):
    sources.open_source("clips/official", str(folder), "train")


def test_built_dataset(clips_dir, records):
  source = sources.open_source("clips/official", str(clips_dir), "train")
  assert len(source.index) == 23 and len(source.index.files) == 3
  assert source.label_names == tuple("abcdefghij")
  assert source.directory == str(clips_dir / "clips/official/1.0.0")
  for i in (0, 22):
    expected, example = records.clip(i), read(source, i)
    assert example["id"] == f"clip{i}".encode()
    assert example["frames"].numpy().tolist() == expected["frames"]
    assert example["audio"] == expected["audio"]
    assert example["audio_rate"].numpy() == 8000
    assert example["fps"].numpy() == 8.0 and example["start"].numpy() == 0.0
    assert example["label"].numpy().tolist() == [i % 10]
    assert example["captions/text"].numpy().tolist() == [
        f"this is clip number {i}".encode()]
    assert example["captions/end"].numpy().tolist() == [1.0]
  inside = records.in_dataset(
      source.parse, records.serialize(records.clip(5)))
  assert inside["id"] == b"clip5"


def test_reads_what_the_builders_write(clips_dir, records):
  # Serialized by tensorflow-datasets with the features that builders use.
  from tensorflow_datasets.core import example_serializer

  from vatt.data.ingest import shards
  spec = shards.features(tuple("abcdefghij"))
  serializer = example_serializer.ExampleSerializer(spec.get_serialized_info())
  parse = sources.open_source("clips/official", str(clips_dir), "train").parse
  bare = {"id": b"bare", "start": 1.5, "fps": 0.0, "frames": [], "audio": b"",
          "audio_rate": 0, "captions": [], "label": []}
  for clip in records.clip(2), bare:
    texts, starts, ends = zip(*clip["captions"]) if clip["captions"] else (
        [], [], [])
    written = serializer.get_tf_example(spec.encode_example(clip | {
        "captions": {"text": texts, "start": starts, "end": ends}}))
    theirs = parse(written.SerializeToString())
    ours = parse(records.serialize(clip))
    assert theirs.keys() == ours.keys()
    for key in ours:
      assert theirs[key].dtype == ours[key].dtype
      np.testing.assert_array_equal(theirs[key], ours[key], key)
  assert theirs["frames"].shape == theirs["captions/end"].shape == [0]


def test_the_newest_version_or_the_one_named_is_opened(tmp_path, records):
  for version, count in ("1.0.0", 2), ("1.10.0", 3), ("1.9.0", 4):
    directory = records.write_built(
        tmp_path / version, "clips", {"train": [
            records.serialize(records.clip(i)) for i in range(count)]}, 1)
    directory.rename(tmp_path / version / "moved")
    (tmp_path / "clips").mkdir(exist_ok=True)
    (tmp_path / version / "moved").rename(tmp_path / "clips" / version)
  (tmp_path / "clips" / "1.11.0").mkdir()  # Not finished.
  assert len(sources.open_source("clips", str(tmp_path), "train").index) == 3
  assert len(sources.open_source(
      "clips:1.9.0", str(tmp_path), "train").index) == 4


@pytest.mark.parametrize("name,split,message", [
    ("nothing", "train", "no finished data set in .*prepare_dataset.py "
     "--dataset=nothing --manual_dir=DIR --data_dir=[^ ]*, and --annotations="),
    ("clips", "train", r"no finished data set in .*\(found there: official\);"),
    ("clips/official:2.0.0", "train", "no finished data set"),
    ("official", "train", r"no finished data set in .*/official \(but there is "
     r"clips/official\); build it with"),
    ("clips/official", "val", "no split 'val' in .* one of: test, train"),
    ("tfds:mnist", "train", "no finished data set .*prepare_dataset.py "
     "--dataset=tfds:mnist"),
    ("dmvr:/nowhere/*.tfrecord", "train", "no file matches /nowhere"),
    ("dmvr:far://x/*", "train", r"far://x/\* cannot be looked for \(File syst"
     "em scheme 'far' not implemented"),
    ("dmvr:/x/*?labels=far://x", "train", "far://x: cannot be read, expected"),
    ("dmvr:/x/*?fsp=10", "train", "unknown 'fsp', expected fps"),
    ("dmvr:/x/*?fps=ten", "train", "fps is 'ten', expected a number"),
])
def test_what_is_missing_is_named(clips_dir, name, split, message):
  with pytest.raises(UserError, match=message):
    sources.open_source(name, str(clips_dir), split)


def test_configurations_that_are_there_are_named(tmp_path):
  (tmp_path / "clips/small").mkdir(parents=True)
  (tmp_path / "clips/lengths.csv").touch()
  with pytest.raises(UserError, match=r"\(found there: small\); build it"):
    sources.open_source("clips", str(tmp_path), "train")


def test_splits_of_clips_that_are_in_several(tmp_path, records):
  built = {"train1": 2, "train1_test2": 3, "test1_train2": 4, "fold_a": 1,
           "unsupervised": 1}
  first, numbers = 0, {}
  for split, count in built.items():
    numbers[split] = [f"clip{i}" for i in range(first, first + count)]
    first += count
  directory = records.write_built(tmp_path, "clips", {
      split: [records.serialize(records.clip(int(i[4:]))) for i in each]
      for split, each in numbers.items()}, 2)

  def ids(split, name="clips"):
    source = sources.open_source(name, str(tmp_path), split)
    assert source.split == split
    return [read(source, i)["id"].numpy().decode()
            for i in range(len(source.index))]

  train1 = numbers["train1"] + numbers["train1_test2"]
  assert ids("train1") == train1
  assert ids("test2") == ids("train1_test2") == numbers["train1_test2"]
  assert ids("train2") == numbers["test1_train2"]
  # Each once, and in one order.
  both = numbers["test1_train2"] + train1
  assert ids("train1+train2") == ids("train2+test2+train1") == both
  assert ids("a+unsupervised") == numbers["fold_a"] + numbers["unsupervised"]
  for split in "train3", "train1+train3":
    with pytest.raises(UserError, match="no split 'train3' in .*, expected one "
                       "of: a, fold, test1, test2, train1, train2, unsuperv"):
      ids(split)

  # As others name them, they are whole.
  assert ids("train1", "tfds:clips") == numbers["train1"]
  assert ids("train1+fold_a", "tfds:clips") == (
      numbers["fold_a"] + numbers["train1"])
  with pytest.raises(UserError, match="no split 'test2' in .*, expected one of"
                     ": fold_a, test1_train2, train1, train1_test2"):
    ids("test2", "tfds:clips")

  # All files of one of them lost.
  (directory / "dataset_info.json").write_text(json.dumps(
      {"splits": [{"name": split} for split in built]}))
  assert ids("train1") == train1
  for file in directory.glob("*-train1_test2.*"):
    file.unlink()
  with pytest.raises(UserError, match="of split 'train1_test2' is missing"):
    ids("train1")


def test_no_data_dir():
  with pytest.raises(UserError, match="data.data_dir is empty"):
    sources.open_source("clips/official", "", "train")


def test_missing_shard_and_empty_split(tmp_path, records):
  raw = [records.serialize(records.clip(i)) for i in range(3)]
  directory = records.write_built(tmp_path, "clips", {"train": raw, "test": []})
  with pytest.raises(UserError, match="split 'test' of clips has no records"):
    sources.open_source("clips", str(tmp_path), "test")
  (directory / "clips-train.tfrecord-00001-of-00003").unlink()
  with pytest.raises(UserError, match="shard 1 of the 3 of split 'train'"):
    sources.open_source("clips", str(tmp_path), "train")


def test_records_of_another_kind(tmp_path, records):
  records.write_built(tmp_path, "clips", {"train": [b"no example"] * 3})
  with pytest.raises(UserError, match="none of the first 3 records can be"):
    sources.open_source("clips", str(tmp_path), "train")
  records.write_built(tmp_path, "other", {"train": []}, features=("x", "y"))
  with pytest.raises(UserError, match="other: no feature is a Video, an Audio"):
    sources.open_source("other", str(tmp_path), "train")


def test_a_corrupt_first_record_does_not_hide_the_others(tmp_path, records):
  raw = [b"no example", records.serialize(records.clip(1))]
  records.write_built(tmp_path, "clips", {"train": raw})
  assert len(sources.open_source("clips", str(tmp_path), "train").index) == 2


def test_images_of_tensorflow_datasets(tmp_path, records):
  # Written by tensorflow-datasets itself.
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import example_serializer
  spec = tfds.features.FeaturesDict({
      "image": tfds.features.Image(shape=(28, 28, 1)),
      "label": tfds.features.ClassLabel(names=["zero", "one"])})
  picture = records.picture(1, 0, 28, 28)[..., :1]
  raw = example_serializer.ExampleSerializer(
      spec.get_serialized_info()).get_tf_example(
          spec.encode_example({"image": picture, "label": 1}))
  directory = records.write_built(
      tmp_path, "mnist", {"train": [raw.SerializeToString()]}, 1, False)
  spec.save_config(str(directory))
  assert "image" in json.loads(
      (directory / "features.json").read_text())["featuresDict"]["features"]
  source = sources.open_source("tfds:mnist", str(tmp_path), "train")
  assert source.label_names == ("zero", "one")
  # A class's number is that of its line; a name may have any white space.
  names = directory / "label.labels.txt"
  names.write_bytes("zero\r\no\u2028ne\r\n".encode())
  assert sources.open_source("tfds:mnist", str(tmp_path), "train"
                             ).label_names == ("zero", "o\u2028ne")
  names.write_text("zero\n\none\n")
  with pytest.raises(UserError, match="label.labels.txt: line 2 is empty, exp"):
    sources.open_source("tfds:mnist", str(tmp_path), "train")
  example = read(source)
  np.testing.assert_array_equal(
      tf.io.decode_png(example["frames"][0]), picture)
  assert example["frames"].shape == [1] and example["audio"] == b""
  assert example["label"].numpy().tolist() == [1]


def test_opening_a_dataset_does_not_load_tensorflow_datasets(
    clips_dir, python_env):
  import subprocess
  import sys
  subprocess.run([sys.executable, "-c", (
      "import sys\n"
      "from vatt.data import sources\n"
      f"sources.open_source('clips/official', {str(clips_dir)!r}, 'test')\n"
      "assert 'tensorflow_datasets' not in sys.modules\n"
      "assert 'tensorflow_io' not in sys.modules\n")],
      env=python_env, check=True)


def test_few_labels(clips_dir):
  """Of 23 clips, class c has those numbered c, c + 10 and c + 20."""
  source = sources.open_source("clips/official", str(clips_dir), "train")
  labels = [int(read(source, i)["label"][0]) for i in range(len(source.index))]
  assert sorted(labels) == sorted(i % 10 for i in range(23))
  chosen = set()
  for seed in range(4):
    few = sources.few_labels(source, 2, seeds.root(seed))
    ids = [read(few, i)["id"].numpy() for i in range(len(few.index))]
    assert len(set(ids)) == len(ids) == 20
    found = [int(read(few, i)["label"][0]) for i in range(20)]
    assert sorted(found) == sorted(2 * list(range(10)))
    chosen.add(tuple(ids))
  assert len(chosen) > 1
  again = sources.few_labels(source, 2, seeds.root(3))
  np.testing.assert_array_equal(again.index.offsets, few.index.offsets)


def test_few_labels_of_clips_with_several(records, tmp_path):
  """A clip counts for each of its labels, and is taken for any that lacks
  clips; one without a label is none."""
  clips = [records.clip(i, label=label) for i, label in enumerate(
      [[0, 1], [1, 2], [2], [1]])]
  unlabelled = dict(records.clip(9), label=[])
  records.write_built(tmp_path, "clips/several", {
      "train": [records.serialize(clip) for clip in [*clips, unlabelled]],
      "test": [records.serialize(unlabelled)]}, num_shards=1)
  source = sources.open_source("clips/several", str(tmp_path), "train")
  for seed in range(6):
    few = sources.few_labels(source, 1, seeds.root(seed))
    labels = [set(read(few, i)["label"].numpy()) for i in range(len(few.index))]
    assert set.union(*labels) == {0, 1, 2} and all(labels)
    assert len(few.index) < 4
  test = sources.open_source("clips/several", str(tmp_path), "test")
  with pytest.raises(UserError, match="split 'test' has no labels"):
    sources.few_labels(test, 1, seeds.root(0))
