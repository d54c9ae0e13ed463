"""A trained model in use: vectors, labels and rankings of files and arrays."""
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.special
import tensorflow as tf
from ml_collections import ConfigDict

from vatt import fields, findings, restore, similarity
from vatt.data import media_views, text
from vatt.data.ingest import media
from vatt.errors import UserError
from vatt.findings import Found

File = str | os.PathLike | np.ndarray
Pair = tuple[np.ndarray, np.ndarray]  # frames and sound of a clip
Files = File | Pair | Sequence[File | Pair]


class Model:
  """A trained model in use: files and arrays in, vectors, labels and rankings
  out.

  A file is any that FFmpeg reads, of any length. What the model sees of it are
  windows, as evaluation cuts them: so many, evenly spread (`windows=4`; default
  `eval.windows` of its config), or all, end to end (`windows="all"`); the value
  of a file is the mean over them. Files are decoded as many at a time as there
  are cores.

  Vectors are float32 and of unit length, unless `normalize=False`. They are in
  a space: "va", which video and audio share; "vt", which all three share (sound
  is carried into it, section 3.2); or "features", those of a tower, as probes
  use them.

  Of a list of files, those that cannot be used have rows of NaN, and a warning
  says why; a file alone that cannot be used is an error.

  Args:
    path: of a workdir of training, of a converted or an exported model.
    vocabulary: file with the model's words, a word a line, where the folder has
      none.
    config, strategy: as of `restore.load_model`.

  Attributes:
    task: with the config that it is used with, and its words.
    model: of the task.
    step: of the checkpoint.

  Raises:
    UserError: there is no model, or the words are not its own.
  """

  def __init__(self, path: str | os.PathLike, vocabulary: str = "",
               config: ConfigDict | None = None,
               strategy: tf.distribute.Strategy | None = None):
    self.path = os.path.expanduser(os.fspath(path))
    self.strategy = strategy or tf.distribute.get_strategy()
    self.task, self.model, self.step = restore.load_model(
        self.path, config, self.strategy, vocabulary)
    self.config = self.task.config
    for part in "data", "eval":
      fields.check(self.config[part], part)
    self._finder = findings.Finder(
        self.config, lambda batch: self.task.infer(self.model, batch))

  # ---- What there is --------------------------------------------------------
  @property
  def modalities(self) -> tuple[str, ...]:
    """Those of video, audio and text that the model understands."""
    return tuple(self.model.towers)

  @property
  def signals(self) -> list[str]:
    """Those of video and audio that the model understands."""
    return [kind for kind in media.KINDS if kind in self.model.towers]

  def require_text(self) -> None:
    """Raises UserError unless the model understands sentences."""
    if "text" not in self.model.towers:
      raise UserError(f"{self.path}: a model of the task {self.config.task}, "
                      "expected a pre-trained one, which understands text")
    if not self.task.words:
      raise UserError(
          f"{self.path}: has no {self.task.WORDS_FILE}, expected the words of "
          "its model, one a line, there or as `vocabulary`")

  def require(self, modality: str) -> None:
    """Raises UserError unless the model has a modality."""
    if modality not in self.model.towers:
      raise UserError(
          f"{self.path}: a model of {', '.join(self.modalities)}, expected one "
          f"that has {modality}")

  def _name_of(self, modality, space):
    """The name of a modality's vectors in a space, or UserError."""
    self.require(modality)
    known = (["va", "vt", "features"] if self.config.task == "pretrain"
             else ["features"])
    space = (space or ("vt" if "vt" in known else "features")).removeprefix(
        f"{modality}_")
    if space not in known:
      raise UserError(f"space is {space!r}, expected one of {known}, which "
                      f"{modality} has in {self.path}")
    return f"{modality}_{space}"

  # ---- Vectors --------------------------------------------------------------
  def embed_text(self, sentences: str | Sequence[str], normalize: bool = True
                 ) -> np.ndarray:
    """Embeds sentences in S_vt: float32 [n, E]; a single one is [E].

    Words that the vocabulary does not have, to the model all the same, and
    those behind the last that it reads are named in the log.

    Raises:
      UserError: a sentence has no word that the model knows.
    """
    self.require_text()
    if isinstance(sentences, str):
      return self.embed_text([sentences], normalize)[0]
    sentences = list(sentences)
    if not sentences:
      raise UserError("no sentence, expected at least one")
    understood = text.understand(
        self.task.words, sentences, self.config.data.words)
    for one in understood:
      if not one.known:
        raise UserError(f"sentence {one.problem}")
    text.warn_of(understood, "sentence")
    vectors = self.task.embed_sentences(self.model, self.strategy, sentences)
    return similarity.normalize(vectors) if normalize else vectors

  def embed_video(self, files: Files, space: str = "", *,
                  windows: int | str | None = None, each: bool = False,
                  normalize: bool = True, fps: float = 0.0
                  ) -> np.ndarray | list[tuple[np.ndarray, np.ndarray]]:
    """Embeds the pictures of files.

    Args:
      files: a path, an array of frames uint8 [T, H, W, 3], or a list of these.
      space: va, vt or features; default vt, or features if there is no space.
      windows: of a file; a number or "all".
      each: whether to return the vectors of each window, with its times.
      normalize: whether to scale vectors to unit length.
      fps: frames a second of arrays; default those that the model reads.

    Returns:
      float32 [n, E], or [E] of a single file. With `each`, a list of pairs (of
      a single file one): float32 [W, E], and float64 [W, 2], the seconds at
      which its windows start and end.

    Raises:
      UserError: the model has no such space; a single file, or each of a list,
        cannot be used; an array is none of these.
    """
    name = self._name_of("video", space)
    return self._embed(files, name, windows, each, normalize, fps=fps)

  def embed_audio(self, files: Files, space: str = "", *,
                  windows: int | str | None = None, each: bool = False,
                  normalize: bool = True, rate: int = 0
                  ) -> np.ndarray | list[tuple[np.ndarray, np.ndarray]]:
    """Embeds the sound of files.

    Args:
      files: a path, of sound or of video; an array of samples, int16 or float
        in [-1, 1], [S] or [S, channels]; or a list of these.
      space, windows, each, normalize: as of `embed_video`.
      rate: samples a second of arrays.

    Returns, raises:
      As `embed_video`.
    """
    name = self._name_of("audio", space)
    return self._embed(files, name, windows, each, normalize, rate=rate)

  def embed_clip(self, files: Files, *, windows: int | str | None = None,
                 each: bool = False, normalize: bool = True, fps: float = 0.0,
                 rate: int = 0) -> dict[str, Any]:
    """Embeds pictures and sound of files, decoded once.

    Args:
      files: a path, an array as of `embed_video` or of `embed_audio`, a tuple
        of both, which start together; or a list of these.
      windows, each, normalize, fps: as of `embed_video`.
      rate: samples a second of arrays.

    Returns:
      What `embed_video` and `embed_audio` return, by name: `video_va`,
      `video_vt`, `audio_va`, `audio_vt` and the towers' features. What a file
      does not have, such as sound, is NaN.

    Raises:
      UserError: as `embed_video`.
    """
    single, inputs = self._inputs(files, fps, rate)
    found = self.find(inputs, self.signals, windows)
    findings.tell(found, [one.used for one in found])
    names = dict.fromkeys(name for one in found for name in one.values
                          if name != "logits")
    table = {name: _rows(found, name, each, normalize) for name in names}
    return {name: rows[0] if single else rows for name, rows in table.items()}

  def similarity(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines of vectors of one space: float32 [n, m] of [n, E] and [m, E]; a
    single vector, [E], counts as one row.

    Raises:
      UserError: they are of different lengths, as of two spaces.
    """
    a, b = (np.atleast_2d(np.asarray(each, np.float32)) for each in (a, b))
    if a.shape[1] != b.shape[1]:
      raise UserError(f"vectors of {a.shape[1]} and {b.shape[1]} numbers, "
                      "expected those of one space")
    return similarity.normalize(a) @ similarity.normalize(b).T

  # ---- Labels ---------------------------------------------------------------
  def classify(self, files: Files, top: int | None = 5, *,
               windows: int | str | None = None, fps: float = 0.0,
               rate: int = 0) -> list[Any]:
    """Classifies files by a fine-tuned model. Where its folder does not name
    the classes, as of a released model, they have their numbers, from 0.

    Args:
      files: as of `embed_video` or `embed_audio`, whichever the model sees.
      top: how many classes of a file; None for all.
      windows, fps, rate: as of these; logits are averaged over the windows.

    Returns:
      Of each file (label, probability)s, the highest first; [] of one that
      cannot be used. Of a single file, its own.

    Raises:
      UserError: the model is no fine-tuned one; as `embed_video`.
    """
    if self.config.task == "pretrain":
      raise UserError(f"{self.path}: a pre-trained model, expected a "
                      "fine-tuned one, which has classes")
    single, inputs = self._inputs(files, fps, rate)
    found = self.find(inputs, self.signals, windows)
    results = [self.scores(one, top) for one in found]
    findings.tell(found, [one.mask(f"{self.signals[0]}_features").any()
                          for one in found])
    return results[0] if single else results

  def scores(self, found: Found, top: int | None = None
             ) -> list[tuple[str, float]]:
    """The (label, probability)s of a file, the highest first; [] if it could
    not be used."""
    mask = found.masks[self.signals[0]]
    if not mask.any():
      return []
    logits = found.values["logits"][mask].mean(axis=0)
    if self.config.finetune.multi_label:
      scores = scipy.special.expit(logits)
    else:
      scores = scipy.special.softmax(logits)
    order = np.argsort(-scores, kind="stable")[:top]
    labels = self.task.words or [str(i) for i in range(len(scores))]
    return [(labels[i], float(scores[i])) for i in order]

  # ---- Files ----------------------------------------------------------------
  def infer(self, inputs: Sequence[str | media_views.Clip],
            kinds: Sequence[str], windows: int | str | None = None
            ) -> Iterator[Found]:
    """Finds what the model makes of files: see `findings.Finder.find`."""
    return self._finder.find(inputs, kinds, windows)

  def find(self, inputs: Sequence[str | media_views.Clip],
           kinds: Sequence[str], windows: int | str | None = None
           ) -> list[Found]:
    """What `infer` yields, in the order of the inputs."""
    return sorted(self.infer(inputs, kinds, windows),
                  key=lambda found: found.number)

  def _embed(self, files, name, windows, each, normalize, **rates):
    """What `embed_video` and `embed_audio` return of vectors of that name."""
    single, inputs = self._inputs(files, **rates)
    found = self.find(inputs, [name.partition("_")[0]], windows)
    findings.tell(found, [one.mask(name).any() for one in found])
    vectors = _rows(found, name, each, normalize)
    return vectors[0] if single else vectors

  def _inputs(self, files, fps=0.0, rate=0):
    """Whether `files` is a single one; and a list of paths and Clips."""
    # An array of paths, as a column of a table, is a list of them.
    single = isinstance(files, (str, os.PathLike)) or _is_pair(files) or (
        hasattr(files, "dtype") and np.asarray(files).dtype.kind not in "OU")
    inputs = []
    for number, one in enumerate([files] if single else files):
      if isinstance(one, (str, os.PathLike)):
        inputs.append(os.path.expanduser(os.fspath(one)))
      elif hasattr(one, "dtype") or _is_pair(one):
        clips = [media_views.make_clip(
            array, fps or self.config.data.fps, rate, f"array {number}")
                 for array in (one if _is_pair(one) else [one])]
        inputs.append(clips[0]._replace(
            audio=clips[-1].audio, audio_rate=clips[-1].audio_rate))
      else:
        raise UserError(f"file {number} is {one!r:.60}, expected a path or an "
                        "array")
    return single, inputs


def _is_pair(one):
  """Whether it is a tuple of frames [T, H, W, 3] and samples."""
  return isinstance(one, tuple) and len(one) == 2 and all(
      hasattr(array, "dtype") for array in one) and (
          np.ndim(one[0]) == 4 and np.ndim(one[1]) in (1, 2))


def _rows(found, name, each, normalize):
  """The vectors of files, as `Model.embed_video` returns those of a list."""
  if each:
    return [one.vectors(name, normalize) for one in found]
  return findings.means(found, name, normalize)
