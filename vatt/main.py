"""Trains and evaluates: flags -> config, strategy, mode.

  python -m vatt.main --config=configs/NAME.py:ARG --workdir=DIR
"""
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import flags, logging

from vatt import cli

if TYPE_CHECKING:  # for the hints alone
  import tensorflow as tf

  from vatt.data.sources import Source
  from vatt.tasks import Task

MODE = flags.DEFINE_enum(
    "mode", "train_and_eval", ["train", "eval", "train_and_eval"],
    "train_and_eval evaluates every config.eval_every steps.")
TPU = flags.DEFINE_string(
    "tpu", None, "Name of the TPU; chooses the tpu strategy.")
cli.define_config("Experiment, such as configs/spoken_digits.py:agnostic.")
cli.define_workdir("Directory of checkpoints and metrics; a run in it goes on "
                   "where it was.")


def main() -> None:
  """Runs a mode; see the flags."""
  # TensorFlow takes seconds to load: not before the flags are known to be good.
  import tensorflow as tf

  from vatt import config as config_lib
  from vatt import distribute, fields, host, stopping
  from vatt.tasks import make_task

  stopping.listen()
  config, folder = cli.config(), cli.workdir()
  fields.check(config)
  config = config_lib.expand_home(config)
  if TPU.value is not None:
    config = config_lib.replace(
        config, {"strategy.name": "tpu", "strategy.tpu": TPU.value})
  if config.deterministic:
    tf.config.experimental.enable_op_determinism()
  host.hold_memory()

  # All that can be wrong is validated before the first file is written.
  task = make_task(config)
  config_lib.check(config)
  strategy = distribute.make_strategy(config.strategy)
  distribute.rows_per_replica(strategy, config.batch_size)
  if MODE.value != "train":
    distribute.rows_per_replica(
        strategy, config.eval.batch_size, "eval.batch_size")
  with distribute.together(strategy):
    run(task, folder, strategy)


def run(task: "Task", folder: str, strategy: "tf.distribute.Strategy") -> None:
  """Opens the data, builds the model, trains or evaluates.

  Args:
    task: of a valid config.
    folder: the workdir.
    strategy: of `distribute.make_strategy`.
  """
  from vatt import (
    agreement,
    distribute,
    evaluation,
    locks,
    optimizers,
    restore,
    stopping,
    transfer,
    workdir,
  )
  from vatt.errors import UserError
  from vatt.train import train

  is_chief, training = distribute.is_chief(strategy), MODE.value != "eval"
  with contextlib.ExitStack() as until_the_end:
    failed = evaluate = None
    try:
      data_sources = task.open_sources(task.config.data.train_split)
      task = task.resolve(data_sources, folder)
      config, read = task.config, list(data_sources)
      if training:
        workdir.check_run(folder, config)
      else:
        workdir.check_model(folder, config)
      if MODE.value != "train":
        source, *_ = task.open_sources(config.data.eval_split)
        read.append(source)
        evaluate = make_evaluate(
            task, strategy, source, None if training else folder)
      if training and is_chief:
        until_the_end.enter_context(locks.own(folder, "a training run"))
    except UserError as error:
      failed = error
    agreement.agree(
        strategy, lambda: agreement.facts_of(
            config, read, task.words, mode=MODE.value), folder, failed)

    if not training:
      model, step = restore.restore_model(folder, task, strategy)
      agreement.agree(
          strategy, lambda: {"the newest checkpoint": step}, folder)
      with stopping.noted():  # so that all leave together
        results = evaluate(model)
      if is_chief:
        print(evaluation.line_of(results))
      distribute.wait_for_all(strategy)
      return

    with strategy.scope():
      model = task.build_model()
      optimizer = optimizers.make_optimizer(
          config.optimizer, config.total_steps)
    if config.init and not workdir.has_checkpoint(folder):
      step = transfer.start_from(config.init, task, model)
      logging.info("weights of %s, step %d", config.init, step)
    if is_chief:
      workdir.claim(folder, config, task.WORDS_FILE, task.words)
    logging.info(
        "%s: %d clips, %d lines in %s", ", ".join(config.data.datasets),
        sum(len(source.index) for source in data_sources), len(task.words),
        task.WORDS_FILE)
    train(task, model, optimizer, data_sources, folder, strategy, evaluate)
    distribute.wait_for_all(strategy)  # the chief may still save


def make_evaluate(
    task: "Task", strategy: "tf.distribute.Strategy", source: "Source",
    folder: str | None
) -> Callable[["tf.keras.Model"], list[tuple[str, float]]]:
  """A function model -> [(name, value)] on a split, that shows progress.

  Args:
    task: the resolved task.
    strategy: the model's.
    source: the split.
    folder: workdir that keeps what the results are of; None for none.
  """
  from tqdm import tqdm

  from vatt import distribute

  def evaluate(model):
    with tqdm(total=len(source.index), unit="clip", desc="eval",
              leave=False, disable=not distribute.is_chief(strategy)
              ) as progress:
      return task.evaluate(model, strategy, source, progress.update, folder)

  return evaluate


if __name__ == "__main__":
  cli.run(main)
