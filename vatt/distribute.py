"""One device or many: strategies, their input, their output in order, and what
several workers tell each other."""
import contextlib
import functools
import itertools
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict
from tensorflow.python.distribute import multi_worker_util
from tensorflow.python.eager import context
from tensorflow.tsl.protobuf import coordination_config_pb2

from vatt import rendezvous, replicas, stopping
from vatt.errors import Temporary, UserError, one_line

STRATEGIES = ("one_device", "mirrored", "multi_worker", "tpu")
# When all workers have been there, how long TensorFlow's own start may take.
START_SECONDS = 120
# Without a sign of life, a worker is lost.
HEARTBEAT_SECONDS = 10
# Where TensorFlow notes a SIGTERM.
NOTICE = "TF_DEFAULT_PREEMPTION_NOTICE_KEY"
# How often it is looked for there: TensorFlow notes it within a second or so.
NOTICES = 50
# What operations say that wait for the other workers, when one is lost.
LOST = re.compile(r"collective|coordination|heartbeat|socket|connect", re.I)


def make_strategy(config: ConfigDict) -> tf.distribute.Strategy:
  """Makes the strategy of config.strategy; call it before anything else.

  TensorFlow can set up logical CPUs and workers only before its first
  operation.

  Args:
    config: config.strategy: `name`; `devices`, how many replicas (0 = all
      devices; on CPUs, mirrored makes as many logical ones as it says); `tpu`,
      name or address ("local" on a TPU VM, "" = of the environment);
      `wait_minutes`, how long multi_worker waits for the other workers.

  Returns:
    The strategy. one_device is TensorFlow's default one: it takes the first
    GPU if there is one, and has none of the cost of distribution.

  Raises:
    UserError: fewer devices than asked for, no TF_CONFIG, no TPU.
    Temporary: a worker of multi_worker did not come, or was lost at the start;
      the port of the first one is taken.
  """
  if config.name == "one_device":
    _check_count(config, 1)
    return tf.distribute.get_strategy()
  if config.name == "mirrored":
    return tf.distribute.MirroredStrategy(_local_devices(config))
  if config.name == "multi_worker":
    return _multi_worker(config)
  return _tpu(config)


def _check_count(config, available):
  if config.devices > available:
    raise UserError(f"strategy.devices is {config.devices}, but {config.name} "
                    f"has {available} here; expected 0 to {available}")


def _local_devices(config):
  """Names of GPUs, or of logical CPUs, made if need be."""
  gpus = tf.config.list_physical_devices("GPU")
  if gpus:
    _check_count(config, len(gpus))
    return [f"/gpu:{i}" for i in range(config.devices or len(gpus))]
  cpu, *_ = tf.config.list_physical_devices("CPU")
  available = len(tf.config.get_logical_device_configuration(cpu) or [None])
  if config.devices > available:
    try:
      tf.config.set_logical_device_configuration(
          cpu, [tf.config.LogicalDeviceConfiguration()] * config.devices)
    except RuntimeError:  # TensorFlow runs already.
      _check_count(config, available)
  return [f"/cpu:{i}" for i in range(config.devices or available)]


