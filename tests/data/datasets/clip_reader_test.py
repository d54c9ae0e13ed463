"""Clips of a file in one pass of a decoder, which may be lost in its midst."""
import os
import shutil

import numpy as np
import pytest

from tests import lost_decoders
from vatt.data.datasets import clips
from vatt.data.ingest import encoding, plans, shards, workers
from vatt.data.ingest.workers import Workers
from vatt.errors import UserError

OPTIONS = clips.Options(fps=5.0, size=32, audio_rate=8000)


class Disturbed(Workers):
  """Notes the passes that are begun, and disturbs them."""
  passes = []

  def stream(self, limit, function, *args):
    assert function is encoding.read_clips
    path, spans, *_ = args
    self.passes.append((os.path.basename(path), [start for start, _ in spans]))
    return super().stream(limit, lost_decoders.disturbed, *args)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, media):
  folder = tmp_path_factory.mktemp("media")
  media.write_media(
      folder / "good.mp4", [media.numbered(i) for i in range(30)],
      media.clicks([0.5, 2.5], 6), rate=5)
  for name in ("crash", "hang", "slow", "kill", "last"):
    os.link(folder / "good.mp4", folder / f"{name}.mp4")
  (folder / "none.mp4").write_bytes(b"no media")
  return folder


@pytest.fixture(scope="module")
def clips_of(folder):
  """A function of names of files -> their clips, six of each."""
  return lambda *names: [plans.Clip(f"{name}:{i}", f"{name}.mp4", (
      float(i), i + 1.0 if i < 5 else None, [i], [f"second {i}"],
      os.path.getsize(folder / f"{name}.mp4")))
                         for name in names for i in range(6)]


def same(one, other):
  assert one.keys() == other.keys()
  for field in one:
    if field != "id":
      np.testing.assert_array_equal(one[field], other[field])


def test_who_is_lost_costs_its_clip_alone(folder, clips_of, monkeypatch):
  alone = clips.ClipReader(str(folder), OPTIONS)
  good = [example for clip in clips_of("good") for example in alone([clip])]
  assert all(len(example["frames"]) == 5 and len(example["audio"]) == 16_000
             for example in good)
  monkeypatch.setattr(clips, "Workers", Disturbed)
  monkeypatch.setattr(clips, "LIMIT_PER_SECOND", 0)
  monkeypatch.setattr(clips, "LIMIT", 0.6)
  (folder / "kill.mp4.once").touch()
  names = ("good", "crash", "hang", "kill", "none", "last")
  read = clips.ClipReader(str(folder), OPTIONS)
  Disturbed.passes.clear()
  found = list(read(clips_of(*names)))
  assert len(found) == 36
  assert Disturbed.passes == [
      ("good.mp4", [0, 1, 2, 3, 4, 5]),
      ("crash.mp4", [0, 1, 2, 3, 4, 5]), ("crash.mp4", [2]),
      ("crash.mp4", [3, 4, 5]),
      ("hang.mp4", [0, 1, 2, 3, 4, 5]), ("hang.mp4", [3]),
      ("hang.mp4", [4, 5]),
      ("kill.mp4", [0, 1, 2, 3, 4, 5]), ("kill.mp4", [2]),
      ("kill.mp4", [3, 4, 5]),
      ("none.mp4", [0, 1, 2, 3, 4, 5]),
      ("last.mp4", [0, 1, 2, 3, 4, 5])]
  reasons = {"crash:2": "the decoder crashed (exit code -6)",
             "hang:3": "took longer than 1 s"}
  for clip, example in zip(clips_of(*names), found):
    if clip.id in reasons:
      assert str(example) == reasons[clip.id]
    elif clip.file == "none.mp4":
      assert str(example).startswith("no readable media")
    else:
      assert example["id"] == clip.id
      same(example, good[int(clip.data[0])])


def test_a_file_that_takes_too_long_again_and_again_is_given_up(
    folder, clips_of, monkeypatch):
  monkeypatch.setattr(clips, "Workers", Disturbed)
  monkeypatch.setattr(clips, "LIMIT_PER_SECOND", 0)
  monkeypatch.setattr(clips, "LIMIT", 0.3)
  read = clips.ClipReader(str(folder), OPTIONS)
  Disturbed.passes.clear()
  first, *others, last = read(clips_of("slow"))
  assert first["id"] == "slow:0"
  assert all(isinstance(other, shards.Rejected) for other in (*others, last))
  assert str(last) == "took longer than 0 s, as the clips before it"
  assert Disturbed.passes == [
      ("slow.mp4", [0, 1, 2, 3, 4, 5]), ("slow.mp4", [1]),
      ("slow.mp4", [2, 3, 4, 5]), ("slow.mp4", [3, 4, 5])]


