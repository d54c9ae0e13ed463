"""HowTo100M, of its official captions and real media under its names."""
import csv
import json
import os
import pickle
import shutil
import signal
import time

import numpy as np
import pytest
import tensorflow as tf

from vatt.data import input_pipeline, record_index, sources
from vatt.data.datasets import clips, howto100m
from vatt.data.datasets.howto100m import Howto100m
from vatt.data.ingest import clip_sources, json_stream, plans, splits
from vatt.data.ingest import media as media_lib
from vatt.data.ingest.workers import Workers
from vatt.errors import UserError

# Of the videos in the official captions, which are longer.
FILES = {"-tCQ4tCQdWE": "-tCQ4tCQdWE.mp4", "2_MmPmFxGCo": "sub/2_MmPmFxGCo.avi",
         "4T7b7H63NMA": "sub/4T7b7H63NMA.mkv", "3lL8XUUWg_Q": "3lL8XUUWg_Q.mp4"}
SECONDS = {"-tCQ4tCQdWE": 60.2, "2_MmPmFxGCo": 5.4, "4T7b7H63NMA": 4.0,
           "3lL8XUUWg_Q": 10.0}
REAL = {"-tCQ4tCQdWE.mp3": ("band_audio.mp3", 15.5),
        "2_MmPmFxGCo.mp4": ("bigbuckbunny.mp4", 5.312),
        "4T7b7H63NMA.mp4": ("carphone_pristine.mp4", 4.004),
        "sub/3lL8XUUWg_Q.mp4": ("bikes.mp4", 10.0)}
ABSENT = "2Mn5sVpFDTg"  # captions without a file
SMALL = "fps=5+size=32+audio_rate=8000+length=3"

pytestmark = pytest.mark.usefixtures("one_set_of_workers")


def official(folder):
  """{video: its rows (text, start, end)} of CSV files."""
  found = {}
  for path in sorted(folder.glob("*.csv")):
    with open(path, newline="") as file:
      found[path.stem] = [(row["text"], float(row["start"]), float(row["end"]))
                          for row in csv.DictReader(file)]
  return found


def write_json(path, captions):
  path.write_text(json.dumps({
      video: {"start": [s for _, s, _ in rows], "end": [e for _, _, e in rows],
              "text": [t for t, _, _ in rows]}
      for video, rows in captions.items()}))
  return str(path)


@pytest.fixture(scope="module")
def videos(tmp_path_factory, media):
  folder = tmp_path_factory.mktemp("videos")
  (folder / "sub").mkdir()
  for video, name in FILES.items():
    media.write_media(
        folder / name, [media.numbered(i % 256, 32, 16)
                        for i in range(round(SECONDS[video] * 5))],
        rate=5, video="mpeg4")
  return folder


@pytest.fixture(scope="module")
def lists(tmp_path_factory, test_data):
  """The official files, in a folder of a folder."""
  folder = tmp_path_factory.mktemp("lists") / "captions"
  shutil.copytree(test_data / "official/howto100m", folder)
  return folder.parent


def plan(tmp_path, videos, lists, config="default", **options):
  made = Howto100m(data_dir=str(tmp_path / "data"), config=config,
                   annotations=str(lists), **options).make_plan(str(videos))
  return made._replace(clips=list(made.clips))


def clips_of(plan):
  return [clip for _, clip in plan.clips]


def planned(plan):
  """A plan without what differs in each."""
  return plan._replace(read=None, place=None, can_cut=None, clips=[
      (split, clip._replace(where=())) for split, clip in plan.clips])


# ---- the plan

