"""The dataset spoken_digits: real digits, sounds made here, or the real data
where VATT_TEST_DATA has it."""
import collections
import io
import itertools
import os
import pathlib
import re
import wave

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from scipy.io import wavfile

from vatt.data.datasets.spoken_digits import captions as digit_sentences
from vatt.data.datasets.spoken_digits import sources as digit_sources
from vatt.data.datasets.spoken_digits.dataset import SpokenDigits, draw_frames
from vatt.data.ingest.builder import Rejected
from vatt.errors import UserError

ROOT = pathlib.Path(__file__).parents[3]
WORDS = "zero one two three four five six seven eight nine".split()


def build(data_dir, manual_dir, config="official"):
  """Builds and reads back: split to examples, and the builder."""
  SpokenDigits(data_dir=str(data_dir), config=config,
               manual_dir=str(manual_dir)).download_and_prepare()
  builder = tfds.builder_from_directory(
      f"{data_dir}/spoken_digits/{config}/1.0.1")
  return {split: list(builder.as_dataset(split=split).as_numpy_iterator())
          for split in ("train", "test")}, builder


def splits_of(plan):
  """The clips of each split."""
  splits = {}
  for split, clip in plan.clips:
    splits.setdefault(split, []).append(clip)
  return splits


def parts(example):
  """digit, speaker, take, number of the image, by the example's id."""
  match = re.fullmatch(r"(\d)_(.+)_(\d+)-image(\d+)", example["id"].decode())
  return int(match[1]), match[2], int(match[3]), int(match[4])


@pytest.fixture(scope="module")
def sources(tmp_path_factory, media):
  """A manual_dir in which every tenth image is there twice."""
  folder, sounds = media.write_sources(
      tmp_path_factory.mktemp("sources"), speakers=("ann", "bo_b", "ida"))
  arrays = np.load(f"{folder}/images.npz")
  images, labels = (np.concatenate([arrays[name], arrays[name][::10]])
                    for name in ("image", "label"))
  np.savez(f"{folder}/images.npz", image=images, label=labels)
  return folder, sounds, images, labels


@pytest.fixture(scope="module")
def official(tmp_path_factory, sources):
  return build(tmp_path_factory.mktemp("official"), sources[0])


def test_official_split(official, sources):
  _, sounds, images, labels = sources
  examples, builder = official
  train, test = examples["train"], examples["test"]
  assert builder.info.features["label"].feature.names == [
      "zero", "three", "eight"]

  # Each test recording once, and no test take in training.
  assert collections.Counter(
      f"{d}_{s}_{t}.wav" for d, s, t, _ in map(parts, test)
  ) == collections.Counter(
      name for name in sounds if int(name[:-4].split("_")[-1]) < 5)
  assert {t for _, _, t, _ in map(parts, train)} == {5, 6}

  # Images: no two alike on both sides, the training ones once each.
  used = {split: [parts(e)[3] for e in examples[split]] for split in examples}
  sides = {split: {images[i].tobytes() for i in used[split]} for split in used}
  assert not sides["train"] & sides["test"]
  assert len(used["train"]) == len(set(used["train"]))
  assert {images[i].tobytes() for i in range(len(images))
          if i not in used["train"]} >= sides["test"]
  share = 1 - len(used["train"]) / len(images)
  assert 0.03 < share < 0.25  # an eighth of 120, with its chance

  # What is said, seen and labelled is one digit.
  for example in train + test:
    digit, _, _, image = parts(example)
    assert labels[image] == digit
    assert example["label"].tolist() == [[0, 3, 8].index(digit)]

  # The recordings are used about equally.
  for digit in (0, 3, 8):
    counts = collections.Counter(
        (s, t) for d, s, t, _ in map(parts, train) if d == digit)
    assert len(counts) == 6 and max(counts.values()) - min(counts.values()) <= 1


def test_speaker_split(tmp_path, official, sources):
  _, sounds, images, _ = sources
  examples, _ = build(tmp_path, sources[0], "speaker=bo_b")
  assert {s for _, s, _, _ in map(parts, examples["test"])} == {"bo_b"}
  assert len(examples["test"]) == 21
  assert {s for _, s, _, _ in map(parts, examples["train"])} == {"ann", "ida"}
  assert {t for _, _, t, _ in map(parts, examples["train"])} == set(range(7))
  # The images are split alike whatever the configuration.
  train = {parts(e)[3] for e in examples["train"]}
  assert train == {parts(e)[3] for e in official[0]["train"]}
  assert not ({images[i].tobytes() for i in train}
              & {images[parts(e)[3]].tobytes() for e in examples["test"]})


