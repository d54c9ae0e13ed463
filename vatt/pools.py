"""Pools: the embeddings of a split, kept in a folder.

FOLDER/NAME.npy are the arrays of `Pretrain.embed_split`, FOLDER/clips.tsv has a
line a clip. FOLDER/pool.json says which arrays, of which model, data and
config; where it is, the others are those that it was written with.
"""
import dataclasses
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

import numpy as np
import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict

from vatt import checkpoints, files
from vatt.data.sources import Source
from vatt.errors import UserError, one_line

MARK, LINES = "pool.json", "clips.tsv"
ARRAYS = r"((video|audio|text)_v[at]|has_(video|audio|caption)|label)\.npy"
# Of the mark. Older versions wrote the first alone.
FACTS = ("step", "weights_sha256", "config", "dataset", "split", "label_names",
         "arrays", "lines_bytes")
# Fields of config.data, eval and model that no embedding depends on. Of
# data.datasets, the first is embedded.
FREE_FIELDS = (
    "data.cache", "data.classes", "data.crop_area", "data.crop_aspect",
    "data.data_dir", "data.enlarge_on_device", "data.max_corrupt_share",
    "data.shares",
    "data.shuffle_captions", "data.train_split", "data.vocabulary",
    "eval.batch_size", "eval.captions", "eval.match", "eval.templates",
    "model.drop_rate", "model.dropout", "model.remat", "model.word_vectors")


@dataclasses.dataclass(frozen=True)
class Pool:
  """What a folder holds.

  Attributes:
    folder: where it lies.
    facts: the mark's FACTS; of an older pool, its `step` alone.
    clips: arrays of `Pretrain.embed_split`, as np.memmaps.
    file: of the lines.
  """
  folder: str
  facts: dict[str, Any]
  clips: dict[str, np.ndarray]
  file: TextIO

  @property
  def label_names(self) -> Sequence[str]:
    """Names of the classes; none if there are none, or they are not known."""
    return self.facts.get("label_names", ())

  def lines(self, numbers: np.ndarray) -> list[str]:
    """The lines of some clips."""
    self.file.seek(0)
    found = {i: line.rstrip("\n") for i, line in enumerate(
        itertools.islice(self.file, int(max(numbers)) + 1)) if i in numbers}
    return [found.get(i, "") for i in numbers]

  def check(self, facts: dict[str, Any]) -> None:
    """Checks that it is of a model and a config; warns if it does not tell.

    Args:
      facts: of `describe`; what is not in there is not compared.

    Raises:
      UserError: it is of another, or of other data.
    """
    if self.facts["step"] != facts["step"]:
      raise UserError(
          f"{self.folder}: embedded by step {self.facts['step']} of a model, "
          f"expected {facts['step']}, which the workdir has")
    if "weights_sha256" not in self.facts:
      logging.warning(
          "%s: of an older version, which did not note weights and config: "
          "that they are those of the workdir is not checked", self.folder)
      return
    differ = compare(self.facts, facts)
    if differ:
      raise UserError(f"{self.folder}: embedded {differ}")


def describe(config: ConfigDict, model: tf.keras.Model, step: int
             ) -> dict[str, Any]:
  """What the embeddings of a split depend on, as JSON has it.

  Args:
    config: that they are made with.
    model: that makes them.
    step: of the model.
  """
  return {"step": step,
          "weights_sha256": checkpoints.weights_sha256(model.weights),
          "config": json.loads(config.to_json_best_effort())}


def compare(theirs: dict[str, Any], ours: dict[str, Any],
            free: Sequence[str] = ()) -> str:
  """How vectors of one model and config are not those of another.

  Args:
    theirs: of `describe`, when the vectors were made.
    ours: of `describe`, now.
    free: fields beside FREE_FIELDS that these vectors do not depend on.

  Returns:
    "by another model …, expected …" or "with …; expected …"; "" if they are.
  """
  if theirs["weights_sha256"] != ours["weights_sha256"]:
    return (f"by another model (weights of SHA-256 "
            f"{theirs['weights_sha256'][:12]}…), expected that of the workdir "
            f"({ours['weights_sha256'][:12]}…)")
  then, now = (dict(_fields(each["config"])) for each in (theirs, ours))
  differ = [f"{field} {then[field]!r}, not {value!r}"
            for field, value in now.items()
            if field not in free and then.get(field, value) != value]
  return (f"with {'; '.join(differ)}; expected the fields that it was embedded "
          "with" if differ else "")


