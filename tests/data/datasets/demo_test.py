"""The demo's media: decoded, looked at, listened to and read."""
import csv
import hashlib
import io
import pathlib
import re
import signal
import time

import av
import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import Ridge

from vatt import locks
from vatt.data.datasets.demo import captions as demo_captions
from vatt.data.datasets.demo import media as demo_media
from vatt.data.datasets.demo import scenes as demo_scenes
from vatt.data.datasets.demo import sounds as demo_sounds
from vatt.errors import UserError

NUM_TRAIN, NUM_TEST = 1320, 200
TRAIN = [demo_scenes.scene("train", i) for i in range(NUM_TRAIN)]
TEST = [demo_scenes.scene("test", i) for i in range(NUM_TEST)]
# What a reader takes words for: written for these tests.
MEANING = {
    "shape": {
        "square box": "square", "triangle pyramid": "triangle",
        "star starfish": "star", "heart": "heart", "moon crescent": "moon",
        "cross plus": "cross", "hourglass egg": "hourglass",
        "horseshoe magnet": "horseshoe", "bar stick": "bar",
        "mushroom toadstool": "mushroom"},
    "colour": {
        "red crimson": "red", "orange carrot": "orange",
        "yellow lemon": "yellow", "green grass": "green",
        "turquoise cyan": "turquoise", "blue ink": "blue",
        "pink magenta": "pink", "white snow": "white"},
    "motion": {
        "right rightwards": "right", "left leftwards": "left",
        "up upwards rises": "up", "down downwards sinks": "down",
        "circles ring": "circles", "spins rotates turns": "spins",
        "grows swells pulsates": "grows",
        "blinks flashes vanishes": "blinks"},
    "size": {"small little tiny": "small", "large big huge": "large"},
    "speed": {"slowly hurry slow": "slow", "quickly fast high": "fast"},
}
WORD = {factor: {word: value for words, value in table.items()
                 for word in words.split()}
        for factor, table in MEANING.items()}
# The notes C4, D#4, F#4, A4 and the same an octave higher, in Hz.
NOTES = dict(zip(
    ("red", "orange", "yellow", "green", "turquoise", "blue", "pink", "white"),
    (261.6, 311.1, 370.0, 440.0, 523.3, 622.3, 740.0, 880.0)))


def read(text):
  """Factor to value, of what a sentence tells."""
  words = re.findall(r"\w+", text.lower())
  told = {factor: {table[word] for word in words if word in table}
          for factor, table in WORD.items()}
  assert all(len(values) <= 1 for values in told.values()), text
  return {factor: values.pop() for factor, values in told.items() if values}


def fits(told, scene):
  return all(getattr(scene, factor) == value for factor, value in told.items())


def decode(data):
  """uint8 [T, H, W, 3], their times, float32 [S] or None, of an mp4's bytes."""
  with av.open(io.BytesIO(data)) as container:
    assert container.duration == 3_200_000  # microseconds
    frames = [(f.to_ndarray(format="rgb24"), f.time)
              for f in container.decode(video=0)]
  with av.open(io.BytesIO(data)) as container:
    if not container.streams.audio:
      return *map(np.array, zip(*frames)), None
    assert container.streams.audio[0].rate == 16000
    sound = [f.to_ndarray()[0] for f in container.decode(audio=0)]
  return *map(np.array, zip(*frames)), np.concatenate(sound)


def film(scene):
  return decode(demo_media.encode(demo_scenes.draw_frames(scene),
                                  demo_sounds.synthesize(scene)))