def test_what_a_clip_may_take_depends_on_what_is_before_it(folder, monkeypatch):
  limits = []

  class Noted(Workers):
    def stream(self, limit, *args):
      limits.append(limit)
      return super().stream(limit, *args)

  monkeypatch.setattr(clips, "Workers", Noted)
  read = clips.ClipReader(str(folder), OPTIONS)
  clip = lambda start, end: plans.Clip("x", "good.mp4", (start, end, [], [], 1))
  for group, seconds in (
      ([clip(0.0, 1.0)], 1), ([clip(3.0, 4.0)], 4), ([clip(3.0, None)], 603),
      ([clip(1.0, 2.0), clip(1.5, 2.5), clip(5.5, 6.0)], 3.5)):
    assert len(list(read(group))) == len(group)
    assert limits.pop() == 120 + 2 * seconds and not limits


def test_sound_of_another_file_is_another_pass(folder, clips_of, monkeypatch):
  monkeypatch.setattr(clips, "Workers", Disturbed)
  read = clips.ClipReader(str(folder), OPTIONS)
  Disturbed.passes.clear()
  one, two, three = clips_of("good")[:3]
  two = two._replace(data=(*two.data, "last.mp4", 1))
  three = three._replace(data=(*three.data, "last.mp4", 1))
  assert len(list(read([one, two, three]))) == 3
  assert Disturbed.passes == [("good.mp4", [0]), ("good.mp4", [1, 2])]


def test_what_has_gone_is_no_fault_of_the_clip(
    folder, clips_of, tmp_path, media):
  """As of a disk that is no longer mounted; nor what another writes."""
  read = clips.ClipReader(str(tmp_path), OPTIONS)
  for name in "good.mp4", "none.mp4":
    shutil.copy(folder / name, tmp_path)
  silent = media.write_media(
      tmp_path / "silent.mp4", [media.numbered(i) for i in range(5)], rate=5)
  (good, *_), (none, *_) = clips_of("good"), clips_of("none")
  late = good._replace(data=(100.0, 101.0, *good.data[2:]))
  pair = plans.Clip("pair", "silent.mp4", (
      *good.data[:4], os.path.getsize(silent), "good.mp4", good.data[4]))
  *refused, taken = read([late, none, pair])
  assert all(isinstance(each, shards.Rejected) for each in refused)
  assert len(taken["audio"]) == 16_000
  with open(tmp_path / "good.mp4", "ab") as file:
    file.write(b"x")
  with pytest.raises(UserError, match=r"/good.mp4: \d+ bytes, expected \d+ as "
                     "when this command began; run it again$"):
    list(read([late]))
  for name in "good", "none":
    (tmp_path / f"{name}.mp4").unlink()
  for clip in pair, none:  # else the first would be there without its sound
    with pytest.raises(FileNotFoundError):
      list(read([clip]))


def test_a_reader_that_is_left_leaves_no_decoder_busy(folder, clips_of):
  read = clips.ClipReader(str(folder), OPTIONS)
  examples = read(clips_of("good"))
  assert next(examples)["id"] == "good:0"
  examples.close()
  assert not read._workers._idle  # it was ended, and waits for nobody


def test_one_decoder_reads_all_files_of_all_shards(
    folder, clips_of, tmp_path, monkeypatch):
  """As its start takes as long as decoding some seconds."""
  started, start = [], workers._start
  monkeypatch.setattr(workers, "_start", lambda: started.append(1) or start())
  plan, stored = plans.Plan(
      [("train", clip) for clip in clips_of("good", "none", "last")],
      clips.ClipReader(str(folder), OPTIONS), least={"train": 2},
      place=OPTIONS.place), str(tmp_path / "plan")
  names = [[], []]
  for own, shard in zip(names, plans.store(plan, stored, "x", ""), strict=True):
    shards.build(shards.Job(str(tmp_path), stored, "", plan.read,
                             tuple("012345")), shard)
    own += {clip.file for clip in plans.read_clips(stored, shard, "")}
  assert sorted(map(len, names)) == [1, 2] and len(started) == 1


def test_frames_are_as_coarse_as_the_configuration_says(folder, clips_of):
  clip, *_ = clips_of("good")
  fine, coarse = (next(clips.ClipReader(str(folder), options)([clip]))
                  for options in (OPTIONS, OPTIONS._replace(jpeg=20)))
  assert len(coarse["frames"]) == len(fine["frames"])
  assert sum(map(len, coarse["frames"])) < sum(map(len, fine["frames"]))
  assert coarse["audio"] == fine["audio"]
