"""Windows of records, through the evaluation input: each record is one row."""
import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from vatt import preprocess
from vatt.data import input_pipeline, sources
from vatt.data.ingest.cues import Cues


@pytest.fixture
def read(tmp_path, records):
  """A function (raw records, config fields) -> the rows of their windows."""

  def read(raw, num_windows=1, name="clips", features=("frames",), **fields):
    if not (tmp_path / "clips").exists():
      records.write_built(tmp_path, "clips", {"test": raw}, 1,
                          features=features)
    source = sources.open_source(name, str(tmp_path), "test")
    dataset = input_pipeline.eval_dataset(
        records.config(tmp_path, **fields), source, len(raw) * num_windows,
        num_windows)
    batch, = dataset
    return {key: value.numpy() for key, value in batch.items()}

  return read


def test_what_a_record_has_not_is_masked(read, records):
  whole, fast = records.clip(0), records.clip(0, rate=16000)
  raw = [records.serialize(whole | changes) for changes in (
      {}, {"frames": [], "fps": 0.0}, {"audio": b"", "audio_rate": 0},
      {"captions": []}, {"captions": [("", 0.0, 1.0), ("!?", 0.0, 1.0)]},
      {"label": []}, {"audio": whole["audio"][:6000]},
      {"audio": fast["audio"], "audio_rate": 16000})]
  rows = read(raw, enlarge_on_device=True)
  assert not rows["corrupt"].any()
  assert "video_part" not in rows  # That is for training alone.
  assert rows["video_mask"].tolist() == [1, 0, 1, 1, 1, 1, 1, 1]
  assert rows["audio_mask"].tolist() == [1, 1, 0, 1, 1, 1, 1, 1]
  assert rows["caption_mask"].tolist() == [
      [1, 0], [1, 0], [1, 0], [0, 0], [0, 0], [1, 0],
      [1, 0], [1, 0]]
  assert rows["label"].tolist() == [0, 0, 0, 0, 0, -1, 0, 0]
  assert not rows["video"][1].any() and not rows["audio"][2].any()
  assert rows["audio"][1].any() and rows["video"][2].any()
  # Windows lie in the middle, 0.25 … 0.75 s, without frames too.
  sound = np.frombuffer(whole["audio"], "<i2")
  for row in (0, 1):
    np.testing.assert_array_equal(rows["audio"][row, :, 0], sound[2000:6000])
  # Sound that ends at 0.375 s is followed by silence.
  np.testing.assert_array_equal(rows["audio"][6, :1000, 0], sound[2000:3000])
  assert not rows["audio"][6, 1000:].any()
  # Sound of another rate is resampled.
  np.testing.assert_allclose(
      rows["audio"][7, :, 0], sound[2000:6000].astype(int), atol=60)


def test_captions_nearest_in_time_first(tmp_path, records):
  captions = [(f"number {i}", *span) for i, span in enumerate(
      [(0.0, 0.0625), (0.375, 0.4), (0.15, 0.1875), (0.2, 0.3), (0.0, 0.5),
       (0.4375, 0.5)])]
  clip = records.clip(0, num_frames=4, seconds=0.5, captions=captions)
  raw = [records.serialize(clip)]
  records.write_built(tmp_path, "clips", {"train": raw}, 1)
  source = sources.open_source("clips", str(tmp_path), "train")
  batch = next(iter(input_pipeline.train_dataset(
      records.config(tmp_path, captions=5, words=3), [source], 20, 0, 0)))
  # The window is the whole clip. From its middle, 1/4 s: 3 and 4 have it
  # within, then 2 (1/16 s), 1 (1/8 s) and, as far (3/16 s), 0 and 5, of which
  # either is drawn.
  rows = batch["text"][:, :, 1].numpy() - 6
  np.testing.assert_array_equal(rows[:, :4], [[3, 4, 2, 1]] * 20)
  assert set(rows[:, 4]) == {0, 5}


def test_captions_of_evaluation_are_the_first_in_every_window(read, records):
  """A clip's caption is one sentence, whatever the windows it is averaged
  over."""
  captions = [(f"number {i}", i / 4, i / 4 + 0.2) for i in range(16)]
  raw = [records.serialize(records.clip(
      0, num_frames=32, seconds=4.0, captions=captions))]
  rows = read(raw, num_windows=4, captions=3, words=3)
  np.testing.assert_array_equal(rows["text"][:, :, 1] - 6, [[0, 1, 2]] * 4)