def contents(folder):
  return {str(path.relative_to(folder)): path.read_bytes()
          for path in pathlib.Path(folder).rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def media(tmp_path_factory):
  folder = tmp_path_factory.mktemp("demo")
  demo_media.render(str(folder), 40, 8)
  return folder


# ---- the split


def test_test_combinations_are_new_but_not_their_parts():
  combination = lambda scene: (scene.shape, scene.colour, scene.motion)
  held_out = {combination(scene) for scene in TEST}
  assert len(held_out) == NUM_TEST
  assert not held_out & {combination(scene) for scene in TRAIN}
  pairs = lambda scenes: {
      (a, b) for scene in scenes for a in scene[1:] for b in scene[1:]}
  assert pairs(TEST) <= pairs(TRAIN)
  for scenes in (TRAIN, TEST):
    for factor, table in MEANING.items():
      share = [np.mean([getattr(scene, factor) == value for scene in scenes])
               for value in table.values()]
      assert np.sum(share) == pytest.approx(1)
      assert min(share) > 0.5 / len(table), factor


# ---- the sentences


def test_each_test_caption_fits_its_clip_alone():
  for scene in TEST:
    told = read(demo_captions.describe(scene))
    assert told.keys() == MEANING.keys()
    assert [other for other in TEST if fits(told, other)] == [scene]


def test_narration():
  amounts, texts = [], set()
  for scene in TRAIN:
    sentences = demo_captions.narrate(scene)
    texts.update(sentences)
    assert len(set(sentences)) == 5
    assert max(len(text.split()) for text in sentences) <= 16
    told = [read(text) for text in sentences]
    assert all(fits(some, scene) for some in told)
    amounts.append(sorted(map(len, told)))
    assert all(re.fullmatch("[A-Z][A-Za-z ]+[.]", text) for text in sentences)
    assert not re.search(r"\ba [aeiou]|\b(an|a) an?\b", " ".join(sentences))
  amounts = np.array(amounts)  # how much is told, in increasing order
  assert set((amounts == 0).sum(1)) == {1, 2}  # sentences of chatter
  assert (amounts[:, -1] == 5).all() and (amounts[:, 2] >= 2).all()
  assert len(texts) > 3000
  # Whatever the test says was said in training before.
  known = set(re.findall(r"\w+", " ".join(texts).lower()))
  assert set(re.findall(r"\w+", " ".join(
      map(demo_captions.describe, TEST)).lower())) <= known


# ---- the files


def test_files(media):
  rows = list(csv.DictReader(io.StringIO(
      (media / "clips.csv").read_text())))
  assert list(rows[0]) == ["video_path", "start", "end", "label", "caption",
                           "split"]
  listed = {row["video_path"]: row for row in rows}
  assert len(rows) == len(listed) == 40 + 8 + 3
  files = set(contents(media))
  assert {file for file in files if file.endswith(".mp4")} == set(listed)
  assert not any(file.endswith(".tmp") for file in files)
  whole = set(listed)
  for name in ("cut_off", "garbage", "empty"):
    path = f"train/{name}.mp4"
    with pytest.raises(av.error.FFmpegError):
      av.open(str(media / path))
    whole.remove(path)
  assert (media / "train/empty.mp4").stat().st_size == 0
  for path in whole:
    row, split = listed[path], path.split("/")[0]
    scene = {scene.id: scene for scene in TRAIN + TEST}[path[:-4]]
    assert row["split"] == split and row["label"] == scene.shape
    assert (float(row["start"]), float(row["end"])) == (0, 3.2)
    if split == "test":
      assert row["caption"] == demo_captions.describe(scene)
    else:
      assert row["caption"] == ""
    subtitles = path.replace(".mp4", ".vtt")
    assert (subtitles in files) == (split == "train"
                                    and demo_media.has_captions(scene))
  sizes = [len(data) for name, data in contents(media).items()
           if name in whole]
  assert np.mean(sizes) < 45_000


def test_some_clips_lack_captions_or_sound(tmp_path):
  assert 0.17 < np.mean(
      [not demo_media.has_captions(scene) for scene in TRAIN]) < 0.23
  mute = [scene for scene in TRAIN if not demo_media.has_sound(scene)]
  assert 15 < len(mute) < 60
  assert all(demo_media.has_captions(scene) and demo_media.has_sound(scene)
             for scene in TEST)
  (tmp_path / "train").mkdir()
  demo_media.render_clip(str(tmp_path), mute[0])
  frames, _, sound = decode((tmp_path / f"{mute[0].id}.mp4").read_bytes())
  assert frames.shape == (32, 96, 96, 3) and sound is None


def test_subtitles(media):
  path = min((media / "train").glob("*.vtt"))
  scene = TRAIN[int(path.stem)]
  head, *cues = path.read_text().split("\n\n")
  assert head == "WEBVTT"
  times, texts = zip(*(cue.strip().split("\n") for cue in cues))
  edges = ["00.000", "00.640", "01.280", "01.920", "02.560", "03.200"]
  assert list(times) == [f"00:00:{a} --> 00:00:{b}"
                         for a, b in zip(edges, edges[1:])]
  assert list(texts) == demo_captions.narrate(scene)


def test_same_bytes_again(media, tmp_path):
  demo_media.render(str(tmp_path), 40, 8)
  assert contents(tmp_path) == contents(media)
  digests = {hashlib.sha256(data).digest() for name, data in
             contents(media).items() if name.endswith("mp4")}
  assert len(digests) == 40 + 8 + 3


def test_kill_in_mid_run(media, tmp_path, python):
  """A killed rendering leaves whole files only, and keeps them."""
  process = python.start(
      "-c", "from vatt.data.datasets.demo import media; "
      f"media.render({str(tmp_path)!r}, 40, 8)")
  while process.poll() is None and len(
      list(tmp_path.glob("train/*.mp4"))) < 6:
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL, "finished before it was killed"
  assert not (tmp_path / "clips.csv").exists()
  done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")
          if path.suffix in (".mp4", ".vtt")}
  assert 6 <= len(done) < 70
  demo_media.render(str(tmp_path), 40, 8)
  assert {path: path.stat().st_mtime_ns for path in done} == done
  assert contents(tmp_path) == contents(media)


