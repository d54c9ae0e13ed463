"""Builds raw media into shards of records, in a way that survives a kill."""
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_builder
from tqdm import tqdm

from vatt import files, locks, stopping
from vatt.data import record_index
from vatt.data.ingest import description
from vatt.data.ingest import rejected as rejected_lib
from vatt.data.ingest import shards as shards_lib
from vatt.data.ingest.shards import (
  INDEX_SUFFIX,
  Clip,
  Rejected,
  Shard,
  features,
)
from vatt.errors import UserError, one_line

__all__ = [
    "Clip", "ClipsBuilder", "Plan", "Rejected", "cut", "draw", "features"]
SHOWN = 5  # names in a line


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
    tables: files that say what official lists have besides, by their names, of
      `rejected.HEADERS`.
    former: what a clip was when more of it was in what shards depend on; those
      that were built so are good. None if it was the same.
  """
  splits: dict[str, list[Clip]]
  shards: dict[str, int]
  read: Callable[[Clip], dict[str, Any]]
  label_names: tuple[str, ...] = ()
  sources: Any = None
  rejected: tuple[tuple[str, str, str], ...] = ()
  threads: int = 1
  tables: Mapping[str, bytes] = MappingProxyType({})
  former: Callable[[Clip], Clip] | None = None


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


class ClipsBuilder(dataset_builder.FileReaderBuilder, skip_registration=True):
  """Base class of the datasets of this package.

  A dataset names its class after its module, states VERSION and implements
  `make_plan`. It raises VERSION whenever it would build other records from the
  same sources.

  tfds' own `download_and_prepare` works in a folder that it deletes after any
  failure and forgets after a kill. Here the shards gather in
  `<version>.staging`, beside the folder of the finished dataset, and that one
  appears by a single rename; a build that was stopped goes on from its last
  finished shard, and if its sources have changed, with all records of clips
  that are the same. Who builds owns the folder that both are in.
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

  def has_sources(self, manual_dir: str | None) -> bool:
    """Whether `make_plan` has what it needs, so that a finished dataset can be
    compared with its sources."""
    return bool(manual_dir)

  def _info(self):
    return description.Info(builder=self, features=features())

  def download_and_prepare(
      self, *, download_dir: str | None = None,
      download_config: tfds.download.DownloadConfig | None = None,
      repair: bool = False) -> None:
    """Builds the dataset, or goes on building it.

    Args:
      download_dir: not used.
      download_config: its manual_dir is used where the builder has none.
      repair: reads all of a dataset that is finished, and builds those of its
        shards anew that are not what was written. Who reads the dataset
        meanwhile reads the old one or the new one of each.

    Raises:
      UserError: if the sources are not usable, the dataset cannot be written,
        another process builds it, or the one already built is damaged or comes
        from another plan.
    """
    manual_dir = self._manual_dir or getattr(
        download_config, "manual_dir", None)
    final = str(self.data_path)
    try:
      if tf.io.gfile.exists(final) and not repair:
        self._check_finished(final, manual_dir)
        return
      with locks.own(os.path.dirname(final),
                     f"a build of {self.info.full_name}"):
        if not tf.io.gfile.exists(final):
          self._download_and_prepare(self._checked_plan(manual_dir))
        elif repair:
          self._repair(final, self._checked_plan(manual_dir))
        else:  # another has just built it
          self._check_finished(final, manual_dir)
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

  def _shards(self, plan: Plan) -> Iterator[Shard]:
    """The shards of a plan, in order."""
    common = self.info.full_name, plan.label_names, plan.sources
    for split, clips in plan.splits.items():
      parts = cut(split, clips, plan.shards[split])
      for i, part in enumerate(parts):
        yield Shard(
            split,
            f"{self.name}-{split}.tfrecord-{i:05d}-of-{len(parts):05d}", part,
            shards_lib.keys_of(part, *common),
            shards_lib.keys_of(map(plan.former, part), *common)
            if plan.former else ())

  def _old_fingerprint(self, plan):
    """What shards had in common before each had a fingerprint of its own."""
    digest = hashlib.sha256(json.dumps(
        [self.info.full_name, plan.label_names, plan.shards, plan.sources,
         plan.rejected]).encode())
    for split, clips in plan.splits.items():
      for clip in clips:
        clip = plan.former(clip) if plan.former else clip
        digest.update(json.dumps([split, clip]).encode())
    return digest.hexdigest()

  # ---- Building --------------------------------------------------------------
  def _download_and_prepare(self, plan):
    """Builds what is not built yet, and gives it its name."""
    final = str(self.data_path)
    staging = f"{final}.staging"
    tf.io.gfile.makedirs(staging)
    shards_lib.remove_temporaries(staging)
    shards = list(self._shards(plan))
    old = self._old_fingerprint(plan)
    known = shards_lib.Known(staging, {
        shard.name: (*shard.fingerprints, old) for shard in shards})
    records = self._build_shards(plan, staging, shards, known)
    whole, contents = self._describe(plan, shards, records)
    # Of a split without records, what says why.
    keep = {shard.name for shard in whole.shards} | {
        shard.name + INDEX_SUFFIX for shard in shards}
    for name in tf.io.gfile.listdir(staging):
      if name not in keep:  # of another plan, or cut off
        tf.io.gfile.remove(f"{staging}/{name}")
    for name, content in contents.items():
      files.write_whole(f"{staging}/{name}", content)
    tf.io.gfile.rename(staging, final)
    files.sync(os.path.dirname(final))
    self._report("built", whole, len(whole.rejected))

  def _build_shards(self, plan, folder, shards, known=lambda key: None):
    """What the sidecars of shards say, once all are built."""
    old, ended = self._old_fingerprint(plan), False

    def build(shard):
      return shards_lib.build(folder, shard, plan.read, plan.label_names,
                              [old], known, progress)

    def progress(count):
      stopping.check()
      if ended:  # no thread is to go on
        raise stopping.Stopped()
      bar.update(count)

    with tqdm(total=sum(len(shard.clips) for shard in shards), unit="clip",
              desc=self.info.full_name, mininterval=1) as bar:
      pool = ThreadPoolExecutor(plan.threads)
      try:
        return list((pool.map if plan.threads > 1 else map)(build, shards))
      except BaseException:
        ended = True
        raise
      finally:
        pool.shutdown(cancel_futures=True)

  def _describe(self, plan, shards, records):
    """The Description of a dataset, and its files."""
    whole = description.Description(
        shards, records, plan.rejected, plan.tables)
    there = {part for split in whole.facts() for part in split.split("_")}
    for shard, record in zip(shards, records):
      for part in shard.split.split("_"):
        if part not in there:
          raise UserError(
              f"{self.info.full_name}: every clip of split {part!r} was "
              "rejected; the first: {0}: {2}".format(*record["rejected"][0]))
    return whole, whole.files(
        self._info(), plan.label_names, self._get_filename_template)

  def _report(self, done, whole, rejected):
    """Prints the last line, and has tfds' methods know the dataset."""
    self.info.read_from_directory(self.data_path)
    line = f"{self.data_path}: {done} {whole.line(rejected)}"
    if rejected:
      line += f" (see {self.data_path}/{rejected_lib.NAME})"
    if whole.damaged:
      line += (f", damaged {len(whole.damaged)} (see {self.data_path}/"
               f"{rejected_lib.DAMAGED})")
    missing = description.count_tables(str(self.data_path)).get(
        rejected_lib.MISSING)
    if missing:
      line += (f", listed and not used {missing} (see {self.data_path}/"
               f"{rejected_lib.MISSING})")
    print(line)

  # ---- What is finished ------------------------------------------------------
  def _check_finished(self, final, manual_dir):
    """Says that a dataset is finished, if it is and of this plan."""
    self.info.read_from_directory(final)
    facts = description.read_facts(self.info)
    plan = (self._checked_plan(manual_dir) if self.has_sources(manual_dir)
            else None)
    shards = list(self._shards(plan)) if plan else [
        Shard(split, name, (), ())
        for split, named in facts.items() for name, _ in named]
    records = self._records(final, plan, shards, record_index.has_records_at)
    # In version 1, nothing was left of a split without records.
    left = [i for i, shard in enumerate(shards)
            if records[i] or shard.split in facts]
    damaged = [shards[i].name for i in left if not records[i]]
    if not damaged:
      whole = description.Description(
          [shards[i] for i in left], [records[i] for i in left],
          plan.rejected if plan else ())
      if not left or facts != whole.facts():
        damaged.append(description.INFO)
      damaged += description.misread(final, plan and plan.label_names)
      table = description.content(f"{final}/{rejected_lib.NAME}") or b""
      rejected = rejected_lib.count(table)
      # What is rejected while planning may be other files by now.
      stated = rejected_lib.table(
          row for record in whole.records for row in record["rejected"])
      if rejected is None or (
          set(stated.splitlines()) - set(table.splitlines())):
        damaged.append(rejected_lib.NAME)
      if description.content(f"{final}/{rejected_lib.DAMAGED}") != (
          rejected_lib.table(whole.damaged) if whole.damaged else None):
        damaged.append(rejected_lib.DAMAGED)
      # What is missing may be other clips by now.
      damaged += [name for name, count in description.count_tables(
          final).items() if count is None]
    if damaged:
      raise UserError(
          f"{final}: damaged, or not built by this program "
          f"({_some(damaged)}); the same command with --repair, and the "
          "--manual_dir and --annotations that it was built from, builds what "
          "is damaged anew")
    self._report("already built", whole, rejected)

  def _records(self, final, plan, shards, is_whole):
    """What the sidecars of shards say, None where either is damaged.

    Args:
      final: folder of the dataset.
      plan: of the sources; None if they are not known.
      shards: of the dataset.
      is_whole: tells whether a file has records at such offsets.

    Raises:
      UserError: they are of another plan.
    """
    def look(shard):
      path = f"{final}/{shard.name}"
      record, there = shards_lib.finished(path), tf.io.gfile.exists(path)
      whole = record and (not there or is_whole(path, record["offsets"]))
      return (record if whole else None), there

    with ThreadPoolExecutor(record_index.THREADS) as pool:
      found = list(pool.map(look, shards))
    # A shard without records may be missing if its split has none.
    full = {shard.split for shard, (record, _) in zip(shards, found)
            if not record or record["count"]}
    records = [record if there or shard.split not in full else None
               for shard, (record, there) in zip(shards, found)]
    return self._of_plan(final, plan, shards, records) if plan else records

  def _of_plan(self, final, plan, shards, records):
    """Those records that are of a plan; UserError if the dataset is not."""
    old = self._old_fingerprint(plan)
    fits = [record and record["fingerprint"] in (*shard.fingerprints, old)
            for shard, record in zip(shards, records)]
    others = [record for fit, record in zip(fits, records)
              if record and not fit]
    form = re.compile(
        rf"({self.name}-(.+)\.tfrecord-\d+-of-\d+)({re.escape(INDEX_SUFFIX)})?")
    there = [*filter(None, map(form.fullmatch, tf.io.gfile.listdir(final)))]
    names = {match[0] for match in there if not match[3]}
    # Each split has sidecars, also one without records; but not in version 1.
    self.info.read_from_directory(final)
    facts = description.read_facts(self.info)
    new = {shard.split for shard in shards} - facts.keys() - {
        match[2] for match in there}
    new = facts and new and any(
        record and "digest" in record for record in records)
    # Those of version 1 have all one fingerprint, and no digest of what they
    # say: where some are of the plan, another is damaged.
    if new or names - {shard.name for shard in shards} or others and (
        any("digest" in record for record in others) or not any(fits)):
      # Of all that are there: more clips are in shards of other names.
      with ThreadPoolExecutor(record_index.THREADS) as pool:
        sidecars = pool.map(
            lambda name: shards_lib.read_sidecar(f"{final}/{name}"),
            {match[1] for match in there})
        before = {key for record in sidecars if record
                  for key in record.get("keys", ())}
      now = {key for shard in shards for key in shard.keys}
      raise UserError(
          f"{final}: built before, from other sources than there are now ("
          f"{len(before & now)} of its clips are the same, {len(now - before)} "
          "are new, changed or were rejected); to build it from these, delete "
          f"it, or rename it to {os.path.basename(final)}.staging, from which "
          "what is the same is taken; or build with another --data_dir")
    return [record if fit else None for fit, record in zip(fits, records)]

  def _repair(self, final, plan):
    """Builds anew what is damaged of a finished dataset."""
    shards_lib.remove_temporaries(final, f"{self.name}-")
    shards = list(self._shards(plan))
    records = self._records(
        final, plan, shards, record_index.has_whole_records_at)
    damaged = [i for i, record in enumerate(records) if not record]
    mended = [shards[i].name for i in damaged]
    if damaged:
      for i, record in zip(damaged, self._build_shards(
          plan, final, [shards[i] for i in damaged])):
        records[i] = record
    whole, contents = self._describe(plan, shards, records)
    for name, content in contents.items():
      if description.content(f"{final}/{name}") != content:
        files.write_whole(f"{final}/{name}", content)
        mended.append(name)
    for name in ({shard.name for shard in shards} | {rejected_lib.DAMAGED}
                 ) - {shard.name for shard in whole.shards} - contents.keys():
      if tf.io.gfile.exists(f"{final}/{name}"):  # without records
        tf.io.gfile.remove(f"{final}/{name}")
    if mended:
      print(f"{final}: built anew: {_some(mended)}")
    self._report("repaired" if mended else "already built", whole,
                 len(whole.rejected))


def _some(names):
  """Names in a line."""
  more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
  return ", ".join(names[:SHOWN]) + more
