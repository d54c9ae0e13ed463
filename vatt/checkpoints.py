"""Checkpoints that survive kills, damage and full disks.

A checkpoint of step N is TensorFlow's ckpt-N.index and ckpt-N.data-*, complete
once ckpt-N.manifest.json, with the size of each, lies beside them. A save goes:
files, manifest, TensorFlow's state file `checkpoint`; then the SHA-256 of each
file, which the manifest takes up; and only then are older ones deleted; so at
no moment less is kept than before it.
Hashes come late because a save may have but seconds: from a signal that asks
for the end to the one that does not ask. A checkpoint without them is held
against its sizes and TensorFlow's own checksums when it is restored, and gets
them then.
(tf.train.CheckpointManager deletes, and names the new one in the state file,
before a manifest could be written. It is not used.)
"""
import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from vatt import files
from vatt.errors import UserError, one_line
from vatt.files import REFUSED

NAME = re.compile(r"ckpt-(\d+)(\.|_temp$)")
MANIFEST = ".manifest.json"


class Checkpoints:
  """Saves and restores the state of a run, in one directory.

  Restore before the first save. Both want every variable to exist: build the
  model, and create a legacy optimizer's slots by `_create_all_weights(vars)`.
  """

  def __init__(self, directory: str, keep: int = 3, is_chief: bool = True,
               **trackables: Any):
    """Takes the directory and what to save, by name.

    Args:
      directory: local, or any path of tf.io.gfile.
      keep: how many of the newest checkpoints stay.
      is_chief: False in the workers that write nothing. No variable may need
        all workers to be read: those that replicas hold apart are the first
        one's (`VariableAggregation.ONLY_FIRST_REPLICA`).
      **trackables: such as model=…, optimizer=….
    """
    self.directory = directory
    self.keep = keep
    self.is_chief = is_chief
    self.trackables = trackables
    self.checkpoint = tf.train.Checkpoint(**trackables)
    self.newest = None  # step of what was last saved or restored

  def save(self, step: int) -> None:
    """Saves the state of a step, unless it was just saved or restored; nothing
    in a worker that is not the chief.

    Raises:
      UserError: the directory cannot be written. What was written of this step
        is removed, older checkpoints are as they were.
    """
    if self.is_chief and step != self.newest:
      try:
        tf.io.gfile.makedirs(self.directory)
        self._save(step)
      except REFUSED as error:
        with contextlib.suppress(*REFUSED):
          _remove(self.directory, step)
        raise UserError(
            f"{self.directory}: cannot write the checkpoint of step {step} "
            f"({one_line(error)}); {self._space()}; older ones are intact"
        ) from None
    self.newest = step

  def _save(self, step):
    _remove(self.directory, step)  # A damaged one, or of an abandoned run.
    self.checkpoint.write(os.path.join(self.directory, f"ckpt-{step}"))
    written = {}
    for name in files.listdir(self.directory):
      if name.startswith(f"ckpt-{step}."):
        path = os.path.join(self.directory, name)
        files.sync(path)
        written[name] = {"bytes": tf.io.gfile.stat(path).length}
    if not written:  # nor would another start see any
      raise OSError("what is written does not show in the folder")
    _write_manifest(self.directory, step, written)  # From here on it counts.
    _name_newest(self.directory, step)
    _add_hashes(self.directory, step, written)

    # Newer ones were damaged, or this run would not have started before them.
    kept = [s for s in _complete(self.directory) if s <= step][:self.keep]
    there = {step_of(name) for name in files.listdir(self.directory)} - {None}
    for old in there - set(kept):
      _remove(self.directory, old)

  def restore_latest(self) -> int | None:
    """Restores the newest whole checkpoint; warns if newer ones are damaged.

    The chief also removes what an interrupted save has left, and adds the
    hashes that one has not come to. Others write nothing.

    Returns:
      Its step, or None without a checkpoint.

    Raises:
      UserError: all are damaged; one does not fit the model; the directory
        cannot be written, or its name could not be read again.
    """
    files.check_checkpoint_path(self.directory)
    if self.is_chief:
      with self._writing():
        tf.io.gfile.makedirs(self.directory)
        self._remove_leftovers()
    step = _newest_whole(self.directory)
    if step is not None:
      self._read(step)
      if self.is_chief:
        with self._writing():
          _name_newest(self.directory, step)
          listed = _listed(self.directory, step)
          if not all("sha256" in facts for facts in listed.values()):
            _add_hashes(self.directory, step, listed)
    self.newest = step
    return step

  @contextlib.contextmanager
  def _writing(self):
    try:
      yield
    except REFUSED as error:
      raise UserError(f"{self.directory}: cannot be written "
                      f"({one_line(error)}), expected a folder with room"
                      ) from None

  def check_room(self) -> None:
    """Validates that another checkpoint can be saved; nothing in a worker that
    saves none.

    Raises:
      UserError: the disk has no room for one.
    """
    free = _free_bytes(self.directory) if self.is_chief else None
    if free is not None and free < self._num_bytes():
      raise UserError(f"{self.directory}: no room for a checkpoint; "
                      f"{self._space()}")

  def saved_steps(self) -> list[int]:
    """The steps that have a checkpoint, in rising order."""
    return _complete(self.directory)[::-1]

  def restore(self, step: int) -> None:
    """Restores the checkpoint of a step.

    Raises:
      UserError: it is damaged, or of another model.
    """
    damage = _damage(self.directory, step)
    if damage:
      raise UserError(f"{self.directory}: damaged checkpoint: {damage}; "
                      "expected a whole one")
    self.newest = None  # if reading stops, the state is that of no step
    self._read(step)
    self.newest = step

  def _read(self, step):
    _read(self.checkpoint, self.directory, step,
          lambda status: status.assert_existing_objects_matched()
          .assert_consumed())

  def _remove_leftovers(self):
    complete = _complete(self.directory)
    unfinished = {step_of(name) for name in files.listdir(self.directory)}
    for step in unfinished - {None} - set(complete):
      logging.warning("%s: removing ckpt-%d, which has no manifest: an "
                      "interrupted save", self.directory, step)
      _remove(self.directory, step)
    for name in files.listdir(self.directory):
      if name.startswith("checkpoint."):
        _delete(os.path.join(self.directory, name))

  def _num_bytes(self):
    variables = {}
    for node in self.trackables.values():
      for variable in getattr(node, "weights", [node]):
        variables[id(variable)] = (
            variable.shape.num_elements() * variable.dtype.size)
    return sum(variables.values())

  def _space(self):
    free = _free_bytes(self.directory)
    free = "" if free is None else f", {free / 1e6:.1f} MB are free"
    return f"it needs {self._num_bytes() / 1e6:.1f} MB{free}"


