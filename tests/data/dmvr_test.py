"""DMVR's records, by its own keys."""
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from configs import common
from vatt.data import audio, input_pipeline, record_index, sources
from vatt.errors import UserError
from vatt.tasks.finetune import Finetune


def sequence_example(records, i=3, lists=True, without=(), samples=None,
                     more=()):
  """A SequenceExample as DMVR's scripts write it; `more` are other features of
  its context, (key, kind, values)."""
  example = tf.train.SequenceExample()
  clip = records.clip(i)

  def add(key, kind, values, in_list):
    if key in without:
      return
    if in_list:
      feature = example.feature_lists.feature_list[key].feature.add()
    else:
      feature = example.context.feature[key]
    getattr(feature, kind).value.extend(values)

  for frame in clip["frames"]:
    add("image/encoded", "bytes_list", [frame], True)
  if samples is None:
    samples = np.frombuffer(clip["audio"], "<i2") / 32768
  add("WAVEFORM/feature/floats", "float_list", samples, lists)
  add("caption/string", "bytes_list", [b"a bird", b"a tree"], lists)
  add("clip/label/index", "int64_list", [4], False)
  add("clip/label/text", "bytes_list", [b"four"], False)
  add("clip/start/timestamp", "int64_list", [2_500_000], False)
  for key, kind, values in more:
    example.context.feature[key].Clear()
    example.feature_lists.feature_list.pop(key, None)
    getattr(example.context.feature[key], kind).value.extend(values)
  return example.SerializeToString()


def read(source, i=0):
  tensors = record_index.file_tensors(source.index)
  return source.parse(
      record_index.read_record(tensors, tf.constant(i, tf.int64)))


@pytest.mark.parametrize("lists", [True, False])
def test_dmvr(tmp_path, records, lists):
  for part in "ab":
    records.write_records(tmp_path / f"train-{part}.tfrecord",
                          [sequence_example(records, lists=lists)] * 2)
  name = f"dmvr:{tmp_path}/{{split}}-*.tfrecord?fps=8&audio_rate=8000"
  source = sources.open_source(name, "", "train")
  assert len(source.index) == 4 and source.directory == str(tmp_path)
  example, expected = read(source, 3), records.clip(3)
  assert example["frames"].numpy().tolist() == expected["frames"]
  np.testing.assert_array_equal(
      audio.samples(example["audio"]), np.frombuffer(expected["audio"], "<i2"))
  assert example["fps"].numpy() == 8.0
  assert example["audio_rate"].numpy() == 8000
  assert example["captions/text"].numpy().tolist() == [b"a bird", b"a tree"]
  assert example["captions/start"].numpy().tolist() == [0.0, 0.0]
  assert example["label"].numpy().tolist() == [4]
  assert example["start"].numpy() == 2.5
  inside = records.in_dataset(
      source.parse, sequence_example(records, lists=lists))
  assert inside["label"].numpy().tolist() == [4]
  assert len(sources.open_source(
      name.replace("-*", "*"), "", "train-a+train-b").index) == 4
  with pytest.raises(UserError, match="no file matches .*/test"):
    sources.open_source(name, "", "train+test")
  # The files lie there like data sets do: their sidecars are not records.
  assert len(sources.open_source(name.replace(".tfrecord?", ".tfrecord*?"), "",
                                 "train").index) == 4


def test_files_of_the_working_directory(tmp_path, records, monkeypatch):
  records.write_records(tmp_path / "x", [sequence_example(records)])
  monkeypatch.chdir(tmp_path)
  source = sources.open_source("dmvr:x?fps=8&audio_rate=8000", "", "train")
  assert source.directory == "." and len(source.index) == 1


def test_dmvr_without_a_modality(tmp_path, records):
  keys = ("WAVEFORM/feature/floats", "caption/string", "clip/label/index")
  records.write_records(tmp_path / "x.tfrecord",
                        [sequence_example(records, without=keys)])
  example = read(sources.open_source(f"dmvr:{tmp_path}/x.tfrecord?fps=8", "",
                                     "train"))
  assert example["audio"].shape == example["label"].shape == [0]
  assert example["captions/text"].shape == [0]