def test_one_renders_in_a_folder(media, tmp_path):
  with locks.own(str(tmp_path), "a rendering of demo"):
    with pytest.raises(UserError, match="in use by a rendering of demo"):
      demo_media.render(str(tmp_path), 40, 8)
  assert not list(tmp_path.iterdir())
  with locks.own(str(media), "another"):
    demo_media.render(str(media), 40, 8)  # writes nothing


def test_errors(media, tmp_path):
  with pytest.raises(UserError, match="at most 200 test clips"):
    demo_media.render(str(tmp_path), 10, 201)
  with pytest.raises(UserError, match="clips.csv: lists other clips"):
    demo_media.render(str(media), 41, 8)
  (tmp_path / "file").write_bytes(b"")
  with pytest.raises(UserError, match="rendering stopped") as error:
    demo_media.render(str(tmp_path / "file"), 10, 1)
  assert "\n" not in str(error.value)


# ---- what is seen and heard


def one_of_each(factor, **others):
  """The first training scene of each value of a factor."""
  chosen = {}
  for scene in TRAIN:
    if all(getattr(scene, key) == value for key, value in others.items()):
      chosen.setdefault(getattr(scene, factor), scene)
  return chosen


def test_decoded_is_what_was_made():
  scene = TRAIN[0]
  frames, times, sound = film(scene)
  drawn, made = demo_scenes.draw_frames(scene), demo_sounds.synthesize(scene)
  assert frames.shape == drawn.shape == (32, 96, 96, 3)
  np.testing.assert_allclose(times, np.arange(32) / 10)
  assert np.abs(np.int16(frames) - drawn).mean() < 8
  assert len(sound) == len(made) == 51_200
  # Neither early nor late, by a single sample.
  lags = [np.corrcoef(sound[100 + lag:50_100 + lag], made[100:50_100])[0, 1]
          for lag in range(-20, 21)]
  assert np.argmax(lags) == 20 and max(lags) > 0.8


def visible(frames):
  """The thing's pixels, bool [T, H, W]: nothing else is so bright."""
  return frames.max(-1) > 165


def watch(frames):
  """The motion that somebody sees who does not know how it was drawn."""
  mask = visible(frames)
  area = mask.sum((1, 2)) / 96 ** 2
  if (area < 0.002).mean() > 0.3 and np.ptp(area[area > 0.002]) < 0.01:
    return "blinks"
  y, x = np.mgrid[:96, :96]
  there = area > 0.002
  middle = np.array([[y[m].mean(), x[m].mean()] for m in mask[there]])
  steps = np.diff(middle, axis=0)
  steps = steps[np.abs(steps).max(1) < 40]  # but not from one side to the other
  if np.ptp(middle, axis=0).min() > 30:
    return "circles"
  if np.ptp(middle, axis=0).max() < 15:
    if area.max() > 2.5 * area.min():
      return "grows"
    return "spins"
  vertical, horizontal = np.median(steps, axis=0)
  if abs(horizontal) > abs(vertical):
    return "right" if horizontal > 0 else "left"
  return "down" if vertical > 0 else "up"


