"""What the encoder computes, with gradients that recompute.

For the backward pass, autodiff keeps what every operation computes. The
functions here keep their arguments and recompute the rest: of attention no
[N, N] tensor is kept, of dropout no mask, of a linear layer no input that a
norm or GELU yields. Beside each is its `plain_` formula, which TensorFlow can
differentiate by itself. What lies between matrix products XLA compiles to one
pass over memory.
"""
import functools
import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from vatt import seeds
from vatt.xla import compiled, is_portable, not_before

MASKED_SCORE = -1e9  # finite, so that a fully masked row stays finite
GOLDEN = 0x9E3779B9  # 2³² / golden ratio: its multiples fill the range evenly


def with_gradient(function: Callable) -> Callable[..., tf.Tensor]:
  """tf.custom_gradient, where not every argument is a tensor with a gradient.

  Args:
    function: takes tensors, variables, None and constants; returns its value
      and a function of the value's gradient, which returns the gradients of
      the arguments in order (those that are no floating tensors get none).
  """
  @functools.wraps(function)
  def call(*args):
    floats = {i: tf.convert_to_tensor(x) for i, x in enumerate(args)
              if tf.is_tensor(x) and x.dtype.is_floating}
    if is_portable():
      return function(*(dict(enumerate(args)) | floats).values())[0]

    @tf.custom_gradient
    def of_floats(*values):
      given = dict(enumerate(args)) | dict(zip(floats, values))
      y, gradient = function(*given.values())

      def gradient_of_floats(dy):
        found = gradient(dy)
        return [found[i] for i in floats]

      return y, gradient_of_floats

    return of_floats(*floats.values())

  return call


def _wide(x):
  """In float32 at least."""
  return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


