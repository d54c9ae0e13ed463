"""Data sets in folders as tensorflow-datasets lays them out: those that are
built here, and its own."""
import json
import os
import re
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vatt import files as files_lib
from vatt.data import names, record_index, split_index, tfds_features
from vatt.errors import UserError, one_line

INFO = "dataset_info.json"  # what makes a data set finished


class BuiltSplit(NamedTuple):
  """What is known of a built split before any of its shards is opened.

  Attributes:
    parts: the names that it can be opened by.
    shards: paths, in order.
    there: whether each is in the folder.
    counts: the number of records of each; none where that is not said.
    index: path of the file that says where its records are, or None.
  """
  parts: list[str]
  shards: list[str]
  there: list[bool]
  counts: list[int]
  index: str | None


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
  directory, parse, label_names, splits = _describe(name, path, data_dir)
  indices = []
  for part in _chosen(name, directory, split, splits):
    for which in _missing(part, splits[part]).values():
      mend = "" if name.startswith("tfds:") else (
          ", or mend it by scripts/prepare_dataset.py --repair")
      raise UserError(
          f"{directory}: {which} is missing; build the data set again{mend}")
    indices.append(_index_of(splits[part]))
  index = record_index.join(indices)
  return index, parse, label_names, directory


def _index_of(built):
  """The index of a built split whose shards are all there."""
  if not built.index:
    return record_index.load(built.shards)
  index = record_index.from_sizes(built.shards, *read_index(built))
  record_index.check_sizes(index, built.index)
  return index


def read_index(built: BuiltSplit) -> split_index.SplitIndex:
  """Reads where the records of a built split are.

  Raises:
    UserError: the file cannot be read, or is of other shards.
  """
  found = split_index.read(built.index)
  stated = built.counts
  if len(found.counts) != len(built.shards) or (
      stated and stated != found.counts.tolist()):
    as_in = f" with {sum(stated)} as in {INFO}" if stated else ""
    raise UserError(
        f"{built.index}: {len(found.counts)} shards with {len(found.sizes)} "
        f"records, expected {len(built.shards)}{as_in}; "
        "scripts/prepare_dataset.py --repair writes it anew")
  return found


def find_built(name: str, path: str, data_dir: str, split: str | None):
  """Finds the files of a split, whatever is in them.

  Args:
    name, path, data_dir, split: as of `open_built`; None for all splits.

  Returns:
    The first fields of a `sources.Found`, and the last three as of
    `open_built`.

  Raises:
    UserError: there is no such data set or split.
  """
  directory, parse, label_names, splits = _describe(name, path, data_dir)
  files, missing, counts, sizes, damaged = [], {}, {}, {}, {}
  for part in _chosen(name, directory, split, splits):
    built = splits[part]
    files += [file for file, there in zip(built.shards, built.there) if there]
    missing |= _missing(part, built)
    counts |= zip(built.shards, built.counts)
    try:
      if built.index:
        index = read_index(built)
        sizes |= zip(built.shards, np.split(
            index.sizes, np.cumsum(index.counts)[:-1]))
    except UserError as error:
      damaged[built.index] = str(error).removeprefix(f"{built.index}: ")
  return (files, missing, counts, sizes, damaged,
          parse, label_names, directory)


def _missing(part, built):
  """By path, the shards of a split that are not there, and which each is."""
  return {file: f"shard {i} of the {len(built.shards)} of split '{part}'"
          for i, (file, there) in enumerate(zip(built.shards, built.there))
          if not there}


def _describe(name, path, data_dir):
  """The folder of a data set, the parser and the classes of its records, and
  its built splits by their names."""
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
  return directory, parse, label_names, _splits(name, directory)


def split_names(name: str, path: str, data_dir: str) -> list[str]:
  """The names that splits can be opened by, of those of "train1_test2" both;
  those to train come first.

  Args:
    name, path, data_dir: as of `open_built`.
  """
  directory, _ = _find_directory(name, path, data_dir)
  return sorted({part for built in _splits(name, directory).values()
                 for part in built.parts},
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
    if not (version or files_lib.is_listed(home)):
      raise UserError(f"{name}: {home} is on the web, where nothing can be "
                      f"looked for; expected a version: {name}:1.0.0")
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
  # On the web it has to be said.
  listed = _listdir(home) if files_lib.is_listed(home) else [version]
  return [v for v in listed
          if re.fullmatch(r"\d+\.\d+\.\d+", v) and version in ("", v)
          and tf.io.gfile.exists(os.path.join(home, v, INFO))]


def _listdir(path):
  """Names of what is in a folder; none on the web, or if there is none."""
  if not files_lib.is_listed(path):
    return []
  try:
    return files_lib.listdir(path)
  except files_lib.REFUSED as error:
    raise UserError(f"{path}: cannot be looked into ({one_line(error)}), "
                    "expected a folder that can be read") from None


def _read_json(directory, name, take):
  """What `take` makes of a file of a data set."""
  path = os.path.join(directory, name)
  try:
    with tf.io.gfile.GFile(path) as f:
      return take(json.loads(f.read()))
  except (ValueError, TypeError, LookupError, AttributeError,
          tf.errors.NotFoundError):
    raise UserError(f"{path}: damaged, expected what the build wrote; "
                    "scripts/prepare_dataset.py --repair writes it anew"
                    ) from None
  except tf.errors.OpError as error:
    raise UserError(f"{path}: cannot be read ({one_line(error)}), expected "
                    "what the build wrote") from None


def _splits(name, directory):
  """The built splits, by their names."""
  base, form, stated = _read_json(directory, INFO, lambda content: (
      content.get("name", os.path.basename(os.path.dirname(directory))),
      content.get("fileFormat", "tfrecord"), {
          s["name"]: list(map(int, s.get("shardLengths", ())))
          for s in content.get("splits", ())}))
  if form != "tfrecord":
    raise UserError(f"{directory}: has files of {form}, expected tfrecord: "
                    f"tfds build --file_format=tfrecord")
  there, listed = {s: {} for s in stated}, _listdir(directory)
  for file in listed:
    found = re.fullmatch(r"(.+)-(.+)\.tfrecord-(\d{5,})-of-(\d{5,})", file)
    if found:
      there.setdefault(found[2], {})[int(found[3])] = found[1], int(found[4])
  base = next((base for shards in there.values() for base, _ in
               shards.values()), base)
  on_web = not files_lib.is_listed(directory)
  splits = {}
  for s, shards in there.items():
    lengths = stated.get(s, ())
    base, count = next(iter(shards.values()), (base, len(lengths) or 1))
    # Names that others gave are not taken apart.
    parts = [s] if name.startswith("tfds:") else s.split("_")
    index = split_index.file_name(base, s)
    has_index = (tf.io.gfile.exists(os.path.join(directory, index)) if on_web
                 else index in listed)
    splits[s] = BuiltSplit(
        parts, [os.path.join(directory, split_index.shard_name(
            base, s, i, count)) for i in range(count)],
        [on_web or i in shards for i in range(count)],
        lengths if len(lengths) == count else [],
        os.path.join(directory, index) if has_index else None)
  return splits


def _chosen(name, directory, split, built):
  """The built splits that a split has, in order; all if it is None."""
  if split is None:
    return sorted(built)
  chosen = set()
  for wanted in split.split("+"):
    having = {s for s, found in built.items()
              if wanted == s or wanted in found.parts}
    if not having:
      known = ", ".join(sorted(
          {part for found in built.values() for part in found.parts}))
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
