import math
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.compiler.xla.service import hlo_pb2

from vatt import seeds, xla
from vatt.models import kernels
from vatt.models.encoder import Encoder

EPSILON = 1e-6

# ---- The formulas, worked out in NumPy --------------------------------------


def dropped_by_hand(x, random_bits, rate):
  if not rate:
    return x
  keep = kernels.is_kept(random_bits, x.shape[-1], rate).numpy()
  return np.where(keep, x / (1 - rate), 0)


def norm_by_hand(x, scale, offset):
  centre = x.mean(-1, keepdims=True) if offset is not None else 0
  square = ((x - centre) ** 2).mean(-1, keepdims=True)
  y = (x - centre) / np.sqrt(square + EPSILON) * scale
  return y if offset is None else y + offset


def gelu_by_hand(x):
  return x * np.vectorize(lambda v: 0.5 * (1 + math.erf(v / math.sqrt(2))))(x)


def attention_by_hand(qkv, bias, mask, random_bits, shape, scale, rate):
  batch, length, heads = shape
  # [B·N, 3·H·d] -> [3, B, H, N, d]
  query, key, value = qkv.reshape(
      batch, length, 3, heads, -1).transpose(2, 0, 3, 1, 4)
  weights = np.zeros((batch, heads, length, length))
  for b, h, i in np.ndindex(batch, heads, length):
    scores = scale * key[b, h] @ query[b, h, i]
    if bias is not None:
      scores = scores + bias[0, h, i]
    there = np.ones(length, bool) if mask is None else mask[b].numpy()
    weights[b, h, i, there] = np.exp(scores[there]) / np.exp(
        scores[there]).sum()
  weights = dropped_by_hand(weights, random_bits, rate)
  mixed = np.einsum("bhqk,bhkd->bqhd", weights, value)
  return mixed.reshape(batch * length, -1)


def both(name, *args):
  """A kernel, and its formula for autodiff, of float64 arguments."""
  args = [tf.constant(x) if isinstance(x, np.ndarray) else x for x in args]
  return (getattr(kernels, name)(*args),
          getattr(kernels, f"plain_{name}")(*args))


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_worked_by_hand(rate, masked):
  rng = np.random.default_rng(1)
  shape, scale = (2, 5, 3), 0.4
  qkv = rng.normal(size=(10, 3 * 3 * 2))
  bias = rng.normal(size=(1, 3, 5, 5)) if masked else None
  mask = tf.sequence_mask([5, 2], 5) if masked else None
  random_bits = kernels.draw_bits([2, 3, 5, 5], seeds.root(1))
  expected = attention_by_hand(
      qkv, bias, mask, random_bits, shape, scale, rate)
  for y in both("attention", qkv, bias, mask, random_bits, shape, scale, rate,
                tf.float64):
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("full", [False, True])
def test_the_others_worked_by_hand(full):
  """With an offset, a bias and dropout, and without."""
  rng = np.random.default_rng(1)
  x, kernel = rng.normal(size=(6, 5)) * 2 + 1, rng.normal(size=(5, 4))
  scale, offset, bias = (rng.normal(size=n) for n in (5, 5, 4))
  rate, shift = (0.3, bias) if full else (0.0, 0)
  if not full:
    offset = bias = None
  random_bits = kernels.draw_bits([6, 5], seeds.root(1))
  norm = norm_by_hand(x, scale, offset)
  gelu = dropped_by_hand(gelu_by_hand(x), random_bits, rate)
  dropped = dropped_by_hand(x, random_bits, 0.3)
  for name, args, expected in (
      ("norm", (x, scale, offset, EPSILON), norm),
      ("norm_linear", (x, scale, offset, kernel, bias, EPSILON),
       norm @ kernel + shift),
      ("gelu_linear", (x, kernel, bias, random_bits, rate),
       gelu @ kernel + shift),
      ("linear", (x, kernel, bias), x @ kernel + shift),
      ("dropout", (x, random_bits, 0.3), dropped),
      ("add_dropped", (2 * x, x, random_bits, 0.3), 2 * x + dropped)):
    for y in both(name, *args):
      np.testing.assert_allclose(
          y, expected, rtol=1e-12, atol=1e-12, err_msg=name)


# ---- The gradients, beside TensorFlow's own of the formulas ------------------


