"""THE training loop: data, steps, logs, checkpoints, evaluation."""
import io
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

from vatt import (
  agreement,
  distribute,
  files,
  metric_writers,
  optimizers,
  replicas,
  seeds,
  stopping,
)
from vatt.checkpoints import Checkpoints, weights_sha256
from vatt.data import input_pipeline
from vatt.data.sources import Source, why_unreadable
from vatt.errors import UserError, one_line
from vatt.evaluation import Evaluation
from vatt.files import REFUSED
from vatt.metric_writers import MetricWriter
from vatt.stopping import Stopped
from vatt.tasks import Task
from vatt.workdir import checkpoints_of

NAMED_CORRUPT = 8  # corrupt records of a step that are named in the log


class NonFinite(UserError):
  """The loss or a gradient is not finite: names the step and the dump."""


def make_step(task: Task, model: tf.keras.Model,
              optimizer: tf.keras.optimizers.legacy.Optimizer,
              strategy: tf.distribute.Strategy) -> Callable:
  """One training step, as one program of each replica.

  Args:
    task: with a resolved config.
    model, optimizer: made in the strategy's scope.
    strategy: runs the step on each of its replicas.

  Returns:
    step(batch) -> metrics, {name: float []} of the global batch, with `loss`
    and `grad_norm`; facts: `finite`, bool []; `corrupt`, int32 [B], of the rows
    of the global batch that could not be read the number of the record, from 1
    on, and 0 of the others. It updates the variables, also by what is not
    finite: whoever calls it looks at `finite`, and keeps nothing of what came
    from there on.
  """
  config = task.config
  run_seed = seeds.root(config.seed)
  variables = model.trainable_variables

  def replica_step(batch):
    """Forward and backward pass of this replica's rows, and the update."""
    seed = seeds.fold(run_seed, optimizer.iterations)
    with tf.GradientTape() as tape:
      loss, metrics = task.loss_and_metrics(model, batch, seed)
    # Each replica's loss is its part of the global mean: gradients add up.
    gradients = replicas.all_sum([tf.convert_to_tensor(g)
                                  for g in tape.gradient(loss, variables)])
    metrics = replicas.all_sum(dict(metrics, loss=loss))
    metrics["grad_norm"] = tf.linalg.global_norm(gradients)
    facts = {
        "finite": tf.math.is_finite(metrics["loss"])
                  & tf.math.is_finite(metrics["grad_norm"]),
        # Their positions follow from step and row: no 64 bits go around.
        "corrupt": replicas.gather(
            tf.where(batch["corrupt"], batch["record"] + 1, 0)),
    }
    optimizers.apply(config.optimizer, optimizer, model, gradients,
                     metrics["grad_norm"])
    return metrics, facts

  # A step has no control flow on tensors to convert; searching a model for it
  # takes seconds.
  @tf.autograph.experimental.do_not_convert
  def step(batch):
    # All is equal on all replicas: the values of the first.
    return tf.nest.map_structure(
        lambda value: strategy.experimental_local_results(value)[0],
        strategy.run(replica_step, args=(batch,)))

  return step


class Loop(NamedTuple):
  """What a loop of n steps returns.

  Attributes:
    metrics: float64 [n, M], of each step.
    finite: bool [n].
    corrupt: int32 [n, B], of rows that could not be read the number of the
      record, from 1 on, and 0 of the others.
  """
  metrics: tf.Tensor
  finite: tf.Tensor
  corrupt: tf.Tensor


def make_loop(step: Callable, names: Sequence[str], num_steps: int) -> Callable:
  """Several steps in one call of the device: one host sync a loop.

  Args:
    step: of `make_step`.
    names: the M metrics to return.
    num_steps: n, steps of a loop.

  Returns:
    loop(iterator of batches) -> Loop.
  """
  @tf.function
  def loop(iterator):
    columns = [tf.TensorArray(dtype, num_steps)
               for dtype in (tf.float64, tf.bool, tf.int32)]
    for i in tf.range(num_steps):
      metrics, facts = step(next(iterator))
      found = (tf.stack([tf.cast(metrics[name], tf.float64) for name in names]),
               facts["finite"], facts["corrupt"])
      columns = [column.write(i, value)
                 for column, value in zip(columns, found)]
    return Loop(*[column.stack() for column in columns])

  return loop


