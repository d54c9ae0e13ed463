"""The dataset clips, of media encoded here and of real ones."""
import contextlib
import csv
import hashlib
import os
import pathlib
import random
import re
import shutil
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from scipy.io import wavfile

from vatt.data import audio as audio_lib
from vatt.data import input_pipeline, sources
from vatt.data.datasets import clips
from vatt.data.datasets.clips import Clips
from vatt.data.ingest import builder, clip_sources, clips_csv, plans, splits
from vatt.data.ingest import media as media_lib
from vatt.data.ingest import workers as workers_lib
from vatt.data.ingest.workers import Workers
from vatt.errors import UserError
from vatt.host import num_cores

ROOT = pathlib.Path(__file__).parents[3]
VERSION = str(Clips.VERSION)
SMALL = "small+fps=5+size=32+audio_rate=8000+length=2"

pytestmark = pytest.mark.usefixtures("one_set_of_workers")


def build(data_dir, manual_dir, config=SMALL):
  """Builds and reads back: split to {id: example}, rejected, the builder."""
  Clips(data_dir=str(data_dir), config=config,
        manual_dir=str(manual_dir)).download_and_prepare()
  folder = f"{data_dir}/clips/{config}/{VERSION}"
  builder = tfds.builder_from_directory(folder)
  examples = {
      split: {example["id"].decode(): example for example in
              builder.as_dataset(split=split).as_numpy_iterator()}
      for split in builder.info.splits}
  return examples, rejected(folder), builder


def rejected(folder):
  """id to (file, reason)."""
  with open(f"{folder}/rejected.csv") as file:
    return {row["id"]: (row["file"], row["reason"])
            for row in csv.DictReader(file)}


def plan(manual_dir, config=SMALL):
  return Clips(data_dir="unused", config=config).make_plan(str(manual_dir))


def splits_of(plan):
  """{split: its clips}."""
  found = {}
  for split, clip in plan.clips:
    found.setdefault(split, []).append(clip)
  return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, media):
  """a.mp4: 7 s, frames numbered, clicks; sub/b.mkv: 4.8 s, no sound; c.mp3:
  2 s; and what is of no use."""
  folder = tmp_path_factory.mktemp("media")
  (folder / "sub").mkdir()
  media.write_media(
      folder / "a.mp4", [media.numbered(i) for i in range(70)],
      media.clicks([0.5, 2.5, 4.5, 6.5], 7), rate=10)
  media.write_media(folder / "sub/b.mkv",
                    [media.numbered(100 + i) for i in range(48)], rate=10)
  media.write_media(folder / "c.mp3", sound=media.clicks([0.5], 2),
                    audio="libmp3lame")
  (folder / "bad.mp4").write_bytes(b"no media at all" * 100)
  (folder / "empty.webm").write_bytes(b"")
  (folder / "readme.txt").write_text("not listed")
  (folder / "a.srt").write_text(
      "1\n00:00:01,500 --> 00:00:02,500\none and two\n\n"
      "2\n00:00:04,200 --> 00:00:05,000\nthree\n")
  return folder


def write_list(folder, *rows, header="video_path,start,end,label,caption"):
  path = folder / "clips.csv"
  path.write_text("\n".join((header, *rows)) + "\n")
  return path


@pytest.fixture
def listed(tmp_path, folder):
  """A copy of the folder, to be given a list."""
  return pathlib.Path(shutil.copytree(folder, tmp_path / "listed"))


# ---- a folder

def test_folder(tmp_path, folder, media, capsys, monkeypatch):
  monkeypatch.setattr(clips, "Workers", Workers)  # and no others' processes
  started, start = [], workers_lib._start
  monkeypatch.setattr(
      workers_lib, "_start", lambda: started.append(1) or start())
  examples, refused, builder = build(tmp_path, folder)
  # Those that have looked at the files decode them.
  assert 1 <= len(started) <= num_cores()
  printed = capsys.readouterr().out.splitlines()
  assert printed[0].endswith("no media by their names, left out: 1 .txt")
  assert printed[-1].endswith(
      f"rejected 2 (see {tmp_path}/clips/{SMALL}/{VERSION}/rejected.csv)")
  assert set(refused) == {"bad.mp4", "empty.webm"}
  assert all("no readable media" in why for _, why in refused.values())

  assert not set(examples["train"]) & set(examples["test"])
  every = examples["train"] | examples["test"]
  a = [f"a.mp4:{t}.000-{t + 2}.000" for t in (0, 2, 4)] + [
      "a.mp4:6.000-7.000"]
  b = [f"sub/b.mkv:{t}.000-{t + 2}.000" for t in (0, 2)]
  assert sorted(every) == sorted(a + b + ["c.mp3:0.000-2.000"])
  assert list(examples["test"]) == ["c.mp3:0.000-2.000"]  # the fewest clips

  for i, name in enumerate(a):
    example, start = every[name], 2 * i
    assert example["start"] == start and example["fps"] == 5
    pictures = [tf.io.decode_jpeg(data).numpy() for data in example["frames"]]
    assert [media.number_of(p) for p in pictures] == list(
        range(start * 10, min(start * 10 + 20, 70), 2))
    assert pictures[0].shape == (32, 106, 3)
    samples = np.frombuffer(example["audio"], "<i2").astype(int)
    assert len(samples) == 8000 * min(2, 7 - start)
    assert example["audio_rate"] == 8000
    loud = np.flatnonzero(np.abs(samples) > 6000)
    assert abs(loud[0] / 8000 - 0.5) < 0.03
    assert example["label"].size == 0
  captions = [every[name]["captions"] for name in a]
  # A clip's own, then the others of its file.
  assert [list(c["text"]) for c in captions] == [
      [b"one and two", b"three"], [b"one and two", b"three"],
      [b"three", b"one and two"], [b"one and two", b"three"]]
  np.testing.assert_allclose(captions[0]["start"], [1.5, 4.2])
  np.testing.assert_allclose(captions[1]["start"], [-0.5, 2.2])
  np.testing.assert_allclose(captions[2]["end"], [1, -1.5])
  np.testing.assert_allclose(captions[3]["end"], [-3.5, -1])

  assert all(every[name]["audio"] == b"" for name in b)
  assert all(len(every[name]["frames"]) == 10 for name in b)
  sound = every["c.mp3:0.000-2.000"]
  assert len(sound["frames"]) == 0
  assert len(sound["audio"]) == pytest.approx(2 * 16000, abs=500)


