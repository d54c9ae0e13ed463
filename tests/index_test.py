"""An index of media: what is in it, whatever happens to it and to them."""
import json
import os
import pathlib
import random
import shutil
import sqlite3
import time

import numpy as np
import pytest
from scipy.io import wavfile

from tests.searching import tone
from vatt import findings, inference, locks
from vatt import index as index_lib
from vatt.errors import UserError

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


@pytest.fixture
def model(indexed):
  """A pre-trained one, of windows of a second."""
  return indexed.model


@pytest.fixture
def films(indexed, tmp_path):
  """A copy of the media and their index, that a test may change."""
  return pathlib.Path(shutil.copytree(indexed.folder, tmp_path / "films"))


def rows(index, listed=None):
  """{path: (problem, times, {space: vectors})} of an index."""
  return {file.path: (file.problem, file.times.tolist(), {
      space: index.vectors([file], space) for space in index_lib.SPACES})
      for file in (index.read() if listed is None else listed)}


def assert_same(found, wanted):
  assert found.keys() == wanted.keys()
  for path, (problem, times, vectors) in wanted.items():
    assert found[path][:2] == (problem, times)
    for space, values in vectors.items():
      np.testing.assert_allclose(found[path][2][space], values, atol=1e-6)


def test_every_window_has_the_vectors_that_the_model_finds(model, films):
  index = index_lib.Index(films / ".vatt-index", model)
  listed = {os.path.relpath(file.path, films): file for file in index.read()}
  assert list(listed) == ["b/mute.mp4", "b/sound.wav", "broken.mp4", "film.mkv"]
  assert listed["film.mkv"].times.tolist() == [[0, 1], [1, 2], [2, 3]]
  assert [file.kinds for file in listed.values()] == [
      ("video",), ("audio",), (), ("video", "audio")]
  assert "no readable media" in listed["broken.mp4"].problem
  usable = [listed[name] for name in ("b/mute.mp4", "b/sound.wav", "film.mkv")]
  spaces = {space: index.vectors(usable, space) for space in index_lib.SPACES}
  for first, file in zip((0, 2, 5), usable):
    # A file on its own: other batches of the model.
    wanted = model.embed_clip(file.path, windows="all", each=True)
    for space, found in spaces.items():
      assert found.dtype == np.float32 and found.shape == (2 + 3 + 3, 8)
      mine = found[first:first + len(file.times)]
      vectors, times = wanted[space]
      if space.partition("_")[0] in file.kinds:
        np.testing.assert_allclose(mine, vectors, atol=1e-6)
        np.testing.assert_array_equal(file.times, times)
      else:
        assert np.isnan(mine).all() and not len(times)


def test_an_update_takes_what_changed_and_leaves_the_rest(
    model, films, monkeypatch):
  asked = []

  def infer(paths, *args):
    asked.append(sorted(os.path.relpath(path, films) for path in paths))
    return inference.Model.infer(model, paths, *args)

  monkeypatch.setattr(model, "infer", infer)
  index = index_lib.Index(films / ".vatt-index", model)
  before = {file.path: file for file in index.read()}
  written = os.stat(index.path).st_mtime_ns
  assert index.update([str(films)]) == (0, 0, 0, 4, 1)
  assert os.stat(index.path).st_mtime_ns == written
  shutil.copy(films / "b/sound.wav", films / "new.wav")
  wavfile.write(films / "b/sound.wav", 8000, tone(1.5, 3000))
  (films / "film.mkv").unlink()
  assert index.update([str(films)]) == (1, 1, 1, 2, 1)
  assert asked == [["b/sound.wav", "new.wav"]]
  after = {os.path.relpath(file.path, films): file for file in index.read()}
  assert sorted(after) == ["b/mute.mp4", "b/sound.wav", "broken.mp4", "new.wav"]
  assert after["b/sound.wav"].times.tolist() == [[0, 1], [0.5, 1.5]]
  assert after["b/mute.mp4"].id == before[str(films / "b/mute.mp4")].id
  # Its number is no other's: a page that is still open must not show another.
  assert after["b/sound.wav"].id not in [file.id for file in before.values()]
  # The same size at another time has changed; what cannot be used may be tried.
  os.utime(films / "new.wav", ns=(1, 1))
  index.update([str(films)])
  index.update([str(films)], retry=True)
  assert asked[1:] == [["new.wav"], ["broken.mp4"]]


