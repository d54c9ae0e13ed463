"""Which clips are in which shards: worked by hand, and by sorting in memory."""
import collections
import gc
import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys

import pytest

from vatt.data.ingest import plans, sorting
from vatt.errors import UserError
from vatt.files import aside, temporary_folder

ROOT = pathlib.Path(__file__).parents[3]


def make(clips, **fields):
  """A Plan of (split, id, file, order, bytes), which is all that it says."""
  facts = {}

  def taken():
    for split, name, file, order, size in clips:
      facts[name] = plans.Place(file, order, size)
      yield split, plans.Clip(name, file, (order,), (size,))

  return plans.Plan(taken(), read=None, place=lambda clip: facts[clip.id],
                    **fields)


def stored(tmp_path, plan, common="common", **options):
  """{name of a shard: ids of its clips, in order}, and the shards."""
  path = str(tmp_path / "plan.jsonl")
  shards = plans.store(plan, path, "x", common, **options)
  found = {}
  for shard in shards:
    clips = plans.read_clips(path, shard, common)
    assert shard.count == len(clips)
    found[shard.name] = [clip.id for clip in clips]
  assert [shards[i] for i in range(len(shards))] == list(shards)
  return found, shards


def files_in_order(files, split="train"):
  return sorted(files, key=lambda file: hashlib.sha256(
      f"{split}\0{file}".encode()).digest())


def test_clips_alone_are_cut_evenly_by_a_hash(tmp_path):
  ids = [f"clip{i}" for i in range(10)]
  clips = [plans.Clip(i, "file", (1, [2.5, "é"])) for i in ids]
  clips += [plans.Clip("clip0", "file")]
  found, _ = stored(tmp_path, plans.Plan(
      [("train", clip) for clip in clips[:10]] + [("test", clips[10])],
      read=None, least={"train": 4}))
  assert {name: len(each) for name, each in found.items()} == {
      **{f"x-train.tfrecord-{i:05d}-of-00004": n
         for i, n in enumerate([2, 3, 2, 3])},
      "x-test.tfrecord-00000-of-00001": 1}
  train = [i for name, each in found.items() if "train" in name for i in each]
  assert train == sorted(ids, key=lambda i: hashlib.sha256(
      b"train\0" + i.encode()).hexdigest())
  found, shards = stored(tmp_path, plans.Plan(
      [("train", clip) for clip in clips[:3]], read=None, least={"train": 4}))
  assert list(map(len, found.values())) == [1, 1, 1]
  by_id = {clip.id: clip for clip in clips[:3]}
  for shard in shards:
    clip, = plans.read_clips(str(tmp_path / "plan.jsonl"), shard, "common")
    assert json.dumps(clip) == json.dumps(by_id[clip.id])
  with pytest.raises(IndexError):
    shards[3]


def test_clips_of_a_file_are_in_one_shard(tmp_path):
  a, b, c, d = files_in_order("abcd")
  # All have 20 bytes; in two shards of 10, c ends in the second one.
  clips = [("train", f"{file}{i}", file, -i, 2) for file, count in (
      (a, 2), (b, 2), (c, 3), (d, 3)) for i in range(count)]
  random.Random(0).shuffle(clips)
  options = {"least": {"train": 1}}
  found, _ = stored(tmp_path, make(clips, **options), shard_bytes=10)
  assert list(found.values()) == [
      [f"{a}1", f"{a}0", f"{b}1", f"{b}0"],
      [f"{c}2", f"{c}1", f"{c}0", f"{d}2", f"{d}1", f"{d}0"]]


