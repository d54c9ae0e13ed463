"""The script as its users call it, on a dataset made here."""
import json

import pytest
import tensorflow as tf

from tests.data.conftest import RATE, clip, flac, serialize, tone, write_built
from vatt.data import caption_files

SCRIPT = "scripts/build_vocabulary.py"


def write_clips(data_dir, name, captions):
  """A built dataset of seconds of sound; a record a caption, at 0 ... 1 s or
  the times that it has."""
  directory = data_dir / name / "1.0.0"
  directory.mkdir(parents=True)

  def feature(kind, *values):
    values = {f"{kind}_list": {"value": values}}
    return tf.train.Feature(**values)

  path = directory / f"{name}-train.tfrecord-00000-of-00001"
  with tf.io.TFRecordWriter(str(path)) as writer:
    for caption in captions:
      caption, *times = caption if isinstance(caption, tuple) else (
          caption, 0.0, 1.0)
      writer.write(tf.train.Example(features=tf.train.Features(feature={
          "id": feature("bytes", b"x"), "start": feature("float", 0.0),
          "fps": feature("float", 0.0), "audio": feature("bytes", b"\0" * 16),
          "audio_rate": feature("int64", 8),
          "captions/text": feature("bytes", caption.encode()),
          "captions/start": feature("float", times[0]),
          "captions/end": feature("float", times[1]),
      })).SerializeToString())
  (directory / "features.json").write_text(json.dumps(
      {"featuresDict": {"features": {"frames": {}}}}))
  (directory / "dataset_info.json").write_text("{}")
  return directory


def test_words_of_two_datasets_by_frequency(tmp_path, python):
  directory = write_clips(tmp_path, "one", ["B b a", "Été, c!", "b a"])
  write_clips(tmp_path, "two", [
      "c c c c", ("zebra yak", -1.0, 0.5),
      # Not of the clip itself.
      ("zebra zebra", 1.0, 2.0), ("été été", -2.0, -1.0)])
  # A record that cannot be read is left out.
  path = directory / "one-train.tfrecord-00000-of-00001"
  content = bytearray(path.read_bytes())
  content[-5] ^= 1
  path.write_bytes(content)
  result = python.run(SCRIPT, "--dataset=one,two", f"--data_dir={tmp_path}",
                      "--size=6", fork=False)
  assert result.returncode == 0, result.stderr
  assert "vocabulary.txt: 4 words" in result.stdout
  assert "100%" in result.stderr  # The progress bar.
  # c 5, b 2, then a, yak, zebra, été once: the first of them fits.
  assert (directory / "vocabulary.txt").read_text() == "c\nb\na\nyak\n"
  assert not list(directory.glob("*.tmp"))


def test_files_of_captions_give_the_words_of_the_records(tmp_path, python):
  """With sound as PCM and FLAC, and captions around the clips."""
  clips = [clip(i, num_frames=2, captions=[
      ("before", -2.0, 0.0), (f"word{i} été", 0.0, 1.0), ("this", 0.5, 2.0),
      ("behind", 1.0, 2.0)]) for i in range(6)]
  clips[1]["audio"] = flac(tone(1, 2.0)[:, None], RATE)  # "behind" is in it
  raw = [serialize(each) for each in clips]
  folder = write_built(
      tmp_path, "clips/audio=flac",
      {"train1_train2": raw[:4], "train1": raw[4:]})
  output = tmp_path / "words.txt"

  def words():
    done = python.run(
        SCRIPT, "--dataset=clips/audio=flac", f"--data_dir={tmp_path}",
        "--split=train1", f"--output={output}")
    assert done.returncode == 0, done.stderr
    return output.read_text().split()

  assert words() == ["this", "été", "behind", *(f"word{i}" for i in range(6))]
  caption_files.write(str(folder), "clips", "train1_train2", [
      caption_files.own_captions(tf.train.Example.FromString(each))
      for each in raw[:4]])
  caption_files.write(str(folder), "clips", "train1", [["of it alone"], []])
  assert words() == ["this", "été", "alone", "behind", "it", "of",
                     *(f"word{i}" for i in range(4))]


@pytest.mark.parametrize("arguments,message", [
    ([], "--dataset is missing"),
    (["--dataset=none", "--data_dir=/nowhere"],
     "none: no finished data set in /nowhere/none"),
])
def test_bad_input_is_one_line(python, arguments, message):
  result = python.run(SCRIPT, *arguments)
  assert result.returncode == 1
  errors = [line for line in result.stderr.splitlines()
            if line.startswith("error: ")]
  assert len(errors) == 1 and message in errors[0]
  assert "Traceback" not in result.stderr
