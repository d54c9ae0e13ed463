"""Data sets in folders as tensorflow-datasets lays them out: those that are
built here, and its own."""
import json
import os
import re

import tensorflow as tf

from vatt.data import names, record_index, tfds_features
from vatt.errors import UserError


def open_built(name: str, path: str, data_dir: str, split: str
               ) -> record_index.Opened:
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
  files, missing, _, *others = find_built(name, path, data_dir, split)
  if missing:
    mend = "" if name.startswith("tfds:") else (
        ", or mend it by scripts/prepare_dataset.py --repair")
    raise UserError(f"{others[-1]}: {next(iter(missing.values()))} is missing; "
                    f"build the data set again{mend}")
  return record_index.load(files), *others


def find_built(name: str, path: str, data_dir: str, split: str | None):
  """Finds the files of a split, whatever is in them.

  Args:
    name, path, data_dir, split: as of `open_built`; None for all splits.

  Returns:
    The paths of the files, in order; by path, those that are missing, and which
    of how many each is; by path, how many records a file is said to have; the
    last three as of `open_built`.

  Raises:
    UserError: there is no such data set or split.
  """
  directory, query = _find_directory(name, path, data_dir)
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
  files, missing, counts = [], {}, {}
  built = _splits(name, directory)
  for part in _chosen(name, directory, split, built):
    _, shards = built[part]
    for i, (file, (is_there, count)) in enumerate(shards.items()):
      if is_there:
        files.append(file)
      else:
        missing[file] = f"shard {i} of the {len(shards)} of split '{part}'"
      if count is not None:
        counts[file] = count
  return files, missing, counts, parse, label_names, directory


def split_names(name: str, path: str, data_dir: str) -> list[str]:
  """The names that splits can be opened by, of those of "train1_test2" both;
  those to train come first.

  Args:
    name, path, data_dir: as of `open_built`.
  """
  directory, _ = _find_directory(name, path, data_dir)
  return sorted({part for parts, _ in _splits(name, directory).values()
                 for part in parts},
                key=lambda part: (not part.startswith("train"), part))


def _find_directory(name, path, data_dir):
  """The folder of the newest version of a data set, or of the one named; and
  what its name says behind a "?"."""
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
    configs = [c for c in _listdir(home) if not c.startswith(".")
               and tf.io.gfile.isdir(os.path.join(home, c))]
    hint = (f" (found there: {', '.join(configs[:10])})" if configs else "")
    # As configs named the paper's data sets before these had names.
    before = [f"clips/{c}" for c in _listdir(os.path.join(data_dir, "clips"))
              if c.partition("+")[0] == path]
    if before:
      hint = f" (but there is {', '.join(before)})"
    kind = "tfds:" if name.startswith("tfds:") else ""
    raise UserError(f"{name}: no finished data set in {home}{hint}; build it "
                    "with: python scripts/prepare_dataset.py "
                    f"--dataset={kind}{path} --manual_dir=DIR "
                    f"--data_dir={data_dir}" + (
                        "" if kind else
                        ", and --annotations=LISTS if it has official ones"))
  version = max(built, key=lambda v: tuple(map(int, v.split("."))))
  return os.path.join(home, version), query


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


def _splits(name, directory):
  """What is said of each built split: its name to the names that it can be
  opened by, and {path of a shard: (whether it is there, its number of records
  or None)}, in order."""
  form, stated = _read_json(directory, "dataset_info.json", lambda content: (
      content.get("fileFormat", "tfrecord"), {
          s["name"]: list(map(int, s.get("shardLengths", ())))
          for s in content.get("splits", ())}))
  if form != "tfrecord":
    raise UserError(f"{directory}: has files of {form}, expected tfrecord: "
                    f"tfds build --file_format=tfrecord")
  there = {s: {} for s in stated}
  for file in _listdir(directory):
    found = re.fullmatch(r"(.+)-(.+)\.tfrecord-(\d{5,})-of-(\d{5,})", file)
    if found:
      there.setdefault(found[2], {})[int(found[3])] = found[1], int(found[4])
  base = next((base for shards in there.values() for base, _ in
               shards.values()), os.path.basename(os.path.dirname(directory)))
  splits = {}
  for s, shards in there.items():
    lengths = stated.get(s, ())
    base, count = next(iter(shards.values()), (base, len(lengths) or 1))
    # Names that others gave are not taken apart.
    parts = [s] if name.startswith("tfds:") else s.split("_")
    splits[s] = parts, {
        os.path.join(directory, f"{base}-{s}.tfrecord-{i:05d}-of-{count:05d}"):
        (i in shards, lengths[i] if len(lengths) == count else None)
        for i in range(count)}
  return splits


def _chosen(name, directory, split, built):
  """The built splits that a split has, in order; all if it is None."""
  if split is None:
    return sorted(built)
  chosen = set()
  for wanted in split.split("+"):
    having = {s for s, (parts, _) in built.items()
              if wanted == s or wanted in parts}
    if not having:
      known = ", ".join(sorted(
          {part for parts, _ in built.values() for part in parts}))
      raise UserError(f"{name}: no split '{wanted}' in {directory}, expected "
                      f"one of: {known or 'none has records'}")
    chosen |= having
  return sorted(chosen)


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
