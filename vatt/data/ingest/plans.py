"""Plans: which clips a dataset is to have, and which of its shards each is in.

A plan of any size takes little memory: its clips pass by once, are sorted on
the local disk, and lie in a file beside the shards, those of a shard next to
each other.
"""
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from vatt import files, stopping
from vatt.data import split_index
from vatt.data.ingest import sorting
from vatt.errors import UserError
from vatt.host import num_cores

NAME = "plan.jsonl"  # a clip a line, while a dataset is built
SHARD_BYTES = 200_000_000
SHARDS = 16  # of a split at least, if it has as many clips
LINES = 1000  # that are written at once
GROUPS = 64  # that are looked at together, by threads


class Clip(NamedTuple):
  """A clip to build.

  `id` is unique in its split; `file` is where it comes from, relative to the
  manual_dir; `data` is what `Plan.read` needs besides, as JSON values. So is
  `where`, if another one changes nothing in the record.
  """
  id: str
  file: str
  data: tuple = ()
  where: tuple = ()

  def key(self) -> str:
    """What its record depends on."""
    return json.dumps(self[:3])

  def line(self) -> str:
    """What `read_clip` reads: its key and, behind a tab, `where`."""
    return f"{self.key()}\t{json.dumps(self.where)}"


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
      several: given the first and the last of it. Threads ask.
    end: is called before other processes build, to end those of this one.
    least: shards of each split, at least; SHARDS where it does not say.
    is_long: whether building takes so long that processes are started for it,
      which takes some three seconds.
  """
  clips: Iterable[tuple[str, Clip]]
  read: Callable[[Sequence[Clip]], Iterator[Any]]
  label_names: tuple[str, ...] = ()
  sources: Any = None
  rejected: Sequence[tuple[str, str, str]] = ()
  tables: Mapping[str, bytes] = MappingProxyType({})
  needed: Sequence[str] = ()
  place: Callable[[Clip], Place] = place_alone
  can_cut: Callable[[Clip, Clip], bool] = lambda first, last: True
  end: Callable[[], object] = lambda: None
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


class Shards(Sequence[Shard]):
  """Shards of a plan: of each no more is in memory than 52 bytes, as a large
  dataset has a million.

  Args:
    base: how their names begin.
    splits: of one after the other, its name and the FACTS of each shard.
  """
  # offset, size, count, fingerprint
  FACTS = np.dtype([("", "<i8"), ("", "<i8"), ("", "<i4"), ("", "V32")])

  def __init__(self, base: str, splits: Iterable[tuple[str, np.ndarray]]):
    self._base, self._splits = base, list(splits)

  def __len__(self) -> int:
    return sum(len(facts) for _, facts in self._splits)

  def __getitem__(self, i: int) -> Shard:
    i = range(len(self))[i]  # IndexError where there is none
    for split, facts in self._splits:
      if i < len(facts):
        return self._shard(split, i, facts)
      i -= len(facts)

  def __iter__(self) -> Iterator[Shard]:
    for split, facts in self._splits:
      for i in range(len(facts)):
        yield self._shard(split, i, facts)

  def _shard(self, split, i, facts):
    offset, size, count, fingerprint = facts[i].item()
    return Shard(
        split, split_index.shard_name(self._base, split, i, len(facts)),
        offset, size, count, fingerprint.hex())


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
    digest.update(clip.key().encode())
    keys.append(digest.hexdigest()[:32])
  return keys


def store(plan: Plan, path: str, base: str, common: Any,
          shard_bytes: int = SHARD_BYTES) -> Shards:
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
    UserError: a clip is there twice, or there is none; or there is no room to
      sort them.
    Stopped: the program is to end.
  """
  totals = {}  # of each split: its clips, and their bytes
  rows = sorting.Rows(_rows(plan, totals), 7, base, "clip").in_order(5)
  row = next(rows, None)
  for split in (*plan.needed, *([] if row else ["train"])):
    if split not in totals:
      raise UserError(f"no clip for split {split!r}")
  shards = []  # (split, facts of each)

  def write(temporary):
    whole = sum(count for count, _ in totals.values())
    with tf.io.gfile.GFile(temporary, "wb") as file, tqdm(
        total=whole, desc=f"{base}: shards", unit="clip", mininterval=1,
        delay=3) as bar:
      offset, by_split = 0, itertools.groupby(
          itertools.chain([row], rows), lambda row: row[1])
      for split, rows_of_split in by_split:
        count, total = totals[split]
        number = min(count, max(plan.least.get(split, SHARDS),
                                -(-total // shard_bytes)))
        found = bytearray()
        for lines in _cut(_groups(rows_of_split), plan.can_cut, number, total):
          stopping.check()
          start, clips, digest = offset, 0, _begin(common)
          while part := list(itertools.islice(lines, LINES)):
            file.write(b"".join(part))
            _add(digest, part)
            offset += sum(map(len, part))
            clips += len(part)
            bar.update(len(part))
          found += np.array(
              [(start, offset - start, clips, digest.digest())],
              Shards.FACTS).tobytes()
        shards.append((split, np.frombuffer(found, Shards.FACTS)))
    return offset

  files.write_whole_by(path, write)
  return Shards(base, shards)


def split_order(name: str) -> tuple[bool, str]:
  """Key to sort splits by: those to train first."""
  return not name.startswith("train"), name


def _rows(plan, totals):
  """Yields (rank, split, hash of the group, order in it, id, line, bytes) of
  each clip: to be sorted by the first five. Adds up what each split has."""
  last, key = None, b""
  for split, clip in plan.clips:
    group, order, size = plan.place(clip)
    if (split, group) != last:  # as those of a file mostly come together
      last = split, group
      key = hashlib.sha256(f"{split}\0{group}".encode()).digest()[:16]
    count, total = totals.get(split, (0, 0))
    totals[split] = count + 1, total + size
    yield (int(split_order(split)[0]), split, key, order, clip.id,
           clip.line(), size)


def _groups(rows):
  """Yields the groups of a split: of each clip its line and its bytes.

  Raises:
    UserError: a clip occurs twice. Those of one id are neighbours, as they have
      one place.
  """
  for _, group in itertools.groupby(rows, lambda row: row[2]):
    found, last = [], None
    for _, split, _, _, name, line, size in group:
      if name == last:
        raise UserError(f"{read_clip(line).file}: clip id {name!r} occurs "
                        f"twice in split {split!r}")
      last = name
      found.append((f"{line}\n".encode(), size))
    yield found


def _cut(groups, can_cut, number, total):
  """Yields an iterator of the lines of each shard of a split; each is to be
  taken to its end before the next.

  Of all bytes, a shard has those up to (i + 1) / number. A clip is in the one
  in which it ends; so is a group, but if it is larger than a shard.
  """
  def may_cut(group):
    return can_cut(read_clip(group[0][0]), read_clip(group[-1][0]))

  def lines():
    """Yields (number of its shard, line) of each clip."""
    end = 0
    with ThreadPoolExecutor(num_cores()) as pool:
      while some := list(itertools.islice(groups, GROUPS)):
        sizes = [sum(size for _, size in group) for group in some]
        large = [size * number > total for size in sizes]
        cut = pool.map(may_cut, itertools.compress(some, large))
        for group, size, is_large in zip(some, sizes, large):
          at = end + size
          whole = not (is_large and next(cut))
          for line, own in group:
            end += own
            yield ((at if whole else end) * number - 1) // total, line

  for _, shard in itertools.groupby(lines(), lambda pair: pair[0]):
    yield (line for _, line in shard)


def _begin(common):
  """The digest of a shard without clips."""
  return hashlib.sha256(json.dumps(common).encode() + b"\n")


def _add(digest, lines):
  """Adds clips, by their lines in a plan's file."""
  digest.update(b"".join(line.partition(b"\t")[0] + b"\n" for line in lines))


def read_clip(line: str | bytes) -> Clip:
  """The Clip of a line of a plan's file."""
  key, where = line.split(b"\t" if isinstance(line, bytes) else "\t")
  return Clip(*json.loads(key), json.loads(where))


def read_clips(path: str, shard: Shard, common: Any) -> list[Clip]:
  """The clips of a shard, of a plan's file.

  Args:
    path: of the file.
    shard: as of `store`.
    common: as of `store`.

  Raises:
    UserError: the file is not the one that was written with the shard.
  """
  with tf.io.gfile.GFile(path, "rb") as file:
    file.seek(shard.offset)
    data = file.read(shard.size)
  lines, digest = data.splitlines(), _begin(common)
  _add(digest, lines)
  if (len(data), digest.hexdigest()) != (shard.size, shard.fingerprint):
    raise UserError(f"{path}: no longer what it was when the build of "
                    f"{shard.name} began, expected that no other writes it; "
                    "run the command again")
  return list(map(read_clip, lines))