def _fields(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
  """Yields the fields that embeddings depend on, and their values."""
  def walk(part, prefix):
    for name, value in part.items():
      if isinstance(value, dict):
        yield from walk(value, f"{prefix}{name}.")
      elif prefix + name == "data.datasets":
        yield prefix + name, value[:1]
      elif prefix + name not in FREE_FIELDS:
        yield prefix + name, value

  for part in ("data", "eval", "model"):
    yield from walk(config[part], part + ".")


def make_folder(folder: str) -> None:
  """Makes the folder of a pool, before its embeddings are computed.

  Raises:
    UserError: it cannot be made.
  """
  try:
    tf.io.gfile.makedirs(folder)
  except files.REFUSED as error:
    raise UserError(f"{folder}: cannot be made ({one_line(error)}), expected "
                    "a folder to write to") from None


def write(folder: str, facts: dict[str, Any], source: Source,
          clips: dict[str, np.ndarray], lines: Iterable[str]) -> None:
  """Writes a pool, in place of one that is there.

  Args:
    folder: made if need be. Other files in it stay.
    facts: of `describe`.
    source: the split.
    clips: arrays of `Pretrain.embed_split`.
    lines: a line a clip.

  Raises:
    UserError: the folder cannot be written.
  """
  text = "".join(line + "\n" for line in lines).encode(errors="replace")

  def write_array(array):
    def write(path):
      with tf.io.gfile.GFile(path, "wb") as file:
        np.save(file, array)
    return write

  facts = facts | {
      "dataset": source.name, "split": source.split,
      "label_names": source.label_names, "lines_bytes": len(text),
      "arrays": {name: {"shape": array.shape, "dtype": array.dtype.name}
                 for name, array in clips.items()}}
  files.write_together(
      folder, MARK, json.dumps(facts, indent=1) + "\n",
      {f"{name}.npy": write_array(array) for name, array in clips.items()}
      | {LINES: text},
      old=files.names(folder, f"{ARRAYS}|{LINES}|{MARK}"))


def read(folder: str) -> Pool:
  """Reads what `write`, of this version or an older one, wrote.

  Raises:
    UserError: it is none, or not whole.
  """
  path = os.path.join(folder, MARK)
  facts = _read_mark(path)
  arrays = facts.get("arrays")
  clips = {}
  for name in arrays or [name.removesuffix(".npy") for name in files.names(
      folder, ARRAYS) if not name.endswith(files.TEMPORARY)]:
    clips[name] = _read_array(os.path.join(folder, f"{name}.npy"),
                              arrays and arrays[name])
  if len({len(array) for array in clips.values()}) != 1:
    raise UserError(
        f"{folder}: .npy files of {sorted(map(len, clips.values()))} rows, "
        "expected as many in each")
  try:
    file = open(os.path.join(folder, LINES), encoding="utf-8",
                errors="replace", newline="\n")
  except OSError as error:
    raise UserError(f"{folder}/{LINES}: cannot be read ({one_line(error)}), "
                    "expected a line a clip") from None
  size = os.fstat(file.fileno()).st_size
  if facts.get("lines_bytes", size) != size:
    raise UserError(f"{folder}/{LINES}: has {size} bytes, expected "
                    f"{facts['lines_bytes']}, as {path} says")
  if _read_mark(path) != facts:  # All are open, so they stay what they are.
    raise UserError(f"{folder}: is being written, expected a whole pool")
  return Pool(folder, facts, clips, file)


def _read_mark(path):
  """The facts of a pool; UserError if there is none."""
  try:
    with tf.io.gfile.GFile(path) as file:
      facts = json.load(file)
  except tf.errors.OpError:
    raise UserError(f"{path}: not found, expected what --export writes, and "
                    "ends with this file") from None
  except ValueError as error:
    raise UserError(f"{path}: not valid JSON ({error})") from None
  if not isinstance(facts, dict) or facts.keys() != {"step"} and not (
      facts.keys() >= {*FACTS}):
    raise UserError(f"{path}: has not all of {', '.join(FACTS)}, expected what "
                    "--export writes")
  return facts


def _read_array(path, expected):
  """The np.memmap of a file; `expected` is its shape and dtype, if known."""
  try:
    array = np.load(path, mmap_mode="r")
  except (OSError, ValueError) as error:
    raise UserError(f"{path}: cannot be read ({one_line(error)}), expected "
                    "what --export wrote") from None
  found = {"shape": list(array.shape), "dtype": array.dtype.name}
  if expected not in (None, found):
    raise UserError(
        f"{path}: is {found['dtype']} {found['shape']}, expected "
        f"{expected['dtype']} {expected['shape']}, as {MARK} says")
  return array
