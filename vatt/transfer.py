"""Weights that leave a workdir, or make a new one."""
import contextlib
import os

import tensorflow as tf

from vatt import checkpoints, files, locks, restore, workdir
from vatt.errors import UserError, one_line
from vatt.tasks import Task


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
  donor = restore.load_model(path)
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
