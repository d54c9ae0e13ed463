"""The page of a dataset, built of media that are made here."""
import base64
import html.parser
import io
import math
import os
import re

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
from scipy.io import wavfile

from vatt.data import sources
from vatt.reports import dataset_clips, dataset_facts, signals

RATE = 16000
HOSTILE = "</q></main><script>alert(1)</script>\"'&amp;"
SCRIPT = "scripts/show_dataset.py"


class Node(html.parser.HTMLParser):
  """A page as a tree: tags with their attributes, and the text in them."""

  def __init__(self, text=None, tag="", attributes=()):
    super().__init__()
    self.tag, self.attributes = tag, dict(attributes)
    self.children, self.own = [], []
    if text is not None:
      self._open = [self]
      self.feed(text)
      assert len(self._open) == 1  # each tag is closed

  def handle_starttag(self, tag, attributes):
    node = Node(None, tag, attributes)
    self._open[-1].children.append(node)
    self._open[-1].own.append(node)
    if tag not in ("meta", "link", "img"):
      self._open.append(node)

  def handle_endtag(self, tag):
    assert self._open.pop().tag == tag

  def handle_startendtag(self, tag, attributes):
    self._open[-1].children.append(Node(None, tag, attributes))

  def handle_data(self, data):
    self._open[-1].own.append(data)

  @property
  def text(self):
    return "".join(part if isinstance(part, str) else part.text
                   for part in self.own)

  def all(self, tag, name=""):
    """Those of a tag, and of a class if it is given, in order."""
    for child in self.children:
      if child.tag == tag and name in child.attributes.get(
          "class", "").split(" ") + [""]:
        yield child
      yield from child.all(tag, name)

  def one(self, tag, name=""):
    found, = self.all(tag, name)
    return found

  def rows(self, name):
    """The cells of a table."""
    return [[cell.text for cell in row.children]
            for row in self.one("table", name).all("tr")]


def content(node, kind):
  """The file in the address of an image or a sound."""
  address = node.attributes["src"]
  assert address.startswith(f"data:{kind};base64,")
  return base64.b64decode(address.partition(",")[2])


def sine(seconds, frequency, level=0.5):
  time = np.arange(int(seconds * RATE)) / RATE
  return level * np.sin(2 * np.pi * frequency * time)


@pytest.fixture(scope="module")
def built(tmp_path_factory, media, python):
  """data_dir of a dataset: a film of 4 s, silent for two, and a part of it;
  one without sound; a sound; one that is gone."""
  folder = tmp_path_factory.mktemp("media")
  pictures = [media.numbered(i) for i in range(32)]
  sound = np.float32(np.concatenate([np.zeros(2 * RATE), sine(2, 1000)]))[None]
  media.write_media(folder / "film.mkv", pictures, sound, rate=8, audio="flac",
                    audio_rate=RATE)
  media.write_media(folder / "mute.mp4", pictures[:16], rate=8)
  (folder / "mute.vtt").write_text(
      "WEBVTT\n\n00:00.500 --> 00:01.000\nin it\n\n"
      "00:03.000 --> 00:04.000\nbehind it\n")
  wavfile.write(folder / "tone.wav", RATE, np.int16(32767 * sine(1, 440)))
  (folder / "clips.csv").write_text(
      "video_path,start,end,label,caption,split\n"
      'film.mkv,0,4,<b>bold</b>,"{}",train\n'
      "film.mkv,0,4,zebra,second,train\nfilm.mkv,1,3,zebra,,train\n"
      "mute.mp4,0,2,,,train\ntone.wav,0,1,,نص قصير,test\n"
      "gone.mp4,0,1,,,train\n".format(HOSTILE.replace('"', '""')))
  data_dir = tmp_path_factory.mktemp("built")
  python.run("scripts/prepare_dataset.py", f"--manual_dir={folder}",
             "--dataset=clips/looked+fps=8+size=48+audio_rate=16000",
             f"--data_dir={data_dir}").check_returncode()
  return str(data_dir)


@pytest.fixture(scope="module")
def written(built, tmp_path_factory, python):
  """The path of the page, and what the script printed."""
  folder = tmp_path_factory.mktemp("pages") / "new"
  done = python.run(
      SCRIPT, "--dataset=clips/looked+fps=8+size=48+audio_rate=16000",
      f"--data_dir={built}", f"--output={folder}", fork=False)
  assert done.returncode == 0, done.stderr
  assert "3/3" in done.stderr
  name, = os.listdir(folder)
  assert name == "clips_looked+fps=8+size=48+audio_rate=16000.html"
  return folder / name, done.stdout


@pytest.fixture(scope="module")
def page(written):
  return Node(written[0].read_text())


