"""Seeds folded from (seed, step or position, site), and draws by row.

One training step is a pure function of (state, batch, seed, step): no random
number comes from a generator that a checkpoint would have to remember.
"""
import math
import zlib
from collections.abc import Sequence

import tensorflow as tf

from vatt import replicas, xla

# Seeds keep to 31 bits: XLA reads negative ones otherwise than TensorFlow.
MASK = 0x7FFFFFFF
PHILOX = 1  # the generator's number: without it, devices draw each their own
SCRAMBLING_KEY = 0x02461E293EC8F720  # TensorFlow's
UPPER_HALF = (0, 1)  # of a counter, the lower half first
PHILOX_BLOCK = 4  # numbers of 32 bits for each value of its counter
HALF_ROOT = 0x3EB504F3  # the bits of √½ / 2 in float32


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
      parts = [zlib.crc32(item.encode()) & MASK]
    elif not tf.is_tensor(item):
      parts = [int(item) >> 31 & MASK, int(item) & MASK]
    elif item.dtype == tf.int64:
      parts = [tf.cast(tf.bitwise.bitwise_and(half, MASK), tf.int32)
               for half in (tf.bitwise.right_shift(item, 31), item)]
    else:
      parts = [item]
    for part in parts:
      seed = _fold_in(seed, part)
  return seed


def _fold_in(seed, part):
  """tf.random.experimental.stateless_fold_in with Philox, of 31 bits, in a
  third of its operations: there are many in a step."""
  # A seed is scrambled to a key, and to the upper half of a counter.
  scrambled = _philox([2], [SCRAMBLING_KEY], tf.cast(seed, tf.uint64),
                      tf.uint64)
  bits = _philox([], scrambled[:1], scrambled * UPPER_HALF, tf.int32)
  return tf.bitwise.bitwise_and(tf.stack([bits, part]), MASK)


def _philox(shape, key, counter, dtype):
  """Random integers of all bits, by the same generator on every device."""
  return tf.raw_ops.StatelessRandomUniformFullIntV2(
      shape=shape, key=key, counter=counter, dtype=dtype, alg=PHILOX)


# -----------------------------------------------------------------------------
# Draws. Each belongs to a row of the global batch: it is the same on any number
# of replicas, in a batch of other rows and however a program is compiled.
# -----------------------------------------------------------------------------
def bits_rows(rows: int | tf.Tensor, shape: Sequence[int], seed: tf.Tensor,
              first_row: int | tf.Tensor | None = None) -> tf.Tensor:
  """Draws random bits, row by row of the global batch.

  A row has blocks of Philox's counter to itself, so that its bits depend on
  its number, the seed and its own size alone, and no others need be drawn.

  Args:
    rows: that are drawn.
    shape: of a row's draw, without what only fills a signal up: other sizes are
      other draws.
    seed: int32 [2], not negative, or uint32 [2].
    first_row: number of the first one in the global batch, int32 []; by default
      replicas have `rows` each, one after the other.

  Returns:
    uint32 [rows, *shape].
  """
  if first_row is None:
    first_row = replicas.rank() * rows
  size = math.prod(shape)
  blocks = -(-size // PHILOX_BLOCK)
  # Of 64 and 128 bits, the lower ones first.
  words = tf.cast(seed, tf.uint64)
  key = words[:1] + words[1:] * 2 ** 32
  counter = (tf.cast(tf.stack([first_row, 0]), tf.uint64) * blocks
             if tf.is_tensor(first_row) else [first_row * blocks, 0])
  if size == PHILOX_BLOCK * blocks:
    return _philox([rows, *shape], key, counter, tf.uint32)
  bits = _philox([rows, PHILOX_BLOCK * blocks], key, counter, tf.uint32)
  # [rows, 4 · blocks] -> [rows, size] -> [rows, *shape]
  return tf.reshape(bits[:, :size], [rows, *shape])


def uniform_rows(rows: int, shape: Sequence[int], seed: tf.Tensor,
                 first_row: int | tf.Tensor | None = None) -> tf.Tensor:
  """Draws uniform numbers in [0, 1), row by row of the global batch.

  Args:
    rows, shape, seed, first_row: see `bits_rows`.

  Returns:
    float32 [rows, *shape], multiples of 2⁻²⁴.
  """
  bits = bits_rows(rows, shape, seed, first_row)
  # 24 bits are exact in float32. TensorFlow's own floats differ under XLA.
  return tf.cast(tf.bitwise.bitwise_and(bits, 0xFFFFFF), tf.float32) * 2 ** -24


def normal_rows(rows: int, shape: Sequence[int], seed: tf.Tensor,
                first_row: int | tf.Tensor | None = None) -> tf.Tensor:
  """Draws standard normal numbers, row by row of the global batch.

  Args:
    rows, shape, seed, first_row: see `bits_rows`.

  Returns:
    float32 [rows, *shape], of at most 6.8; those that XLA computes are within
    1e-6 of TensorFlow's.
  """
  size = math.prod(shape)
  pairs = -(-size // 2)
  # [rows, 2 · pairs] -> [rows, size] -> [rows, *shape]
  normal = _box_muller(bits_rows(rows, [2 * pairs], seed, first_row))
  return tf.reshape(normal[:, :size], [rows, *shape])


@xla.compiled
def _box_muller(bits):
  """Standard normal float32 [rows, 2 · n] of uint32 [rows, 2 · n]: points of
  the plane, √(-2 ln u) from its origin, in any direction.

  Sums, products and roots are all that there is: other functions are computed
  otherwise by XLA, and at the end of a tensor.
  """
  length, direction = tf.split(bits, 2, axis=1)

  def polynomial(x, *coefficients):
    total = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
      total = total * x + coefficient
    return total

  # u = (length + ½) / 2³² = 2ᵏ⁻³³ · m, with m in [√½, √2].
  u = tf.cast(length, tf.float32) + 0.5
  u = tf.bitcast(u, tf.uint32)  # its exponent is in the bits from 23 on
  k = tf.bitwise.right_shift(u + (2 ** 32 - HALF_ROOT), 23)
  m = tf.bitcast(
      u + 2 ** 23 + tf.bitwise.left_shift(k, 23) * (2 ** 32 - 1), tf.float32)
  # ln m = 2 artanh((m - 1) / (m + 1))
  s = (m - 1.0) / (m + 1.0)
  log_m = 2.0 * s * polynomial(s * s, 1.0, 1 / 3, 1 / 5, 1 / 7, 1 / 9)
  log_u = (tf.cast(k, tf.float32) - 33.0) * math.log(2.0) + log_m
  radius = tf.sqrt(-2.0 * log_u)

  # Of the direction, two bits are a quarter of the circle, the others an angle
  # within π / 4 of its middle: sine and cosine by their series.
  angle = tf.cast(tf.bitwise.bitwise_and(direction, 2 ** 30 - 1), tf.float32)
  angle = (angle * 2 ** -30 - 0.5) * (math.pi / 2)
  square = angle * angle
  sine = angle * polynomial(
      square, 1.0, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880)
  cosine = polynomial(square, 1.0, -1 / 2, 1 / 24, -1 / 720, 1 / 40320)
  upright = direction >= 2 ** 31
  negative = tf.bitwise.bitwise_and(direction, 2 ** 30) > 0
  radius = tf.where(negative, -radius, radius)
  return tf.concat([radius * tf.where(upright, sine, cosine),
                    radius * tf.where(upright, cosine, sine)], axis=1)
