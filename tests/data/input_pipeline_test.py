import dataclasses
import io
import re

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from vatt import train as train_lib
from vatt.data import input_pipeline, sources
from vatt.errors import UserError

MASKS = {"video_mask", "audio_mask", "caption_mask", "word_mask"}


def batches(dataset, count):
  """The first batches, in NumPy."""
  return [{k: v.numpy() for k, v in batch.items()}
          for batch in dataset.take(count)]


def joined(batches):
  return {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}


def assert_same(a, b):
  assert a.keys() == b.keys()
  for key in a:
    np.testing.assert_array_equal(a[key], b[key], key)


def open_all(config, split="train"):
  return [sources.open_source(name, config.data_dir, split)
          for name in config.datasets]


def train(config, batch_size, count, start_step=0, seed=1, **hosts):
  return batches(input_pipeline.train_dataset(
      config, open_all(config), batch_size, seed, start_step, **hosts), count)


def clip_numbers(rows):
  """Which clip(i) a row is, by its caption "this is clip number i"."""
  return rows["text"][:, 0, 4] - 6


# -----------------------------------------------------------------------------
# Training.
# -----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def run(clips_dir, records):
  """Twelve batches of 10: five epochs of the 23 records, and more."""
  return train(records.config(clips_dir), 10, 12)


def test_batches_are_as_promised(clips_dir, records, run):
  config = records.config(clips_dir)
  dataset = input_pipeline.train_dataset(config, open_all(config), 5, 0, 0)
  expected = {
      "video": ("uint8", [5, 4, 16, 16, 3]), "audio": ("int16", [5, 4000, 1]),
      "text": ("int32", [5, 2, 6]), "word_mask": ("bool", [5, 2, 6]),
      "video_mask": ("bool", [5]), "audio_mask": ("bool", [5]),
      "caption_mask": ("bool", [5, 2]), "label": ("int32", [5]),
      "index": ("int64", [5]), "record": ("int32", [5]),
      "corrupt": ("bool", [5])}
  assert {k: (v.dtype.name, v.shape.as_list())
          for k, v in dataset.element_spec.items()} == expected
  for step, batch in enumerate(run):
    np.testing.assert_array_equal(batch["index"], 10 * step + np.arange(10))
    assert not batch["corrupt"].any()
    assert batch["video_mask"].all() and batch["audio_mask"].all()
    np.testing.assert_array_equal(batch["caption_mask"], [[True, False]] * 10)
    np.testing.assert_array_equal(batch["label"], clip_numbers(batch) % 10)


def test_a_row_is_a_window_of_its_record(clips_dir, records):
  # Frames and sound of a 0.5 s window at a stored frame, of the same clip.
  config = records.config(clips_dir, crop_area=(1.0, 1.0),
                          crop_aspect=(1.0, 1.0), size=32)
  rows = joined(train(config, 23, 4))
  starts = []
  for i, video, audio in zip(clip_numbers(rows), rows["video"], rows["audio"]):
    clip = records.clip(i)
    frames = np.stack([np.asarray(PIL.Image.open(io.BytesIO(f)))
                       for f in clip["frames"]])
    sound = np.frombuffer(clip["audio"], "<i2")
    matches = [s for s in range(5) if np.abs(
        frames[s:s + 4].astype(int) - video).max() <= 2]
    assert len(matches) == 1
    starts += matches
    np.testing.assert_array_equal(
        audio[:, 0], sound[1000 * matches[0]:1000 * matches[0] + 4000])
  counts = np.bincount(starts, minlength=5)
  assert (counts > 5).all(), counts  # 92 windows at five starts.


def test_every_record_once_an_epoch_in_an_order_of_its_own(run):
  numbers = clip_numbers(joined(run))
  epochs = numbers[:115].reshape(5, 23)
  for epoch in epochs:
    assert sorted(epoch) == list(range(23))
  assert len({tuple(epoch) for epoch in epochs}) == 5


def test_a_run_is_a_matter_of_its_seed(clips_dir, records, run):
  other, = train(records.config(clips_dir), 10, 1, seed=2)
  assert not np.array_equal(clip_numbers(other), clip_numbers(run[0]))


