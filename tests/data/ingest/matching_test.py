"""The media of official lists, as people have them: found by their names, in
one file or two, and what is missing."""
import csv
import os
import pathlib
import subprocess

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from vatt.data import datasets, record_index, sources
from vatt.data.datasets.clips import Clips, Options
from vatt.data.datasets.official import Official
from vatt.data.ingest import (
  annotations,
  clip_lists,
  clip_sources,
  coverage,
  encoding,
  matching,
)
from vatt.data.ingest.annotations import Format, Listed, Listing
from vatt.data.ingest.media import MediaError
from vatt.errors import UserError

SMALL = "fps=5+size=32+audio_rate=8000"
CLASSES = ("dive", "jump", "run", "swim")  # of no medium's: dive


def read_sports(path, match):
  for name, start, end, label, splits in rows(path):
    yield Listed(name, tuple(splits.split()), float(start), float(end),
                 (label,) if label else ())


class Sports(Official, skip_registration=True):
  """Lists of rows file,start,end,label,splits."""

  VERSION = tfds.core.Version("1.0.0")
  DEFAULTS = Options(fps=5.0, size=32, audio_rate=8000)
  FORMAT = Format(read_sports, r"list\.csv", "list.csv",
                  lambda folder, clips: CLASSES)


def listed(*rows):
  return [Listed(name, ("train",), start, end) for name, start, end in rows]


def touch(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"")


def wav(folder, media, name, seconds):
  (folder / name).parent.mkdir(parents=True, exist_ok=True)
  (folder / name).write_bytes(media.wav(np.zeros(int(seconds * 100)
                                                 , np.int16), 100))


def where(matches):
  return [(m.path, m.start, m.end) for m in matches.found]


def found(dataset, folder, clips, trimmed=None):
  return matching.find(
      clips, datasets.find(dataset).FORMAT, str(folder), trimmed)


def rows(path):
  with open(path, newline="") as file:
    return list(csv.reader(file))


def records(data_dir, name, split="train"):
  """(a record's id -> its example), and the classes."""
  source = sources.open_source(name, str(data_dir), split)
  tensors = record_index.file_tensors(source.index)
  examples = [source.parse(record_index.read_record(
      tensors, tf.constant(i, tf.int64))) for i in range(len(source.index))]
  return ({e["id"].numpy().decode(): e for e in examples}, source.label_names)


def loudness(example):
  """Where a record has its loudest sample, in seconds; None without sound."""
  samples = tf.io.decode_raw(example["audio"], tf.int16).numpy()
  return (abs(samples.astype(int)).argmax() / 8000) if len(samples) else None


# ---- names

@pytest.mark.parametrize("name", [
    "-0DdlOuIFUI_50000_60000.flac", "-0DdlOuIFUI_50_60.wav",
    "Y-0DdlOuIFUI_50_60.wav", "-0DdlOuIFUI_000050_000060.mp4",
    "-0DdlOuIFUI_50.mp4", "-0DdlOuIFUI_000050.mp4", "Y-0DdlOuIFUI_50000.m4a",
    "-0DdlOuIFUI_50.0-60.0.wav", "-0DdlOuIFUI_50.000_60.000.mkv",
    "a/b/Y-0DdlOuIFUI_050000_060000.WAV"])
def test_names_of_clips_of_audioset(tmp_path, name):
  clips = listed(("-0DdlOuIFUI", 50, 60), ("0DdlOuIFUI_", 50, 60),
                 ("DdlOuIFUI_5", 0, 10))
  touch(tmp_path, name, "-0DdlOuIFUI_40_60.wav", "-0DdlOuIFUI_60.wav",
        "DdlOuIFUI_50000_60000.flac", "0DdlOuIFUI_50_60.wav")
  matches = found("audioset", tmp_path, clips)
  assert where(matches) == [(name, None, None)]
  assert matches.missing == [(clip, "no file of its name")
                             for clip in clips[1:]]


def test_a_name_is_never_parted(tmp_path):
  """Each of these begins like another's, with _ or - where one may part it."""
  clips = listed(("a_b_c_d_e_f", 5, 15), ("a_b_c_d_e_f_5", 5, 15),
                 ("-_-_-_-_-_-", 0, 10), ("a_b", 1.5, 11.5))
  touch(tmp_path, "a_b_c_d_e_f_5_5_15.wav", "-_-_-_-_-_-_0.wav",
        "a_b_1.5_11.5.mp4")
  assert where(found("audioset", tmp_path, clips)) == [
      ("a_b_c_d_e_f_5_5_15.wav", None, None), ("-_-_-_-_-_-_0.wav", 0, 10),
      ("a_b_1.5_11.5.mp4", None, None)]


