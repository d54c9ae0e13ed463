"""Plans: which clips a dataset is to have, and which of its shards each is in.

A plan of any size takes little memory: its clips pass by once, are sorted on
the local disk, and lie in a file beside the shards, those of a shard next to
each other.
"""
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import tensorflow as tf

from vatt import files
from vatt.errors import UserError

NAME = "plan.jsonl"  # a clip a line, while a dataset is built
SHARD_BYTES = 200_000_000
SHARDS = 16  # of a split at least, if it has as many clips


class Clip(NamedTuple):
  """A clip to build.

  `id` is unique in its split; `file` is where it comes from, relative to the
  manual_dir; `data` is what `Plan.read` needs besides, as JSON values.
  """
  id: str
  file: str
  data: tuple = ()


class Place(NamedTuple):
  """What decides on the shard of a clip.

  Attributes:
    group: clips of one group are in one shard, if that is not too large.
    order: of the clip in its group.
    size: bytes that its record is expected to have.
  """
  group: str
  order: float
  size: int


def place_alone(clip: Clip) -> Place:
  """The Place of a clip that can be in any shard, and is as large as others."""
  return Place(clip.id, 0.0, 1)


class Plan(NamedTuple):
  """What a dataset is going to build.

  Attributes:
    clips: of each, the built split that it is in, and the clip; they are taken
      once. Those of "train1_test2" are in both splits, and stored once.
    read: makes the examples of clips: yields for each, in order, a dict with
      the fields of `shards.features` (and shards.DAMAGE), or a Rejected. Can be
      pickled, as other processes call it.
    label_names: the classes, in the order of their numbers.
    sources: JSON value that changes when the content of the sources does.
    rejected: (id, file, reason) of what was found unusable while planning.
    tables: files that say what official lists have besides, by their names, of
      `rejected.HEADERS`.
    place: the Place of a clip.
    needed: splits that must have a clip.
    can_cut: whether clips of a group that is larger than a shard can be in
      several: given a clip of it.
    least: shards of each split, at least; SHARDS where it does not say.
    is_long: whether building takes so long that processes are started for it.
  """
  clips: Iterable[tuple[str, Clip]]
  read: Callable[[Sequence[Clip]], Iterator[Any]]
  label_names: tuple[str, ...] = ()
  sources: Any = None
  rejected: Sequence[tuple[str, str, str]] = ()
  tables: Mapping[str, bytes] = MappingProxyType({})
  needed: Sequence[str] = ()
  place: Callable[[Clip], Place] = place_alone
  can_cut: Callable[[Clip], bool] = lambda clip: True
  least: Mapping[str, int] = MappingProxyType({})
  is_long: bool = False


class Shard(NamedTuple):
  """What a shard is to hold.

  Attributes:
    split: the built split that it is of.
    name: of its file.
    offset, size: of its clips in the plan's file, bytes.
    count: of its clips.
    fingerprint: SHA-256 of all that it depends on.
  """
  split: str
  name: str
  offset: int
  size: int
  count: int
  fingerprint: str


def draw(bound: int, *site: object) -> int:
  """A random number in 0 ... bound-1: a hash of where it is used.

  All that is random in a dataset is drawn so, from the clip's id and a name for
  the choice: the same clip is the same bytes whenever and wherever it is built.
  """
  digest = hashlib.sha256("\0".join(map(str, site)).encode()).digest()
  return int.from_bytes(digest[:8], "big") % bound


def keys_of(clips: Iterable[Clip], common: Any) -> list[str]:
  """A hash for each clip of it and of what all clips depend on, JSON values."""
  first = hashlib.sha256(json.dumps(common).encode())
  keys = []
  for clip in clips:
    digest = first.copy()
    digest.update(json.dumps(clip).encode())
    keys.append(digest.hexdigest()[:32])
  return keys