@pytest.mark.parametrize("start_step", [1, 9])
def test_any_start_is_the_tail_of_the_run_from_0(clips_dir, records, run,
                                                 start_step):
  tail = train(records.config(clips_dir), 10, 3, start_step)
  for a, b in zip(tail, run[start_step:]):
    assert_same(a, b)


def test_a_start_far_away_is_found_at_once(clips_dir, records):
  batch, = train(records.config(clips_dir), 10, 1, 10**11)
  np.testing.assert_array_equal(batch["index"], 10**12 + np.arange(10))
  assert 10**12 % 23 <= 13  # The batch lies within one epoch:
  assert len(set(clip_numbers(batch))) == 10


def test_windows_and_crops_differ_from_epoch_to_epoch(run):
  rows = joined(run)
  for i in range(23):
    videos = rows["video"][clip_numbers(rows) == i]
    assert len({video.tobytes() for video in videos}) == len(videos) >= 5


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, records):
  """A mixture, two to one, of clips 0 … 10 and 20 … 24: its config, and eleven
  batches of 12."""
  data_dir = tmp_path_factory.mktemp("mixed")
  for name, numbers in ("clips/official", range(11)), ("more", range(20, 25)):
    records.write_built(data_dir, name, {"train": [
        records.serialize(records.clip(i)) for i in numbers]}, 2)
  config = records.config(
      data_dir, datasets=("clips/official", "more"), shares=(2, 1))
  return config, train(config, 12, 11)


