"""What describes a built dataset: tfds' files, a list of what is rejected, and
the line that is printed."""
import array
import collections
import contextlib
import gzip
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_info
from tensorflow_datasets.core import splits as splits_lib

from vatt.data import caption_files, split_index
from vatt.data.ingest import rejected as rejected_lib
from vatt.data.ingest import shards as shards_lib
from vatt.files import CHUNK, REFUSED, write_whole_by

INFO, FEATURES, LABELS = (
    "dataset_info.json", "features.json", "label.labels.txt")


class Info(tfds.core.DatasetInfo):
  """Not looked up in tfds' bucket, where others may have a dataset's name; and
  `initialized` is False where what describes a dataset cannot be read."""

  def initialize_from_bucket(self):
    pass

  def read_from_directory(self, dataset_info_dir):
    try:
      found = dataset_info.read_from_json(
          os.path.join(dataset_info_dir, INFO))
      if (found.name, found.file_format) == (self.name, "tfrecord"):
        super().read_from_directory(dataset_info_dir)
    except Exception:  # of nearly any kind, as the files are damaged
      self._fully_initialized = False


class Facts:
  """What a built split has, in numbers.

  Attributes:
    counts: of the records of each of its shards.
    bytes: of all.
    having: how many records have each of `shards.KINDS`.
    rejected, damaged: how many clips are so.
    first: of those that are rejected, or None.
  """

  def __init__(self):
    self.counts = array.array("q")
    self.bytes = self.rejected = self.damaged = 0
    self.having, self.first = collections.Counter(), None

  def add(self, record: Mapping[str, Any]) -> None:
    """Adds a shard, by what its sidecar says."""
    self.counts.append(record["count"])
    self.bytes += record["bytes"]
    self.having.update(record["having"])
    self.rejected += len(record["rejected"])
    self.damaged += len(record["damaged"])
    self.first = self.first or next(iter(record["rejected"]), None)


class Description:
  """Makes the files that describe a dataset, of what the sidecars of its shards
  say: these pass by once, and no more than numbers is kept in memory.

  Attributes:
    splits: the Facts of each, those to train first. One without a record is no
      split of the dataset.
    rejected: how many clips are so.
  """

  def __init__(self, folder: str, base: str,
               rejected: Iterable[Sequence[str]] = ()):
    """Begins the files.

    Args:
      folder: a local one, empty, to write them into.
      base: how the names of the shards begin.
      rejected: (id, file, reason) of clips that were so while planning.
    """
    self._folder, self._base = folder, base
    self.splits, self.rejected = {}, 0
    for name in rejected_lib.NAME, rejected_lib.DAMAGED:
      self._append(name, [rejected_lib.HEADER])
    for row in rejected:
      self.rejected += 1
      self._append(rejected_lib.NAME, [row])

  def _append(self, name, rows):
    with open(f"{self._folder}/{name}", "ab") as file:
      file.writelines(map(rejected_lib.line, rows))

  def take(self, split: str, records: Iterable[Mapping[str, Any]]) -> None:
    """Adds a split.

    Args:
      split: its name.
      records: what the sidecars of its shards say, in order.
    """
    facts = self.splits[split] = Facts()
    with tempfile.TemporaryFile("w+", dir=self._folder) as captions:

      def passing():
        for record in records:
          facts.add(record)
          self._append(rejected_lib.NAME, record["rejected"])
          self._append(rejected_lib.DAMAGED, record["damaged"].values())
          for own in record["captions"]:
            captions.write(json.dumps(own) + "\n")
          yield record

      split_index.write(self._folder, self._base, split, passing())
      captions.seek(0)
      caption_files.write(
          self._folder, self._base, split, map(json.loads, captions))
    self.rejected += facts.rejected
    if not sum(facts.counts):
      for name in self.files_of(split):
        os.remove(f"{self._folder}/{name}")

  def files_of(self, split: str) -> list[str]:
    """Names of the files that a split has beside its shards."""
    return [split_index.file_name(self._base, split),
            caption_files.file_name(self._base, split)]

  def finish(self, info: Info, label_names: Sequence[str], template,
             tables: Mapping[str, bytes]) -> list[str]:
    """Writes the other files.

    Args:
      info: a new one of the dataset.
      label_names: the classes, in the order of their numbers.
      template: gives tfds' template of the names of a split's shards.
      tables: of the plan.

    Returns:
      The names of all that are to be in the dataset, INFO last.
    """
    info.set_file_format(None)
    info.features["label"].feature.names = list(label_names)
    info.set_splits(splits_lib.SplitDict([
        splits_lib.SplitInfo(
            name=split, shard_lengths=facts.counts.tolist(),
            num_bytes=facts.bytes, filename_template=template(split))
        for split, facts in self.there().items()]))
    info.write_to_directory(self._folder)
    for name, data in tables.items():
      with open(f"{self._folder}/{name}", "wb") as file:
        file.write(data)
    self.end()
    return sorted(os.listdir(self._folder), key=lambda name: (
        name == INFO, name))

  def end(self) -> None:
    """Takes away what of the files is not needed."""
    if not self.damaged():
      os.remove(f"{self._folder}/{rejected_lib.DAMAGED}")

  def there(self) -> dict[str, Facts]:
    """Of the splits that have records."""
    return {split: facts for split, facts in self.splits.items()
            if sum(facts.counts)}

  def damaged(self) -> int:
    """How many clips are there though they are damaged."""
    return sum(facts.damaged for facts in self.splits.values())

  def line(self, rejected: int) -> str:
    """How many clips there are, and are not."""
    clips, having = collections.Counter(), collections.Counter()
    for split, facts in self.there().items():
      clips.update(dict.fromkeys(split.split("_"), sum(facts.counts)))
      having.update(facts.having)
    each = ", ".join(f"{part} {count}" for part, count in clips.items())
    each += "; with " + ", ".join(
        f"{kind} {having[kind]}" for kind in shards_lib.KINDS)
    total = sum(sum(facts.counts) for facts in self.splits.values())
    return f"{total} clips ({each}), rejected {rejected}"


