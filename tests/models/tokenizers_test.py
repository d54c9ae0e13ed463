import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from vatt import seeds
from vatt.models import tokenizers


def numpy_patches(signal, patch):
  """One patch after another, one value after another."""
  batch, *shape, channels = signal.shape
  grid = [-(-size // p) for size, p in zip(shape, patch)]
  result = []
  for b in range(batch):
    rows = []
    for cell in np.ndindex(*grid):
      row = []
      for inside in np.ndindex(*patch):
        at = tuple(c * p + i for c, p, i in zip(cell, patch, inside))
        there = all(a < size for a, size in zip(at, shape))
        for c in range(channels):
          row.append(signal[(b, *at, c)] if there else 0.0)
      rows.append(row)
    result.append(rows)
  return np.array(result, signal.dtype)


@pytest.mark.parametrize("shape, patch, channels", [
    ((24,), (4,), 1),  # waveform
    ((26,), (4,), 1),
    ((6, 8), (3, 4), 1),  # spectrogram
    ((7, 9), (3, 4), 1),
    ((4, 6, 8), (2, 3, 4), 3),  # video
    ((5, 7, 9), (2, 3, 4), 3),
    ((3, 4, 5), (3, 4, 5), 2),  # one patch
    ((2, 3, 2), (1, 1, 1), 3),  # a patch a pixel
])
def test_patches_and_their_order(shape, patch, channels):
  rng = np.random.default_rng(0)
  signal = rng.normal(size=(2, *shape, channels)).astype(np.float32)
  patches = tokenizers.patchify(tf.constant(signal), patch)
  np.testing.assert_array_equal(patches, numpy_patches(signal, patch))
  # Of an unknown batch size too, as in an exported function.
  function = tf.function(
      lambda s: tokenizers.patchify(s, patch),
      input_signature=[tf.TensorSpec([None, *shape, channels])])
  np.testing.assert_array_equal(function(signal), patches)


@pytest.mark.parametrize("shape, patch, grid, last", [
    # SPEC section 1: 32 frames by 5, 200 pixels by 16, 150 frames by 16.
    ((32, 16, 16), (5, 16, 16), (7, 1, 1), (2, 16, 16)),
    ((4, 200, 200), (4, 16, 16), (1, 13, 13), (4, 8, 8)),
    ((150, 80), (16, 5), (10, 16), (6, 5)),
])
def test_padding_to_the_ceiling(shape, patch, grid, last):
  assert tokenizers.grid_of(shape, patch) == grid
  signal = np.ones((1, *shape, 1), np.float32)
  patches = tokenizers.patchify(tf.constant(signal), patch).numpy()
  assert patches.shape == (1, math.prod(grid), math.prod(patch))
  # The last patch holds ones up to the end of the signal, then zeros.
  corner = patches[0, -1].reshape(patch)
  expected = np.zeros(patch)
  expected[tuple(slice(size) for size in last)] = 1
  np.testing.assert_array_equal(corner, expected)
  assert patches.sum() == math.prod(shape)


@pytest.mark.parametrize("shape, patch, grid", [
    ((32, 224, 224), (4, 16, 16), (8, 14, 14)),  # the paper's default
    ((32, 224, 224), (5, 16, 16), (7, 14, 14)),  # Tables 9 and 10
    ((32, 224, 224), (8, 16, 16), (4, 14, 14)),
    ((32, 224, 224), (8, 32, 32), (4, 7, 7)),
    ((32, 200, 200), (5, 16, 16), (7, 13, 13)),
    ((64, 224, 224), (5, 16, 16), (13, 14, 14)),
    ((32, 320, 320), (4, 16, 16), (8, 20, 20)),
    ((153_600,), (128,), (1200,)),  # Table 11
    ((153_600,), (256,), (600,)),
    ((153_600,), (512,), (300,)),
    ((153_600,), (1024,), (150,)),
    ((151, 80), (16, 5), (10, 16)),  # Table 12
])
def test_grid_of_each_ablation(shape, patch, grid):
  assert tokenizers.grid_of(shape, patch) == grid
  axes = ("temporal", "vertical", "horizontal")[:len(shape)]
  tokenizer = tokenizers.PatchTokenizer(shape, patch, 2, axes, "video")
  tables = tokenizer.position.tables.values()
  assert [table.shape[0] for table in tables] == list(grid)
  channels = 3 if len(shape) == 3 else 1
  tokens = tokenizer(tf.zeros([1, *shape, channels]))
  assert tokens.shape == (1, 1 + math.prod(grid), 2)
  kernel = tokenizer.projection.kernel
  assert kernel.shape == (math.prod(patch) * channels, 2)


def tokens_by_hand(tokenizer, signal):
  """x W + b + the rows of the position tables, token by token."""
  patches = numpy_patches(signal, tokenizer.patch)
  kernel, bias = (w.numpy() for w in tokenizer.projection.weights)
  tables = [table.numpy() for table in tokenizer.position.tables.values()]
  tokens = np.zeros((*patches.shape[:2], kernel.shape[1]))
  for b, n in np.ndindex(*patches.shape[:2]):
    tokens[b, n] = patches[b, n] @ kernel + bias
    for table, i in zip(tables, np.unravel_index(n, tokenizer.position.sizes)):
      tokens[b, n] += table[i]
  return tokens


def make_tokenizer(shape, patch, width=6):
  axes = ("temporal", "vertical", "horizontal")[:len(shape)]
  tokenizer = tokenizers.PatchTokenizer(shape, patch, width, axes, "video")
  tokenizer(tf.zeros([1, *shape, 3]))
  rng = np.random.default_rng(1)
  for variable in tokenizer.variables:
    variable.assign(rng.normal(size=variable.shape))
  return tokenizer


@pytest.mark.parametrize("shape, patch", [
    ((11,), (4,)), ((5, 6), (2, 3)), ((4, 5, 6), (2, 2, 3))])
def test_tokens_positions_and_agg(shape, patch):
  tf.keras.mixed_precision.set_global_policy("float64")
  tokenizer = make_tokenizer(shape, patch)
  signal = np.random.default_rng(2).normal(size=(2, *shape, 3))
  tokens = tokenizer(signal).numpy()
  np.testing.assert_allclose(
      tokens[:, 1:], tokens_by_hand(tokenizer, signal), rtol=1e-12)
  # AGG comes first and has no position.
  np.testing.assert_array_equal(tokens[:, 0], [tokenizer.agg.numpy()] * 2)


def test_dropping_before_projecting_equals_dropping_after():
  shape, patch = (8, 12, 12), (2, 4, 4)
  tokenizer = make_tokenizer(shape, patch)
  rng = np.random.default_rng(3)
  signal = rng.uniform(-1, 1, size=(4, *shape, 3)).astype(np.float32)
  kept = tokenizers.draw_kept_tokens(
      4, tokenizer.num_tokens, 0.5, seeds.root(0))
  before = tokenizer(signal, kept).numpy()
  everything = tokenizer(signal).numpy()
  assert before.shape == (4, 1 + 18, 6) and everything.shape == (4, 37, 6)
  np.testing.assert_allclose(
      before[:, 1:], tf.gather(everything[:, 1:], kept, batch_dims=1),
      atol=1e-6 * np.abs(everything).max())
  # The positions are those of the tokens that stay: by hand, one by one.
  by_hand = tokens_by_hand(tokenizer, signal)
  for b in range(4):
    for n, token in enumerate(kept[b].numpy()):
      np.testing.assert_allclose(
          before[b, 1 + n], by_hand[b, token], rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(before[:, 0], everything[:, 0])


@pytest.mark.parametrize("tokens, rate, kept", [
    (1568, 0.75, 392), (1568, 0.5, 784), (1568, 0.25, 1176), (1568, 0.0, 1568),
    (1200, 0.5, 600), (1200, 0.9, 120), (160, 0.5, 80), (196, 0.75, 49),
    (10, 0.33, 7), (3, 0.9, 1), (2, 0.99, 1), (1, 0.5, 1)])
def test_number_of_kept_tokens(tokens, rate, kept):
  assert tokenizers.num_kept(tokens, rate) == kept
  drawn = tokenizers.draw_kept_tokens(5, tokens, rate, seeds.root(0))
  if kept == tokens:
    assert drawn is None
    return
  assert drawn.shape == (5, kept) and drawn.dtype == tf.int32
  for row in drawn.numpy():
    assert len(set(row)) == kept  # nothing twice
    assert 0 <= row.min() and row.max() < tokens


@pytest.mark.parametrize("tokens, rate, kept", [
    (8, 0.5, 4), (6, 2 / 3, 2), (7, 0.14, 6)])
def test_every_subset_is_equally_likely(tokens, rate, kept):
  """Chi-square over all subsets: so single tokens and pairs are uniform too."""
  subsets = {s: i for i, s in enumerate(
      itertools.combinations(range(tokens), kept))}
  draws = [tokenizers.draw_kept_tokens(
      400, tokens, rate, seeds.fold(seeds.root(5), step)).numpy()
      for step in range(20)]
  rows = np.sort(np.concatenate(draws), axis=1)
  counts = np.bincount([subsets[tuple(row)] for row in rows],
                       minlength=len(subsets))
  assert stats.chisquare(counts).pvalue > 1e-3
  # Two samples of a batch, or one sample in two steps, share a subset as
  # seldom as chance has it.
  sets = np.array([subsets[tuple(row)] for row in rows]).reshape(20, 400)
  for same in ((sets[:, 1:] == sets[:, :-1]), (sets[1:] == sets[:-1])):
    chance = 1 / len(subsets)
    spread = math.sqrt(chance * (1 - chance) / same.size)
    assert abs(same.mean() - chance) < 4 * spread


@pytest.mark.parametrize("tokens, rate", [(196, 0.5), (196, 0.75), (150, 0.25)])
def test_single_tokens_and_pairs_are_uniform(tokens, rate):
  """As many tokens as a spectrogram or a video frame has."""
  rows = 6_000
  kept = tokenizers.draw_kept_tokens(rows, tokens, rate, seeds.root(9)).numpy()
  k = kept.shape[1]
  member = np.zeros((rows, tokens), np.float32)
  np.put_along_axis(member, kept, 1, axis=1)
  assert (member.sum(axis=1) == k).all()
  # Drawn without replacement, the counts of tokens have the variance
  # rows·p·(1 - p) and the correlation -1/(N - 1).
  p = k / tokens
  deviation = (member.sum(axis=0) - rows * p) ** 2 / (rows * p * (1 - p))
  statistic = deviation.sum() * (tokens - 1) / tokens
  assert 1e-3 < stats.chi2.sf(statistic, tokens - 1) < 1 - 1e-3
  pairs = (member.T @ member)[np.triu_indices(tokens, 1)]
  q = p * (k - 1) / (tokens - 1)
  scores = (pairs - rows * q) / math.sqrt(rows * q * (1 - q))
  assert abs(scores.mean()) < 1e-3  # exact: every row has k(k - 1)/2 pairs
  # The counts of two tokens make a share of a pair's, and deviate as 149 and
  # more of them do, the rest as all pairs do.
  share = 2 * p ** 3 * (1 - p) / (q * (1 - q))
  spread = math.sqrt(share ** 2 / (2 * (tokens - 1))
                     + (1 - share) ** 2 / (2 * len(pairs)))
  assert abs(scores.std() - 1) < 4 * spread
  assert np.abs(scores).max() < stats.norm.isf(1e-3 / len(scores))


def test_kept_tokens_do_not_depend_on_the_replicas():
  def kept_on(replicas):
    strategy = tf.distribute.MirroredStrategy(
        [f"/cpu:{i}" for i in range(replicas)])

    @tf.function
    def draw():
      return strategy.run(lambda: tokenizers.draw_kept_tokens(
          8 // replicas, 20, 0.5, seeds.root(2)))
    return np.concatenate([
        part.numpy() for part in strategy.experimental_local_results(draw())])

  alone = tokenizers.draw_kept_tokens(8, 20, 0.5, seeds.root(2)).numpy()
  assert len({tuple(sorted(row)) for row in alone}) == 8
  for replicas in (1, 2, 4):
    np.testing.assert_array_equal(kept_on(replicas), alone)
  np.testing.assert_array_equal(
      tokenizers.draw_kept_tokens(3, 20, 0.5, seeds.root(2)), alone[:3])


@pytest.mark.parametrize("positions", [False, True])
def test_text_tokens(positions):
  tf.keras.mixed_precision.set_global_policy("float64")
  tokenizer = tokenizers.TextTokenizer(11, 6, 4, positions, name="text")
  ids = np.array([[3, 10, 1, 0], [2, 2, 0, 0]], np.int32)
  tokens = tokenizer(ids).numpy()
  assert tokens.shape == (2, 5, 6)
  for b, w in np.ndindex(2, 4):
    expected = tokenizer.embedding.numpy()[ids[b, w]]
    if positions:
      expected = expected + tokenizer.position.tables["temporal"].numpy()[w]
    np.testing.assert_allclose(tokens[b, 1 + w], expected, rtol=1e-12)
  np.testing.assert_array_equal(tokens[:, 0], [tokenizer.agg.numpy()] * 2)
  assert len(tokenizer.trainable_variables) == 2 + positions


@pytest.mark.parametrize("jit", [False, True])
def test_tables_get_their_gradients_in_full_precision(jit):
  """A frequent word's or position's gradient sums thousands of terms, of which
  bfloat16 would lose most: 256 + 1 is 256 there."""
  tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
  rows = 2_048
  text = tokenizers.TextTokenizer(5, 2, 3, positions=False, name="text")
  grid = tokenizers.PatchTokenizer((8,), (2,), 2, ("temporal",), "audio")
  grid(tf.zeros([1, 8, 1]))
  kept = tf.tile([[0, 2, 3]], [rows, 1])
  ids = tf.tile([[1, 1, 4]], [rows, 1])

  @tf.function(jit_compile=jit)
  def gradients():
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(tf.cast(text(ids), tf.float32)) + tf.reduce_sum(
          tf.cast(grid(tf.zeros([rows, 8, 1]), kept), tf.float32))
    return [tf.convert_to_tensor(g) for g in tape.gradient(
        loss, [text.embedding, grid.position.tables["temporal"]])]

  words, positions = gradients()
  assert words.dtype == positions.dtype == tf.float32
  np.testing.assert_array_equal(
      words[:, 0], [0, 2 * rows, 0, 0, rows])
  np.testing.assert_array_equal(positions[:, 0], [rows, 0, rows, rows])
