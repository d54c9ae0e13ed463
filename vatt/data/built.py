"""Data sets in folders as tensorflow-datasets lays them out: those that are
built here, and its own."""
import json
import os
import re

import tensorflow as tf

from vatt.data import names, record_index, tfds_features
from vatt.errors import UserError


def open_built(name: str, path: str, data_dir: str, split: str):
  """Opens a split of a data set that was built here or by tensorflow-datasets.

  Args:
    name: of the data set; "tfds:..." is the latter.
    path: "NAME[/CONFIG][:VERSION]", and of the latter "?FIELD=VALUE&..." with
      the fields of `tfds_features.FIELDS`.
    data_dir: the folder that it is in.
    split: as `sources.open_source` has it.

  Returns:
    RecordIndex; the parser of `sources.Source`; the names of the classes, or
    (); the folder of the files.

  Raises:
    UserError: there is no such data set or split, or it is damaged.
  """
  if not data_dir:
    raise UserError("data.data_dir is empty, expected the directory "
                    f"that {name} was built in")
  path, _, query = path.partition("?") if name.startswith("tfds:") else (
      path, "", "")
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
    kind = "tfds:" if name.startswith("tfds:") else ""
    raise UserError(f"{name}: no finished data set in {home}{hint}; build it "
                    "with: python scripts/prepare_dataset.py "
                    f"--dataset={kind}{path} --manual_dir=DIR "
                    f"--data_dir={data_dir}")
  version = max(built, key=lambda v: tuple(map(int, v.split("."))))
  directory = os.path.join(home, version)
  features, found = _read_json(
      directory, "features.json", lambda content: (
          dict(content["featuresDict"]["features"]),
          list(tfds_features.flatten(content["featuresDict"]["features"]))))
  label = "label"
  if "frames" in features and "frames" not in {each.key for each in found}:
    parse, count = _parse_built, 0  # bytes: as it is built here
  else:
    options = names.read_query(name, query, tfds_features.FIELDS)
    chosen = tfds_features.choose(name, found, options)
    parse = tfds_features.make_parser(name, chosen, options)
    label, count = tfds_features.classes(chosen)
  named = os.path.join(directory, f"{label}.labels.txt")
  label_names = names.read_classes(named) if tf.io.gfile.exists(named) else (
      tuple(map(str, range(count))))
  index = record_index.load(_shards(name, directory, split))
  return index, parse, label_names, directory


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
