"""Trains and evaluates: flags -> config, strategy, mode.

  python -m vatt.main --config=configs/NAME.py:ARG --workdir=DIR
"""
import json
import os

import tensorflow as tf
from absl import flags, logging
from ml_collections import config_flags
from tqdm import tqdm

from vatt import (
    checkpoints,
    distribute,
    errors,
    files,
    host,
    inference,
    optimizers,
)
from vatt.tasks import task_of
from vatt.train import check_durations, train

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Experiment, such as configs/spoken_digits.py:agnostic.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of checkpoints and metrics; a run in it goes "
    "on where it was.")
MODE = flags.DEFINE_enum(
    "mode", "train_and_eval", ["train", "eval", "train_and_eval"],
    "train_and_eval evaluates every config.eval_every steps.")
TPU = flags.DEFINE_string(
    "tpu", None, "Name of the TPU; chooses the tpu strategy.")

# Fields that may change between runs in one workdir: they do not change what
# is learned.
FREE_FIELDS = ("strategy", "log_every", "checkpoint_every", "eval_every",
               "keep_checkpoints", "steps_per_loop", "eval", "model.remat",
               "data.data_dir", "data.cache", "data.eval_split",
               "data.vocabulary", "data.max_corrupt_share")


def flat(config, prefix=""):
  """{"data.size": 40, ...} of nested dicts."""
  items = {}
  for name, value in config.items():
    if isinstance(value, dict):
      items.update(flat(value, f"{prefix}{name}."))
    else:
      items[prefix + name] = value
  return items


def claim_workdir(config, task, words, workdir):
  """Writes config.json and the task's words, or checks what is there.

  Args:
    config: resolved.
    task: of `task_of`.
    words: of `task.resolve`.
    workdir: of the run.

  Raises:
    UserError: the workdir belongs to a run of another config.
  """
  path = os.path.join(workdir, "config.json")
  text = json.dumps(
      json.loads(config.to_json_best_effort()), indent=2, sort_keys=True)
  if tf.io.gfile.exists(path):
    there = inference.read_config(workdir).to_json_best_effort()
    ours, theirs = flat(json.loads(text)), flat(json.loads(there))
    for field in sorted(set(ours) | set(theirs)):
      free = any(field == f or field.startswith(f + ".") for f in FREE_FIELDS)
      if not free and ours.get(field) != theirs.get(field):
        raise errors.UserError(
            f"{path}: {field} is {theirs.get(field)!r}, this run has "
            f"{ours.get(field)!r}; expected the same config or another "
            "--workdir")
  tf.io.gfile.makedirs(workdir)
  for name, content in ((task.WORDS, "".join(w + "\n" for w in words)),
                        ("config.json", text + "\n")):
    files.write_whole(os.path.join(workdir, name), content)


def main(argv):
  """Runs a mode; see the flags."""
  if len(argv) > 1:
    raise errors.UserError(f"unexpected argument {argv[1]!r}, expected flags")
  for name, flag in (("config", CONFIG), ("workdir", WORKDIR)):
    if flag.value is None:
      raise errors.UserError(f"--{name} is missing")
  config, workdir = CONFIG.value, os.path.expanduser(WORKDIR.value)
  task = task_of(config)
  if TPU.value is not None:
    config.strategy.update(name="tpu", tpu=TPU.value)
  if config.deterministic:
    tf.config.experimental.enable_op_determinism()
  host.hold_memory()
  strategy = distribute.make_strategy(config.strategy)

  # All that can be wrong is looked at before the first file is written.
  check_durations(config)
  distribute.rows_per_replica(strategy, config.batch_size)
  data_sources = task.open_sources(config, config.data.train_split)
  words = task.resolve(config, data_sources, workdir)
  evaluate = None
  if MODE.value != "train":
    evaluate = make_evaluate(config, strategy, task, words,
                             workdir if MODE.value == "eval" else None)
  with strategy.scope():
    model = task.build_model(config, words)
  if MODE.value == "eval":
    checkpoints.restore_model(os.path.join(workdir, "checkpoints"), model)
    evaluate(model)
    return
  with strategy.scope():
    optimizer = optimizers.make_optimizer(config.optimizer, config.total_steps)
  own = os.path.join(workdir, "checkpoints", "*.manifest.json")
  if config.init and not tf.io.gfile.glob(own):
    step = task.start_from(config.init, config, model)
    logging.info("weights of %s, step %d", config.init, step)
  if distribute.is_chief(strategy):
    claim_workdir(config, task, words, workdir)
  logging.info("%s: %d clips, %d lines in %s", ", ".join(config.data.datasets),
               sum(len(source.index) for source in data_sources), len(words),
               task.WORDS)
  train(config, workdir, strategy, task, model, optimizer, data_sources,
        evaluate)


def make_evaluate(config, strategy, task, words, workdir):
  """A function model -> [(name, value)] on the eval split of the first
  dataset; shows progress and prints the results, and keeps in a workdir what
  they are of."""
  source, *_ = task.open_sources(config, config.data.eval_split)

  def evaluate(model):
    with tqdm(total=len(source.index), unit="clip", desc="eval",
              leave=False) as progress:
      results = task.evaluate(
          config, model, strategy, source, words, progress.update, workdir)
    tqdm.write("  ".join(f"{name} {value:.4g}" for name, value in results))
    return results

  return evaluate


if __name__ == "__main__":
  errors.run(main)
