"""What is in a split: counts, lengths, sizes, of all its clips or of some."""
import array
import collections
import csv
import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from vatt.data import audio, record_index, windows
from vatt.data.ingest import rejected
from vatt.data.sources import Source

KINDS = ("pictures", "sound", "captions", "label")
LISTS = (rejected.NAME, rejected.DAMAGED, rejected.MISSING)


@dataclasses.dataclass
class Facts:
  """Of a split.

  Attributes:
    split: its name.
    records: in it.
    bytes, files: of the files that they are in.
    looked: number of the records that all below is of.
    unreadable: of these.
    having: clips with exactly these of KINDS.
    lengths: float32, of each clip that can be read, seconds.
    sizes: clips by (width, height) of their first picture.
    fps, rates: clips by pictures and samples a second.
    captions, around: of clips themselves, and those around them.
    labels: clips by class number.
    label_names: of the classes, () if they are not known.
    record_bytes, picture_bytes: of the records, and of the pictures in them.
  """
  split: str
  records: int
  bytes: int
  files: int
  looked: int
  label_names: tuple[str, ...]
  unreadable: int = 0
  having: collections.Counter = dataclasses.field(
      default_factory=collections.Counter)
  lengths: array.array = dataclasses.field(
      default_factory=lambda: array.array("f"))
  sizes: collections.Counter = dataclasses.field(
      default_factory=collections.Counter)
  fps: collections.Counter = dataclasses.field(
      default_factory=collections.Counter)
  rates: collections.Counter = dataclasses.field(
      default_factory=collections.Counter)
  captions: int = 0
  around: int = 0
  labels: collections.Counter = dataclasses.field(
      default_factory=collections.Counter)
  record_bytes: int = 0
  picture_bytes: int = 0

  @property
  def readable(self) -> int:
    """Number of the records that were looked at and read."""
    return self.looked - self.unreadable

  def count(self, kind: str) -> int:
    """Clips that have one of KINDS."""
    return sum(count for kinds, count in self.having.items() if kind in kinds)


def spread(total: int, count: int, seed: int, site: str) -> np.ndarray:
  """Draws numbers evenly: one of each of `count` equal parts of 0 … total - 1.

  Args:
    total: of the numbers.
    count: how many to draw; all if there are no more.
    seed, site: another one draws others.

  Returns:
    int64 [min(count, total)], increasing.
  """
  count = min(count, total)
  edges = np.arange(count + 1, dtype=np.int64) * total // max(count, 1)
  chance = np.random.default_rng([seed, *site.encode()])
  return chance.integers(edges[:-1], edges[1:])


def look(source: Source, numbers: np.ndarray,
         progress: Callable[[int], object] = lambda count: None) -> Facts:
  """Looks at records of a split.

  Args:
    source: the split.
    numbers: int64 [N], of the records.
    progress: called with 1 for each record.
  """
  index = source.index
  facts = Facts(
      source.split, len(index),
      sum(tf.io.gfile.stat(path).length for path in index.files),
      len(index.files), len(numbers), source.label_names)
  requests = tf.data.Dataset.from_tensor_slices(numbers).map(lambda i: (i,))
  nothing = {
      "read": False, "length": 0.0, "fps": 0.0, "rate": 0, "own": 0, "all": 0,
      "bytes": 0, "picture_bytes": 0, "frames": 0, "samples": 0}
  nothing = {key: tf.constant(value) for key, value in nothing.items()} | {
      "shape": tf.zeros([3], tf.int32), "label": tf.zeros([0], tf.int64)}
  for _, found in record_index.process_records(
      record_index.file_tensors(index), requests,
      lambda raw, i: _look(source, raw), nothing).as_numpy_iterator():
    _add(facts, found)
    progress(1)
  return facts


def _look(source, raw):
  """What a record has: a dict of tensors."""
  example = source.parse(raw)
  frames = example["frames"]
  sound = audio.samples(example["audio"], source.flac)
  length = windows.clip_length(example, sound)
  # Joined, as a clip of sound alone may have no first frame, statically.
  shape = tf.cond(
      tf.size(frames) > 0,
      lambda: frame_shape(tf.strings.reduce_join(frames[:1])),
      lambda: tf.zeros([3], tf.int32))
  return {
      "read": tf.constant(True), "length": tf.cast(length, tf.float32),
      "fps": example["fps"], "rate": example["audio_rate"],
      "own": tf.size(windows.own_captions(example | {"length": length})),
      "all": tf.size(example["captions/text"]),
      "bytes": tf.strings.length(raw),
      "picture_bytes": tf.reduce_sum(tf.strings.length(frames)),
      "frames": tf.size(frames), "samples": tf.size(sound),
      "shape": shape, "label": example["label"]}


def frame_shape(frame: tf.Tensor) -> tf.Tensor:
  """Height, width, channels of an encoded frame, string []: int32 [3]."""
  return tf.cond(
      tf.io.is_jpeg(frame), lambda: tf.io.extract_jpeg_shape(frame),
      lambda: tf.shape(tf.io.decode_image(
          frame, channels=3, expand_animations=False)))


def _add(facts, found):
  """Adds a record to the facts."""
  if not found["read"]:
    facts.unreadable += 1
    return
  labels = sorted({int(label) for label in found["label"] if label >= 0})
  has = found["frames"] > 0, found["samples"] > 0, found["own"] > 0, labels
  facts.having[tuple(
      kind for kind, there in zip(KINDS, has) if there)] += 1
  facts.lengths.append(found["length"])
  if found["frames"]:
    height, width, _ = found["shape"].tolist()
    facts.sizes[width, height] += 1
    facts.fps[round(float(found["fps"]), 3)] += 1
  if found["samples"]:
    facts.rates[int(found["rate"])] += 1
  facts.captions += int(found["own"])
  facts.around += int(found["all"] - found["own"])
  facts.labels.update(labels)
  facts.record_bytes += int(found["bytes"])
  facts.picture_bytes += int(found["picture_bytes"])


def read_lists(directory: str) -> dict[str, tuple[int, list[tuple[str, int]]]]:
  """What lists beside a dataset say of clips that it has not, or are damaged.

  Args:
    directory: of the dataset.

  Returns:
    By the name of each of LISTS that is there: its rows, and its most frequent
    reasons with the number of each.
  """
  found = {}
  for name in LISTS:
    path = f"{directory}/{name}"
    if not tf.io.gfile.exists(path):
      continue
    reasons = collections.Counter()
    with tf.io.gfile.GFile(path, "rb") as file:
      lines = (line.decode(errors="replace") for line in file)
      for row in csv.DictReader(lines):
        # A clip that is missing has the split that it would be in.
        reasons[": ".join(filter(None, map(row.get, ("split", "reason"))))] += 1
    found[name] = reasons.total(), [
        item for item in reasons.most_common(6) if item[0]][:5]
  return found
