"""Shards: files of records, each with a sidecar that vouches for it.

`<shard>.index.json` appears after its shard, and says what is in it: so a kill
at any moment leaves nothing that looks finished and is not. What a sidecar says
is believed if it is what was written, by its digest, and if the shard has its
size; what the shard holds, once the CRCs of all records are right.
"""
import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from vatt.data import record_index
from vatt.data.record_index import FOOTER, HEADER, INDEX_SUFFIX
from vatt.errors import one_line
from vatt.files import TEMPORARY, write_whole, write_whole_by

# What a reader of clips may add to an example: what of it is damaged, or "".
DAMAGE = "damage"
# What tells that a clip has some of it: a field of its example.
KINDS = {"pictures": "frames", "sound": "audio", "captions": "captions/text"}
# What a sidecar says. Version 1 had no digest, and its fingerprint was that of
# all shards of a plan; what it left is still good.
FIRST = {"fingerprint": str, "count": int, "bytes": int, "offsets": list,
         "rejected": list}
FIELDS = FIRST | {"keys": list, "having": dict, "damaged": dict, "digest": str}


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


class Shard(NamedTuple):
  """What a shard is to hold.

  Attributes:
    split: the built split that it is of.
    name: of its file.
    clips: that are in it.
    keys: a hash for each of all that its record depends on.
    former: what these were, if they were others.
  """
  split: str
  name: str
  clips: Sequence[Clip]
  keys: Sequence[str]
  former: Sequence[str] = ()

  @property
  def fingerprints(self) -> list[str]:
    """SHA-256 of all that the shard depends on; then what that was."""
    return [hashlib.sha256("\n".join(keys).encode()).hexdigest()
            for keys in (self.keys, self.former) if keys]


def keys_of(clips: Iterable[Clip], *common: Any) -> list[str]:
  """A hash for each clip of it and of what all clips depend on, JSON values."""
  first = hashlib.sha256(json.dumps(common).encode())
  keys = []
  for clip in clips:
    digest = first.copy()
    digest.update(json.dumps(clip).encode())
    keys.append(digest.hexdigest()[:32])
  return keys


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


def build(folder: str, shard: Shard, read: Callable[[Clip], dict[str, Any]],
          label_names: Sequence[str],
          fingerprints: Sequence[str] = (),
          known: Callable[[str], tuple[bytes, str] | None] = lambda key: None,
          progress: Callable[[int], object] = lambda count: None
          ) -> dict[str, Any]:
  """Builds one shard, or finds it built: a pure function of its arguments.

  Args:
    folder: where it is to be.
    shard: what it is to hold.
    read: makes the example of a clip, with DAMAGE if need be, or raises
      Rejected.
    label_names: the classes, in the order of their numbers.
    fingerprints: by which it is known, too, if it is there.
    known: the record of a clip by its key and its damage, or None; see `Known`.
    progress: called with the number of clips done. May raise, to stop.

  Returns:
    What the sidecar says: fingerprint, count (records), bytes (size of the
    file), offsets (of each record), keys (of each), having (how many have
    pictures, sound, captions), rejected (id, file, reason), damaged (the same
    by key). In version 1, keys, having and damaged are not there.
  """
  path = f"{folder}/{shard.name}"
  record = finished(path, *shard.fingerprints, *fingerprints)
  if record and tf.io.gfile.exists(path) and (
      record_index.has_whole_records_at(path, record["offsets"])):
    progress(len(shard.clips))
    return record
  spec = features(label_names)
  serializer = example_serializer.ExampleSerializer(spec.get_serialized_info())
  record = {"fingerprint": shard.fingerprints[0], "count": 0, "bytes": 0,
            "offsets": [], "keys": [], "having": dict.fromkeys(KINDS, 0),
            "damaged": {}, "rejected": []}

  def serialize(clip, key):
    found = known(key)
    if found:
      raw, damage = found
      return raw, tf.train.Example.FromString(raw), damage
    values = dict(read(clip))
    damage = values.pop(DAMAGE, "")
    example = serializer.get_tf_example(spec.encode_example(values))
    # Deterministic: the order of a map's keys may differ between processes.
    return example.SerializeToString(deterministic=True), example, damage

  def write(temporary):
    with tf.io.TFRecordWriter(temporary) as writer:
      for clip, key in zip(shard.clips, shard.keys):
        try:
          raw, example, damage = serialize(clip, key)
        except Rejected as reason:
          record["rejected"].append([clip.id, clip.file, one_line(reason)])
        else:
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
  return record


def finished(path: str, *fingerprints: str) -> dict[str, Any] | None:
  """What the sidecar of a finished shard says, or None.

  Args:
    path: file of the shard. Without records, it may be missing.
    fingerprints: hashes, one of which it must have; none for any.
  """
  record = read_sidecar(path)
  if record is None or (
      fingerprints and record["fingerprint"] not in fingerprints):
    return None
  if not tf.io.gfile.exists(path):
    return None if record["count"] else record
  return (record if tf.io.gfile.stat(path).length == record["bytes"] else None)


def read_sidecar(path: str) -> dict[str, Any] | None:
  """What the sidecar of a shard says, or None if a build has not written it."""
  record = record_index.read_sidecar(path + INDEX_SUFFIX)
  fields = FIELDS if record and "digest" in record else FIRST
  if record is None or record.keys() != fields.keys() or not all(
      isinstance(record[name], kind) for name, kind in fields.items()):
    return None
  rows = [*record["rejected"], *record.get("damaged", {}).values()]
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

  def __init__(self, folder: str, shards: Mapping[str, Sequence[str]]):
    """Sets those shards aside, under other names.

    Args:
      folder: of a build. None of them is written yet.
      shards: the fingerprints, by name, of the shards that are to stay.
    """
    self._numbers, self._damaged = {}, {}  # by key
    files, file_ids, offsets = [], [], []
    for sidecar in sorted(tf.io.gfile.listdir(folder)):
      name = sidecar.removesuffix(INDEX_SUFFIX)
      path = f"{folder}/{name}"
      record = finished(path) if name != sidecar else None
      if not record or record["fingerprint"] in shards.get(name, ()):
        continue
      if name in shards:
        path = f"{path}.{uuid.uuid4().hex[:8]}"
        for suffix in ("", INDEX_SUFFIX):
          if tf.io.gfile.exists(f"{folder}/{name}{suffix}"):
            tf.io.gfile.rename(f"{folder}/{name}{suffix}", path + suffix)
      for key, offset in zip(record.get("keys", ()), record["offsets"]):
        self._numbers[key] = len(offsets)
        file_ids.append(len(files))
        offsets.append(offset)
      self._damaged |= record.get("damaged", {})
      files.append(path)
    self._tensors = record_index.file_tensors(record_index.RecordIndex(
        files, np.asarray(file_ids, np.int32), np.asarray(offsets, np.int64)))

  def __call__(self, key: str) -> tuple[bytes, str] | None:
    """The record of a clip, and what of the clip is damaged; None if there is
    none that is whole."""
    if key not in self._numbers:
      return None
    try:
      raw = record_index.read_record(
          self._tensors, tf.constant(self._numbers[key], tf.int64)).numpy()
    except tf.errors.OpError:
      return None
    *_, damage = self._damaged.get(key, [""])
    return raw, damage


def remove_temporaries(folder: str, prefix: str = "") -> None:
  """Removes what a kill left, of names that begin so; only who owns the folder
  may."""
  for name in tf.io.gfile.listdir(folder):
    if name.startswith(prefix) and name.endswith(TEMPORARY):
      tf.io.gfile.remove(f"{folder}/{name}")
