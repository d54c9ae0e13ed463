"""Models for use elsewhere, in folders of their own.

An exported model is a folder of

- `config.json` and the words of the model, or the names of its classes, as a
  workdir has them;
- its weights, by the names that checkpoints give them, such as
  `towers/video/encoder/blocks/0/attention/qkv/kernel` (`checkpoints.names_of`):
  what the towers of a shared encoder have in common is under the first;
- `export.json`: the kind, the step of the checkpoint, the shapes of the weights
  and the size and SHA-256 of every other file. It makes a folder an export.

KINDS says how the weights lie. A SavedModel also has functions that plain
TensorFlow runs, see `make_functions`.
"""
import functools
import json
import os
from collections.abc import Mapping

import numpy as np
import safetensors
import safetensors.numpy
import tensorflow as tf
from absl import logging

from vatt import checkpoints, files, workdir, xla
from vatt import config as config_lib
from vatt.data import text
from vatt.errors import UserError, one_line
from vatt.tasks import Task

WEIGHTS = "weights"  # attribute of a SavedModel
SIGNATURES = ("video", "audio", "text", "sentences")  # and these its functions
SAFETENSORS = "model.safetensors"
# How TensorFlow writes a key of a dict in a checkpoint.
ESCAPED = {"/": ".S"}
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


# -----------------------------------------------------------------------------
# Written.
# -----------------------------------------------------------------------------
def make_functions(task: Task, model: tf.keras.Model) -> tf.Module:
  """What a SavedModel has: functions of batches of any size n, each also a
  signature of that name, of one input of that name.

    video: uint8 [n, T, H, W, 3], frames of `data.size`, `data.fps` a second.
    audio: int16 [n, S, 1], samples, `data.audio_rate` a second.
    text: int32 [n, W], ids of words: 0 behind the last, 1 a word that is not in
      vocabulary.txt, 2 that of its first line.
    sentences: string [n], UTF-8; there if the model's words are known.

  They return float32 by name, as of `Task.infer`: `video_va`, `video_vt`,
  `video_features`; `audio_va`, `audio_vt`, `audio_features`; of text and
  sentences `text_vt`; of a fine-tuned model the features and `logits`. None is
  normalized: means over windows come before that, and logits have no unit
  length. A model has the functions of its modalities.

  Args:
    task: of a resolved config, with the model's words, if they are known.
    model: of the task.

  Returns:
    A Module with these tf.Functions; also `weights`, {name: tf.Variable}.
  """
  data = task.config.data
  inputs = {"video": ([data.frames, data.size, data.size, 3], tf.uint8),
            "audio": ([data.audio_samples, 1], tf.int16),
            "text": ([data.words], tf.int32), "sentences": ([], tf.string)}
  found = tf.Module(name="vatt")
  setattr(found, WEIGHTS, checkpoints.names_of(model))

  def add(name, function):
    shape, dtype = inputs[name]
    setattr(found, name, tf.function(
        function, autograph=False,
        input_signature=[tf.TensorSpec([None, *shape], dtype, name)]))

  def embed_text(ids):
    # [n, W] -> [n, 1, W]: a caption each
    embedded = task.infer(model, {"text": ids[:, None]})["text_vt"]
    return {"text_vt": embedded[:, 0]}

  def embed_sentences(sentences):
    ids, _ = text.encode(found.table, sentences, data.words)
    return embed_text(ids)

  for modality in model.towers:
    add(modality, embed_text if modality == "text" else functools.partial(
        lambda modality, signal: task.infer(model, {modality: signal}),
        modality))
  if "text" in model.towers and task.words:
    found.table = text.make_table(task.words)
    add("sentences", embed_sentences)
  return found


def _write_saved_model(folder, task, model):
  functions = make_functions(task, model)
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.WARNING)  # not of each name that it changes
  try:
    with xla.portable():
      tf.saved_model.save(functions, folder, {
          name: function for name, function in vars(functions).items()
          if name in SIGNATURES})
  finally:
    logging.set_verbosity(verbosity)


def _write_safetensors(folder, task, model):
  values = {name: variable.numpy()
            for name, variable in checkpoints.names_of(model).items()}
  files.write_whole(os.path.join(folder, SAFETENSORS),
                    safetensors.numpy.save(values))


def check_new(out: str) -> None:
  """Raises UserError unless a path is free for `write`."""
  if not tf.io.gfile.exists(out):
    return
  if not tf.io.gfile.isdir(out):
    raise UserError(f"--out={out}: a file, expected a new folder")
  found = sorted(tf.io.gfile.listdir(out))
  if found:
    raise UserError(f"--out={out}: has {found[0]} in it, expected a new or an "
                    "empty folder")