@pytest.mark.parametrize("can", [True, False])
def test_a_file_larger_than_a_shard(tmp_path, can):
  a, b, c = files_in_order("abc")
  # 30 bytes in three shards: b lies at 4 ... 24.
  clips = [("train", f"{file}{i}", file, i, 2) for file, count in (
      (a, 2), (b, 10), (c, 3)) for i in range(count)]
  asked = []
  found, _ = stored(tmp_path, make(
      clips, least={"train": 1},
      can_cut=lambda *clips: asked.extend(clips) or can), shard_bytes=10)
  assert [clip.id for clip in asked] == [f"{b}0", f"{b}9"]
  parts = [3, 5, 2] if can else [0, 0, 10]
  expected = [[f"{a}0", f"{a}1"], [], [f"{c}0", f"{c}1", f"{c}2"]]
  at = 0
  for i, count in enumerate(parts):
    expected[i][2 * (i == 0):0 if i == 2 else None] = [
        f"{b}{k}" for k in range(at, at + count)]
    at += count
  assert list(found.values()) == [each for each in expected if each]
  assert [name[-5:] for name in found] == ["00003" if can else "00002"] * len(
      found)


def test_as_many_shards_as_bytes_ask_for_and_sixteen_at_least(tmp_path):
  for count, size, number in ((1000, 1, 16), (1000, 50, 20), (5, 1, 5)):
    found, _ = stored(tmp_path, make(
        ("train", str(i), str(i), 0, size) for i in range(count)),
                      shard_bytes=2500)
    assert len(found) == number
    lengths = [len(each) for each in found.values()]
    assert max(lengths) - min(lengths) <= 1


def test_splits_come_to_train_first(tmp_path):
  names = ["test1", "train1_test2", "validation", "train2", "all1"]
  found, shards = stored(tmp_path, make(
      (split, f"{split}{i}", "", 0, 1) for i in range(2) for split in names))
  assert list(dict.fromkeys(shard.split for shard in shards)) == [
      "train1_test2", "train2", "all1", "test1", "validation"]
  for shard in shards:
    assert all(i.startswith(shard.split) for i in found[shard.name])


def test_what_is_refused(tmp_path):
  once = [("train", "a", "file", 0, 1), ("test", "a", "file", 0, 1)]
  stored(tmp_path, make(once))
  with pytest.raises(UserError, match="^file: clip id 'a' occurs twice in split"
                     " 'test'$"):
    stored(tmp_path, make(once + [("test", "b", "file", 0, 1), once[1]]))
  with pytest.raises(UserError, match="no clip for split 'train'"):
    stored(tmp_path, make([]))
  with pytest.raises(UserError, match="no clip for split 'test'"):
    stored(tmp_path, make(once[:1], needed=("train", "test")))


def test_fingerprints_change_with_what_a_shard_depends_on(tmp_path):
  def prints(change=lambda clip: clip, common="common"):
    clips = [change(plans.Clip(str(i), "file", (i,), ("x", i)))
             for i in range(40)]
    return [shard.fingerprint for shard in plans.store(plans.Plan(
        [("train", clip) for clip in clips], None), str(tmp_path / "plan"),
        "x", common)]

  first = prints()
  assert prints() == first and len(set(first)) == 16
  assert not set(prints(common="other")) & set(first)
  other = prints(lambda clip: clip._replace(
      data=(5.0,)) if clip.id == "5" else clip)
  assert sum(a != b for a, b in zip(first, other)) == 1
  # But not with where something lies.
  assert prints(lambda clip: clip._replace(where=("y",))) == first
  clip = plans.Clip("a", "file", (1,))
  assert plans.keys_of([clip], "x") == plans.keys_of(
      [clip._replace(where=("y",))], "x") != plans.keys_of([clip], "y")


def test_a_plan_that_is_written_anew_meanwhile(tmp_path):
  """As by a second build, while a job of the first one still runs elsewhere."""
  path = str(tmp_path / "plan.jsonl")
  _, (first, *_) = stored(tmp_path, make(
      ("train", f"a{i}", f"a{i}", 0, 1) for i in range(40)))
  whole = (tmp_path / "plan.jsonl").read_bytes()
  line = whole.splitlines(keepends=True)
  for other in (whole[:first.size - 2], line[-1] + whole, b"",
                whole.replace(b"a", b"b"), whole[:-1].replace(b"\n", b"\t", 1)):
    (tmp_path / "plan.jsonl").write_bytes(other)
    with pytest.raises(UserError, match=f"^{path}: no longer what it was when "
                       f"the build of {first.name} began, expected .*; run"):
      plans.read_clips(path, first, "common")
  (tmp_path / "plan.jsonl").write_bytes(whole)
  assert len(plans.read_clips(path, first, "common")) == first.count