def clip_of(page, title):
  found, = (card for card in page.all("article", "clip")
            if card.one("h3").text == title)
  return found


def test_counts_are_those_of_what_was_made(page, written):
  assert written[1] == (
      f"{written[0]}: clips of train 3, test 1; 4 of them shown\n")
  assert [link.text for link in page.one("nav").all("a")] == [
      "train: 3 clips", "test: 1 clip"]
  train, test = page.all("section")
  kinds = {name: int(count) for name, count, _ in train.rows("kinds")}
  assert kinds == {"pictures": 3, "sound": 2, "captions": 2, "label": 2}
  assert sorted(train.rows("having")) == [
      ["1", "pictures + captions, no sound or label"],
      ["1", "pictures + sound + captions + label"],
      ["1", "pictures + sound + label, no captions"]]
  assert dict(train.one("div", "lengths").rows("")) == {
      "in all": "8 s", "median": "2 s", "mean": "2.667 s",
      "range": "2 to 4 s"}
  kept = dict(train.rows("kept"))
  assert kept["frame sizes"] == "160 x 48"
  assert kept["pictures a second"] == "8" and kept["sound"] == "16000 Hz"
  assert kept["captions"] == "3 (1 a clip)"
  assert kept["around clips"] == "1 captions"
  classes = [[part.text for part in row.children]
             for row in train.one("ol", "classes").all("li")]
  assert classes == [["0", "<b>bold</b>", "1"], ["1", "zebra", "2"]]
  assert test.one("summary").text == (
      "2 classes, 2 without a clip; from 0 to 0 clips")
  assert len(list(test.one("ol", "classes").all("li", "none"))) == 2
  first = next(page.all("details"))
  assert first.one("summary").text == "1 clip rejected (rejected.csv)"
  assert "no such file" in first.one("table").text


def test_frames_are_where_their_times_are(page, media):
  card = clip_of(page, "film.mkv:0.000-4.000")
  places = list(card.one("div", "strip").all("span"))
  assert len(places) == 8
  # The middle of each half second, 8 frames a second.
  assert [place.one("small").text for place in places] == [
      "0.25", "0.75", "1.25", "1.75", "2.25", "2.75", "3.25", "3.75"]
  assert [media.number_of(matplotlib.image.imread(io.BytesIO(content(
      place.one("img"), "image/jpeg")), "jpeg")) for place in places] == [
          2, 6, 10, 14, 18, 22, 26, 30]
  later = clip_of(page, "film.mkv:1.000-3.000").one("div", "strip")
  assert [media.number_of(matplotlib.image.imread(io.BytesIO(content(
      image, "image/jpeg")), "jpeg")) for image in later.all("img")] == [
          9, 11, 13, 15, 17, 19, 21, 23]
  sound = clip_of(page, "tone.wav:0.000-1.000")
  assert not list(sound.all("div", "strip"))
  assert "no pictures" in sound.text
  assert "no sound" in clip_of(page, "mute.mp4:0.000-2.000").text


def test_a_tone_is_drawn_when_and_where_it_sounds(page):
  card = clip_of(page, "film.mkv:0.000-4.000")
  wave, mel = card.all("div", "sound")
  path = wave.one("path").attributes["d"]
  x, y = np.array(re.findall(r"([\d.]+) ([\d.-]+)", path), float).T
  assert wave.one("svg").attributes["viewbox"] == "0 0 1000 100"
  assert wave.one("div").attributes["style"] == "height:100%;width:100.000%"
  silent, loud = x < 499, x > 501
  assert np.all(np.abs(y[silent] - 50.5) < 1)
  assert y[loud].min() < 0.5 and y[loud].max() > 99.5
  assert np.mean(np.abs(y[loud] - 50)) > 45
  image = mel.one("img")
  width = float(re.fullmatch(
      r"width:([\d.]+)%", image.attributes["style"])[1])
  shades = matplotlib.image.imread(
      io.BytesIO(content(image, "image/png")), "png")[..., :3].sum(-1)
  assert shades.shape[0] == 80
  # A column is 341 samples long, the axis 4 s.
  assert shades.shape[1] == math.ceil(4 * RATE / 341)
  assert width == pytest.approx(100 * shades.shape[1] * 341 / (4 * RATE), 1e-4)
  times = np.arange(shades.shape[1]) * 341 / RATE
  assert np.all(shades[:, times < 1.9] == shades[0, 0])
  # Triangles on HTK's mel scale, each with its tip at the next one's foot.
  def mel_of(hertz):
    return 2595 * math.log10(1 + hertz / 700)

  tips = np.linspace(mel_of(80), mel_of(7600), 82)[1:-1]
  expected = 79 - np.argmin(np.abs(tips - mel_of(1000)))  # low ones below
  brightest = shades[:, (times > 2.1) & (times < 3.8)].argmax(0)
  assert np.all(brightest == expected)