def test_a_whole_video_of_audioset_is_not_the_clip_at_its_start(
    tmp_path, media):
  """Copies that call all whole videos {id}_0."""
  for name in "x_0.wav", "y_0.wav":
    wav(tmp_path, media, name, 60)
  touch(tmp_path, "z_000000.wav", "z_000030.wav")
  assert where(found("audioset", tmp_path, listed(
      ("x", 0, 10), ("y", 30, 40), ("z", 0, 10), ("z", 30, 40)))) == [
          ("x_0.wav", 0, 10), ("y_0.wav", 30, 40), ("z_000000.wav", None, None),
          ("z_000030.wav", None, None)]


def test_a_file_that_is_called_like_two_clips(tmp_path, capsys):
  touch(tmp_path, "a_1_11.wav", "a_20_30.wav", "replacement/a_20_30.wav")
  clips = listed(("a", 1.2, 11.2), ("a", 1.7, 11.7), ("a", 20, 30))
  matches = found("kinetics700", tmp_path, clips)
  assert where(matches) == [("replacement/a_20_30.wav", None, None)]
  assert capsys.readouterr().out.splitlines()[1:] == [
      f"{tmp_path}: 1 media files have the name of no clip that is used, such "
      "as a_1_11.wav"]
  assert matches.missing == [
      (clip, "a_1_11.wav has the names of 2 clips") for clip in clips[:2]]
  with pytest.raises(UserError, match="no file that is a clip's for certain; "
                     "the first: a: a_1_11.wav has the names of 2 clips"):
    found("kinetics700", tmp_path, clips[:2])


@pytest.mark.parametrize("name", [
    "abc_000059_000069.mp4", "abc_59_69.mp4",
    "train/playing guitar/abc_000059_000069.webm"])
def test_names_of_clips_of_kinetics(tmp_path, name):
  touch(tmp_path, name, "abc.mkv", "abc_000059_000070.mp4")
  clips = listed(("abc", 59, 69))
  assert where(found("kinetics700", tmp_path, clips)) == [(name, None, None)]


def test_one_name_in_several_folders(tmp_path):
  clips = [Listed(name, ("train",)) for name in ("run/x_1", "walk/x_1",
                                                 "walk/y")]
  touch(tmp_path, "training/run/x_1.webm", "training/walk/x_1.webm")
  matches = found("moments", tmp_path, clips)
  assert [m.path for m in matches.found] == [
      "training/run/x_1.webm", "training/walk/x_1.webm"]
  assert matches.missing == [(clips[2], "no file of its name")]
  touch(tmp_path, "training/run/x_1.mp4", "training/y.mp3")
  with pytest.raises(UserError, match=r"both training/run/x_1.mp4 and training/"
                     "run/x_1.webm have the name of run/x_1, expected one"):
    found("moments", tmp_path, clips)
  # Where only one is listed, any folder will do.
  assert found("moments", tmp_path, clips[2:]).found[0].path == "training/y.mp3"
  # Where both are, a file beside those folders is nobody's.
  flat = tmp_path / "flat"
  touch(flat, "x_1.mp4", "walk/y.mp4")
  matches = found("moments", flat, clips)
  assert [m.path for m in matches.found] == ["walk/y.mp4"]
  assert [why for _, why in matches.missing] == [
      f"x_1.mp4 may be another clip's, expected it in a folder {label}"
      for label in ("run", "walk")]


def test_files_that_replace_others(tmp_path, capsys):
  touch(tmp_path, "train/a_000001_000011.mp4", "train/b_000001_000011.mp4",
        "replacement/replacement_for_corrupted_k400/a_000001_000011.mp4",
        "train/c.mp4", "replacement/c.mp4", "replacement/d_1_11.mp4")
  clips = listed(("a", 1, 11), ("b", 1, 11), ("c", 0, 10), ("d", 1, 11))
  assert where(found("kinetics400", tmp_path, clips)) == [
      ("replacement/replacement_for_corrupted_k400/a_000001_000011.mp4", None,
       None), ("train/b_000001_000011.mp4", None, None),
      ("replacement/c.mp4", 0, 10), ("replacement/d_1_11.mp4", None, None)]
  assert capsys.readouterr().out == (
      f"{tmp_path}: 2 files are not used, such as train/a_000001_000011.mp4: "
      "those of folders called replacement... take their places\n")