def test_captions_around_a_clip_are_for_training_alone(read, records):
  """Evaluation takes a clip's own, or none; times are floats, to the
  millisecond, and sound may go on behind the frames."""
  around = [("number 8", -3.0, -0.001), ("number 9", -2.0, 0.0),
            ("number 10", 1.0, 1.5), ("number 11", 1.001, 2.0)]
  own = [("number 1", -0.5, 0.001), ("number 2", 0.999, 3.0)]
  untimed = [("number 3", 0.0, 0.0), ("number 4", 0.0, 0.0)]  # as in DMVR's
  clip = records.clip(0)  # a second of frames and sound
  silent = {"audio": b"", "audio_rate": 0}
  still = {"frames": [], "fps": 0.0}
  rows = read([records.serialize(clip | changes) for changes in (
      {"captions": own + around}, {"captions": around + own},
      {"captions": around}, {"captions": untimed + around},
      {"captions": own + around} | silent, {"captions": own + around} | still,
      {"captions": own + around, "frames": clip["frames"][:4]},
      {"captions": own + around, "audio": clip["audio"][:6000]},
      {"captions": own + around, "frames": clip["frames"][:4],
       "audio": clip["audio"][:8000]})], captions=3, words=3)
  assert [row[mask].tolist() for row, mask in zip(
      rows["text"][..., 1] - 6, rows["caption_mask"])] == [
          [1, 2], [1, 2], [], [3, 4], [1, 2], [1, 2], [1, 2], [1, 2], [1]]


def test_captions_that_a_record_keeps_are_as_good_as_all(tmp_path, records):
  """Windows of training have the same with those of a whole film."""
  chance = np.random.default_rng(0)
  starts = np.cumsum(chance.uniform(0.5, 4, 60)).round(3)
  cues = [(f"number {i}", start, start + length) for i, (start, length) in
          enumerate(zip(starts, chance.uniform(0.3, 6, 60).round(3)))]
  batches = []
  for name in "all", "kept":
    raw = []
    for start in (0, 40, 80, 120, 160):
      captions = Cues(cues).of_clip(start, start + 10) if name == "kept" else [
          (text, a - start, b - start) for text, a, b in cues]
      raw.append(records.serialize(records.clip(
          0, num_frames=0, seconds=10.0, captions=captions, rate=1000)))
    # Under one name, which is part of a run's seed.
    records.write_built(tmp_path / name, "clips", {"train": raw}, 1)
    data = records.config(tmp_path / name, captions=5, words=3, frames=0,
                          audio_samples=3200, audio_rate=1000)
    source = sources.open_source("clips", str(tmp_path / name), "train")
    batches.append(next(iter(input_pipeline.train_dataset(
        data, [source], 100, 0, 0)))["text"][:, :, 1].numpy())
  np.testing.assert_array_equal(*batches)
  assert len(np.unique(batches[0])) > 30


def test_clips_may_be_enlarged_on_the_device(tmp_path, records):
  """The same windows and crops, up to a rounding."""
  raw = [records.serialize(records.clip(i) | changes) for i, changes in
         enumerate(({}, {"frames": [], "fps": 0.0}, {}))]
  records.write_built(tmp_path, "clips", {"train": raw}, 1)
  source = sources.open_source("clips", str(tmp_path), "train")
  videos = []
  for device in False, True:
    data = records.config(
        tmp_path, crop_area=(0.05, 1.0), enlarge_on_device=device, captions=0,
        audio_samples=0)
    batch = next(iter(input_pipeline.train_dataset(data, [source], 9, 0, 0)))
    assert ("video_part" in batch) == device
    inputs = preprocess.model_inputs(
        preprocess.signal_of(batch, "video"),
        ConfigDict(dict(data=data, model=dict(audio_input="waveform"))))
    assert set(inputs) == {"video"}
    videos.append(inputs["video"].numpy())
  np.testing.assert_allclose(*videos, atol=2.01 / 255)
  part, mask = batch["video_part"].numpy(), batch["video_mask"].numpy()
  assert (part[~mask] == data.size).all() and (part[mask] < data.size).any()
  assert (part >= 1).all() and (part <= data.size).all() and not mask.all()


