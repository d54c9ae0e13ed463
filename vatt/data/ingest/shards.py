"""Shards: files of records, each with a sidecar that vouches for it.

`<shard>.index.json` appears after its shard, and says what is in it: so a kill
at any moment leaves nothing that looks finished and is not. What a sidecar says
is believed if it is what was written, by its digest, and if the shard has its
size; what the shard holds, once the CRCs of all records are right.
"""
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from vatt.data import record_index
from vatt.data.ingest import plans
from vatt.data.ingest.plans import Clip, Shard
from vatt.data.record_index import FOOTER, HEADER, INDEX_SUFFIX
from vatt.errors import one_line
from vatt.files import TEMPORARY, write_whole, write_whole_by

# What a reader of clips may add to an example: what of it is damaged, or "".
DAMAGE = "damage"
# What tells that a clip has some of it: a field of its example.
KINDS = {"pictures": "frames", "sound": "audio", "captions": "captions/text"}
# What a sidecar says.
FIELDS = {"fingerprint": str, "count": int, "bytes": int, "offsets": list,
          "rejected": list, "keys": list, "having": dict, "damaged": dict,
          "digest": str}


class Rejected(Exception):
  """A clip that cannot be built; the message is the reason, for the report."""


class Job(NamedTuple):
  """What all shards of a build have in common; other processes get it.

  Attributes:
    folder: where they are to be.
    plan: path of the plan's file.
    common: what all clips depend on, JSON values.
    read: of the Plan.
    label_names: the classes, in the order of their numbers.
    known: what may know records already.
  """
  folder: str
  plan: str
  common: Any
  read: Callable[[Sequence[Clip]], Iterator[Any]]
  label_names: tuple[str, ...]
  known: "Known | None" = None


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


def build(job: Job, shard: Shard,
          progress: Callable[[int], object] = lambda count: None) -> None:
  """Builds one shard, unless it is built: a pure function of its arguments.

  The sidecar that is written says: fingerprint, count (records), bytes (size of
  the file), offsets (of each record), keys (of each), having (how many have
  pictures, sound, captions), rejected (id, file, reason), damaged (the same by
  key).

  Args:
    job: of all shards.
    shard: what it is to hold.
    progress: called with the number of clips done. May raise, to stop.
  """
  path = f"{job.folder}/{shard.name}"
  record = finished(path, shard.fingerprint)
  if record and tf.io.gfile.exists(path) and (
      record_index.has_whole_records_at(path, record["offsets"])):
    progress(shard.count)
    return
  clips = plans.read_clips(job.plan, shard)
  keys = plans.keys_of(clips, job.common)
  serializer = example_serializer.ExampleSerializer(
      features(job.label_names).get_serialized_info())
  record = {"fingerprint": shard.fingerprint, "count": 0, "bytes": 0,
            "offsets": [], "keys": [], "having": dict.fromkeys(KINDS, 0),
            "damaged": {}, "rejected": []}

  def write(temporary):
    with tf.io.TFRecordWriter(temporary) as writer:
      for clip, key, made in zip(clips, keys, _made(job, clips, keys)):
        if isinstance(made, Rejected):
          record["rejected"].append([clip.id, clip.file, one_line(made)])
        else:
          raw, example, damage = made(serializer)
          writer.write(raw)
          record["offsets"].append(record["bytes"])
          record["keys"].append(key)
          if damage:
            record["damaged"][key] = [clip.id, clip.file, damage]
          record["bytes"] += HEADER + len(raw) + FOOTER
          record["count"] += 1
          for kind, field in KINDS.items():
            values = example.features.feature[field].bytes_list.value
            record["having"][kind] += any(map(len, values))
        progress(1)
    # The one of before vouches for another file of this name.
    before = read_sidecar(path) or {}
    same = all(before.get(name) == record[name]
               for name in ("fingerprint", "offsets", "bytes"))
    if not same and tf.io.gfile.exists(path + INDEX_SUFFIX):
      tf.io.gfile.remove(path + INDEX_SUFFIX)
    return record["bytes"]

  write_whole_by(path, write)
  write_whole(path + INDEX_SUFFIX, record_index.sidecar_of(record))