def test_links_and_copies(tmp_path, capsys):
  touch(tmp_path, "a/x_1.mp4", "a/y_1.mp4")
  (tmp_path / "b").mkdir()
  os.link(tmp_path / "a/x_1.mp4", tmp_path / "b/x_1.mp4")
  os.symlink(tmp_path / "a/x_1.mp4", tmp_path / "b/x_1.webm")
  clips = [Listed(name, ("train",)) for name in ("x_1", "y_1")]
  assert [m.path for m in found("msrvtt", tmp_path, clips).found] == [
      "a/x_1.mp4", "a/y_1.mp4"]
  assert not capsys.readouterr().out
  touch(tmp_path, "c/x_1.mp4", "c/y_1.avi")
  with pytest.raises(UserError, match="both a/x_1.mp4 and c/x_1.mp4 have the "
                     "name of x_1, expected one file, and so with 1 others"):
    found("msrvtt", tmp_path, clips)


def test_one_file_under_the_names_of_two_clips(tmp_path):
  """As where equal files are kept once, and each name is a link."""
  touch(tmp_path, "store/0f3a.mp4")
  for name in "a", "b":
    (tmp_path / f"{name}.mp4").symlink_to(tmp_path / "store/0f3a.mp4")
  found, missing = matching.find(
      listed(("a", None, None), ("b", None, None)), Sports.FORMAT,
      str(tmp_path))
  assert [match.path for match in found] == ["a.mp4", "b.mp4"]
  assert not missing


def test_links_to_files_that_are_not_there(tmp_path, capsys):
  """As of git-annex, which has not fetched b."""
  touch(tmp_path, ".git/annex/objects/0f.mp4")
  for name, file in ("a", "0f"), ("b", "1e"):
    (tmp_path / f"{name}.mp4").symlink_to(f".git/annex/objects/{file}.mp4")
  clips = listed(("a", None, None), ("b", None, None))
  matches = matching.find(clips, Sports.FORMAT, str(tmp_path))
  assert where(matches) == [("a.mp4", None, None)]
  assert matches.missing == [(clips[1], "no file of its name")]
  assert capsys.readouterr().out == (
      f"{tmp_path}: links that lead to no file, 1: b.mp4\n")
  # Where no names are looked for, the build says why it has none of b.
  assert clip_sources.find_media(str(tmp_path)) == ["a.mp4", "b.mp4"]


def test_nothing_is_found(tmp_path):
  touch(tmp_path, "other.mp4")
  with pytest.raises(UserError, match=r"no file of the 1 clips that are listed,"
                     r" such as abc\.\* or abc_000059_000069\.\* or"):
    found("kinetics400", tmp_path, listed(("abc", 59, 69)))
  with pytest.raises(UserError, match="no file of the 1 clips"):
    found("hmdb51", tmp_path, [Listed("a", ())])


# ---- lengths

def test_lengths_tell_what_names_do_not(tmp_path, media, capsys):
  wav(tmp_path, media, "a.wav", 10)
  wav(tmp_path, media, "Yb.wav", 300)
  wav(tmp_path, media, "c_0.wav", 13.9)  # cut at a key frame
  wav(tmp_path, media, "d.wav", 35)  # a video that was cut off
  wav(tmp_path, media, "e.wav", 20)  # neither
  wav(tmp_path, media, "f.wav", 2)  # neither
  wav(tmp_path, media, "g.wav", 10)
  touch(tmp_path, "h.wav")  # no media: the build will tell
  clips = listed(*((name, 30, 40) for name in "abcdefgh"), ("i", 0, 10))
  clips[6] = clips[6]._replace(start=0, end=10)  # which need not be measured
  matches = found("audioset", tmp_path, clips)
  assert where(matches) == [
      ("a.wav", None, None), ("Yb.wav", 30, 40), ("c_0.wav", None, None),
      ("d.wav", 30, 40), ("e.wav", 30, 40), ("f.wav", 30, 40),
      ("g.wav", 0, 10), ("h.wav", 30, 40)]
  assert matches.missing == [(clips[8], "no file of its name")]
  assert capsys.readouterr().out == (
      f"{tmp_path}: by the lengths of files whose names do not tell: 4 whole, "
      "such as Yb.wav; 2 clips alone, such as a.wav; 1 cannot be read, such as "
      "h.wav\n")


def test_a_length_that_fits_both_is_as_most_are(tmp_path, media):
  wav(tmp_path, media, "a.wav", 12)  # of 2 to 12 s: the video, or cut loosely
  wav(tmp_path, media, "b.wav", 10)
  clips = listed(("a", 2, 12), ("b", 30, 40))
  assert where(found("kinetics600", tmp_path, clips)) == [
      ("a.wav", None, None), ("b.wav", None, None)]
  wav(tmp_path, media, "b.wav", 60)
  assert where(found("kinetics600", tmp_path, clips)) == [
      ("a.wav", 2, 12), ("b.wav", 30, 40)]


