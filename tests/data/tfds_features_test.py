"""Data sets that tensorflow-datasets builds, by its own builders."""
import json

import numpy as np
import pytest
import tensorflow as tf

from vatt.data import (
  audio,
  input_pipeline,
  record_index,
  sources,
  tfds_features,
)
from vatt.errors import UserError
from vatt.reports import dataset_facts

STEREO = np.stack([np.arange(-400, 400), np.full(800, 100)], 1)  # [S, C]
SPLIT = "train"


def contents(records, folder):
  """What the data sets are made of: {configuration: (features, example)}."""
  import tensorflow_datasets as tfds
  f, clip = tfds.features, records.clip(3)
  tone = np.frombuffer(clip["audio"], "<i2")
  paths = []
  for i, frame in enumerate(clip["frames"]):
    paths.append(str(folder / f"{i}.jpg"))
    (folder / f"{i}.jpg").write_bytes(frame)
  (folder / "x.flac").write_bytes(records.flac(tone[:, None], 8000))
  return {
      "video": ({
          "front": f.Video((None, None, None, 3), encoding_format="jpeg"),
          "poster": f.Image(encoding_format="jpeg"),
          "speech": f.Audio(sample_rate=8000),
          "label": f.ClassLabel(names=["zero", "one", "two"]),
          "file_name": f.Text(), "cues": f.Sequence({"text": f.Text()})},
          dict(front=paths, poster=paths[7], speech=tone, label=2,
               file_name="a.mp4", cues={"text": ["this is", "a clip"]})),
      "stereo": ({
          "sound": f.Audio(shape=(None, 2), dtype=np.int16, sample_rate=8000),
          "tags": f.Sequence(f.ClassLabel(num_classes=4))},
          dict(sound=np.int16(STEREO), tags=[1, 3])),
      "float": ({"audio": f.Audio(dtype=np.float32), "x": f.Tensor(
          shape=(2,), dtype=np.float32)},
          dict(audio=np.float32(tone / 32768), x=[1, 2])),
      "flac": ({"audio": f.Audio(
          file_format="flac", lazy_decode=True, dtype=np.int16,
          sample_rate=8000)}, dict(audio=str(folder / "x.flac"))),
      "nested": ({"n": {
          "left": f.Image(encoding_format="jpeg"),
          "right": f.Image(encoding_format="jpeg"),
          "coarse": f.ClassLabel(names=["a"])},
          "label": f.ClassLabel(num_classes=2)},
          dict(n=dict(left=paths[0], right=paths[1], coarse=0), label=1)),
      "frames": ({"frames": f.Sequence(f.Image(encoding_format="jpeg")),
                  "mask": f.LabeledImage(labels=2, shape=(None, None, 1))},
                 dict(frames=paths, mask=np.zeros([2, 2, 1], np.uint8))),
      "loud": ({"audio": f.Audio()}, dict(audio=np.array([0, 40_000, 2]))),
  }


@pytest.fixture(scope="module")
def built(tmp_path_factory, records):
  """data_dir of `tiny` in several configurations, and the clip they hold."""
  import tensorflow_datasets as tfds
  folder = tmp_path_factory.mktemp("tfds")
  made = contents(records, folder)

  class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    __module__ = "__main__"  # tfds looks for the files of packages
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in made]

    def _info(self):
      return tfds.core.DatasetInfo(
          builder=self, features=tfds.features.FeaturesDict(
              made[self.builder_config.name][0]))

    def _split_generators(self, dl_manager):
      return {SPLIT: self._generate_examples()}

    def _generate_examples(self):
      yield 0, made[self.builder_config.name][1]

  for name in made:
    Tiny(data_dir=str(folder), config=name).download_and_prepare()
  return str(folder), records.clip(3)


def open_tiny(built, query):
  return sources.open_source(f"tfds:tiny/{query}", built[0], SPLIT)


