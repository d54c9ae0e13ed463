"""Which subtitles belong to which media file, by their names."""
import os
import unicodedata

import pytest

from vatt.data.ingest import sidecars

SUFFIXES = {".mp4", ".mkv", ".mp3"}
DRONES = [
    """<font size="36">SrtCnt : 1, DiffTime : 33ms
2021-03-04 10:11:12,345,678
[iso : 100] [shutter : 1/1250.0] [fnum : 280] [ev : 0] [ct : 5500] \
[latitude : 47.1] [longtitude : 8.2] [altitude: 500.0] </font>""",
    """HOME(149.0251,-20.2532) 2016.08.05 14:11:51
GPS(149.0251,-20.2533,16) BAROMETER:1.9
ISO:100 Shutter:60 EV: Fnum:F2.8""",
    "F/2.8, SS 206.14, ISO 150, EV 0, GPS (8.3699, 47.5929, 20), D 0.13m",
    "signal:4 ch:1 flightTime:24 uavBat:15.7V glsBat:12.2V delay:31ms"]


def subrip(*texts):
  return "\n".join(f"{i}\n00:00:0{i},000 --> 00:00:0{i},500\n{text}\n"
                   for i, text in enumerate(texts, 1)).encode()


def write(folder, *names):
  """Empty media files, and subtitles that say their own names."""
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(subrip(name) if name.lower().endswith((".srt", ".vtt"))
                     else b"")


def read(folder, *files, language=""):
  """The text of the first cue of each media file, None without any."""
  cues = sidecars.read_cues(str(folder), set(files), SUFFIXES, language)
  assert set(cues) == set(files)
  return [cues[file][0][0] if cues[file] else None for file in files]


@pytest.mark.parametrize("media,name", [
    ("talk.mp4", "talk.srt"), ("talk.mp4", "talk.VTT"),
    ("DJI_0001.MP4", "dji_0001.Srt"), ("Talk.mp4", "TALK.EN.SRT"),
    ("talk [dQw4w9WgXcQ].mkv", "talk [dQw4w9WgXcQ].en.vtt"),
    ("-a_b-c.mp4", "-a_b-c.en-orig.vtt"), ("a.mp4", "a.en-US.vtt"),
    ("a.mp4", "a.en-eEY6OEpapPo.vtt"), ("a.mp4", "a.eng.forced.srt"),
    ("a.mp4", "a.sdh.en.srt"), ("a.mp4", "a.English.srt"),
    ("a.mp4", "a_en.srt"), ("a.mp4", "a-pt-BR.srt"), ("a.mp4", "a.zh_Hans.srt"),
    ("a.mp4", "a.mp4.srt"), ("a.mp4", "a.mp4.de.vtt"), ("a.b.mp4", "a.b.srt"),
    ("sub/a.mp4", "sub/a.srt"), ("a.mp4", "Subs/a.en.srt"),
    ("x/a.mp4", "x/subtitles/a.srt"), ("subs/a.mp4", "subs/a.srt"),
    ("caf\u00e9.mp4", "cafe\u0301.en.srt"), ("Straße.mp4", "STRASSE.srt"),
    ("STRASSE.mp4", "straße.srt")])
def test_names(tmp_path, capsys, media, name):
  write(tmp_path, media, name)
  assert read(tmp_path, media) == [unicodedata.normalize("NFC", name)]
  assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", [
    "b.srt", "a2.srt", "a.part2.srt", "a.2.srt", "a_is.srt", "xa.srt",
    "a.en.old.srt", "other/a.srt", "srt", "a..srt"])
def test_subtitles_of_no_media(tmp_path, capsys, name):
  write(tmp_path, "a.mp4", "other/b.mp4", name)
  assert read(tmp_path, "a.mp4") == [None]
  wanted = "" if name == "srt" else (
      f"{tmp_path}: subtitle files that fit no media file, 1: {name}\n")
  assert capsys.readouterr().out == wanted


# Of those behind the first, each is taken when those before it are gone.
ORDERS = {
    "": ["a.vtt", "a.srt", "a.default.srt", "a.cc.vtt", "subs/a.srt",
         "a.en.vtt", "a.en.srt", "a.eng.srt", "a.en-US.vtt", "a.en.sdh.srt",
         "a.de.vtt", "a.de-CH.vtt", "a.fr.vtt", "a.forced.srt"],
    "de": ["a.de.vtt", "a.ger.srt", "a.de-CH.srt", "subs/a.German.srt",
           "a.srt"]}


@pytest.mark.parametrize("language", ORDERS)
def test_one_of_several(tmp_path, capsys, language):
  names = ORDERS[language]
  write(tmp_path, "a.mp4", *names)
  for name in names[:-1]:
    assert read(tmp_path, "a.mp4", language=language) == [name]
    line = f"{tmp_path}: subtitle files taken of several, 1: {name} (not "
    line += names[1] * (name == names[0])
    assert capsys.readouterr().out.startswith(line)
    os.remove(tmp_path / name)
  assert read(tmp_path, "a.mp4", language=language) == [names[-1]]
  assert capsys.readouterr().out == ""