def test_a_file_of_several_clips(tmp_path, media):
  clips = listed(("a", 3, 13), ("a", 30, 40), ("b", 0, 10), ("b", 30, 40))
  wav(tmp_path, media, "a.wav", 60)
  wav(tmp_path, media, "b.wav", 10)  # one of them: nobody knows which
  matches = found("youcook2", tmp_path, clips)
  assert where(matches) == [("a.wav", 3, 13), ("a.wav", 30, 40)]
  assert matches.missing == [
      (clip, "b.wav is 10.0 s long, no more than one of the 2 clips that are "
       "listed of it") for clip in clips[2:]]
  with pytest.raises(UserError, match="--trimmed: a.wav is the file of 2 clips"
                     ", expected a file for each"):
    found("youcook2", tmp_path, clips, True)


def test_what_a_flag_says_is_tried(tmp_path, media):
  wav(tmp_path, media, "a.wav", 10)
  wav(tmp_path, media, "b.wav", 300)
  clips = listed(("a", 30, 40), ("b", 30, 40))
  assert where(found("audioset", tmp_path, clips, True)) == [
      ("a.wav", None, None), ("b.wav", None, None)]
  assert where(found("audioset", tmp_path, clips, False)) == [
      ("a.wav", 30, 40), ("b.wav", 30, 40)]
  with pytest.raises(UserError, match="--trimmed: .*/b.wav is 300.0 s long, its"
                     " clip 10.0 s, and so with all of 1 files tried; without"):
    found("audioset", tmp_path, clips[1:], True)
  with pytest.raises(UserError, match="a.wav: 10.0 s long, but its clip starts "
                     "at 30 s, .*; without --notrimmed"):
    found("audioset", tmp_path, clips[:1], False)


# ---- two files

def test_pictures_and_sound_in_two_files(tmp_path, media, capsys):
  touch(tmp_path, "x.wav", "x.mp4", "video/y_1_11.mp4", "audio/y_1_11.flac",
        "z.ogg", "Video/w.mp4", "Audio/w.webm")
  clips = listed(("x", 0, 10), ("y", 1, 11), ("z", 0, 10), ("w", 0, 10))
  matches = found("kinetics400", tmp_path, clips)
  assert [(m.path, m.sound) for m in matches.found] == [
      ("x.mp4", "x.wav"), ("video/y_1_11.mp4", "audio/y_1_11.flac"),
      ("z.ogg", ""), ("Video/w.mp4", "Audio/w.webm")]
  assert capsys.readouterr().out == (
      f"{tmp_path}: 3 pairs of files, such as x.mp4 and x.wav: where the first "
      "has no sound of its own, that of the second is taken\n")
  touch(tmp_path, "x.flac")
  with pytest.raises(UserError, match="both x.flac and x.wav have the name"):
    found("kinetics400", tmp_path, clips)
  # Of another clock, as their lengths tell: it is left out, and said.
  media.write_media(tmp_path / "v.mp4", [media.numbered(1)] * 40, rate=1)
  wav(tmp_path, media, "v.wav", 10)
  match, = found("kinetics400", tmp_path, listed(("v", 30, 40))).found
  assert match[1:] == ("v.mp4", 30, 40, "")
  assert "1 files of sound are left out, such as v.wav" in (
      capsys.readouterr().out)
  wav(tmp_path, media, "v.wav", 40)
  match, = found("kinetics400", tmp_path, listed(("v", 30, 40))).found
  assert match[1:] == ("v.mp4", 30, 40, "v.wav")


def test_a_clip_that_is_cut_out_of_its_videos_sound(tmp_path, media, capsys):
  """The pictures are not lost for it, whatever their file is."""
  clips, sound = listed(("x", 30, 40)), "Yx_30000_40000.wav"
  wav(tmp_path, media, sound, 10)
  assert where(found("audioset", tmp_path, clips)) == [(sound, None, None)]
  media.write_media(tmp_path / "x.mp4", [media.numbered(1)] * 10, rate=1)
  match, = found("audioset", tmp_path, clips).found
  assert match[1:] == ("x.mp4", None, None, sound)
  media.write_media(tmp_path / "x.mp4", [media.numbered(1)] * 50, rate=1)
  for trimmed in None, False:
    match, = found("audioset", tmp_path, clips, trimmed).found
    assert match[1:] == ("x.mp4", 30, 40, "")
  assert f"1 files of sound are left out, such as {sound}" in (
      capsys.readouterr().out)
  (tmp_path / "x_30_40.mkv").write_bytes((tmp_path / "x.mp4").read_bytes())
  match, = found("audioset", tmp_path, clips).found
  assert match[1:] == ("x_30_40.mkv", None, None, sound)