def test_audio_is_the_recording(official, sources):
  for example in official[0]["test"]:
    digit, speaker, take, _ = parts(example)
    assert example["audio_rate"] == 8000
    np.testing.assert_array_equal(
        np.frombuffer(example["audio"], "<i2"),
        sources[1][f"{digit}_{speaker}_{take}.wav"])


def places(example, image):
  """Where an image is in each frame, by the smallest difference."""
  found = []
  for data in example["frames"]:
    frame = tf.io.decode_jpeg(data).numpy()
    assert frame.shape == (23, 23, 3)  # 16 / 0.7
    assert np.ptp(frame.astype(int), axis=-1).max() <= 2  # grey
    errors = {
        (y, x): np.abs(np.float64(frame[y:y + 16, x:x + 16, 0]) - image).mean()
        for y in range(8) for x in range(8)}
    place = min(errors, key=errors.get)
    assert errors[place] < 8  # of 255: what JPEG does to it
    found.append(place)
  return np.array(found)


def test_digit_moves_along_a_line_as_the_sentences_say(official, sources):
  ways = {"left": (0, -1), "leftwards": (0, -1), "right": (0, 1),
          "rightwards": (0, 1), "up": (-1, 0), "upwards": (-1, 0),
          "upper": (-1, 0), "top": (-1, 0), "down": (1, 0),
          "downwards": (1, 0), "lower": (1, 0), "bottom": (1, 0)}
  seen, told_of = set(), []
  for example in official[0]["train"]:
    assert example["fps"] == 8 and len(example["frames"]) == 8
    path = places(example, sources[2][parts(example)[3]])
    steps = np.diff(path, axis=0)
    direction = tuple(np.sign(path[-1] - path[0]))
    assert (steps * direction >= 0).all()  # straight on, never back
    assert (np.ptp(steps, axis=0) <= 1).all()  # at an even speed
    moved = np.abs(path[-1] - path[0])
    assert ((moved == 0) | (moved >= 3)).all()  # half of the room of 7
    seen.add(direction)
    told = []
    for text in example["captions"]["text"]:
      # The end of a way says it: "from left to right".
      words = re.sub(r"from \w+ to", "", text.decode().lower())
      said = [ways[word] for word in re.findall(r"\w+", words) if word in ways]
      if said:
        told.append(tuple(np.sum(said, axis=0)))
      if re.search("still|stays|rests|not move", words):
        told.append((0, 0))
    assert set(told) <= {direction}
    told_of += told
  assert len(set(told_of)) > 1  # some clips tell, truly
  assert seen == set(itertools.product((-1, 0, 1), repeat=2))


