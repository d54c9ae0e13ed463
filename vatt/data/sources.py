"""Opens a data set, of whatever kind, as numbered records of one form."""
import collections
import dataclasses
import functools
import json
import os
import re
import urllib.parse
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from vatt.data import audio, record_index
from vatt.errors import UserError


@dataclasses.dataclass(frozen=True)
class Source:
  """One split of a data set.

  Attributes:
    name: as in the config, e.g. "spoken_digits/official".
    split: e.g. "train".
    index: where its records lie.
    parse: raw record, string [] -> example dict: frames string [F] (encoded
      images), fps float32 [], audio string [] (PCM or FLAC) or int16 [S],
      audio_rate int32 [], captions/text string [K], captions/start and
      captions/end float32 [K] in seconds, label int64 [L], id string [], start
      float32 [] in seconds. What a record does not have is empty.
    label_names: names of the classes, or ().
    directory: where its files lie.
    flac: whether audio may be FLAC: by `says_flac` or the first record.
    fps: frames a second of the first record; 0 if it has none.
  """
  name: str
  split: str
  index: record_index.RecordIndex
  parse: Callable[[tf.Tensor], dict[str, tf.Tensor]]
  label_names: tuple[str, ...]
  directory: str
  flac: bool = False
  fps: float = 0.0


def open_source(name: str, data_dir: str, split: str) -> Source:
  """Opens one split of a data set.

  Args:
    name: "NAME[/CONFIG][:VERSION]", built by scripts/prepare_dataset.py, whose
      configuration is "default" if none is given;
      "tfds:NAME[/CONFIG][:VERSION]", images that tensorflow-datasets has
      prepared; "dmvr:GLOB?fps=10&audio_rate=48000", files of SequenceExamples
      in DMVR's form, where "{split}" in the glob becomes the split, and a rate
      of 0 leaves the sound out.
    data_dir: where built data sets lie; for tfds "" means its own default.
    split: name of the split, or several as "fold1+fold2". Of a data set built
      here "train1" is every built split with that part, such as
      "train1_test2": clips in both are stored once.

  Returns:
    Source; the order of its records does not depend on that of the names.

  Raises:
    UserError: there is no such data set, split or record.
  """
  kind, _, rest = name.partition(":")
  data_dir = os.path.expanduser(data_dir)
  if kind == "dmvr":
    source = _open_dmvr(name, rest, split)
  elif kind == "tfds":
    data_dir = data_dir or os.path.expanduser("~/tensorflow_datasets")
    source = _open_built(name, rest, data_dir, split)
  else:
    source = _open_built(name, name, data_dir, split)
  if not len(source.index):
    raise UserError(f"{source.directory}: split '{split}' of {name} has no "
                    "records, expected at least one")
  return _with_first_record(source)


def _with_first_record(source):
  """Checks what the first readable record says, and notes its audio format."""
  tensors = record_index.file_tensors(source.index)
  for i in range(min(len(source.index), 100)):
    try:
      example = source.parse(
          record_index.read_record(tensors, tf.constant(i, tf.int64)))
    except (tf.errors.InvalidArgumentError, tf.errors.DataLossError):
      continue
    break
  else:
    problem = why_unreadable(source, i)
    raise UserError(f"{source.index.files[0]}: none of the first {i + 1} "
                    f"records can be read as an example of {source.name}"
                    + (problem and f": {problem}"))
  for data, rate in ("frames", "fps"), ("audio", "audio_rate"):
    stored = example[data]
    empty = not (tf.strings.length(stored) if stored.shape.rank == 0
                 else tf.size(stored))
    if not empty and example[rate] <= 0:
      raise UserError(f"{source.name}: records have {data} but no {rate}; for "
                      f"DMVR files add it to the name, e.g. ?{rate}=10")
  frames = tf.size(example["frames"]) > 0
  # The first record may have no sound.
  flac = says_flac(source.name) or (
      example["audio"].dtype == tf.string
      and example["audio"].numpy().startswith(audio.FLAC))
  return dataclasses.replace(
      source, flac=flac, fps=float(example["fps"]) if frames else 0.0)


