"""A run's folder: its config, its words, its checkpoints.

WORKDIR/config.json is the resolved config; the words of the model, or the names
of its classes, lie beside it a line each, in the file that the task names.
"""
import json
import os
from typing import Any

import tensorflow as tf
from ml_collections import ConfigDict, FrozenConfigDict

from vatt import files
from vatt.errors import UserError, one_line

EXPORT = "export.json"  # says what an exported model's folder has
# Fields that workdirs of older code lack, as their runs were.
ADDED = {
    "augment": dict(color_probability=1.0),
    "data": dict(enlarge_on_device=False),
    "eval": dict(crops=1, average="embedding", captions=1),
    "finetune": dict(freeze="", labels_per_class=0, rare_classes=False),
    "model": dict(remat=False),
    "optimizer": dict(clip_part=""),
    "strategy": dict(wait_minutes=15.0),
}
# Fields that may change between runs in one workdir: they do not change what
# is learned.
FREE_FIELDS = ("strategy", "log_every", "checkpoint_every", "eval_every",
               "keep_checkpoints", "steps_per_loop", "eval", "model.remat",
               "data.data_dir", "data.cache", "data.eval_split",
               "data.enlarge_on_device", "data.vocabulary",
               "data.max_corrupt_share")
# Fields that say what a model computes, of which its variables tell but some.
MODEL_FIELDS = ("task", "model", "finetune.modality", "finetune.multi_label",
                "data.frames", "data.size", "data.audio_samples",
                "data.audio_rms", "data.spectrogram",
                "data.words")
# Of these, what matters in training alone.
TRAINING_FIELDS = ("model.drop_rate", "model.dropout",
                   "model.classifier_dropout", "model.remat",
                   "model.word_vectors")


def checkpoints_of(workdir: str) -> str:
  """The directory of a run's checkpoints."""
  return os.path.join(workdir, "checkpoints")


def has_model(workdir: str) -> bool:
  """Whether a run, or a converter, has claimed a folder."""
  return tf.io.gfile.exists(os.path.join(workdir, "config.json"))


def is_exported(folder: str) -> bool:
  """Whether a folder is an exported model, which `vatt/exports.py` reads, and
  no workdir of a run."""
  return tf.io.gfile.exists(os.path.join(folder, EXPORT))


def has_checkpoint(workdir: str) -> bool:
  """Whether a run in a folder goes on, and does not start."""
  folder = checkpoints_of(workdir)  # no pattern: its name may have brackets
  return any(
      name.endswith(".manifest.json") for name in files.listdir(folder))


def read_json(path: str) -> Any:
  """The content of a JSON file.

  Raises:
    UserError: it is missing or not JSON.
  """
  if not tf.io.gfile.exists(path):
    why = files.failure(path)
    raise UserError(f"{path}: not found{why and f' ({why})'}, expected the "
                    "workdir of a run")
  try:
    with tf.io.gfile.GFile(path) as file:
      return json.load(file)
  except ValueError as error:
    raise UserError(f"{path}: not valid JSON ({error})") from None
  except files.REFUSED as error:
    raise UserError(f"{path}: cannot be read ({one_line(error)}), expected a "
                    "file of JSON") from None


def read_config(workdir: str) -> FrozenConfigDict:
  """The config that a workdir was trained with.

  Raises:
    UserError: there is none.
  """
  files.know(workdir)
  config = read_json(os.path.join(workdir, "config.json"))
  if not isinstance(config, dict):
    raise UserError(f"{workdir}/config.json: no fields, expected the config of "
                    "a run")
  for part, fields in ADDED.items():
    if part in config:
      config[part] = fields | config[part]
  if config.get("finetune", {}).get("multi_label"):
    config["finetune"]["label_smoothing"] = 0.0  # older ones have it, unused
  return FrozenConfigDict(_tuples(config))


def read_words(workdir: str, name: str) -> list[str]:
  """The words or classes of a model; none if the file of that name is missing,
  as beside a converted model whose words are not known.

  Raises:
    UserError: it is not UTF-8.
  """
  path = os.path.join(workdir, name)
  if not tf.io.gfile.exists(path):
    return []
  try:
    with tf.io.gfile.GFile(path) as file:
      content = file.read().removesuffix("\n")
    return content.split("\n") if content else []
  except UnicodeDecodeError:
    raise UserError(f"{path}: not UTF-8, expected a word or a class a line"
                    ) from None


