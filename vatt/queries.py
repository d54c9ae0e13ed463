"""What a sentence, a film or a sound finds in an index of media."""
import fnmatch
import functools
import os
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vatt import similarity
from vatt.data import text
from vatt.errors import UserError
from vatt.index import File, Index, within
from vatt.inference import Model

BY = ("video", "audio", "both")
KINDS = ("video", "audio")
# Of faiss: windows up to which it looks at all; else the share of cells that it
# looks into.
EXACT, PROBED = 200_000, 1 / 16
KEPT = 3  # ways of comparing, of which the vectors stay in memory
# Files that are read at a time: each takes all cores, and memory. Sentences,
# which take a moment, wait for none.
_FILES = threading.BoundedSemaphore(2)


class Query(NamedTuple):
  """What is looked for.

  Attributes:
    vector: float32 [E], of unit length.
    space: "vt" or "va", that it is in.
    first: video or audio, which it is compared with where a window has both.
    note: what of it was not understood, in a line; or "".
  """
  vector: np.ndarray
  space: str
  first: str
  note: str = ""


class Hit(NamedTuple):
  """A moment that was found.

  Attributes:
    file: that it is in.
    name: of the file, from the folder that was searched.
    window: its number in the file.
    start, end: seconds of the file.
    score: cosine with the query.
  """
  file: File
  name: str
  window: int
  start: float
  end: float
  score: float


def of_text(model: Model, sentence: str) -> Query:
  """The query of a sentence.

  Raises:
    UserError: it has no word that the model knows.
  """
  vector = model.embed_text(sentence)
  understood, = text.understand(
      model.task.words, [sentence], model.config.data.words)
  return Query(vector, "vt", "video", understood.problem)


def of_file(model: Model, path: str, kind: str) -> Query:
  """The query of the pictures, or the sound, of a file: the mean over all of
  its windows.

  Args:
    model: of the index.
    path: of the file.
    kind: video or audio.

  Raises:
    UserError: it cannot be read, or has nothing of that kind.
  """
  embed = model.embed_video if kind == "video" else model.embed_audio
  with _FILES:
    return Query(embed(path, "va", windows="all"), "va", kind)