def read_counts(info: Info) -> dict[str, list[int]]:
  """The number of records of each shard of each split, as a dataset's files say
  it; {} if they cannot be read."""
  if not info.initialized:
    return {}
  return {split: found.shard_lengths for split, found in info.splits.items()}


def misread(folder: str, label_names: Sequence[str] | None) -> list[str]:
  """Names of the files in which the features of a dataset are not as they were
  written.

  Args:
    folder: of the dataset.
    label_names: the classes; None if they are not known.
  """
  try:
    found = tfds.features.FeaturesDict.from_config(folder)
    names = found["label"].feature.names
    specs = [features.get_serialized_info()
             for features in (found, shards_lib.features())]
  except Exception:  # of nearly any kind, as the files are damaged
    return [f"{FEATURES} or {LABELS}"]
  if specs[0] != specs[1]:
    return [FEATURES]
  return [] if label_names in (None, tuple(names)) else [LABELS]


def count_rows(folder: str, name: str) -> int | None:
  """The number of clips in such a file of a dataset; 0 if it is not there, None
  if it is not as it was written."""
  header = rejected_lib.HEADERS.get(name, rejected_lib.HEADER)
  path = f"{folder}/{name}"
  if not tf.io.gfile.exists(path):  # the lines of an object would just be none
    return 0
  with tf.io.gfile.GFile(path, "rb") as file:
    return rejected_lib.count(file, header)


def is_same(path: str, local: str) -> bool:
  """Whether a file is what it should be: that of a local one, which need not be
  there. Compressed ones are, if what is in them is."""
  if not os.path.exists(local):
    return not tf.io.gfile.exists(path)
  try:
    with contextlib.ExitStack() as files:
      one, other = (files.enter_context(tf.io.gfile.GFile(name, "rb"))
                    for name in (path, local))
      if path.endswith(".gz"):
        one, other = (files.enter_context(gzip.GzipFile(fileobj=file))
                      for file in (one, other))
      while part := other.read(CHUNK):
        if one.read(CHUNK) != part:
          return False
      return not one.read(1)
  except (EOFError, gzip.zlib.error, *REFUSED):
    return False


def has_lines(path: str, local: str) -> bool:
  """Whether a file has all lines of a local one, in their order."""
  try:
    with tf.io.gfile.GFile(path, "rb") as file, open(local, "rb") as wanted:
      lines = iter(file)
      return all(line in lines for line in wanted)
  except REFUSED:
    return False


def copy(local: str, path: str) -> None:
  """Writes a file whole that is what a local one is."""
  def write(temporary):
    with open(local, "rb") as source, tf.io.gfile.GFile(
        temporary, "wb") as file:
      while part := source.read(CHUNK):
        file.write(part)

  write_whole_by(path, write)
