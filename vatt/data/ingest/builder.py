"""Builds raw media into shards of records, in a way that survives a kill."""
import collections
import csv
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_builder, example_serializer
from tensorflow_datasets.core import splits as splits_lib
from tqdm import tqdm

from vatt.errors import UserError, one_line
from vatt.files import write_whole, write_whole_by

INDEX_SUFFIX = ".index.json"
# A TFRecord is its length (8 bytes), a CRC (4), the data and a CRC (4).
RECORD_OVERHEAD = 16


class Rejected(Exception):
  """A clip that cannot be built; the message is the reason, for the report."""


class Clip(NamedTuple):
  """A clip to build.

  `id` is unique in its split; `file` is where it comes from, relative to the
  manual_dir; `data` is what `Plan.read` needs besides, as JSON values.
  """
  id: str
  file: str
  data: tuple = ()


class Plan(NamedTuple):
  """What a dataset is going to build.

  Attributes:
    splits: the clips of each split; those of "train1_test2" are in both, and
      stored once.
    shards: the number of shards of each split.
    read: makes the example of a clip, with the fields of `features`,
      or raises Rejected if it cannot be built.
    label_names: the classes, in the order of their numbers.
    sources: JSON value that changes when the content of the sources does.
    rejected: (id, file, reason) of what was found unusable while planning.
    threads: the number of shards that are built at a time.
  """
  splits: dict[str, list[Clip]]
  shards: dict[str, int]
  read: Callable[[Clip], dict[str, Any]]
  label_names: tuple[str, ...] = ()
  sources: Any = None
  rejected: tuple[tuple[str, str, str], ...] = ()
  threads: int = 1


def features(label_names: Sequence[str] | None = None
             ) -> tfds.features.FeaturesDict:
  """The features of every built dataset.

  Args:
    label_names: names of the classes, none for a dataset without labels; None
      where they are not known yet.

  Returns:
    `frames` are encoded images [F] at `fps`, `audio` is
    int16 little-endian PCM or FLAC at `audio_rate` samples a second, `captions`
    are sentences [K] with their times in seconds from the clip's start, `label`
    are class numbers [L], `start` is the clip's start in its source in seconds.
    A modality that a clip does not have is empty.
  """
  return tfds.features.FeaturesDict({
      "id": tfds.features.Text(),
      "start": np.float32,
      "frames": tfds.features.Sequence(np.object_),
      "fps": np.float32,
      "audio": tfds.features.Scalar(np.object_),
      "audio_rate": np.int32,
      "captions": tfds.features.Sequence({
          "text": tfds.features.Text(),
          "start": np.float32,
          "end": np.float32,
      }),
      "label": tfds.features.Sequence(
          tfds.features.ClassLabel(names=label_names and list(label_names))),
  })