def why_unreadable(source: Source, i: int) -> str:
  """Why a record cannot be parsed, in a line; "" where nobody said so.

  Args:
    source: the split.
    i: number of the record.
  """
  # Of its place alone: the whole index is much to copy for one record.
  path, offset = source.index.place(i)
  tensors = record_index.file_tensors(record_index.RecordIndex(
      [path], np.zeros([1], np.int32), np.array([offset])))
  try:
    _traced(source.parse)(
        record_index.read_record(tensors, tf.constant(0, tf.int64)))
  except tf.errors.OpError as error:
    return failed_assertion(error)
  return ""


@functools.lru_cache(maxsize=8)
def _traced(parse):
  """`parse` in a graph, where an Assert says what it was told to."""
  return tf.function(
      parse, [tf.TensorSpec([], tf.string)], autograph=False)


def failed_assertion(error: tf.errors.OpError) -> str:
  """What an Assert in a graph said; "" if the error is another."""
  found = re.search(r"assertion failed: \[(.+)\]", error.message)
  return found[1].replace("] [", " ") if found else ""


def says_flac(name: str) -> bool:
  """Whether the name of a data set says that its audio is FLAC, as that of
  clips with the field audio=flac."""
  _, _, config = name.partition(":")[0].partition("/")
  return "audio=flac" in config.split("+")


def read_labels(source: Source) -> list[list[int]]:
  """The labels of each record of a split; all of it is read. A record that
  cannot be read has none."""
  labels = record_index.process_records(
      record_index.file_tensors(source.index), len(source.index),
      lambda raw, i: source.parse(raw)["label"], tf.zeros([0], tf.int64))
  return [label.tolist() for _, label in labels.as_numpy_iterator()]


def few_labels(source: Source, count: int, seed: tf.Tensor) -> Source:
  """A split with few labels: as many clips of each class as `count` says.

  Args:
    source: the split; all of it is read.
    count: clips of a class. One with several labels is taken for any of them
      that still lacks clips.
    seed: int32 [2]; another one chooses other clips.

  Returns:
    Source of the chosen records, in their order.

  Raises:
    UserError: there is no label.
  """
  labels = read_labels(source)
  taken, chosen = collections.Counter(), []
  for i in record_index.epoch_order(len(labels), seed, 0).numpy():
    if any(taken[label] < count for label in labels[i]):
      taken.update(labels[i])
      chosen.append(i)
  if not chosen:
    raise UserError(f"{source.directory}: split '{source.split}' has no "
                    "labels, expected labelled clips")
  index = source.index
  return dataclasses.replace(source, index=record_index.RecordIndex(
      index.files, index.file_ids[sorted(chosen)],
      index.offsets[sorted(chosen)]))