def test_where_nothing_can_be_written_another_folder_is_named(model, films):
  (films / "file").touch()
  index = index_lib.Index(films / "file", model)
  with pytest.raises(UserError, match="films/file: cannot be written .*, expec"
                     "ted a folder with room; choose another by --index"):
    index.update([str(films)])


def test_what_may_have_passed_is_tried_again(model, films):
  folder = films / ".vatt-index"
  index = index_lib.Index(folder, model)
  before = rows(index)
  nothing = ", ".join(f"{space} = NULL" for space in index_lib.SPACES)

  def note(name, problem, more=""):
    with sqlite3.connect(index.path) as database:
      assert database.execute(
          f"UPDATE files SET problem = ? {more} "
          "WHERE CAST(path AS TEXT) LIKE ?",
          [problem, f"%{name}"]).rowcount == 1

  def problem_of(name):
    return rows(index)[str(films / name)][0]

  for problem in ("the decoder crashed (exit code -9)",
                  "took longer than 180 s",
                  "no readable media: Permission denied (tried again)"):
    note("film.mkv", problem, f", times = x'', {nothing}")
    assert index.update([str(films)]).changed == 1
    assert_same(rows(index), before)
  note("film.mkv", "nothing between 1.000 and 2.000 s")  # read in part
  assert index.update([str(films)]).changed == 1
  assert_same(rows(index), before)
  # Only once, where it takes long; and not what is as it is.
  note("broken.mp4", "took longer than 180 s")
  note("sound.wav", findings.SILENT)
  assert index.update([str(films)]).changed == 1
  assert problem_of("broken.mp4").startswith("no readable media")
  note("broken.mp4", "took longer than 180 s (tried again)")
  note("sound.wav", "nothing between 1.000 and 2.000 s (tried again)")
  assert index.update([str(films)]).kept == 4
  # What was read before is not given up.
  size, known = (films / "film.mkv").stat(), rows(index)
  (films / "film.mkv").write_bytes(b"?" * size.st_size)
  os.utime(films / "film.mkv", ns=(size.st_mtime_ns, size.st_mtime_ns))
  note("film.mkv", "the decoder crashed (exit code -9)")
  assert index.update([str(films)]).changed == 1
  assert index.update([str(films)]).changed == 0
  assert problem_of("film.mkv") == (
      "the decoder crashed (exit code -9) (tried again)")
  note("film.mkv", "")
  assert_same(rows(index), known)


def test_new_links_rename_nothing(model, films, capsys):
  index = index_lib.Index(films / ".vatt-index", model)
  for i in range(9):  # in whatever order the disk has them
    (films / f"a{i}").symlink_to(films / "b")
    (films / f"a{i}.mkv").symlink_to(films / "film.mkv")
  assert index.update([str(films)]) == (0, 0, 0, 4, 1)
  assert not capsys.readouterr().out


def test_what_cannot_be_read_now_is_not_gone(model, films, monkeypatch, capsys):
  index = index_lib.Index(films / ".vatt-index", model)
  kept, scan = [file.path for file in index.read()], os.scandir

  closed = films / "b"

  def refuse(path):
    if path == str(closed):
      raise PermissionError(13, "Permission denied", path)
    return scan(path)

  (films / "broken.mp4").unlink()
  monkeypatch.setattr(os, "scandir", refuse)
  assert index.update([str(films)]).dropped == 1
  assert [file.path for file in index.read()] == [
      path for path in kept if "broken" not in path]
  assert (f"{films}/b: left out, cannot be read (Permission denied)\n"
          in capsys.readouterr().out)
  closed = films
  assert index.update([str(films)]) == (0, 0, 0, 0, 0)
  assert len(index.read()) == 3


