"""Seeds folded from (seed, step or position, site), for stateless draws.

One training step is a pure function of (state, batch, seed, step): no random
number comes from a generator that a checkpoint would have to remember.
"""
import zlib
from collections.abc import Sequence

import tensorflow as tf

from vatt import replicas

# Seeds keep to 31 bits: XLA reads negative ones otherwise than TensorFlow.
MASK = 0x7FFFFFFF


def root(seed: int) -> tf.Tensor:
  """The int32 [2] seed of a whole run, from its integer."""
  return tf.constant([seed & MASK, (seed >> 31) & MASK], tf.int32)


def fold(seed: tf.Tensor, *data: int | tf.Tensor | str) -> tf.Tensor:
  """Folds what identifies a draw into a seed.

  Args:
    seed: int32 [2].
    *data: integers, integer tensors of shape [] (of int64, both halves count),
      or the name of the site of the draw, such as "flip".

  Returns:
    int32 [2], not negative.
  """
  for item in data:
    if isinstance(item, str):
      item = tf.constant(zlib.crc32(item.encode()) & MASK, tf.int32)
    elif not tf.is_tensor(item):
      item = tf.constant(item, tf.int64)
    parts = [item]
    if item.dtype == tf.int64:
      parts = [tf.cast(tf.bitwise.bitwise_and(half, MASK), tf.int32)
               for half in (tf.bitwise.right_shift(item, 31), item)]
    for part in parts:
      seed = tf.bitwise.bitwise_and(
          tf.random.experimental.stateless_fold_in(seed, part), MASK)
  return seed


def uniform_rows(rows: int, shape: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
  """Draws uniform numbers in [0, 1), row by row of the global batch.

  In a replica context the draw is made for the rows of all replicas, and this
  replica's part is returned: a sample gets the same numbers on any number of
  replicas.

  Args:
    rows: rows of this replica.
    shape: shape of a row's draw.
    seed: int32 [2].

  Returns:
    float32 [rows, *shape].
  """
  bits = tf.random.stateless_uniform(
      [rows * replicas.count(), *shape], seed, None, None, tf.int32)
  # 24 bits are exact in float32. TensorFlow's own floats differ under XLA.
  draw = tf.cast(tf.bitwise.bitwise_and(bits, 0xFFFFFF), tf.float32) * 2 ** -24
  return replicas.own_rows(draw, rows)