def compare(ours, plain, inputs, dtype, is_compiled, tolerance):
  """Values and gradients, of a random weighting of the outputs."""
  inputs = [tf.constant(x, dtype) for x in inputs]

  def run(function):
    @tf.function(autograph=False)
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
  random_bits = kernels.draw_bits([2, 3, 7, 7], seeds.root(1)) if rate else None
  inputs, mask = [rng.normal(size=(14, 45))], None
  if with_bias:
    inputs.append(rng.normal(size=(1, 3, 7, 7)))
    mask = tf.constant([[True] * 7, [True] * 4 + [False] * 3])

  def of(function):
    return lambda qkv, bias=None: function(
        qkv, bias, mask, random_bits, (2, 7, 3), 0.4, rate, dtype)

  compare(of(kernels.attention), of(kernels.plain_attention), inputs, dtype,
          size == 0, tolerance)


@CASES
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("with_bias", [False, True])
def test_gelu_linear(dtype, size, tolerance, rate, with_bias, monkeypatch):
  monkeypatch.setattr(xla, "COMPILED_SIZE", size)
  rng = np.random.default_rng(0)
  random_bits = kernels.draw_bits([6, 5], seeds.root(1)) if rate else None
  inputs = [rng.normal(size=shape) * 2
            for shape in [(6, 5), (5, 4), (4,)][:2 + with_bias]]

  def of(function):
    return lambda x, kernel, bias=None: function(
        x, kernel, bias, random_bits, rate)

  compare(of(kernels.gelu_linear), of(kernels.plain_gelu_linear), inputs,
          dtype, size == 0, tolerance)


@CASES
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_norm_linear(dtype, size, tolerance, centred, with_bias, monkeypatch):
  monkeypatch.setattr(xla, "COMPILED_SIZE", size)
  rng = np.random.default_rng(0)
  inputs = [rng.normal(size=(6, 5)) * 3 + 1, rng.normal(size=5),
            *(rng.normal(size=5) for _ in range(centred)),
            rng.normal(size=(5, 4)), *(rng.normal(size=4)
                                       for _ in range(with_bias))]

  def of(function):
    def run(x, scale, *others):
      others = list(others)
      offset = others.pop(0) if centred else None
      kernel, bias = (*others, None)[:2]
      return function(x, scale, offset, kernel, bias, EPSILON)
    return run

  compare(of(kernels.norm_linear), of(kernels.plain_norm_linear), inputs,
          dtype, size == 0, tolerance)


@pytest.mark.parametrize("with_bias", [False, True])
def test_linear(with_bias):
  rng = np.random.default_rng(0)
  inputs = [rng.normal(size=shape)
            for shape in [(6, 5), (5, 4), (4,)][:2 + with_bias]]

  def of(function):
    return lambda x, kernel, bias=None: function(x, kernel, bias)

  compare(of(kernels.linear), of(kernels.plain_linear), inputs, tf.float64,
          False, 1e-10)


@CASES
@pytest.mark.parametrize("centred", [False, True])
def test_norm(dtype, size, tolerance, centred, monkeypatch):
  monkeypatch.setattr(xla, "COMPILED_SIZE", size)
  rng = np.random.default_rng(0)
  inputs = [rng.normal(size=(6, 5)) * 3 + 1, rng.normal(size=5),
            rng.normal(size=5)][:2 + centred]

  def of(function):
    return lambda x, scale, offset=None: function(x, scale, offset, EPSILON)

  compare(of(kernels.norm), of(kernels.plain_norm), inputs, dtype, size == 0,
          tolerance)


@CASES
def test_dropout(dtype, size, tolerance, monkeypatch):
  monkeypatch.setattr(xla, "COMPILED_SIZE", size)
  rng = np.random.default_rng(0)
  random_bits = kernels.draw_bits([6, 5], seeds.root(1))
  inputs = [rng.normal(size=(6, 5)) for _ in range(2)]

  def of(add_dropped, dropout):
    return lambda z, x: (
        add_dropped(z, x, random_bits, 0.3) + dropout(z, random_bits, 0.4))

  compare(of(kernels.add_dropped, kernels.dropout),
          of(kernels.plain_add_dropped, kernels.plain_dropout), inputs, dtype,
          size == 0, tolerance)


