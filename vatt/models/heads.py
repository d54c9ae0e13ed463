"""What follows an encoder: projections into the common spaces S_va and S_vt
(section 3.3), and the classifier of frozen features (appendix B.8)."""
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from vatt import replicas, seeds


class BatchNorm(tf.keras.layers.Layer):
  """Batch normalization over the valid rows of the GLOBAL batch.

  Keras' layer gives NaN for a mask without a valid row, and its fused kernel
  another moving variance than its synchronized form; this one is the same on
  any number of replicas.
  """

  def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5,
               **kwargs: Any):
    # Not in bfloat16: statistics and embeddings keep the variables' precision.
    policy = tf.keras.mixed_precision.global_policy()
    super().__init__(dtype=policy.variable_dtype, **kwargs)
    self.momentum, self.epsilon = momentum, epsilon

  def build(self, shape: tf.TensorShape) -> None:
    def statistic(name, initializer):
      return self.add_weight(
          name, shape[-1:], initializer=initializer, trainable=False,
          synchronization=tf.VariableSynchronization.ON_READ,
          # Replicas hold equal statistics, so any of them will do.
          aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)

    self.scale = self.add_weight("scale", shape[-1:], initializer="ones")
    self.offset = self.add_weight("offset", shape[-1:], initializer="zeros")
    self.moving_mean = statistic("moving_mean", "zeros")
    self.moving_variance = statistic("moving_variance", "ones")

  def call(self, x: tf.Tensor, mask: tf.Tensor, training: bool) -> tf.Tensor:
    """Normalizes features.

    Args:
      x: [B, E].
      mask: bool [B], the rows that count in the statistics. Others are
        normalized with them. With no valid row in the global batch, the moving
        statistics are used and left as they are.
      training: whether batch statistics are used and the moving ones updated.

    Returns:
      [B, E].
    """
    mean, variance = self.moving_mean, self.moving_variance
    if training:
      mean, variance = self._batch_statistics(x, mask)
    normal = (x - mean) * tf.math.rsqrt(variance + self.epsilon)
    return normal * self.scale + self.offset

  def _batch_statistics(self, x, mask):
    weight = tf.cast(mask, x.dtype)[:, None]  # [B] -> [B, 1]
    count = replicas.all_sum(tf.reduce_sum(weight))
    divisor = tf.maximum(count, 1.0)
    mean = replicas.all_sum(tf.reduce_sum(weight * x, axis=0)) / divisor
    # Around the mean, not E[x²] - mean²: no cancellation in float32.
    variance = replicas.all_sum(
        tf.reduce_sum(weight * tf.square(x - mean), axis=0)) / divisor
    some = count > 0
    mean = tf.where(some, mean, self.moving_mean)
    variance = tf.where(some, variance, self.moving_variance)
    for moving, batch in ((self.moving_mean, mean),
                          (self.moving_variance, variance)):
      moving.assign(moving + (1.0 - self.momentum) * (batch - moving))
    return mean, variance


class ProjectionHead(tf.keras.layers.Layer):
  """Linear layers, each followed by batch norm, with ReLU between them.

  The linear layers have no bias: batch norm takes it out again, and Adam would
  turn the rounding of its zero gradient into drift.

  Args:
    widths: output width of each linear layer.
    normalized: False leaves batch norm away, for linear layers with bias (the
      released weights' heads of audio and text).
    relu_first: whether ReLU is before the first layer too (the released
      weights' head from S_va to S_vt).
  """

  def __init__(self, widths: Sequence[int], normalized: bool = True,
               relu_first: bool = False, **kwargs: Any):
    super().__init__(**kwargs)
    self.relu_first = relu_first
    self.linears = [
        tf.keras.layers.Dense(
            width, use_bias=not normalized, name=f"linear_{i}")
        for i, width in enumerate(widths)]
    self.norms = normalized and [
        BatchNorm(name=f"norm_{i}") for i in range(len(widths))]

  def call(self, x: tf.Tensor, mask: tf.Tensor, training: bool) -> tf.Tensor:
    """[B, D] and bool [B] (rows that have this modality) -> [B, E]."""
    for i, linear in enumerate(self.linears):
      if i or self.relu_first:
        x = tf.nn.relu(x)
      x = linear(x)
      if self.norms:
        x = self.norms[i](x, mask=mask, training=training)
    return tf.cast(x, self.variable_dtype)


class LowRankClassifier(tf.keras.layers.Layer):
  """A linear classifier whose weight is a product, C = UV (appendix B.8).

  In training only some of the n components, drawn anew each step, take part;
  their sum is scaled to that of all in the mean. The paper has no bias.

  Args:
    num_classes: C.
    components: n, columns of U and rows of V.
    kept: number of components that take part in a step of training.
  """

  def __init__(self, num_classes: int, components: int = 128, kept: int = 13,
               **kwargs: Any):
    super().__init__(**kwargs)
    self.num_classes = num_classes
    self.components, self.kept = components, kept

  def build(self, shape: tf.TensorShape) -> None:
    self.u = self.add_weight("u", [shape[-1], self.components])
    self.v = self.add_weight("v", [self.components, self.num_classes])

  def call(self, x: tf.Tensor, training: bool = False,
           seed: tf.Tensor | None = None) -> tf.Tensor:
    """[B, D] -> logits [B, C]; training needs a seed, int32 [2]."""
    x = x @ self.u
    if training:
      # One number each, the same for all rows: the largest `kept` of them.
      draw = seeds.uniform_rows(1, [self.components], seed, first_row=0)[0]
      chosen = tf.math.top_k(draw, self.kept).indices
      kept = tf.reduce_sum(
          tf.one_hot(chosen, self.components, dtype=x.dtype), axis=0)
      x *= kept * (self.components / self.kept)
    return x @ self.v
