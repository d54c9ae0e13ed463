"""Collectives in a replica: sums, and the rows of all replicas.

Gradients pass through them. Sums and rows of all need a replica context, which
there also is outside of a strategy.
"""
import math
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


def gather_all(values: Any) -> Any:
  """`gather` of each tensor [b, …] of a nest, by one collective a type."""
  tensors = tf.nest.flatten(values)
  places = {}  # by the type that they are gathered as
  for i, x in enumerate(tensors):
    places.setdefault(GATHERED_AS.get(x.dtype, x.dtype), []).append(i)
  for dtype, mine in places.items():
    shapes = [tensors[i].shape for i in mine]
    sizes = [math.prod(shape[1:]) for shape in shapes]
    # [b, …] -> [b, n], side by side
    rows = gather(tf.concat([
        tf.reshape(tf.cast(tensors[i], dtype), [shape[0], size])
        for i, shape, size in zip(mine, shapes, sizes)], axis=1))
    for i, shape, part in zip(mine, shapes, tf.split(rows, sizes, axis=1)):
      # [B, n] -> [B, …]
      tensors[i] = tf.cast(
          tf.reshape(part, [part.shape[0] or -1, *shape[1:]]), tensors[i].dtype)
  return tf.nest.pack_sequence_as(values, tensors)