def test_other_languages_than_the_one_that_is_wanted(tmp_path, capsys):
  write(tmp_path, "a.mp4", "a.en.vtt", "a.fr.vtt", "b.mp4", "b.vtt")
  assert read(tmp_path, "a.mp4", "b.mp4", language="de") == [None, "b.vtt"]
  assert capsys.readouterr().out == (
      f"{tmp_path}: subtitle files that are not in de, 2: a.en.vtt, a.fr.vtt\n")


def test_whose_subtitles(tmp_path, capsys):
  """The longest name, the same letters, else each file that fits."""
  write(tmp_path, "a.mp4", "a.en.mp4", "a.en.srt", "A.mp4", "A.srt", "b.mp4",
        "b.mp3", "b.srt", "b.mp3.srt", "bad.mkv", "bad.srt")
  assert read(tmp_path, "a.mp4", "a.en.mp4", "A.mp4", "b.mp4", "b.mp3") == [
      None, "a.en.srt", "A.srt", "b.srt", "b.mp3.srt"]
  assert capsys.readouterr().out == (
      f"{tmp_path}: subtitle files taken of several, 1: b.mp3.srt (not b.srt)"
      "\n")


def test_media_elsewhere(tmp_path):
  """A list may name them by links and by whole paths."""
  inside, outside = tmp_path / "inside", tmp_path / "outside"
  write(outside, "a.mp4", "Subs/a.srt")
  inside.mkdir()
  (inside / "link").symlink_to(outside)
  assert read(inside, "link/a.mp4", f"{outside}/a.mp4") == ["Subs/a.srt"] * 2


def test_what_is_of_no_use(tmp_path, capsys):
  stems = "empty gone known many odd pipe second".split()
  write(tmp_path, *(f"{stem}.mp4" for stem in stems), "second.srt")
  (tmp_path / "empty.srt").write_bytes(b"no cues in this")
  (tmp_path / "gone.srt").symlink_to(tmp_path / "nowhere")
  (tmp_path / "known.srt").write_bytes(subrip("a café here").replace(
      "é".encode(), "é".encode("cp1252")))
  (tmp_path / "many.srt").write_bytes(subrip(
      "café", "tea", "thé").replace("é\n\n2".encode(), b"\xc3\n\n2"))
  (tmp_path / "odd.srt").write_bytes(subrip("odd").replace(
      b"odd", bytes(range(255, 127, -1))))
  os.mkfifo(tmp_path / "pipe.srt")
  (tmp_path / "second.vtt").write_bytes(b"WEBVTT\n")
  assert read(tmp_path, *(f"{stem}.mp4" for stem in stems)) == [
      None, None, "a café here", "tea", None, None, "second.srt"]
  assert capsys.readouterr().out.splitlines() == [
      f"{tmp_path}: {line}" for line in (
          "subtitle files that cannot be used, 5: empty.srt (no sentence with "
          "a time in it), gone.srt (no file), odd.srt (its encoding cannot be "
          "known, expected UTF-8), pipe.srt (no file), second.vtt (no sentence "
          "with a time in it)",
          "media files without captions for it, 4: empty.mp4, gone.mp4, "
          "odd.mp4, pipe.mp4",
          "subtitle files with damaged sentences, which are left out, 1: "
          "many.srt (1)",
          "subtitle files taken of several, 1: second.srt (not second.vtt)")]


@pytest.mark.parametrize("text", DRONES)
def test_what_drones_write_is_no_speech(tmp_path, capsys, text):
  write(tmp_path, "a.mp4", "b.mp4")
  (tmp_path / "a.srt").write_bytes(subrip(text, text, "Hello"))
  (tmp_path / "b.srt").write_bytes(subrip(text, "ISO 100, EV 0", "we fly"))
  found = read(tmp_path, "a.mp4", "b.mp4")
  assert found[0] is None and found[1]
  assert capsys.readouterr().out.startswith(
      f"{tmp_path}: subtitle files that cannot be used, 1: a.srt (a camera's "
      "data, no speech)\n")


def test_long_lists_are_cut(tmp_path, capsys):
  write(tmp_path, *(f"{i}.srt" for i in range(10, 23)))
  assert sidecars.read_cues(str(tmp_path), [], SUFFIXES) == {}
  assert capsys.readouterr().out == (
      f"{tmp_path}: subtitle files that fit no media file, 13: "
      + ", ".join(f"{i}.srt" for i in range(10, 20)) + " and 3 more\n")


def test_names_that_are_no_text(tmp_path, capsys):
  with open(os.fsencode(tmp_path) + b"/caf\xe9\n.srt", "wb"):
    pass
  assert sidecars.read_cues(str(tmp_path), [], SUFFIXES) == {}
  assert capsys.readouterr().out.endswith(
      r"media file, 1: caf\udce9\n.srt" + "\n")