def test_dmvr_sound_of_another_scale(tmp_path, records):
  """As DMVR's example script writes it: s32le, read as floats."""
  tone = np.frombuffer(records.clip(3)["audio"], "<i2").astype(np.int32)
  noise = (tone << 16).view(np.float32)
  assert np.clip(np.nan_to_num(noise), -1, 1).mean() * 32768 < -9000
  path = tmp_path / "x.tfrecord"
  name = f"dmvr:{path}?fps=8&audio_rate=8000"
  for samples, found in ((noise, r"samples from -\S+ to \S+, \d+ of \d+ not"),
                         (tone.astype(np.float32), "samples from -")):
    records.write_records(
        path, [sequence_example(records, samples=samples)] * 3)
    with pytest.raises(UserError, match=(
        f"none of the first 3 records .*: {found}.* f32le$")) as told:
      sources.open_source(name, "", "train")
    assert "\n" not in str(told.value)
  # The pictures can be read without it.
  source = sources.open_source(name.replace("8000", "0"), "", "train")
  assert read(source)["audio"].shape == [0] and len(read(source)["frames"])
  # A single one is corrupt, and it is known why.
  records.write_records(path, [
      sequence_example(records, samples=noise), sequence_example(records)])
  source = sources.open_source(name, "", "train")
  with pytest.raises(tf.errors.InvalidArgumentError):
    read(source)
  assert sources.why_unreadable(source, 0).startswith("samples from -")
  assert sources.why_unreadable(source, 1) == ""


def test_dmvr_rates_must_be_given(tmp_path, records):
  path = tmp_path / "x.tfrecord"
  records.write_records(path, [sequence_example(records)])
  with pytest.raises(UserError, match=(
      "none of the first 1 records .*: it has frames, but no image/timestamp or"
      r" image/frame_rate, expected that or \?fps=NUMBER$")):
    sources.open_source(f"dmvr:{path}", "", "train")
  with pytest.raises(UserError, match=(
      "it has sound, but no WAVEFORM/feature/sample_rate, expected that or "
      r"\?audio_rate=NUMBER$")):
    sources.open_source(f"dmvr:{path}?fps=8", "", "train")


# -----------------------------------------------------------------------------
# The same clips as a built data set has.
# -----------------------------------------------------------------------------
def same_clip(clip, names, told):
  """A clip of `records` as a SequenceExample, with its rates or without."""
  example = tf.train.SequenceExample()
  lists, context = example.feature_lists.feature_list, example.context.feature
  for n, frame in enumerate(clip["frames"]):
    lists["image/encoded"].feature.add().bytes_list.value.append(frame)
    if told:
      lists["image/timestamp"].feature.add().int64_list.value.append(
          7_000_000 + round(n * 1e6 / clip["fps"]))
  samples = np.frombuffer(clip["audio"], "<i2").astype(np.float32) / 32768
  lists["WAVEFORM/feature/floats"].feature.add().float_list.value.extend(samples)
  if told:
    context["WAVEFORM/feature/sample_rate"].float_list.value.append(
        clip["audio_rate"])
    context["clip/label/index"].int64_list.value.extend(clip["label"])
  context["clip/label/text"].bytes_list.value.extend(
      names[label].encode() for label in clip["label"])
  context["caption/string"].bytes_list.value.extend(
      text.encode() for text, *_ in clip["captions"])
  context["video/filename"].bytes_list.value.append(clip["id"])
  return example.SerializeToString()


