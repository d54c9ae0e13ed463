"""Metrics of a run: metrics.jsonl and TensorBoard events.

A line of metrics.jsonl is {"step": …, "time": seconds since 1970, name:
value, …}. JSON has no non-finite numbers: they stand as the strings "NaN",
"Infinity" and "-Infinity", which `float` reads.
"""
import json
import math
import os
import time
from collections.abc import Mapping

import tensorflow as tf
from absl import logging

from vatt import files
from vatt.errors import UserError, one_line

NON_FINITE = ("NaN", "Infinity", "-Infinity")


class MetricWriter:
  """Appends to the metrics of a workdir."""

  def __init__(self, workdir: str, resume_step: int = 0,
               is_chief: bool = True):
    """Drops what an earlier run wrote beyond the step that this one starts at.

    Args:
      workdir: local, or any path of tf.io.gfile.
      resume_step: step of the checkpoint that the run goes on from; 0 for none.
      is_chief: False in the workers that write nothing.

    Raises:
      UserError: the workdir cannot be written.
    """
    self.path = path_of(workdir)
    self.file = self.events = None
    if not is_chief:
      return
    try:
      tf.io.gfile.makedirs(workdir)
      if tf.io.gfile.exists(self.path):
        self._drop_beyond(resume_step)
      self.file = tf.io.gfile.GFile(self.path, "a")
      self.events = tf.summary.create_file_writer(workdir)
      self._start_events(resume_step + 1)
    except (OSError, tf.errors.OpError) as error:
      raise _refused(self.path, error) from None

  def _drop_beyond(self, step):
    kept = [row for row in read(self.path) if row["step"] <= step]
    files.write_whole(self.path, "".join(map(_line, kept)))

  def _start_events(self, step):
    """Marks a start, the second of which TensorBoard takes for a restart: it
    leaves out what older files say of this step and on."""
    event = tf.compat.v1.Event(
        wall_time=time.time(), step=step, session_log=tf.compat.v1.SessionLog(
            status=tf.compat.v1.SessionLog.START))
    self.events.init()
    tf.raw_ops.ImportEvent(
        writer=self.events._resource, event=event.SerializeToString())

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the values of a step by name, and flushes them.

    Raises:
      UserError: no space left, or the like.
    """
    if self.file is None:
      return
    values = {name: float(value) for name, value in values.items()}
    try:
      self.file.write(_line({"step": int(step), "time": time.time(), **values}))
      self.file.flush()
      with self.events.as_default():
        for name, value in values.items():
          tf.summary.scalar(name, value, step)
      self.events.flush()
    except (OSError, tf.errors.OpError) as error:
      raise _refused(self.path, error) from None

  def close(self) -> None:
    """Closes the files."""
    if self.file is not None:
      self.file.close()
      self.events.close()
      self.file = None


def path_of(workdir: str) -> str:
  """The file of a run's metrics."""
  return os.path.join(workdir, "metrics.jsonl")


def evaluated_steps(workdir: str) -> set[int]:
  """The steps that have results of an evaluation."""
  path = path_of(workdir)
  if not tf.io.gfile.exists(path):
    return set()
  try:
    return {int(row["step"]) for row in read(path)
            if any(name.startswith("eval/") for name in row)}
  except files.REFUSED as error:
    raise UserError(f"{path}: cannot be read ({one_line(error)}), expected the "
                    "metrics of a run") from None


def read(path: str) -> list[dict[str, float]]:
  """Reads a metrics.jsonl.

  Returns:
    A dict a line, as written. A last line that a kill has cut is left out, and
    so, with a warning, is any other that is no metrics.
  """
  with tf.io.gfile.GFile(path, "rb") as file:
    *lines, _ = file.read().split(b"\n")  # After the last newline: a cut line.
  rows = []
  for number, line in enumerate(lines, 1):
    try:
      row = {name: float(value) if value in NON_FINITE else value + 0
             for name, value in json.loads(line).items()}
      row["step"]  # noqa: B018  no line of ours is without it
    except (ValueError, TypeError, KeyError, AttributeError):
      logging.warning("%s:%d: left out, no line of metrics: %.80r",
                      path, number, line)
    else:
      rows.append(row)
  return rows


def _line(row):
  def valid(value):
    if math.isfinite(value):
      return value
    if math.isnan(value):
      return "NaN"
    return "Infinity" if value > 0 else "-Infinity"

  return json.dumps(
      {name: valid(value) for name, value in row.items()}) + "\n"


def _refused(path, error):
  return UserError(f"{path}: metrics cannot be written ({one_line(error)}); "
                   "expected a workdir with room")
