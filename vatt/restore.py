"""Trained models from their workdirs, or from where they were exported to."""
import os
from typing import NamedTuple

import tensorflow as tf
from ml_collections import ConfigDict

from vatt import checkpoints, exports, fields, workdir
from vatt import config as config_lib
from vatt.data import text
from vatt.errors import UserError
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
               strategy: tf.distribute.Strategy | None = None,
               vocabulary: str = "") -> Trained:
  """Builds the model of a workdir, with the weights of its newest checkpoint.

  Args:
    path: of the workdir of a run, or of a converted or an exported model.
    config: the workdir's, or that with other fields of data and eval. It may
      read nothing of a modality (`data.frames` or `data.audio_samples` of 0):
      the model is built as it was trained. None for the workdir's.
    strategy: of `distribute.make_strategy`; None for one device.
    vocabulary: file with the model's words, where the workdir has none.

  Raises:
    UserError: no checkpoint, or one of another model; inputs of another size;
      words that are not the model's.
  """
  trained = workdir.read_config(path)
  if "task" not in trained:  # as beside the weights of others
    raise UserError(f"{path}/config.json: no task, expected the config of a "
                    "run")
  config = trained if config is None else config
  workdir.check_model(path, config)
  # The words are the model's own, wherever the data lie now, and the checkpoint
  # has their vectors.
  task = make_task(trained)
  words = task.own_words(path)
  words_path = os.path.join(path, task.WORDS_FILE)
  given = vocabulary or config.data.vocabulary
  if words and given not in ("", trained.data.vocabulary):
    workdir.check_words(words, text.load_vocabulary(given), words_path,
                        f"vocabulary {given}")
  elif vocabulary:
    if "text" not in task.input_shapes():
      raise UserError(f"vocabulary {vocabulary}: {path} is a model of the task "
                      f"{trained.task}, expected one that understands text")
    words, words_path = text.load_vocabulary(vocabulary), vocabulary
  own = {"model.word_vectors": ""}
  if words and "text" in task.input_shapes():
    rows = len(words) + text.FIRST_WORD
    if rows != trained.model.vocab_size:
      raise UserError(
          f"{words_path}: {len(words)} words, expected the "
          f"{trained.model.vocab_size - text.FIRST_WORD} of the model")
    own["data.vocabulary"] = words_path
  built = make_task(config_lib.replace(config, own | {
      f"data.{field}": trained.data[field] for field in SHAPE_FIELDS}), words)
  fields.check(built.config, table={"dtype": fields.FIELDS["dtype"]})
  config_lib.check_model(built.config)
  model, step = restore_model(path, built, strategy)
  return Trained(make_task(config_lib.replace(config, own), words), model, step)


def restore_model(path: str, task: Task,
                  strategy: tf.distribute.Strategy | None = None
                  ) -> tuple[tf.keras.Model, int]:
  """The model of a task, with the weights of a workdir's newest checkpoint, or
  of an exported model, and their step.

  Raises:
    UserError: no checkpoint, or one of another model; a damaged export.
  """
  with (strategy or tf.distribute.get_strategy()).scope():
    model = task.build_model()
    if workdir.is_exported(path):
      return model, exports.load(path, model)
  if not workdir.has_checkpoint(path):
    exports.check_whole(path)
  return model, checkpoints.restore_model(workdir.checkpoints_of(path), model)


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