def _multi_worker(config):
  text = os.environ.get("TF_CONFIG", "")
  try:
    given = json.loads(text)
    jobs = [(job, i) for job in ("chief", "worker")
            for i in range(len(given["cluster"].get(job, ())))]
    addresses = [given["cluster"][job][i] for job, i in jobs]
    task = given["task"]["type"], int(given["task"]["index"])
  except (ValueError, KeyError, TypeError, AttributeError):
    raise UserError(
        f"the environment's TF_CONFIG is {text!r}, expected for multi_worker "
        '{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", '
        '"index": n}}') from None
  if task not in jobs:
    raise UserError(f"TF_CONFIG: this task is {task[0]} {task[1]}, expected "
                    "one of the cluster: " + ", ".join(
                        f"{job} {i}" for job, i in jobs))
  gpus = tf.config.list_physical_devices("GPU")
  _check_count(config, max(1, len(gpus)))  # On CPUs one replica a worker.
  if gpus and config.devices:
    tf.config.set_visible_devices(gpus[:config.devices], "GPU")
  rendezvous.meet(addresses, jobs.index(task), config.wait_minutes)
  tf.get_logger().setLevel("WARNING")  # a line for each collective, else
  resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
  # As the strategy would do, which has no limit to its wait.
  context.context().configure_coordination_service(
      service_type="standalone",
      service_leader=multi_worker_util.coordination_leader(
          resolver.cluster_spec()),
      cluster_register_timeout_in_ms=START_SECONDS * 1000,
      heartbeat_timeout_in_ms=HEARTBEAT_SECONDS * 1000,
      coordinated_jobs=[
          coordination_config_pb2.CoordinatedJob(
              name=job, num_tasks=len(addresses))
          for job, addresses in resolver.cluster_spec().as_dict().items()])
  try:
    with stopping.kept():  # TensorFlow takes SIGTERM for itself
      return tf.distribute.MultiWorkerMirroredStrategy(resolver)
  except (tf.errors.OpError, RuntimeError) as error:
    raise Temporary("a worker was lost before all had started "
                    f"({one_line(error)}); expected the same command on each "
                    "of TF_CONFIG's workers") from None


def _tpu(config):
  try:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(config.tpu)
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    strategy = tf.distribute.TPUStrategy(resolver)
  except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
    raise UserError(
        f"no TPU at strategy.tpu {config.tpu!r} "
        f"({one_line(error)}); expected a name, "
        "grpc://address, or local on a TPU VM") from None
  if config.devices not in (0, strategy.num_replicas_in_sync):
    raise UserError(
        f"strategy.devices is {config.devices}, but the TPU has "
        f"{strategy.num_replicas_in_sync} cores; expected 0 or that number")
  return strategy


def several_workers(strategy: tf.distribute.Strategy) -> bool:
  """Whether this process is one of several that train together. (One process
  drives all of a TPU pod.)"""
  return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
  """True in the process that writes: checkpoints, metrics, reports."""
  if not several_workers(strategy):
    return True
  resolver = strategy.cluster_resolver
  if "chief" in resolver.cluster_spec().jobs:
    return resolver.task_type == "chief"
  return resolver.task_type == "worker" and resolver.task_id == 0


def rows_per_replica(strategy: tf.distribute.Strategy, batch_size: int,
                     field: str = "batch_size") -> int:
  """B / replicas; UserError that names the field if that is no whole number.

  Each host has as many replicas as any other, so that it divides B too.
  """
  count = strategy.num_replicas_in_sync
  if batch_size < 1 or batch_size % count:
    raise UserError(f"{field} is {batch_size}, expected a multiple of the "
                    f"{count} replicas")
  return batch_size // count


def distribute_dataset(strategy: tf.distribute.Strategy, batch_size: int,
                       make: Callable[[int, int, int], tf.data.Dataset],
                       field: str = "batch_size"
                       ) -> tf.distribute.DistributedDataset:
  """Spreads global batches over hosts and replicas, in the order of rows.

  Args:
    strategy: has R replicas.
    batch_size: B, of the global batch.
    make: called as make(input_id, num_inputs, rows_per_batch) for each of H
      input hosts; returns a dataset of the rows [h·B/H, (h+1)·B/H) of each
      global batch, in batches of B / R.
    field: of the config that B is from, for errors.

  Returns:
    A distributed dataset: replica r gets rows [r·B/R, (r+1)·B/R).

  Raises:
    UserError: the replicas do not divide the batch.
  """
  rows = rows_per_replica(strategy, batch_size, field)
  return strategy.distribute_datasets_from_function(
      lambda context: make(context.input_pipeline_id,
                           context.num_input_pipelines, rows))