@pytest.mark.parametrize("speed", ["slow", "fast"])
def test_motion_and_colour_are_seen_as_told(speed):
  for motion, scene in one_of_each("motion", speed=speed).items():
    frames, _, _ = film(scene)
    told = read(demo_captions.describe(scene))
    assert watch(frames) == told["motion"] == motion, scene
    mask = visible(frames)
    colour = np.median(frames[mask], axis=0)
    nearest = min(demo_scenes.COLOURS, key=lambda name: np.abs(
        colour - demo_scenes.COLOURS[name]).sum())
    assert nearest == told["colour"], scene


def test_large_is_larger_and_shapes_differ():
  areas = {size: np.mean([
      visible(demo_scenes.draw_frames(scene)).sum((1, 2)).max()
      for scene in one_of_each("shape", size=size).values()])
      for size in ("small", "large")}
  assert areas["large"] > 1.7 * areas["small"]
  # Every two shapes, upright and as large, differ in a quarter of their area.
  shapes = [demo_scenes._distances(shape) < 0 for shape in demo_scenes.SHAPES]
  for i, one in enumerate(shapes):
    assert one[0].sum() + one[:, 0].sum() == 0  # within its table
    for other in shapes[:i]:
      assert (one ^ other).sum() > 0.25 * (one | other).sum()


def test_pitch_is_the_colour_s():
  for factor in ("colour", "shape"):
    for scene in one_of_each(factor).values():
      _, _, sound = film(scene)
      power = np.abs(np.fft.rfft(sound * np.hanning(51_200))) ** 2
      hertz = np.fft.rfftfreq(51_200, 1 / 16_000)
      near = {colour: power[np.abs(hertz / note - 1) < 0.06].sum()
              for colour, note in NOTES.items()}
      assert max(near, key=near.get) == scene.colour, scene


def loudness(sound):
  """Mean square of every 10 ms."""
  return (sound.astype(float).reshape(-1, 160) ** 2).mean(1)


def test_blinking_is_heard_while_it_is_seen():
  for speed in ("slow", "fast"):
    frames, _, sound = film(one_of_each("motion", speed=speed)["blinks"])
    seen = visible(frames).any((1, 2))
    heard = loudness(sound).reshape(32, 10)[:, 0]  # as the frame begins
    heard = heard > 0.01 * heard.max()
    assert (seen == heard).mean() > 0.9


def test_notes_begin_in_the_motion_s_rhythm():
  """Seconds between the notes, of a bar that takes two seconds or one."""
  between = {"left": [2] * 8, "up": [4, 12], "down": [2, 2, 12],
             "circles": [6, 6, 4], "spins": [2] * 5 + [6], "right": [16],
             "grows": [16], "blinks": [16]}
  for bar, speed in ((2.0, "slow"), (1.0, "fast")):
    scenes = one_of_each("motion", speed=speed, shape="triangle", size="small")
    assert scenes.keys() == between.keys()
    for motion, scene in scenes.items():
      level = loudness(demo_sounds.synthesize(scene)) ** 0.5
      rise = level[2:] - level[:-2]
      begins = [i for i in range(1, len(rise) - 1)
                if rise[i] > 0.15 * level.max()
                and rise[i] == rise[max(i - 4, 0):i + 5].max()]
      found = np.diff(begins) / 100 / (bar / 16)
      turns = [between[motion][i:] + between[motion][:i]
               for i in range(len(between[motion]))]
      assert any(np.allclose(found, (turn * 9)[:len(found)], atol=0.5)
                 for turn in turns), (motion, speed, found)


def test_large_things_thump():
  for size in ("small", "large"):
    scene = one_of_each("size", shape="bar", motion="left")[size]
    power = np.abs(np.fft.rfft(demo_sounds.synthesize(scene))) ** 2
    hertz = np.fft.rfftfreq(51_200, 1 / 16_000)
    low = power[(hertz > 50) & (hertz < 130)].sum() / power.sum()
    assert (low > 0.05) == (size == "large")


def test_no_shape_sounds_like_another():
  """Spectra over the pitch, in a chord's steps, are apart."""
  spectra = []
  for scene in one_of_each("shape", colour="red", size="small").values():
    power = np.abs(np.fft.rfft(demo_sounds.synthesize(scene)))
    hertz = np.fft.rfftfreq(51_200, 1 / 16_000)
    edges = 220 * 2 ** (np.arange(61) / 12)
    bands = np.array([power[(hertz >= a) & (hertz < b)].max()
                      for a, b in zip(edges, edges[1:])])
    spectra.append(np.log(bands / bands.max() + 1e-2))
  assert len(spectra) == 10
  for i, one in enumerate(spectra):
    for other in spectra[:i]:
      assert np.abs(one - other).mean() > 0.1


