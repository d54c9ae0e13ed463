import json
import logging
import math
import os
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import plugin_event_accumulator

from vatt.errors import UserError
from vatt.metric_writers import MetricWriter, read


def steps_of(directory):
  return [row["step"] for row in read(str(directory / "metrics.jsonl"))]


def shown(directory, name):
  """What TensorBoard shows: [(step, value)]."""
  events = plugin_event_accumulator.EventAccumulator(str(directory))
  events.Reload()
  return [(event.step, float(tf.make_ndarray(event.tensor_proto)))
          for event in events.Tensors(name)]


def test_lines_and_events(tmp_path):
  writer = MetricWriter(str(tmp_path / "run"))
  writer.write(10, {"train/loss": 0.5, "train/lr": tf.constant(0.25)})
  # Seen before it is closed.
  line, = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  row = json.loads(line)
  assert 0 <= row.pop("time") - os.stat(tmp_path).st_mtime < 100
  assert row == {"step": 10, "train/loss": 0.5, "train/lr": 0.25}
  assert shown(tmp_path / "run", "train/loss") == [(10, 0.5)]
  writer.write(20, {"train/loss": np.float32(0.125)})
  writer.close()
  assert steps_of(tmp_path / "run") == [10, 20]
  assert shown(tmp_path / "run", "train/loss") == [(10, 0.5), (20, 0.125)]


def test_non_finite_values_are_valid_json(tmp_path):
  writer = MetricWriter(str(tmp_path))
  writer.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
  writer.close()
  text = (tmp_path / "metrics.jsonl").read_text()

  def refuse(name):
    raise AssertionError(f"{name} is no JSON")

  row = json.loads(text, parse_constant=refuse)
  assert (row["a"], row["b"], row["c"]) == ("NaN", "Infinity", "-Infinity")
  row, = read(str(tmp_path / "metrics.jsonl"))
  assert math.isnan(row["a"]) and row["b"] == math.inf == -row["c"]
  MetricWriter(str(tmp_path), 1).close()  # A restart changes nothing.
  assert (tmp_path / "metrics.jsonl").read_text() == text


def test_a_continued_run_holds_each_step_once(tmp_path):
  writer = MetricWriter(str(tmp_path))
  for step in (10, 20, 30, 40):
    writer.write(step, {"a": step})
  # Continued from the checkpoint of step 20, with neither closed.
  writer = MetricWriter(str(tmp_path), 20)
  for step in (30, 40, 50):
    writer.write(step, {"a": -step})
  want = [(10, 10), (20, 20), (30, -30), (40, -40), (50, -50)]
  assert [(row["step"], row["a"])
          for row in read(str(tmp_path / "metrics.jsonl"))] == want
  assert shown(tmp_path, "a") == want
  # Killed before its first checkpoint, it starts anew.
  MetricWriter(str(tmp_path), 0)
  assert steps_of(tmp_path) == []


def test_cut_and_damaged_lines(tmp_path, caplog):
  path = tmp_path / "metrics.jsonl"
  lines = ['{"step": 1, "time": 0, "a": 1}', '{"step": 2, "ti', "\0\0\0", "[3]",
           '{"time": 3}', '{"step": 4, "a": "x"}', '{"step": 5, "time": 0}']
  path.write_text("\n".join(lines) + "\n" + '{"step": 6, "time": 0')
  with caplog.at_level(logging.WARNING):
    writer = MetricWriter(str(tmp_path), 10)
  for number in (2, 3, 4, 5, 6):
    assert f"{path}:{number}:" in caplog.text
  assert f"{path}:8" not in caplog.text  # A cut last line is nothing unusual.
  writer.write(11, {"a": 1})
  assert steps_of(tmp_path) == [1, 5, 11]


def test_kill(tmp_path, python):
  script = f"""
from vatt.metric_writers import MetricWriter
writer = MetricWriter({str(tmp_path)!r})
for step in range(1, 10 ** 9):
  writer.write(step, {{"loss": step, "lr": step}})
  print(step, flush=True)
"""
  process, output = python.start("-c", script), ""
  while "\n20\n" not in output:
    assert process.poll() is None, process.stderr.read()
    output += process.stdout.read()
  process.kill()
  assert process.wait() == -9
  told = int((output + process.stdout.read()).split()[-1])
  steps = steps_of(tmp_path)
  assert steps == list(range(1, len(steps) + 1)) and len(steps) >= told
  time.sleep(1)  # TensorBoard reads the files in the order of their seconds.
  MetricWriter(str(tmp_path), 10).write(11, {"loss": -1})
  assert steps_of(tmp_path) == list(range(1, 12))
  assert shown(tmp_path, "loss") == [(s, s) for s in range(1, 11)] + [(11, -1)]


def test_others_than_the_chief_write_nothing(tmp_path):
  writer = MetricWriter(str(tmp_path / "run"), is_chief=False)
  writer.write(1, {"a": 1})
  writer.close()
  assert not (tmp_path / "run").exists()


def test_remote_file_systems():
  directory = "ram://metrics/run"
  MetricWriter(directory).write(1, {"a": 1})
  MetricWriter(directory, 1).write(2, {"a": 2})
  assert [row["step"] for row in read(directory + "/metrics.jsonl")] == [1, 2]


def test_full_disk(small_disk):
  disk = small_disk("64k")
  writer = MetricWriter(str(disk))
  with pytest.raises(UserError, match="metrics.jsonl.*No space left"):
    for step in range(10 ** 5):
      writer.write(step, {"a": 1})
  assert steps_of(disk) == list(range(len(steps_of(disk))))
  writer.close()


def test_workdir_that_cannot_be(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="file/run/metrics.jsonl"):
    MetricWriter(str(tmp_path / "file" / "run"))