def test_sound_of_another_file(tmp_path, media):
  mute = media.write_media(tmp_path / "a.mp4", [media.numbered(1)] * 20,
                           rate=10)
  loud = media.write_media(tmp_path / "b.mkv", [media.numbered(1)] * 20,
                           media.clicks([0.3], 2), rate=10, audio="flac")
  sound = media.write_media(tmp_path / "a.wav", audio="pcm_s16le",
                            sound=media.clicks([1.5], 3))

  def read(*arguments):
    frames, samples, length, damage = encoding.read_encoded(*arguments)
    samples = np.frombuffer(samples, "<i2").astype(int)
    return (len(frames), len(samples), length, damage,
            abs(samples).argmax() / 8000 if len(samples) else None)

  for start, end, length in (0.0, None, 2), (1.0, 2.0, 1):
    assert read(mute, start, end, 5, 32, 8000)[1:] == (0, length, "", None)
    assert read(mute, start, end, 5, 32, 8000, "pcm", sound) == (
        5 * length, 8000 * length, length, "", pytest.approx(
            1.5 - start, abs=0.01))
  # Its own sound comes first; nothing changes then.
  assert (encoding.read_encoded(loud, 0.0, 1.0, 5, 32, 8000, "flac", sound)
          == encoding.read_encoded(loud, 0.0, 1.0, 5, 32, 8000, "flac"))
  # What cannot be read of it is told, and the pictures stay.
  pathlib.Path(sound).write_bytes(b"no sound")
  frames, samples, _, damage = encoding.read_encoded(
      mute, 0.0, None, 5, 32, 8000, "pcm", sound)
  assert len(frames) == 10 and not samples
  assert damage.startswith("a.wav: no readable media")
  with pytest.raises(MediaError):
    encoding.read_encoded(sound, 0.0, None, 5, 32, 8000, "pcm", mute)


# ---- to the end

LIST = """a,0,1,jump,train
b,0,1,"run",train
b,1,2,swim,train
c,5,6,run,test
d,0,1,,test
gone,3,4.5,swim,train test
left,0,1,jump,
=odd,0,1,jump,train
"""
LINE = ("5 clips (train 3 of 5, test 2 of 3), missing 2, in no split 1; 4 "
        "classes, 1 of them without any clip: dive")
MISSING = [
    ["id", "reason", "split", "label"],
    ["gone:3.000-4.500", "no file of its name", "train test", "swim"],
    ["left:0.000-1.000", "in no split", "", "jump"],
    ["'=odd:0.000-1.000", "no file of its name", "train", "jump"]]
COVERAGE = [
    ["split", "label", "listed", "there"],
    ["train", "jump", "2", "1"], ["train", "run", "1", "1"],
    ["train", "swim", "2", "1"],
    ["", "jump", "1", "0"],
    ["test", "", "1", "1"], ["test", "run", "1", "1"],
    ["test", "swim", "1", "0"]]


def make_sports(folder, media):
  """A list, and media of five of its clips, two of them one file and its sound
  in another one."""
  folder.mkdir(exist_ok=True)
  (folder / "list.csv").write_text(LIST)
  films = folder / "films"
  films.mkdir()
  media.write_media(films / "a.mkv", [media.numbered(1)] * 5,
                    media.clicks([0.3], 1), rate=5, audio="flac")
  media.write_media(films / "b.mp4", [media.numbered(i) for i in range(10)],
                    rate=5)
  media.write_media(films / "b.wav", audio="pcm_s16le",
                    sound=media.clicks([0.4, 1.6], 2))
  media.write_media(films / "c.wav", audio="pcm_s16le",
                    sound=media.clicks([0.7], 1))
  media.write_media(films / "d_0_1.wav", audio="pcm_s16le",
                    sound=media.clicks([0.2], 1))
  return str(folder / "list.csv"), str(films)


def build(tmp_path, manual_dir, repair=False, **options):
  Sports(data_dir=str(tmp_path / "data"), manual_dir=manual_dir, **options
         ).download_and_prepare(repair=repair)
  return tmp_path / "data/sports/default/1.0.0"