def test_captions_are_bars_with_their_text(page):
  card = clip_of(page, "film.mkv:0.000-4.000")
  rows = list(card.one("ol", "captions").all("li"))
  assert [row.one("q").text for row in rows] == [
      f"0 – 4 {HOSTILE}", "0 – 4 second"]
  assert [row.one("i").attributes["style"] for row in rows] == [
      "margin-left:0.00%;width:100.00%"] * 2
  own, around = clip_of(page, "mute.mp4:0.000-2.000").one(
      "ol", "captions").all("li")
  assert own.one("q").text == "0.5 – 1 in it"
  assert own.one("i").attributes["style"] == "margin-left:25.00%;width:25.00%"
  assert around.one("q").text == "after: 3 – 4 behind it"
  assert around.attributes["class"] == "around" and not list(around.all("i"))
  arabic = clip_of(page, "tone.wav:0.000-1.000").one("ol", "captions").one("q")
  assert arabic.text == "0 – 1 نص قصير" and arabic.attributes["dir"] == "auto"


def test_a_clip_says_what_it_is_and_where_it_lies(page, built):
  card = clip_of(page, "film.mkv:1.000-3.000")
  facts, place = [line.text for line in card.all("p")][:2]
  assert facts == "2 s · from 0:01.0 of its source · zebra"
  found = re.fullmatch(r"record (\d) of train, at byte (\d+) of (.+)", place)
  with open(found[3], "rb") as file:
    file.seek(int(found[2]))
    length = int.from_bytes(file.read(8), "little")
    file.seek(4, 1)
    assert b"film.mkv:1.000-3.000" in file.read(length)
  assert clip_of(page, "film.mkv:0.000-4.000").one("span", "label").text == (
      "<b>bold</b>, zebra")
  rate, samples = wavfile.read(io.BytesIO(content(
      clip_of(page, "tone.wav:0.000-1.000").one("audio"), "audio/wav")))
  assert rate == RATE
  np.testing.assert_array_equal(samples, np.int16(32767 * sine(1, 440)))


def test_the_page_loads_nothing_and_runs_nothing_of_the_data(page, written):
  text = written[0].read_text()
  assert len(list(page.all("script"))) == 1 and "url(" not in text
  for tag in ("img", "audio", "link", "a"):
    for node in page.all(tag):
      for name in ("src", "href"):
        address = node.attributes.get(name, "#")
        assert address.startswith(("data:", "#"))


def odd_records():
  """Records that are no clips as builders make them, and what is said of each.
  """
  frame = tf.io.encode_jpeg(np.zeros([8, 8, 3], np.uint8)).numpy()
  good = {
      "id": [b"x"], "start": [0.0], "frames": [frame], "fps": [1.0],
      "audio": [bytes(1600)], "audio_rate": [800], "captions/text": [b"a"],
      "captions/start": [0.0], "captions/end": [1.0], "label": [0]}
  for changes, said in (
      ({}, "silent"), ({"fps": [math.nan]}, "fps is nan, expected more"),
      ({"fps": [1e-9]}, "Nothing of it can be shown."),
      ({"audio_rate": [0]}, "audio_rate is 0, expected more"),
      ({"audio_rate": [200]}, "no spectrogram at such a rate"),
      ({"audio_rate": [2 ** 31 - 1]}, "no spectrogram at such a rate"),
      ({"audio": [b"odd"]}, "cannot be read: its sound does not decode: Input"),
      ({"captions/start": []}, "1 captions, with 0 starts and 1 ends"),
      ({"frames": [b"none", frame], "fps": [8.0]}, "0 does not decode"),
      ({"frames": [], "audio": [b""]}, "Nothing of it can be"),
      ({"start": [math.inf]}, "from inf s of its source"),
      ({"captions/start": [math.nan]}, "nan – 1"),
      ({"label": [5, -1]}, "class 5 (has no name), class -1"),
      ({"label": [5]}, "label is 5, expected 0 to 0"),
      ({"captions/end": [-1.0]}, "a caption ends before it starts"),
      ({"id": [b"a\xff\0"]}, "a\ufffd\\x00")):
    yield {name: values if name not in changes else changes[name]
           for name, values in good.items()}, said


