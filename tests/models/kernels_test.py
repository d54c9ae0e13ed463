import math
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.compiler.xla.service import hlo_pb2

from vatt import seeds, xla
from vatt.models import kernels
from vatt.models.encoder import Encoder

# ---- The same written plainly, for TensorFlow to differentiate -------------


def plain_dropout(x, words, rate):
  keep = kernels.is_kept(words, x.shape[-1], rate) if rate else True
  return tf.where(keep, x / (1 - rate), 0)


def plain_norm(x, scale, offset):
  if offset is not None:
    x -= tf.reduce_mean(x, -1, keepdims=True)
  y = x / tf.sqrt(tf.reduce_mean(x * x, -1, keepdims=True) + 1e-6) * scale
  return y if offset is None else y + offset


def plain_gelu(x):
  return x * 0.5 * (1 + tf.math.erf(x / math.sqrt(2)))


def plain_attention(qkv, shape, scale, bias, mask, words, rate):
  batch, length, heads = shape
  query, key, value = (
      tf.transpose(tf.reshape(x, [batch, length, heads, -1]), [0, 2, 1, 3])
      for x in tf.split(qkv, 3, -1))
  scores = tf.einsum("bhqd,bhkd->bhqk", query, key) * scale
  if bias is not None:
    scores += bias
  if mask is not None:
    scores = tf.where(mask[:, None, None], scores, -1e9)
  weights = plain_dropout(tf.nn.softmax(scores), words, rate)
  mixed = tf.einsum("bhqk,bhkd->bqhd", weights, value)
  return tf.reshape(mixed, [batch * length, -1])


def compare(ours, plain, inputs, dtype, is_compiled, tolerance):
  """Values and gradients, of a random weighting of the outputs."""
  inputs = [tf.constant(x, dtype) for x in inputs]

  def run(function):
    @tf.function
    def both():
      with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = function(*inputs)
        weighting = tf.random.stateless_normal(
            y.shape, [5, 6], dtype=tf.float64)
        total = tf.reduce_sum(y * tf.cast(weighting, y.dtype))
      return y, tape.gradient(total, inputs)
    text = str(both.get_concrete_function().graph.as_graph_def())
    return both(), "jit_compile" in text or "_XlaMustCompile" in text

  (y, gradients), compiled_by_xla = run(ours)
  (expected, wanted), _ = run(plain)
  assert compiled_by_xla == is_compiled
  assert len(gradients) == len(wanted)
  for got, want in zip([y, *gradients], [expected, *wanted]):
    np.testing.assert_allclose(
        got, want, rtol=tolerance, atol=tolerance * np.abs(want).max())


CASES = pytest.mark.parametrize("dtype, size, tolerance", [
    (tf.float64, 2 ** 40, 1e-10), (tf.float64, 0, 1e-10),
    (tf.float32, 0, 2e-5)])


@CASES
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("with_bias", [False, True])
def test_attention(dtype, size, tolerance, rate, with_bias, monkeypatch):
  monkeypatch.setattr(xla, "COMPILED_SIZE", size)
  rng = np.random.default_rng(0)
  shape, scale = (2, 7, 3), 0.4
  words = kernels.draw_words([2, 3, 7, 7], seeds.root(1)) if rate else None
  inputs = [rng.normal(size=(14, 45))]
  mask = None
  if with_bias:
    inputs.append(rng.normal(size=(1, 3, 7, 7)))
    mask = tf.constant([[True] * 7, [True] * 4 + [False] * 3])
  compare(
      lambda qkv, bias=None: kernels.attention(
          qkv, shape, scale, bias, mask, words, rate, dtype),
      lambda qkv, bias=None: plain_attention(
          tf.cast(qkv, dtype), shape, scale, bias, mask, words, rate),
      inputs, dtype, size == 0, tolerance)


@CASES
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear_after_gelu(dtype, size, tolerance, rate, with_bias,
                           monkeypatch):
  monkeypatch.setattr(xla, "COMPILED_SIZE", size)
  rng = np.random.default_rng(0)
  words = kernels.draw_words([6, 5], seeds.root(1)) if rate else None
  inputs = [rng.normal(size=shape) * 2 for shape in [(6, 5), (5, 4)]]
  if with_bias:
    inputs.append(rng.normal(size=4))
  compare(
      lambda x, kernel, bias=None: kernels.linear(
          x, kernel, bias, kernels.gelu(words, rate)),
      lambda x, kernel, bias=0.0: plain_dropout(
          plain_gelu(x), words, rate) @ kernel + bias,
      inputs, dtype, size == 0, tolerance)


