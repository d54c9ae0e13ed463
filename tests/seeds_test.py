import itertools

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from vatt import seeds


def mirrored(replicas):
  return tf.distribute.MirroredStrategy(
      [f"/cpu:{i}" for i in range(replicas)])


def test_roots_of_different_integers_differ():
  integers = [0, 1, 2, -1, 2 ** 31 - 1, 2 ** 31, 2 ** 31 + 1, 2 ** 40, 7 << 31]
  roots = {tuple(seeds.root(i).numpy()) for i in integers}
  assert len(roots) == len(integers)
  assert min(min(root) for root in roots) >= 0
  assert seeds.root(5).dtype == tf.int32 and seeds.root(5).shape == [2]


def test_folds_of_different_arguments_differ():
  root = seeds.root(0)
  arguments = [
      (), (0,), (1,), (2 ** 31,), (2 ** 31 + 1,), (2 ** 40,), (-1,),
      ("flip",), ("crop",), ("flip", 0), (0, "flip"), ("flip", "crop"),
      ("crop", "flip"), (0, 1), (1, 0)]
  folds = {tuple(seeds.fold(root, *a).numpy()) for a in arguments}
  assert len(folds) == len(arguments)
  assert not folds & {
      tuple(seeds.fold(seeds.root(1), *a).numpy()) for a in arguments}


def test_folds_are_not_negative():
  for step in range(50):
    assert min(seeds.fold(seeds.root(0), "site", step, "flip").numpy()) >= 0
    assert min(seeds.fold(seeds.root(0), tf.constant(-step)).numpy()) >= 0


def test_fold_is_the_same_however_it_is_run():
  def fold(step):
    return seeds.fold(seeds.root(3), "flip", step, "crop")

  step = 2 ** 33 + 12_345
  expected = fold(step).numpy()  # of a Python integer, eagerly
  tensor = tf.constant(step, tf.int64)
  results = [fold(tensor), fold(tf.Variable(tensor)), tf.function(fold)(tensor),
             tf.function(fold, jit_compile=True)(tensor)]
  dataset = tf.data.Dataset.from_tensors(tensor)
  results += list(dataset.map(fold)) + list(
      dataset.map(fold, num_parallel_calls=4))
  for result in results:
    np.testing.assert_array_equal(result, expected)
  # Keras keeps the step in a variable of the strategy.
  strategy = mirrored(2)
  with strategy.scope():
    variable = tf.Variable(step, dtype=tf.int64, trainable=False)
  in_replicas = strategy.run(tf.function(lambda: fold(variable)))
  for result in strategy.experimental_local_results(in_replicas):
    np.testing.assert_array_equal(result, expected)


def test_a_fold_is_that_of_tensorflow():
  seed = seeds.fold(seeds.root(2 ** 40 + 3), "site")
  for part in (0, 5, 2 ** 31 - 1):
    expected = tf.random.experimental.stateless_fold_in(
        seed, tf.constant(part, tf.int32), "philox")
    np.testing.assert_array_equal(
        seeds.fold(seed, tf.constant(part, tf.int32)),
        tf.bitwise.bitwise_and(expected, 0x7FFFFFFF))


def test_folds_of_successive_steps_are_unrelated():
  def draw(step):
    return tf.random.stateless_uniform([4], seeds.fold(seeds.root(0), step))

  @tf.function
  def draw_all():
    return tf.map_fn(draw, tf.range(2_000, dtype=tf.int64),
                     fn_output_signature=tf.float32)

  draws = draw_all().numpy()
  # Uniform over steps, and no step tells anything of the next one.
  for column in draws.T:
    assert stats.kstest(column, "uniform").pvalue > 1e-3
  columns = [draws[:-1, 0], draws[1:, 0], draws[:-1, 1], draws[1:, 3]]
  for a, b in itertools.combinations(columns, 2):
    assert abs(stats.pearsonr(a, b)[0]) < 4 / np.sqrt(len(a))


# ---- Draws -----------------------------------------------------------------


DRAWS = {"bits": seeds.bits_rows, "uniform": seeds.uniform_rows,
         "normal": seeds.normal_rows}


def philox(key, counter):
  """Philox4x32 of ten rounds in Python's integers (Salmon et al., 2011, section
  3.3): four numbers."""
  x = [counter >> 32 * i & 0xFFFFFFFF for i in range(4)]
  k = [key & 0xFFFFFFFF, key >> 32]
  for _ in range(10):
    a, b = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
    x = [b >> 32 ^ x[1] ^ k[0], b & 0xFFFFFFFF,
         a >> 32 ^ x[3] ^ k[1], a & 0xFFFFFFFF]
    k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
  return x