def test_batches_are_those_of_the_built_data_set(tmp_path, records):
  """To the last bit; with captions to be drawn, labels by their numbers or by
  their names, and rates of the records or of the name. Of the latter all
  records are compared: batches are made of nothing else."""
  captions = [(f"number {i}", 0.0, 1.5) for i in range(4)]
  clips = [records.clip(i, num_frames=18, fps=12.0, seconds=1.5, label=label,
                        captions=captions[:i + 1])
           for i, label in enumerate([[2], [0, 9], [7], [3]])]
  clips[2] |= {"frames": [], "fps": 0.0}
  clips[3] |= {"audio": b"", "audio_rate": 0}
  directory = records.write_built(
      tmp_path, "clips", {"train": list(map(records.serialize, clips))}, 2)
  names = (directory / "label.labels.txt").read_text().split()
  built = sources.open_source("clips", str(tmp_path), "train")
  opened = []
  for told, rates in (False, "&fps=12&audio_rate=8000"), (True, ""):
    for part in range(2):
      records.write_records(
          tmp_path / f"train{told}-0000{part}-of-00002",
          [same_clip(clip, names, told) for clip in clips[2 * part:][:2]])
    ours = sources.open_source(
        f"dmvr:{tmp_path}/{{split}}{told}-*?labels={directory}/label.labels.txt"
        + rates, "", "train")
    assert ours.label_names == built.label_names and ours.fps == 12.0
    assert read(ours, 1)["id"] == b"clip1"
    # The name of a data set is part of the seed of its stream.
    opened.append(dataclasses.replace(ours, name=built.name))
  plain, told = opened
  for i in range(4):
    theirs, ours = read(told, i), read(plain, i)
    for key in theirs:
      if (key, i) not in {("fps", 2), ("audio_rate", 3)}:  # of nothing
        np.testing.assert_array_equal(ours[key], theirs[key], key)
  config = records.config(tmp_path, classes=10, captions=2, words=2,
                          vocabulary=f"{directory}/vocabulary.txt",
                          datasets=("clips",), audio_samples=6000, frames=6)
  for wanted, found in zip(*(
      input_pipeline.train_dataset(config, [source], 8, 1, 0).take(2)
      for source in (built, told)), strict=True):
    assert not wanted["corrupt"].numpy().any()
    assert found.keys() == wanted.keys()
    for key in wanted:
      np.testing.assert_array_equal(found[key], wanted[key], key)


def test_captions_are_drawn_in_training(tmp_path, records):
  """One of ten anew in each row, any as often; evaluation takes the first."""
  record = sequence_example(records, without=["image/encoded"], samples=[
      0.5] * 80, more=[
      ("caption/string", "bytes_list", [b"number %d" % i for i in range(10)])])
  records.write_records(tmp_path / "x", [record])
  (tmp_path / "vocabulary.txt").write_text(
      "number\n" + "".join(f"{i}\n" for i in range(10)))
  source = sources.open_source(
      f"dmvr:{tmp_path}/x?fps=8&audio_rate=8000", "", "train")
  config = records.config(tmp_path, datasets=(source.name,), captions=1,
                          words=2, frames=0, audio_samples=80)
  drawn = np.concatenate([
      batch["text"][:, 0, 1].numpy() - 3 for batch in
      input_pipeline.train_dataset(config, [source], 100, 1, 0).take(4)])
  counts = np.bincount(drawn, minlength=10)
  # Their squared deviations have a mean of 9, and of 400 in order 0.
  assert 0 < ((counts - 40) ** 2 / 40).sum() < 9 + 4 * 18 ** 0.5
  assert not np.array_equal(drawn[:100], drawn[100:200])
  batch, = input_pipeline.eval_dataset(config, source, 3, 3)
  assert batch["text"][:, 0, 1].numpy().tolist() == [3, 3, 3]


# -----------------------------------------------------------------------------
# Labels.
# -----------------------------------------------------------------------------
CLASSES = ["one", "zwei", "tr\u00e9s'?", "four", "last"]