def store(plan: Plan, path: str, base: str, common: Any,
          shard_bytes: int = SHARD_BYTES) -> list[Shard]:
  """Sorts the clips of a plan into shards, and writes them.

  Groups of clips are sorted by SHA-256(split, group), and that sequence is cut
  into shards of about equal bytes. The order has nothing to do with that of the
  sources, so every shard is a fair sample, as far as groups are kept together;
  and it is the same on every machine.

  Args:
    plan: its clips are taken here.
    path: of the file to write.
    base: how the names of shards begin.
    common: what all clips depend on, JSON values.
    shard_bytes: bytes that a shard is to have.

  Returns:
    The shards, none of them without a clip: of one split after the other, those
    to train first.

  Raises:
    UserError: a clip is there twice, or there is none.
  """
  # Of no name: in memory as long as it is small, else in a file that goes with
  # the process.
  table = sqlite3.connect("")
  table.execute("CREATE TABLE clips (split, hash, place, id, line, size)")

  def rows():
    for split, clip in plan.clips:
      group, order, size = plan.place(clip)
      key = hashlib.sha256(f"{split}\0{group}".encode()).digest()[:16]
      yield (split, key, order, clip.id, json.dumps(clip), size)

  table.executemany("INSERT INTO clips VALUES (?, ?, ?, ?, ?, ?)", rows())
  totals = {split: (count, size) for split, count, size in table.execute(
      "SELECT split, COUNT(*), SUM(size) FROM clips GROUP BY split")}
  for split in (*plan.needed, *([] if totals else ["train"])):
    if split not in totals:
      raise UserError(f"no clip for split {split!r}")
  shards = []

  def write(temporary):
    offset = 0
    with tf.io.gfile.GFile(temporary, "wb") as file:
      for split in sorted(totals, key=split_order):
        count, total = totals[split]
        number = min(count, max(plan.least.get(split, SHARDS),
                                -(-total // shard_bytes)))
        found = []
        for lines in _cut(table, plan, split, number, total):
          data = b"".join(line.encode() + b"\n" for line in lines)
          file.write(data)
          keys = keys_of((read_clip(line) for line in lines), common)
          found.append((offset, len(data), len(lines), hashlib.sha256(
              "\n".join(keys).encode()).hexdigest()))
          offset += len(data)
        shards.extend(Shard(
            split, f"{base}-{split}.tfrecord-{i:05d}-of-{len(found):05d}",
            *facts) for i, facts in enumerate(found))
    return offset

  try:
    files.write_whole_by(path, write)
  finally:
    table.close()
  return shards


def split_order(name: str) -> tuple[bool, str]:
  """Key to sort splits by: those to train first."""
  return not name.startswith("train"), name


def _cut(table, plan, split, number, total):
  """Yields the lines of each shard of a split.

  Of all bytes, a shard has those up to (i + 1) / number. A clip is in the one
  in which it ends; so is a group, but if it is larger than a shard.
  """
  lines, current = [], -1
  for group, end, size in _groups(table, split):
    parts = [(line, end) for line, _, _ in group]
    if size * number > total and plan.can_cut(read_clip(group[0][0])):
      parts = [(line, own) for line, own, _ in group]
    for line, at in parts:
      shard = (at * number - 1) // total
      if shard != current and lines:
        yield lines
        lines = []
      current = shard
      lines.append(line)
  yield lines


def _groups(table, split):
  """Yields of each group of a split its clips, as (line, bytes of all up to its
  end, id); the bytes up to its end; and its own."""
  group, last, size, end = [], None, 0, 0
  for key, name, line, own in table.execute(
      "SELECT hash, id, line, size FROM clips WHERE split = ? "
      "ORDER BY hash, place, id", (split,)):
    if key != last and group:
      yield group, end, size
      group, size = [], 0
    elif group and name == group[-1][2]:
      raise UserError(f"{read_clip(line).file}: clip id {name!r} occurs twice "
                      f"in split {split!r}")
    size, end, last = size + own, end + own, key
    group.append((line, end, name))
  yield group, end, size


def read_clip(line: str | bytes) -> Clip:
  """The Clip of a line of a plan's file."""
  return Clip(*json.loads(line))


def read_clips(path: str, shard: Shard) -> list[Clip]:
  """The clips of a shard, of a plan's file."""
  with tf.io.gfile.GFile(path, "rb") as file:
    file.seek(shard.offset)
    return [read_clip(line) for line in file.read(shard.size).splitlines()]