def test_json_gives_what_the_csvs_give(tmp_path, videos, lists, capsys):
  by_csv = plan(tmp_path, videos, lists)
  printed = capsys.readouterr().out.splitlines()
  assert printed == [
      f"{lists}: 268 captions of 4 videos (98 overlapping, 0 out of order); "
      "left out: 0 without text, 0 with impossible times, 0 not understood",
      f"{lists}: of 5 videos, without a file, 1: {ABSENT}",
      f"{lists}: videos whose captions go on behind their end, 4: "
      "-tCQ4tCQdWE, 3lL8XUUWg_Q, 2_MmPmFxGCo, 4T7b7H63NMA"]
  rows = official(lists / "captions")
  by_json = plan(tmp_path, videos, write_json(tmp_path / "caption.json", rows))
  assert planned(by_csv) == planned(by_json)
  times = {v: [] for v in SECONDS}
  for clip, other in zip(clips_of(by_csv), clips_of(by_json)):
    start, end, *_ = clip.data
    video = howto100m.video_of(clip.file)
    times[video].append((start, end))
    found = by_csv.read.captions(clip)
    assert found == by_json.read.captions(other)
    # Those that are said in the clip are all there, in order.
    own = [t for t, s, e in rows[video] if e > start and s < end]
    assert [t for t, _, _ in found][:len(own)] == own and len(found) >= 5
    assert own or start >= 10 or video == "2_MmPmFxGCo"
  assert times == {
      "-tCQ4tCQdWE": [(t, t + 10) for t in range(0, 60, 10)],
      "2_MmPmFxGCo": [(0, 5.4)], "4T7b7H63NMA": [(0, 4)],
      "3lL8XUUWg_Q": [(0, 10)]}
  # All clips of a video are on one side.
  sides = {(howto100m.video_of(clip.file), split)
           for split, clip in by_csv.clips}
  assert len(sides) == len(SECONDS)
  assert {split for _, split in sides} == {"train", "test"}


def test_lengths_are_measured_once(tmp_path, videos, lists, monkeypatch):
  opened, call = [], Workers.call

  def note(self, limit, function, *args):
    if function is media_lib.length:
      opened.append(os.path.relpath(args[0], videos))
    return call(self, limit, function, *args)

  monkeypatch.setattr(Workers, "call", note)
  videos = shutil.copytree(videos, tmp_path / "videos")
  first = planned(plan(tmp_path, videos, lists))
  assert sorted(opened) == sorted(FILES.values())
  opened.clear()
  assert planned(plan(tmp_path, videos, lists)) == first
  assert not opened
  shutil.copyfile(videos / "sub/2_MmPmFxGCo.avi", videos / "3lL8XUUWg_Q.mp4")
  assert len(clips_of(plan(tmp_path, videos, lists))) == len(first.clips)
  assert opened == ["3lL8XUUWg_Q.mp4"]
  known = tmp_path / "data/howto100m/default/lengths.csv"
  known.write_bytes(known.read_bytes()[:-30])  # as if it were damaged
  plan(tmp_path, videos, lists)
  assert len(opened) == 5


def test_keys_change_with_the_captions(tmp_path, videos, lists):
  rows = official(lists / "captions")
  path = tmp_path / "caption.json"
  before = clips_of(plan(tmp_path, videos, write_json(path, rows)))
  rows["-tCQ4tCQdWE"][-1] = ("another end", *rows["-tCQ4tCQdWE"][-1][1:])
  rows["2_MmPmFxGCo"].append(("", 500.0, 501.0))  # left out
  now = plan(tmp_path, videos, write_json(path, rows))
  changed = {clip.file for clip, a, b in zip(
      before, plans.keys_of(before, ""), plans.keys_of(clips_of(now), ""))
             if a != b}
  assert changed == {"-tCQ4tCQdWE.mp4"}


def test_captions_in_folders_that_are_links(tmp_path):
  lists = tmp_path / "lists"
  for name in "part", "lists/more":
    (tmp_path / name).mkdir(parents=True)
  (tmp_path / "part/-tCQ4tCQdWE.csv").touch()
  (lists / "2_MmPmFxGCo.csv").touch()
  for name, folder in ("a", "part"), ("b", "part"), ("more/loop", "lists"):
    (lists / name).symlink_to(tmp_path / folder)
  assert howto100m.find_lists(str(lists)).csvs == {
      "2_MmPmFxGCo": f"{lists}/2_MmPmFxGCo.csv",
      "-tCQ4tCQdWE": f"{lists}/a/-tCQ4tCQdWE.csv"}


def test_captions_that_change_during_a_build(tmp_path, videos, lists):
  """Nothing is built that is of neither state."""
  lists = shutil.copytree(lists, tmp_path / "lists")
  path = lists / "captions/-tCQ4tCQdWE.csv"
  rows = official(lists / "captions")
  json_path = tmp_path / "caption.json"
  by_csv = plan(tmp_path, videos, lists)
  by_json = plan(tmp_path, videos, write_json(json_path, rows))
  path.write_text(path.read_text().replace("honest", "modest"))
  json_path.write_text("{" + json_path.read_text())
  for made, match in ((by_csv, f"{path}: the captions of -tCQ4tCQdWE have "
                       "changed since this command began; run it again"),
                      (by_json, f"{json_path}: byte 16: no longer what it was"
                       ".*; run the command again")):
    clip = next(clip for _, clip in made.clips
                if clip.file == "-tCQ4tCQdWE.mp4")
    reader = pickle.loads(pickle.dumps(made.read))  # in another process
    with pytest.raises(UserError, match=match):
      reader.captions(clip)