def read(source):
  """The example of the first record, which is the same in tf.data."""
  raw = record_index.read_all(source.index)[0]
  example = {key: value.numpy() for key, value in source.parse(raw).items()}
  inside, = tf.data.Dataset.from_tensors(raw).map(source.parse)
  for key, value in example.items():
    np.testing.assert_array_equal(inside[key], value, key)
  return example


def test_video_sound_and_label(built):
  clip = built[1]
  source = open_tiny(built, "video?fps=8")
  assert source.label_names == ("zero", "one", "two") and source.fps == 8.0
  example = read(source)
  assert example["frames"].tolist() == clip["frames"]  # its own bytes
  np.testing.assert_array_equal(
      example["audio"], np.frombuffer(clip["audio"], "<i2"))
  assert example["audio_rate"] == 8000 and example["label"].tolist() == [2]
  assert example["captions/text"].size == 0  # a text may be a file's name
  example = read(open_tiny(built, "video?image=poster&caption=cues%2Ftext"))
  assert example["frames"].tolist() == clip["frames"][7:] and (
      example["fps"] == 1.0)
  assert example["captions/text"].tolist() == [b"this is", b"a clip"]
  example = read(open_tiny(built, "video?fps=8&audio_rate=0"))
  assert example["audio"] == b"" and len(example["frames"]) == 8


@pytest.mark.parametrize("query", ["float?audio_rate=8000", "flac"])
def test_sound_alone(built, query):
  source = open_tiny(built, query)
  example = read(source)
  np.testing.assert_array_equal(
      audio.samples(tf.constant(example["audio"]), source.flac),
      np.frombuffer(built[1]["audio"], "<i2"))
  assert example["frames"].size == 0 and example["audio_rate"] == 8000
  # No frame at all, which a graph knows.
  assert dataset_facts.look(source, np.arange(1)).having == {("sound",): 1}


def test_channels_are_averaged_and_clips_have_several_labels(built):
  source = open_tiny(built, "stereo")
  assert source.label_names == ("0", "1", "2", "3")
  example = read(source)
  # Halves go to the even number.
  np.testing.assert_array_equal(example["audio"], np.round(STEREO.mean(1)))
  assert example["label"].tolist() == [1, 3]


def test_images_of_several(built):
  source = open_tiny(built, "nested?image=n/right")
  assert read(source)["frames"].tolist() == built[1]["frames"][1:2]
  assert source.label_names == ("0", "1") and read(source)["label"] == [1]
  source = open_tiny(built, "nested?image=n/left&label=n/coarse")
  assert source.label_names == ("a",) and read(source)["label"] == [0]
  # A sequence of images is a video, and a mask is none.
  assert read(open_tiny(built, "frames?fps=4"))["frames"].tolist() == (
      built[1]["frames"])


def test_a_batch(built, records):
  source = open_tiny(built, "video?fps=8&caption=cues/text")
  config = records.config(datasets=(source.name,), classes=3)
  path = f"{source.directory}/vocabulary.txt"
  with tf.io.gfile.GFile(path, "w") as f:
    f.write("clip\n")
  batch, = input_pipeline.train_dataset(config, [source], 2, 0, 0).take(1)
  assert not batch["corrupt"].numpy().any() and batch["video"].numpy().any()
  assert batch["labels"].numpy().tolist() == [[False, False, True]] * 2
  assert batch["text"][0, 1].numpy().tolist()[:3] == [1, 2, 0]
  assert batch["audio_mask"].numpy().all()


@pytest.mark.parametrize("query,message", [
    ("video", r"records have frames but no fps, expected .*: \?fps=NUMBER$"),
    ("float", "records have audio but no audio_rate"),
    ("stereo?audio_rate=16000", "is 16000, expected the 8000 of its feature "),
    ("nested", r"several features are image, expected .*\?image= one of "
     "n/left, n/right$"),
    ("nested?image=n/up", "no image 'n/up', expected one of n/left, n/right$"),
    ("stereo?video=v", "no video 'v', expected one of none, as there is none"),
    ("stereo?fsp=3", "unknown 'fsp', expected fps, audio_rate, video, "),
    ("loud?audio_rate=8000", "samples from 0 to 40000, expected 16 bits$"),
])
def test_what_cannot_be_read_is_told(built, query, message):
  with pytest.raises(UserError, match=message):
    open_tiny(built, query)