# -----------------------------------------------------------------------------
# Directories in the layout of tensorflow-datasets.
# -----------------------------------------------------------------------------
def _open_built(name, path, data_dir, split):
  if not data_dir:
    raise UserError("data.data_dir is empty, expected the directory "
                    f"that {name} was built in")
  path, _, version = path.partition(":")
  home = os.path.join(data_dir, path)
  built = _versions(home, version)
  if not built and "/" not in path:
    default = os.path.join(home, "default")  # configuration
    built = _versions(default, version)
    home = default if built else home
  if not built:
    configs = [c for c in _listdir(home) if not c.startswith(".")]
    hint = (f" (found there: {', '.join(configs[:10])})" if configs else "")
    command = (f"tfds build {path.split('/')[0]}" if name.startswith("tfds:")
               else f"python scripts/prepare_dataset.py --dataset={path} "
               f"--manual_dir=DIR --data_dir={data_dir}")
    raise UserError(f"{name}: no finished data set in {home}{hint}; build it "
                    f"with: {command}")
  version = max(built, key=lambda v: tuple(map(int, v.split("."))))
  directory = os.path.join(home, version)
  features = _read_json(directory, "features.json", lambda content: dict(
      content["featuresDict"]["features"]))
  if "frames" in features:
    parse = _parse_built
  elif "image" in features:
    parse = _image_parser("label" in features)
  else:
    raise UserError(f"{directory}/features.json: features "
                    f"{', '.join(sorted(features))}, expected 'frames' (a data "
                    "set built by this project) or 'image'")
  names = os.path.join(directory, "label.labels.txt")
  label_names = ()
  if tf.io.gfile.exists(names):
    with tf.io.gfile.GFile(names) as f:
      lines = f.read().rstrip("\r\n")
    # At line feeds alone: a name may have other white space.
    label_names = tuple(
        line.strip("\r") for line in lines.split("\n")) if lines else ()
    if not all(label_names):
      raise UserError(f"{names}: line {label_names.index('') + 1} is empty, "
                      "expected the name of a class in each")
  index = record_index.load(_shards(name, directory, split))
  return Source(name, split, index, parse, label_names, directory)


def _versions(home, version):
  """The finished versions in a folder, or that one alone."""
  return [v for v in _listdir(home)
          if re.fullmatch(r"\d+\.\d+\.\d+", v) and version in ("", v)
          and tf.io.gfile.exists(os.path.join(home, v, "dataset_info.json"))]


def _listdir(path):
  try:
    return sorted(n.rstrip("/") for n in tf.io.gfile.listdir(path))
  except tf.errors.OpError:
    return []


def _read_json(directory, name, take):
  """What `take` makes of a file of a data set."""
  path = os.path.join(directory, name)
  try:
    with tf.io.gfile.GFile(path) as f:
      return take(json.loads(f.read()))
  except (ValueError, TypeError, LookupError, AttributeError,
          tf.errors.OpError):
    raise UserError(f"{path}: damaged, expected what the build wrote; "
                    "scripts/prepare_dataset.py --repair writes it anew"
                    ) from None


def _shards(name, directory, split):
  """The files of a split, or of several, all of them and in order."""
  built = _read_json(directory, "dataset_info.json", lambda content: {
      s["name"]: {} for s in content.get("splits", ())})
  for file in _listdir(directory):
    found = re.fullmatch(r".+-(.+)\.tfrecord-(\d{5,})-of-(\d{5,})", file)
    if found:
      built.setdefault(found[1], {})[int(found[2])] = (file, int(found[3]))
  # Names that others gave are not taken apart.
  parts = {s: [s] if name.startswith("tfds:") else s.split("_") for s in built}
  chosen = set()
  for wanted in split.split("+"):
    having = {s for s in built if wanted == s or wanted in parts[s]}
    if not having:
      known = ", ".join(sorted({part for s in built for part in parts[s]}))
      raise UserError(f"{name}: no split '{wanted}' in {directory}, expected "
                      f"one of: {known or 'none has records'}")
    chosen |= having
  files = []
  for s in sorted(chosen):
    shards = built[s]
    (_, count) = next(iter(shards.values()), ("", 1))
    missing = sorted(set(range(count)) - set(shards))
    if missing:
      raise UserError(f"{directory}: shard {missing[0]} of the {count} of "
                      f"split '{s}' is missing; build the data set again, or "
                      "mend it by scripts/prepare_dataset.py --repair")
    files += [os.path.join(directory, shards[i][0]) for i in range(count)]
  return files


def _parse_built(raw):
  strings = tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True)
  floats = tf.io.FixedLenSequenceFeature([], tf.float32, allow_missing=True)
  example = tf.io.parse_single_example(raw, {
      "frames": strings,
      "fps": tf.io.FixedLenFeature([], tf.float32),
      "audio": tf.io.FixedLenFeature([], tf.string),
      "audio_rate": tf.io.FixedLenFeature([], tf.int64),
      "captions/text": strings,
      "captions/start": floats,
      "captions/end": floats,
      "label": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
      "id": tf.io.FixedLenFeature([], tf.string),
      "start": tf.io.FixedLenFeature([], tf.float32),
  })
  example["audio_rate"] = tf.cast(example["audio_rate"], tf.int32)
  return example


