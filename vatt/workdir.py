"""A run's folder: its config, its words, its checkpoints.

WORKDIR/config.json is the resolved config; the words of the model, or the names
of its classes, lie beside it a line each, in the file that the task names.
"""
import json
import os
from typing import Any

import tensorflow as tf
from ml_collections import FrozenConfigDict

from vatt import files
from vatt.errors import UserError

# Fields that workdirs of older code lack, as their runs were.
ADDED = {
    "eval": dict(crops=1, average="embedding", captions=1),
    "finetune": dict(freeze="", labels_per_class=0, rare_classes=False),
    "model": dict(remat=False),
    "optimizer": dict(clip_part=""),
}
# Fields that may change between runs in one workdir: they do not change what
# is learned.
FREE_FIELDS = ("strategy", "log_every", "checkpoint_every", "eval_every",
               "keep_checkpoints", "steps_per_loop", "eval", "model.remat",
               "data.data_dir", "data.cache", "data.eval_split",
               "data.vocabulary", "data.max_corrupt_share")


def checkpoints_of(workdir: str) -> str:
  """The directory of a run's checkpoints."""
  return os.path.join(workdir, "checkpoints")


def has_model(workdir: str) -> bool:
  """Whether a run, or a converter, has claimed a folder."""
  return tf.io.gfile.exists(os.path.join(workdir, "config.json"))


def has_checkpoint(workdir: str) -> bool:
  """Whether a run in a folder goes on, and does not start."""
  return bool(tf.io.gfile.glob(
      os.path.join(checkpoints_of(workdir), "*.manifest.json")))


def read_json(path: str) -> Any:
  """The content of a JSON file.

  Raises:
    UserError: it is missing or not JSON.
  """
  if not tf.io.gfile.exists(path):
    raise UserError(f"{path}: not found, expected the workdir of a run")
  try:
    with tf.io.gfile.GFile(path) as file:
      return json.load(file)
  except ValueError as error:
    raise UserError(f"{path}: not valid JSON ({error})") from None


def read_config(workdir: str) -> FrozenConfigDict:
  """The config that a workdir was trained with.

  Raises:
    UserError: there is none.
  """
  config = read_json(os.path.join(workdir, "config.json"))
  for part, fields in ADDED.items():
    if part in config:
      config[part] = fields | config[part]
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
      return file.read().removesuffix("\n").split("\n")
  except UnicodeDecodeError:
    raise UserError(f"{path}: not UTF-8, expected a word or a class a line"
                    ) from None


def claim(workdir: str, config: FrozenConfigDict, name: str,
          words: list[str]) -> None:
  """Writes the config and the words of a run, if the folder is not another's.

  Args:
    workdir: of the run; made if need be.
    config: resolved.
    name: of the file of the words.
    words: the vocabulary, or the names of the classes.

  Raises:
    UserError: the workdir belongs to a run of another config.
  """
  if has_model(workdir):
    ours = _flat(json.loads(config.to_json_best_effort()))
    theirs = _flat(json.loads(read_config(workdir).to_json_best_effort()))
    for field in sorted(set(ours) | set(theirs)):
      free = any(field == f or field.startswith(f + ".") for f in FREE_FIELDS)
      if not free and ours.get(field) != theirs.get(field):
        raise UserError(
            f"{os.path.join(workdir, 'config.json')}: {field} is "
            f"{theirs.get(field)!r}, this run has {ours.get(field)!r}; "
            "expected the same config or another --workdir")
  write(workdir, config, name, words)


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


def _flat(config, prefix=""):
  """{"data.size": 40, ...} of nested dicts."""
  items = {}
  for name, value in config.items():
    if isinstance(value, dict):
      items.update(_flat(value, f"{prefix}{name}."))
    else:
      items[prefix + name] = value
  return items