@CASES
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("before_linear", [False, True])
def test_norms(dtype, size, tolerance, centred, before_linear, monkeypatch):
  monkeypatch.setattr(xla, "COMPILED_SIZE", size)
  rng = np.random.default_rng(0)
  inputs = [rng.normal(size=(6, 5)) * 3 + 1, rng.normal(size=(5, 4)),
            rng.normal(size=5), rng.normal(size=5)][:3 + centred]

  def ours(x, kernel, scale, offset=None):
    maker = kernels.layer_norm(scale, offset, 1e-6)
    if before_linear:
      return kernels.linear(x, kernel, None, maker)
    return kernels.apply(x, maker) @ kernel

  compare(ours, lambda x, kernel, scale, offset=None: plain_norm(
      x, scale, offset) @ kernel, inputs, dtype, size == 0, tolerance)


@CASES
def test_dropout(dtype, size, tolerance, monkeypatch):
  monkeypatch.setattr(xla, "COMPILED_SIZE", size)
  rng = np.random.default_rng(0)
  words = kernels.draw_words([6, 5], seeds.root(1))
  inputs = [rng.normal(size=(6, 5)) for _ in range(2)]
  compare(lambda z, x: kernels.add_dropped(z, x, words, 0.3)
          + kernels.dropout(z, words, 0.4),
          lambda z, x: z + plain_dropout(x, words, 0.3)
          + plain_dropout(z, words, 0.4), inputs, dtype, size == 0, tolerance)


# ---- Masks -----------------------------------------------------------------


def test_masks_are_as_random_as_they_should_be():
  """Pairs of values are independent in a row, in a column, between seeds: of
  each kind, the share of pairs that are both dropped is the rate squared,
  within four deviations of as many independent pairs."""
  rate, shape = 0.1, [400, 1500]
  kept = [kernels.is_kept(kernels.draw_words(shape, seeds.root(i)), 1500, rate)
          .numpy() for i in range(2)]
  first = ~kept[0]
  deviation = math.sqrt(rate * (1 - rate) / first.size)
  assert abs(first.mean() - rate) < 4 * deviation
  # Rows and columns by themselves are no more uneven than chance has it.
  for axis in (0, 1):
    counts = first.sum(axis)
    n = first.shape[axis]
    squares = ((counts - n * rate) ** 2 / (n * rate * (1 - rate))).mean()
    assert abs(squares - 1) < 4 * math.sqrt(2 / len(counts))
  pairs = {"seeds": (first, ~kept[1])}
  for step in (1, 2, 3, 8, 16, 64, 256):
    pairs[f"columns {step}"] = first[:, step:], first[:, :-step]
    pairs[f"rows {step}"] = first[step:], first[:-step]
  for name, (a, b) in pairs.items():
    both = rate ** 2
    error = abs((a & b).mean() - both)
    assert error < 4 * math.sqrt(both * (1 - both) / a.size), name


def test_mask_worked_by_hand():
  """The hash in Python's integers."""
  words = kernels.draw_words([3, 5], seeds.root(4))
  kept = kernels.is_kept(words, 5, 0.4).numpy()
  for row, column in np.ndindex(3, 5):
    x = (int(words[0, row, 0]) + column * 0x9E3779B9) % 2 ** 32
    x = (x ^ x >> 16) * 0x7FEB352D % 2 ** 32
    x ^= int(words[1, row, 0])
    x = (x ^ x >> 15) * 0x846CA68B % 2 ** 32
    x ^= x >> 16
    assert kept[row, column] == (x >= 0.4 * 2 ** 32)


def test_masks_are_the_same_compiled():
  words = kernels.draw_words([64, 3000], seeds.root(1))
  plain = kernels.dropout(tf.ones([64, 100]), words, 0.25)
  fast = kernels.dropout(tf.ones([64, 3000]), words, 0.25)
  np.testing.assert_array_equal(plain, fast[:, :100])


# ---- Order -----------------------------------------------------------------


def test_in_turn_keeps_values_and_orders_the_way_back():
  done = []

  def slowly(name, seconds):
    def note(dy):
      time.sleep(seconds)
      done.append(name)
      return dy

    @tf.custom_gradient
    def call(x):
      return tf.identity(x), lambda dy: tf.ensure_shape(
          tf.numpy_function(note, [dy], tf.float32), dy.shape)

    return call

  @tf.function
  def run(x, y):
    with tf.GradientTape() as tape:
      tape.watch([x, y])
      first, second = kernels.in_turn(slowly("first", 0.0)(x), y)
      loss = tf.reduce_sum(first * slowly("second", 0.2)(second))
    return loss, *tape.gradient(loss, [x, y])

  x, y = tf.constant([1.0, 2.0]), tf.constant([3.0, 5.0])
  loss, dx, dy = run(x, y)
  assert (loss.numpy(), dx.numpy().tolist(), dy.numpy().tolist()) == (
      13.0, [3.0, 5.0], [1.0, 2.0])
  assert done == ["second", "first"]