def test_against_a_sort_in_memory(tmp_path):
  """5,000 clips of 300 files, some of them larger than a shard."""
  chance = random.Random(1)
  clips = []
  for i in range(300):
    split = chance.choice(["train", "test", "train_test"])
    for k in range(chance.choice([1, 3, 10, 20, 80])):
      clips.append((split, f"{i}:{k}", f"file{i}", k / 7,
                    chance.randrange(1, 2000)))
  clips = clips[:5000]
  chance.shuffle(clips)
  limit, cuttable = 60_000, lambda name: int(name.split(":")[0]) % 2 == 0
  found, _ = stored(tmp_path, make(
      clips, can_cut=lambda first, last: cuttable(last.id)), shard_bytes=limit)

  expected = []
  for split in ("train", "train_test", "test"):
    own = sorted((c for c in clips if c[0] == split), key=lambda c: (
        hashlib.sha256(f"{split}\0{c[2]}".encode()).hexdigest(), c[3]))
    total = sum(c[4] for c in own)
    number = max(16, -(-total // limit))
    sizes, ends, end = collections.Counter(), {}, 0
    for _, name, file, _, size in own:
      end += size
      sizes[file] += size
      ends[name] = ends[file] = end
    shards = [[] for _ in range(number)]
    for _, name, file, _, _ in own:
      alone = sizes[file] > total / number and cuttable(name)
      end = ends[name if alone else file]
      shards[next(i for i in range(number) if end <= (i + 1) * total / number
                  )].append(name)
    expected += [shard for shard in shards if shard]
  assert list(found.values()) == expected
  assert any(len({name.split(":")[0] for name in s}) == 1 for s in expected)


def test_rows_leave_the_disk_at_once():
  """And not when Python looks for cycles, which may be days later."""
  def files():
    return sum("etilqs" in os.path.realpath(path)
               for path in pathlib.Path("/proc/self/fd").iterdir())

  gc.disable()
  try:
    before = files()
    rows = sorting.Rows(((i, "x" * 1000) for i in range(4000)), 2, "", "")
    assert files() > before
    assert sum(1 for _ in rows.in_order(1)) == 4000
    del rows
    assert files() == before
  finally:
    gc.enable()


def test_large_files_are_where_sqlite_has_its_own(tmp_path, monkeypatch):
  for value, place in ((str(tmp_path), str(tmp_path)), ("", "/var/tmp"),
                       (f"{tmp_path}/none", "/var/tmp")):
    monkeypatch.setenv("TMPDIR", value)
    with temporary_folder() as path:
      assert os.path.dirname(path) == place
    assert not os.path.exists(path)
    with aside("s3://bucket/plan") as path:
      assert os.path.dirname(os.path.dirname(path)) == place


def test_no_room_to_sort(small_disk, python_env):
  """A file system of 1 MB, a real one, for what SQLite writes."""
  run = subprocess.run(
      [sys.executable, "-c", """
from vatt.data.ingest import sorting
from vatt.errors import UserError
for count, room in (100, "enough"), (10_000, "too little"):
  rows = ((i, "x" * 1000) for i in range(count))
  try:
    print(list(sorting.Rows(rows, 2, "", "").in_order(1))[-1][0], room)
  except UserError as error:
    print(error)
"""], env=python_env | {"TMPDIR": str(small_disk("1M"))}, cwd=ROOT,
      capture_output=True, text=True)
  assert run.stdout.splitlines() == [
      "99 enough", "a list cannot be sorted (database or disk is full), "
      "expected room for three times its size in the folder TMPDIR or, without "
      "that, in /var/tmp"], run.stderr
