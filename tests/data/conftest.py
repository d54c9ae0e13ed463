"""Small datasets of real JPEG frames and PCM tones, made by the tests."""
import io
import json
import types

import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from vatt.data.datasets import clips
from vatt.data.ingest import matching
from vatt.data.ingest.workers import Workers

RATE = 8000
VOCABULARY = ("this", "is", "clip", "number")  # And 0 … 199.


def picture(i, t, height=32, width=32):
  """A smooth picture that tells clip i and frame t: uint8 [H, W, 3]."""
  y, x = np.mgrid[0:1:height * 1j, 0:1:width * 1j]
  red = 127 + 120 * np.sin(2 * np.pi * (x + i / 7))
  green = 127 + 120 * np.cos(2 * np.pi * (y - i / 11))
  blue = np.full_like(x, 8 * (t % 32))
  return np.stack([red, green, blue], -1).astype(np.uint8)


def tone(i, seconds, rate=RATE):
  """A tone whose pitch tells clip i: int16 [S]."""
  t = np.arange(int(seconds * rate)) / rate
  return np.int16(12000 * np.sin(2 * np.pi * (200 + 20 * i) * t))


def clip(i, num_frames=8, fps=8.0, seconds=1.0, captions=None, label=(),
         rate=RATE, height=32, width=32, encode=tf.io.encode_jpeg):
  """An example dict in NumPy, as a built record holds it."""
  if captions is None:
    captions = [(f"this is clip number {i}", 0.0, seconds)]
  return {
      "id": f"clip{i}".encode(), "start": 0.0, "fps": fps,
      "frames": [encode(picture(i, t, height, width)).numpy()
                 for t in range(num_frames)],
      "audio": tone(i, seconds, rate).astype("<i2").tobytes(),
      "audio_rate": rate, "captions": captions,
      "label": list(label) or [i % 10],
  }


def flac(samples, rate):
  """A FLAC file of int16 [S, C], written by FFmpeg."""
  import av
  buffer = io.BytesIO()
  layout = {1: "mono", 2: "stereo"}[samples.shape[1]]
  with av.open(buffer, "w", format="flac") as container:
    stream = container.add_stream("flac", rate=rate, layout=layout)
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(samples.reshape(1, -1)), "s16", layout)
    frame.sample_rate = rate
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return buffer.getvalue()


def serialize(example):
  """A tf.train.Example with flat keys, as tensorflow-datasets writes it."""
  def feature(values):
    if values and isinstance(values[0], bytes):
      return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if values and isinstance(values[0], float):
      return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

  texts, starts, ends = (list(v) for v in zip(*example["captions"])) if (
      example["captions"]) else ([], [], [])
  lists = {
      "id": [example["id"]], "start": [example["start"]],
      "frames": example["frames"], "fps": [example["fps"]],
      "audio": [example["audio"]], "audio_rate": [example["audio_rate"]],
      "captions/text": [text.encode() for text in texts],
      "captions/start": starts, "captions/end": ends,
      "label": example["label"],
  }
  # An empty list is stored without a kind, as tensorflow-datasets does.
  return tf.train.Example(features=tf.train.Features(feature={
      key: feature(values) if values else tf.train.Feature()
      for key, values in lists.items()})).SerializeToString()


def write_records(path, records):
  """Writes a TFRecord file; returns the offsets of its records."""
  offsets, offset = [], 0
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in records:
      writer.write(record)
      offsets.append(offset)
      offset += len(record) + 16
  return offsets


def write_built(data_dir, name, splits, num_shards=3, sidecars=True,
                features=("frames",)):
  """Writes a built dataset, in the layout of tensorflow-datasets.

  Args:
    name: e.g. "clips/official".
    splits: dict of split to list of serialized records.
  """
  directory = data_dir / name / "1.0.0"
  directory.mkdir(parents=True)
  base = name.split("/")[0]
  for split, records in splits.items():
    for s in range(num_shards):
      file = directory / f"{base}-{split}.tfrecord-{s:05d}-of-{num_shards:05d}"
      part = records[s * len(records) // num_shards:
                     (s + 1) * len(records) // num_shards]
      offsets = write_records(file, part)
      if sidecars:
        (directory / (file.name + ".index.json")).write_text(json.dumps(
            {"bytes": file.stat().st_size, "offsets": offsets}))
  (directory / "features.json").write_text(json.dumps(
      {"featuresDict": {"features": {key: {key: {}} for key in features}}}))
  (directory / "label.labels.txt").write_text("\n".join("abcdefghij") + "\n")
  (directory / "dataset_info.json").write_text("{}")
  (directory / "vocabulary.txt").write_text(
      "".join(f"{word}\n" for word in (*VOCABULARY, *range(200))))
  return directory


def config(data_dir="", **changes):
  """config.data for the clips of this file."""
  data = dict(
      data_dir=str(data_dir), datasets=("clips/official",), shares=(1,),
      classes=0,
      train_split="train", eval_split="test", vocabulary="", frames=4, fps=8.0,
      size=16, audio_samples=4000, audio_rate=RATE, captions=2, words=6,
      crop_area=(0.3, 1.0), crop_aspect=(0.5, 2.0), shuffle_captions=False,
      enlarge_on_device=False, max_corrupt_share=0.001, cache=False)
  unknown = set(changes) - set(data)
  assert not unknown, unknown
  return ml_collections.ConfigDict(data | changes)


def in_dataset(function, *args):
  """The value of a function of tensors computed within tf.data."""
  dataset = tf.data.Dataset.from_tensors(args).map(function)
  return next(iter(dataset))


@pytest.fixture(scope="session")
def records():
  """The functions of this file: `records.clip(3)`."""
  return types.SimpleNamespace(**{
      name: value for name, value in globals().items() if callable(value)})


@pytest.fixture(scope="session")
def workers():
  return Workers()


@pytest.fixture
def one_set_of_workers(monkeypatch, workers):
  """Processes that serve the builds of many tests: one starts in 0.4 s."""
  for module in clips, matching:
    monkeypatch.setattr(module, "Workers", lambda: workers)


@pytest.fixture(scope="session")
def clips_dir(tmp_path_factory):
  """data_dir of clips/official: 23 records to train, 7 to test."""
  data_dir = tmp_path_factory.mktemp("built")
  write_built(data_dir, "clips/official", {
      "train": [serialize(clip(i)) for i in range(23)],
      "test": [serialize(clip(100 + i)) for i in range(7)]})
  return data_dir


def check_rows_are_changed_alike(change, batch):
  """To the last bit: in a larger batch or a smaller one, on two replicas."""
  strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
  halves = strategy.experimental_distribute_values_from_function(
      lambda context: tf.split(batch, 2)[context.replica_id_in_sync_group])
  run = tf.function(lambda batch: strategy.run(change, args=(batch,)),
                    autograph=False)
  # A graph may divide otherwise than single operations do.
  change_alone = tf.function(change, autograph=False)
  whole = change_alone(batch)
  np.testing.assert_array_equal(
      tf.concat(strategy.experimental_local_results(run(halves)), 0), whole)
  for few in (2, 3):
    np.testing.assert_array_equal(change_alone(batch[:few]), whole[:few])