@pytest.fixture
def labelled(tmp_path, records):
  """A function (texts, numbers of each record) that opens them with CLASSES."""
  labels = tmp_path / "my labels+more.txt"
  labels.write_text("\ufeff" + "\r\n".join(CLASSES) + "\r\n", encoding="utf-8")

  def open_these(*records_of, query=f"&labels={labels}"):
    records.write_records(tmp_path / "x", [sequence_example(
        records, without=("clip/label/index", "clip/label/text"), more=[
            (key, kind, values) for key, kind, values in (
                ("clip/label/text", "bytes_list", [t.encode() for t in texts]),
                ("clip/label/index", "int64_list", numbers)) if values])
        for texts, numbers in records_of])
    return sources.open_source(
        f"dmvr:{tmp_path}/x?fps=8&audio_rate=8000{query}", "", "train")

  return open_these


def test_labels_by_their_names(labelled, caplog):
  source = labelled(
      (["last"], []), ([], [3]), (CLASSES[2:3] + ["one"], []),
      (["zwei", "four"], [1, 3]), ([], []))
  assert source.label_names == tuple(CLASSES)
  assert sources.read_labels(source) == [[4], [3], [2, 0], [1, 3], []]
  assert Finetune.read_words(None, [source], "")[1]["data.classes"].value == 5
  assert not caplog.text
  # Without the names of the classes, their numbers are all there is.
  source = labelled((["last"], []), (["last"], [0]), query="")
  assert sources.read_labels(source) == [[], [0]]
  assert "has clip/label/text, but no clip/label/index" in caplog.text
  config = common.finetuning("video", "base")
  with pytest.raises(UserError, match=r"classes, .*\?labels=FILE, or data.cl"):
    Finetune(config).read_words([source], "")
  config.data.classes = 3
  names, facts = Finetune(config).read_words([source], "")
  assert names == ["0", "1", "2"] and facts["data.classes"].value == 3


def test_labels_that_cannot_be(labelled, caplog):
  source = labelled((["last"], [4]), (["tr\u00e9"], []), (["zwei"], [2]),
                    (["four"], [3, 1]))
  assert [sources.why_unreadable(source, i) for i in range(4)] == [
      "", "clip/label/text is 'tr\u00e9', expected one of the 5 classes of "
      "?labels=", "clip/label/index is 2 and clip/label/text 'zwei', which by "
      "?labels= is 1", "clip/label/index is 3,1 and clip/label/text 'four', "
      "which by ?labels= is 3"]
  assert sources.read_labels(source) == [[4], [], [], []]
  path, offset = source.index.place(1)
  assert ("3 of 4 clips of split 'train' cannot be read, left out; the first: "
          f"{path} at byte {offset}: clip/label/text is 'tr\u00e9',"
          ) in caplog.text
  with pytest.raises(UserError, match="none of the first 1 .*'five', expected"):
    labelled((["five"], []))


@pytest.mark.parametrize("content,message", [
    (b"one\ntwo\none\n", "line 3 is 'one' as line 1, expected another"),
    (b"one\n\ntwo", "line 2 is empty"), (b"\xff", "is not UTF-8, expected"),
    (None, "cannot be read, expected the name of a class")])
def test_a_bad_list_of_classes(tmp_path, labelled, content, message):
  path = tmp_path / "bad.txt"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(UserError, match=f"^{path}: {message}"):
    labelled((["one"], []), query=f"&labels={path}")


# -----------------------------------------------------------------------------
# Rates.
# -----------------------------------------------------------------------------
@pytest.mark.parametrize("times,fps,taken", [
    ([0, 1, 2, 3, 4, 5, 6, 7], 1e6, range(8)),
    ([round(i * 1e6 / 12) for i in range(8)], 12.0, range(8)),
    ([9_000_000 + 33_367 * i for i in range(8)], 1e6 / 33_367, range(8)),
    # Every 0.1 s, but for a gap of 0.8 s: 7 steps of 0.2 s.
    ([0, 100_000, 200_000, 1_000_000, 1_100_000, 1_200_000, 1_300_000,
      1_400_000], 5.0, [0, 2, 2, 3, 3, 3, 5, 7])])