def test_built_from_lists_and_nothing_lost(tmp_path, media, capsys):
  annotations_path, films = make_sports(tmp_path / "s", media)
  before = sorted(os.listdir(films))
  folder = build(tmp_path, films, annotations=annotations_path)
  out = capsys.readouterr().out.splitlines()
  assert f"{films}: {LINE}" in out
  assert out[-1] == (
      f"{folder}: built 5 clips (train 3, test 2; with pictures 3, sound 5, "
      f"captions 0), rejected 0, listed and not used 3 (see "
      f"{folder}/missing.csv)")
  assert sorted(os.listdir(films)) == before
  assert rows(folder / "missing.csv") == MISSING
  assert rows(folder / "coverage.csv") == COVERAGE

  examples, names = records(tmp_path / "data", "sports/default")
  assert names == CLASSES  # though there is no clip of the first
  assert {i: (CLASSES[int(e["label"][0])], pytest.approx(loudness(e), abs=0.01))
          for i, e in examples.items()} == {
              "a.mkv:0.000-1.000": ("jump", 0.3),
              "b.mp4:0.000-1.000": ("run", 0.4),
              "b.mp4:1.000-2.000": ("swim", 0.6)}
  assert [media.number_of(tf.io.decode_jpeg(
      examples["b.mp4:1.000-2.000"]["frames"][i]).numpy()) for i in range(5)
  ] == [5, 6, 7, 8, 9]
  tests, _ = records(tmp_path / "data", "sports/default", "test")
  assert sorted(tests) == ["c.wav:0.000-", "d_0_1.wav:0.000-"]

  # With the lists, without them, and without the media.
  for options in ({"annotations": annotations_path}, {}):
    build(tmp_path, films, **options)
    assert ": already built 5 clips (" in capsys.readouterr().out
  build(tmp_path, None)
  assert ": already built 5 clips (" in capsys.readouterr().out
  # What was measured is not measured again, unless it has changed.
  clip = pathlib.Path(films, "c.wav")
  sound, facts = clip.read_bytes(), clip.stat()
  clip.write_bytes(b"\0" * len(sound))
  os.utime(clip, ns=(facts.st_atime_ns, facts.st_mtime_ns))
  build(tmp_path, films, annotations=annotations_path)
  assert ": already built 5 clips (" in capsys.readouterr().out
  os.utime(clip)
  with pytest.raises(UserError, match="4 of its clips are the same, 1 are new"):
    build(tmp_path, films, annotations=annotations_path)
  clip.write_bytes(sound)
  # Of before there was such a file: still whole, and a repair adds it.
  for name in "missing.csv", "coverage.csv":
    (folder / name).unlink()
  build(tmp_path, films, annotations=annotations_path)
  assert capsys.readouterr().out.splitlines()[-1].endswith("rejected 0")
  build(tmp_path, films, True, annotations=annotations_path)
  out = capsys.readouterr().out.splitlines()
  assert out[-2].endswith("built anew: missing.csv, coverage.csv")
  assert rows(folder / "missing.csv") == MISSING
  # Cut off.
  (folder / "missing.csv").write_bytes(
      (folder / "missing.csv").read_bytes()[:-8])
  with pytest.raises(UserError, match=(
      r"damaged, .*\(missing.csv\);.*--manual_dir and --annotations that")):
    build(tmp_path, films)
  with pytest.raises(UserError, match="--annotations is missing"):
    build(tmp_path, films, True)
  (tmp_path / "clips.csv").write_text("")
  with pytest.raises(UserError, match="--trimmed: the times in .*/clips.csv "
                     "are those in the files"):
    build(tmp_path, str(tmp_path), trimmed=True)


def test_media_come_later(tmp_path, media, capsys):
  path, films = make_sports(tmp_path / "s", media)
  folder = build(tmp_path, films, annotations=path)
  known, _ = records(tmp_path / "data", "sports/default")
  for later in "=odd_0_1.mp4", "gone_3000_4500.mp4":  # train has a shard more
    media.write_media(f"{films}/{later}", [media.numbered(2)] * 8, rate=5)
    with pytest.raises(UserError, match=(
        r"built before, from other sources than there are now \(5 of its clips "
        r"are the same, 1 are new, changed or were rejected\); to build it from"
        r" these, delete it, or rename it to 1.0.0.staging, from which what")):
      build(tmp_path, films, annotations=path)
    os.rename(f"{films}/{later}", tmp_path / later)
  os.rename(tmp_path / later, f"{films}/{later}")
  # What the message says.
  folder.rename(f"{folder}.staging")
  pathlib.Path(films, "a.mkv").write_bytes(
      pathlib.Path(films, "a.mkv").read_bytes().ljust(os.path.getsize(
          f"{films}/a.mkv"), b"\0"))
  os.rename(f"{films}/b.mp4", f"{films}/b.hidden")  # of the same size ...
  pathlib.Path(films, "b.mp4").write_bytes(
      b"\0" * os.path.getsize(f"{films}/b.hidden"))  # but not read again
  build(tmp_path, films, annotations=path)
  examples, _ = records(tmp_path / "data", "sports/default",
                        "train+train_test")
  assert len(examples) == 4
  for i, example in known.items():
    assert example["frames"].numpy().tolist() == (
        examples[i]["frames"].numpy().tolist())
  assert [row[0] for row in rows(folder / "missing.csv")[1:]] == [
      "left:0.000-1.000", "'=odd:0.000-1.000"]


