"""A trained model, ready to use, from its workdir; and a workdir of one."""
import contextlib
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from vatt import checkpoints, fields, files, locks, workdir
from vatt import config as config_lib
from vatt.data import text
from vatt.errors import UserError, one_line
from vatt.models.vatt import Tower
from vatt.tasks import Task, make_task

# Of config.data: what the shapes of a model's inputs, and so its weights,
# depend on.
SHAPE_FIELDS = ("frames", "size", "audio_samples", "words")


class Trained(NamedTuple):
  """A trained model.

  Attributes:
    task: with the config that it is used with, and its words, if it has any.
    model: of the task.
    step: of the checkpoint that its weights are of.
  """
  task: Task
  model: tf.keras.Model
  step: int


def load_model(path: str, config: ConfigDict | None = None,
               strategy: tf.distribute.Strategy | None = None) -> Trained:
  """Builds the model of a workdir, with the weights of its newest checkpoint.

  Args:
    path: of the workdir of a run, or of a converted model.
    config: the workdir's, or that with other fields of data and eval. It may
      read nothing of a modality (`data.frames` or `data.audio_samples` of 0):
      the model is built as it was trained. None for the workdir's.
    strategy: of `distribute.make_strategy`; None for one device.

  Raises:
    UserError: no checkpoint, or one of another model; inputs of another size.
  """
  trained = workdir.read_config(path)
  config = trained if config is None else config
  workdir.check_model(path, config)
  # The words are the model's own, wherever the data lie now, and the checkpoint
  # has their vectors.
  task = make_task(trained)
  words = task.own_words(path)
  given = config.data.vocabulary
  if words and given not in ("", trained.data.vocabulary):
    workdir.check_words(words, text.load_vocabulary(given), os.path.join(
        path, task.WORDS_FILE), f"vocabulary {given}")
  own = {"model.word_vectors": ""}
  if words and "text" in task.input_shapes():
    own["data.vocabulary"] = os.path.join(path, task.WORDS_FILE)
  built = make_task(config_lib.replace(config, own | {
      f"data.{field}": trained.data[field] for field in SHAPE_FIELDS}), words)
  fields.check(built.config, table={"dtype": fields.FIELDS["dtype"]})
  config_lib.check_model(built.config)
  model, step = restore_model(path, built, strategy)
  return Trained(make_task(config_lib.replace(config, own), words), model, step)


def restore_model(path: str, task: Task,
                  strategy: tf.distribute.Strategy | None = None
                  ) -> tuple[tf.keras.Model, int]:
  """The model of a task, with the weights of a workdir's newest checkpoint, and
  their step.

  Raises:
    UserError: no checkpoint, or one of another model.
  """
  with (strategy or tf.distribute.get_strategy()).scope():
    model = task.build_model()
  return model, checkpoints.restore_model(workdir.checkpoints_of(path), model)


def create(path: str, task: Task, model: tf.keras.Model) -> None:
  """Writes a model as a new workdir, as a run leaves it; whole, or not at all.

  Args:
    path: of the workdir; what else lies in it stays.
    task: with a resolved config, and the model's words, if they are known.
    model: of the task.

  Raises:
    UserError: it has a model, cannot be written, or another process writes it.
  """
  check_new(path)
  with locks.own(path, "a conversion"):
    check_new(path)  # by now nobody else makes one
    _create(path, task, model)


def _create(path, task, model):
  written = {os.path.basename(workdir.checkpoints_of(path)), "config.json",
             task.WORDS_FILE} - {*tf.io.gfile.listdir(path)}
  try:
    checkpoints.Checkpoints(
        workdir.checkpoints_of(path), model=model).save(0)
    workdir.write(path, task.config, task.WORDS_FILE, task.words)
  except BaseException as error:
    with contextlib.suppress(*files.REFUSED):
      for name in written & {
          name.rstrip("/") for name in tf.io.gfile.listdir(path)}:
        mine = os.path.join(path, name)
        (tf.io.gfile.rmtree if tf.io.gfile.isdir(mine) else
         tf.io.gfile.remove)(mine)
    if isinstance(error, files.REFUSED):
      raise UserError(f"{path}: cannot be written: {one_line(error)}") from None
    raise


def check_new(path: str) -> None:
  """Raises UserError unless a path is free for `create`."""
  if workdir.has_model(path) or tf.io.gfile.exists(
      workdir.checkpoints_of(path)):
    raise UserError(f"--workdir={path}: has a model, expected a new one")
  if tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path):
    raise UserError(f"--workdir={path}: a file, expected a new folder")