def test_frames_have_times(tmp_path, records, times, fps, taken):
  """Their rate is the mean one; where they are uneven, the nearest is taken."""
  records.write_records(tmp_path / "x", [sequence_example(records, more=[
      ("image/timestamp", "int64_list", times),
      ("image/frame_rate", "float_list", [3.0])])])
  name = f"dmvr:{tmp_path}/x?audio_rate=8000"
  source = sources.open_source(name, "", "train")
  assert source.fps == np.float32(fps)
  frames = records.clip(3)["frames"]
  for example in (read(source), records.in_dataset(
      source.parse, record_index.read_all(source.index)[0])):
    assert [frames.index(frame) for frame in example["frames"].numpy()] == (
        list(taken))
  # The name knows better.
  source = sources.open_source(name + "&fps=7", "", "train")
  assert source.fps == 7.0
  assert read(source)["frames"].numpy().tolist() == frames


def test_a_name_that_says_another_rate_is_told(tmp_path, records, caplog):
  records.write_records(tmp_path / "x", [sequence_example(records, more=[
      ("image/timestamp", "int64_list", list(range(0, 800_000, 100_000))),
      ("WAVEFORM/feature/sample_rate", "float_list", [8000.0])])])
  name = f"dmvr:{tmp_path}/x"
  sources.open_source(f"{name}?fps=10.05&audio_rate=8000", "", "train")
  assert not caplog.text
  sources.open_source(f"{name}?fps=25&audio_rate=44100", "", "train")
  assert f"fps=25 is taken, but {tmp_path}/x at byte 0 has 10" in caplog.text
  assert f"audio_rate=44100 is taken, but {tmp_path}/x at byte 0 has 8000" in (
      caplog.text)


def test_times_of_another_unit_are_told(tmp_path, records, caplog):
  """Milliseconds, which would make clips a thousandth as long."""
  records.write_records(tmp_path / "x", [sequence_example(records, more=[
      ("image/timestamp", "int64_list", list(range(0, 320, 40)))])])
  name = f"dmvr:{tmp_path}/x?audio_rate=8000"
  assert sources.open_source(name, "", "train").fps == 25_000
  assert f"{tmp_path}/x at byte 0 has 2.5e+04 frames a second" in caplog.text
  caplog.clear()
  sources.open_source(f"{name}&fps=25000", "", "train")
  assert not caplog.text


@pytest.mark.parametrize("kind", ["float_list", "int64_list"])
def test_rates_of_the_records(tmp_path, records, kind):
  """Each has its own; writers differ in the numbers."""
  value = float if kind == "float_list" else int
  mute = ("image/encoded", "WAVEFORM/feature/floats")
  records.write_records(tmp_path / "x", [
      sequence_example(records, without=mute[1:], more=[
          ("image/frame_rate", kind, [value(4)])]),
      sequence_example(records, more=[
          ("image/frame_rate", kind, [value(8)]),
          ("WAVEFORM/feature/sample_rate", kind, [value(8000)])]),
      sequence_example(records, without=mute)])
  source = sources.open_source(f"dmvr:{tmp_path}/x", "", "train")
  rates = [[example[key].numpy() for key in ("fps", "audio_rate")]
           for example in map(lambda i: read(source, i), range(3))]
  assert rates == [[4, 0], [8, 8000], [0, 0]]
  # Where the name says it, they may be of any form.
  records.write_records(tmp_path / "y", [sequence_example(records, more=[
      ("image/frame_rate", "bytes_list", [b"a lot"]),
      ("image/timestamp", "float_list", [0.1])])])
  assert sources.open_source(
      f"dmvr:{tmp_path}/y?fps=8&audio_rate=8000", "", "train").fps == 8.0


@pytest.mark.parametrize("more,message", [
    (("image/timestamp", "int64_list", [0, 1]), "has 2 times of 8 frames"),
    (("image/timestamp", "int64_list", [5] * 8), "does not increase, expected"),
    (("WAVEFORM/feature/num_channels", "int64_list", [2]),
     "at byte 0: WAVEFORM/feature/num_channels is 2, expected 1; ")])