def _image_parser(has_label):
  """Parses an image of tensorflow-datasets as a clip of one frame."""
  features = {"image": tf.io.FixedLenFeature([], tf.string)}
  if has_label:
    features["label"] = tf.io.FixedLenSequenceFeature(
        [], tf.int64, allow_missing=True)

  def parse(raw):
    stored = tf.io.parse_single_example(raw, features)
    return {
        "frames": stored["image"][None],
        "fps": tf.constant(1.0),
        "audio": tf.constant(""),
        "audio_rate": tf.constant(0),
        "captions/text": tf.zeros([0], tf.string),
        "captions/start": tf.zeros([0]),
        "captions/end": tf.zeros([0]),
        "label": stored.get("label", tf.zeros([0], tf.int64)),
        "id": tf.constant(""),
        "start": tf.constant(0.0),
    }

  return parse


# -----------------------------------------------------------------------------
# SequenceExamples in the form of DMVR.
# -----------------------------------------------------------------------------
def _open_dmvr(name, rest, split):
  pattern, _, query = rest.partition("?")
  query = dict(urllib.parse.parse_qsl(query))
  try:
    fps = float(query.pop("fps", 0))
    audio_rate = int(query.pop("audio_rate", -1))
  except ValueError as error:
    raise UserError(f"{name}: {error}, expected ?fps=NUMBER&audio_rate=NUMBER"
                    ) from None
  if query:
    raise UserError(f"{name}: unknown '{next(iter(query))}', expected fps and "
                    "audio_rate")
  files = set()
  for part in split.split("+"):
    path = pattern.replace("{split}", part)
    # A file of that name comes first: it may have brackets.
    found = {path} if tf.io.gfile.exists(path) else {
        f for f in tf.io.gfile.glob(path) if not f.endswith(".json")}
    if not found:
      raise UserError(f"{name}: no file matches {path}")
    files |= found
  return Source(name, split, record_index.load(sorted(files)),
                _dmvr_parser(fps, audio_rate), (), os.path.dirname(path))


def _dmvr_parser(fps, audio_rate):
  kinds = {
      "image/encoded": tf.string,
      "WAVEFORM/feature/floats": tf.float32,
      "caption/string": tf.string,
      "clip/label/index": tf.int64,
      "clip/data_path": tf.string,
      "clip/start/timestamp": tf.int64,  # Microseconds.
  }
  features = {key: tf.io.VarLenFeature(kind) for key, kind in kinds.items()}

  def parse(raw):
    # Writers differ in what they keep as context and what as a list of
    # features: both are read, one of them is empty.
    context, lists = tf.io.parse_single_sequence_example(
        raw, features, features)
    stored = {key: tf.concat([context[key].values, lists[key].values], 0)
              for key in features}
    sound = (audio.from_floats(stored["WAVEFORM/feature/floats"])
             if audio_rate else tf.zeros([0], tf.int16))
    captions = stored["caption/string"]
    timestamp = tf.cast(stored["clip/start/timestamp"], tf.float32) * 1e-6
    return {
        "frames": stored["image/encoded"],
        "fps": tf.constant(fps, tf.float32),
        "audio": sound,
        "audio_rate": tf.constant(audio_rate, tf.int32),
        "captions/text": captions,
        "captions/start": tf.zeros_like(captions, tf.float32),
        "captions/end": tf.zeros_like(captions, tf.float32),
        "label": stored["clip/label/index"],
        "id": tf.strings.reduce_join(stored["clip/data_path"][:1]),
        "start": tf.reduce_sum(timestamp[:1]),
    }

  return parse
