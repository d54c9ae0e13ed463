"""Shards: files of records, each with a sidecar that vouches for it.

`<shard>.index.json` appears after its shard, and says what is in it: so a kill
at any moment leaves nothing that looks finished and is not. What a sidecar says
is believed if it is what was written, by its digest, and if the shard has its
size; what the shard holds, once the CRCs of all records are right.
"""
import concurrent.futures
import contextlib
import json
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from vatt.data import caption_files, record_files, record_index
from vatt.data.ingest import plans
from vatt.data.ingest.plans import Clip, Shard
from vatt.data.record_files import FOOTER, HEADER, INDEX_SUFFIX
from vatt.errors import one_line
from vatt.files import (
  TEMPORARY,
  know,
  listdir,
  write_whole,
  write_whole_by,
)

# What a reader of clips may add to an example: what of it is damaged, or "".
DAMAGE = "damage"
# What tells that a clip has some of it: a field of its example.
KINDS = {"pictures": "frames", "sound": "audio", "captions": "captions/text"}
# What a sidecar says.
FIELDS = {"fingerprint": str, "count": int, "bytes": int, "offsets": list,
          "rejected": list, "keys": list, "having": dict, "damaged": dict,
          "captions": list, "digest": str}


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
  the file), offsets, keys and captions (of each record, the clip's own), having
  (how many have pictures, sound, captions), rejected (id, file, reason),
  damaged (the same by key).

  Args:
    job: of all shards.
    shard: what it is to hold.
    progress: called with the number of clips done. May raise, to stop.
  """
  path = f"{job.folder}/{shard.name}"
  know(path)
  record = finished(path, shard.fingerprint)
  # What a store of objects has is what was written.
  if record and tf.io.gfile.exists(path) and ("://" in path or (
      record_files.has_whole_records_at(path, record["offsets"]))):
    progress(shard.count)
    return
  clips = plans.read_clips(job.plan, shard, job.common)
  keys = plans.keys_of(clips, job.common)
  record = {"fingerprint": shard.fingerprint, "count": 0, "bytes": 0,
            "offsets": [], "keys": [], "having": dict.fromkeys(KINDS, 0),
            "damaged": {}, "rejected": [], "captions": []}

  def write(temporary):
    with tf.io.TFRecordWriter(temporary) as writer:
      for clip, key, made in zip(
          clips, keys, _make(job, clips, keys), strict=True):
        if isinstance(made, Rejected):
          record["rejected"].append([clip.id, clip.file, one_line(made)])
        else:
          raw, example, damage = made
          writer.write(raw)
          record["offsets"].append(record["bytes"])
          record["keys"].append(key)
          record["captions"].append(caption_files.own_captions(example))
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
  write_whole(path + INDEX_SUFFIX, record_files.sidecar_of(record))


def _make(job, clips, keys):
  """Yields of each clip its record, as bytes and as an Example, and what of it
  is damaged; or the Rejected."""
  spec = features(job.label_names)
  serializer = example_serializer.ExampleSerializer(spec.get_serialized_info())

  def serialize(values):
    if isinstance(values, Rejected):
      return values
    values = dict(values)
    damage = values.pop(DAMAGE, "")
    example = serializer.get_tf_example(spec.encode_example(values))
    # Deterministic: the order of a map's keys may differ between processes.
    return example.SerializeToString(deterministic=True), example, damage

  known = job.known.find(keys) if job.known else {}
  made = map(serialize, job.read(
      [clip for clip, key in zip(clips, keys) if key not in known]))
  for clip, key in zip(clips, keys):
    if key not in known:
      yield next(made)
    elif raw := known[key].read():
      yield raw, tf.train.Example.FromString(raw), known[key].damage
    else:  # it is no longer what was written
      yield from map(serialize, job.read([clip]))
  for _ in made:  # to its end: the process of a reader that is left is ended
    raise ValueError("the reader yields more examples than there are clips")


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
  record = record_files.read_sidecar(path + INDEX_SUFFIX)
  if record is None or record.keys() != FIELDS.keys() or not all(
      isinstance(record[name], kind) for name, kind in FIELDS.items()):
    return None
  rows = [*record["rejected"], *record["damaged"].values()]
  if not record["count"] == len(record["offsets"]) == len(
      record["captions"]) or not all(
      isinstance(row, list) and len(row) == 3
      and all(isinstance(cell, str) for cell in row) for row in rows):
    return None
  return record


class Place(NamedTuple):
  """Where a record is: its file, the bytes there; and what of its clip is
  damaged."""
  file: str
  offset: int
  size: int
  damage: str

  def read(self) -> bytes | None:
    """The record; None if it is not what was written."""
    index = record_index.RecordIndex([self.file], np.array([0, 1]), np.array(
        [self.offset]), np.array([self.size]))
    try:
      return record_index.read_one(index, 0).numpy()
    except tf.errors.OpError:
      return None


class Known:
  """The records of finished shards that are of no use as they are: to be used
  again for the clips of others.

  Such are those of a stopped build that goes on with one file more: where the
  shards are cut has moved, and nearly all clips are the same. Where they are is
  in a file, and not in memory.
  """

  def __init__(self, path: str):
    """Reads what `set_aside` wrote."""
    self._path = path

  def find(self, keys: Sequence[str]) -> dict[str, Place]:
    """Where the records of clips are, by their keys, of those that there are.
    """
    with _table(self._path) as table:
      return {key: Place(*place) for key, *place in table.execute(
          "SELECT * FROM records WHERE key IN (SELECT value FROM json_each(?))",
          (json.dumps(keys),))}


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
  names = sorted(name.removesuffix(INDEX_SUFFIX)
                 for name in listdir(folder)
                 if name.endswith(INDEX_SUFFIX))
  with concurrent.futures.ThreadPoolExecutor(record_index.THREADS) as pool:
    others = [name for name, is_other in zip(names, pool.map(
        lambda name: not _has_fingerprint(
            f"{folder}/{name}", wanted.get(name)), names)) if is_other]
  if not others:
    return None
  with _table(path) as table:
    table.execute("CREATE TABLE records (key TEXT PRIMARY KEY, file, offset, "
                  "size, damage) WITHOUT ROWID")
    for name in others:
      file = f"{folder}/{name}"
      record = finished(file)
      if not record:
        continue
      if name in wanted:
        file = f"{file}.{uuid.uuid4().hex[:8]}"
        for suffix in ("", INDEX_SUFFIX):
          if tf.io.gfile.exists(f"{folder}/{name}{suffix}"):
            tf.io.gfile.rename(f"{folder}/{name}{suffix}", file + suffix)
      ends = [*record["offsets"][1:], record["bytes"]]
      table.executemany(
          "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)",
          ((key, file, offset, end - offset,
            record["damaged"].get(key, [""])[-1]) for key, offset, end in zip(
                record["keys"], record["offsets"], ends)))
    table.commit()
  return Known(path)


@contextlib.contextmanager
def _table(path):
  """A database of SQLite; what fails of it is an OSError, as of other files."""
  try:
    with contextlib.closing(sqlite3.connect(path)) as table:
      yield table
  except sqlite3.Error as error:
    raise OSError(f"{path}: {error}") from error


def _has_fingerprint(path, fingerprint):
  """Whether a shard's sidecar begins with a fingerprint: a look at each must
  cost little, where thousands are finished and none is of another plan."""
  if fingerprint is None:
    return False
  start = json.dumps({"fingerprint": fingerprint})[:-1].encode()
  with tf.io.gfile.GFile(path + INDEX_SUFFIX, "rb") as file:
    return file.read(len(start)) == start


def remove_temporaries(folder: str, prefix: str = "") -> None:
  """Removes what a kill left, of names that begin so; only who owns the folder
  may."""
  for name in listdir(folder):
    if name.startswith(prefix) and name.endswith(TEMPORARY):
      tf.io.gfile.remove(f"{folder}/{name}")
