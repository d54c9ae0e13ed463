"""Evaluations in the course of training: when, and what becomes of them."""
from collections.abc import Callable, Iterable

import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

from vatt import distribute
from vatt.checkpoints import Checkpoints
from vatt.errors import UserError, one_line
from vatt.metric_writers import MetricWriter
from vatt.stopping import Stopped


def line_of(results: Iterable[tuple[str, float]]) -> str:
  """Results of an evaluation, (name, value)s, in a line."""
  return "  ".join(f"{name} {value:.4g}" for name, value in results)


class Evaluation:
  """When a model is evaluated, and what becomes of the results.

  One that fails does not stop training, and is made up for when the run goes
  on, as is one that a kill cut short: of each step that is still saved. With
  several workers it does stop it, as the others could not know and would wait.

  Args:
    config: the run's.
    evaluate: called as evaluate(model); returns (name, value)s. None: never.
    model: to evaluate.
    strategy: the model's.
  """

  def __init__(self, config: ConfigDict,
               evaluate: Callable[[tf.keras.Model],
                                  Iterable[tuple[str, float]]] | None,
               model: tf.keras.Model, strategy: tf.distribute.Strategy):
    self.config, self.evaluate, self.model = config, evaluate, model
    self.alone = not distribute.several_workers(strategy)
    self.is_chief = distribute.is_chief(strategy)
    self.failed = {}  # {step: the error, a line}

  def is_due(self, step: int) -> bool:
    """Whether a step is to be evaluated."""
    return bool(self.evaluate) and step > 0 and (
        step % self.config.eval_every == 0 or step == self.config.total_steps)

  def run(self, step: int, writer: MetricWriter) -> None:
    """Evaluates the model as it is, at a step, and prints the results; an error
    is logged and kept.

    Args:
      step: the model's.
      writer: takes the results, as eval/NAME.
    """
    try:
      results = dict(self.evaluate(self.model))
    except Stopped:
      logging.warning("stopped in the evaluation of step %d, which is saved: "
                      "run the same command to go on", step)
      raise
    # Whatever went wrong, hours of training are not to end for it.
    except Exception as error:
      if not self.alone:
        raise
      self.failed[step] = one_line(error)
      logging.error("the evaluation of step %d failed: %s", step,
                    self.failed[step],
                    exc_info=not isinstance(
                        error, (UserError, OSError, tf.errors.OpError)))
      return
    writer.write(step, {f"eval/{k}": v for k, v in results.items()})
    if self.is_chief:
      # Last: whoever reads the output may be gone.
      tqdm.write(line_of(results.items()))

  def make_up(self, steps: list[int], checkpoints: Checkpoints,
              writer: MetricWriter) -> None:
    """Evaluates steps that are saved; the model is left as it was."""
    start = checkpoints.newest
    for step in steps:
      logging.info("step %d was not evaluated yet", step)
      try:
        checkpoints.restore(step)
      except UserError as error:
        if not self.alone:
          raise
        logging.warning("step %d is not evaluated: %s", step, error)
      else:
        self.run(step, writer)
    if checkpoints.newest != start:
      checkpoints.restore(start)

  def tell_failures(self) -> None:
    """Raises UserError if evaluations failed."""
    if self.failed:
      step, error = next(iter(self.failed.items()))
      raise UserError(
          f"training is done and saved, but of {len(self.failed)} evaluations "
          f"that failed the first, of step {step}, says: {error}; run the same "
          "command to evaluate what is still saved")