def test_what_is_wrong_with_a_clip_is_said_on_its_card(tmp_path):
  directory = tmp_path / "odd" / "1.0.0"
  directory.mkdir(parents=True)
  (directory / "features.json").write_text(
      '{"featuresDict": {"features": {"frames": {}}}}')
  (directory / "dataset_info.json").write_text("{}")
  (directory / "label.labels.txt").write_text("name\n")
  clips, said = zip(*odd_records())
  with tf.io.TFRecordWriter(
      str(directory / "odd-train.tfrecord-00000-of-00001")) as writer:
    for clip in clips:
      writer.write(tf.train.Example(features=tf.train.Features(feature={
          name: tf.train.Feature(**{{bytes: "bytes_list", float: "float_list"
                                     }.get(type(values[0]), "int64_list"): {
                                         "value": values}})
          if values else tf.train.Feature()
          for name, values in clip.items()})).SerializeToString())
  source = sources.open_source("odd", str(tmp_path), "train")
  for i, expected in enumerate(said):
    card = Node(dataset_clips.card(source, i)).one("article")
    assert expected in card.text, i
  facts = dataset_facts.look(source, np.arange(len(clips)))
  assert (facts.looked, facts.unreadable) == (len(clips), 2)


def test_lists_beside_a_dataset_are_counted_by_reason(tmp_path):
  (tmp_path / "missing.csv").write_text(
      "id,reason,split,label\na,no file,train,x\nb,no file,train,y\n"
      "c,no file,test,x\nd,no file,,\n")
  (tmp_path / "rejected.csv").write_text("id,file,reason\n")
  assert dataset_facts.read_lists(str(tmp_path)) == {
      "missing.csv": (4, [("train: no file", 2), ("test: no file", 1),
                          ("no file", 1)]), "rejected.csv": (0, [])}


def test_a_long_sound_takes_no_more_room_than_a_short_one():
  sound = np.zeros(8000 * 600, np.int16)
  sound[8000 * 300:8000 * 301] = 20000
  png, step = signals.spectrogram(sound, 8000)
  assert step == 0.6  # seconds
  assert matplotlib.image.imread(io.BytesIO(png), "png").shape[:2] == (80, 1000)
  low, high = signals.envelope(sound)
  assert len(low) == len(high) == 1000
  assert np.flatnonzero(low).tolist() == [500]  # all of its 0.6 s are loud
  assert np.flatnonzero(high).tolist() == [500, 501]


def test_samples_are_spread_evenly():
  drawn = dataset_facts.spread(1000, 10, 3, "train")
  assert np.all(drawn // 100 == np.arange(10))
  assert not np.array_equal(drawn, dataset_facts.spread(1000, 10, 4, "train"))
  assert not np.array_equal(drawn, dataset_facts.spread(1000, 10, 3, "test"))
  np.testing.assert_array_equal(
      drawn, dataset_facts.spread(1000, 10, 3, "train"))
  for count in (7, 8):
    assert dataset_facts.spread(7, count, 0, "").tolist() == list(range(7))
  assert not len(dataset_facts.spread(7, 0, 0, ""))


def test_a_place_without_a_new_frame_is_empty():
  assert signals.places(1.0, 1, 1.0) == [(0.0, 0)] + [None] * 7
  assert signals.places(4.0, 2, 1.0) == [
      (0.0, 0), None, (1.0, 1), None, None, None, None, None]


@pytest.mark.parametrize("length, times", [
    (1.0, [0, 0.2, 0.4, 0.6, 0.8]), (10.0, [0, 2, 4, 6, 8]),
    (0.35, [0, 0.1, 0.2, 0.3]), (120.0, [0, 30, 60, 90]),
    (600.0, [0, 120, 240, 360, 480]), (7300.0, [0, 1800, 3600, 5400, 7200])])
def test_an_axis_has_few_round_times(length, times):
  np.testing.assert_allclose(signals.ticks(length), times)


def test_what_is_wrong_is_told_in_a_line_and_nothing_is_written(
    built, python, tmp_path):
  (tmp_path / "file").write_text("here")
  for flags, line in (
      (["--dataset=none", f"--output={tmp_path}/new"],
       "none: no finished data set"),
      (["--dataset=dmvr:/x-{split}?fps=1", f"--output={tmp_path}"],
       "expected --split=NAME"),
      (["--dataset=clips/looked+fps=8+size=48+audio_rate=16000",
        f"--output={tmp_path}/a.html", "--split=validation"],
       "no split 'validation'"),
      (["--dataset=clips/looked+fps=8+size=48+audio_rate=16000",
        f"--output={tmp_path}/file/b.html"], "--output: ")):
    done = python.run(SCRIPT, f"--data_dir={built}", *flags)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert line in done.stderr.splitlines()[-1]
  assert os.listdir(tmp_path) == ["file"]
