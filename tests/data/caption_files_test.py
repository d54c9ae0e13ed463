"""The captions of a split in a file of their own."""
import gzip
import json

import pytest
import tensorflow as tf

from tests.data.conftest import RATE, clip, flac, serialize, tone
from vatt.data import audio, caption_files, windows
from vatt.errors import UserError


def own_in_graph(raw, parse):
  """As training and the vocabulary find them in a record."""
  example = parse(raw)
  window = example | {"length": windows.clip_length(
      example, audio.samples(example["audio"], True))}
  return [text.decode() for text in windows.own_captions(window).numpy()]


def test_own_captions_of_an_example():
  """Worked by hand for a clip of 8 frames at 8 a second and 1.25 s of sound,
  in whatever form: it ends at 1.25."""
  captions = [("before", -2.0, 0.0), ("into it", -2.0, 0.1), ("in", 0.25, 0.5),
              ("é ☃", 1.2, 3.0), ("behind", 1.25, 2.0), ("later", 2.0, 3.0)]
  pcm = clip(0, captions=captions, seconds=1.25)
  kept = ["into it", "in", "é ☃"]
  for change in ({}, {"audio": flac(tone(0, 1.25)[:, None], RATE)},
                 {"audio": flac(tone(0, 1.25)[:, None], RATE), "frames": []}):
    assert caption_files.own_captions(tf.train.Example.FromString(
        serialize(pcm | change))) == kept
  # Frames alone: it ends at 1.0; with nothing, no end is known.
  frames = tf.train.Example.FromString(serialize(pcm | {"audio": b""}))
  assert caption_files.own_captions(frames) == ["into it", "in"]
  nothing = serialize(pcm | {"audio": b"", "frames": []})
  assert caption_files.own_captions(tf.train.Example.FromString(nothing)) == (
      ["into it", "in", "é ☃", "behind", "later"])
  silent = serialize(clip(0) | {"captions": []})
  assert caption_files.own_captions(tf.train.Example.FromString(silent)) == []


def test_written_and_read(tmp_path):
  found = [["a", "ü\u2028\n☃"], [], ["b"]]
  caption_files.write(str(tmp_path), "clips", "train", iter(found))
  path = tmp_path / "clips-train.captions.jsonl.gz"
  assert [json.loads(line) for line in gzip.open(path)] == found
  assert list(caption_files.read(str(path), 3)) == found
  whole = path.read_bytes()
  assert whole[3:8] == bytes(5)  # neither a name nor a time
  with pytest.raises(UserError, match="damaged, or of other records than the "
                                      "4 that are there"):
    list(caption_files.read(str(path), 4))
  flipped = whole[:20] + bytes([whole[20] ^ 1]) + whole[21:]
  for wrong in (whole[:-1], whole[:-9], flipped, b"", b"[]"):
    path.write_bytes(wrong)
    with pytest.raises(UserError, match="train.captions.jsonl.gz: damaged"):
      list(caption_files.read(str(path), 3))