def restore_model(directory: str, model: tf.keras.Model) -> int:
  """Fills a model from the newest whole checkpoint, for use or evaluation.

  Args:
    directory: where `Checkpoints` saved this model, as `model`.
    model: built, so that its variables exist.

  Returns:
    The step.

  Raises:
    UserError: no checkpoint, or none that is whole, or model and checkpoint
      have not the same variables.
  """
  step = _newest_whole(directory)
  if step is None:
    raise UserError(f"{directory}: no checkpoint, expected ckpt-N files with "
                    "their ckpt-N.manifest.json, as training writes them")
  _read(tf.train.Checkpoint(model=model), directory, step,
        lambda status: status.assert_existing_objects_matched())
  with files.checkpoint_path(
      os.path.join(directory, f"ckpt-{step}")) as readable:
    saved = [name for name, _ in tf.train.list_variables(readable)
             if name.startswith("model/") and "/.OPTIMIZER_SLOT/" not in name]
  if len(saved) != len(model.variables):
    raise UserError(
        f"{directory}/ckpt-{step}: holds {len(saved)} variables of a model, "
        f"expected the {len(model.variables)} of this one")
  return step


def names_of(model: tf.keras.Model) -> dict[str, tf.Variable]:
  """The variables of a model by the names that its checkpoints give them, such
  as `towers/video/encoder/blocks/0/attention/qkv/kernel`: the shortest path of
  attributes. What towers share has its name of the first."""
  view, found, seen, queue = tf.train.TrackableView(model), {}, set(), [
      ("", model)]
  for path, node in queue:  # breadth first: it grows
    if id(node) in seen:
      continue
    seen.add(id(node))
    if isinstance(node, tf.Variable):
      found[path[1:]] = node
    else:
      queue += [(f"{path}/{name}", child)
                for name, child in view.children(node).items()]
  return found


def weights_sha256(variables: Sequence[tf.Variable | tf.Tensor]) -> str:
  """SHA-256 of variables, to compare the weights of two runs.

  Covers shape, type and bytes in the order given; no names, as Keras numbers
  them by what else was built in a process.

  Returns:
    64 hexadecimal digits.
  """
  digest = hashlib.sha256()
  for variable in variables:
    value = variable.numpy()
    digest.update(f"{value.dtype.name}{value.shape}".encode())
    digest.update(value.tobytes())
  return digest.hexdigest()


def step_of(name: str) -> int | None:
  """The step of a checkpoint's file or temporary directory, or None."""
  match = NAME.match(name)
  return int(match[1]) if match else None