def write(out: str, kind: str, task: Task, model: tf.keras.Model, step: int
          ) -> dict[str, int]:
  """Writes a model as a folder, whole or not at all.

  Args:
    out: path of the folder, which is new or empty.
    kind: a key of KINDS.
    task: of a resolved config, with the model's words, if they are known.
    model: of the task, on one device.
    step: of its checkpoint.

  Returns:
    The bytes of each file by its name in the folder.

  Raises:
    UserError: there is something in the folder, or it cannot be written; the
      model has weights that are not finite.
  """
  out = out.rstrip("/") or out
  check_new(out)
  weights = checkpoints.names_of(model)
  for name, variable in weights.items():
    _check_finite(name, variable.numpy(), "the model")
  # Neither words nor vectors need be where they were in training.
  config = config_lib.replace(
      task.config, {"data.vocabulary": "", "model.word_vectors": ""})
  try:
    with files.whole_folder(out, workdir.EXPORT) as folder:
      workdir.write(folder, config, task.WORDS_FILE, task.words)
      KINDS[kind][0](folder, task, model)
      listed = {name: {"bytes": tf.io.gfile.stat(path).length,
                       "sha256": files.sha256(path)}
                for name, path in _files_of(folder)}
      content = json.dumps({
          "kind": kind, "step": step, "files": listed, "weights": {
              name: list(variable.shape) for name, variable in weights.items()},
      }, indent=1, sort_keys=True) + "\n"
      files.write_whole(os.path.join(folder, workdir.EXPORT), content)
  except files.REFUSED as error:
    check_new(out)  # another was first
    raise UserError(f"--out={out}: cannot be written ({one_line(error)}), "
                    "expected a new folder, and room on its disk") from None
  return {name: facts["bytes"] for name, facts in listed.items()} | {
      workdir.EXPORT: len(content.encode())}


def _files_of(folder):
  """Yields (name in the folder, path) of all files in it, in order."""
  for path, _, names in tf.io.gfile.walk(folder):
    for name in sorted(names):
      file = os.path.join(path, name)
      yield os.path.relpath(file, folder), file


# -----------------------------------------------------------------------------
# Read.
# -----------------------------------------------------------------------------
def check_whole(folder: str) -> None:
  """Raises UserError if a folder that is not exported has weights as one has
  that is."""
  for name in ("saved_model.pb", SAFETENSORS):
    if tf.io.gfile.exists(os.path.join(folder, name)):
      raise UserError(f"{folder}: has {name} and no {workdir.EXPORT}, expected "
                      "both, as vatt-export writes them")


def load(folder: str, model: tf.keras.Model) -> int:
  """Fills a model with the weights of an exported one.

  Args:
    folder: for which `workdir.is_exported` holds.
    model: of the folder's config; in the scope of its strategy.

  Returns:
    The step of the checkpoint that they are of.

  Raises:
    UserError: a file is missing or not as it was written; model and folder have
      not the same weights, or those are not finite.
  """
  path = os.path.join(folder, workdir.EXPORT)
  found = workdir.read_json(path)
  try:
    kind, step, listed = found["kind"], int(found["step"]), {
        name: {"bytes": facts["bytes"], "sha256": facts["sha256"]}
        for name, facts in found["files"].items()}
    read = KINDS[kind][1]
  except (KeyError, TypeError, ValueError, AttributeError):
    raise UserError(f"{path}: no list of the files of an exported model, "
                    "expected one as vatt-export writes it") from None
  damage = files.damage(folder, listed)
  if damage:
    raise UserError(f"{folder}: damaged: {damage}; expected an exported model "
                    "as it was written: export it again")
  try:
    values = read(folder)
  except (*files.REFUSED, tf.errors.OpError, IndexError,  # of a short file
          safetensors.SafetensorError) as error:
    raise UserError(f"{folder}: its weights cannot be read ({one_line(error)}),"
                    " expected an exported model") from None
  _assign(values, checkpoints.names_of(model), folder)
  return step


def _read_saved_model(folder):
  prefix = os.path.join(folder, "variables", "variables")
  values, start = {}, f"{WEIGHTS}/"
  with files.checkpoint_path(prefix) as readable:
    reader = tf.train.load_checkpoint(readable)
    for key in reader.get_variable_to_shape_map():
      if key.startswith(start):
        name = key.removeprefix(start).removesuffix(VALUE)
        for plain, escaped in ESCAPED.items():
          name = name.replace(escaped, plain)
        values[name] = reader.get_tensor(key)
  return values


def _read_safetensors(folder):
  with tf.io.gfile.GFile(os.path.join(folder, SAFETENSORS), "rb") as file:
    return safetensors.numpy.load(file.read())


def _assign(values: Mapping[str, np.ndarray],
            variables: Mapping[str, tf.Variable], folder: str) -> None:
  """Gives variables the values of their names, once all are right."""
  for name in [*variables, *values]:
    if (name in variables) != (name in values):
      raise UserError(
          f"{folder}: {'lacks' if name in variables else 'has'} {name}, "
          f"expected the {len(variables)} weights of its config.json")
  for name, variable in variables.items():
    value = values[name]
    if value.shape != tuple(variable.shape) or (
        value.dtype != variable.dtype.as_numpy_dtype):
      raise UserError(
          f"{folder}: {name} is {value.dtype} {list(value.shape)}, expected "
          f"{variable.dtype.name} {variable.shape.as_list()} by its "
          "config.json")
    _check_finite(name, value, folder)
  for name, variable in variables.items():
    variable.assign(values[name])


def _check_finite(name, value, where):
  wrong = value.size - np.count_nonzero(np.isfinite(value))
  if wrong:
    raise UserError(f"{where}: {name} has {wrong} of {value.size} values that "
                    "are NaN or infinite, expected finite ones")


KINDS = {  # how to write, and how to read the weights
    "saved_model": (_write_saved_model, _read_saved_model),
    "safetensors": (_write_safetensors, _read_safetensors),
}