def test_split_of_many_files_is_by_a_hash_of_their_names():
  bad = set()

  def choose(count, share=10):
    """The files to test of `count`, of two clips each."""
    files = [f"{i}.mp4" for i in range(count)]
    spans = [clip_sources.Span(file, k, k + 1) for file in files
             for k in range(2)]
    split_of = splits.choose("", clip_sources.Found(
        lambda: iter(spans), files, (), ()), lambda span: span.file not in bad,
                                   share)
    sides = list(map(split_of, spans))
    assert sides == [side for side in sides[::2] for _ in range(2)]
    return {file for file, side in zip(files, sides[::2]) if side == "test"}

  many = choose(500)
  assert 30 < len(many) < 75
  assert choose(400) == {file for file in many if int(file[:-4]) < 400}
  # Where few are for testing, one of them can be read.
  few = choose(500, 200)
  assert 0 < len(few) < 10
  bad |= few
  more = choose(500, 200) - few
  assert len(more) == 1
  bad |= more
  assert not choose(500, 200) & more
  one = choose(500, 10**9)
  assert len(one) == 1 and not one & bad


def test_one_file(tmp_path, media):
  media.write_media(tmp_path / "a.mp4", [media.numbered(i) for i in range(120)],
                    rate=10)
  (tmp_path / "bad.mp4").write_bytes(b"?")
  splits = splits_of(plan(tmp_path))
  assert [clip.id for clip in splits["test"]] == ["a.mp4:10.000-12.000"]
  assert len(splits["train"]) == 5
  with pytest.raises(UserError, match="a.mp4 is the only clip"):
    plan(tmp_path, "length=30")


def test_a_file_is_cut_where_it_has_keyframes(tmp_path, media):
  pictures = [media.numbered(1, 32, 16)] * 300  # no cuts, with keyframes
  for name, gop, together in ("one", 1000, True), ("some", 30, False):
    (tmp_path / name).mkdir()
    media.write_media(tmp_path / name / "a.mp4", pictures, rate=1,
                      video="mpeg4", gop=gop)
    found = {"train": [], "test": []}
    for shard in plans.store(plan(tmp_path / name, "length=5"),
                             str(tmp_path / "plan"), "x", ""):
      found[shard.split].append(shard.count)
    assert found == ({"train": [54], "test": [6]} if together else {
        "train": [3, 3, 4, 3, 3, 4, 3, 4, 3, 3, 4, 3, 3, 4, 3, 4],
        "test": [1] * 6})
  # Where nobody knows.
  (tmp_path / "bad.mp4").write_bytes(b"?")
  first, last = (builder.Clip("", "bad.mp4", (t, t + 5)) for t in (0, 295))
  assert clips.can_cut(str(tmp_path), Workers(), first, last)


def test_folders_without_media(tmp_path):
  with pytest.raises(UserError, match="neither clips.csv nor a media file"):
    plan(tmp_path)
  with pytest.raises(UserError, match="no such folder"):
    plan(tmp_path / "missing")
  with pytest.raises(UserError, match="--manual_dir is missing"):
    Clips(data_dir="unused").make_plan(None)
  (tmp_path / "bad.mp4").write_bytes(b"?")
  with pytest.raises(UserError, match="no usable media file in the folder; the "
                     "first: bad.mp4: no readable media"):
    plan(tmp_path)


