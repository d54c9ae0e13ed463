"""Runs of the real program: killed, stopped, fed with damaged records."""
import json
import os
import pathlib
import re
import shutil
import signal
import time

import numpy as np
import pytest
import tensorflow as tf


def weights(output):
  """The SHA-256 of the weights that a finished run logs."""
  return re.search(r"step 20: weights have SHA-256 (\w{64})", output)[1]


def train(run_main, workdir, *flags):
  code, output = run_main(workdir, "--mode=train", *flags)
  assert code == 0, output
  return output


@pytest.fixture(scope="module")
def undisturbed(run_main, tmp_path_factory):
  """Workdir and weights of a real process; those beside it are forks."""
  workdir = tmp_path_factory.mktemp("undisturbed")
  code, output = run_main(workdir, "--mode=train", fork=False)
  assert code == 0, output
  return workdir, weights(output)


def kill_when(process, there, sign=signal.SIGKILL):
  """Sends a signal as soon as `there()` holds."""
  while not there():
    assert process.poll() is None, process.stdout.read()
    time.sleep(0.0005)
  process.send_signal(sign)
  output, _ = process.communicate()
  return output


def steps_of(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line)["step"] for line in lines]


def test_killed_in_mid_run_ends_with_the_same_weights(
    run_main, undisturbed, tmp_path):
  """Also where a second run wanted the same workdir in the meantime."""
  log, owner = tmp_path / "metrics.jsonl", tmp_path / "owner.json"
  process = run_main(tmp_path, "--mode=train", wait=False)
  while not (owner.exists() and owner.read_text().endswith("}\n")):
    assert process.poll() is None, process.stdout.read()
    time.sleep(0.005)
  process.send_signal(signal.SIGSTOP)  # it is not to end before the second
  code, output = run_main(tmp_path, "--mode=train")
  process.send_signal(signal.SIGCONT)
  assert code == 1 and "Traceback" not in output
  assert output.splitlines()[-1].startswith(
      f"error: {tmp_path}: in use by a training run, process {process.pid} of "
      "this host")
  # Killed after the log line of step 15, when the checkpoint is at step 10.
  kill_when(process, lambda: log.exists() and '"step": 15' in log.read_text())
  assert process.returncode == -signal.SIGKILL and owner.exists()
  output = train(run_main, tmp_path)
  assert f"taken over from a training run (process {process.pid}, " in output
  assert weights(output) == undisturbed[1] and not owner.exists()
  assert steps_of(tmp_path) == steps_of(undisturbed[0]) == [5, 10, 15, 20]


@pytest.mark.slow
@pytest.mark.parametrize("step", [10, 20])
def test_killed_in_mid_save_ends_with_the_same_weights(
    run_main, undisturbed, tmp_path, step):
  folder = tmp_path / "checkpoints"
  process = run_main(tmp_path, "--mode=train", wait=False)
  kill_when(process, lambda: folder.exists() and any(
      name.startswith(f"ckpt-{step}.") for name in os.listdir(folder)))
  assert process.returncode == -signal.SIGKILL
  assert not (folder / f"ckpt-{step}.manifest.json").exists()
  assert weights(train(run_main, tmp_path)) == undisturbed[1]