@pytest.mark.parametrize("content,message", [
    ({"lazyDecode": True, "fileFormat": "wav"}, "kept in files of wav, exp"),
    ({"encoding": "ZLIB"}, "kept with the encoding ZLIB"),
    ({"shape": {"dimensions": ["-1", "-1"]}}, "kept with any number of chann"),
    ({"dtype": "float64"}, "kept as float64")])
def test_sound_that_is_kept_otherwise(content, message):
  chosen = {"audio": tfds_features.Feature("a", "audio", content)}
  with pytest.raises(UserError, match=f"x: the sound a is {message}"):
    tfds_features.make_parser("x", chosen, {})
  assert tfds_features.make_parser("x", chosen, {"audio_rate": 0})


def test_what_lists_are_of():
  """A list of images is a video; no record has a list of anything longer."""
  def listed(feature):
    return {"sequence": {"feature": feature}}

  def together(**features):
    return {"featuresDict": {"features": features}}

  found = tfds_features.flatten({
      "steps": listed(together(
          view={"image": {}}, film={"video": {}}, sound={"audio": {}},
          tags=listed({"classLabel": {}}), said={"text": {}},
          deep=together(tag={"classLabel": {}}))),
      "films": listed({"video": {}}), "sounds": listed({"audio": {}}),
      "mask": {"image": {"label": {}}}, "sound": {"audio": {}},
      # As four channels of bytes, of which each number is made.
      "depth": {"image": {"dtype": "float32"}},
      "old": {"image": {"dtype": ""}}, "scan": {"image": {"dtype": "uint16"}}})
  assert [(each.key, each.kind) for each in found] == [
      ("steps/view", "video"), ("steps/said", "caption"),
      ("steps/deep/tag", "label"), ("sound", "audio"), ("old", "image"),
      ("scan", "image")]


def test_of_several_the_one_that_is_called_so_is_taken():
  """As of oxford_iiit_pet, whose masks are images, and its species labels."""
  found = list(tfds_features.flatten({
      "segmentation_mask": {"image": {}}, "image": {"image": {}},
      "species": {"classLabel": {}}, "label": {"classLabel": {}}}))
  chosen = tfds_features.choose("x", found, {})
  assert {kind: each.key for kind, each in chosen.items()} == {
      "image": "image", "label": "label"}
  assert tfds_features.choose("x", found, {"image": "segmentation_mask"})[
      "image"].key == "segmentation_mask"


def test_files_that_are_not_there(tmp_path, records):
  """Nothing of it is mended by our script."""
  directory = records.write_built(
      tmp_path, "mine", {"train": [b""] * 2}, 2, features=("image",))
  (directory / "mine-train.tfrecord-00001-of-00002").unlink()
  with pytest.raises(UserError, match=(
      "shard 1 of the 2 of split 'train' is missing; build the data set "
      "again$")):
    sources.open_source("tfds:mine", str(tmp_path), "train")
  (directory / "dataset_info.json").write_text(
      '{"fileFormat": "array_record", "splits": [{"name": "train"}]}')
  with pytest.raises(UserError, match="has files of array_record, expected tf"):
    sources.open_source("tfds:mine", str(tmp_path), "train")


def test_features_of_other_kinds_alone(tmp_path, records):
  directory = records.write_built(
      tmp_path, "other", {"train": [b""]}, 1, features=("x", "label"))
  with pytest.raises(UserError, match="no feature is a Video, an Audio or an "):
    sources.open_source("tfds:other", str(tmp_path), "train")
  (directory / "features.json").write_text(json.dumps(
      {"featuresDict": {"features": {"x": 3}}}))
  with pytest.raises(UserError, match="features.json: damaged"):
    sources.open_source("tfds:other", str(tmp_path), "train")