def test_files_are_read_by_one_process(folder):
  """A new one for each would take longer than a short file."""
  first = {clip.file: clip for _, clip in plan(folder).clips}
  assert first.keys() == {"a.mp4", "sub/b.mkv", "c.mp3"}
  read = clips.ClipReader(
      str(folder), clips.Options(fps=5.0, size=32, audio_rate=8000))
  process = read._workers.call(1, os.getpid)
  for example, clip in zip(read(first.values()), first.values(), strict=True):
    assert example["id"] == clip.id
  assert read._workers.call(1, os.getpid) == process


def test_links_and_names_that_are_odd(tmp_path, media, capsys):
  """Loops and second names lead to no second copy; what cannot be named or read
  costs itself alone."""
  pictures = [media.numbered(i) for i in range(40)]
  media.write_media(tmp_path / "a.mp4", pictures, rate=10)
  media.write_media(tmp_path / "b.mp4", pictures[20:], rate=10)
  (tmp_path / "loop").symlink_to(tmp_path)
  (tmp_path / "again.mp4").symlink_to(tmp_path / "a.mp4")
  (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
  (tmp_path / "b.srt").symlink_to(tmp_path / "nowhere.srt")
  for name in b"/caf\xe9.mp4", b"/new\nline.mp4":
    with open(os.fsencode(tmp_path) + name, "wb") as file:
      file.write((tmp_path / "a.mp4").read_bytes())
  made = plan(tmp_path)
  files = [clip.file for _, clip in made.clips]
  assert sorted(files) == ["a.mp4", "a.mp4", "b.mp4"]
  assert {file: why for _, file, why in made.rejected}.items() >= {
      "caf\\udce9.mp4": "its name is not UTF-8",
      "new\\nline.mp4": "its name has a line break"}.items()
  assert [file for _, file, _ in made.rejected] == [
      "caf\\udce9.mp4", "gone.mp4", "new\\nline.mp4"]
  assert "subtitle files that cannot be used, 1: b.srt (no file)\n" in (
      capsys.readouterr().out)
  build(tmp_path / "data", tmp_path)  # and rejected.csv can be written


# ---- a list

def test_a_file_has_one_name(listed):
  path = write_list(listed, "a.mp4,0,2,,one", f"{listed}/a.mp4,0,2,,two",
                    "./sub/../a.mp4,4,6,,three")
  assert [(span.file, span.captions) for span in clips_csv.read(
      str(path)).spans()] == [
      ("a.mp4", ("one", "two")), ("a.mp4", ("three",))]


def test_list(tmp_path, listed, folder, media):
  write_list(
      listed,
      "a.mp4,0,2,dog,a dog barks",
      f"{folder}/sub/b.mkv,1,3,cat,\"a cat, asleep\"",
      "./a.mp4,0.0,2.0004,ant,one more caption",
      "missing.mp4,0,2,dog,nothing",
      "a.mp4,6,8,,past the end by half",
      "a.mp4,6.5,8,dog,past the end",
      "a.mp4,3,3,dog,no time",
      "",
      "bad.mp4,0,2,dog,no media",
      "a.mp4,2,4,,",
      "c.mp3,,,bee,the whole file")
  examples, refused, builder = build(tmp_path / "data", listed)
  assert builder.info.features["label"].feature.names == [
      "ant", "bee", "cat", "dog"]
  every = examples["train"] | examples["test"]
  b = f"{folder}/sub/b.mkv:1.000-3.000"
  assert set(every) == {"a.mp4:0.000-2.000", b, "a.mp4:6.000-8.000",
                        "a.mp4:2.000-4.000", "c.mp3:0.000-"}
  assert sorted(every["a.mp4:0.000-2.000"]["label"]) == [0, 3]
  captions = every["a.mp4:0.000-2.000"]["captions"]
  assert list(captions["text"]) == [b"a dog barks", b"one more caption"]
  assert list(captions["start"]) == [0, 0] and list(captions["end"]) == [2, 2]
  assert list(every[b]["captions"]["text"]) == [b"a cat, asleep"]
  # No caption in the list: those of a.srt.
  captions = every["a.mp4:2.000-4.000"]["captions"]
  assert list(captions["text"]) == [b"one and two", b"three"]
  half = every["a.mp4:6.000-8.000"]
  assert len(half["frames"]) == 5 and list(half["captions"]["end"]) == [1]
  assert len(every["c.mp3:0.000-"]["audio"]) > 31000

  reasons = {name: why for name, (_, why) in refused.items()}
  assert reasons == {
      "missing.mp4:0.000-2.000": "row 5: no such file",
      "a.mp4:6.500-8.000": "the file ends at 7.000 s",
      "a.mp4:3.000-3.000":
          "row 8: from 3.0 to 3.0 s, expected more than 0 and at most 600 s",
      "bad.mp4:0.000-2.000": reasons["bad.mp4:0.000-2.000"]}
  assert reasons["bad.mp4:0.000-2.000"].startswith("no readable media")


def test_splits_of_a_list(listed):
  header = "video_path,start,end,split"
  write_list(listed, "a.mp4,0,2,test", "a.mp4,2,4,train", "a.mp4,4,6,test",
             header=header)
  splits = splits_of(plan(listed))
  assert {split: len(c) for split, c in splits.items()} == {
      "train": 1, "test": 2}
  write_list(listed, "a.mp4,0,2,test", header=header)
  assert list(splits_of(plan(listed))) == ["test"]


def test_rows_that_come_or_go_above_a_clip(tmp_path, listed, capsys):
  """They change no record."""
  rows = ["a.mp4,0,1,test", "bad.mp4,0,1,train", "a.mp4,1,2,train"]
  header = "video_path,start,end,split"

  def said():
    Clips(data_dir=str(tmp_path), config=SMALL,
          manual_dir=str(listed)).download_and_prepare()
    return capsys.readouterr().out.splitlines()[-1]

  write_list(listed, *rows, header=header)
  assert "built 2 clips (" in said()
  write_list(listed, *reversed(rows), header=header)
  assert "already built 2 clips (" in said()
  write_list(listed, "a.mp4,2,3,train", *rows, header=header)
  with pytest.raises(UserError, match=r"\(2 of its clips are the same, 2 are"):
    said()


def test_rows_of_a_clip_that_are_apart(tmp_path):
  """Against a dict of all, by the order of rows; and what is refused first."""
  chance = random.Random(0)
  for name in "abc":
    (tmp_path / f"{name}.mp4").touch()
  rows = [(chance.choice("abcx"), chance.randrange(3), chance.choice("lmn"),
           chance.choice(["", "one", "two", "three"])) for _ in range(200)]
  path = write_list(tmp_path, *(
      f"{file}.mp4,{start},{start + 1},{label},{caption}"
      for file, start, label, caption in rows))
  expected, lost = {}, {}
  for row, (file, start, label, caption) in enumerate(rows, 2):
    if file == "x":
      lost.setdefault(f"x.mp4:{start}.000-{start + 1}.000", row)
      continue
    labels, captions = expected.setdefault((f"{file}.mp4", start), ({}, {}))
    labels[label] = captions[caption] = None
  found = clips_csv.read(str(path))
  for _ in range(2):
    spans = list(found.spans())
    assert [(span.file, span.start) for span in spans] == sorted(expected)
    for span in spans:
      labels, captions = expected[span.file, span.start]
      assert span.labels == tuple(labels)
      assert span.captions == tuple(filter(None, captions))
  assert found.rejected == [
      (name, "x.mp4", f"row {row}: no such file") for name, row in lost.items()]
  assert found.files == {"a.mp4", "b.mp4", "c.mp4"} and not found.silent
  assert found.classes == ("l", "m", "n")

  # Of rows that contradict others, the first; those are in no order.
  path = write_list(
      tmp_path, "c.mp4,0,1,train,", "b.mp4,0,1,train,", "a.mp4,0,1,train,",
      "c.mp4,0,1,train,", "b.mp4,0,1,train,a.mp4", "c.mp4,0,1,test,",
      "a.mp4,0,1,test,", header="video_path,start,end,split,sound_path")
  with pytest.raises(UserError, match="clips.csv: row 6, column sound_path: "
                     "'a.mp4', but '' for the same clip in row 3$"):
    clips_csv.read(str(path))


def test_clips_in_several_splits_are_stored_once(tmp_path, listed, capsys):
  write_list(
      listed, "a.mp4,0,2,test2 train1,one", "a.mp4,2,4,test1 train2,",
      "a.mp4,0,2, train1  test2 ,two", "a.mp4,4,6,train1 test2,",
      "c.mp3,0,2,train1,", "bad.mp4,0,2,test1,", "bad.mp4,1,2,train1 train2,",
      header="video_path,start,end,split,caption")
  examples, refused, builder = build(tmp_path / "data", listed)
  assert {split: sorted(each) for split, each in examples.items()} == {
      "train1": ["c.mp3:0.000-2.000"],
      "train1_test2": ["a.mp4:0.000-2.000", "a.mp4:4.000-6.000"],
      "train2_test1": ["a.mp4:2.000-4.000"]}
  assert list(examples["train1_test2"]["a.mp4:0.000-2.000"]["captions"][
      "text"]) == [b"one", b"two"]
  assert set(refused) == {"bad.mp4:0.000-2.000", "bad.mp4:1.000-2.000"}
  printed = capsys.readouterr().out.splitlines()[-1]
  assert "built 4 clips (train1 3, test2 2, train2 1, test1 1; " in printed
  build(tmp_path / "data", listed)  # and is found built
  assert "already built 4 clips (" in capsys.readouterr().out

  write_list(listed, "a.mp4,0,2,train1", "bad.mp4,0,2,train1 test1",
             header="video_path,start,end,split")
  with pytest.raises(UserError, match="every clip of split 'test1' was "
                     "rejected; the first: bad.mp4:0.000-2.000: no readable"):
    build(tmp_path / "other", listed)
  write_list(listed, "a.mp4,0,2,train1 test2", "a.mp4,0,2,train1",
             header="video_path,start,end,split")
  with pytest.raises(UserError, match="row 3, column split: 'train1', but the "
                     "same clip is in 'train1_test2' in row 2"):
    plan(listed)


@pytest.mark.parametrize("header, row, match", [
    ("video_path,start,label", "a.mp4,0,x", "row 1: no column 'end' in"),
    ("video_path,start,end,captions", "a.mp4,0,2,x",
     "row 1: unknown column 'captions'"),
    ("video_path,start,end,end", "a.mp4,0,2,2", "column 'end' is there twice"),
    ("video_path,start,end", "a.mp4,soon,2",
     "row 3, column start: 'soon', expected seconds"),
    ("video_path,start,end", "a.mp4,0,nan", "row 3, column end: 'nan'"),
    ("video_path,start,end", "a.mp4,0", "row 3: 2 cells, expected 3"),
    ("video_path,start,end,split", "a.mp4,0,2,",
     "row 3, column split: '', expected train, test or other names"),
    ("video_path,start,end,split", "a.mp4,0,2,train1 dev_2",
     "row 3, column split: 'train1 dev_2', expected"),
    ("video_path,start,end,split", "a.mp4,0,2,all", "column split: 'all'"),
    ("video_path,start,end,split", f"a.mp4,0,2,{'a' * 151}", "split: 'aaa"),
    ("video_path,start,end", 'a.mp4,0,"2', "row 3: cannot be read as CSV"),
    ("video_path,start,end", '"a\n.mp4",0,2', r"path: 'a\\n.mp4', exp"),
])
def test_lists_that_are_refused(tmp_path, listed, header, row, match):
  good = "a.mp4,0,2" + ",train" * header.endswith("split")
  path = write_list(listed, good, row, header=header)
  with pytest.raises(UserError, match=match) as error:
    build(tmp_path / "data", listed)
  assert str(path) in str(error.value) and "\n" not in str(error.value)
  assert not (tmp_path / "data").exists()


def test_clip_on_both_sides_and_list_without_a_clip(listed):
  write_list(listed, "a.mp4,0,2,test", "a.mp4,0,2,train",
             header="video_path,start,end,split")
  with pytest.raises(UserError, match="row 3, column split: 'train', but the "
                     "same clip is in 'test' in row 2"):
    plan(listed)
  write_list(listed, "x.mp4,0,2,,")
  with pytest.raises(UserError, match="no usable row in clips.csv; the first: "
                     "x.mp4: row 2: no such file"):
    plan(listed)
  (listed / "clips.csv").write_bytes(b"\xff\xfe\x00")
  with pytest.raises(UserError, match="line 1: byte .* is not utf-16"):
    plan(listed)


def test_dataset_that_makes_its_own_media(tmp_path, media):
  class Numbers(Clips, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    DEFAULTS = clips.Options(fps=2, size=16, audio_rate=8000)

    def make_plan(self, manual_dir):
      folder = tmp_path / "made"
      folder.mkdir(exist_ok=True)
      media.write_media(folder / "a.mp4", [media.numbered(9)] * 20, rate=10)
      write_list(folder, "a.mp4,0,1,nine,train", "a.mp4,1,2,nine,test",
                 header="video_path,start,end,label,split")
      return super().make_plan(str(folder))

  Numbers(data_dir=str(tmp_path)).download_and_prepare()
  builder = tfds.builder_from_directory(f"{tmp_path}/numbers/default/1.0.0")
  example, = builder.as_dataset(split="test").as_numpy_iterator()
  assert len(example["frames"]) == example["fps"] == 2
  assert builder.info.features["label"].feature.names == ["nine"]


def test_batches_of_built_clips(tmp_path, folder, records):
  config = f"batches+{SMALL.split('+', 1)[1]}+audio=flac"
  build(tmp_path, folder, config)
  words = tmp_path / "words"
  words.write_text("one\nand\ntwo\nthree\n")
  data = records.config(
      tmp_path, datasets=(f"clips/{config}",), vocabulary=str(words), fps=5.0,
      audio_samples=6400)
  source = sources.open_source(f"clips/{config}", str(tmp_path), "train")
  batch = next(iter(input_pipeline.train_dataset(data, [source], 6, 0, 0)))
  assert batch["video"].shape == (6, 4, 16, 16, 3)
  assert not batch["corrupt"].numpy().any()
  assert batch["video_mask"].numpy().all()
  assert batch["audio_mask"].numpy().sum() == 4  # b.mkv has no sound
  assert batch["caption_mask"].numpy().any(1).sum() == 4  # all of a.mp4
  # The sound is that of PCM, bit for bit.
  examples = tfds.builder_from_directory(source.directory).as_dataset("train")
  for example in examples.as_numpy_iterator():
    file, times = example["id"].decode().rsplit(":", 1)
    want = media_lib.read(f"{folder}/{file}", *map(float, times.split("-")),
                          audio_rate=8000).audio
    assert (want is None) == (not example["audio"])
    if want is not None:
      assert len(example["audio"]) < want.nbytes / 2
      np.testing.assert_array_equal(
          audio_lib.samples(tf.constant(example["audio"]), flac=True), want)


def test_captions_of_a_language(listed):
  """Beside a.srt, of which it is not known."""
  write_list(listed, "a.mp4,0,2,train,", "a.mp4,4,6,train,Ge\u0301de\u0301on",
             "a.mp4,4,6,train,Gédéon",
             header="video_path,start,end,split,caption")
  (listed / "a.ger.srt").write_bytes((listed / "a.srt").read_bytes().replace(
      b"one and two", "größer".encode("cp1252")))
  small = {"fps": 5, "size": 32, "audio_rate": 8000, "length": 2}
  for language, caption, values in (
      ("", "one and two", {}),
      ("+language=German", "größer", {"language": "de"}),
      ("+audio=flac", "one and two", {"audio": "flac"})):
    made = plan(listed, SMALL + language)
    # Fields that come later are not in it, unless they are used.
    assert made.sources == small | values
    one, other = splits_of(made)["train"]
    assert one.data[3][0] == (caption, 1.5, 2.5)
    assert other.data[3] == ("Gédéon",)


# ---- configurations

def test_configurations():
  parse = lambda config: clips.parse_config(config, clips.Options())
  assert parse("default") == parse("my.talks-2") == clips.Options()
  assert parse("fps=25+size=96") == clips.Options(fps=25, size=96)
  assert parse("talks+audio_rate=16000+length=2.5") == clips.Options(
      audio_rate=16000, length=2.5)
  assert parse("a+audio=flac") == clips.Options(audio="flac")
  assert parse("jpeg=8") == clips.Options(jpeg=8)
  for language in ("en", "eng", "en-US", "English"):
    assert parse(f"language={language}") == clips.Options(language="en")
  for config, match in (
      ("a,fps=5", "'a,fps=5' is unknown"),
      ("fsp=5", "'fsp=5' is unknown, expected"),
      ("fps=5+talks", "'talks' is unknown"), ("a/b", "'a/b' is unknown"),
      ("fps=5+fps=6", "is there twice"), ("fps=nan", "fps is 'nan'"),
      ("fps=0", "fps is '0', expected float"),
      ("size=9.5", "size is '9.5', expected int"),
      ("jpeg=1", "jpeg is '1', expected int from 2 .the finest. to 31"),
      ("jpeg=32", "jpeg is '32'"), ("jpeg=best", "jpeg is 'best'"),
      ("audio=mp3", "audio is 'mp3', expected pcm or flac"),
      ("language=klingonian", "is 'klingonian', expected a language, such"),
      ("length=1000", "expected at most 600")):
    with pytest.raises(UserError, match=match):
      parse(config)


# ---- the command

# As if the dataset were large enough for processes to build it.
LARGE = """
import runpy
from vatt.data.datasets import clips
clips.LONG = 0
runpy.run_path("scripts/prepare_dataset.py", run_name="__main__")
"""


def test_command_killed_and_repeated(tmp_path, folder, python, processes):
  """In forks of a server: a decoder, which is replaced, then the process that
  was started alone; the others end with it."""
  command = ["-c", LARGE,
             f"--dataset=clips/{SMALL}".replace("length=2", "length=1"),
             f"--manual_dir={folder}", f"--data_dir={tmp_path}/data"]
  killed = python.start(*command, start_new_session=True)
  config = command[2].split("/", 1)[1]
  made = tmp_path / f"data/clips/{config}/{VERSION}"
  decoder = None
  while killed.poll() is None and len(list(made.glob("*.index.json"))) < 3:
    found = processes.of_session(killed.pid)
    if not decoder and made.exists():
      # Of a fork, not of the first process, which has looked at the files.
      decoder = next((pid for pid, (parent, words) in found.items()
                      if "vatt.data.ingest.workers" in words
                      and parent != killed.pid), None)
      if decoder:
        os.kill(decoder, signal.SIGKILL)
    time.sleep(0.01)
  assert decoder and any(
      "vatt.data.ingest.forks" in words for _, words in found.values())
  # None of those that have looked at the files, which are needed no more.
  assert not [words for parent, words in found.values()
              if parent == killed.pid and "vatt.data.ingest.workers" in words]
  os.kill(killed.pid, signal.SIGKILL)
  assert killed.wait() == -signal.SIGKILL
  assert processes.are_gone(found)
  assert not (made / "dataset_info.json").exists()
  finished = {path: path.stat().st_mtime_ns for path in made.glob("*")
              if path.with_name(path.name + ".index.json").exists()}
  assert 3 <= len(finished) < 32
  run = python.run(*command)
  assert run.returncode == 0, run.stderr
  assert "built 14 clips" in run.stdout.splitlines()[-1]
  # What was finished was not made again.
  assert finished == {path: path.stat().st_mtime_ns for path in finished}
  build(tmp_path / "fresh", folder, config)
  once, twice = (
      {path.name: path.read_bytes() for path in
       (tmp_path / root / f"clips/{config}/{VERSION}").iterdir()
       } for root in ("fresh", "data"))
  assert once == twice


@pytest.mark.slow
def test_killed_at_ten_moments(tmp_path, test_data, python, processes):
  """The process that was started, all, a fork or a decoder: what is finished in
  the end is what nobody disturbed."""
  media, config = tmp_path / "media", "x+size=64+audio_rate=8000+length=2"
  for name in ("band.mp4", "band.webm", "bikes.mp4"):
    for folder in "ab":  # so that there are ten moments
      (media / folder).mkdir(parents=True, exist_ok=True)
      shutil.copyfile(test_data / "media" / name, media / folder / name)
  command = ["-c", LARGE, f"--dataset=clips/{config}",
             f"--manual_dir={media}", f"--data_dir={tmp_path}/killed"]
  chance = np.random.default_rng(0)
  for moment in range(10):
    run = python.start(*command, start_new_session=True)
    whom, victim = ("first", "all", "fork", "decoder")[moment % 4], None
    while run.poll() is None and victim is None:
      time.sleep(0.1)
      found = processes.of_session(run.pid)
      decoders = {pid: parent for pid, (parent, words) in found.items()
                  if "vatt.data.ingest.workers" in words and parent != run.pid}
      if decoders:
        time.sleep(chance.uniform(0, 1))
        victim = {"decoder": min(decoders), "fork": min(decoders.values())}.get(
            whom, run.pid)
        with contextlib.suppress(ProcessLookupError):  # it was done before
          (os.killpg if whom == "all" else os.kill)(victim, signal.SIGKILL)
    if whom == "decoder":  # is replaced
      time.sleep(chance.uniform(0, 1))
      run.send_signal(signal.SIGKILL)
    code = run.wait(100)
    if victim is None or code == 0:
      assert code == 0  # it was done before
      break
    assert processes.are_gone(found)
    if whom == "fork":
      assert code == 1 and re.search(
          "the build stopped: a process was killed by signal 9, .*; what is "
          "finished is kept, run the same command to go on$", run.communicate(
          )[1].splitlines()[-1])
    else:
      assert code == -signal.SIGKILL
  print(f"ended before kill {moment + 1}" if code == 0 else "killed ten times")
  assert moment > 3  # each kind of them has come
  assert python.run(*command).returncode == 0
  Clips(data_dir=str(tmp_path / "whole"), config=config,
        manual_dir=str(media)).download_and_prepare()
  whole, killed = (
      {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (
          tmp_path / root / f"clips/{config}/{VERSION}").iterdir()}
      for root in ("whole", "killed"))
  assert killed == whole


def test_command_tells_errors_in_a_line(tmp_path, python):
  run = python.run("scripts/prepare_dataset.py", "--dataset=clips",
                   f"--manual_dir={tmp_path}", f"--data_dir={tmp_path}/data")
  assert run.returncode == 1 and "Traceback" not in run.stderr
  # Before it may stand what TensorFlow has to say of the machine.
  assert run.stderr.splitlines()[-1].startswith("error: --manual_dir=")
  # As of a shell's variable that is not set; tensorflow-datasets has a default.
  run = python.run("scripts/prepare_dataset.py", "--dataset=clips",
                   f"--manual_dir={tmp_path}", "--data_dir=")
  assert run.returncode == 1
  assert run.stderr.splitlines()[-1] == "error: --data_dir is missing"


# ---- damage

def mutate(data, chance):
  """Bytes damaged as files are: flipped, lost, doubled, zeroed, cut off."""
  data = bytearray(data)
  kind = chance.choice(
      ["flip", "flip", "head", "zero", "lose", "double", "cut", "noise"])
  a = int(chance.integers(len(data)))
  b = a + int(2 ** chance.uniform(3, 16))
  if kind == "flip":
    for at in chance.integers(len(data), size=int(2 ** chance.uniform(0, 9))):
      data[at] ^= 1 << int(chance.integers(8))
  elif kind == "head":
    for at in chance.integers(min(4096, len(data)), size=8):
      data[at] = int(chance.integers(256))
  elif kind == "zero":
    data[a:b] = bytes(len(data[a:b]))
  elif kind == "lose":
    del data[a:b]
  elif kind == "double":
    data[a:a] = data[a:b]
  elif kind == "cut":
    del data[a:]
  else:
    data[a:b] = chance.bytes(len(data[a:b]))
  return bytes(data)


def fuzz(folder, originals, count, seconds, monkeypatch):
  """Builds of damaged files; (built, rejected, seconds of each clip)."""
  took = []

  class Timed(Workers):
    def stream(self, *args):
      begin = time.time()
      try:
        yield from super().stream(*args)
      finally:
        took.append(time.time() - begin)

  monkeypatch.setattr(clips, "Workers", Timed)
  chance = np.random.default_rng(0)
  rows = []
  lengths = [media_lib.length(str(path)) for path in originals]
  for i in range(count):
    path = originals[i % len(originals)]
    name = f"{i:04d}{path.suffix}"
    (folder / name).write_bytes(mutate(path.read_bytes(), chance))
    start = chance.uniform(0, max(0.0, lengths[i % len(originals)] - seconds))
    rows.append(f"{name},{start:.3f},{start + seconds:.3f}")
  write_list(folder, *rows, header="video_path,start,end")
  examples, refused, _ = build(
      folder / "data", folder, "fps=5+size=64+audio_rate=16000")
  built = {**examples["train"], **examples["test"]}
  assert len(built) + len(refused) == count and not set(built) & set(refused)
  assert all(why for _, why in refused.values())
  assert all(len(e["frames"]) or len(e["audio"]) for e in built.values())
  return len(built), refused, took


def test_clips_that_are_kept_though_damaged_are_named(tmp_path, capsys):
  """Also after a stop, when their records are used again."""
  folder, config = tmp_path / "media", "x+audio_rate=4000+length=8"
  folder.mkdir()
  sound = np.float32(0.3 * np.sin(np.arange(32_000)))
  spoiled = sound.copy()
  spoiled[9000:10_000] = np.nan
  for name, samples in ("a", sound), ("b", spoiled), ("c", sound):
    wavfile.write(folder / f"{name}.wav", 4000, samples)
  _, _, builder = build(tmp_path / "data", folder, config)
  final = pathlib.Path(builder.data_path)
  line = f"rejected 0, damaged 1 (see {final}/damaged.csv)\n"
  assert capsys.readouterr().out.endswith(line)
  header, row = (final / "damaged.csv").read_text().splitlines()
  assert header == "id,file,reason"
  assert re.fullmatch(r"b\.wav:0\.000-8\.000,b\.wav,"
                      r"[1-9]\d* packets are damaged", row)
  build(tmp_path / "data", folder, config)
  out = capsys.readouterr().out
  assert ": already built 3 clips " in out and out.endswith(line)
  (final / "damaged.csv").unlink()
  with pytest.raises(UserError, match=r"damaged, .* \(damaged.csv\); the same"):
    build(tmp_path / "data", folder, config)
  # As if that build had stopped before its end, and a file has come since.
  wavfile.write(folder / "d.wav", 4000, sound)
  (final / "dataset_info.json").unlink()
  build(tmp_path / "data", folder, config)
  assert capsys.readouterr().out.endswith(line)
  assert (final / "damaged.csv").read_text() == f"{header}\n{row}\n"


def test_what_is_no_damage_and_what_is_no_longer(tmp_path, capsys):
  folder, config = tmp_path / "media", "x+audio_rate=4000"
  folder.mkdir()
  for name in "ab":
    wavfile.write(folder / f"{name}.wav", 4000, np.int16(
        9000 * np.sin(np.arange(8000))))
  _, _, builder = build(tmp_path / "data", folder, config)
  (folder / "c.mp4").write_text("no media, and of no clip")
  build(tmp_path / "data", folder, config)
  assert ": already built 2 clips " in capsys.readouterr().out
  stale = pathlib.Path(builder.data_path) / "damaged.csv"
  stale.write_text("id,file,reason\nx,x,x\n")
  again = Clips(data_dir=str(tmp_path / "data"), config=config,
                manual_dir=str(folder))
  with pytest.raises(UserError, match=r"damaged, .* \(damaged.csv\); the same"):
    again.download_and_prepare()
  again.download_and_prepare(repair=True)
  assert not stale.exists()
  again.download_and_prepare()


def test_damaged_files_are_built_or_rejected(tmp_path, media, monkeypatch):
  originals = []
  for name, video, audio in (
      ("a.mp4", "libx264", "aac"), ("b.webm", "libvpx", "libopus"),
      ("c.avi", "mpeg4", "libmp3lame"), ("d.ts", "mpeg2video", "mp2"),
      ("e.mkv", "libx264", "flac")):
    (tmp_path / "good").mkdir(exist_ok=True)
    originals.append(pathlib.Path(media.write_media(
        tmp_path / "good" / name, [media.numbered(i) for i in range(50)],
        media.clicks([1], 2), video=video, audio=audio)))
  (tmp_path / "bad").mkdir()
  built, refused, _ = fuzz(tmp_path / "bad", originals, 25, 1, monkeypatch)
  assert built and refused


@pytest.mark.slow
def test_thousand_damaged_real_files(tmp_path, test_data, monkeypatch):
  originals = sorted((test_data / "media").iterdir())
  begin = time.time()
  built, refused, took = fuzz(tmp_path, originals, 1000, 3, monkeypatch)
  shutil.rmtree(tmp_path)
  crashes = [why for _, why in refused.values() if "crashed" in why]
  late = [why for _, why in refused.values() if "took longer" in why]
  print(f"{built} built, {len(refused)} rejected, {len(crashes)} crashes, "
        f"{len(late)} over time in {time.time() - begin:.0f} s; a clip took "
        f"{np.mean(took):.2f} s, at most {max(took):.1f} s")
  assert not crashes and not late