def test_gradients_of_what_has_one_alone():
  """Variables are read; constants, masks and None are handed on."""
  @kernels.with_gradient
  def scaled(x, nothing, integers, factor, y):
    assert nothing is None and tf.is_tensor(integers) and factor == 3
    return factor * x * y, lambda d: (d * 3 * y, None, None, None, d * 3 * x)

  x, y = tf.Variable(2.0), tf.constant(5.0)

  def run():
    with tf.GradientTape() as tape:
      tape.watch(y)
      z = scaled(x, None, tf.constant([1, 2]), 3, y)
    return [z, *tape.gradient(z, [x, y])]

  for function in (run, tf.function(run, autograph=False)):
    assert [v.numpy() for v in function()] == [30.0, 15.0, 6.0]


# ---- Masks -----------------------------------------------------------------


def test_masks_are_as_random_as_they_should_be():
  """Pairs of values are independent in a row, in a column, between seeds: of
  each kind, the share of pairs that are both dropped is the rate squared,
  within four deviations of as many independent pairs."""
  rate, shape = 0.1, [400, 1500]
  kept = [kernels.is_kept(kernels.draw_bits(shape, seeds.root(i)), 1500, rate)
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
  random_bits = kernels.draw_bits([3, 5], seeds.root(4))
  kept = kernels.is_kept(random_bits, 5, 0.4).numpy()
  for row, column in np.ndindex(3, 5):
    x = (int(random_bits[0, row, 0]) + column * 0x9E3779B9) % 2 ** 32
    x = (x ^ x >> 16) * 0x7FEB352D % 2 ** 32
    x ^= int(random_bits[1, row, 0])
    x = (x ^ x >> 15) * 0x846CA68B % 2 ** 32
    x ^= x >> 16
    assert kept[row, column] == (x >= 0.4 * 2 ** 32)


def test_masks_are_the_same_compiled():
  random_bits = kernels.draw_bits([64, 3000], seeds.root(1))
  plain = kernels.dropout(tf.ones([64, 100]), random_bits, 0.25)
  fast = kernels.dropout(tf.ones([64, 3000]), random_bits, 0.25)
  np.testing.assert_array_equal(plain, fast[:, :100])


def test_padding_changes_no_mask():
  """Of attention over five tokens, and over eight of which three are padding:
  the random bits are those of five."""
  shape, rng = [2, 3, 5, 5], np.random.default_rng(0)
  qkv = rng.normal(size=(2, 5, 18))
  random_bits = kernels.draw_bits(shape, seeds.root(1))

  def attend(qkv, random_bits, length):
    mixed = kernels.attention(
        tf.reshape(qkv, [2 * length, 18]), None,
        tf.sequence_mask([5, 5], length), random_bits, (2, length, 3), 0.4,
        0.3, tf.float64)
    return tf.reshape(mixed, [2, length, 6])[:, :5]

  padded = attend(
      np.pad(qkv, [[0, 0], [0, 3], [0, 0]]),
      tf.pad(random_bits, [[0, 0], [0, 0], [0, 0], [0, 3], [0, 0]]), 8)
  np.testing.assert_allclose(
      padded, attend(qkv, random_bits, 5), rtol=1e-12, atol=1e-12)


# ---- Order -----------------------------------------------------------------


def test_in_turn_keeps_values_and_orders_backward_passes():
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

  @tf.function(autograph=False)
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
  program = tf.function(function, jit_compile=True, autograph=False)
  module = hlo_pb2.HloModuleProto.FromString(
      program.experimental_get_compiler_ir()(stage="hlo_serialized"))
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
  """They are recomputed where XLA compiles the whole step, too, as long as it
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
  # Forward, in attention's gradient, and in a block's before it.
  times = 3 if remat else 2
  assert distinct(run, "exponential", maps) == times * depth
  assert distinct(run, "compare", maps) == times * depth
  rows = batch * length
  assert distinct(run, "compare", [rows, 16]) == times * depth  # of GELU
  # Two residuals a block; that of tokens has no gradient, as they are given.
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
  random_bits = kernels.draw_bits([4, 6], seeds.root(1))
  x = tf.reshape(tf.range(24.0), [4, 6])

  def replica():
    return kernels.dropout(x, random_bits, 0.5)

  @tf.function(autograph=False)
  def run():
    return strategy.run(replica)

  expected = dropped_by_hand(x, random_bits, 0.5)
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