def test_a_list_of_videos(tmp_path, videos, lists, capsys):
  lists = shutil.copytree(lists, tmp_path / "lists")
  (lists / "captions/3lL8XUUWg_Q.csv").unlink()
  (lists / "HowTo100M_v1.csv").write_text(
      "video_id,category_1,category_2,rank,task_id\n"
      "3lL8XUUWg_Q,Hobbies,Crafts,1,10\n-tCQ4tCQdWE,Food,,2,11\n"
      "gone_videos,Food,,3,12\n")
  made = plan(tmp_path, videos, lists)
  printed = capsys.readouterr().out
  assert f"{lists}: 20 captions of 1 videos (0 overlapping" in printed
  assert f"{lists}: of 3 videos, without a file, 1: gone_videos\n" in printed
  assert f"{lists}: videos without captions, 1: 3lL8XUUWg_Q\n" in printed
  assert (f"{videos}: media files of videos that are not listed, 2: "
          "sub/2_MmPmFxGCo.avi, sub/4T7b7H63NMA.mkv\n") in printed
  found = clips_of(made)
  assert sorted(clip.file for clip in found) == [
      *6 * ["-tCQ4tCQdWE.mp4"], "3lL8XUUWg_Q.mp4"]
  for clip in found:  # pictures and sound are used without any
    assert bool(made.read.captions(clip)) == (clip.file == "-tCQ4tCQdWE.mp4")
  # Without the list, what has no captions is no video of HowTo100M.
  (lists / "HowTo100M_v1.csv").unlink()
  made = plan(tmp_path, videos, lists)
  assert len(clips_of(made)) == 8
  assert "not listed, 1: 3lL8XUUWg_Q.mp4\n" in capsys.readouterr().out
  # Beside one file of captions, too, that has a video twice: as json reads it.
  (lists / "HowTo100M_v1.csv").write_text("video_id\n-tCQ4tCQdWE\n")
  path = write_json(lists / "mine.json", official(lists / "captions"))
  for last in [], ["the last"]:
    (lists / "mine.json").write_text((lists / "mine.json").read_text()[:-1] + (
        ', "-tCQ4tCQdWE": ' + json.dumps(
            {"text": last, "start": [1] * len(last), "end": [2] * len(last)})
        + "}"))
    made = plan(tmp_path, videos, path)
    found = clips_of(made)
    assert {clip.file for clip in found} == {"-tCQ4tCQdWE.mp4"}
    assert [text for text, _, _ in made.read.captions(found[0])] == last


def test_clips_around_cues_and_by_a_stride(tmp_path, videos, lists):
  rows = official(lists / "captions")
  made = plan(tmp_path, videos, lists, "length=4+around=cues")
  times = {video: [] for video in SECONDS}
  for clip in clips_of(made):
    times[howto100m.video_of(clip.file)].append(clip.data[:2])
  for video, seconds in SECONDS.items():
    want = []
    for _, start, end in rows[video]:
      if start < seconds:
        begin = max(0, min((start + end) / 2 - 2, max(0, seconds - 4)))
        want.append((round(begin, 3), round(min(begin + 4, seconds), 3)))
    np.testing.assert_allclose(
        sorted(times[video]), sorted(set(want)), atol=1e-9)
  assert len(times["-tCQ4tCQdWE"]) > 9
  made = plan(tmp_path, videos, lists, "length=10+stride=7")
  found = clips_of(made)
  assert [clip.data[:2] for clip in found
          if clip.file == "-tCQ4tCQdWE.mp4"] == [
              (t, t + 10) for t in range(0, 50, 7)]
  same = clips.Clips(data_dir="unused", config="length=10+stride=7").make_plan(
      str(videos))
  assert sorted(clip.id for clip in clips_of(same)) == sorted(
      clip.id for clip in clips_of(made))
  assert same.sources == made.sources == {"stride": 7}


def test_one_video_in_a_thousand_is_held_out():
  def tested(count):
    files = [f"{i}.mp4" for i in range(count)]
    spans = [clip_sources.Span(file, k, k + 1) for file in files
             for k in range(2)]
    sides = list(map(splits.choose("", clip_sources.Found(
        lambda: iter(spans), files, (), ()), lambda span: True,
                                         Howto100m.TEST_SHARE), spans))
    assert sides == [side for side in sides[::2] for _ in range(2)]
    return sides[::2].count("test")

  assert 8 < tested(20_000) < 40
  assert tested(30) == 1


