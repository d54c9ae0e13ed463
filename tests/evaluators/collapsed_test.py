"""A model that collapsed, or whose weights are no numbers, in every measure."""
import math
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from vatt import checkpoints, restore
from vatt.evaluators import classification, linear_probe, retrieval
from vatt.tasks import finetune

CLASSES, WIDTH = 3, 4
LABELS = np.repeat(np.arange(CLASSES), [20, 2, 2])  # five in six are of class 0
CLIPS = len(LABELS)
OWN = LABELS[:, None] == np.arange(CLASSES)


def constant(value):
  return lambda *shape: np.full(shape, value, np.float32)


def up_to_rounding(*shape):
  """One value, but for the last bit."""
  return np.float32(0.5 + 6e-8 * np.random.default_rng(0).integers(
      -1, 2, shape))


def measures(output):
  """(name, value, chance) of all that is measured, of a function shape ->
  what a model makes of clips."""
  vectors = output(CLIPS, WIDTH)
  clips = {f"{name}_{space}": vectors for name in ("video", "audio")
           for space in ("va", "vt")} | {
               "text_vt": vectors[:, None], "label": LABELS,
               "has_video": np.ones(CLIPS, bool),
               "has_audio": np.ones(CLIPS, bool),
               "has_caption": np.ones([CLIPS, 1], bool)}
  for match, right in (("pair", np.ones(CLIPS, int)),
                       ("label", np.bincount(LABELS)[LABELS])):
    options = ConfigDict(dict(match=match, captions=1))
    for name, value in retrieval.Retrieval(options).run(clips):
      if name.endswith("MedR"):  # a low one is good
        yield f"{match} {name}", -value, -np.median((CLIPS + 1) / (right + 1))
      else:  # K draws without one of the right ones
        k = int(name.split("@")[1])
        yield f"{match} {name}", value, 1 - np.mean([
            math.comb(CLIPS - n, k) / math.comb(CLIPS, k) for n in right])
  # Sentences that differ, beside clips that do not: the same guess for all.
  distinct = np.random.default_rng(0).normal(size=(CLASSES, 2, WIDTH))
  for sentences, chance in ((output(CLASSES, 2, WIDTH), 1 / CLASSES),
                            (distinct, OWN.mean(axis=0).max())):
    for name, value in classification.ZeroShot(sentences).run(clips):
      yield name, value, chance
  scores = output(CLIPS, CLASSES)
  for name, value in classification.top_k(scores, OWN, (1, 2)):
    yield name, value, int(name[-1]) / CLASSES
  accuracy = finetune.accuracy(*map(tf.constant, (
      scores, OWN, np.ones(CLIPS, bool))))
  yield "accuracy", float(accuracy), 1 / CLASSES
  chance = {"mAP": OWN.mean(), "AUC": 0.5, "d-prime": 0.0}
  for name, value in classification.multi_label(scores, OWN):
    if name != "classes left out":
      yield name, value, chance[name]
  for probe in (linear_probe.LRC(steps=3), linear_probe.SVM(),
                linear_probe.KNN(3)):
    for name, value in probe.run(
        output(CLIPS, 2, WIDTH), LABELS, vectors, LABELS):
      yield name, value, 1 / CLASSES


@pytest.mark.parametrize("output", [
    *map(constant, (0.0, 0.5, -7e3, np.nan, np.inf, -np.inf)), up_to_rounding],
                         ids="zero half large nan inf -inf rounding".split())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # inf / inf
def test_chance_or_below_in_every_measure(output):
  found = list(measures(output))
  assert len(found) == 2 * 6 * 4 + 2 * 2 + 2 + 1 + 3 + 3
  for name, value, chance in found:
    assert value <= chance + 1e-9, name  # not NaN, either


def test_a_model_that_knows_is_above_chance():
  """So that the figures above are of the measures and not of this file."""
  eye = np.eye(WIDTH, dtype=np.float32)[LABELS]

  def output(*shape):
    if shape == (CLASSES, 2, WIDTH):
      return np.repeat(np.eye(CLASSES, WIDTH)[:, None], 2, axis=1)
    if shape == (CLIPS, 2, WIDTH):
      return np.repeat(eye[:, None], 2, axis=1)
    return eye[:, :shape[1]]

  better = {name for name, value, chance in measures(output) if value > chance}
  assert {"top-1", "accuracy", "mAP", "AUC", "d-prime", "svm/top-1",
          "knn/top-1", "video_to_text/accuracy", "label text_to_video/R@1",
          "label audio_to_video/MedR"} <= better


STEPS = [f"--config.{field}=5" for field in (
    "total_steps", "eval_every", "log_every", "checkpoint_every",
    "steps_per_loop", "optimizer.warmup_steps")]


@pytest.fixture(scope="module")
def programs(run_main, digits_dir, python, tmp_path_factory):
  """A workdir of each task, and a function (task, workdir, mode) that runs it
  there and returns what it said."""
  def run(task, workdir, mode):
    if task == "pretrain":
      return run_main(workdir, f"--mode={mode}", *STEPS)
    done = python.run(
        "-m", "vatt.main", "--config=configs/finetune_digits.py:video",
        f"--workdir={workdir}", f"--mode={mode}", *STEPS,
        f"--config.data.data_dir={digits_dir}", "--config.data.size=24",
        "--config.model.video_patch=(4,8,8)")
    return done.returncode, done.stdout + done.stderr

  workdirs = {task: tmp_path_factory.mktemp(task)
              for task in ("pretrain", "finetune")}
  for task, workdir in workdirs.items():
    code, output = run(task, workdir, "train")
    assert code == 0, output
  return workdirs, run


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.0, 0.01, np.nan])
def test_programs_on_a_model_of_one_weight(programs, python, tmp_path, value):
  """30 clips of three classes, ten of each: chance is a third in each measure,
  or more, as any clip of a query's class is right."""
  workdirs, run = programs
  shares = []
  for task, folder in workdirs.items():
    workdir = tmp_path / task
    shutil.copytree(folder, workdir, ignore=shutil.ignore_patterns("*ckpt*"))
    _, model, step = restore.load_model(str(folder))
    for variable in model.variables:
      variable.assign(tf.fill(variable.shape, tf.cast(value, variable.dtype)))
    checkpoints.Checkpoints(
        str(workdir / "checkpoints"), model=model).save(step)
    scripts = {"linear_probe": (
        "--config=configs/linear_probe.py:digits_video",
        "--config.lrc.steps=50", "--config.probe.train_windows=1")}
    if task == "pretrain":
      scripts["zero_shot_retrieval"] = ()
    for name, flags in scripts.items():
      result = python.run(
          f"scripts/{name}.py", f"--workdir={workdir}", *flags)
      assert result.returncode == 0, result.stderr
      assert np.isfinite(value) or "no finite number" in result.stderr
      shares += [float(x) / 100 for x in re.findall(
          r" ([\d.]+)%", result.stdout)]
    code, output = run(task, workdir, "eval")
    assert code == 0, output
    # Five of three classes are right whatever a model is.
    shares += map(float, re.findall(r"(?:R@\d+|accuracy|top-1) (\S+)", output))
  # 3 of a probe of each; 6 directions and 2 accuracies, by each program; top-1.
  assert len(shares) == 2 * 3 + 2 * (6 * 3 + 2) + 1
  assert max(shares) <= 1 / 3
