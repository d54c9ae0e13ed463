"""The encoder's arithmetic between matrix products, with gradients of its own.

What TensorFlow would do in a dozen passes over memory, XLA compiles to one.
Nothing is kept for the way back that can be made again from what is: of
attention no [N, N] tensor, of dropout no mask, of a linear layer no input that
a norm or an activation makes.
"""
import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from vatt.xla import compiled, not_before

MASKED_SCORE = -1e9  # finite, so that a fully masked row stays finite
GOLDEN = 0x9E3779B9  # 2³² / golden ratio: its multiples fill the range evenly


def _wide(x):
  """In float32 at least."""
  return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


# -----------------------------------------------------------------------------
# Dropout.
# -----------------------------------------------------------------------------
def draw_words(shape, seed):
  """Draws what sets the dropout masks of all rows apart.

  Args:
    shape: of what will be dropped from, [..., n].
    seed: int32 [2].

  Returns:
    uint32 [2, ..., 1]: two words a row, independent of each other.
  """
  return tf.random.stateless_uniform(
      [2, *shape[:-1], 1], seed, None, None, tf.uint32)


def is_kept(words, length, rate):
  """The mask of dropout: a hash of the row's two words and of the column.

  As fast as memory, and the same wherever it is made again: on the way back.

  Args:
    words: of `draw_words`.
    length: n, of a row.
    rate: fraction that is dropped, to 2⁻³² exactly.

  Returns:
    bool [..., n].
  """
  def fold(x, bits):
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(
        x, tf.constant(bits, tf.uint32)))

  columns = tf.cast(tf.range(length), tf.uint32)
  x = words[0] + columns * tf.constant(GOLDEN, tf.uint32)  # wraps around
  # Two rounds of xor, shift and multiply, in which each bit changes half of
  # the others; the second word joins between them.
  x = fold(x, 16) * tf.constant(0x7FEB352D, tf.uint32)
  x = fold(tf.bitwise.bitwise_xor(x, words[1]), 15)
  x = fold(x * tf.constant(0x846CA68B, tf.uint32), 16)
  return x >= tf.constant(round(rate * 2 ** 32), tf.uint32)


def _dropped(x, words, rate):
  if not rate:
    return x
  return tf.where(is_kept(words, x.shape[-1], rate), x * (1.0 / (1.0 - rate)),
                  tf.zeros([], x.dtype))


_drop = compiled(_dropped)


@compiled
def _add_dropped(z, x, words, rate):
  return z + _dropped(x, words, rate)


def dropout(x, words, rate):
  """Zeros a fraction of `x` [..., n], by `draw_words`, and scales the rest."""
  @tf.custom_gradient
  def call(x):
    return (_drop(x, words, rate),
            lambda dy: _drop(dy, *not_before(dy, words), rate))
  return call(x)


def add_dropped(z, x, words, rate):
  """z + dropout(x)."""
  @tf.custom_gradient
  def call(z, x):
    return (_add_dropped(z, x, words, rate),
            lambda dy: (dy, _drop(dy, *not_before(dy, words), rate)))
  return call(z, x)


# -----------------------------------------------------------------------------
# Order.
# -----------------------------------------------------------------------------
@tf.custom_gradient
def in_turn(first, second):
  """Returns both, but has the way back into `first` begin when that into
  `second` is done: what either needs on the way is not there at once."""
  def gradient(d_first, d_second):
    d_first, = not_before(d_second, d_first)
    return d_first, d_second

  return (tf.identity(first), tf.identity(second)), gradient


# -----------------------------------------------------------------------------
# Linear layers, and what makes their input.
# -----------------------------------------------------------------------------
class Maker(NamedTuple):
  """What stands before a linear layer.

  make(x, *params) -> y; again(x, *params, dy) -> y, dx and the gradients of
  params.
  """
  make: Callable
  again: Callable
  params: tuple = ()


