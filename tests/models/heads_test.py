import math

import numpy as np
import pytest
import tensorflow as tf

from vatt.models.heads import BatchNorm, ProjectionHead


@pytest.fixture(autouse=True)
def float64():
  tf.keras.mixed_precision.set_global_policy("float64")


MASKS = {
    "all": [True] * 6,
    "some": [True, False, True, True, False, True],
    "one": [False, False, True, False, False, False],
    "none": [False] * 6,
}


def make_norm(width=3):
  norm = BatchNorm()
  norm(np.zeros([1, width]), np.ones(1, bool), False)
  rng = np.random.default_rng(0)
  norm.scale.assign(rng.normal(size=width))
  norm.offset.assign(rng.normal(size=width))
  norm.moving_mean.assign(rng.normal(size=width))
  norm.moving_variance.assign(rng.uniform(0.5, 2, size=width))
  return norm


def statistics_by_hand(x, mask):
  """Mean and variance of each column, over the rows that count."""
  means, variances = [], []
  for column in x.T:
    values = [v for v, valid in zip(column, mask) if valid]
    mean = sum(values) / len(values)
    means.append(mean)
    variances.append(sum((v - mean) ** 2 for v in values) / len(values))
  return np.array(means), np.array(variances)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("compiled", [False, True])
def test_batch_norm(mask, compiled):
  mask = np.array(MASKS[mask])
  norm = make_norm()
  scale, offset, old_mean, old_variance = (
      v.numpy() for v in (norm.scale, norm.offset, norm.moving_mean,
                          norm.moving_variance))
  x = np.random.default_rng(1).normal(size=(6, 3)) * 3 + 7
  call = tf.function(lambda x, m: norm(x, m, True)) if compiled else (
      lambda x, m: norm(x, m, True))
  got = call(x, mask).numpy()
  mean, variance = old_mean, old_variance
  if mask.any():
    mean, variance = statistics_by_hand(x, mask)
  for row, normal in zip(x, got):  # invalid rows too, by the same statistics
    for i in range(3):
      expected = (row[i] - mean[i]) / math.sqrt(variance[i] + 1e-5)
      assert normal[i] == pytest.approx(
          expected * scale[i] + offset[i], rel=1e-12)
  assert np.isfinite(got).all()
  np.testing.assert_allclose(
      norm.moving_mean, 0.9 * old_mean + 0.1 * mean, rtol=1e-14)
  np.testing.assert_allclose(
      norm.moving_variance, 0.9 * old_variance + 0.1 * variance, rtol=1e-14)
  if not mask.any():
    np.testing.assert_array_equal(norm.moving_mean, old_mean)
    np.testing.assert_array_equal(norm.moving_variance, old_variance)


def test_values_of_invalid_rows_are_of_no_account():
  mask = np.array(MASKS["some"])
  x = np.random.default_rng(1).normal(size=(6, 3))
  other = np.where(mask[:, None], x, 1e6)
  a, b = make_norm(), make_norm()
  np.testing.assert_array_equal(
      a(x, mask, True).numpy()[mask], b(other, mask, True).numpy()[mask])
  np.testing.assert_array_equal(a.moving_mean, b.moving_mean)
  np.testing.assert_array_equal(a.moving_variance, b.moving_variance)