def gathered(strategy: tf.distribute.Strategy, function: Callable
             ) -> Callable[..., Any]:
  """A function of a batch that runs in each replica, traced once.

  Every worker must call it.

  Args:
    strategy: has R replicas.
    function: of a replica's rows; returns a nest of tensors [B/R, …], none of
      them a string.

  Returns:
    A function: what `distribute_dataset` yields, and other arguments -> the
    same nest of arrays [B, …], the rows of all replicas in global order.
  """
  several = several_workers(strategy)

  def replica(*args):
    found = function(*args)
    # Out here, TensorFlow would trace a function a tensor a batch.
    return replicas.gather_all(found) if several else found

  @tf.function(autograph=False)
  def run(*args):
    def rows(value):
      first, *others = strategy.experimental_local_results(value)
      return first if several or not others else tf.concat(
          [first, *others], axis=0)
    return tf.nest.map_structure(rows, strategy.run(replica, args))

  return lambda *args: tf.nest.map_structure(
      lambda value: value.numpy(), run(*args))


# -----------------------------------------------------------------------------
# What several workers tell each other.
# -----------------------------------------------------------------------------
@functools.lru_cache(maxsize=1)
def _gather_rows(strategy):
  """A function that every worker calls: int32 [n] -> [workers, n]."""
  def first(value):
    return strategy.experimental_local_results(value)[0]

  @tf.function(autograph=False)
  def gather(row):
    return first(strategy.run(lambda: replicas.gather(row[None])))

  local = len(strategy.extended.worker_devices)  # the replicas of a worker
  return lambda row: gather(tf.constant(row, tf.int32)).numpy()[::local]


def gather_texts(strategy: tf.distribute.Strategy, text: str) -> list[str]:
  """The text of each worker, in their order; every worker must call it."""
  if not several_workers(strategy):
    return [text]
  gather, data = _gather_rows(strategy), text.encode()
  lengths = gather([len(data)])[:, 0]
  padded = np.frombuffer(data.ljust(max(lengths), b" "), np.uint8)
  return [bytes(row[:length].astype(np.uint8)).decode()
          for row, length in zip(gather(padded), lengths)]


def stop_asked(strategy: tf.distribute.Strategy) -> int:
  """The number of the signal that asked any worker to stop, or 0.

  Every worker must call it, and so all leave after the same step.
  """
  number = stopping.asked()
  if not several_workers(strategy):
    return number
  return int(_gather_rows(strategy)([number or _taken_signal()]).max())


_looks = itertools.count()


def _taken_signal():
  """SIGTERM, if it came in the second in which TensorFlow had taken it for
  itself: it is among what the workers' service keeps, some time later. (A look
  for what is not there takes memory for ever, so there are few.)"""
  if next(_looks) >= NOTICES:
    return 0
  try:
    context.context().get_config_key_value(NOTICE, timeout_in_ms=1)
  except tf.errors.OpError:
    return 0
  return signal.SIGTERM


def end_if_asked(strategy: tf.distribute.Strategy) -> None:
  """Raises Stopped in the midst of what can be done again, if any worker was
  asked to stop; every worker must call it."""
  if number := stop_asked(strategy):
    logging.warning("stopped by a signal")
    raise stopping.Stopped(number)


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
  """Returns when every worker has called it."""
  if several_workers(strategy):
    _gather_rows(strategy)([0])


@contextlib.contextmanager
def together(strategy: tf.distribute.Strategy) -> Iterator[None]:
  """Of several workers, has the program end soon when another one is lost.

  The loss raises Temporary. However the program ends then, it does so at once:
  TensorFlow would wait for the others.
  """
  if not several_workers(strategy):
    yield
    return
  stopping.end_at_once()
  try:
    yield
  except tf.errors.OpError as error:
    lost = isinstance(
        error, (tf.errors.UnavailableError, tf.errors.AbortedError))
    if not lost and not LOST.search(str(error)):
      raise
    raise Temporary(
        f"another worker was lost ({one_line(error)}); expected all of them: "
        "run the same command on each to go on") from None