def _made(job, clips, keys):
  """Yields of each clip a function of a serializer, which returns the record,
  its Example and what of it is damaged; or the Rejected."""
  known = [job.known and job.known(key) for key in keys]
  read = iter(job.read(
      [clip for clip, found in zip(clips, known) if not found]))

  def of_known(raw, damage):
    return lambda serializer: (raw, tf.train.Example.FromString(raw), damage)

  def of_values(values):
    def serialize(serializer):
      values_ = dict(values)
      damage = values_.pop(DAMAGE, "")
      example = serializer.get_tf_example(
          features(job.label_names).encode_example(values_))
      # Deterministic: the order of a map's keys may differ between processes.
      return example.SerializeToString(deterministic=True), example, damage
    return serialize

  for found in known:
    if found:
      yield of_known(*found)
    else:
      values = next(read)
      yield values if isinstance(values, Rejected) else of_values(values)


def finished(path: str, fingerprint: str | None = None
             ) -> dict[str, Any] | None:
  """What the sidecar of a finished shard says, or None.

  Args:
    path: file of the shard. Without records, it may be missing.
    fingerprint: that it must have; None for any.
  """
  record = read_sidecar(path)
  if record is None or fingerprint not in (None, record["fingerprint"]):
    return None
  if not tf.io.gfile.exists(path):
    return None if record["count"] else record
  return (record if tf.io.gfile.stat(path).length == record["bytes"] else None)


def read_sidecar(path: str) -> dict[str, Any] | None:
  """What the sidecar of a shard says, or None if a build has not written it."""
  record = record_index.read_sidecar(path + INDEX_SUFFIX)
  if record is None or record.keys() != FIELDS.keys() or not all(
      isinstance(record[name], kind) for name, kind in FIELDS.items()):
    return None
  rows = [*record["rejected"], *record["damaged"].values()]
  if record["count"] != len(record["offsets"]) or not all(
      isinstance(row, list) and len(row) == 3
      and all(isinstance(cell, str) for cell in row) for row in rows):
    return None
  return record


class Known:
  """The records of finished shards that are of no use as they are: to be used
  again for the clips of others.

  Such are those of a stopped build that goes on with one file more: where the
  shards are cut has moved, and nearly all clips are the same.
  """

  def __init__(self, path: str):
    """Opens what `set_aside` wrote."""
    self._path, self._table = path, None

  def __reduce__(self):
    return Known, (self._path,)

  def __call__(self, key: str) -> tuple[bytes, str] | None:
    """The record of a clip, and what of the clip is damaged; None if there is
    none that is whole."""
    if self._table is None:
      # Its threads take turns.
      self._table = sqlite3.connect(self._path, check_same_thread=False)
    found = self._table.execute(
        "SELECT file, offset, damage FROM records WHERE key = ?", (key,)
    ).fetchone()
    if not found:
      return None
    file, offset, damage = found
    try:
      raw = record_index.read_one(record_index.RecordIndex(
          [file], np.zeros([1], np.int32), np.array([offset])), 0).numpy()
    except tf.errors.OpError:
      return None
    return raw, damage


def set_aside(folder: str, shards: Sequence[Shard], path: str
              ) -> Known | None:
  """Sets shards aside, under other names, that are not those of a plan.

  Args:
    folder: of a build.
    shards: that are to be in it.
    path: of a new local file, that says where the records of the others are.

  Returns:
    What finds these; None if there are none.
  """
  wanted = {shard.name: shard.fingerprint for shard in shards}
  table, count = None, 0
  for sidecar in sorted(tf.io.gfile.listdir(folder)):
    name = sidecar.removesuffix(INDEX_SUFFIX)
    file = f"{folder}/{name}"
    record = finished(file) if name != sidecar else None
    if not record or record["fingerprint"] == wanted.get(name):
      continue
    if name in wanted:
      file = f"{file}.{uuid.uuid4().hex[:8]}"
      for suffix in ("", INDEX_SUFFIX):
        if tf.io.gfile.exists(f"{folder}/{name}{suffix}"):
          tf.io.gfile.rename(f"{folder}/{name}{suffix}", file + suffix)
    if table is None:
      table = sqlite3.connect(path)
      table.execute("CREATE TABLE records (key TEXT PRIMARY KEY, file, offset, "
                    "damage) WITHOUT ROWID")
    table.executemany(
        "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)",
        ((key, file, offset, record["damaged"].get(key, [""])[-1])
         for key, offset in zip(record["keys"], record["offsets"])))
    count += 1
  if table is None:
    return None
  table.commit()
  table.close()
  return Known(path)


def remove_temporaries(folder: str, prefix: str = "") -> None:
  """Removes what a kill left, of names that begin so; only who owns the folder
  may."""
  for name in tf.io.gfile.listdir(folder):
    if name.startswith(prefix) and name.endswith(TEMPORARY):
      tf.io.gfile.remove(f"{folder}/{name}")