def test_moving_statistics_over_steps():
  norm = BatchNorm()
  rng = np.random.default_rng(2)
  mean, variance = np.zeros(4), np.ones(4)  # as they start
  for _ in range(5):
    x = rng.normal(size=(8, 4)) * 2 + 1
    norm(x, np.ones(8, bool), True)
    batch_mean, batch_variance = statistics_by_hand(x, [True] * 8)
    mean += 0.1 * (batch_mean - mean)
    variance += 0.1 * (batch_variance - variance)
    np.testing.assert_allclose(norm.moving_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(norm.moving_variance, variance, rtol=1e-12)
  # In evaluation they serve, and stay.
  x = rng.normal(size=(2, 4))
  got = norm(x, np.zeros(2, bool), False)
  np.testing.assert_allclose(
      got, (x - mean) / np.sqrt(variance + 1e-5), rtol=1e-12)
  np.testing.assert_allclose(norm.moving_mean, mean, rtol=1e-12)
  assert not {v.ref() for v in norm.trainable_variables} & {
      norm.moving_mean.ref(), norm.moving_variance.ref()}


@pytest.mark.parametrize("mask", MASKS)
def test_gradients_against_finite_differences(mask):
  mask = np.array(MASKS[mask])
  weights = np.random.default_rng(3).normal(size=(6, 3))
  x = np.random.default_rng(4).normal(size=(6, 3)) + 2
  norm = make_norm()
  mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()

  def function(x, scale, offset):
    norm.scale.assign(scale)
    norm.offset.assign(offset)
    norm.moving_mean.assign(mean)
    norm.moving_variance.assign(variance)
    return tf.reduce_sum(norm(x, mask, True) * weights)

  point = [x, norm.scale.numpy(), norm.offset.numpy()]
  with tf.GradientTape() as tape:
    watched = tf.constant(x)
    tape.watch(watched)
    loss = function(watched, *point[1:])
  gradients = tape.gradient(loss, [watched, norm.scale, norm.offset])
  for i, gradient in enumerate(gradients):
    for at in np.ndindex(point[i].shape):
      ends = []
      for step in (1e-6, -1e-6):
        moved = [p.copy() for p in point]
        moved[i][at] += step
        ends.append(function(*moved).numpy())
      slope = (ends[0] - ends[1]) / 2e-6
      # One row alone is its own mean: its gradient is 0 but for rounding.
      assert gradient.numpy()[at] == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_float32_variance_does_not_cancel():
  tf.keras.mixed_precision.set_global_policy("float32")
  x = (np.random.default_rng(5).normal(size=(64, 2)) + 3e3).astype(np.float32)
  got = BatchNorm()(x, np.ones(64, bool), True).numpy()
  mean, variance = statistics_by_hand(x.astype(np.float64), [True] * 64)
  np.testing.assert_allclose(
      got, (x - mean) / np.sqrt(variance + 1e-5), atol=2e-3)


def test_statistics_stay_in_float32_under_bfloat16():
  tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
  head = ProjectionHead([4, 4])
  x = np.random.default_rng(6).normal(size=(3000, 8)).astype(np.float32)
  got = head(x, np.ones(3000, bool), True)
  assert got.dtype == tf.float32
  assert {v.dtype for v in head.variables} == {tf.float32}
  # Columns have mean 0 and variance 1; sums of 3000 in bfloat16 would not.
  np.testing.assert_allclose(tf.reduce_mean(got, 0), 0, atol=1e-4)
  np.testing.assert_allclose(tf.math.reduce_variance(got, 0), 1, atol=1e-3)


@pytest.mark.parametrize("widths", [[5], [5, 4]])
def test_projection_head(widths):
  """Linear, batch norm[, ReLU, linear, batch norm]; no bias anywhere."""
  head = ProjectionHead(widths)
  rng = np.random.default_rng(7)
  x, mask = rng.normal(size=(6, 7)), np.array(MASKS["some"])
  head(x, mask, False)
  for variable in head.trainable_variables:
    variable.assign(rng.normal(size=variable.shape))
  expected = x
  for i, width in enumerate(widths):
    if i:
      expected = np.maximum(expected, 0)
    expected = expected @ head.linears[i].kernel.numpy()
    assert expected.shape == (6, width)
    mean, variance = statistics_by_hand(expected, mask)
    expected = (expected - mean) / np.sqrt(variance + 1e-5)
    expected = (expected * head.norms[i].scale.numpy()
                + head.norms[i].offset.numpy())
  np.testing.assert_allclose(head(x, mask, True), expected, rtol=1e-10)
  # A kernel, a scale and an offset a layer; two statistics a batch norm.
  assert len(head.trainable_variables) == 3 * len(widths)
  assert len(head.non_trainable_variables) == 2 * len(widths)