@stopping.noted()  # SIGTERM, and heeded where nothing is lost
def train(task: Task, model: tf.keras.Model,
          optimizer: tf.keras.optimizers.legacy.Optimizer,
          data_sources: list[Source], workdir: str,
          strategy: tf.distribute.Strategy,
          evaluate: Callable[[tf.keras.Model],
                             Iterable[tuple[str, float]]] | None = None
          ) -> None:
  """Trains, or goes on exactly where the workdir's newest checkpoint stands.

  Args:
    task: with a resolved config.
    model, optimizer: made in the strategy's scope; trained in place.
    data_sources: the training split of each dataset.
    workdir: for checkpoints and metrics.
    strategy: runs each step on its replicas.
    evaluate: called as evaluate(model) every `eval_every` steps; returns
      (name, value)s. None: no evaluation.

  A step is saved before it is evaluated, and an evaluation that fails, or that
  a kill cuts short, is made up for: see `Evaluation`.

  Raises:
    NonFinite: loss or gradient is not finite; nothing of it was saved.
    UserError: too many corrupt records, no space left for a checkpoint; workers
      that differ; at the end, evaluations that failed.
    Temporary: another worker was lost.
    Stopped: SIGTERM came, to any worker; the step that all stopped at is saved.
  """
  # ---- State: where the run stands ------------------------------------------
  config = task.config
  is_chief = distribute.is_chief(strategy)
  with strategy.scope():
    optimizer.iterations  # noqa: B018  creates the step counter
    optimizer._create_all_weights(model.trainable_variables)
  checkpoints = Checkpoints(
      checkpoints_of(workdir), config.keep_checkpoints, is_chief=is_chief,
      model=model, optimizer=optimizer)
  start, failed = 0, None
  try:
    start = checkpoints.restore_latest() or 0
    if start < config.total_steps:
      checkpoints.check_room()
  except UserError as error:
    failed = error  # The others are to know it, too.
  evaluation = Evaluation(config, evaluate, model, strategy)
  evaluated = metric_writers.evaluated_steps(workdir)
  missing = [step for step in checkpoints.saved_steps() if step <= start
             and evaluation.is_due(step) and step not in evaluated]
  agreement.agree(strategy, lambda: {
      "the step to start from": start,
      "the steps to evaluate": missing,
      "the weights' SHA-256": weights_sha256(
          [*model.weights, *optimizer.variables()])}, workdir, failed)
  if start >= config.total_steps and not missing:
    logging.info("%s is trained: step %d", workdir, start)
    return
  writer = MetricWriter(workdir, start, is_chief)
  progress = tqdm(total=config.total_steps, initial=start, unit="step",
                  desc="train", dynamic_ncols=True, disable=not is_chief)
  try:
    evaluation.make_up(missing, checkpoints, writer)
    if start >= config.total_steps:
      evaluation.tell_failures()
      return

    # ---- Data: batches from the start step on -------------------------------
    with input_pipeline.tell_in_a_line():
      dataset = distribute.distribute_dataset(
          strategy, config.batch_size,
          task.train_dataset(data_sources, start))
      iterator = iter(dataset)

    # ---- Step: and a loop of them on the device -----------------------------
    names = (*task.METRICS, "loss", "grad_norm")
    loop = make_loop(make_step(task, model, optimizer, strategy), names,
                     config.steps_per_loop)
    schedule = optimizers.learning_rate(config.optimizer, config.total_steps)

    # ---- Loop: steps, then logs, evaluation and a checkpoint when due -------
    step, num_corrupt = start, 0
    logged, since = [], time.monotonic()  # metrics of loops not yet in the log
    stop = distribute.stop_asked(strategy)
    while step < config.total_steps and not stop:
      with input_pipeline.tell_in_a_line():
        metrics, finite, corrupt = (
            value.numpy() for value in loop(iterator))  # the one host sync
      if not finite.all():
        first = int(np.argmin(finite))
        said = dump_non_finite(
            task, data_sources, workdir, step + first,
            dict(zip(names, metrics[first])), is_chief)
        distribute.wait_for_all(strategy)  # the chief may still write
        raise NonFinite(said)
      if corrupt.any():
        num_corrupt += np.count_nonzero(corrupt)
        if is_chief:
          report_corrupt(config, data_sources, step, corrupt)
        # A single one is no share: it would stop any run that has just begun.
        share = num_corrupt / (
            (step + config.steps_per_loop - start) * config.batch_size)
        if share > config.data.max_corrupt_share and num_corrupt > 1:
          raise UserError(
              f"{num_corrupt} corrupt records, {share:.2%} of what was read; "
              f"expected at most data.max_corrupt_share "
              f"{config.data.max_corrupt_share:.2%}")
      step += config.steps_per_loop
      logged.append(metrics)
      progress.update(config.steps_per_loop)

      if step % config.log_every == 0:
        seconds, since = time.monotonic() - since, time.monotonic()
        steps = np.concatenate(logged)  # [n, M]
        row = {f"train/{name}": value
               for name, value in zip(names, steps.mean(axis=0))}
        row["train/lr"] = float(schedule(step - 1))  # which led to it
        row["train/clips_per_second"] = len(steps) * config.batch_size / seconds
        row["train/corrupt"] = num_corrupt
        writer.write(step, row)
        progress.set_postfix(
            {name.split("/")[1]: f"{value:.4g}" for name, value in row.items()
             if name != "train/corrupt" or value}, refresh=False)
        logged = []
      last = step == config.total_steps
      if step % config.checkpoint_every == 0 or evaluation.is_due(step) or last:
        checkpoints.save(step)
      stop = distribute.stop_asked(strategy)  # also if it came meanwhile
      if stop:
        checkpoints.save(step)
      elif evaluation.is_due(step):
        evaluation.run(step, writer)
        since = time.monotonic()

    if stop and (step < config.total_steps or evaluation.is_due(step)):
      progress.close()
      # Nobody leaves, or says that this is saved, before it is.
      distribute.wait_for_all(strategy)
      if is_chief and checkpoints.newest == step:
        logging.warning("stopped by a signal: saved step %d, run the same "
                        "command to go on", step)
      else:
        logging.warning("stopped by a signal, at step %d", step)
      raise Stopped(stop)
    logging.info("step %d: weights have SHA-256 %s", step,
                 weights_sha256(model.weights))
    evaluation.tell_failures()
  finally:
    progress.close()
    writer.close()