def _complete(directory):
  """Steps with a manifest, newest first; none if there is no directory."""
  return sorted((step_of(name) for name in files.listdir(directory)
                 if re.fullmatch(r"ckpt-\d+" + re.escape(MANIFEST), name)),
                reverse=True)


def _newest_whole(directory):
  """The newest step that is as its manifest says, or None without any."""
  found = []
  for step in _complete(directory):
    damage = _damage(directory, step)
    if damage is None:
      if found:
        logging.warning("%s: going back to the checkpoint of step %d",
                        directory, step)
      return step
    logging.warning("%s: damaged checkpoint: %s", directory, damage)
    found.append(damage)
  if found:
    raise UserError(
        f"{directory}: every checkpoint is damaged ({'; '.join(found)}); "
        "expected a whole one: bring a copy of one back, or remove them all to "
        "start from nothing")
  return None


def _damage(directory, step):
  """What is wrong with a checkpoint, or None."""
  listed = _listed(directory, step)
  if listed is None:
    return f"ckpt-{step}{MANIFEST} is no manifest"
  damage = files.damage(directory, listed)
  if damage:
    return damage
  if all("sha256" in facts for facts in listed.values()):
    return None
  logging.warning("%s: ckpt-%d has no SHA-256s, as its save was cut short; its "
                  "sizes are right", directory, step)
  return _checksum_damage(directory, step)


def _checksum_damage(directory, step):
  """What TensorFlow's own checksums find wrong with a checkpoint, or None."""
  name = f"ckpt-{step}"
  try:
    with files.checkpoint_path(os.path.join(directory, name)) as readable:
      reader = tf.train.load_checkpoint(readable)
      for variable in reader.get_variable_to_shape_map():
        reader.get_tensor(variable)
  except tf.errors.OpError as error:
    return f"{name} cannot be read ({one_line(error)})"
  return None


def _listed(directory, step):
  """{file: {"bytes", "sha256" if it is known}} of a manifest, or None if that
  is damaged."""
  path = os.path.join(directory, f"ckpt-{step}{MANIFEST}")
  try:
    with tf.io.gfile.GFile(path) as file:
      listed = json.load(file)["files"]
    return {name: dict(facts, bytes=facts["bytes"])
            for name, facts in listed.items()}
  except (ValueError, KeyError, TypeError, AttributeError):
    return None


def _read(checkpoint, directory, step, check):
  """Reads a checkpoint; check(status) asserts what must match."""
  path = os.path.join(directory, f"ckpt-{step}")
  status = None
  try:
    with files.checkpoint_path(path) as readable:
      status = checkpoint.read(readable)
      check(status)
    status.expect_partial()  # Silences what TensorFlow says at exit.
    return
  except (AssertionError, ValueError, tf.errors.InvalidArgumentError) as error:
    problem = one_line(error)
    if status is not None:
      status.expect_partial()
  # What a failed read leaves in the model warns of every variable at exit.
  tf.get_logger().addFilter(_is_no_leftover)
  raise UserError(f"{path}: does not fit this model: {problem}; "
                  "expected the config that it was trained with")


def _is_no_leftover(record):
  """Filters what TensorFlow logs of values that a read did not use."""
  message = record.getMessage()
  return ("in checkpoint could not be found" not in message
          and "deleted with unrestored values" not in message)


def _write_manifest(directory, step, listed):
  """Writes what `_listed` reads."""
  files.write_whole(
      os.path.join(directory, f"ckpt-{step}{MANIFEST}"),
      json.dumps({"step": step, "files": listed}, indent=2) + "\n")


def _add_hashes(directory, step, listed):
  """Writes the manifest again, with the hash of each file that is listed."""
  _write_manifest(directory, step, {
      name: facts | {"sha256": files.sha256(os.path.join(directory, name))}
      for name, facts in listed.items()})


def _name_newest(directory, step):
  """Writes the state file that tf.train.latest_checkpoint reads."""
  files.write_whole(os.path.join(directory, "checkpoint"),
                    f'model_checkpoint_path: "ckpt-{step}"\n')


def _remove(directory, step):
  """Removes all files of a checkpoint; the manifest first, as it vouches."""
  mine = [name for name in files.listdir(directory) if step_of(name) == step]
  for name in sorted(mine, key=lambda name: not name.endswith(MANIFEST)):
    _delete(os.path.join(directory, name))


def _delete(path):
  if tf.io.gfile.isdir(path):
    tf.io.gfile.rmtree(path)
  elif tf.io.gfile.exists(path):
    tf.io.gfile.remove(path)


def _free_bytes(directory):
  """Bytes free for a directory, or None where that is unknown."""
  return None if "://" in directory else shutil.disk_usage(directory).free