def cut(split: str, clips: Sequence[Clip], num_shards: int
        ) -> list[list[Clip]]:
  """Sorts clips by SHA-256(split, id) and cuts them into even shards.

  The order has nothing to do with that of the sources, so that every shard is a
  fair sample, and it is the same on every machine.

  Args:
    split: name of the split.
    clips: all of the split.
    num_shards: number of shards; fewer clips than that give fewer shards.

  Returns:
    The clips of each shard, none of them empty.
  """
  clips = sorted(
      clips, key=lambda clip: hashlib.sha256(f"{split}\0{clip.id}".encode())
      .digest())
  num_shards = min(num_shards, len(clips))
  edges = [i * len(clips) // num_shards for i in range(num_shards + 1)]
  return [clips[a:b] for a, b in zip(edges, edges[1:])]


def draw(bound: int, *site: object) -> int:
  """A random number in 0 ... bound-1: a hash of where it is used.

  All that is random in a dataset is drawn so, from the clip's id and a name for
  the choice: the same clip is the same bytes whenever and wherever it is built.
  """
  digest = hashlib.sha256("\0".join(map(str, site)).encode()).digest()
  return int.from_bytes(digest[:8], "big") % bound


def build_shard(path: str, clips: Sequence[Clip],
                read: Callable[[Clip], dict[str, Any]],
                label_names: Sequence[str], fingerprint: str,
                progress: Callable[[int], object] = lambda count: None
                ) -> dict[str, Any]:
  """Builds one shard, or finds it built: a pure function of its arguments.

  The shard appears under its name when it is complete, and after it the record
  `<shard>.index.json` that says so: a kill at any moment leaves nothing that
  looks finished and is not.

  Args:
    path: file of the shard.
    clips: the clips of this shard.
    read: makes the example of a clip, or raises Rejected.
    label_names: the classes, in the order of their numbers.
    fingerprint: hash of the plan; a shard of another plan is built anew.
    progress: called with the number of clips done.

  Returns:
    The content of the record: fingerprint, count (records), bytes (size of the
    file), offsets (byte offset of each record), rejected (id, file, reason).
  """
  record = finished_shard(path, fingerprint)
  if record:
    progress(len(clips))
    return record
  spec = features(label_names)
  serializer = example_serializer.ExampleSerializer(spec.get_serialized_info())
  if tf.io.gfile.exists(path + INDEX_SUFFIX):  # of another plan
    tf.io.gfile.remove(path + INDEX_SUFFIX)
  offsets, rejected = [0], []

  def write(temporary):
    with tf.io.TFRecordWriter(temporary) as writer:
      for clip in clips:
        try:
          example = read(clip)
        except Rejected as reason:
          rejected.append([clip.id, clip.file, one_line(reason)])
        else:
          # Deterministic: the order of a map's keys may differ between
          # processes.
          raw = serializer.get_tf_example(spec.encode_example(example))
          raw = raw.SerializeToString(deterministic=True)
          writer.write(raw)
          offsets.append(offsets[-1] + len(raw) + RECORD_OVERHEAD)
        progress(1)
    return offsets[-1]

  write_whole_by(path, write)
  *offsets, size = offsets
  record = {"fingerprint": fingerprint, "count": len(offsets), "bytes": size,
            "offsets": offsets, "rejected": rejected}
  write_whole(path + INDEX_SUFFIX, json.dumps(record).encode())
  return record


def finished_shard(path: str, fingerprint: str | None = None
                   ) -> dict[str, Any] | None:
  """The record of a finished shard, or None.

  Args:
    path: file of the shard.
    fingerprint: hash of the plan it must come from; None for any.
  """
  if not tf.io.gfile.exists(path + INDEX_SUFFIX):
    return None
  with tf.io.gfile.GFile(path + INDEX_SUFFIX) as file:
    record = json.loads(file.read())
  whole = (tf.io.gfile.exists(path)
           and tf.io.gfile.stat(path).length == record["bytes"])
  same = fingerprint in (None, record.get("fingerprint"))
  return record if whole and same else None


class _Info(tfds.core.DatasetInfo):
  """Not looked up in tfds' bucket, where others may have a dataset's name."""

  def initialize_from_bucket(self):
    pass


class ClipsBuilder(dataset_builder.FileReaderBuilder, skip_registration=True):
  """Base class of the datasets of this package.

  A dataset names its class after its module, states VERSION and implements
  `make_plan`. It raises VERSION whenever it would build other records from the
  same sources.

  tfds' own `download_and_prepare` works in a folder that it deletes after any
  failure and forgets after a kill. Here the shards gather in
  `<version>.staging`, beside the folder of the finished dataset, and that one
  appears by a single rename; a build that was stopped goes on from its last
  finished shard.
  """

  DEFAULT_CONFIG = None  # None for a dataset without configurations

  def __init__(self, *, data_dir: str, config: str | None = None,
               manual_dir: str | None = None):
    """Describes a build; nothing is read or written yet.

    Args:
      data_dir: folder of the built datasets.
      config: name of the configuration, checked by `make_plan`.
      manual_dir: folder of the raw media.
    """
    self._manual_dir = manual_dir
    if config and not self.DEFAULT_CONFIG:
      raise UserError(f"{self.name} has no configurations, found {config!r}")
    config = config or self.DEFAULT_CONFIG
    super().__init__(
        data_dir=data_dir,
        config=config and tfds.core.BuilderConfig(name=config))

  def make_plan(self, manual_dir: str | None) -> Plan:
    """Decides what to build, reading no more of the sources than that takes.

    Args:
      manual_dir: folder of the raw media, or None.

    Raises:
      UserError: on an unknown configuration, or sources that are missing or of
        another form.
    """
    raise NotImplementedError

  def _info(self):
    return _Info(builder=self, features=features())

  def download_and_prepare(
      self, *, download_dir: str | None = None,
      download_config: tfds.download.DownloadConfig | None = None) -> None:
    """Builds the dataset, or goes on building it.

    Args:
      download_dir: not used.
      download_config: its manual_dir is used where the builder has none.

    Raises:
      UserError: if the sources are not usable, the dataset cannot be written,
        or the one already built comes from another plan.
    """
    manual_dir = self._manual_dir or getattr(
        download_config, "manual_dir", None)
    final = str(self.data_path)
    if tf.io.gfile.exists(final):
      self._check_finished(final, manual_dir)
      return
    try:
      self._download_and_prepare(self._checked_plan(manual_dir))
    except (OSError, tf.errors.OpError) as error:
      raise UserError(
          f"{final}: the build stopped: {one_line(error)}; what is finished is "
          "kept, run the same command to go on") from error

  def _checked_plan(self, manual_dir):
    plan = self.make_plan(manual_dir)
    for split, clips in plan.splits.items():
      if not clips:
        raise UserError(f"{self.info.full_name}: no clip for split {split!r} "
                        f"in {manual_dir}")
      seen = set()
      for clip in clips:
        if clip.id in seen:
          raise UserError(f"{clip.file}: clip id {clip.id!r} occurs twice in "
                          f"split {split!r} of {self.info.full_name}")
        seen.add(clip.id)
    return plan

  def _fingerprint(self, plan):
    """SHA-256 of all that the built records depend on."""
    digest = hashlib.sha256(json.dumps(
        [self.info.full_name, plan.label_names, plan.shards, plan.sources,
         plan.rejected]).encode())
    for split, clips in plan.splits.items():
      for clip in clips:
        digest.update(json.dumps([split, clip]).encode())
    return digest.hexdigest()

  def _shard_files(self, plan):
    """(split, name of the shard's file, its clips), in order."""
    for split, clips in plan.splits.items():
      shards = cut(split, clips, plan.shards[split])
      for i, part in enumerate(shards):
        yield split, (f"{self.name}-{split}.tfrecord-{i:05d}-of-"
                      f"{len(shards):05d}"), part

  def _download_and_prepare(self, plan):
    final = str(self.data_path)
    staging = final + ".staging"
    tf.io.gfile.makedirs(staging)
    fingerprint = self._fingerprint(plan)

    # ---- the shards, each in one go
    records = {split: [] for split in plan.splits}
    rejected = list(map(list, plan.rejected))
    shards = list(self._shard_files(plan))
    with tqdm(total=sum(map(len, plan.splits.values())), unit="clip",
              desc=self.info.full_name, mininterval=1) as bar, (
                  ThreadPoolExecutor(plan.threads)) as pool:
      done = (pool.map if plan.threads > 1 else map)(lambda shard: build_shard(
          f"{staging}/{shard[1]}", shard[2], plan.read, plan.label_names,
          fingerprint, bar.update), shards)
      for (split, _, _), record in zip(shards, done):
        records[split].append(record)
        rejected += record["rejected"]
    built = {split: records[split] for split in records
             if any(shard["count"] for shard in records[split])}
    parts = {part for split in built for part in split.split("_")}
    for split, part in ((s, p) for s in records for p in s.split("_")):
      if part not in parts:
        raise UserError(
            f"{self.info.full_name}: every clip of split {part!r} was "
            f"rejected; the first: {records[split][0]['rejected'][0][2]}")

    # ---- what describes them, and the name of the finished dataset
    keep = {name + suffix for split, name, _ in shards if split in built
            for suffix in ("", INDEX_SUFFIX)}
    for name in tf.io.gfile.listdir(staging):
      if name not in keep:  # of another plan, or cut off
        tf.io.gfile.remove(f"{staging}/{name}")
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(
        [["id", "file", "reason"], *rejected])
    write_whole(f"{staging}/rejected.csv", table.getvalue().encode())
    self.info.features["label"].feature.names = list(plan.label_names)
    self.info.set_splits(splits_lib.SplitDict([
        splits_lib.SplitInfo(
            name=split,
            shard_lengths=[shard["count"] for shard in shards],
            num_bytes=sum(shard["bytes"] for shard in shards),
            filename_template=self._get_filename_template(split))
        for split, shards in built.items()]))
    self.info.write_to_directory(staging)
    tf.io.gfile.rename(staging, final)
    self._report("built", len(rejected))

  def _report(self, done, rejected):
    """Prints the last line: how many clips there are, and are not."""
    counts = collections.Counter()
    for split, info in self.info.splits.items():
      counts.update(dict.fromkeys(split.split("_"), info.num_examples))
    each = ", ".join(f"{part} {count}" for part, count in counts.items())
    total = self.info.splits.total_num_examples
    print(f"{self.data_path}: {done} {total} clips ({each}), "
          f"rejected {rejected}"
          + (f" (see {self.data_path}/rejected.csv)" if rejected else ""))

  def _check_finished(self, final, manual_dir):
    """Says that a dataset is finished, if it is and of this plan."""
    names = [path for split in self.info.splits.values()
             for path in map(str, split.filepaths)]
    records = [finished_shard(path) for path in names]
    if (not names or None in records
        or not tf.io.gfile.exists(f"{final}/rejected.csv")):
      raise UserError(f"{final}: damaged, or not built by this program; delete "
                      "it to build it again")
    if manual_dir:
      fingerprint = self._fingerprint(self._checked_plan(manual_dir))
      if any(record.get("fingerprint") != fingerprint for record in records):
        raise UserError(
            f"{final}: built before, from other sources than {manual_dir} has "
            "now; delete it, or build with another --data_dir")
    with tf.io.gfile.GFile(f"{final}/rejected.csv") as file:
      rejected = len(list(csv.reader(io.StringIO(file.read())))) - 1
    self._report("already built", rejected)