class Searcher:
  """Finds moments of indexed files.

  A sentence is compared in S_vt, a film or a sound in S_va, which is learned of
  what is seen and heard at once. A window counts by its pictures, or its sound
  if it has none; to a query of sound the other way round. `by` has it count by
  its pictures alone, its sound alone, or the mean cosine of those of them that
  it has.

  Args:
    model: of the index.
    index: of the files.
    folders: of the files that are searched.
    use_faiss: whether faiss compares, in place of NumPy: of more than EXACT
      windows it looks at those that are likely near.

  Attributes:
    model: that the index is of.
    files: that are searched, sorted by their paths.
    unusable: those that cannot be.

  Raises:
    UserError: no file of these folders can be used; faiss is not there.
  """

  def __init__(self, model: Model, index: Index, folders: Sequence[str],
               use_faiss: bool = False):
    self._faiss = _import_faiss() if use_faiss else None
    self.model, self._index, self._folders = model, index, folders
    found = within(index.read(), folders)
    self.files = [file for file in found if len(file.times)]
    self.unusable = [file for file in found if not len(file.times)]
    if not self.files:
      why = f": {self.unusable[0].problem}" if found else ""
      raise UserError(f"{', '.join(folders)}: none of {len(found)} files in the"
                      f" index can be used{why}; expected some that can")
    counts = [len(file.times) for file in self.files]
    self._times = np.concatenate([file.times for file in self.files])  # [N, 2]
    self._file = np.repeat(np.arange(len(counts)), counts)  # [N]
    self._first = np.cumsum([0, *counts])
    self._lock = threading.Lock()
    self._items = functools.lru_cache(KEPT)(self._make_items)
    self._engine = functools.cache(self._make_engine)

  @property
  def num_windows(self) -> int:
    """How many windows are searched."""
    return len(self._times)

  def find(self, query: Query, top: int = 10, by: str = "", kind: str = "",
           name: str = "", each: bool = False) -> list[Hit]:
    """The moments that are nearest to a query, the nearest first.

    Args:
      query: what is looked for.
      top: how many moments, at most.
      by: one of BY, or "" as of `Searcher`.
      kind: "video" for files that have pictures, "audio" for those that have
        none; "" for all.
      name: part of the file's path, or a pattern of it with * and ?, whatever
        the case; "" for all.
      each: whether a file may be found at several of its windows, and not only
        at the best.
    """
    by = by or f"{query.first} first"
    kept = np.array([_is_kept(file, kind, name) for file in self.files])
    with self._lock:
      items, valid = self._items(query.space, by)
      mask = valid & kept[self._file]
      total, asked = np.count_nonzero(mask), top if each else 4 * top
      while True:
        asked = min(asked, total)
        scores, rows = self._find(query, by, items, asked, mask)
        best = np.arange(len(rows)) if each else np.sort(
            np.unique(self._file[rows], return_index=True)[1])
        if len(best) >= top or asked == total:
          break
        asked *= 4  # too many were of the same files
    return [self._hit(rows[i], scores[i]) for i in best[:top]]

  def _hit(self, row, score):
    number = self._file[row]
    file = self.files[number]
    return Hit(file, self.name_of(file), int(row - self._first[number]),
               *map(float, self._times[row]), float(score))

  def name_of(self, file: File) -> str:
    """How a file is called: from its folder; of several, with that."""
    folder = max((folder for folder in self._folders if within([file], [folder])
                  ), key=len)
    name = os.path.relpath(file.path, os.path.realpath(folder))
    return name if len(self._folders) == 1 else os.path.join(folder, name)

  def _make_items(self, space, by):
    """What windows are compared by: float32 [N, E]; bool [N], which have it."""
    first = by.partition(" ")[0]
    if by in KINDS:
      items = self._index.vectors(self.files, f"{by}_{space}")
    elif by == "both":
      video, audio = (self._index.vectors(self.files, f"{kind}_{space}")
                      for kind in KINDS)
      # The cosine with the mean is the mean of the cosines.
      items = (video + audio) / 2
      for one in video, audio:
        items = np.where(np.isnan(items), one, items)
    else:
      items, second = (self._index.vectors(self.files, f"{kind}_{space}")
                       for kind in sorted(KINDS, key=lambda kind: kind != first)
                       )
      np.copyto(items, second, where=np.isnan(items))
    return items, np.isfinite(items).all(axis=1)

  def _find(self, query, by, items, top, mask):
    """Scores and numbers of the nearest windows that the mask has, [K]."""
    if not top:
      return np.zeros([0], np.float32), np.zeros([0], np.int64)
    if self._faiss:
      engine = self._engine(query.space, by)
      parameters = None if mask.all() else _parameters(
          self._faiss, engine, np.flatnonzero(mask))
      scores, rows = engine.search(query.vector[None], top, params=parameters)
      found = rows[0] >= 0  # of cells that are not looked into none is found
      return scores[0][found], rows[0][found]
    scores, rows = similarity.best(
        query.vector[None], items, top, None if mask.all() else mask)
    return scores[0], rows[0]

  def _make_engine(self, space, by):
    """The faiss index of `_make_items`: exact, and of more than EXACT windows
    an inverted file, of which PROBED cells are looked into."""
    faiss = self._faiss
    items, valid = self._items(space, by)
    flat = faiss.IndexFlatIP(items.shape[1])
    if len(items) <= EXACT:
      engine = flat
    else:
      cells = int(len(items) ** 0.5)
      engine = faiss.IndexIVFFlat(flat, items.shape[1], cells,
                                  faiss.METRIC_INNER_PRODUCT)
      # It is made at each start: cells need not be the best.
      engine.cp.niter, engine.cp.max_points_per_centroid = 8, 64
      engine.train(items[valid])
      engine.nprobe = max(1, int(PROBED * cells))
    engine.add(np.where(valid[:, None], items, 0.0))
    return engine


def _parameters(faiss, engine, rows):
  """Has faiss look at some rows only."""
  selector = faiss.IDSelectorBatch(rows)
  if isinstance(engine, faiss.IndexFlat):
    return faiss.SearchParameters(sel=selector)
  return faiss.SearchParametersIVF(sel=selector, nprobe=engine.nprobe)


def _import_faiss():
  """The module; UserError if it is not installed."""
  try:
    import faiss
  except ImportError:
    raise UserError("--faiss: faiss is not installed, expected it: pip install "
                    "faiss-cpu; or leave the flag out: NumPy searches exactly"
                    ) from None
  return faiss


def _is_kept(file, kind, name):
  """Whether a file is one of a kind and of a name, as of `Searcher.find`."""
  if kind and (kind == "video") != ("video" in file.kinds):
    return False
  path, name = file.path.lower(), name.lower()
  if set(name) & set("*?"):
    return fnmatch.fnmatchcase(path, name) or fnmatch.fnmatchcase(
        os.path.basename(path), name)
  return name in path
