"""What a query finds in an index: by hand, and as the model has it."""
import os
import sys
import threading

import numpy as np
import pytest

from vatt import queries
from vatt.errors import UserError
from vatt.index import File

NAN = [np.nan, np.nan]
UP, RIGHT, DOWN, LEFT = [0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]
SLANT = [0.6, 0.8]


class Hand:
  """An index of vectors that are written down: {path: (video, audio)} by the
  windows, in both spaces."""

  def __init__(self, table):
    self._table = table

  def read(self):
    files = []
    for number, path in enumerate(sorted(self._table)):
      pair = self._table[path]
      kinds = tuple(kind for kind, rows in zip(("video", "audio"), pair)
                    if not np.isnan(rows).all())
      count = len(pair[0])
      files.append(File(number, path, 0, 0, "" if count else "is broken",
                        np.arange(count)[:, None] + np.array([[0.0, 1.0]]),
                        kinds))
    return files

  def vectors(self, listed, space):
    return np.float32([row for file in listed for row in self._table[file.path][
        space.startswith("audio")]])


TABLE = {
    "/m/a.mp4": ([RIGHT, UP], [DOWN, LEFT]),
    "/m/b/mute.MP4": ([SLANT], [NAN]),
    "/m/b/sound.wav": ([NAN, NAN], [UP, RIGHT]),
    "/m/b/broken.mp4": ([], []),
    "/elsewhere/c.mp4": ([UP], [UP]),
}


@pytest.fixture
def searcher():
  return queries.Searcher(None, Hand(TABLE), ["/m"])


def query(vector, first="video"):
  return queries.Query(np.float32(vector), "vt", first)


def found(hits):
  return [(hit.name, hit.window, hit.start, round(hit.score, 4))
          for hit in hits]


def test_the_best_window_of_each_file(searcher):
  assert [file.path for file in searcher.unusable] == ["/m/b/broken.mp4"]
  assert searcher.num_windows == 5
  hits = searcher.find(query(UP))
  # Of equal ones the earlier; a window without pictures counts by its sound.
  assert found(hits) == [
      ("a.mp4", 1, 1.0, 1.0), ("b/sound.wav", 0, 0.0, 1.0),
      ("b/mute.MP4", 0, 0.0, 0.8)]
  assert hits[0].end == 2.0
  assert found(searcher.find(query(UP), top=1)) == [("a.mp4", 1, 1.0, 1.0)]
  assert found(searcher.find(query(UP), each=True, top=4)) == [
      ("a.mp4", 1, 1.0, 1.0), ("b/sound.wav", 0, 0.0, 1.0),
      ("b/mute.MP4", 0, 0.0, 0.8), ("a.mp4", 0, 0.0, 0.0)]


@pytest.mark.parametrize("first, by, wanted", [
    # Sound first, and pictures of what has none.
    ("audio", "", [("b/sound.wav", 0, 1.0), ("b/mute.MP4", 0, 0.8),
                   ("a.mp4", 1, 0.0)]),
    ("audio", "video", [("a.mp4", 1, 1.0), ("b/mute.MP4", 0, 0.8)]),
    ("video", "audio", [("b/sound.wav", 0, 1.0), ("a.mp4", 1, 0.0)]),
    # Means of 1 and 0 in the film; of what is there in the others.
    ("video", "both", [("b/sound.wav", 0, 1.0), ("b/mute.MP4", 0, 0.8),
                       ("a.mp4", 1, 0.5)]),
])
def test_what_is_compared(searcher, first, by, wanted):
  hits = searcher.find(query(UP, first), by=by)
  assert [(name, window, score) for name, window, _, score in found(hits)
          ] == wanted


@pytest.mark.parametrize("filters, wanted", [
    ({"kind": "audio"}, ["b/sound.wav"]),
    ({"kind": "video"}, ["a.mp4", "b/mute.MP4"]),
    ({"name": "mute"}, ["b/mute.MP4"]),
    ({"name": "*.mp4"}, ["a.mp4", "b/mute.MP4"]),
    ({"name": "?.mp4"}, ["a.mp4"]),
    ({"name": "/m/b/"}, ["b/sound.wav", "b/mute.MP4"]),
    ({"name": "[a]"}, []),
    ({"kind": "audio", "by": "video"}, []),
])
def test_filters(searcher, filters, wanted):
  assert [hit.name for hit in searcher.find(query(UP), **filters)] == wanted


def test_a_file_of_many_near_windows_does_not_hide_others():
  table = {"/m/long.mp4": ([UP] * 500, [NAN] * 500)} | {
      f"/m/{i}.mp4": ([RIGHT, SLANT], [NAN] * 2) for i in range(3)}
  searcher = queries.Searcher(None, Hand(table), ["/m"])
  assert found(searcher.find(query(UP), top=3)) == [
      ("long.mp4", 0, 0.0, 1.0), ("0.mp4", 1, 1.0, 0.8),
      ("1.mp4", 1, 1.0, 0.8)]