def check_run(workdir: str, config: FrozenConfigDict) -> None:
  """Validates that a run may go on in a folder, if that has a config.

  Raises:
    UserError: the workdir belongs to a run of another config, or is no workdir
      of a run.
  """
  if is_exported(workdir):
    raise UserError(
        f"{workdir}: an exported model, expected another --workdir, and "
        f"--config.init={workdir} to start from its weights")
  if not has_model(workdir):
    return
  path = os.path.join(workdir, "config.json")
  for field, ours, theirs in _differences(config, read_config(workdir)):
    if not _within(field, FREE_FIELDS):
      raise UserError(
          f"{path}: {field} is {theirs!r}, this run has {ours!r}; expected the "
          "same config or another --workdir")
  written = flat(ConfigDict(read_json(path)))
  noise = written.get("augment.noise")
  if noise and config.data.audio_samples and (
      "augment.color_probability" not in written):
    raise UserError(
        f"{path}: augment.noise is {noise}, which was the same for all sounds "
        "when this run began, and is a share of a sound's largest magnitude "
        f"now; expected another --workdir, and --config.init={workdir} to "
        "start from its weights")


def check_model(workdir: str, config: FrozenConfigDict) -> None:
  """Validates that a config's model is that of a workdir.

  A modality of which nothing is read (`data.frames` or `data.audio_samples` of
  0) may be there or not.

  Raises:
    UserError: it computes something else, or there is no config.
  """
  for field, ours, theirs in _differences(config, read_config(workdir)):
    unread = field in ("data.frames", "data.audio_samples") and ours == 0
    if (_within(field, MODEL_FIELDS) and not _within(field, TRAINING_FIELDS)
        and not unread):
      raise UserError(f"{field} is {ours!r}, expected {theirs!r}, which the "
                      f"model of {workdir} was trained with")


def check_words(own: list[str], words: list[str], path: str, origin: str
                ) -> None:
  """Validates that words, or classes, are a model's own, if it has any.

  Args:
    own: the model's.
    words: to compare.
    path: of the file of its own, for errors.
    origin: where the others are from, for errors.

  Raises:
    UserError: they are others.
  """
  if own and len(own) != len(words):
    raise UserError(f"{origin}: {len(words)} lines, expected the {len(own)} of "
                    f"{path}, which are the model's")
  for number, (word, other) in enumerate(zip(own, words)):
    if word != other:
      raise UserError(f"{origin}: number {number} is {other!r}, expected "
                      f"{word!r} as in {path}, which are the model's")


def claim(workdir: str, config: FrozenConfigDict, name: str,
          words: list[str]) -> None:
  """Writes the config and the words of a run, if the folder is not another's.

  Words that are there stay as they are.

  Args:
    workdir: of the run; made if need be.
    config: resolved.
    name: of the file of the words.
    words: the vocabulary, or the names of the classes.

  Raises:
    UserError: the workdir belongs to a run of another config; it cannot be
      written.
  """
  check_run(workdir, config)
  try:
    write(workdir, config, name, [] if read_words(workdir, name) else words)
  except files.REFUSED as error:
    raise UserError(f"--workdir={workdir}: cannot be written "
                    f"({one_line(error)}), expected a folder with room"
                    ) from None


def write(workdir: str, config: FrozenConfigDict, name: str,
          words: list[str]) -> None:
  """Writes what `read_config` and `read_words` read; no file without words."""
  tf.io.gfile.makedirs(workdir)
  if words:
    files.write_whole(os.path.join(workdir, name),
                      "".join(word + "\n" for word in words))
  files.write_whole(os.path.join(workdir, "config.json"), json.dumps(
      json.loads(config.to_json_best_effort()), indent=2, sort_keys=True)
                    + "\n")


def _tuples(value):
  """Tuples, as configs have them, where JSON has lists."""
  if isinstance(value, dict):
    return {name: _tuples(item) for name, item in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _within(field, parts):
  """Whether a field is one of some, or in one."""
  return any(field == part or field.startswith(part + ".") for part in parts)


def _differences(ours, theirs):
  """Yields (field, our value, their value) where two configs differ."""
  ours, theirs = flat(ours), flat(theirs)
  # The task first, of which much depends.
  for field in sorted({*ours, *theirs}, key=lambda x: (x != "task", x)):
    if ours.get(field) != theirs.get(field):
      yield field, ours.get(field), theirs.get(field)


def flat(config: ConfigDict) -> dict[str, Any]:
  """{"data.size": 40, ...} of a config, values as JSON has them."""
  def walk(fields, prefix):
    for name, value in fields.items():
      if isinstance(value, dict):
        yield from walk(value, f"{prefix}{name}.")
      else:
        yield prefix + name, value

  return dict(walk(json.loads(config.to_json_best_effort()), ""))