def test_folders_that_are_or_become_empty(model, films, tmp_path, capsys):
  index = index_lib.Index(films / ".vatt-index", model)
  (tmp_path / "empty").mkdir()
  both = [str(tmp_path / "empty"), str(films)]
  assert index.update(both).kept == 4
  assert f"{both[0]}: no media file in it\n" in capsys.readouterr().out
  os.rename(films / "b", tmp_path / "b")
  assert index.update(both).dropped == 2
  for name in ("film.mkv", "broken.mp4"):
    (films / name).unlink()
  assert index.update([str(films)]) == (0, 0, 2, 0, 0)
  assert index.read() == []
  with pytest.raises(UserError, match="films: no media file in it, expected"):
    index.update([str(films)])


def test_an_index_moves_with_its_media_and_knows_several_folders(
    model, films, tmp_path):
  moved = films.rename(tmp_path / "moved")
  index = index_lib.Index(moved / ".vatt-index", model)
  assert index.update([str(moved)]) == (0, 0, 0, 4, 1)

  other = index_lib.Index(tmp_path / "other", model)
  shutil.copytree(moved / "b", tmp_path / "second")
  both = [str(moved / "b"), str(tmp_path / "second")]
  assert other.update(both) == (4, 0, 0, 0, 0)
  # Files of a folder that is not asked for stay.
  assert other.update(both[1:]) == (0, 0, 0, 2, 0)
  assert len(other.read()) == 4
  assert len(index_lib.within(other.read(), both[1:])) == 2
  # A name that begins alike is no folder of it.
  assert not index_lib.within(other.read(), [str(tmp_path / "sec")])


def test_names_may_have_any_bytes(model, films, tmp_path):
  for name in (b"caf\xe9 %41?#.wav", b"it's \"new\"\n.wav"):
    shutil.copy(films / "b/sound.wav", os.fsencode(films) + b"/b/" + name)
  folder = str(films / "b")
  index = index_lib.Index(tmp_path / "i #?%41", model)
  index.update([folder])
  assert sorted(os.fsencode(os.path.basename(file.path))
                for file in index.read() if file.times.size) == [
      b"caf\xe9 %41?#.wav", b"it's \"new\"\n.wav", b"mute.mp4", b"sound.wav"]
  assert index.update([folder]).kept == 4


def test_an_index_of_another_model_is_refused(model, films):
  folder = films / ".vatt-index"
  index = index_lib.Index(folder, model)
  kept = rows(index)
  with pytest.raises(UserError, match="index.sqlite3: indexed by another model "
                     ".*, expected that of the workdir .*; choose another "
                     "--index, or remove it"):
    index_lib.Index(folder, inference.Model(FIXTURES / "agnostic"))
  with pytest.raises(UserError, match="indexed with --windows=all, not 4; expe"
                     "cted that, choose another --index, or remove"):
    index_lib.Index(folder, model, 4)
  for field, value, other in (("fps", 4.0, 2.0), ("words", 12, 3)):
    with sqlite3.connect(index.path) as database:
      (text,), = database.execute("SELECT json FROM facts")
      facts = json.loads(text)
      assert facts["config"]["data"][field] == value
      facts["config"]["data"][field] = other
      database.execute("UPDATE facts SET json = ?", [json.dumps(facts)])
    if field == "fps":
      with pytest.raises(UserError, match="with data.fps 2.0, not 4.0; expect"):
        index_lib.Index(folder, model)
      with sqlite3.connect(index.path) as database:
        database.execute("UPDATE facts SET json = ?", [text])
  with sqlite3.connect(index.path) as database:
    database.execute("UPDATE facts SET json = ''")
  with pytest.raises(UserError, match="index.sqlite3: damaged, expected an in"):
    index_lib.Index(folder, model)
  with sqlite3.connect(index.path) as database:
    database.execute("UPDATE facts SET json = ?", [json.dumps(facts)])
  # No vector depends on how many words of a sentence are read.
  assert_same(rows(index_lib.Index(folder, model)), kept)
  with sqlite3.connect(index.path) as database:
    database.execute("PRAGMA user_version = 9")
  with pytest.raises(UserError, match="of version 9, expected 1; remove"):
    index_lib.Index(folder, model)
  pathlib.Path(index.path).write_bytes(b"no database" * 500)
  with pytest.raises(UserError, match="cannot be read .file is not a database"):
    index_lib.Index(folder, model)
  with pytest.raises(UserError, match="a model of the task finetune, expected"):
    index_lib.Index(folder, inference.Model(FIXTURES / "tuned"))