def test_records_that_contradict_themselves(tmp_path, records, more, message):
  records.write_records(tmp_path / "x", [sequence_example(
      records, more=[more])])
  with pytest.raises(UserError, match=message):
    sources.open_source(f"dmvr:{tmp_path}/x?audio_rate=8000", "", "train")


def test_channels_of_a_record_behind_a_silent_one(tmp_path, records):
  records.write_records(tmp_path / "x", [
      sequence_example(records, without=["WAVEFORM/feature/floats"]),
      sequence_example(records, samples=[]),
      sequence_example(records, more=[
          ("WAVEFORM/feature/num_channels", "float_list", [2.0])])])
  with pytest.raises(UserError, match=r"at byte \d\d+: .*num_channels is 2,"):
    sources.open_source(f"dmvr:{tmp_path}/x?fps=8&audio_rate=8000", "", "train")


# -----------------------------------------------------------------------------
# Where files lie.
# -----------------------------------------------------------------------------
def test_a_list_of_files(tmp_path, records):
  """From the list's folder, by whole paths, and on other file systems."""
  (tmp_path / "lists").mkdir()
  raw = [sequence_example(records)]
  for path in (tmp_path / "lists/b [1]", tmp_path / "a", "ram://listed"):
    records.write_records(path, raw)
  name = f"dmvr:{tmp_path}/lists/{{split}}.txt?fps=8&audio_rate=8000"
  (tmp_path / "lists/train.txt").write_text(
      f"ram://listed\n\n b [1]\r\n{tmp_path}/a\n")
  source = sources.open_source(name, "", "train")
  assert sorted(source.index.files) == [
      f"{tmp_path}/a", f"{tmp_path}/lists/b [1]", "ram://listed"]
  assert read(source, 2)["fps"].numpy() == 8
  for content, message in (
      (None, "test.txt: cannot be read"),
      (b"\n \n", "test.txt: empty, expected"),
      (b"\xff", "test.txt: cannot be read .*utf-8"),
      (b"gone", "lists/gone: no such file")):
    if content is not None:
      (tmp_path / "lists/test.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
      sources.open_source(name, "", "test")


def test_files_that_are_not_on_a_disk(records):
  """As on gs://: all that is done with them goes through TensorFlow."""
  folder = "ram://dmvr/[x] y"
  tf.io.gfile.makedirs(folder)
  good, bad = sequence_example(records), b"no example"
  for name, raw in ("train-0", [good, bad]), ("train-1", [good]):
    with tf.io.TFRecordWriter(f"{folder}/{name}") as writer:
      for record in raw:
        writer.write(record)
  for name, content in (("classes.txt", "a\nb\nc\nd\nfour\n"),
                        ("vocabulary.txt", "a\nbird\n")):
    with tf.io.gfile.GFile(f"{folder}/{name}", "w") as f:
      f.write(content)
  name = ("dmvr:ram://dmvr/*/{split}-*?fps=8&audio_rate=8000&labels="
          f"{folder}/classes.txt")
  for _ in range(2):  # the second time by the indices beside them
    source = sources.open_source(name, "", "train")
    assert source.index.files == [f"{folder}/train-0", f"{folder}/train-1"]
    assert len(source.index) == 3
    assert tf.io.gfile.exists(f"{folder}/train-1.index.json")
  config = records.config(datasets=(name,), classes=5, frames=0,
                          vocabulary=f"{folder}/vocabulary.txt")
  batches = input_pipeline.eval_dataset(config, source, 3)
  batch, = batches
  assert batch["label"].numpy().tolist() == [4, -1, 4]
  assert batch["corrupt"].numpy().tolist() == [False, True, False]
  tf.io.gfile.remove(f"{folder}/train-1")
  with pytest.raises(UserError, match=r"file of records is gone.*\[x\] y"):
    with input_pipeline.tell_in_a_line():
      list(batches)
