"""Builds raw media into shards of records, in a way that survives a kill."""
import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_builder
from tqdm import tqdm

from vatt import files, locks
from vatt.data import record_index
from vatt.data.ingest import description, engines, plans
from vatt.data.ingest import rejected as rejected_lib
from vatt.data.ingest import shards as shards_lib
from vatt.data.ingest.plans import Clip, Plan, Shard, draw
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
    with tempfile.TemporaryDirectory() as local:
      known = shards_lib.set_aside(folder, shards, f"{local}/known.sqlite")
      self._build_shards(plan, folder, stored, shards, known)
    records = [shards_lib.finished(f"{folder}/{shard.name}")
               for shard in shards]
    whole, contents = self._describe(plan, shards, records)
    # Of a split without records, what says why.
    keep = {shard.name for shard in whole.shards} | {
        shard.name + INDEX_SUFFIX for shard in shards}
    for name in tf.io.gfile.listdir(folder):
      if name not in keep:  # of another plan, or cut off
        tf.io.gfile.remove(f"{folder}/{name}")
    last = contents.pop(description.INFO)
    for name, content in contents.items():
      files.write_whole(f"{folder}/{name}", content)
    files.write_whole(f"{folder}/{description.INFO}", last)
    self._report("built", whole, len(whole.rejected))

  def _build_shards(self, plan, folder, stored, shards, known=None):
    job = shards_lib.Job(folder, stored, self._common(plan), plan.read,
                         plan.label_names, known)
    with tqdm(total=sum(shard.count for shard in shards), unit="clip",
              desc=self.info.full_name, mininterval=1) as bar:
      engines.run(job, shards, num_cores(), plan.is_long, bar.update)

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
    plan = self.make_plan(manual_dir) if self.has_sources(manual_dir) else None
    with tempfile.TemporaryDirectory() as local:
      stored = f"{local}/{plans.NAME}" if plan else None
      shards = self._store(plan, stored) if plan else [
          Shard(split, name, 0, 0, 0, "")
          for split, named in facts.items() for name, _ in named]
      records = self._records(
          final, plan, stored, shards, record_index.has_records_at)
    damaged = [shard.name for shard, record in zip(shards, records)
               if not record]
    if not damaged:
      whole = description.Description(
          shards, records, plan.rejected if plan else ())
      if not shards or facts != whole.facts():
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

  def _records(self, final, plan, stored, shards, is_whole):
    """What the sidecars of shards say, None where either is damaged.

    Args:
      final: folder of the dataset.
      plan: of the sources; None if they are not known.
      stored: the file of its clips.
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
    if plan:
      self._check_plan(final, plan, stored, shards, records)
    return records

  def _check_plan(self, final, plan, stored, shards, records):
    """Raises UserError if a dataset is not of a plan."""
    form = re.compile(
        rf"({self.name}-.+\.tfrecord-\d+-of-\d+)({re.escape(INDEX_SUFFIX)})?")
    there = [*filter(None, map(form.fullmatch, tf.io.gfile.listdir(final)))]
    # Each shard has a sidecar, also one without records.
    if all(record is None or record["fingerprint"] == shard.fingerprint
           for shard, record in zip(shards, records)) and (
        {match[1] for match in there} <= {shard.name for shard in shards}):
      return
    # Of all that are there: more clips are in shards of other names.
    with ThreadPoolExecutor(record_index.THREADS) as pool:
      sidecars = pool.map(
          lambda name: shards_lib.read_sidecar(f"{final}/{name}"),
          {match[1] for match in there})
      before = {key for record in sidecars if record for key in record["keys"]}
    now = {key for shard in shards for key in plans.keys_of(
        plans.read_clips(stored, shard), self._common(plan))}
    raise UserError(
        f"{final}: built before, from other sources than there are now ("
        f"{len(before & now)} of its clips are the same, {len(now - before)} "
        "are new, changed or were rejected); to build it from these, delete "
        f"its {description.INFO}, and what is the same is taken; or build with "
        "another --data_dir")

  def _repair(self, final, plan):
    """Builds anew what is damaged of a finished dataset."""
    shards_lib.remove_temporaries(final, f"{self.name}-")
    with tempfile.TemporaryDirectory() as local:
      stored = f"{local}/{plans.NAME}"
      shards = self._store(plan, stored)
      records = self._records(
          final, plan, stored, shards, record_index.has_whole_records_at)
      damaged = [shard for shard, record in zip(shards, records) if not record]
      self._build_shards(plan, final, stored, damaged)
    mended = [shard.name for shard in damaged]
    records = [shards_lib.finished(f"{final}/{shard.name}") for shard in shards]
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