# -----------------------------------------------------------------------------
# Dropout.
# -----------------------------------------------------------------------------
def draw_bits(shape: Sequence[int], seed: tf.Tensor,
              samples: int | None = None) -> tf.Tensor:
  """Draws the random bits that set the dropout masks of all rows apart.

  Args:
    shape: of what will be dropped from, [M, ..., n], without padding, for which
      any bits will do.
    seed: int32 [2].
    samples: B, whose rows the M are, those of one next to each other; all M are
      samples by default.

  Returns:
    uint32 [2, M, ..., 1]: two numbers a row, independent of each other; those
    of a sample are the same in a batch of others (`seeds.bits_rows`).
  """
  rows, *inner, _ = shape
  samples = rows if samples is None else samples
  bits = seeds.bits_rows(
      samples, [2, math.prod(inner) * (rows // samples)], seed)
  # [B, 2, M/B · …] -> [2, B, M/B · …] -> [2, M, …, 1]
  return tf.reshape(tf.transpose(bits, [1, 0, 2]), [2, rows, *inner, 1])


def is_kept(random_bits: tf.Tensor, length: int, rate: float) -> tf.Tensor:
  """The mask of dropout: a hash of the row's random bits and of the column.

  As fast as memory, and the same wherever it is recomputed.

  Args:
    random_bits: of `draw_bits`.
    length: n, of a row.
    rate: fraction that is dropped, to 2⁻³² exactly.

  Returns:
    bool [..., n].
  """
  def fold(x, bits):
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(
        x, tf.constant(bits, tf.uint32)))

  columns = tf.cast(tf.range(length), tf.uint32)
  x = random_bits[0] + columns * tf.constant(GOLDEN, tf.uint32)  # wraps around
  # Two rounds of xor, shift and multiply, in which each bit changes half of
  # the others; the second number joins between them.
  x = fold(x, 16) * tf.constant(0x7FEB352D, tf.uint32)
  x = fold(tf.bitwise.bitwise_xor(x, random_bits[1]), 15)
  x = fold(x * tf.constant(0x846CA68B, tf.uint32), 16)
  return x >= tf.constant(round(rate * 2 ** 32), tf.uint32)


def plain_dropout(x, random_bits, rate):
  """x / (1 - rate) where it is kept, else 0."""
  if not rate:
    return x
  return tf.where(is_kept(random_bits, x.shape[-1], rate),
                  x * (1.0 / (1.0 - rate)), tf.zeros([], x.dtype))


def plain_add_dropped(z, x, random_bits, rate):
  """z + dropout(x)."""
  return z + plain_dropout(x, random_bits, rate)


_dropout, _add_dropped = compiled(plain_dropout), compiled(plain_add_dropped)


@with_gradient
def dropout(x: tf.Tensor, random_bits: tf.Tensor, rate: float):
  """`plain_dropout` of x [..., n]; keeps the random bits of `draw_bits`."""
  return (_dropout(x, random_bits, rate),
          lambda dy: [_dropout(dy, *not_before(dy, random_bits), rate)])


@with_gradient
def add_dropped(
    z: tf.Tensor, x: tf.Tensor, random_bits: tf.Tensor, rate: float):
  """`plain_add_dropped` of z, x [..., n]; keeps the random bits."""
  return (_add_dropped(z, x, random_bits, rate),
          lambda dy: [dy, _dropout(dy, *not_before(dy, random_bits), rate)])


# -----------------------------------------------------------------------------
# Order.
# -----------------------------------------------------------------------------
@tf.custom_gradient
def in_turn(first: tf.Tensor, second: tf.Tensor):
  """Returns both, but has the backward pass into `first` begin when that into
  `second` is done: the memory that each needs is not held at once."""
  def gradient(d_first, d_second):
    d_first, = not_before(d_second, d_first)
    return d_first, d_second

  return (tf.identity(first), tf.identity(second)), gradient


# -----------------------------------------------------------------------------
# Linear layers, and the norm or GELU before one.
# -----------------------------------------------------------------------------
def plain_linear(x, kernel, bias):
  """x W + b."""
  y = tf.matmul(x, kernel)
  return y if bias is None else tf.nn.bias_add(y, bias)


def _linear_gradient(x, bias, dy):
  """Of the kernel and of the bias."""
  return (tf.matmul(x, dy, transpose_a=True),
          None if bias is None else tf.raw_ops.BiasAddGrad(out_backprop=dy))


@with_gradient
def linear(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None):
  """`plain_linear` from [M, D] to [M, E]; keeps x.

  Autodiff would do the same; but TensorFlow's rewriting of graphs, which stops
  at a gradient of one's own, would sum in another order than it always has.
  """
  def gradient(dy):
    return (tf.matmul(dy, kernel, transpose_b=True),
            *_linear_gradient(x, bias, dy))

  return plain_linear(x, kernel, bias), gradient


def _normalize(x, centred, epsilon):
  """x over the root mean square of its rows, whose means are taken off before
  if `centred`; and 1 / that root."""
  if centred:
    x -= tf.reduce_mean(x, -1, keepdims=True)
  square = tf.reduce_mean(tf.square(x), -1, keepdims=True)
  inverse = tf.math.rsqrt(square + epsilon)
  return x * inverse, inverse


def plain_norm(x, scale, offset, epsilon):
  """(x - mean) / √(variance + ε) · scale + offset of each row, statistics in
  float32 at least. With `offset` None it is T5's: x / √(mean(x²) + ε) · scale.
  """
  y, _ = _normalize(_wide(x), offset is not None, epsilon)
  y *= _wide(scale)
  if offset is not None:
    y += _wide(offset)
  return tf.cast(y, x.dtype)


_norm = compiled(plain_norm)


@compiled
def _norm_gradient(x, scale, offset, dy, epsilon):
  """The norm, and the gradients of x, scale and offset."""
  centred = offset is not None
  normal, inverse = _normalize(_wide(x), centred, epsilon)
  y, dy = normal * _wide(scale), _wide(dy)
  d_scale, d_offset = tf.reduce_sum(dy * normal, 0), None
  if centred:
    y += _wide(offset)
    d_offset = tf.cast(tf.reduce_sum(dy, 0), scale.dtype)
  dy *= _wide(scale)
  dx = dy - normal * tf.reduce_mean(dy * normal, -1, keepdims=True)
  if centred:
    dx -= tf.reduce_mean(dy, -1, keepdims=True)
  return (tf.cast(y, x.dtype), tf.cast(dx * inverse, x.dtype),
          tf.cast(d_scale, scale.dtype), d_offset)


@with_gradient
def norm(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor | None,
         epsilon: float):
  """`plain_norm`; keeps x.

  Args:
    x: [M, D].
    scale, offset: [D]; no offset for T5's norm.
    epsilon: added to the variance.

  Returns:
    [M, D].
  """
  def gradient(dy):
    later_x, = not_before(dy, x)
    return _norm_gradient(later_x, scale, offset, dy, epsilon)[1:]

  return _norm(x, scale, offset, epsilon), gradient


def plain_norm_linear(x, scale, offset, kernel, bias, epsilon):
  """norm(x) W + b."""
  return plain_linear(plain_norm(x, scale, offset, epsilon), kernel, bias)


@with_gradient
def norm_linear(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor | None,
                kernel: tf.Tensor, bias: tf.Tensor | None, epsilon: float):
  """`plain_norm_linear`; keeps x.

  Args:
    x, scale, offset, epsilon: see `norm`.
    kernel: W [D, E].
    bias: b [E], or None.

  Returns:
    [M, E].
  """
  def gradient(dy):
    d_normal = tf.matmul(dy, kernel, transpose_b=True)
    later_x, = not_before(d_normal, x)
    normal, dx, d_scale, d_offset = _norm_gradient(
        later_x, scale, offset, d_normal, epsilon)
    return dx, d_scale, d_offset, *_linear_gradient(normal, bias, dy)

  return plain_linear(_norm(x, scale, offset, epsilon), kernel, bias), gradient


def _normal_cdf(x):
  return 0.5 * (1.0 + tf.math.erf(x * (1.0 / math.sqrt(2.0))))


def plain_gelu(x, random_bits, rate):
  """dropout(x · Φ(x)), in float32 at least."""
  wide = _wide(x)
  y = plain_dropout(wide * _normal_cdf(wide), random_bits, rate)
  return tf.cast(y, x.dtype)


_gelu = compiled(plain_gelu)


@compiled
def _gelu_gradient(x, dy, random_bits, rate):
  """`plain_gelu`, and the gradient of x: Φ(x) + x · φ(x) where it is kept."""
  wide = _wide(x)
  cdf = _normal_cdf(wide)
  density = tf.exp(-0.5 * wide * wide) * (1.0 / math.sqrt(2.0 * math.pi))
  y = plain_dropout(wide * cdf, random_bits, rate)
  dx = plain_dropout(_wide(dy), random_bits, rate) * (cdf + wide * density)
  return tf.cast(y, x.dtype), tf.cast(dx, x.dtype)


def plain_gelu_linear(x, kernel, bias, random_bits, rate):
  """dropout(GELU(x)) W + b."""
  return plain_linear(plain_gelu(x, random_bits, rate), kernel, bias)


@with_gradient
def gelu_linear(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None,
                random_bits: tf.Tensor | None, rate: float):
  """`plain_gelu_linear`; keeps x and the random bits.

  Args:
    x: [M, D].
    kernel: W [D, E].
    bias: b [E], or None.
    random_bits: of `draw_bits` for [M, D]; None without dropout.
    rate: of dropout.

  Returns:
    [M, E].
  """
  def gradient(dy):
    d_gelu = tf.matmul(dy, kernel, transpose_b=True)
    later_x, later_bits = not_before(d_gelu, x, random_bits)
    gelu, dx = _gelu_gradient(later_x, d_gelu, later_bits, rate)
    return dx, *_linear_gradient(gelu, bias, dy)

  return plain_linear(_gelu(x, random_bits, rate), kernel, bias), gradient


# -----------------------------------------------------------------------------
# Attention.
# -----------------------------------------------------------------------------
def split_heads(x: tf.Tensor, shape: tuple, parts: int = 1) -> list[tf.Tensor]:
  """[B·N, k·H·d] -> k tensors [B, H, N, d].

  Args:
    x: of one or several tensors side by side.
    shape: (B, N, H).
    parts: k.
  """
  batch, length, heads = shape
  # -> [B, N, k, H, d] -> [k, B, H, N, d]
  x = tf.reshape(
      x, [batch, length, parts, heads, x.shape[-1] // (parts * heads)])
  return tf.unstack(tf.transpose(x, [2, 0, 3, 1, 4]))


def merge_heads(*parts: tf.Tensor) -> tf.Tensor:
  """k tensors [B, H, N, d] -> [B·N, k·H·d]."""
  _, heads, _, dim = parts[0].shape
  # [k, B, H, N, d] -> [B, N, k, H, d] -> [B·N, k·H·d]
  x = tf.transpose(tf.stack(parts), [1, 3, 0, 2, 4])
  return tf.reshape(x, [-1, len(parts) * heads * dim])


def attention_weights(query: tf.Tensor, key: tf.Tensor,
                      bias: tf.Tensor | None, mask: tf.Tensor | None,
                      dtype: tf.DType) -> tf.Tensor:
  """softmax(Q Kᵀ + bias) over the keys of the mask.

  Args:
    query, key: [B, H, N, d], scaled.
    bias: [1, H, N, N], or None.
    mask: bool [B, N], False for padding; None if there is none.
    dtype: of the scores and the result.

  Returns:
    [B, H, N, N].
  """
  scores = tf.cast(tf.matmul(query, key, transpose_b=True), dtype)
  if bias is not None:
    scores += tf.cast(bias, dtype)
  if mask is not None:
    # [B, N] -> [B, 1, 1, N]: no query looks at a padded key
    scores = tf.where(mask[:, None, None, :], scores,
                      tf.constant(MASKED_SCORE, dtype))
  return tf.nn.softmax(scores)


@compiled
def _drop_and_cast(weights, random_bits, rate, dtype):
  return tf.cast(plain_dropout(weights, random_bits, rate), dtype)


def _drop_weights(weights, random_bits, rate, dtype):
  if not rate and weights.dtype == dtype:
    return weights  # not a copy
  return _drop_and_cast(weights, random_bits, rate, dtype)


@compiled
def _scores_gradient(weights, d_dropped, mean, random_bits, rate, dtype):
  """Through dropout and softmax."""
  d_weights = plain_dropout(
      tf.cast(d_dropped, weights.dtype), random_bits, rate)
  return tf.cast(weights * (d_weights - mean), dtype)


def plain_attention(qkv, bias, mask, random_bits, shape, scale, rate, dtype):
  """dropout(softmax(scale · Q Kᵀ + bias)) V."""
  query, key, value = split_heads(qkv, shape, 3)
  weights = attention_weights(query * scale, key, bias, mask, dtype)
  weights = tf.cast(plain_dropout(weights, random_bits, rate), qkv.dtype)
  return merge_heads(tf.matmul(weights, value))


@with_gradient
def attention(qkv: tf.Tensor, bias: tf.Tensor | None, mask: tf.Tensor | None,
              random_bits: tf.Tensor | None, shape: tuple, scale: float,
              rate: float, dtype: tf.DType):
  """`plain_attention`; keeps qkv, the random bits and the result.

  Args:
    qkv: [B·N, 3·H·d].
    bias: [1, H, N, N], or None.
    mask: bool [B, N], False for padding; None if there is none.
    random_bits: of `draw_bits` for [B, H, N, N]; None without dropout.
    shape: (B, N, H).
    scale: of the queries.
    rate: of dropout.
    dtype: of the softmax.

  Returns:
    [B·N, H·d].
  """
  def weigh(qkv):
    query, key, value = split_heads(qkv, shape, 3)
    query *= scale
    return query, key, value, attention_weights(query, key, bias, mask, dtype)

  *_, value, weights = weigh(qkv)
  mixed = merge_heads(tf.matmul(
      _drop_weights(weights, random_bits, rate, qkv.dtype), value))

  def gradient(d_mixed):
    later_qkv, later_bits = not_before(d_mixed, qkv, random_bits)
    query, key, value, weights = weigh(later_qkv)
    d_out, = split_heads(d_mixed, shape)
    # Σ weight · its gradient of a row: [B·N, H·d] -> [B, H, N, 1]
    product, = split_heads(
        tf.cast(d_mixed, dtype) * tf.cast(mixed, dtype), shape)
    mean = tf.reduce_sum(product, -1, keepdims=True)
    d_value = tf.matmul(
        _drop_weights(weights, later_bits, rate, qkv.dtype), d_out,
        transpose_a=True)
    # In turn: no more than three [N, N] tensors are held at a time.
    value, = not_before(d_value, value)
    d_dropped = tf.matmul(d_out, value, transpose_b=True)
    d_scores = _scores_gradient(
        weights, d_dropped, mean, later_bits, rate, qkv.dtype)
    d_qkv = merge_heads(tf.matmul(d_scores, key) * scale,
                        tf.matmul(d_scores, query, transpose_a=True), d_value)
    d_bias = None if bias is None else tf.cast(tf.reduce_sum(
        tf.cast(d_scores, dtype), 0, keepdims=True), bias.dtype)
    return d_qkv, d_bias

  return mixed, gradient