def test_captions(official):
  texts = set()
  for example in official[0]["train"] + official[0]["test"]:
    digit, speaker, _, _ = parts(example)
    captions = [text.decode() for text in example["captions"]["text"]]
    texts.update(captions)
    assert len(set(captions)) == 5
    np.testing.assert_allclose(example["captions"]["start"],
                               [0, 0.2, 0.4, 0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(example["captions"]["end"],
                               [0.2, 0.4, 0.6, 0.8, 1], rtol=1e-6)
    for text in captions:
      words = re.findall(r"\w+", text.lower())
      assert [w for w in words if w in WORDS] == [WORDS[digit]] * words.count(
          WORDS[digit]) != []
      assert speaker not in words
  assert len(texts) > 250


def expansions(text, phrases):
  slot = re.search(r"{(\w+)}", text)
  if not slot:
    yield text
    return
  for phrase in phrases[slot[1]]:
    yield from expansions(
        text[:slot.start()] + phrase + text[slot.end():], phrases)


def test_every_sentence_of_the_grammar():
  """All of them, not only those drawn: short, with the digit, no other."""
  g = digit_sentences
  for word in WORDS:
    phrases = g.PHRASES | {"d": (word,), "a": ("a",),
                           "way": sum(g.WAYS.values(), ())}
    for kind in (g.WRITING, g.MOVING, g.STILL, g.SAYING, g.BOTH):
      for text in itertools.chain.from_iterable(
          expansions(template, phrases) for template in kind):
        assert len(text.split()) <= 16, text
        # Not even as a part of another word.
        rest = re.sub(rf"\b{word}\b", "", text)
        assert rest != text and not any(w in rest for w in WORDS), text


def test_article_and_capital():
  texts = [text for i in range(50)
           for text in digit_sentences.write(f"clip{i}", "eight", (0, 1))]
  assert any(" an eight" in text for text in texts)
  assert not any(re.search(r"\ba eight", text, re.I) for text in texts)
  assert all(re.fullmatch(r"[A-Z][a-z ]+\.", text) for text in texts)


def test_build_is_reproducible_from_zip_and_from_folder(tmp_path, official,
                                                        sources):
  folder, sounds, images, labels = sources
  other = tmp_path / "media"
  (other / "recordings/more").mkdir(parents=True)
  for i, (name, samples) in enumerate(sounds.items()):
    wavfile.write(other / "recordings" / ("more" if i % 2 else "") / name, 8000,
                  samples)
  np.savez_compressed(other / "images.npz", image=images, label=labels)
  _, builder = build(tmp_path / "data", f"{other}/")
  for split, info in builder.info.splits.items():
    for ours, theirs in zip(info.filepaths,
                            official[1].info.splits[split].filepaths):
      assert ours.name == theirs.name
      assert ours.read_bytes() == theirs.read_bytes()


def test_other_rates_and_sizes(tmp_path, media):
  folder, sounds = media.write_sources(
      tmp_path / "media", speakers=["x"], digits=[5], each=12, side=28,
      rate=22050)
  examples, builder = build(tmp_path / "data", folder)
  assert builder.info.features["label"].feature.names == ["five"]
  assert len(examples["test"]) == 5 and examples["train"]
  for example in examples["train"]:
    assert example["audio_rate"] == 22050
    assert tf.io.decode_jpeg(example["frames"][0]).shape == (40, 40, 3)


def test_bad_recordings_are_rejected(tmp_path, media, capsys):
  good = media.wav(media.spoken(3, "eve", 9))
  extra = {
      "3_eve.wav": good,
      "12_eve_1.wav": good,
      "3_eve_9.wav": good[:-100],
      "3_eve_10.wav": b"RIFF but no sound",
      "3_eve_11.wav": media.wav(np.zeros(0, np.int16)),
      "3_eve_12.wav": media.wav(np.array([0, np.nan], np.float32)),
      "3_eve_13.wav": b"",
      "3_eve_15.wav": media.wav(media.spoken(3, "eve", 9).astype(np.float32)),
      "6_eve_14.wav": good,  # there is no image of a six
      "again/3_ann_0.wav": good,
      "LICENSE.txt": b"CC BY-SA",
  }
  folder, sounds = media.write_sources(tmp_path / "media", extra=extra)
  examples, builder = build(tmp_path / "data", folder)
  assert len(examples["test"]) == 3 * 2 * 5
  rows = [line.split(",", 2) for line in pathlib.Path(
      builder.data_dir, "rejected.csv").read_text().splitlines()]
  reasons = {file.removeprefix("recordings.zip/"): reason
             for _, file, reason in rows[1:]}
  assert reasons.keys() == extra.keys() - {"LICENSE.txt"}
  for name, reason in {
      "3_eve.wav": "name is not", "12_eve_1.wav": "digit is 12",
      "3_eve_9.wav": "cut off", "3_eve_10.wav": "not a readable WAV",
      "3_eve_11.wav": "no sound", "3_eve_12.wav": "not finite",
      "3_eve_13.wav": "not a readable WAV",
      "3_eve_15.wav": "expected finite ones within -1 and 1",
      "6_eve_14.wav": "no image of a six",
      "again/3_ann_0.wav": "same name as",
  }.items():
    assert reason in reasons[name], name
  assert "rejected 10" in capsys.readouterr().out.splitlines()[-1]


def test_images_without_a_recording_are_told(tmp_path, media):
  folder, _ = media.write_sources(tmp_path / "media", digits=[3])
  images, labels = media.handwritten([3, 4], 40, 16)
  np.savez(f"{folder}/images.npz", image=images, label=labels)
  plan = SpokenDigits(data_dir=str(tmp_path)).make_plan(folder)
  assert plan.label_names == ("three",)
  assert {reason for _, _, reason in plan.rejected} == {
      "no training recording of a four"}
  assert all(labels[int(i[5:])] == 4 for i, _, _ in plan.rejected)


def test_few_images_are_on_both_sides(tmp_path, media):
  folder, _ = media.write_sources(tmp_path / "media", each=2)
  plan = SpokenDigits(data_dir=str(tmp_path)).make_plan(folder)
  for clips in splits_of(plan).values():
    assert {clip.data[0] for clip in clips} == {0, 3, 8}


def test_widths_and_channels():
  """Each value worked out by hand."""
  read = lambda samples: digit_sources.read_wav(
      (buffer := io.BytesIO(), wavfile.write(buffer, 44100, samples))[0]
      .getvalue())
  cases = [
      (np.int16([1, -2, 32767]), [1, -2, 32767]),
      (np.uint8([128, 129, 0, 255]), [0, 256, -32768, 32512]),
      (np.int32([65536, -131072, 2 ** 31 - 1]), [1, -2, 32767]),
      (np.float32([0, 0.5, -1, 1, 2]), [0, 16384, -32768, 32767, 32767]),
      (np.int16([[100, 200], [-3, -5]]), [150, -4]),
      (np.uint8([[128, 130], [0, 0]]), [256, -32768]),
      (np.float64([[0.5, 0.25, 0.0]]), [8192]),
  ]
  for samples, expected in cases:
    got, rate = read(samples)
    assert rate == 44100 and got.dtype == np.int16
    np.testing.assert_array_equal(got, expected)
  buffer = io.BytesIO()
  with wave.open(buffer, "wb") as file:  # 24 bits
    file.setparams((1, 3, 16000, 2, "NONE", ""))
    file.writeframes((5 * 256).to_bytes(3, "little")
                     + (-7 * 256).to_bytes(3, "little", signed=True))
  got, rate = digit_sources.read_wav(buffer.getvalue())
  assert rate == 16000 and got.tolist() == [5, -7]
  with pytest.raises(Rejected):
    digit_sources.read_wav(b"OggS" * 100)


def test_damaged_archive_member(tmp_path, media):
  folder, _ = media.write_sources(tmp_path / "media")
  path = pathlib.Path(folder, "recordings.zip")
  data = bytearray(path.read_bytes())
  data[1000] ^= 1  # in the sound of the first member, which is not compressed
  path.write_bytes(data)
  recordings, rejected = digit_sources.list_recordings(folder)
  assert len(recordings) == 41 and len(rejected) == 1
  assert rejected[0][1] == "recordings.zip/0_ann_0.wav"
  assert "CRC" in rejected[0][2]


@pytest.mark.parametrize("break_it, message", [
    (lambda p: (p / "recordings.zip").unlink(), "no recordings.zip and no"),
    (lambda p: (p / "recordings.zip").write_bytes(b"PK"), "cannot be listed"),
    (lambda p: (p / "images.npz").unlink(), "images.npz: cannot be read"),
    (lambda p: (p / "images.npz").write_bytes(b"PK"), "not a readable npz"),
    (lambda p: np.savez(p / "images.npz", images=[1]), "not a readable npz"),
    (lambda p: np.savez(p / "images.npz", image=np.zeros([3, 8, 8]),
                        label=[1, 2, 3]), "field image is float64"),
    (lambda p: np.savez(p / "images.npz", image=np.zeros([3, 8, 8], np.uint8),
                        label=[1, 2]), "field label is int64"),
    (lambda p: np.savez(p / "images.npz", image=np.zeros([2, 8, 8], np.uint8),
                        label=[1, 10]), "expected 0 to 9"),
])
def test_bad_sources(tmp_path, media, break_it, message):
  folder, _ = media.write_sources(tmp_path / "media")
  break_it(pathlib.Path(folder))
  with pytest.raises(UserError, match=message) as error:
    SpokenDigits(data_dir=str(tmp_path / "data"),
                 manual_dir=folder).download_and_prepare()
  assert "\n" not in str(error.value)
  assert not (tmp_path / "data").exists()


def test_unknown_configuration_lists_the_speakers(tmp_path, sources):
  for config in ("speaker=george", "speaker", "speaker=", "offical"):
    with pytest.raises(UserError, match="speakers ann, bo_b, ida$"):
      SpokenDigits(data_dir=str(tmp_path), config=config,
                   manual_dir=sources[0]).download_and_prepare()


def test_unknown_dataset(python):
  result = python.run("scripts/prepare_dataset.py", "--dataset=base",
                      "--data_dir=/nowhere")
  assert result.returncode == 1 and "Traceback" not in result.stderr
  last = result.stderr.splitlines()[-1]
  assert last.startswith("error: --dataset: no dataset 'base', expected one of")
  assert "spoken_digits" in last and "digit_sources" not in last


def prepare_in_tfds(data_dir, name, examples):
  """Puts examples where and as tfds keeps a prepared dataset of its own."""
  builder = tfds.builder(name, data_dir=data_dir)
  builder.data_path.mkdir(parents=True)
  template = tfds.core.ShardedFileTemplate(
      data_dir=builder.data_path, dataset_name=name, split="train",
      filetype_suffix="tfrecord")
  with tf.io.TFRecordWriter(
      str(template.sharded_filepath(shard_index=0, num_shards=1))) as writer:
    for example in examples:
      writer.write(builder.info.features.serialize_example(
          builder.info.features.encode_example(example)))
  builder.info.set_splits(tfds.core.splits.SplitDict([tfds.core.SplitInfo(
      name="train", shard_lengths=[len(examples)], num_bytes=0,
      filename_template=template)]))
  builder.info.write_to_directory(builder.data_path)


def test_without_manual_dir(tmp_path, media, monkeypatch):
  for name in ("https_proxy", "HTTPS_PROXY"):
    monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
  monkeypatch.setattr(tfds.core.utils.gcs_utils, "_is_gcs_disabled", True)
  with pytest.raises(UserError, match="give --manual_dir=DIR"):
    SpokenDigits(data_dir=str(tmp_path)).download_and_prepare()

  images, labels = media.handwritten([2, 7], 20, 28)
  prepare_in_tfds(str(tmp_path), "mnist", [
      {"image": image[..., None], "label": label}
      for image, label in zip(images, labels)])
  sounds = {f"{d}_ann_{t}.wav": media.spoken(d, "ann", t)
            for d in (2, 7) for t in range(8)}
  prepare_in_tfds(str(tmp_path), "spoken_digit", [
      {"audio": samples.astype(np.int64), "label": int(name[0]),
       "audio/filename": name} for name, samples in sounds.items()])
  SpokenDigits(data_dir=str(tmp_path)).download_and_prepare()
  builder = tfds.builder_from_directory(
      tmp_path / "spoken_digits/official/1.0.1")
  test = list(builder.as_dataset(split="test").as_numpy_iterator())
  assert len(test) == 10
  for example in test:
    digit, speaker, take, _ = parts(example)
    np.testing.assert_array_equal(
        np.frombuffer(example["audio"], "<i2"),
        sounds[f"{digit}_{speaker}_{take}.wav"])


@pytest.fixture(scope="module")
def real():
  folder = os.environ.get("VATT_TEST_DATA")
  if not folder or not pathlib.Path(folder, "spoken_digits").is_dir():
    pytest.skip("VATT_TEST_DATA is not set, or has no spoken_digits")
  return f"{folder}/spoken_digits"


def test_real_data(real, tmp_path):
  with np.load(f"{real}/images.npz") as arrays:
    images, labels = arrays["image"], arrays["label"]
  plan = SpokenDigits(data_dir=str(tmp_path)).make_plan(real)
  assert plan.rejected == () and plan.label_names == tuple(WORDS)
  number = lambda clip: int(clip.id.rsplit("image", 1)[1])
  splits = splits_of(plan)
  used = {split: [number(clip) for clip in clips]
          for split, clips in splits.items()}
  assert len(splits["test"]) == 250
  assert len(set(used["train"])) == len(used["train"])
  assert 0.86 < len(used["train"]) / len(images) < 0.89
  sides = [{images[i].tobytes() for i in used[s]} for s in used]
  assert not sides[0] & sides[1]
  clips = splits["train"][::500] + splits["test"][::50]
  for clip, example in zip(clips, plan.read(clips)):
    digit = int(clip.id[0])
    assert labels[number(clip)] == digit == example["label"][0]
    assert example["audio_rate"] == 8000
    assert 1000 < len(example["audio"]) < 30000
    assert all(WORDS[digit] in c["text"].lower() for c in example["captions"])
    assert tf.io.decode_jpeg(example["frames"][7]).shape == (40, 40, 3)


def test_frame_without_room():
  frames, direction = draw_frames("clip", np.full([1, 1], 200, np.uint8))
  assert direction == (0, 0) and (frames == 200).all()