def list_sports(path, films, **options):
  clip_lists.write_clips(
      annotations.read("sports", Sports.FORMAT, path), Sports.FORMAT, films,
      **options)


def test_a_list_in_another_folder_keeps_the_numbers(tmp_path, media, capsys):
  path, films = make_sports(tmp_path / "s", media)
  output = tmp_path / "made/lists"
  list_sports(path, films, output=str(output))
  assert capsys.readouterr().out.splitlines()[-1] == (
      f"{output}/clips.csv: {LINE} (see {output}/missing.csv)")
  assert rows(output / "missing.csv") == MISSING
  assert rows(output / "coverage.csv") == COVERAGE
  assert (output / "classes.txt").read_text() == "dive\njump\nrun\nswim\n"
  assert rows(output / "clips.csv") == [
      [*clip_sources.COLUMNS, "sound_path"],
      [f"{films}/a.mkv", "0.0", "1.0", "jump", "", "train", ""],
      [f"{films}/b.mp4", "0.0", "1.0", "run", "", "train", f"{films}/b.wav"],
      [f"{films}/b.mp4", "1.0", "2.0", "swim", "", "train", f"{films}/b.wav"],
      [f"{films}/c.wav", "", "", "run", "", "test", ""],
      [f"{films}/d_0_1.wav", "", "", "", "", "test", ""]]
  with pytest.raises(UserError, match="lists/clips.csv: is there already; "
                     "--overwrite replaces it"):
    list_sports(path, films, output=str(output))

  # Edited: the clip that alone is of class swim goes.
  lines = (output / "clips.csv").read_text().splitlines(keepends=True)
  (output / "clips.csv").write_text("".join(
      line for line in lines if "swim" not in line))
  build(tmp_path, str(output))
  examples, names = records(tmp_path / "data", "sports/default")
  assert names == CLASSES
  assert {int(e["label"][0]): pytest.approx(loudness(e), abs=0.01)
          for e in examples.values()} == {1: 0.3, 2: 0.4}
  # What the edited list says would be lost, and the numbers of the classes.
  list_sports(path, films)
  capsys.readouterr()
  build(tmp_path / "other", films, annotations=path)
  assert f"{films}/clips.csv: not read, as --annotations is given\n" in (
      capsys.readouterr().out)
  (output / "classes.txt").unlink()
  with pytest.raises(UserError, match="lists/classes.txt: no such file, expecte"
                     "d the classes of sports in the order of their numbers"):
    build(tmp_path / "unnumbered", str(output))


def test_names_that_spreadsheets_take_for_formulas(tmp_path):
  touch(tmp_path, "-a.mp4")
  (tmp_path / "list.csv").write_text("-a,0,1,run,train\n")
  list_sports(str(tmp_path / "list.csv"), str(tmp_path))
  assert rows(tmp_path / "clips.csv")[1][0] == "./-a.mp4"
  (span,), _ = clip_sources.read_list(str(tmp_path / "clips.csv"))
  assert span.file == "-a.mp4"


def test_a_list_beside_classes_that_do_not_fit(tmp_path):
  touch(tmp_path, "a.mp4", "a.wav")
  (tmp_path / "clips.csv").write_text(
      "video_path,start,end,label,split\na.mp4,0,1,run,train\n"
      "a.mp4,0,1,walk,train\n")

  def find(**files):
    for name, text in files.items():
      (tmp_path / f"{name}.txt").write_text(text)
    return Clips(data_dir=str(tmp_path)).find(
        str(tmp_path), Options(), None)

  spans, _, classes, _ = find()
  assert spans[0].labels == ("run", "walk") and classes is None
  assert find(classes="walk\n\n run \n").classes == ("walk", "run")
  for text, match in (
      ("run\nwalking\n", "clips.csv: row 3, column label: 'walk', expected a "
       "class of classes.txt beside it"),
      ("", "clips.csv: row 2, column label: 'run'"),
      ("run\nwalk\nrun\n", "classes.txt: line 3: 'run' is in line 1")):
    with pytest.raises(UserError, match=match):
      find(classes=text)
  (tmp_path / "classes.txt").unlink()
  (tmp_path / "clips.csv").write_text(
      f"video_path,start,end,sound_path\na.mp4,0,1,{tmp_path}/./a.wav\n"
      "a.mp4,1,2,b.wav\n")
  spans, rejected, *_ = find()
  assert [span.sound for span in spans] == ["a.wav"]
  assert rejected == [("a.mp4:1.000-2.000", "a.mp4",
                       "row 3: no such file of sound: b.wav")]
  (tmp_path / "clips.csv").write_text(
      "video_path,start,end,sound_path\na.mp4,0,1,a.wav\na.mp4,0,1,\n")
  with pytest.raises(UserError, match="row 3, column sound_path: '', but "
                     "'a.wav' for the same clip in row 2"):
    find()