def linear(x, kernel, bias=None, maker=None):
  """y W + b, with y made of x [M, D]; y is not kept but made again.

  Args:
    x: [M, D].
    kernel: W [D, E].
    bias: b [E], or None.
    maker: None if y is x.

  Returns:
    [M, E].
  """
  params = maker.params if maker else ()
  num_biases = int(bias is not None)

  @tf.custom_gradient
  def call(x, kernel, *others):
    others = others[num_biases:]
    y = tf.matmul(maker.make(x, *others) if maker else x, kernel)
    if bias is not None:
      y = tf.nn.bias_add(y, bias)

    def gradient(d):
      dy = tf.matmul(d, kernel, transpose_b=True)
      made, dx, *d_params = (
          maker.again(*not_before(dy, x), *others, dy) if maker else (x, dy))
      d_kernel = tf.matmul(made, d, transpose_a=True)
      d_bias = [tf.raw_ops.BiasAddGrad(out_backprop=d)] * num_biases
      return dx, d_kernel, *d_bias, *d_params

    return y, gradient

  return call(x, kernel, *([bias] * num_biases), *params)


def apply(x, maker):
  """What the maker makes of x, as a tensor that is kept."""
  @tf.custom_gradient
  def call(x, *params):
    return (maker.make(x, *params),
            lambda dy: maker.again(*not_before(dy, x), *params, dy)[1:])
  return call(x, *maker.params)


def _normal_cdf(x):
  return 0.5 * (1.0 + tf.math.erf(x * (1.0 / math.sqrt(2.0))))


@compiled
def _gelu(x, words, rate):
  wide = _wide(x)
  return tf.cast(_dropped(wide * _normal_cdf(wide), words, rate), x.dtype)


@compiled
def _gelu_again(x, dy, words, rate):
  wide = _wide(x)
  cdf = _normal_cdf(wide)
  density = tf.exp(-0.5 * wide * wide) * (1.0 / math.sqrt(2.0 * math.pi))
  y = _dropped(wide * cdf, words, rate)
  dx = _dropped(_wide(dy), words, rate) * (cdf + wide * density)
  return tf.cast(y, x.dtype), tf.cast(dx, x.dtype)


def gelu(words=None, rate=0.0):
  """Maker of dropout(GELU(x)), with GELU(x) = x·Φ(x)."""
  return Maker(lambda x: _gelu(x, words, rate),
               lambda x, dy: _gelu_again(
                   x, dy, *not_before(dy, words), rate))


def _normalize(x, centred, epsilon):
  """x over the root mean square of the last axis, its mean taken off before if
  `centred`; and 1 / that root."""
  if centred:
    x -= tf.reduce_mean(x, -1, keepdims=True)
  square = tf.reduce_mean(tf.square(x), -1, keepdims=True)
  inverse = tf.math.rsqrt(square + epsilon)
  return x * inverse, inverse


@compiled
def _norm(x, scale, offset, epsilon):
  y, _ = _normalize(_wide(x), offset is not None, epsilon)
  y *= _wide(scale)
  if offset is not None:
    y += _wide(offset)
  return tf.cast(y, x.dtype)


@compiled
def _norm_again(x, scale, offset, dy, epsilon):
  centred = offset is not None
  normal, inverse = _normalize(_wide(x), centred, epsilon)
  y, dy = normal * _wide(scale), _wide(dy)
  d_params = [tf.reduce_sum(dy * normal, 0)]
  if centred:
    y += _wide(offset)
    d_params.append(tf.reduce_sum(dy, 0))
  dy *= _wide(scale)
  dx = dy - normal * tf.reduce_mean(dy * normal, -1, keepdims=True)
  if centred:
    dx -= tf.reduce_mean(dy, -1, keepdims=True)
  return (tf.cast(y, x.dtype), tf.cast(dx * inverse, x.dtype),
          *(tf.cast(d, scale.dtype) for d in d_params))