@pytest.mark.parametrize("size", [1, 4, 10])
def test_bits_of_a_row_are_those_of_its_blocks(size):
  """However the draw is run."""
  seed = seeds.fold(seeds.root(2), "site")
  low, high = (int(half) for half in seed.numpy())
  blocks = -(-size // 4)
  expected = [sum((philox(low + (high << 32), row * blocks + i)
                   for i in range(blocks)), [])[:size] for row in (7, 8, 9)]
  draw = lambda first: seeds.bits_rows(3, [size], seed, first)
  first = tf.constant(7)
  dataset = tf.data.Dataset.from_tensors(first).map(draw)
  for got in (draw(7), draw(first), next(iter(dataset)),
              tf.function(draw, autograph=False)(first),
              tf.function(draw, jit_compile=True, autograph=False)(first)):
    assert got.dtype == tf.uint32
    np.testing.assert_array_equal(got, expected)


def test_rows_far_behind_others():
  """Where the counter has more than 32 bits: a row of so many blocks is as many
  rows of one."""
  first = tf.constant(2 ** 31, tf.int64)
  long = seeds.bits_rows(1, [4 * 512], seeds.root(0), first)
  short = seeds.bits_rows(512, [4], seeds.root(0), first * 512)
  np.testing.assert_array_equal(long[0], tf.reshape(short, [-1]))
  near = seeds.bits_rows(1, [4 * 512], seeds.root(0), first_row=0)
  assert (long != near).numpy().mean() > 0.99


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("shape", [[], [3], [2, 5]])
def test_rows_do_not_depend_on_the_replicas_or_the_batch(name, shape):
  seed, draw_rows = seeds.root(11), DRAWS[name]

  def rows_on(replicas):
    strategy = mirrored(replicas)

    @tf.function(autograph=False)
    def draw():
      return strategy.run(lambda: draw_rows(8 // replicas, shape, seed))
    return np.concatenate([
        part.numpy() for part in strategy.experimental_local_results(draw())])

  alone = draw_rows(8, shape, seed).numpy()
  assert alone.shape == (8, *shape)
  assert len(np.unique(alone)) == alone.size  # no row is another's copy
  for replicas in (1, 2, 4):
    np.testing.assert_array_equal(rows_on(replicas), alone)
  np.testing.assert_array_equal(draw_rows(3, shape, seed), alone[:3])
  np.testing.assert_array_equal(draw_rows(3, shape, seed, 4), alone[4:7])


def test_uniform_rows_are_uniform_and_the_same_when_compiled():
  def draw():
    return seeds.uniform_rows(64, [100], seeds.fold(seeds.root(0), "site"))

  compiled = tf.function(draw, jit_compile=True, autograph=False)()
  draw = draw().numpy()
  np.testing.assert_array_equal(compiled, draw)
  assert draw.dtype == np.float32 and draw.min() >= 0 and draw.max() < 1
  np.testing.assert_array_equal(draw, np.round(draw * 2 ** 24) / 2 ** 24)
  assert stats.kstest(draw.ravel(), "uniform").pvalue > 1e-3


def normal_by_hand(bits):
  """float64, of Box and Muller's formula."""
  length, direction = np.split(bits.astype(np.float64), 2, axis=1)
  # As float32 rounds it: near 1 its logarithm depends on that.
  u = (np.float32(length) + np.float32(0.5)) * 2.0 ** -32
  quarter, rest = np.divmod(direction, 2.0 ** 30)
  angle = (rest / 2 ** 30 - 0.5) * np.pi / 2
  sine, cosine = np.sin(angle), np.cos(angle)
  radius = np.sqrt(-2 * np.log(u)) * np.where(quarter % 2, -1, 1)
  upright = quarter >= 2
  return np.concatenate([radius * np.where(upright, sine, cosine),
                         radius * np.where(upright, cosine, sine)], axis=1)


def test_normal_rows_by_hand_plain_and_compiled():
  def draw():
    return seeds.normal_rows(30, [1001], seeds.root(5))

  expected = normal_by_hand(
      seeds.bits_rows(30, [1002], seeds.root(5)).numpy())[:, :1001]
  plain = draw().numpy()
  compiled = tf.function(draw, jit_compile=True, autograph=False)().numpy()
  assert plain.dtype == np.float32
  np.testing.assert_allclose(plain, expected, atol=2e-6)
  np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-6)
  # The ends of what 32 bits can say.
  ends = np.uint32(list(itertools.product(
      [0, 1, 2 ** 31, 2 ** 32 - 1], [0, 2 ** 30 - 1, 2 ** 30, 2 ** 32 - 1])))
  np.testing.assert_allclose(
      seeds._box_muller(tf.constant(ends)), normal_by_hand(ends), atol=2e-6)


def test_normal_rows_are_normal_and_independent():
  rows, size = 400, 2000
  steps = [seeds.normal_rows(rows, [size], seeds.fold(seeds.root(1), step))
           .numpy() for step in range(2)]
  first = steps[0]
  assert stats.kstest(first.ravel(), "norm").pvalue > 1e-3
  n = first.size
  for moment, expected, deviation in (
      (1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
    found = (first.astype(np.float64) ** moment).mean()
    assert abs(found - expected) < 4 * np.sqrt(deviation / n)
  for bound in (2, 3, 4, 4.5):  # in both tails
    for tail in (first, -first):
      count = stats.binomtest(
          int((tail > bound).sum()), n, stats.norm.sf(bound))
      assert count.pvalue > 1e-3
  # Of a pair's two numbers, of rows, of steps; also of their squares.
  half = size // 2
  pairs = [(first[:, :half], first[:, half:]), (first[1:], first[:-1]),
           (first[:, 1:], first[:, :-1]), (first, steps[1])]
  for a, b in pairs:
    for power in (1, 2):
      found = stats.pearsonr(a.ravel() ** power, b.ravel() ** power)[0]
      assert abs(found) < 4 / np.sqrt(a.size)
