
import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from vatt import optimizers
from vatt.config import check_optimizer
from vatt.errors import UserError


def config(**fields):
  return ConfigDict(dict(dict(
      name="adam", lr=1e-4, end_lr=5e-5, warmup_steps=10_000,
      schedule="quarter_cosine", levels=(), momentum=0.9, beta_1=0.9,
      beta_2=0.999, epsilon=1e-7, weight_decay=0.0, clip_norm=0.0,
      clip_part=""), **fields))


def rates(schedule, steps):
  # One by one, as the optimizer calls it, and all at once, as we can.
  steps = np.asarray(steps, np.int64)
  at_once = schedule(tf.constant(steps)).numpy()
  assert at_once.dtype == np.float32
  traced = tf.function(schedule)
  for i in range(0, len(steps), max(1, len(steps) // 7)):
    for one in (schedule, traced):
      np.testing.assert_allclose(
          one(tf.constant(steps[i])), at_once[i], rtol=6e-7)
  return at_once


def test_paper_pretraining_by_hand():
  schedule = optimizers.learning_rate(config(), 310_000)
  # Halfway in the warm-up; its end; a third of the way down, where the cosine
  # of 30 degrees is √3/2; halfway, cos 45°; two thirds, cos 60°; the end.
  got = rates(schedule, [
      0, 1, 5_000, 10_000, 110_000, 160_000, 210_000, 310_000, 310_001,
      10 ** 9])
  np.testing.assert_allclose(got, [
      0, 1e-8, 5e-5, 1e-4, 5e-5 + 5e-5 * 0.8660254, 5e-5 + 5e-5 * 0.7071068,
      5e-5 + 5e-5 * 0.5, 5e-5, 5e-5, 5e-5], rtol=1e-6)


@pytest.mark.parametrize("fields, total", [
    (dict(), 500_000),
    (dict(schedule="half_cosine", lr=0.005, end_lr=0.0, warmup_steps=2_500),
     100_000),
    (dict(schedule="half_cosine", lr=0.2, end_lr=0.0, warmup_steps=5_000),
     50_000),
    (dict(warmup_steps=0), 1_000),
    (dict(schedule="constant", warmup_steps=7), 50),
])
def test_every_step_is_finite_monotone_and_precise(fields, total):
  fields = config(**fields)
  steps = np.arange(total + 100)
  got = rates(optimizers.learning_rate(fields, total), steps)
  assert np.all(np.isfinite(got))
  warm = fields.warmup_steps
  assert np.all(np.diff(got[:warm + 1]) > 0)
  assert np.all(np.diff(got[warm:]) <= np.spacing(got[warm + 1:]))
  assert np.all(got[total:] == got[total])

  # The same in float64, as one reads it in the paper.
  part = np.clip((steps - warm) / (total - warm), 0, 1)
  wave = {"quarter_cosine": np.cos(np.pi / 2 * part),
          "half_cosine": (1 + np.cos(np.pi * part)) / 2,
          "constant": np.ones_like(part)}[fields.schedule]
  end = fields.lr if fields.schedule == "constant" else fields.end_lr
  want = np.where(steps < warm, fields.lr * steps / max(warm, 1),
                  end + (fields.lr - end) * wave)
  np.testing.assert_allclose(got, want, rtol=5e-7, atol=1e-15)


def test_levels_by_hand():
  schedule = optimizers.learning_rate(config(
      schedule="levels", levels=((10, 8.0), (20, 4.0), (40, 2.0)), end_lr=0.0),
      100)
  # Ends and middles of the stretches, and 60° of the last half period.
  got = rates(schedule, [0, 5, 10, 15, 20, 30, 40, 60, 70, 100, 200])
  np.testing.assert_allclose(
      got, [0, 4, 8, 6, 4, 3, 2, 1.5, 1, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("fields, total, named", [
    (dict(schedule="cosine"), 500_000, "'cosine'.*quarter_cosine, half_cosine"),
    (dict(name="adamw"), 500_000, "'adamw'.*adam, sgd, lamb, sgdw"),
    (dict(), 9_999, "10000.*9999"),
    (dict(lr=float("nan")), 500_000, "nan"),
    (dict(lr=-1e-4), 500_000, "-0.0001"),
    (dict(schedule="levels"), 500_000, "levels"),
    (dict(schedule="levels", levels=((5, 1.0), (5, 2.0))), 10, r"\[5, 5\]"),
    (dict(weight_decay=0.1), 500_000, "weight_decay.*adam"),
    (dict(name="sgd", weight_decay=0.1), 500_000, "weight_decay.*sgd"),
])
def test_bad_config(fields, total, named):
  with pytest.raises(UserError, match=named):
    check_optimizer(config(**fields), total)


def take_steps(optimizer, gradients, names=("layer/kernel", "layer/bias")):
  """Values of two variables [1.0, -2.0] after each of the steps."""
  variables = [tf.Variable([1.0, -2.0], name=name) for name in names]
  optimizer._create_all_weights(variables)

  @tf.function
  def apply(gradient):
    optimizer.apply_gradients([(gradient, v) for v in variables])

  values = []
  for gradient in gradients:
    apply(tf.constant(gradient))
    values.append([v.numpy() for v in variables])
  return np.array(values)


GRADIENTS = np.array([[0.5, -0.25], [0.1, 0.2], [-0.3, 0.4]], np.float32)


def constant(**fields):
  return config(schedule="constant", warmup_steps=0, lr=0.01, **fields)


def adam_directions():
  """m̂ / (√v̂ + ε) of Adam's paper, in float64."""
  m = v = np.zeros(2)
  for t, g in enumerate(GRADIENTS.astype(np.float64), 1):
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    yield m / (1 - 0.9 ** t) / (np.sqrt(v / (1 - 0.999 ** t)) + 1e-7)


def test_adam():
  value, want = np.array([1.0, -2.0]), []
  for direction in adam_directions():
    value = value - 0.01 * direction
    want.append([value, value])
  got = take_steps(optimizers.make_optimizer(constant(), 10), GRADIENTS)
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_lamb_scales_by_norms_and_spares_the_bias():
  kernel = bias = np.array([1.0, -2.0])
  want = []
  for direction in adam_directions():
    update = direction + 0.1 * kernel
    ratio = np.linalg.norm(kernel) / np.linalg.norm(update)
    kernel = kernel - 0.01 * ratio * update
    bias = bias - 0.01 * direction
    want.append([kernel, bias])
  optimizer = optimizers.make_optimizer(
      constant(name="lamb", weight_decay=0.1), 10)
  np.testing.assert_allclose(
      take_steps(optimizer, GRADIENTS), want, rtol=1e-5)


@pytest.mark.parametrize("name, decay", [
    ("sgd", 0.0), ("sgdw", 0.0), ("sgdw", 0.5)])
def test_sgd_with_momentum_follows_the_schedule(name, decay):
  # Warm-up over two steps: rates 0, 0.005, 0.01; the decay goes with them.
  kernel = bias = np.array([1.0, -2.0])
  velocity, want = np.zeros(2), []
  for rate, g in zip((0, 0.005, 0.01), GRADIENTS):
    velocity = 0.9 * velocity - rate * g
    kernel = kernel - rate * decay * kernel + velocity
    bias = bias + velocity
    want.append([kernel, bias])
  optimizer = optimizers.make_optimizer(config(
      name=name, schedule="constant", lr=0.01, warmup_steps=2,
      weight_decay=decay), 10)
  np.testing.assert_allclose(
      take_steps(optimizer, GRADIENTS), want, rtol=1e-6)


@pytest.mark.parametrize("name, slots", [
    ("adam", ["m", "v"]), ("sgd", ["momentum"]), ("lamb", ["m", "v"]),
    ("sgdw", ["momentum"])])
def test_slots_exist_before_the_first_step(name, slots):
  optimizer = optimizers.make_optimizer(constant(name=name), 10)
  variable = tf.Variable([1.0])
  optimizer._create_all_weights([variable])
  assert sorted(optimizer.get_slot_names()) == slots
  for slot in slots:
    assert optimizer.get_slot(variable, slot).numpy() == [0.0]


def test_addons_are_imported_late_and_in_silence(python):
  script = """
import sys
from ml_collections import ConfigDict
from vatt import optimizers
config = ConfigDict(dict(name="adam", lr=1., end_lr=0., warmup_steps=0,
    schedule="constant", momentum=0.9, beta_1=0.9, beta_2=0.999, epsilon=1e-7,
    weight_decay=0.0))
optimizers.make_optimizer(config, 10)
assert "tensorflow_addons" not in sys.modules
config.name = "lamb"
optimizers.make_optimizer(config, 10)
assert "tensorflow_addons" in sys.modules
"""
  done = python.run("-c", script)
  assert done.returncode == 0, done.stderr
  assert "Warning" not in done.stderr and "addons" not in done.stderr.lower()


def test_clip():
  """All gradients, or those of a part alone, to its own norm."""
  variables = [tf.Variable([0.0, 0.0]), tf.Variable(0.0), tf.Variable(0.0)]
  gradients = [tf.constant([3.0, 4.0]), tf.constant(12.0), tf.constant(84.0)]
  norm = tf.linalg.global_norm(gradients)
  assert float(norm) == 85.0
  for clip_norm, of, wanted in (
      (8.5, variables, [[0.3, 0.4], 1.2, 8.4]),
      (100.0, variables, [[3.0, 4.0], 12.0, 84.0]),
      (6.5, variables[:2], [[1.5, 2.0], 6.0, 84.0]),
      (13.0, variables[:2], [[3.0, 4.0], 12.0, 84.0])):
    found = optimizers.clip(gradients, variables, clip_norm, of, norm)
    for a, b in zip(found, wanted, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-6)