def layer_norm(scale, offset, epsilon):
  """Maker of a layer normalization of [M, D], statistics in float32 at least.
  With `offset` None it is T5's: over the root mean square, without centring."""
  if offset is None:
    return Maker(lambda x, scale: _norm(x, scale, None, epsilon),
                 lambda x, scale, dy: _norm_again(x, scale, None, dy, epsilon),
                 (scale,))
  return Maker(lambda x, scale, offset: _norm(x, scale, offset, epsilon),
               lambda x, scale, offset, dy: _norm_again(
                   x, scale, offset, dy, epsilon),
               (scale, offset))


# -----------------------------------------------------------------------------
# Attention.
# -----------------------------------------------------------------------------
@compiled
def _drop_and_cast(weights, words, rate, dtype):
  return tf.cast(_dropped(weights, words, rate), dtype)


def _drop_weights(weights, words, rate, dtype):
  if not rate and weights.dtype == dtype:
    return weights  # not a copy
  return _drop_and_cast(weights, words, rate, dtype)


@compiled
def _scores_gradient(weights, d_dropped, mean, words, rate, dtype):
  """Through dropout and softmax."""
  d_weights = _dropped(tf.cast(d_dropped, weights.dtype), words, rate)
  return tf.cast(weights * (d_weights - mean), dtype)


def split_heads(x, shape, parts=1):
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


def merge_heads(*parts):
  """k tensors [B, H, N, d] -> [B·N, k·H·d]."""
  _, heads, _, dim = parts[0].shape
  # [k, B, H, N, d] -> [B, N, k, H, d] -> [B·N, k·H·d]
  x = tf.transpose(tf.stack(parts), [1, 3, 0, 2, 4])
  return tf.reshape(x, [-1, len(parts) * heads * dim])


def attention_weights(query, key, bias, mask, dtype):
  """softmax(Q Kᵀ + bias) over the keys that are there.

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


def attention(qkv, shape, scale, bias, mask, words, rate, dtype):
  """Attends: dropout(softmax(scale · Q Kᵀ + bias)) V.

  Args:
    qkv: [B·N, 3·H·d].
    shape: (B, N, H).
    scale: of the queries.
    bias: [1, H, N, N], or None.
    mask: bool [B, N], False for padding; None if there is none.
    words: of `draw_words` for [B, H, N, N]; None without dropout.
    rate: of dropout.
    dtype: of the softmax.

  Returns:
    [B·N, H·d].
  """
  def weigh(qkv, bias):
    query, key, value = split_heads(qkv, shape, 3)
    query *= scale
    return query, key, value, attention_weights(query, key, bias, mask, dtype)

  @tf.custom_gradient
  def call(qkv, *biases):
    *_, value, weights = weigh(qkv, *(biases or [None]))
    mixed = merge_heads(tf.matmul(
        _drop_weights(weights, words, rate, qkv.dtype), value))

    def gradient(d_mixed):
      again, same_words = not_before(d_mixed, qkv, words)
      query, key, value, weights = weigh(again, *(biases or [None]))
      d_out, = split_heads(d_mixed, shape)
      # Σ weight · its gradient of a row: [B·N, H·d] -> [B, H, N, 1]
      product, = split_heads(
          tf.cast(d_mixed, dtype) * tf.cast(mixed, dtype), shape)
      mean = tf.reduce_sum(product, -1, keepdims=True)
      d_value = tf.matmul(
          _drop_weights(weights, same_words, rate, qkv.dtype), d_out,
          transpose_a=True)
      # In turn: no more than three [N, N] tensors are there at a time.
      value, = not_before(d_value, value)
      d_dropped = tf.matmul(d_out, value, transpose_b=True)
      d_scores = _scores_gradient(
          weights, d_dropped, mean, same_words, rate, qkv.dtype)
      d_qkv = merge_heads(tf.matmul(d_scores, key) * scale,
                          tf.matmul(d_scores, query, transpose_a=True), d_value)
      return d_qkv, *(
          tf.cast(tf.reduce_sum(tf.cast(d_scores, dtype), 0, keepdims=True),
                  bias.dtype) for bias in biases)

    return mixed, gradient

  return call(qkv, *([] if bias is None else [bias]))
