"""The media of official lists, as people have them: found by their names, in
one file or two."""
import os
import pathlib

import numpy as np
import pytest

from vatt.data import datasets
from vatt.data.ingest import clip_sources, encoding, matching
from vatt.data.ingest.annotations import Format, Listed
from vatt.data.ingest.media import MediaError
from vatt.errors import UserError

FORMAT = Format(iter, "", "")  # of no names but those that are listed

pytestmark = pytest.mark.usefixtures("one_set_of_workers")


def listed(*rows):
  return [Listed(name, ("train",), start, end) for name, start, end in rows]


def touch(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"")


def wav(folder, media, name, seconds):
  (folder / name).parent.mkdir(parents=True, exist_ok=True)
  (folder / name).write_bytes(
      media.wav(np.zeros(int(seconds * 100), np.int16), 100))


def where(matches):
  return [(m.path, m.start, m.end) for m in matches.found]


def found(dataset, folder, clips, trimmed=None):
  return matching.find(
      clips, datasets.find(dataset).FORMAT, str(folder), trimmed)


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
      listed(("a", None, None), ("b", None, None)), FORMAT,
      str(tmp_path))
  assert [match.path for match in found] == ["a.mp4", "b.mp4"]
  assert not missing


def test_links_to_files_that_are_not_there(tmp_path, capsys):
  """As of git-annex, which has not fetched b."""
  touch(tmp_path, ".git/annex/objects/0f.mp4")
  for name, file in ("a", "0f"), ("b", "1e"):
    (tmp_path / f"{name}.mp4").symlink_to(f".git/annex/objects/{file}.mp4")
  clips = listed(("a", None, None), ("b", None, None))
  matches = matching.find(clips, FORMAT, str(tmp_path))
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
