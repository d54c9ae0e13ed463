"""Handwritten digits that move, people who say them, sentences about both.

The images are MNIST's and the voices the Free Spoken Digit Dataset's, or others
in the same form: in the manual_dir, `recordings.zip` or a folder `recordings`
with `{digit}_{speaker}_{take}.wav`, and `images.npz` with `image` uint8
[N, H, W] and `label` [N]. Their content decides on speakers, takes and digits.

Without a manual_dir the same files are made of tfds' `mnist` and
`spoken_digit`, which tfds downloads where it can (see sources.py).
"""
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from vatt.data.datasets.spoken_digits import captions, sources
from vatt.data.datasets.spoken_digits.sources import WORDS
from vatt.data.ingest import builder
from vatt.data.ingest.plans import Clip, Plan, draw
from vatt.errors import UserError

FRAMES = 8
FPS = 8.0
DIGIT_SHARE = 0.7  # of the frame's side: 28 pixels on a frame of 40
TEST_TAKES = range(5)
TEST_SHARE = 1 / 8  # of the images


class SpokenDigits(builder.ClipsBuilder, skip_registration=True):
  """Configurations `official` (takes 0 to 4 of every speaker are the test set)
  and `speaker=<name>` (that speaker is the test set and in no training clip).
  """

  VERSION = tfds.core.Version("1.0.1")  # the records of 1.0.0
  DEFAULT_CONFIG = "official"
  SHARDS = {"train": 16, "test": 4}

  def make_plan(self, manual_dir: str | None) -> Plan:
    if not manual_dir:
      manual_dir = sources.export_tfds(self._data_dir_root)
    recordings, rejected = sources.list_recordings(manual_dir)
    images, labels = sources.load_images(manual_dir)
    keys = [hashlib.sha256(image.tobytes()).digest() for image in images]
    is_test_image = split_images(keys, labels)
    is_test = self._test_recordings(recordings)

    # A digit needs an image and a recording; others are rejected, not lost.
    digits = sorted({r.digit for r in recordings} & set(labels.tolist()))
    for r in recordings:
      if r.digit not in digits:
        rejected.append((r.name, r.file,
                         f"no image of a {WORDS[r.digit]} in images.npz"))
    splits = {"train": [], "test": []}
    by_hash = lambda items, key: sorted(
        items, key=lambda item: (hashlib.sha256(key(item)).digest(), item))
    for digit in range(len(WORDS)):
      sides = {
          side: (by_hash([r for r in recordings if r.digit == digit
                          and is_test(r) == side],
                         key=lambda r: r.name.encode()),
                 by_hash(np.flatnonzero((labels == digit)
                                        & (is_test_image == side)).tolist(),
                         key=lambda i: keys[i]))
          for side in (False, True)}
      # Training: every image once, the recordings in turn.
      voices, pictures = sides[False]
      for i, picture in enumerate(pictures):
        if voices:
          splits["train"].append(
              _clip(voices[i % len(voices)], picture, digits))
        else:
          rejected.append((f"image{picture:05d}", "images.npz",
                           f"no training recording of a {WORDS[digit]}"))
      # Test: every recording once, the images in turn.
      voices, pictures = sides[True]
      for i, voice in enumerate(voices if pictures else ()):
        splits["test"].append(
            _clip(voice, pictures[i % len(pictures)], digits))
    return Plan(
        clips=((split, clip) for split in splits for clip in splits[split]),
        read=DigitReader(manual_dir, images),
        label_names=tuple(WORDS[digit] for digit in digits),
        sources=hashlib.sha256(b"".join(keys)).hexdigest(),
        rejected=tuple(rejected),
        needed=tuple(splits),
        least=self.SHARDS)

  def _test_recordings(self, recordings):
    """The function that tells whether a recording is of the test set."""
    config = self.builder_config.name
    kind, _, speaker = config.partition("=")
    speakers = sorted({r.speaker for r in recordings})
    if config == "official":
      return lambda r: r.take in TEST_TAKES
    if kind == "speaker" and speaker in speakers:
      return lambda r: r.speaker == speaker
    raise UserError(
        f"unknown configuration {config!r} of {self.name}: expected official "
        "or speaker=<name>, where the recordings have the speakers "
        + ", ".join(speakers))


