"""Builds raw media into shards of records, in a way that survives a kill."""
import collections
import itertools
import os
import re
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_builder
from tqdm import tqdm

from vatt import files, locks
from vatt.data import record_files, record_index
from vatt.data.ingest import description, engines, plans, threads
from vatt.data.ingest import rejected as rejected_lib
from vatt.data.ingest import shards as shards_lib
from vatt.data.ingest.plans import Clip, Plan, Shards, draw
from vatt.data.ingest.shards import INDEX_SUFFIX, Rejected, features
from vatt.errors import UserError, one_line
from vatt.host import num_cores

__all__ = ["Clip", "ClipsBuilder", "Plan", "Rejected", "draw", "features"]
SHOWN = 5  # names in a line


class ClipsBuilder(dataset_builder.FileReaderBuilder, skip_registration=True):
  """Base class of the datasets of this package.

  A dataset names its class after its module, states VERSION and implements
  `make_plan`. It raises VERSION whenever it would build other records from the
  same sources.

  tfds' own `download_and_prepare` works in a folder that it deletes after any
  failure and forgets after a kill. Here the shards gather in the folder that
  they are to be in, and dataset_info.json, which comes last, says that it is
  finished; a build that was stopped goes on from its last finished shards, and
  if its sources have changed, with all records of clips that are the same. Who
  builds owns the folder of all versions.
  """

  DEFAULT_CONFIG = None  # None for a dataset without configurations

  def __init__(self, *, data_dir: str, config: str | None = None,
               manual_dir: str | None = None,
               engine: Callable[..., None] | None = None):
    """Describes a build; nothing is read or written yet.

    Args:
      data_dir: folder of the built datasets.
      config: name of the configuration, checked by `make_plan`.
      manual_dir: folder of the raw media.
      engine: builds shards, engine(job, shards, progress), as
        `beam_engine.Engine` does; None for the cores of this machine.
    """
    self._manual_dir, self._engine = manual_dir, engine
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

  def _build_data_dir(self, given_data_dir):
    # tfds looks for other versions, and fails where a store has none yet.
    parts = (self.name, self.builder_config_name, str(self.version))
    return given_data_dir, os.path.join(given_data_dir, *filter(None, parts))

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
    info = f"{final}/{description.INFO}"
    try:
      if tf.io.gfile.exists(info) and not repair:
        self._check_finished(final, manual_dir)
        return
      with locks.own(os.path.dirname(final),
                     f"a build of {self.info.full_name}"):
        if not tf.io.gfile.exists(info):
          self._download_and_prepare(final, self.make_plan(manual_dir))
        elif repair:
          self._repair(final, self.make_plan(manual_dir))
        else:  # another has just built it
          self._check_finished(final, manual_dir)
    except (OSError, tf.errors.OpError) as error:
      raise UserError(
          f"{final}: the build stopped: {one_line(error)}; what is finished is "
          "kept, run the same command to go on") from error

  def _store(self, plan, path):
    """The shards of a plan, whose clips are written to a file."""
    try:
      return plans.store(plan, path, self.name, self._common(plan))
    except UserError as error:
      raise UserError(f"{self.info.full_name}: {error}") from None

  def _common(self, plan):
    return self.info.full_name, plan.label_names, plan.sources

  # ---- Building --------------------------------------------------------------
  def _download_and_prepare(self, folder, plan):
    """Builds what is not built yet, and what says that it is finished."""
    stored, is_new = f"{folder}/{plans.NAME}", not tf.io.gfile.exists(folder)
    tf.io.gfile.makedirs(folder)
    shards_lib.remove_temporaries(folder)
    try:
      shards = self._store(plan, stored)
    except UserError:
      if is_new:
        tf.io.gfile.rmtree(folder)
      raise
    with files.temporary_folder() as local:
      known = shards_lib.set_aside(folder, shards, f"{local}/known.sqlite")
      self._build_shards(plan, folder, stored, shards, known)
    with files.temporary_folder() as local:
      whole, names = self._describe(plan, shards, folder, local)
      # Of a split without records, sidecars say why.
      keep = {shard.name + INDEX_SUFFIX for shard in shards} | {
          shard.name for shard in shards if shard.split in whole.there()}
      for name in files.listdir(folder):
        # Of another plan, or cut off; but not what file systems have there.
        if not (name in keep or name.startswith(".")
                or tf.io.gfile.isdir(f"{folder}/{name}")):
          tf.io.gfile.remove(f"{folder}/{name}")
      for name in names:
        description.copy(f"{local}/{name}", f"{folder}/{name}")
    self._report("built", whole, whole.rejected)

  def _build_shards(self, plan, folder, stored, shards, known=None):
    job = shards_lib.Job(folder, stored, self._common(plan), plan.read,
                         plan.label_names, known)
    if self._engine or plan.is_long:
      plan.end()
    with tqdm(total=sum(shard.count for shard in shards), unit="clip",
              desc=self.info.full_name, mininterval=1) as bar:
      if self._engine:
        self._engine(job, shards, bar.update)
      else:
        engines.run(job, shards, num_cores(), plan.is_long, bar.update)

  def _describe(self, plan, shards, folder, local):
    """The Description of a dataset whose shards are all there, and the names of
    its files, which are written into a local folder."""
    def said(shard):
      path = f"{folder}/{shard.name}"
      record = shards_lib.finished(path, shard.fingerprint)
      if not record:
        raise UserError(
            f"{path}: missing, or another than was built, expected that none "
            "else writes there and, with --runner, that its workers write to "
            "this folder; run the same command to go on")
      return record

    whole = description.Description(local, self.name, plan.rejected)
    for split, of_split in itertools.groupby(shards, lambda shard: shard.split):
      whole.take(split, (record for _, record in _ahead(
          said, of_split, "shards")))
    there = {part for split in whole.there() for part in split.split("_")}
    for split, facts in whole.splits.items():
      for part in split.split("_"):
        if part not in there:
          raise UserError(
              f"{self.info.full_name}: every clip of split {part!r} was "
              "rejected; the first: {0}: {2}".format(*facts.first))
    return whole, whole.finish(
        self._info(), plan.label_names, self._get_filename_template,
        plan.tables)

  def _report(self, done, whole, rejected):
    """Prints the last line, and has tfds' methods know the dataset."""
    self.info.read_from_directory(self.data_path)
    line = f"{self.data_path}: {done} {whole.line(rejected)}"
    if rejected:
      line += f" (see {self.data_path}/{rejected_lib.NAME})"
    if whole.damaged():
      line += (f", damaged {whole.damaged()} (see {self.data_path}/"
               f"{rejected_lib.DAMAGED})")
    missing = description.count_rows(str(self.data_path), rejected_lib.MISSING)
    if missing:
      line += (f", listed and not used {missing} (see {self.data_path}/"
               f"{rejected_lib.MISSING})")
    print(line)

  # ---- What is finished ------------------------------------------------------
  def _check_finished(self, final, manual_dir):
    """Says that a dataset is finished, if it is and of this plan."""
    self.info.read_from_directory(final)
    counts = description.read_counts(self.info)
    plan = self.make_plan(manual_dir) if self.has_sources(manual_dir) else None
    with files.temporary_folder() as local:
      stored = f"{local}/{plans.NAME}" if plan else None
      shards = self._store(plan, stored) if plan else Shards(self.name, [
          (split, np.zeros(len(lengths), Shards.FACTS))
          for split, lengths in counts.items()])
      made = f"{local}/made"
      os.mkdir(made)
      whole = description.Description(made, self.name)
      damaged = self._look(final, plan, stored, shards, _has_records_at, whole)
      names = [shard.name for shard in damaged]
      if not damaged:
        whole.end()
        there = whole.there()
        if not there or counts != {split: list(facts.counts)
                                   for split, facts in there.items()}:
          names.append(description.INFO)
        names += description.misread(final, plan and plan.label_names)
        rejected = description.count_rows(final, rejected_lib.NAME)
        # What is rejected while planning may be other files by now.
        if rejected is None or not description.has_lines(
            f"{final}/{rejected_lib.NAME}", f"{made}/{rejected_lib.NAME}"):
          names.append(rejected_lib.NAME)
        names += [
            name for name in (rejected_lib.DAMAGED, *(
                name for split in there for name in whole.files_of(split)))
            if not description.is_same(f"{final}/{name}", f"{made}/{name}")]
        # What is missing may be other clips by now.
        names += [name for name in rejected_lib.HEADERS
                  if description.count_rows(final, name) is None]
    if names:
      raise UserError(
          f"{final}: damaged, or not built by this program "
          f"({_some(names)}); the same command with --repair, and the "
          "--manual_dir and --annotations that it was built from, builds what "
          "is damaged anew")
    self._report("already built", whole, rejected)

  def _look(self, final, plan, stored, shards, is_whole, whole=None):
    """Looks at all shards of a dataset.

    Args:
      final: folder of the dataset.
      plan: of the sources; None if they are not known.
      stored: the file of its clips.
      shards: of the dataset.
      is_whole: tells whether a file has records at such offsets.
      whole: a Description, which gets those that are not damaged.

    Returns:
      The damaged ones: the shard, or its sidecar.

    Raises:
      UserError: they are of another plan.
    """
    damaged = []

    def look(shard):
      path = f"{final}/{shard.name}"
      record, there = shards_lib.finished(path), tf.io.gfile.exists(path)
      whole = record and (not there or is_whole(path, record["offsets"]))
      return (record if whole else None), there

    def good(looked):
      """Yields what the sidecars of a split say."""
      bare, full = [], False  # shards without a file; whether there are records
      for shard, (record, there) in looked:
        if plan and record and record["fingerprint"] != shard.fingerprint:
          self._refuse(final, plan, stored, shards)
        full |= not record or record["count"] > 0
        if not record:
          damaged.append(shard)
        else:
          bare += [] if there else [shard]
          yield record
      if full:  # else they may be missing
        damaged.extend(bare)

    if plan:
      self._check_names(final, plan, stored, shards)
    for split, of_split in itertools.groupby(shards, lambda shard: shard.split):
      records = good(_ahead(look, of_split, "checked"))
      if whole:
        whole.take(split, records)
      else:
        collections.deque(records, 0)
    return damaged

  def _names(self, folder):
    """{name of a shard that a folder has, or a sidecar of: its split}."""
    form = re.compile(
        rf"({self.name}-(.+)\.tfrecord-\d+-of-\d+)({re.escape(INDEX_SUFFIX)})?")
    return {match[1]: match[2] for match in filter(None, map(
        form.fullmatch, files.listdir(folder)))}

  def _check_names(self, final, plan, stored, shards):
    """Raises UserError if a dataset has shards of another plan, or of the plan
    there is a split of which it has nothing."""
    there = self._names(final)
    self.info.read_from_directory(final)
    # Each shard has a sidecar, also one without records.
    splits = {*there.values(), *description.read_counts(self.info)}
    wanted = {shard.name for shard in shards}
    if not (there.keys() <= wanted
            and {shard.split for shard in shards} <= splits):
      self._refuse(final, plan, stored, shards)

  def _refuse(self, final, plan, stored, shards):
    """Raises the UserError of a dataset that is of another plan."""
    common = self._common(plan)
    # Of all that are there: more clips are in shards of other names.
    before, now = (np.unique(np.fromiter((
        int(key[:16], 16) for _, keys in found for key in keys), np.uint64))
                   for found in (
        _ahead(lambda name: (shards_lib.read_sidecar(f"{final}/{name}") or {}
                             ).get("keys", ()), self._names(final), "compared"),
        _ahead(lambda shard: plans.keys_of(plans.read_clips(
            stored, shard, common), common), shards, "compared")))
    same = len(np.intersect1d(before, now, assume_unique=True))
    raise UserError(
        f"{final}: built before, from other sources than there are now ("
        f"{same} of its clips are the same, {len(now) - same} "
        "are new, changed or were rejected); to build it from these, delete "
        f"its {description.INFO}, and what is the same is taken; or build with "
        "another --data_dir")

  def _repair(self, final, plan):
    """Builds anew what is damaged of a finished dataset."""
    shards_lib.remove_temporaries(final, f"{self.name}-")
    with files.temporary_folder() as local:
      stored = f"{local}/{plans.NAME}"
      shards = self._store(plan, stored)
      damaged = self._look(final, plan, stored, shards,
                           record_files.has_whole_records_at)
      if damaged:
        self._build_shards(plan, final, stored, damaged)
    mended = [shard.name for shard in damaged]
    with files.temporary_folder() as local:
      whole, names = self._describe(plan, shards, final, local)
      for name in names:
        if not description.is_same(f"{final}/{name}", f"{local}/{name}"):
          description.copy(f"{local}/{name}", f"{final}/{name}")
          mended.append(name)
    # Of splits without records, and what is damaged no more.
    stale = {shard.name for shard in shards
             if shard.split not in whole.there()} | {rejected_lib.DAMAGED, *(
                 name for split in whole.splits
                 for name in whole.files_of(split))} - {*names}
    for name in stale:
      if tf.io.gfile.exists(f"{final}/{name}"):
        tf.io.gfile.remove(f"{final}/{name}")
    if mended:
      print(f"{final}: built anew: {_some(mended)}")
    self._report("repaired" if mended else "already built", whole,
                 whole.rejected)


def _has_records_at(path, offsets):
  """Whether a file has records at such offsets, by their headers. What a store
  of objects has is whole, and each look at it takes a while."""
  return "://" in path or record_files.has_records_at(path, offsets)


def _ahead(function, items, what):
  """Yields (item, what a function returns of it), in order, with a bar if it
  takes some seconds."""
  yield from tqdm(
      threads.in_order(function, items, record_index.THREADS), what,
      unit="shard", mininterval=1, delay=3)


def _some(names):
  """Names in a line."""
  more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
  return ", ".join(names[:SHOWN]) + more
