"""What describes a built dataset: tfds' files, a list of what is rejected, and
the line that is printed."""
import collections
import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_info
from tensorflow_datasets.core import splits as splits_lib

from vatt.data.ingest import rejected as rejected_lib
from vatt.data.ingest import shards as shards_lib
from vatt.data.ingest.plans import Shard

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


class Description:
  """Of the shards of a dataset, by what their sidecars say.

  Attributes:
    shards: that it has; those of a split without any record are left out.
    records: what the sidecars say.
    rejected: (id, file, reason) of all clips that are rejected.
    damaged: the same of those that are there though they are damaged.
  """

  def __init__(self, shards: Sequence[Shard],
               records: Sequence[Mapping[str, Any]],
               rejected: Sequence[Sequence[str]] = (),
               tables: Mapping[str, bytes] = MappingProxyType({})):
    """Describes a dataset.

    Args:
      shards: of the plan.
      records: of each.
      rejected: what was so while planning.
      tables: of the plan.
    """
    self._tables = tables
    full = {shard.split for shard, record in zip(shards, records)
            if record["count"]}
    pairs = [(shard, record) for shard, record in zip(shards, records)
             if shard.split in full]
    self.shards = [shard for shard, _ in pairs]
    self.records = [record for _, record in pairs]
    self.rejected = [*rejected, *(row for record in records
                                  for row in record["rejected"])]
    self.damaged = [row for record in records
                    for row in record["damaged"].values()]

  def facts(self) -> dict[str, list[tuple[str, int]]]:
    """Names and numbers of records of the shards of each split."""
    found = {}
    for shard, record in zip(self.shards, self.records):
      found.setdefault(shard.split, []).append((shard.name, record["count"]))
    return found

  def files(self, info: Info, label_names: Sequence[str], template
            ) -> dict[str, bytes]:
    """Makes the files, by their names.

    Args:
      info: a new one of the dataset.
      label_names: the classes, in the order of their numbers.
      template: gives tfds' template of the names of a split's shards.
    """
    sizes = collections.Counter()
    for shard, record in zip(self.shards, self.records):
      sizes[shard.split] += record["bytes"]
    info.set_file_format(None)
    info.features["label"].feature.names = list(label_names)
    info.set_splits(splits_lib.SplitDict([
        splits_lib.SplitInfo(
            name=split, shard_lengths=[count for _, count in shards],
            num_bytes=sizes[split], filename_template=template(split))
        for split, shards in self.facts().items()]))
    found = {rejected_lib.NAME: rejected_lib.table(self.rejected),
             **self._tables}
    if self.damaged:
      found[rejected_lib.DAMAGED] = rejected_lib.table(self.damaged)
    # tfds writes into a folder, and not whole files.
    with tempfile.TemporaryDirectory() as folder:
      info.write_to_directory(folder)
      for name in os.listdir(folder):
        found[name] = content(os.path.join(folder, name))
    return found

  def line(self, rejected: int) -> str:
    """How many clips there are, and are not."""
    clips, having = collections.Counter(), collections.Counter()
    for shard, record in zip(self.shards, self.records):
      clips.update(dict.fromkeys(shard.split.split("_"), record["count"]))
      having.update(record["having"])
    each = ", ".join(f"{part} {count}" for part, count in clips.items())
    each += "; with " + ", ".join(
        f"{kind} {having[kind]}" for kind in shards_lib.KINDS)
    total = sum(record["count"] for record in self.records)
    return f"{total} clips ({each}), rejected {rejected}"


def read_facts(info: Info) -> dict[str, list[tuple[str, int]]]:
  """As `Description.facts`, what a dataset's files say; {} if they cannot be
  read."""
  if not info.initialized:
    return {}
  return {split: [(os.path.basename(path), count) for path, count in zip(
      map(str, found.filepaths), found.shard_lengths)]
          for split, found in info.splits.items()}


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


def count_tables(folder: str) -> dict[str, int | None]:
  """The number of rows of each of `rejected.HEADERS` that a dataset has; None
  of one that is not as it was written."""
  found = {name: content(f"{folder}/{name}") for name in rejected_lib.HEADERS}
  return {name: rejected_lib.count(data, rejected_lib.HEADERS[name])
          for name, data in found.items() if data is not None}


def content(path: str) -> bytes | None:
  """The bytes of a file; None if there is none."""
  with contextlib.suppress(tf.errors.NotFoundError):
    with tf.io.gfile.GFile(path, "rb") as file:
      return file.read()