# ---- what the file system refuses

@pytest.fixture
def disk(tmp_path):
  """A small file system of its own, and a function that remounts it."""
  folder = tmp_path / "disk"
  folder.mkdir()

  def mount(options, *what):
    return subprocess.run(["mount", *what, "-o", options, folder],
                          capture_output=True).returncode

  try:
    if mount("size=64k", "-t", "tmpfs", "tmpfs"):
      pytest.skip("needs the right to mount")
  except FileNotFoundError:
    pytest.skip("needs mount")
  yield folder, lambda options: mount(f"remount,{options}")
  subprocess.run(["umount", folder], check=True)


def test_a_read_only_folder(tmp_path, media, disk, capsys):
  folder, remount = disk
  path, films = make_sports(tmp_path / "s", media)
  for name in "abc":  # so many as fit
    for file in pathlib.Path(films).glob(f"{name}.m*"):
      (folder / file.name).write_bytes(file.read_bytes())
  assert not remount("ro")
  with pytest.raises(UserError, match="/missing.csv: cannot be written: .*[Rr]"
                     "ead-only.*; --output=FOLDER writes elsewhere"):
    list_sports(path, str(folder))
  list_sports(path, str(folder), output=str(tmp_path / "out"))
  assert rows(tmp_path / "out/clips.csv")[1][0] == f"{folder}/a.mkv"
  assert not remount("rw")
  (folder / "filler").write_bytes(b"\0" * (os.statvfs(folder).f_bavail *
                                           os.statvfs(folder).f_frsize))
  before = sorted(os.listdir(folder))
  with pytest.raises(UserError, match="/missing.csv: cannot be written: .*No "
                     "space left"):
    list_sports(path, str(folder))
  assert sorted(os.listdir(folder)) == before


def test_paths_that_are_something_else(tmp_path, media):
  path, films = make_sports(tmp_path / "s", media)
  for output, match in (
      (path, f"--output={path}: .*File exists"),
      (f"{path}/x", "--output=.*list.csv/x: .*Not a directory")):
    with pytest.raises(UserError, match=match):
      list_sports(path, films, output=output)
  with pytest.raises(UserError, match=f"--manual_dir={path}: no such folder"):
    list_sports(path, path)
  for name in "coverage.csv", "classes.txt":
    os.mkdir(f"{films}/{name}")
    with pytest.raises(UserError, match=f"{name}: is there already"):
      list_sports(path, films)
    with pytest.raises(UserError, match=f"{name}: cannot be written: .+"):
      list_sports(path, films, overwrite=True)
    os.rmdir(f"{films}/{name}")
  assert not os.path.exists(f"{films}/clips.csv")


# ---- what is missing

def test_labels_and_splits_in_a_table():
  clips = [
      Listed("a", ("test", "train"), 0.5, 2, ("x, y", "z")),
      Listed("b", ("train",), labels=("z",)), Listed("c", ())]
  listing = Listing(clips, ("z", "x, y", "w", "v", "u", "t"))
  matches = matching.Matches(
      [matching.Match(clips[1], "b.mp4", None, None)],
      [(clips[0], "no, file"), (clips[2], "in no split")])
  made = coverage.tables(listing, matches)
  assert made["missing.csv"].decode().splitlines() == [
      "id,reason,split,label",
      'a:0.500-2.000,"no, file",train test,"x, y; z"', "c,in no split,,"]
  assert made["coverage.csv"].decode().splitlines() == [
      "split,label,listed,there", "train,z,2,1", 'train,"x, y",1,0', ",,1,0",
      "test,z,1,0", 'test,"x, y",1,0']
  assert coverage.line(listing, matches) == (
      "1 clips (train 1 of 2, test 0 of 1), missing 1, in no split 1; 6 "
      "classes, 5 of them without any clip: x, y; w; v; ...")