def report_corrupt(config: ConfigDict, data_sources: list[Source], step: int,
                   corrupt: np.ndarray) -> None:
  """Names corrupt records in the log, by file and offset, with the reason where
  it is known: of each step the first NAMED_CORRUPT.

  Args:
    config: the run's.
    data_sources: the training split of each dataset.
    step: the first of the loop's.
    corrupt: int32 [n, B], as of `Loop`.
  """
  dataset_of_row, _ = input_pipeline.mixture(config.data, config.batch_size)
  other = (", or the one that its captions are of"
           if config.data.shuffle_captions else "")
  for i, rows in enumerate(corrupt):
    for row in np.flatnonzero(rows)[:NAMED_CORRUPT]:
      source, number = data_sources[dataset_of_row[row]], rows[row] - 1
      why = why_unreadable(source, number)
      logging.warning("corrupt record: %s at byte %d%s (position %d of the "
                      "stream); left out%s", *source.index.place(number), other,
                      (step + i) * config.batch_size + row, why and f": {why}")


def dump_non_finite(task: Task, data_sources: list[Source], workdir: str,
                    step: int, metrics: dict[str, float], is_chief: bool
                    ) -> str:
  """Writes the batch and the metrics of a step that was not finite, and the
  file and the byte offset of each record in it.

  The weights from there on are of no use, and those before it are in no
  checkpoint: a run that goes on from the newest one comes to the same step.

  Args:
    task: with a resolved config.
    data_sources: the training split of each dataset.
    workdir: takes the dump, non_finite_<step>.npz.
    step: number of that step.
    metrics: its.
    is_chief: whether this process writes it.

  Returns:
    A line that names the step, the sample positions and the dump.
  """
  batch_size = task.config.batch_size
  first = step * batch_size
  said = (f"step {step}: loss {metrics['loss']}, gradient norm "
          f"{metrics['grad_norm']}; samples at positions {first} to "
          f"{first + batch_size - 1}; ")
  if not is_chief:
    return said + "the batch is kept by worker 0"
  # All of the global batch, by this process alone: nothing of it is run again.
  batch = next(iter(task.train_dataset(data_sources, step)(0, 1, batch_size)))
  path = os.path.join(workdir, f"non_finite_{step}.npz")
  arrays = {f"batch/{name}": value.numpy() for name, value in batch.items()}
  arrays.update({f"metrics/{name}": value for name, value in metrics.items()})
  dataset_of_row, _ = input_pipeline.mixture(task.config.data, batch_size)
  arrays["files"], arrays["offsets"] = map(np.array, zip(*(
      data_sources[d].index.place(number)
      for d, number in zip(dataset_of_row, arrays["batch/record"]))))
  content = io.BytesIO()  # a GFile cannot seek
  np.savez(content, **arrays)
  try:
    files.write_whole(path, content.getvalue())
    return said + f"batch in {path}"
  except REFUSED as error:
    return said + f"batch not kept ({one_line(error)})"