def test_flac(read, records):
  clip = records.clip(0)
  sound = np.frombuffer(clip["audio"], "<i2")
  raw = [records.serialize(clip | {"audio": audio}) for audio in (
      records.flac(sound[:, None], 8000), b"", b"fLaC and nothing")]
  rows = read(raw)
  np.testing.assert_array_equal(rows["audio"][0, :, 0], sound[2000:6000])
  assert rows["audio_mask"].tolist() == [True, False, False]
  assert rows["corrupt"].tolist() == [False, False, True]


@pytest.mark.parametrize("name", ["clips/a+audio=flac+b"])
def test_flac_is_known_by_the_name(tmp_path, records, name):
  """Where the first record has no sound."""
  clip = records.clip(0)
  sound = np.frombuffer(clip["audio"], "<i2")
  raw = [records.serialize(clip | {"audio": audio}) for audio in (
      b"", records.flac(sound[:, None], 8000))]
  records.write_built(tmp_path, name, {"test": raw}, 1)
  source, versioned = (
      sources.open_source(which, str(tmp_path), "test")
      for which in (name, f"{name}:1.0.0"))
  assert source.flac and versioned.flac
  assert sources.says_flac("clips/audio=flac")
  assert not any(map(sources.says_flac, (
      "clips/audio=flacs", "dmvr:/a/b+audio=flac", "clips/b+audio=pcm")))
  batch, = input_pipeline.eval_dataset(records.config(tmp_path), source, 2)
  assert not batch["corrupt"].numpy().any()
  np.testing.assert_array_equal(batch["audio"][1, :, 0], sound[2000:6000])


def test_one_image_is_a_clip_that_stands_still(read, records):
  raw = tf.train.Example(features=tf.train.Features(feature={
      "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[
          tf.io.encode_png(records.picture(0, 0, 16, 16)).numpy()]))}))
  row = read([raw.SerializeToString()], name="tfds:clips", features=("image",))
  for frame in row["video"][0]:
    np.testing.assert_array_equal(frame, records.picture(0, 0, 16, 16))
  assert not row["audio_mask"].any() and not row["caption_mask"].any()


def test_windows_are_spread_evenly_and_frames_cropped_in_the_middle(
    read, records):
  # 32 frames: windows of 4 frames two apart can start at 0 … 24.
  clip = records.clip(1, num_frames=32, fps=8.0, seconds=4.0, height=20,
                      width=12, encode=tf.io.encode_png)
  for num_windows, starts in (1, [12]), (4, [0, 8, 16, 24]):
    rows = read([records.serialize(clip)], num_windows, frames=4, fps=4.0,
                size=12, audio_samples=8000)
    for row, start in zip(range(num_windows), starts):
      for t in range(4):
        np.testing.assert_array_equal(
            rows["video"][row, t],
            records.picture(1, start + 2 * t, 20, 12)[4:16])
      np.testing.assert_array_equal(
          rows["audio"][row, :, 0],
          np.frombuffer(clip["audio"], "<i2")[1000 * start:][:8000])


@pytest.fixture
def taken(read, records, golden_dir):
  """A function (name of the release's frames of 100) -> those, and ours."""

  def taken(name):
    expected = np.load(golden_dir / "data.npz")[name]
    windows = 4 if "n4" in name else 1
    frames = len(expected) // windows
    stride = expected[1] - expected[0]
    clip = records.clip(0)
    clip["frames"] = [tf.io.encode_png(np.full([2, 2, 3], t, np.uint8)).numpy()
                      for t in range(100)]
    rows = read([records.serialize(clip | {"fps": 25.0})], windows,
                frames=frames, fps=25.0 / stride, size=2, audio_samples=0)
    return expected.reshape(windows, frames), rows["video"][..., 0, 0, 0]

  return taken


@pytest.mark.parametrize("name", [
    "linspace_n4_frames8_stride2", "linspace_n4_frames16_stride1",
    "middle_8_stride2"])
def test_frames_are_those_of_the_release(taken, name):
  expected, found = taken(name)
  np.testing.assert_array_equal(found, expected)


def test_a_single_window_is_in_the_middle(taken):
  """A single window is the first there, and in the middle here."""
  expected, found = taken("linspace_n1_frames8_stride2")
  np.testing.assert_array_equal(found, expected + 42)


def test_a_clip_that_is_too_short_stands_still_at_its_end(taken):
  """In the release it starts over."""
  expected, found = taken("linspace_n4_frames32_stride4")
  np.testing.assert_array_equal(expected[:, 25:], [np.arange(0, 28, 4)] * 4)
  np.testing.assert_array_equal(found[:, :25], expected[:, :25])
  assert (found[:, 25:] == 99).all()
