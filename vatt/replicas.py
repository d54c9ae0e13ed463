"""Collectives in a replica: sums, and the rows of all replicas.

Gradients pass through them. Sums and rows of all need a replica context, which
there also is outside of a strategy.
"""
from typing import Any

import tensorflow as tf

# What the collectives of CPUs and GPUs can gather; others go as the wider one.
GATHERED_AS = {tf.bool: tf.int32, tf.uint8: tf.int32, tf.int8: tf.int32,
               tf.int16: tf.int32, tf.uint16: tf.int32, tf.bfloat16: tf.float32}


def count() -> int:
  """The number of replicas that take part here; 1 outside of a replica."""
  context = tf.distribute.get_replica_context()
  return context.num_replicas_in_sync if context else 1


def rank() -> int | tf.Tensor:
  """This replica's number, int32 []; 0 for the only one, and outside of any."""
  if count() == 1:
    return 0
  return tf.distribute.get_replica_context().replica_id_in_sync_group


def all_sum(values: Any) -> Any:
  """The sum over the replicas of each tensor of a nest."""
  return tf.distribute.get_replica_context().all_reduce(
      tf.distribute.ReduceOp.SUM, values)


def gather(x: tf.Tensor) -> tf.Tensor:
  """The rows of all replicas in global order: [b, …] -> [B, …], of any dtype
  but strings."""
  wide = GATHERED_AS.get(x.dtype, x.dtype)
  # A copy, as what comes from outside of the replica is on no device of it.
  rows = tf.distribute.get_replica_context().all_gather(
      tf.identity(tf.cast(x, wide)), axis=0)
  return tf.cast(rows, x.dtype)