def test_mixture_has_its_shares_and_whole_epochs(mixed):
  rows = joined(mixed[1])
  np.testing.assert_array_equal(rows["index"], np.arange(132))
  numbers = clip_numbers(rows).reshape(11, 12)
  for batch in numbers:
    assert (batch < 20).sum() == 8
    for half in batch.reshape(2, 6):  # Two hosts: each has both.
      assert (half < 20).sum() == 4
  for records_of in range(11), range(20, 25):
    stream, n = numbers[np.isin(numbers, records_of)], len(records_of)
    epochs = stream[:len(stream) // n * n].reshape(-1, n)
    assert (np.sort(epochs) == records_of).all()
    assert len({tuple(epoch) for epoch in epochs}) > 4


def test_hosts_and_replicas_share_the_batch_of_one_host(mixed):
  config, whole = mixed
  hosts = [train(config, 12, 6, start_step=2, input_id=h, num_inputs=2,
                 rows_per_batch=3) for h in range(2)]
  for step in range(3):
    parts = [part for host in hosts for part in host[2 * step:2 * step + 2]]
    assert [len(part["index"]) for part in parts] == [3] * 4
    assert_same(joined(parts), whole[step + 2])


def test_a_row_says_which_record_of_its_dataset_it_is(mixed, caplog):
  """By which the log names it, if it is corrupt: here as if all were."""
  config, run = mixed
  rows = joined(run[3:5])
  train_lib.report_corrupt(
      ConfigDict(dict(data=config, batch_size=12)), open_all(config), 3,
      rows["record"].reshape(2, 12) + 1)
  named = re.findall(r"corrupt record: (\S+) at byte (\d+) \(position (\d+) ",
                     caplog.text)
  assert [int(position) for *_, position in named] == [
      *range(36, 44), *range(48, 56)]  # eight a step
  for path, offset, position in named:
    offset, position = int(offset), int(position)
    with open(path, "rb") as f:
      f.seek(offset)
      length = int.from_bytes(f.read(8), "little")
      f.seek(offset + 12)
      example = tf.train.Example.FromString(f.read(length))
    assert example.features.feature["id"].bytes_list.value[0] == (
        f"clip{clip_numbers(rows)[position - 36]}".encode())
  # With other captions, theirs may be the record that is corrupt.
  with config.unlocked():
    config.shuffle_captions = True
  caplog.clear()
  train_lib.report_corrupt(
      ConfigDict(dict(data=config, batch_size=12)), open_all(config), 3,
      rows["record"].reshape(2, 12) + 1)
  assert f"{path} at byte {offset}, or the one that its captions are of (" in (
      caplog.text)


def test_mixture_deals_rows_out_evenly(records):
  config = records.config(datasets=("a", "b"), shares=())
  dataset_of_row, rank = input_pipeline.mixture(config, 6)
  assert dataset_of_row.tolist() == [0, 1, 0, 1, 0, 1]
  assert rank.tolist() == [0, 0, 1, 1, 2, 2]
  config = records.config(datasets=("a", "b"), shares=(0.75, 0.25))
  dataset_of_row, rank = input_pipeline.mixture(config, 8)
  assert dataset_of_row.reshape(2, 4).sum(1).tolist() == [1, 1]
  assert sorted(rank[dataset_of_row == 0]) == list(range(6))


def test_shuffled_captions_are_those_of_a_fixed_other_record(
    clips_dir, records, run):
  config = records.config(clips_dir, shuffle_captions=True)
  plain, shuffled = joined(run[1:9]), joined(train(config, 10, 8, 1))
  for key in plain:
    if key not in ("text", "word_mask"):
      np.testing.assert_array_equal(shuffled[key], plain[key], key)
  pairs = set(zip(clip_numbers(plain), clip_numbers(shuffled)))
  assert len(pairs) == 23  # The same one in every epoch.
  assert sorted(b for _, b in pairs) == list(range(23))  # A permutation,
  assert sum(a == b for a, b in pairs) < 6  # and a random one.


@pytest.fixture(scope="module")
def many(tmp_path_factory, records):
  """A clip with twenty captions "number 0" ... of no times of their own, and
  one with four of them and one of another time: the config, and eight batches
  of 200."""
  data_dir = tmp_path_factory.mktemp("many")
  captions = [(f"number {i}", 0.0, 1.0) for i in range(20)]
  records.write_built(data_dir, "clips", {"train": [
      records.serialize(records.clip(0, captions=chosen))
      for chosen in (captions, captions[:4] + [("number 20", 5.0, 6.0)])]}, 1)
  config = records.config(data_dir, datasets=("clips",), captions=5, words=2,
                          frames=0)
  return config, train(config, 200, 8)


def test_of_captions_without_times_any_are_drawn(many):
  """Each as often as any, and so is each pair; in their order, and anew in
  each row. Where all have room, none is drawn."""
  rows = joined(many[1])["text"][:, :, 1] - 6
  few = rows[:, 4] == 20
  assert few.sum() == 800
  np.testing.assert_array_equal(rows[few], [[0, 1, 2, 3, 20]] * 800)
  drawn = rows[~few]
  assert (np.diff(drawn) > 0).all()  # none twice
  assert len({tuple(row) for row in drawn}) > 700  # of 15,504
  taken = (drawn[:, :, None] == np.arange(20)).any(1).astype(int)  # [800, 20]
  pairs = taken.T @ taken
  counts, pairs = np.diag(pairs), pairs[np.triu_indices(20, 1)]
  assert counts.sum() == 800 * 5
  # The squared deviations of 20 counts, of which 5 are taken at a time, have a
  # mean of 15; of 190 pairs, of which there are 10 at a time, of 180.
  assert ((counts - 200) ** 2 / 200).sum() < 15 + 4 * 30 ** 0.5
  expected = 800 * 10 / 190
  assert ((pairs - expected) ** 2 / expected).sum() < 180 + 4 * 360 ** 0.5


def test_drawn_captions_belong_to_their_row(many):
  config, run = many
  tail, = train(config, 200, 1, start_step=7)
  assert_same(tail, run[7])
  half, = train(config, 200, 1, start_step=6, input_id=1, num_inputs=2)
  assert_same(half, {key: value[100:] for key, value in run[6].items()})
  # Of evaluation they are the first.
  source, = open_all(config)
  batch, = batches(input_pipeline.eval_dataset(config, source, 2), 9)
  np.testing.assert_array_equal(
      batch["text"][:, :, 1] - 6, [[0, 1, 2, 3, 4], [0, 1, 2, 3, -6]])


def test_cache_gives_the_same_bits(clips_dir, records, run):
  cached = records.config(clips_dir, cache=True)
  for a, b in zip(train(cached, 10, 11, 1), run[1:]):
    assert_same(a, b)


# -----------------------------------------------------------------------------
# Corrupt records.
# -----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def damaged(tmp_path_factory, records):
  """Two datasets of 8 records, the second with all but 0 and 2 damaged; the
  offsets of its records, and the rows of two epochs of the first."""
  clips = [records.clip(i) for i in range(8)]
  raw = [records.serialize(clip) for clip in clips]
  sound = tmp_path_factory.mktemp("sound")
  records.write_built(sound, "clips", {"train": raw}, 1)
  broken = clips[3]["frames"].copy()
  broken[3] = b"\xff\xd8\xff no picture"  # In each window of six frames.
  raw[3] = records.serialize(clips[3] | {"frames": broken})
  raw[4] = b"\x0a\xff\xff"  # No example.
  raw[5] = records.serialize(clips[5] | {"audio": b"odd"})
  raw[6] = b""
  data_dir = tmp_path_factory.mktemp("damaged")
  directory = records.write_built(
      data_dir, "clips", {"train": raw}, 1, sidecars=False)
  offsets = np.cumsum([0] + [len(r) + 16 for r in raw])[:-1]
  path = directory / "clips-train.tfrecord-00000-of-00001"
  content = bytearray(path.read_bytes())
  content[offsets[1] + 700] ^= 1
  del content[offsets[7] + 700:]
  path.write_bytes(content)
  changes = dict(datasets=("clips",), frames=6, audio_samples=6000)
  rows = joined(train(records.config(sound, **changes), 8, 2))
  return records.config(data_dir, **changes), path, offsets, rows


@pytest.mark.parametrize("cache", [False, True])
def test_a_corrupt_record_costs_itself_only(damaged, cache):
  config, path, offsets, sound = damaged
  config.cache = cache
  rows = joined(train(config, 8, 2))
  numbers = clip_numbers(sound)
  hit = ~np.isin(numbers, (0, 2))
  assert hit.sum() == 12
  np.testing.assert_array_equal(rows["corrupt"], hit)
  np.testing.assert_array_equal(rows["index"], np.arange(16))
  np.testing.assert_array_equal(rows["record"], numbers)
  for key in rows.keys() - {"corrupt", "index", "record"}:
    np.testing.assert_array_equal(rows[key][~hit], sound[key][~hit], key)
    if key != "label":
      assert not rows[key][hit].any(), key
  assert (rows["label"][hit] == -1).all()
  source, = open_all(config)
  for i in numbers[hit]:
    assert source.index.place(i) == (str(path), offsets[i])


def test_a_modality_that_is_not_wanted_costs_nothing(clips_dir, records):
  config = records.config(clips_dir, frames=0)
  row = train(config, 2, 1)[0]
  assert row["video"].shape == (2, 0, 16, 16, 3)
  assert not row["video_mask"].any() and row["audio_mask"].all()
  assert row["audio"].any()


# -----------------------------------------------------------------------------
# Evaluation.
# -----------------------------------------------------------------------------
@pytest.mark.parametrize("num_windows,num_inputs,rows", [
    (1, 1, 2), (3, 2, 1)])
def test_every_window_of_every_record_once(clips_dir, records, num_windows,
                                           num_inputs, rows):
  config = records.config(clips_dir)
  source = sources.open_source("clips/official", str(clips_dir), "test")
  def read(**hosts):
    dataset = input_pipeline.eval_dataset(config, source, 4, num_windows,
                                          **hosts)
    read = batches(dataset, 99)
    assert dataset.cardinality() == len(read)
    return read
  whole = joined(read())
  total = 7 * num_windows
  assert len(whole["index"]) == -(-total // 4) * 4
  assert whole["valid"].tolist() == [
      r < total for r in range(len(whole["index"]))]
  assert whole["index"].tolist() == [
      r // num_windows if r < total else -1 for r in range(len(whole["index"]))]
  np.testing.assert_array_equal(
      clip_numbers(whole)[:total], 100 + np.arange(total) // num_windows)
  assert not whole["corrupt"].any()
  for key in MASKS | {"video", "audio", "text"}:
    assert not whole[key][total:].any(), key
  hosts = [joined(read(input_id=h, num_inputs=num_inputs, rows_per_batch=rows))
           for h in range(num_inputs)]
  each = 4 // num_inputs
  assert_same(whole, {k: np.concatenate([
      host[k].reshape(-1, each, *host[k].shape[1:]) for host in hosts],
      1).reshape(whole[k].shape) for k in whole})


@pytest.fixture(scope="module")
def wide(tmp_path_factory, records):
  """Five clips that are wider than high, the fourth without frames."""
  data_dir = tmp_path_factory.mktemp("wide")
  clips = [records.clip(i, width=50) for i in range(5)]
  clips[3] |= {"frames": [], "fps": 0.0}
  records.write_built(
      data_dir, "clips", {"test": [records.serialize(c) for c in clips]}, 2)
  config = records.config(data_dir, datasets=("clips",))
  return config, sources.open_source("clips", str(data_dir), "test")


@pytest.mark.parametrize("num_windows,num_crops,batch_size,num_inputs,rows", [
    (2, 3, 4, 1, 4), (2, 3, 4, 2, 1), (1, 5, 6, 3, 2)])
def test_every_crop_of_every_window_once(
    wide, records, num_windows, num_crops, batch_size, num_inputs, rows):
  """Views of a window come next to each other, though batches and hosts cut
  between them; of a crop each has its own part, of the rest the same."""
  config, source = wide
  views = num_windows * num_crops
  hosts = []
  for h in range(num_inputs):
    dataset = input_pipeline.eval_dataset(
        config, source, batch_size, num_windows, num_crops, input_id=h,
        num_inputs=num_inputs, rows_per_batch=rows)
    hosts.append(batches(dataset, 99))
    assert dataset.cardinality() == len(hosts[-1]) == (
        -(-5 * views // batch_size) * batch_size // num_inputs // rows)
    hosts[-1] = joined(hosts[-1])
  each = batch_size // num_inputs
  found = {k: np.concatenate([
      host[k].reshape(-1, each, *host[k].shape[1:]) for host in hosts],
      1).reshape(-1, *hosts[0][k].shape[1:]) for k in hosts[0]}
  real = found["valid"]
  assert real.tolist() == [r < 5 * views for r in range(len(real))]
  assert found["index"][real].tolist() == np.repeat(range(5), views).tolist()
  whole = joined(batches(input_pipeline.eval_dataset(
      config, source, 1, num_windows), 99))
  for key, value in whole.items():
    if key != "video":
      np.testing.assert_array_equal(
          found[key][real], np.repeat(value, num_crops, 0), key)
  videos = found["video"][real].reshape(5, num_windows, num_crops, 4, 16, 16, 3)
  assert not videos[3].any()
  np.testing.assert_allclose(  # JPEG: where a crop is decoded alone
      videos[:, :, num_crops // 2].reshape(whole["video"].shape).astype(int),
      whole["video"], atol=1)
  for clip, crop in (0, 0), (4, num_crops - 1):
    left = 18 * crop // (num_crops - 1)
    t = 4 if num_windows > 1 else 2
    expected = tf.image.resize(records.picture(clip, t, 32, 50)[
        :, left:left + 32], [16, 16], antialias=True)
    np.testing.assert_allclose(  # JPEG
        videos[clip, -1, crop, 0], expected, atol=12)


@pytest.mark.parametrize("training", [False, True])
def test_a_label_that_is_no_class(tmp_path, records, training):
  """Also in a record that has others; -1 is no label, as in tfds."""
  labels = [[3], [-1], [0, 4], [2, 9, 1], [7]]
  raw = [records.serialize(records.clip(i, label=label))
         for i, label in enumerate(labels)]
  records.write_built(tmp_path, "clips", {"test": raw}, 1)
  source = sources.open_source("clips", str(tmp_path), "test")
  def read(classes, cache=False):
    config = records.config(
        tmp_path, datasets=("clips",), classes=classes, cache=cache)
    dataset = (input_pipeline.train_dataset(config, [source], 5, 0, 0).take(1)
               if training else input_pipeline.eval_dataset(config, source, 5))
    with input_pipeline.tell_in_a_line():
      return joined(batches(dataset, 1))
  rows = read(10)
  order = np.argsort(clip_numbers(rows))
  assert [np.flatnonzero(row).tolist() for row in rows["labels"][order]] == [
      [3], [], [0, 4], [1, 2, 9], [7]]
  assert rows["label"][order].tolist() == [3, -1, 0, 2, 7]
  offset = source.index.offsets[3]
  for cache in (False, True):
    with pytest.raises(UserError, match=(
        rf"^/.*-00000-of-00001: the record at byte {offset} has label 9, "
        "expected 0 to 8$")):
      read(9, cache)


def test_record_ids(damaged, clips_dir):
  source = sources.open_source("clips/official", str(clips_dir), "test")
  assert input_pipeline.record_ids(source) == [f"clip{i}" for i in
                                               range(100, 107)]
  config, path, offsets, _ = damaged
  source, = open_all(config)
  unread = {i: f"{path}@{offsets[i]}" for i in (1, 4, 6, 7)}
  assert input_pipeline.record_ids(source) == [
      unread.get(i, f"clip{i}") for i in range(8)]


# -----------------------------------------------------------------------------
# Under a strategy, and with bad input.
# -----------------------------------------------------------------------------
def test_replicas_get_the_rows_of_the_global_batch(clips_dir, records):
  config = records.config(clips_dir)
  opened = open_all(config)
  strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
  spread = strategy.distribute_datasets_from_function(
      lambda context: input_pipeline.train_dataset(
          config, opened, 6, 1, 3, context.input_pipeline_id,
          context.num_input_pipelines, 3))
  whole = train(config, 6, 2, 3)
  for batch, expected in zip(spread, whole):
    for key, value in batch.items():
      parts = strategy.experimental_local_results(value)
      np.testing.assert_array_equal(np.concatenate(parts), expected[key])


@pytest.mark.parametrize("changes,call,message", [
    ({}, {"num_inputs": 3}, "batch_size is 8, expected a multiple of the 3"),
    ({}, {"rows_per_batch": 3}, "8 of the rows, expected a multiple of the 3"),
    ({"shares": (1, 2)}, {}, r"data.shares is \(1, 2\), expected a positive"),
    ({"shares": (0,)}, {}, r"data.shares is \(0,\), expected a positive"),
    ({"vocabulary": "/nowhere/words.txt"}, {}, "/nowhere/words.txt: cannot"),
])
def test_bad_input(clips_dir, records, changes, call, message):
  opened = open_all(records.config(clips_dir))
  with pytest.raises(UserError, match=message):
    input_pipeline.train_dataset(
        records.config(clips_dir, **changes), opened, 8, 0, 0, **call)


def test_more_records_than_a_batch_can_number(clips_dir, records):
  config = records.config(clips_dir)
  source, = open_all(config)
  many = np.broadcast_to(np.uint32(0), [2 ** 31 - 1])  # takes no memory
  index = dataclasses.replace(source.index, offsets=many, sizes=many)
  with pytest.raises(UserError, match=(
      "1.0.0: split 'train' has 2,147,483,647 records, expected at most "
      "2,147,483,646, ")):
    input_pipeline.train_dataset(
        config, [dataclasses.replace(source, index=index)], 8, 0, 0)


def test_shares_that_are_not_whole(records):
  config = records.config(datasets=("a", "b"), shares=(1, 2))
  with pytest.raises(UserError, match=r"batch_size is 8 and data.shares is "
                     r"\(1, 2\): \[2.66.*expected whole"):
    input_pipeline.mixture(config, 8)
  config = records.config(datasets=("a", "a"), shares=(1, 1))
  with pytest.raises(UserError, match="expected each of them once"):
    input_pipeline.mixture(config, 8)
