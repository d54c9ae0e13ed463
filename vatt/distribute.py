"""One device or many: strategies, their input, their output in order."""
import json
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from vatt import replicas
from vatt.errors import UserError, one_line

STRATEGIES = ("one_device", "mirrored", "multi_worker", "tpu")


def make_strategy(config: ConfigDict) -> tf.distribute.Strategy:
  """Makes the strategy of config.strategy; call it before anything else.

  TensorFlow can set up logical CPUs and workers only before its first
  operation.

  Args:
    config: config.strategy: `name`; `devices`, how many replicas (0 = all
      devices; on CPUs, mirrored makes as many logical ones as it says); `tpu`,
      name or address ("local" on a TPU VM, "" = of the environment).

  Returns:
    The strategy. one_device is TensorFlow's default one: it takes the first
    GPU if there is one, and has none of the cost of distribution.

  Raises:
    UserError: fewer devices than asked for, no TF_CONFIG, no TPU.
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
    cluster = json.loads(text)
    workers = len(cluster["cluster"]["worker"])
    task = cluster["task"]["type"], int(cluster["task"]["index"])
  except (ValueError, KeyError, TypeError):
    raise UserError(
        f"the environment's TF_CONFIG is {text!r}, expected for multi_worker "
        '{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", '
        '"index": n}}') from None
  if task[0] not in ("worker", "chief") or (
      task[0] == "worker" and not 0 <= task[1] < workers):
    raise UserError(f"TF_CONFIG: this task is {task[0]} {task[1]}, expected "
                    f"chief, or worker 0 to {workers - 1}")
  gpus = tf.config.list_physical_devices("GPU")
  _check_count(config, max(1, len(gpus)))  # On CPUs one replica a worker.
  if gpus and config.devices:
    tf.config.set_visible_devices(gpus[:config.devices], "GPU")
  return tf.distribute.MultiWorkerMirroredStrategy()


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


def is_chief(strategy: tf.distribute.Strategy) -> bool:
  """True in the process that writes: checkpoints, metrics, reports."""
  if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
    return True  # One process drives all, on a TPU pod too.
  resolver = strategy.cluster_resolver
  if "chief" in resolver.cluster_spec().jobs:
    return resolver.task_type == "chief"
  return resolver.task_type == "worker" and resolver.task_id == 0


def rows_per_replica(strategy: tf.distribute.Strategy, batch_size: int,
                     field: str = "batch_size") -> int:
  """B / replicas; UserError that names the field if that is no whole number.

  Each host has as many replicas as any other, so that it divides B too.
  """
  replicas = strategy.num_replicas_in_sync
  if batch_size < 1 or batch_size % replicas:
    raise UserError(f"{field} is {batch_size}, expected a multiple of the "
                    f"{replicas} replicas")
  return batch_size // replicas


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


def gather(strategy: tf.distribute.Strategy, value: tf.Tensor) -> np.ndarray:
  """The rows of all replicas in global order, as one NumPy array.

  Every worker must call it.

  Args:
    strategy: has R replicas.
    value: a per-replica tensor [B/R, …], not a string.

  Returns:
    Array [B, …].
  """
  if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
    return np.concatenate(
        [rows.numpy() for rows in strategy.experimental_local_results(value)])
  dtype = strategy.experimental_local_results(value)[0].dtype
  wide = replicas.GATHERED_AS.get(dtype, dtype)
  value = strategy.run(tf.cast, args=(value, wide))
  return tf.cast(strategy.gather(value, axis=0), dtype).numpy()