def test_of_several_folders_names_have_theirs():
  searcher = queries.Searcher(None, Hand(TABLE), ["/m/b", "/elsewhere"])
  assert [hit.name for hit in searcher.find(query(UP))] == [
      "/elsewhere/c.mp4", "/m/b/sound.wav", "/m/b/mute.MP4"]


def test_nothing_to_search_is_an_error():
  with pytest.raises(UserError, match="/none: none of 0 files in the index can"
                     " be used; expected some"):
    queries.Searcher(None, Hand(TABLE), ["/none"])
  table = {"/m/broken.mp4": ([], [])}
  with pytest.raises(UserError, match="none of 1 files .* used: is broken; "):
    queries.Searcher(None, Hand(table), ["/m"])


def test_queries_find_what_the_model_finds_nearest(indexed):
  """Every window of every file, compared one by one."""
  model, folder = indexed.model, indexed.folder
  searcher = queries.Searcher(model, indexed.index, [str(folder)])
  words = " ".join(model.task.words[:2])
  sentence = queries.of_text(model, f"{words} zyzzyva")
  assert sentence.note == (
      f"'{words} zyzzyva': not in the vocabulary: zyzzyva")
  film = queries.of_file(model, str(folder / "film.mkv"), "video")
  sound = queries.of_file(model, str(folder / "b/sound.wav"), "audio")
  names = ["film.mkv", "b/mute.mp4", "b/sound.wav"]
  vectors = model.embed_clip([str(folder / name) for name in names],
                             windows="all", each=True)
  for one, space, order in ((sentence, "vt", ("video", "audio")),
                            (film, "va", ("video", "audio")),
                            (sound, "va", ("audio", "video"))):
    wanted = []
    for i, name in enumerate(names):
      rows, times = next(pair for kind in order if len(
          (pair := vectors[f"{kind}_{space}"][i])[1]))
      scores = rows @ one.vector
      wanted.append((name, times[scores.argmax()][0], scores.max()))
    wanted.sort(key=lambda row: -row[2])
    hits = searcher.find(one)
    assert [(hit.name, hit.start) for hit in hits] == [
        row[:2] for row in wanted]
    np.testing.assert_allclose([hit.score for hit in hits],
                               [row[2] for row in wanted], atol=1e-5)
  with pytest.raises(UserError, match="'zyzzyva': of its words, zyzzyva, the v"
                     "ocabulary has none"):
    queries.of_text(model, "zyzzyva")
  with pytest.raises(UserError, match="mute.mp4: has no audio, expected media"):
    queries.of_file(model, str(folder / "b/mute.mp4"), "audio")


def test_a_sentence_does_not_wait_for_a_file(indexed, tmp_path):
  os.mkfifo(tmp_path / "film.mp4")  # whose reading waits for who writes
  model, word = indexed.model, indexed.model.task.words[0]
  errors = []

  def read():
    try:
      queries.of_file(model, str(tmp_path / "film.mp4"), "video")
    except UserError as error:
      errors.append(str(error))

  reader = threading.Thread(target=read)
  asker = threading.Thread(target=queries.of_text, args=(model, word))
  reader.start()
  with open(tmp_path / "film.mp4", "wb"):  # when it is being read
    asker.start()
    asker.join(30)
    waits = asker.is_alive()
  reader.join()
  asker.join()
  assert not waits
  assert len(errors) == 1 and "no readable media" in errors[0]


@pytest.mark.parametrize("cells", [False, True])
def test_faiss_finds_the_same(monkeypatch, cells):
  pytest.importorskip("faiss")
  if cells:  # an inverted file, of which all cells are looked into
    monkeypatch.setattr(queries, "EXACT", 100)
    monkeypatch.setattr(queries, "PROBED", 1)
  chance = np.random.default_rng(0)

  def rows(count):
    vectors = chance.normal(size=[count, 8])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).tolist()

  table = {f"/m/{i:03}.{'mp4' if i % 3 else 'wav'}": (
      rows(5) if i % 3 else [[np.nan] * 8] * 5, rows(5)) for i in range(300)}
  ours, theirs = (queries.Searcher(None, Hand(table), ["/m"], use_faiss)
                  for use_faiss in (False, True))
  for by in ("", *queries.BY):
    for filters in ({}, {"kind": "audio"}, {"name": "?1?.mp4"}, {"each": True}):
      one = query(rows(1)[0])
      mine, other = (each.find(one, by=by, **filters)
                     for each in (ours, theirs))
      assert [hit.name for hit in mine] == [hit.name for hit in other]
      assert mine or (by, *filters) == ("video", "kind")
      np.testing.assert_allclose([hit.score for hit in mine],
                                 [hit.score for hit in other], atol=1e-6)


def test_without_faiss_a_line_says_so(monkeypatch):
  monkeypatch.setitem(sys.modules, "faiss", None)
  with pytest.raises(UserError, match="--faiss: faiss is not installed, expect"
                     "ed it: pip install faiss-cpu"):
    queries.Searcher(None, Hand(TABLE), ["/m"], use_faiss=True)