def test_one_writes_and_others_read(model, films):
  index = index_lib.Index(films / ".vatt-index", model)
  (films / "new.mp4").touch()
  with locks.own(index.folder, "another update"):
    assert index.update([str(films / "b")]).kept == 2
    assert len(index.read()) == 4
    with pytest.raises(UserError, match="in use by another update, process"):
      index.update([str(films)])
  with pytest.raises(UserError, match="no media file in it, expected some"):
    index.update([str(films / ".vatt-index")])
  assert len(index.read()) == 4


def test_a_disk_without_room_is_told_in_a_line(model, films, small_disk):
  disk = small_disk("40k")
  shutil.copytree(films / ".vatt-index", disk / "index")
  os.rename(films / "b", films / "moved")
  index = index_lib.Index(disk / "index", model)
  kept = len(index.read())
  size = os.statvfs(disk)
  (disk / "full").write_bytes(b"0" * (size.f_bavail * size.f_bsize - 4096))
  with pytest.raises(UserError, match=r"cannot be written \(.*(full|space)"):
    index.update([str(films)])
  assert len(index_lib.Index(disk / "index", model).read()) == kept


def kill_until_done(python, films, folder, kills, wait):
  """Updates an index in processes that are killed; returns how many rows each
  kill found."""
  command = ("-m", "vatt.search", str(films), f"--index={folder}",
             f"--workdir={FIXTURES / 'specific'}")
  counts = []
  for _ in range(kills):
    process = python.start(*command)
    wait(folder)
    process.kill()
    process.communicate()
    counts.append(0)
    if (folder / index_lib.NAME).exists():
      # A reader rolls back what the kill has left.
      with sqlite3.connect(folder / index_lib.NAME) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [
            ("ok",)]
      counts[-1] = count_of(folder)
  done = python.run(*command)
  assert not done.returncode, done.stderr
  return counts


def many(films, count):
  """More files, so that an update takes a while."""
  for i in range(count):
    wavfile.write(films / f"sound{i}.wav", 8000, tone(2 + i % 3, 900 + 70 * i))


def count_of(folder):
  try:
    with sqlite3.connect(f"file:{folder}/{index_lib.NAME}?mode=ro", uri=True,
                         timeout=5) as database:
      return database.execute("SELECT COUNT(*) FROM files").fetchone()[0]
  except sqlite3.Error:
    return 0


def test_a_killed_update_goes_on(model, films, tmp_path, python):
  many(films, 8)
  deadline = time.monotonic() + 120

  def until_some(folder):
    while count_of(folder) < 2 and time.monotonic() < deadline:
      time.sleep(0.002)

  counts = kill_until_done(python, films, tmp_path / "killed", 1, until_some)
  assert 2 <= counts[0] < 12
  whole = index_lib.Index(tmp_path / "whole", model)
  whole.update([str(films)])
  assert_same(rows(index_lib.Index(tmp_path / "killed", model)), rows(whole))
  assert sorted(os.listdir(tmp_path / "killed")) == [index_lib.NAME]


@pytest.mark.slow
def test_an_index_is_the_same_after_ten_kills(model, films, tmp_path, python):
  many(films, 150)
  chance = random.Random(0)

  def wait(folder):
    start, known = time.monotonic(), count_of(folder)
    while count_of(folder) == known and time.monotonic() < start + 60:
      time.sleep(0.002)  # until it has begun
    time.sleep(chance.uniform(0.0, 0.3))

  counts = kill_until_done(python, films, tmp_path / "killed", 10, wait)
  print(counts)
  assert counts == sorted(counts) and counts[0] < counts[-1]
  whole = index_lib.Index(tmp_path / "whole", model)
  whole.update([str(films)])
  assert_same(rows(index_lib.Index(tmp_path / "killed", model)), rows(whole))