def test_in_turn_has_a_barrier_for_xla():
  x = tf.ones([3])

  def run():
    with tf.GradientTape() as tape:
      tape.watch(x)
      first, second = kernels.in_turn(2 * x, 3 * x)
      loss = tf.reduce_sum(first) + tf.reduce_sum(second)
    return tape.gradient(loss, x)

  assert distinct(run, "opt-barrier", []) == 1
  np.testing.assert_array_equal(tf.function(run, jit_compile=True)(), [5] * 3)


# ---- What XLA may keep -----------------------------------------------------


def distinct(function, opcode, shape):
  """How many instructions with an opcode and a shape are in the program that
  XLA is given for a function: equal ones, of equal operands, count once."""
  module = hlo_pb2.HloModuleProto.FromString(
      tf.function(function, jit_compile=True).experimental_get_compiler_ir()(
          stage="hlo_serialized"))
  numbers, regions, found = {}, {}, set()
  for computation in module.computations:  # callees first
    values = {}
    for instruction in computation.instructions:  # operands first
      operands = [values[i] for i in instruction.operand_ids]
      called = [regions[i] for i in instruction.called_computation_ids]
      key = hlo_pb2.HloInstructionProto.FromString(
          instruction.SerializeToString())
      for field in ("name", "id", "metadata", "operand_ids",
                    "called_computation_ids"):
        key.ClearField(field)
      number = numbers.setdefault(
          (key.SerializeToString(), *operands, "of", *called), len(numbers))
      values[instruction.id] = number
      if (instruction.opcode == opcode
          and list(instruction.shape.dimensions) == shape):
        found.add(number)
    regions[computation.id] = tuple(values.values())
  return len(found)


@pytest.mark.parametrize("remat", [False, True])
def test_xla_can_merge_no_map_no_mask_and_no_norm(remat):
  """They are made again where XLA compiles the whole step, too, as long as it
  heeds barriers."""
  depth, batch, heads, length = 2, 3, 2, 7
  encoder = Encoder(depth, 8, 16, heads, dropout_rate=0.1, remat=remat)
  x = tf.random.stateless_normal([batch, length, 8], [1, 2])
  encoder(x)

  def run():
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(encoder(x, training=True, seed=seeds.root(0))[0])
    return tape.gradient(loss, encoder.trainable_variables)

  maps = [batch, heads, length, length]
  # On the way forward, in attention's gradient, and in a block's before it.
  times = 3 if remat else 2
  assert distinct(run, "exponential", maps) == times * depth
  assert distinct(run, "compare", maps) == times * depth
  rows = batch * length
  assert distinct(run, "compare", [rows, 16]) == times * depth  # of GELU
  # Two residuals a block; that of tokens has no way back, as they are given.
  assert distinct(run, "compare", [rows, 8]) == times * 2 * depth + 1
  assert distinct(run, "rsqrt", [rows, 1]) == (
      times * 2 * depth + 2)  # two norms a block, and a last one


def test_equal_instructions_count_once():
  x = tf.random.stateless_normal([3, 4], [1, 2])
  assert distinct(lambda: tf.exp(x) + tf.exp(tf.identity(x)), "exponential",
                  [3, 4]) == 1
  assert distinct(lambda: tf.exp(x) + tf.exp(xla.not_before(x, x)[0]),
                  "exponential", [3, 4]) == 2
  assert distinct(lambda: tf.nn.softmax(x) + tf.nn.softmax(x), "exponential",
                  [3, 4]) == 1


# ---- Where they run --------------------------------------------------------


def test_compiled_kernels_run_on_replicas(monkeypatch):
  """Each on a processor of its own, and all of it inside a compiled step."""
  monkeypatch.setattr(xla, "COMPILED_SIZE", 0)
  strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
  words = kernels.draw_words([4, 6], seeds.root(1))
  x = tf.reshape(tf.range(24.0), [4, 6])

  def replica():
    return kernels.dropout(x, words, 0.5)

  @tf.function
  def run():
    return strategy.run(replica)

  expected = plain_dropout(x, words, 0.5)
  for value in strategy.experimental_local_results(run()):
    np.testing.assert_array_equal(value, expected)
  whole = tf.function(replica, jit_compile=True)
  np.testing.assert_array_equal(whole(), expected)


def test_open_sizes_are_not_compiled(monkeypatch):
  monkeypatch.setattr(xla, "COMPILED_SIZE", 0)
  calls = []

  @xla.compiled
  def double(x):
    calls.append(tf.inside_function())
    return 2 * x

  function = tf.function(double, input_signature=[tf.TensorSpec([None, 2])])
  np.testing.assert_array_equal(function(tf.ones([3, 2])), 2 * np.ones([3, 2]))
  assert calls == [True]  # as it is, within the function alone
  double(tf.ones([3, 2]))
  double(tf.ones([3, 2]))
  assert calls == [True, True]  # traced once for XLA