def start_from(path: str, task: Task, model: tf.keras.Model) -> int:
  """Fills a model with the weights of a workdir's.

  Args:
    path: of the workdir.
    task, model: of the run that starts.

  Returns:
    The step of the trained model.

  Raises:
    UserError: there is none, or it is another one.
  """
  donor = load_model(path)
  _check_donor(path, donor, task, model)
  tf.keras.mixed_precision.set_global_policy(task.config.dtype)
  task.start_from(donor.model, model, path)
  return donor.step


def _check_donor(path, donor, task, model):
  """Raises UserError if a tower would compute something else with its weights
  than in the model that they are of: shapes do not tell how many heads share
  them, say, nor which word a row of the embedding is of."""
  ours, theirs = task.config.model, donor.task.config.model
  compared = []  # name, our value, the donor's
  for modality in set(model.towers) & set(donor.model.towers):
    found, wanted = (getattr(towers[modality].encoder, "untold", {})
                     for towers in (model.towers, donor.model.towers))
    compared += [(f"encoders.{modality}.{name}", found.get(name), value)
                 for name, value in wanted.items()]
    names = {"video": ["video_patch"], "audio": ["audio_patch", "audio_input"]}
    compared += [(name, ours[name], theirs[name])
                 for name in names.get(modality, ())]
  for name, value, expected in compared:
    if value != expected:
      raise UserError(f"init: model.{name} is {value!r}, expected {expected!r} "
                      f"as in {path}, whose weights are to be used")
  if "text" in model.towers and "text" in donor.model.towers:
    workdir.check_words(
        donor.task.words, task.words, os.path.join(path, task.WORDS_FILE),
        f"vocabulary {task.config.data.vocabulary}")


def load_tower(path: str, modality: str,
               strategy: tf.distribute.Strategy | None = None
               ) -> tuple[ConfigDict, Tower, int]:
  """The trained tower of a modality; no words are needed.

  Args:
    path: of the workdir of pre-training, fine-tuning or of a converted model.
    modality: video or audio.
    strategy: of `distribute.make_strategy`.

  Returns:
    The workdir's config, the Tower, the step.

  Raises:
    UserError: there is no model, or it has no such tower.
  """
  trained = load_model(path, strategy=strategy)
  towers = trained.model.towers
  if modality == "text" or modality not in towers:
    known = ", ".join(name for name in towers if name != "text")
    raise UserError(f"probe.modality is {modality!r}, expected {known}, which "
                    f"{path} has")
  return trained.task.config, towers[modality], trained.step


class Embedder:
  """A pre-trained model that understands sentences.

  Args:
    path, config, strategy: as of `load_model`.

  Raises:
    UserError: as of `load_model`; the model is no pre-trained one, or its words
      are not known.
  """

  def __init__(self, path: str, config: ConfigDict | None = None,
               strategy: tf.distribute.Strategy | None = None):
    self.strategy = strategy or tf.distribute.get_strategy()
    self.task, self.model, self.step = load_model(path, config, self.strategy)
    config_lib.check_evaluation(self.task.config)
    if self.task.config.task != "pretrain":
      raise UserError(f"{path}: a model of the task {self.task.config.task}, "
                      "expected a pre-trained one")
    if not self.task.words:
      raise UserError(f"{path}: has no {self.task.WORDS_FILE}, expected the "
                      "words of its model, one a line")
    config = self.task.config
    words = text.load_vocabulary(config.data.vocabulary)
    if len(words) + text.FIRST_WORD != config.model.vocab_size:
      raise UserError(
          f"{config.data.vocabulary}: {len(words)} words, expected the "
          f"{config.model.vocab_size - text.FIRST_WORD} of the model")

  def embed_text(self, sentences: Sequence[str]) -> np.ndarray:
    """Embeds sentences in S_vt: float32 [n, 256], not normalized.

    Words that the vocabulary does not have, to the model all the same, and
    those behind the last that it reads are named in the log.

    Raises:
      UserError: a sentence has no word that the model knows.
    """
    understood = text.understand(
        self.task.words, sentences, self.task.config.data.words)
    for one in understood:
      if not one.known:
        raise UserError(f"sentence {one.problem}")
    text.warn_of(understood, "sentence")
    return self.task.embed_sentences(self.model, self.strategy, sentences)