@pytest.mark.parametrize("num_train, plain", [
    (150, False), (150, True),
    pytest.param(NUM_TRAIN, False, marks=pytest.mark.slow)])
def test_mean_colours_do_not_tell_the_clips_apart(
    num_train, plain, monkeypatch):
  """What the words say of the mean colour, and nothing else, finds few. It
  would find many, were all backgrounds black."""
  if plain:
    black = np.zeros_like(demo_scenes._background(np.random.default_rng(0)))
    monkeypatch.setattr(demo_scenes, "_background", lambda chance: black)
  means = lambda scenes: np.array([
      demo_scenes.draw_frames(scene).mean((0, 1, 2)) for scene in scenes])
  told = [scene for scene in TRAIN[:num_train]
          if demo_media.has_captions(scene)]
  count = CountVectorizer()
  words = count.fit_transform(
      [" ".join(demo_captions.narrate(scene)) for scene in told])
  colours, wanted = means(told), means(TEST)
  scale = colours.std(0)
  guess = Ridge(10.0).fit(words, colours / scale).predict(count.transform(
      map(demo_captions.describe, TEST)))
  guess = (guess - guess.mean(0)) / guess.std(0)  # as far apart as they are
  wanted = (wanted / scale - (wanted / scale).mean(0))
  distance = ((guess[:, None] - wanted) ** 2).sum(-1)
  rank = (distance <= np.diag(distance)[:, None]).sum(1)
  found = (rank <= 10).mean()
  assert found > 0.4 if plain else found < 0.25


# ---- the dataset


def test_ingested(media, tmp_path, capsys):
  """All files but the broken ones become clips with what belongs to them."""
  from vatt.data.datasets import demo

  class Demo(demo.Demo, skip_registration=True):
    NUM_TRAIN, NUM_TEST = 40, 8

  Demo(data_dir=tmp_path, manual_dir=str(media)).download_and_prepare()
  builder = tfds.builder_from_directory(
      tmp_path / f"demo/default/{demo.Demo.VERSION}")
  sound, told = (sum(map(has, TRAIN[:40] + TEST[:8])) for has in (
      demo_media.has_sound, demo_media.has_captions))
  assert 8 <= told < 48
  assert (f"(train 40, test 8; with pictures 48, sound {sound}, captions {told}"
          "), rejected 3") in capsys.readouterr().out
  rejected = (builder.data_path / "rejected.csv").read_text()
  assert all(f"train/{name}.mp4" in rejected
             for name in ("cut_off", "garbage", "empty"))
  names = builder.info.features["label"].feature.names
  for split, scenes in (("train", TRAIN), ("test", TEST)):
    for example in builder.as_dataset(split=split).as_numpy_iterator():
      scene = {scene.id: scene for scene in scenes}[
          example["id"].decode().partition(".")[0]]
      assert len(example["frames"]) == 32 and example["fps"] == 10
      assert example["audio_rate"] == 16_000
      sound = np.frombuffer(example["audio"], "<i2")
      if demo_media.has_sound(scene):
        assert len(sound) == 51_200
        made = demo_sounds.synthesize(scene)
        assert np.corrcoef(sound, made)[0, 1] > 0.6
      else:
        assert not len(sound)
      assert [names[i] for i in example["label"]] == [scene.shape]
      told = [demo_captions.describe(scene)] if split == "test" else (
          demo_captions.narrate(scene) if demo_media.has_captions(scene)
          else [])
      assert [t.decode() for t in example["captions"]["text"]] == told
      np.testing.assert_allclose(example["captions"]["end"], np.arange(
          1, len(told) + 1) * 3.2 / max(len(told), 1), atol=1e-3)


def test_rendered_where_no_folder_is_given(tmp_path):
  from vatt.data.datasets import demo

  class Demo(demo.Demo, skip_registration=True):
    NUM_TRAIN, NUM_TEST = 4, 2

  Demo(data_dir=str(tmp_path)).download_and_prepare()
  assert (tmp_path / "downloads/demo_1.0.0/clips.csv").exists()
  assert (tmp_path / f"demo/default/{demo.Demo.VERSION}/dataset_info.json"
          ).exists()