def test_of_several_files_of_a_video(tmp_path, capsys):
  for name in ("a.webm", "b.mp4", "c/a.mp4", "b.m4a", "c/d.mp4"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
  assert howto100m.files_of_videos(str(tmp_path)) == {
      "a": "c/a.mp4", "b": "b.mp4", "d": "c/d.mp4"}
  assert ", 2: " in capsys.readouterr().out


# ---- what is refused

def test_annotations_that_are_refused(tmp_path, videos, lists):
  def refused(match, annotations, **options):
    with pytest.raises(UserError, match=match) as error:
      plan(tmp_path, videos, annotations, **options)
    assert "\n" not in str(error.value)

  path = tmp_path / "caption.json"
  for text, match in (
      ("", "byte 0: cannot be read"), ("[1]", "byte 0: .*expected an object"),
      ('{"-tCQ4tCQdWE": {"start": [1, ', "byte 30: "),
      ('{"-tCQ4tCQdWE": {"start": 1}}',
       "caption.json: -tCQ4tCQdWE: expected {start: "),
      ('{"database": {}}', "no file of the 1 videos that are listed, such as "
       "database.mp4")):
    path.write_text(text)
    refused(match, path)
  refused("No such file", tmp_path / "none.json")
  refused("no captions of howto100m by their names, expected {video_id}.csv",
          videos)
  both = shutil.copytree(lists, tmp_path / "both")
  write_json(both / "raw_caption.json", official(lists / "captions"))
  refused("both .*raw_caption.json and .*/captions/-tCQ4tCQdWE.csv have", both)
  (both / "raw_caption.json").unlink()
  shutil.copyfile(both / "captions/-tCQ4tCQdWE.csv", both / "-tCQ4tCQdWE.csv")
  refused("have the captions of -tCQ4tCQdWE, expected one", both)
  (both / "-tCQ4tCQdWE.csv").unlink()
  for file in (both / "captions").iterdir():
    file.write_text("video,label\n1,2\n")
  refused(r"captions/.*\.csv: row 1: no column 'start' in 'video,label'", both)
  refused("--trimmed: the videos of howto100m are whole ones", lists,
          trimmed=True)
  with pytest.raises(UserError, match="--annotations is missing: the captions"):
    Howto100m(data_dir=str(tmp_path)).make_plan(str(videos))


@pytest.mark.parametrize("config, match", [
    ("language=en", "'language=en' is unknown"),
    ("around=words", "around is 'words', expected cues"),
    ("around=cues+stride=5", "around and stride, expected one"),
    ("stride=0", "stride is '0', expected float > 0")])
def test_configurations_that_are_refused(
    tmp_path, videos, lists, config, match):
  with pytest.raises(UserError, match=match):
    plan(tmp_path, videos, lists, config)
  with pytest.raises(UserError, match="'around=cues' is unknown"):
    clips.Clips(data_dir="unused", config="around=cues").make_plan(str(videos))


def test_damaged_json_never_ends_in_a_traceback(
    tmp_path, lists, monkeypatch):
  """Its bytes changed, lost and cut off: a line, or what is left of it."""
  rows = official(lists / "captions")
  path = tmp_path / "caption.json"
  write_json(path, rows)
  good, chance = path.read_bytes(), np.random.default_rng(0)
  read = whole = 0
  for _ in range(300):
    data, at = bytearray(good), int(chance.integers(len(good)))
    match chance.integers(3):
      case 0:
        data[at] = int(chance.integers(256))
      case 1:
        data[at] = int(chance.choice(list(b'{}[]":,\\1e- ')))
      case 2:
        del data[at:]
    path.write_bytes(data)
    monkeypatch.setattr(
        json_stream, "CHUNK", int(chance.choice([100, 1000, 10_000])))
    try:
      places, _ = howto100m.read_captions(
          howto100m.find_lists(str(path)), set(rows))
    except UserError as error:
      assert str(error).startswith(str(path)) and "\n" not in str(error)
      continue
    read += 1
    whole += sum(howto100m.read_place(video, *place[:4]) == rows[video]
                 for video, place in places.items())
  assert 20 < read < 200 and whole > 3.5 * read


# ---- to the end

def test_to_training_batches_by_the_commands(
    tmp_path, lists, test_data, python, records):
  """Of real media: killed and run again; then the vocabulary, and the five
  captions nearest to each window."""
  videos, seconds = tmp_path / "videos/sub", {}
  videos.mkdir(parents=True)
  videos = videos.parent
  for name, (source, length) in REAL.items():
    shutil.copyfile(test_data / "media" / source, videos / name)
    seconds[howto100m.video_of(name)] = length
  folder, rows = tmp_path / "captions", official(lists / "captions")
  folder.mkdir()
  number = 0
  for video, captions in rows.items():  # a word each, times made to fit
    scale = seconds.get(video, 1) / captions[-1][2]
    with open(folder / f"{video}.csv", "w", newline="") as file:
      csv.writer(file).writerow(("start", "end", "text"))
      for i, (_, start, end) in enumerate(captions):
        captions[i] = (f"w{number}", round(start * scale, 3),
                       round(end * scale, 3))
        csv.writer(file).writerow((*captions[i][1:], captions[i][0]))
        number += 1
  name = f"howto100m/{SMALL}"
  command = ["scripts/prepare_dataset.py", f"--dataset={name}",
             f"--annotations={folder}", f"--manual_dir={videos}",
             f"--data_dir={tmp_path}/data"]
  killed = python.start(*command, start_new_session=True)
  final = tmp_path / f"data/{name}/{Howto100m.VERSION}"
  while killed.poll() is None and len(list(final.glob("*.index.json"))) < 3:
    time.sleep(0.01)
  os.killpg(killed.pid, signal.SIGKILL)
  killed.wait()
  finished = {path.name: path.stat().st_mtime_ns
              for path in final.glob("*.tfrecord-*[0-9]")
              if path.with_name(path.name + ".index.json").exists()}
  assert 3 <= len(finished) < 11
  run = python.run(*command)
  assert run.returncode == 0, run.stderr
  assert run.stdout.splitlines()[-1] == (
      f"{final}: built 11 clips (train 10, test 1; with pictures 6, sound 7, "
      "captions 11), rejected 0, listed and not used 1 "
      f"(see {final}/missing.csv)")
  assert (final / "missing.csv").read_text().splitlines()[1:] == [
      f"{ABSENT},no media file,,"]
  assert finished.items() <= {path.name: path.stat().st_mtime_ns
                              for path in final.iterdir()}.items()
  run = python.run("scripts/build_vocabulary.py", f"--dataset={name}",
                   f"--data_dir={tmp_path}/data")
  assert run.returncode == 0, run.stderr

  source = sources.open_source(name, str(tmp_path / "data"), "train")
  tensors = record_index.file_tensors(source.index)
  spans = [(howto100m.video_of(file), *map(float, times.split("-")))
           for i in range(len(source.index))
           for file, times in [source.parse(record_index.read_record(
               tensors, tf.constant(i, tf.int64)))["id"].numpy().decode()
                               .rsplit(":", 1)]]
  words = (final / "vocabulary.txt").read_text().split()
  data = records.config(
      tmp_path / "data", datasets=(name,), fps=5.0, frames=4, size=16,
      audio_samples=6400, captions=5, words=2)
  seen = set()
  batches = input_pipeline.train_dataset(data, [source], 8, 0, 0).take(4)
  for batch in batches:
    assert not batch["corrupt"].numpy().any()
    assert batch["caption_mask"].numpy().all()
    for text, pictures in zip(batch["text"].numpy()[:, :, 0],
                              batch["video_mask"].numpy()):
      found = {words[i - 2] for i in text if i > 1}
      assert len(found) == 5
      # A window of 0.8 s starts at a frame; in sound alone, at any sample.
      possible = {span for span in spans if are_nearest(
          found, rows[span[0]], np.arange(
              span[1], span[2] - 0.79, 0.2 if pictures else 0.005) + 0.4)}
      assert possible, found
      assert pictures == ("-tCQ4tCQdWE" not in {v for v, *_ in possible})
      seen |= possible
  assert len(seen) >= 8


def are_nearest(found, captions, middles):
  """Whether, at any of some times, fewer than five others are nearer than each
  of the captions that were found."""
  texts, starts, ends = map(np.array, zip(*captions))
  own = np.isin(texts, list(found))
  distance = np.maximum(0, np.maximum(
      starts - middles[:, None], middles[:, None] - ends))  # [M, K]
  fifth = np.sort(distance)[:, 4:5]
  return own.sum() == len(found) and (
      distance[:, own] <= fifth + 1e-3).all(1).any()