def _clip(recording, image, digits):
  return Clip(
      id=f"{recording.name}-image{image:05d}",
      file=recording.file,
      data=(recording.digit, digits.index(recording.digit), image,
            recording.crc))


def split_images(keys: Sequence[bytes], labels: np.ndarray) -> np.ndarray:
  """Chooses the test images: about an eighth, by content.

  Equal images are on the same side, and an image's side does not depend on the
  others, but for a digit that would have no image on one of them.

  Args:
    keys: SHA-256 of each image's bytes.
    labels: int64 [N].

  Returns:
    bool [N], True for the test images.
  """
  limit = (int(TEST_SHARE * 2 ** 32)).to_bytes(4, "big")
  test = {key for key in keys if key[:4] < limit}
  for digit in np.unique(labels):
    own = sorted({keys[i] for i in np.flatnonzero(labels == digit)})
    if len(own) > 1:
      test.discard(own[-1])
    test.add(own[0])
  return np.array([key in test for key in keys])


# ---- a clip


class DigitReader:
  """Makes the example of a clip; all that is random in it is a hash of the
  clip's id."""

  def __init__(self, manual_dir: str, images: np.ndarray):
    self._manual_dir = manual_dir
    self._images = images

  def __call__(self, clips: Sequence[Clip]) -> Iterator[dict[str, Any]]:
    """Yields the example of each clip."""
    return map(self.read, clips)

  def read(self, clip: Clip) -> dict[str, Any]:
    """The example of a clip."""
    digit, label, image, _ = clip.data
    samples, rate = sources.read_wav(
        sources.read_file(self._manual_dir, clip.file))
    frames, direction = draw_frames(clip.id, self._images[image])
    sentences = captions.write(clip.id, WORDS[digit], direction)
    length = FRAMES / FPS / len(sentences)  # spread over the clip's second
    return {
        "id": clip.id,
        "start": 0.0,
        "frames": [tf.io.encode_jpeg(frame, quality=95).numpy()
                   for frame in frames],
        "fps": FPS,
        "audio": samples.astype("<i2").tobytes(),
        "audio_rate": rate,
        "captions": [
            {"text": text, "start": i * length, "end": (i + 1) * length}
            for i, text in enumerate(sentences)],
        "label": [label],
    }


def draw_frames(clip_id: str, image: np.ndarray
                ) -> tuple[np.ndarray, tuple[int, int]]:
  """Moves an image along a straight line over a black frame.

  Args:
    clip_id: the clip's id, the seed of the line.
    image: uint8 [H, W].

  Returns:
    uint8 [FRAMES, side, side, 3], and the direction (dy, dx), each of -1, 0, 1.
  """
  side = round(max(image.shape) / DIGIT_SHARE)
  frames = np.zeros((FRAMES, side, side, 3), np.uint8)
  paths, direction = [], []
  for axis, size in enumerate(image.shape):
    room = side - size
    sign = draw(3, clip_id, axis, "sign") - 1
    # A move is long enough to be seen: half of the room at least.
    length = abs(sign) * (
        room // 2 + draw(room - room // 2 + 1, clip_id, axis, "length"))
    first = draw(room - length + 1, clip_id, axis, "first")
    steps = [(2 * t * length + FRAMES - 1) // (2 * (FRAMES - 1))
             for t in range(FRAMES)]
    paths.append([first + step for step in steps[::-1 if sign < 0 else 1]])
    direction.append(sign * (length > 0))
  for frame, y, x in zip(frames, *paths):
    frame[y:y + image.shape[0], x:x + image.shape[1]] = image[..., None]
  return frames, tuple(direction)