def evaluated(workdir):
  """The steps that have results, as often as they have."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [row["step"] for row in map(json.loads, lines)
          if any(name.startswith("eval/") for name in row)]


@pytest.mark.slow
@pytest.mark.parametrize("step", [10] * 5 + [20] * 5)
def test_killed_between_save_and_evaluation_loses_no_result(
    run_main, undisturbed, tmp_path, step):
  # A name that would be a pattern, and more.
  workdir = tmp_path / "lr[0.1] #1 %41 *caf\u00e9?"
  flags = ("--mode=train_and_eval", "--config.eval_every=10")
  process = run_main(workdir, *flags, wait=False)
  kill_when(process, (
      workdir / "checkpoints" / f"ckpt-{step}.manifest.json").exists)
  assert process.returncode == -signal.SIGKILL
  assert evaluated(workdir) == [s for s in (10, 20) if s < step]
  code, output = run_main(workdir, *flags)
  assert code == 0, output
  assert f"step {step} was not evaluated yet" in output
  assert evaluated(workdir) == [10, 20]
  if step < 20:
    assert weights(output) == undisturbed[1]
  code, output = run_main(workdir, *flags)
  assert code == 0 and "is trained: step 20" in output
  assert evaluated(workdir) == [10, 20]


def test_evaluations_that_fail_do_not_stop_training_and_are_made_up_for(
    run_main, undisturbed, digits_dir, tmp_path):
  # Names that would be patterns, and more.
  data_dir = tmp_path / "[data]"
  workdir = tmp_path / "lr[0.1] #1 %41 *caf\u00e9?"
  shutil.copytree(digits_dir, data_dir)
  log = workdir / "metrics.jsonl"
  flags = ("--mode=train_and_eval", "--config.eval_every=10",
           f"--config.data.data_dir={data_dir}")
  process = run_main(workdir, *flags, wait=False)
  while not (log.exists() and '"step": 5' in log.read_text()):
    assert process.poll() is None, process.stdout.read()
    time.sleep(0.005)
  shards = list(data_dir.rglob("*-test.tfrecord*"))
  for shard in shards:
    shard.rename(f"{shard}.away")
  output, _ = process.communicate()
  assert process.returncode == 1
  line = output.splitlines()[-1]
  assert line.startswith("error: training is done and saved, but of 2 eval")
  assert "the first, of step 10, says: " in line and "test.tfrecord" in line
  assert "Traceback" not in output and weights(output) == undisturbed[1]
  assert not evaluated(workdir)
  for shard in shards:
    pathlib.Path(f"{shard}.away").rename(shard)
  code, output = run_main(workdir, *flags)
  assert code == 0, output
  assert evaluated(workdir) == [10, 20]


@pytest.mark.slow
def test_sigterm_saves_and_the_run_goes_on(run_main, undisturbed, tmp_path):
  log = tmp_path / "metrics.jsonl"
  process = run_main(tmp_path, "--mode=train", wait=False)
  output = kill_when(
      process, lambda: log.exists() and '"step": 5' in log.read_text(),
      signal.SIGTERM)
  assert process.returncode == 128 + signal.SIGTERM
  assert re.search(r"saved step (5|10|15)", output)
  assert weights(train(run_main, tmp_path)) == undisturbed[1]


def test_train_and_eval_writes_measures(run_main, tmp_path):
  code, output = run_main(tmp_path, "--config.total_steps=5",
                          "--config.eval_every=5", "--config.log_every=5",
                          "--config.checkpoint_every=5",
                          "--config.loss.temperature=100.0")
  assert code == 0, output
  rows = [json.loads(line)
          for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  measures = {name: value for row in rows for name, value in row.items()}
  assert np.isfinite(measures["train/loss"])
  assert measures["train/clips_per_second"] > 0
  # A fifth of the warm-up a step, from 0 on: that of the fifth step.
  np.testing.assert_allclose(measures["train/lr"], 1.4e-3 * 4 / 5, rtol=1e-6)
  for name in ("eval/video_to_text/accuracy", "eval/audio_to_text/accuracy",
               "eval/text_to_video/R@1", "eval/audio_to_video/R@5"):
    assert 0 <= measures[name] <= 1
  # So warm, every pair is as likely as another. NCE has 1 + 2·5 of them; of
  # MIL-NCE's 5 + 2·25, 5 are right.
  assert abs(measures["train/nce"] - np.log(11)) < 0.05
  assert abs(measures["train/mil_nce"] - np.log(55 / 5)) < 0.05


def test_training_starts_from_another_models_weights(
    run_main, undisturbed, tmp_path):
  source = tmp_path / "source"
  shutil.copytree(undisturbed[0], source)
  # The words are those of the source too, in its order.
  words = (source / "vocabulary.txt").read_text().split()
  (source / "vocabulary.txt").write_text("\n".join(words[::-1]) + "\n")
  still = ["--config.optimizer.lr=0.0", "--config.optimizer.end_lr=0.0",
           "--config.total_steps=10", f"--config.init={source}"]
  workdir = tmp_path / "workdir"
  assert "step 20" in train(run_main, workdir, *still)
  assert (workdir / "vocabulary.txt").read_text().split() == words[::-1]
  ours, theirs = (
      {name: tf.train.load_variable(path, name)
       for name, _ in tf.train.list_variables(path)
       if name.startswith("model/") and ".OPTIMIZER_SLOT" not in name
       and "moving" not in name}
      for path in (str(workdir / "checkpoints/ckpt-10"),
                   str(source / "checkpoints/ckpt-20")))
  assert len(ours) > 30 and ours.keys() == theirs.keys()
  for name, value in ours.items():
    np.testing.assert_array_equal(value, theirs[name], err_msg=name)

  code, output = run_main(tmp_path / "wide", "--mode=train",
                          "--config.model.dim_vt=12", *still[-1:])
  assert code == 1 and "is (16, 8), expected (16, 12) by this config" in (
      output.splitlines()[-1])
  assert not (tmp_path / "wide").exists()
  # Once a run has a checkpoint of its own, the source is not asked for.
  shutil.rmtree(source)
  assert "is trained: step 10" in train(run_main, workdir, *still)


def test_not_finite_stops_before_anything_is_saved(
    run_main, digits_dir, tmp_path):
  """Adam, whose epsilon is 0 in float32, divides 0 by 0 for the words that step
  0 does not have; step 1 has them, within a loop whose others are not finite
  either."""
  code, output = run_main(
      tmp_path, "--mode=train", "--config.optimizer.epsilon=1e-50")
  assert code == 1
  line = output.splitlines()[-1]
  assert line.startswith("error: step 1: loss nan"), output
  assert "positions 6 to 11" in line
  dump = np.load(tmp_path / "non_finite_1.npz")
  assert dump["batch/video"].shape == (6, 8, 24, 24, 3)
  assert dump["batch/index"].tolist() == list(range(6, 12))
  assert np.isnan(dump["metrics/loss"])
  # Where its records are: they are numbered over the shards.
  places = [(name[:-len(".index.json")], offset)
            for name in sorted(map(str, pathlib.Path(digits_dir).rglob(
                "*-train.tfrecord-*.index.json")))
            for offset in json.loads(
                pathlib.Path(name).read_text())["offsets"]]
  assert list(zip(dump["files"], dump["offsets"])) == [
      places[i] for i in dump["batch/record"]]
  assert not list((tmp_path / "checkpoints").glob("*.manifest.json"))


def test_corrupt_record_is_named_and_too_many_stop(
    run_main, digits_dir, tmp_path):
  data_dir = tmp_path / "data"
  shutil.copytree(digits_dir, data_dir)
  shard = sorted(data_dir.rglob("*-train.tfrecord-00000-of-*"))[0]
  index = json.loads((shard.parent / f"{shard.name}.index.json").read_text())
  content = bytearray(shard.read_bytes())
  for offset in index["offsets"]:  # a byte of each record's data
    content[offset + 40] ^= 1
  shard.write_bytes(content)
  flags = ["--mode=train", f"--config.data.data_dir={data_dir}"]
  code, output = run_main(
      tmp_path / "a", *flags, "--config.data.max_corrupt_share=1.0")
  assert code == 0, output
  named = {int(offset) for offset in re.findall(
      rf"corrupt record: {re.escape(str(shard))} at byte (\d+)", output)}
  # 20 steps of 6 are more than an epoch of 105: each was met.
  assert named == set(index["offsets"])
  code, output = run_main(tmp_path / "b", *flags)
  assert code == 1
  assert "data.max_corrupt_share" in output.splitlines()[-1]
