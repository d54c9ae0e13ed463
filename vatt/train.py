"""THE training loop: data, steps, logs, checkpoints, evaluation."""
import io
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

from vatt import (
  distribute,
  files,
  metric_writers,
  optimizers,
  replicas,
  seeds,
)
from vatt.checkpoints import Checkpoints, weights_sha256
from vatt.data import input_pipeline
from vatt.data.sources import Source
from vatt.errors import UserError, one_line
from vatt.evaluation import Evaluation
from vatt.files import REFUSED
from vatt.metric_writers import MetricWriter
from vatt.tasks import Task
from vatt.workdir import checkpoints_of

NAMED_CORRUPT = 8  # corrupt records of a step that are named in the log


class NonFinite(UserError):
  """The loss or a gradient is not finite: names the step and the dump."""


def make_step(task: Task, model: tf.keras.Model,
              optimizer: tf.keras.optimizers.legacy.Optimizer,
              strategy: tf.distribute.Strategy) -> tuple[Callable, Callable]:
  """One training step, in two parts: gradients, then their application.

  Args:
    task: with a resolved config.
    model, optimizer: made in the strategy's scope.
    strategy: runs the step on each of its replicas.

  Returns:
    gradients(batch) -> per-replica gradients, a list in the order of the
      trainable variables; metrics, {name: float []} of the global batch, with
      `loss` and `grad_norm`; facts: `finite`, bool []; `corrupt`, int64 [n],
      1 + position in the stream of corrupt records, 0 for none; `num_corrupt`,
      int64 [].
    apply(gradients, norm): updates the variables; norm is `grad_norm`.
  """
  config = task.config
  run_seed = seeds.root(config.seed)
  variables = model.trainable_variables

  # ---- On each replica ------------------------------------------------------
  def replica_gradients(batch):
    """Forward and backward pass of this replica's rows; sums over replicas."""
    seed = seeds.fold(run_seed, optimizer.iterations)
    with tf.GradientTape() as tape:
      loss, metrics = task.loss_and_metrics(model, batch, seed)
    # Each replica's loss is its part of the global mean: gradients add up.
    gradients = replicas.all_sum([tf.convert_to_tensor(g)
                                  for g in tape.gradient(loss, variables)])
    metrics = replicas.all_sum(dict(metrics, loss=loss))
    metrics["grad_norm"] = tf.linalg.global_norm(gradients)
    # 1 + position in the stream, 0 for a sound record.
    corrupt = replicas.gather(tf.where(
        batch["corrupt"], batch["index"] + 1, tf.zeros([], tf.int64)))
    facts = {
        "finite": tf.math.is_finite(metrics["loss"])
                  & tf.math.is_finite(metrics["grad_norm"]),
        "corrupt": tf.math.top_k(
            corrupt, min(NAMED_CORRUPT, config.batch_size)).values,
        "num_corrupt": tf.math.count_nonzero(corrupt),
    }
    return gradients, metrics, facts

  def replica_apply(gradients, norm):
    """Clips gradients, equal on all replicas, and updates the variables."""
    if config.optimizer.clip_norm:
      part = config.optimizer.clip_part
      gradients = optimizers.clip(
          gradients, variables, config.optimizer.clip_norm,
          getattr(model, part).variables if part else variables, norm)
    optimizer.apply_gradients(
        zip(gradients, variables), experimental_aggregate_gradients=False)

  # ---- On all replicas ------------------------------------------------------
  def first(per_replica):
    """The values of the first replica, of what is equal on all."""
    return tf.nest.map_structure(
        lambda value: strategy.experimental_local_results(value)[0],
        per_replica)

  # A step has no control flow on tensors to convert; searching a model for it
  # takes seconds.
  @tf.autograph.experimental.do_not_convert
  def gradients(batch):
    grads, metrics, facts = strategy.run(replica_gradients, args=(batch,))
    return grads, first(metrics), first(facts)

  @tf.autograph.experimental.do_not_convert
  def apply(grads, norm):
    strategy.run(replica_apply, args=(grads, norm))

  return gradients, apply


def make_loop(gradients: Callable, apply: Callable, names: Sequence[str],
              num_steps: int) -> Callable:
  """Several steps in one call of the device: one host sync a loop.

  Args:
    gradients, apply: the two parts of a step, see `make_step`.
    names: the metrics to average.
    num_steps: steps of a loop.

  Returns:
    loop(iterator of batches) -> means of the metrics over the steps, {name:
    float64 []}; finite, bool []; corrupt, int64 [num_steps, n] (1 + position in
    the stream; 0 for none); num_corrupt, int64 []. It ends before applying a
    gradient that is not finite.
  """
  @tf.function
  def loop(iterator):
    sums = {name: tf.zeros([], tf.float64) for name in names}
    corrupt = tf.TensorArray(tf.int64, num_steps)
    num_corrupt, done = tf.constant(0, tf.int64), tf.constant(0)
    finite = tf.constant(True)
    while finite and done < num_steps:
      grads, metrics, facts = gradients(next(iterator))
      finite = facts["finite"]
      corrupt = corrupt.write(done, facts["corrupt"])
      num_corrupt += facts["num_corrupt"]
      sums = {name: sums[name] + tf.cast(metrics[name], tf.float64)
              for name in names}
      if finite:
        apply(grads, metrics["grad_norm"])
      done += 1
    means = {name: value / tf.cast(done, tf.float64)
             for name, value in sums.items()}
    return means, finite, corrupt.stack(), num_corrupt

  return loop


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
    NonFinite: loss or gradient is not finite; nothing of it was applied.
    UserError: too many corrupt records, no space left for a checkpoint; at the
      end, evaluations that failed.
    SystemExit: SIGTERM came; the step that it stopped at is saved.
  """
  # ---- State: where the run stands ------------------------------------------
  config = task.config
  with strategy.scope():
    optimizer.iterations  # noqa: B018  creates the step counter
    optimizer._create_all_weights(model.trainable_variables)
  checkpoints = Checkpoints(
      checkpoints_of(workdir), config.keep_checkpoints,
      is_chief=distribute.is_chief(strategy), model=model, optimizer=optimizer)
  start = checkpoints.restore_latest() or 0
  evaluation = Evaluation(config, evaluate, model, strategy)
  evaluated = metric_writers.evaluated_steps(workdir)
  missing = [step for step in checkpoints.saved_steps() if step <= start
             and evaluation.is_due(step) and step not in evaluated]
  if start >= config.total_steps and not missing:
    logging.info("%s is trained: step %d", workdir, start)
    return
  writer = MetricWriter(workdir, start, distribute.is_chief(strategy))
  evaluation.make_up(missing, checkpoints, writer)
  if start >= config.total_steps:
    writer.close()
    evaluation.tell_failures()
    return

  # ---- Data: batches from the start step on ---------------------------------
  with input_pipeline.tell_in_a_line():
    dataset = distribute.distribute_dataset(
        strategy, config.batch_size,
        task.train_dataset(data_sources, start))
    iterator = iter(dataset)

  # ---- Step: and a loop of them on the device -------------------------------
  gradients, apply = make_step(task, model, optimizer, strategy)
  loop = make_loop(gradients, apply, (*task.METRICS, "loss", "grad_norm"),
                   config.steps_per_loop)
  schedule = optimizers.learning_rate(config.optimizer, config.total_steps)

  # ---- Loop: steps, then logs, evaluation and a checkpoint when due ---------
  stop = []  # signals that ask for the end
  previous = signal.signal(
      signal.SIGTERM, lambda number, _: stop.append(number))
  progress = tqdm(total=config.total_steps, initial=start, unit="step",
                  desc="train", dynamic_ncols=True)
  num_corrupt = 0
  logged, since = [], time.monotonic()  # metrics of loops not yet in the log
  step = start
  try:
    while step < config.total_steps and not stop:
      with input_pipeline.tell_in_a_line():
        metrics, finite, corrupt, new_corrupt = loop(iterator)
      if not finite:
        raise NonFinite(dump_non_finite(
            task, data_sources, workdir, strategy, gradients,
            int(optimizer.iterations.numpy())))
      step += config.steps_per_loop
      if new_corrupt:
        num_corrupt += int(new_corrupt)
        report_corrupt(config, data_sources, corrupt.numpy())
        # A single one is no share: it would stop any run that has just begun.
        share = num_corrupt / ((step - start) * config.batch_size)
        if share > config.data.max_corrupt_share and num_corrupt > 1:
          raise UserError(
              f"{num_corrupt} corrupt records, {share:.2%} of what was read; "
              f"expected at most data.max_corrupt_share "
              f"{config.data.max_corrupt_share:.2%}")
      logged.append({name: float(value) for name, value in metrics.items()})
      progress.update(config.steps_per_loop)

      if step % config.log_every == 0:
        seconds, since = time.monotonic() - since, time.monotonic()
        clips = len(logged) * config.steps_per_loop * config.batch_size
        row = {f"train/{name}": float(np.mean([m[name] for m in logged]))
               for name in logged[0]}
        row["train/lr"] = float(schedule(step - 1))  # which led to it
        row["train/clips_per_second"] = clips / seconds
        row["train/corrupt"] = num_corrupt
        writer.write(step, row)
        progress.set_postfix(
            {name.split("/")[1]: f"{value:.4g}" for name, value in row.items()
             if name != "train/corrupt" or value}, refresh=False)
        logged = []
      last = step == config.total_steps
      if step % config.checkpoint_every == 0 or evaluation.is_due(step) or last:
        checkpoints.save(step)
      if evaluation.is_due(step):
        evaluation.run(step, writer)
        since = time.monotonic()
    if not stop or step == config.total_steps:
      logging.info("step %d: weights have SHA-256 %s", step,
                   weights_sha256(model.weights))
      evaluation.tell_failures()
    else:
      checkpoints.save(step)
      progress.close()
      logging.warning("signal %d: saved step %d, run the same command to go on",
                      stop[0], step)
      raise SystemExit(128 + stop[0])
  finally:
    signal.signal(signal.SIGTERM, previous)
    progress.close()
    writer.close()


def report_corrupt(config: ConfigDict, data_sources: list[Source],
                   positions: np.ndarray) -> None:
  """Names corrupt records in the log, by file and offset.

  Args:
    config: the run's.
    data_sources: the training split of each dataset.
    positions: int64, 1 + position in the stream of each; 0 for none.
  """
  for position in positions[positions > 0] - 1:
    path, offset = input_pipeline.record_at(
        config.data, data_sources, config.batch_size, config.seed,
        int(position))
    logging.warning("corrupt record: %s at byte %d (position %d of the "
                    "stream); left out", path, offset, position)


def dump_non_finite(task: Task, data_sources: list[Source], workdir: str,
                    strategy: tf.distribute.Strategy, gradients: Callable,
                    step: int) -> str:
  """Repeats the step that was not finite, and writes its batch and metrics.

  Args:
    task: with a resolved config.
    data_sources: the training split of each dataset.
    workdir: takes the dump, non_finite_<step>.npz.
    strategy: runs the step on its replicas.
    gradients: the first part of a step, see `make_step`.
    step: number of that step.

  Returns:
    A line that names the step, the sample positions and the dump.
  """
  batch_size = task.config.batch_size
  dataset = distribute.distribute_dataset(
      strategy, batch_size, task.train_dataset(data_sources, step))
  batch = next(iter(dataset))
  _, metrics, _ = gradients(batch)
  path = os.path.join(workdir, f"non_finite_{step}.npz")
  arrays = {f"batch/{name}": distribute.gather(strategy, value)
            for name, value in batch.items()}
  arrays.update({f"metrics/{k}": v.numpy() for k, v in metrics.items()})
  content = io.BytesIO()  # a GFile cannot seek
  np.savez(content, **arrays)
  try:
    files.write_whole(path, content.getvalue())
    kept = f"batch in {path}"
  except REFUSED as error:
    kept = f"batch not kept ({one_line(error)})"
  first = step * batch_size
  return (f"step {step}: loss {float(metrics['loss'])}, gradient norm "
          f"{float(metrics['grad_norm'])}; samples at positions {first} to "
          f"{first + batch_size - 1}; {kept}")
