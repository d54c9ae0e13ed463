import math

import numpy as np
import pytest
import tensorflow as tf

from vatt import seeds
from vatt.models import encoder as encoder_lib
from vatt.models.encoder import Encoder, LayerNorm, dropout, relative_buckets

# ---- The encoder written a second time: float64, row by row, by SPEC 3 -----


def norm_by_hand(x, layer, epsilon=1e-6):
  result = np.zeros_like(x)
  for at in np.ndindex(*x.shape[:-1]):
    row = x[at]
    mean = sum(row) / len(row)
    variance = sum((v - mean) ** 2 for v in row) / len(row)
    result[at] = (row - mean) / math.sqrt(variance + epsilon)
  return result * layer.scale.numpy() + layer.offset.numpy()


def dense_by_hand(x, layer):
  return x @ layer.kernel.numpy() + layer.bias.numpy()


def gelu_by_hand(x):
  return np.vectorize(lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))))(x)


def softmax_by_hand(scores):
  exponents = np.exp(scores - scores.max())
  return exponents / exponents.sum()


def attention_by_hand(x, layer, mask, bias):
  batch, length, width = x.shape
  heads = layer.num_heads
  dim = width // heads
  qkv = dense_by_hand(x, layer.qkv)
  query, key, value = np.split(qkv, 3, axis=-1)
  maps = np.zeros((batch, heads, length, length))
  mixed = np.zeros((batch, length, width))
  for b, h, i in np.ndindex(batch, heads, length):
    part = slice(h * dim, (h + 1) * dim)
    scores = np.full(length, -np.inf)
    for j in range(length):
      if mask is None or mask[b, j]:
        scores[j] = query[b, i, part] @ key[b, j, part] / math.sqrt(dim)
        if bias is not None:
          scores[j] += bias[h, i, j]
    maps[b, h, i] = softmax_by_hand(scores)
    mixed[b, i, part] = maps[b, h, i] @ value[b, :, part]
  return dense_by_hand(mixed, layer.out), maps


def encoder_by_hand(z, encoder, mask=None, epsilon=1e-6):
  """z' = MHA(LN(z)) + z;  z = MLP(LN(z')) + z';  z_out = LN(z_L)."""
  out = {"blocks": [], "mlps": [], "attention": []}
  for i, block in enumerate(encoder.blocks):
    bias = None
    if i < encoder.biased_blocks:
      table = encoder.relative_bias.table.numpy()
      bias = np.zeros((table.shape[1], z.shape[1], z.shape[1]))
      for h, q, k in np.ndindex(*bias.shape):
        bias[h, q, k] = table[bucket_by_hand(k - q), h]
    mixed, maps = attention_by_hand(
        norm_by_hand(z, block.attention_norm, epsilon), block.attention, mask,
        bias)
    z = mixed + z
    hidden = gelu_by_hand(dense_by_hand(
        norm_by_hand(z, block.mlp_norm, epsilon), block.mlp_in))
    mlp = dense_by_hand(hidden, block.mlp_out)
    z = mlp + z
    for name, value in (("blocks", z), ("mlps", mlp), ("attention", maps)):
      out[name].append(value)
  return norm_by_hand(z, encoder.norm, epsilon), out


def bucket_by_hand(relative, half=16, exact=8, max_distance=64):
  """T5: keys after the query in the upper half; small distances one by one."""
  bucket = half if relative > 0 else 0
  distance = abs(relative)
  if distance < exact:
    return bucket + distance
  steps = math.log(distance / exact) / math.log(max_distance / exact)
  return bucket + min(half - 1, exact + int(steps * (half - exact)))


def make_encoder(relative_bias="", dropout_rate=0.0, depth=3, remat=False,
                 epsilon=None):
  encoder = Encoder(depth=depth, width=8, mlp_dim=20, num_heads=2,
                    dropout_rate=dropout_rate, relative_bias=relative_bias,
                    remat=remat, epsilon=epsilon)
  encoder(tf.zeros([1, 2, 8]))
  rng = np.random.default_rng(0)
  for variable in encoder.variables:
    variable.assign(rng.normal(scale=0.7, size=variable.shape))
  return encoder


@pytest.mark.parametrize("relative_bias", ["", "first", "all"])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_encoder_written_a_second_time(relative_bias, masked):
  tf.keras.mixed_precision.set_global_policy("float64")
  encoder = make_encoder(relative_bias)
  rng = np.random.default_rng(1)
  tokens = rng.normal(size=(3, 12, 8))
  mask = None
  if masked:
    mask = np.ones((3, 12), bool)
    mask[0, 5:] = False
    mask[1, 1:] = False  # AGG alone
  output, out = encoder(
      tokens, mask=None if mask is None else tf.constant(mask),
      return_attention=True)
  expected, expected_out = encoder_by_hand(tokens, encoder, mask)
  # tf.nn.gelu holds √2 in float32: hence 1e-7.
  np.testing.assert_allclose(output, expected, atol=1e-7)
  assert set(out) == {"blocks", "mlps", "attention"}
  for name, values in out.items():
    assert len(values) == 3
    for value, by_hand in zip(values, expected_out[name]):
      np.testing.assert_allclose(value, by_hand, atol=1e-7)


@pytest.mark.parametrize("epsilon", [1e-12, 0.1])
def test_epsilon_is_that_of_all_norms(epsilon):
  tf.keras.mixed_precision.set_global_policy("float64")
  encoder = make_encoder(depth=2, epsilon=epsilon)
  tokens = np.random.default_rng(1).normal(size=(1, 4, 8))
  output, _ = encoder(tokens)
  expected, _ = encoder_by_hand(tokens, encoder, epsilon=epsilon)
  np.testing.assert_allclose(output, expected, atol=1e-7)
  # Of each on its own: none of them could have another.
  for i in range(5):
    norms = [norm for block in encoder.blocks
             for norm in (block.attention_norm, block.mlp_norm)]
    (norms + [encoder.norm])[i].epsilon = 0.01
    changed, _ = encoder(tokens)
    assert np.abs(changed - expected).max() > 1e-4
    (norms + [encoder.norm])[i].epsilon = epsilon


def test_float32_is_close_to_float64():
  encoder = make_encoder(relative_bias="first")
  tokens = np.random.default_rng(1).normal(size=(2, 7, 8))
  output, _ = encoder(tf.constant(tokens, tf.float32))
  expected, _ = encoder_by_hand(tokens, encoder)
  np.testing.assert_allclose(output, expected, atol=1e-5)


def test_attention_maps_only_on_request():
  encoder = make_encoder()
  tokens = tf.random.stateless_normal([2, 5, 8], [0, 0])
  mask = tf.constant([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]) > 0
  _, out = encoder(tokens, mask=mask)
  assert set(out) == {"blocks", "mlps"}
  _, out = encoder(tokens, mask=mask, return_attention=True)
  for maps in out["attention"]:
    assert maps.shape == (2, 2, 5, 5)
    np.testing.assert_allclose(tf.reduce_sum(maps, -1), 1, rtol=1e-6)
    assert not maps.numpy()[0, :, :, 3:].any()  # nobody looks at padding
    np.testing.assert_allclose(maps[1, :, :, 0], 1, rtol=1e-6)


def test_padding_changes_nothing():
  """Neither what stands in padded places nor how many there are."""
  encoder = make_encoder(relative_bias="first")
  rng = np.random.default_rng(2)
  tokens = rng.normal(size=(2, 9, 8)).astype(np.float32)
  mask = np.ones((2, 9), bool)
  mask[:, 4:] = False
  expected, _ = encoder(tokens, mask=tf.constant(mask))
  other = tokens.copy()
  other[:, 4:] = rng.normal(size=(2, 5, 8)) * 50
  output, _ = encoder(other, mask=tf.constant(mask))
  np.testing.assert_array_equal(output[:, :4], expected[:, :4])
  short, _ = encoder(tokens[:, :4], mask=tf.constant(mask[:, :4]))
  np.testing.assert_allclose(short, expected[:, :4], atol=1e-5)
  # Without the mask they would count.
  output, _ = encoder(other)
  assert np.abs(output[:, :4] - expected[:, :4]).max() > 0.1


# ---- Relative position bias ------------------------------------------------


def test_buckets_worked_by_hand():
  buckets = relative_buckets(200)
  # Key minus query -> bucket. 8·8^(n/8) starts the n-th of the growing ones:
  # 8, 10.4, 13.5, 17.4, 22.6, 29.3, 38.1, 49.4.
  for relative, bucket in {
      0: 0, -1: 1, -7: 7, -8: 8, -10: 8, -11: 9, -13: 9, -14: 10, -17: 10,
      -18: 11, -22: 11, -23: 12, -29: 12, -30: 13, -38: 13, -39: 14, -49: 14,
      -50: 15, -63: 15, -64: 15, -199: 15,
      1: 17, 7: 23, 8: 24, 10: 24, 11: 25, 49: 30, 50: 31, 64: 31, 199: 31,
  }.items():
    np.testing.assert_array_equal(
        np.diagonal(buckets, relative), bucket, err_msg=str(relative))
  assert buckets.dtype == np.int32


def test_bias_is_added_in_the_first_block_only():
  encoder = make_encoder(relative_bias="first")
  tokens = tf.random.stateless_normal([1, 6, 8], [0, 1])
  _, with_bias = encoder(tokens, return_attention=True)
  table = encoder.relative_bias.table
  table.assign(tf.zeros_like(table))
  _, without = encoder(tokens, return_attention=True)
  assert np.abs(with_bias["attention"][0] - without["attention"][0]).max() > .01
  # What differs in later blocks comes with their input alone.
  for i in (1, 2):
    for out in (with_bias, without):
      block = encoder.blocks[i]
      z = tf.reshape(out["blocks"][i - 1], [6, 8])
      _, maps = block.attention(
          z, block.attention_norm, (1, 6), return_attention=True)
      np.testing.assert_allclose(maps, out["attention"][i], atol=1e-6)


# ---- Dropout ---------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_rate_and_scale(rate):
  x = tf.ones([200, 500])
  y = dropout(x, rate, seeds.root(1), "site").numpy()
  dropped = (y == 0).mean()
  assert abs(dropped - rate) < 4 * math.sqrt(rate * (1 - rate) / y.size)
  np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)
  again = dropout(x, rate, seeds.root(1), "site")
  np.testing.assert_array_equal(again, y)
  for other in (dropout(x, rate, seeds.root(2), "site"),
                dropout(x, rate, seeds.root(1), "another")):  # independent
    both = ((y == 0) & (other.numpy() == 0)).mean()
    assert abs(both - rate ** 2) < 4 * math.sqrt(rate ** 2 / y.size)
  # A dropped value gets no gradient, a kept one the scale.
  with tf.GradientTape() as tape:
    tape.watch(x)
    y = dropout(x, rate, seeds.root(1), "site")
  np.testing.assert_array_equal(tape.gradient(y, x), y)


def test_no_dropout_returns_its_input():
  x = tf.ones([3])
  assert dropout(x, 0.0, seeds.root(0), "site") is x


def test_dropout_compiles():
  compiled = tf.function(
      lambda x: dropout(x, 0.25, seeds.root(0), "site"), jit_compile=True)
  y = compiled(tf.ones([200, 500])).numpy()
  assert set(np.unique(y)) == {0, np.float32(4 / 3)}
  assert abs((y == 0).mean() - 0.25) < 4 * math.sqrt(3 / 16 / y.size)
  # No size is left open; HLO writes such a one with "<=".
  hlo = compiled.experimental_get_compiler_ir(tf.ones([2, 3]))(stage="hlo")
  assert "f32[2,3]" in hlo and "<=" not in hlo


@pytest.mark.parametrize("shape", [(5,), (3, 7, 5)])
def test_a_sample_has_its_mask_in_any_batch_and_on_any_replica(shape):
  strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])

  def drop(samples):
    return dropout(tf.ones([samples, *shape]), 0.5, seeds.root(0), "site")

  @tf.function(autograph=False)
  def run():
    return strategy.run(lambda: drop(20))

  whole = drop(40).numpy()
  assert len(np.unique(whole, axis=0)) > 20  # of 32 at most, for five values
  np.testing.assert_array_equal(np.concatenate(
      [x.numpy() for x in strategy.experimental_local_results(run())]), whole)
  np.testing.assert_array_equal(drop(3), whole[:3])
  # Rows of a sample may lie one after the other.
  rows = tf.ones([40 * math.prod(shape[:-1]), 5])
  flat = dropout(rows, 0.5, seeds.root(0), "site", samples=40)
  np.testing.assert_array_equal(tf.reshape(flat, whole.shape), whole)


def test_a_text_has_its_masks_among_others():
  """Each value of an encoder's output, dropout at every site."""
  encoder = make_encoder("first", 0.3)
  tokens = tf.random.stateless_normal([6, 5, 8], [0, 2])
  whole, _ = encoder(tokens, training=True, seed=seeds.root(1))
  part, _ = encoder(tokens[:2], training=True, seed=seeds.root(1))
  np.testing.assert_allclose(part, whole[:2], atol=1e-5)


def test_encoder_dropout_in_training_only():
  encoder = make_encoder(dropout_rate=0.3)
  tokens = tf.random.stateless_normal([2, 5, 8], [0, 2])
  plain, _ = encoder(tokens)
  same, _ = encoder(tokens, training=False, seed=seeds.root(1))
  np.testing.assert_array_equal(plain, same)
  first, _ = encoder(tokens, training=True, seed=seeds.root(1))
  again, _ = encoder(tokens, training=True, seed=seeds.root(1))
  other, _ = encoder(tokens, training=True, seed=seeds.root(2))
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 0.1
  assert np.abs(first - plain).max() > 0.1


def test_every_site_drops_by_its_own_seed(monkeypatch):
  calls = []

  def record(shape, rate, seed, site, samples=None):
    calls.append((rate, (*seed.numpy(), site), tuple(shape)))
    assert (samples or shape[0]) == 2
    return bits(shape, rate, seed, site, samples)

  encoder = make_encoder(dropout_rate=0.3)
  bits = encoder_lib.dropout_bits
  monkeypatch.setattr(encoder_lib, "dropout_bits", record)
  tokens = tf.zeros([2, 5, 8])
  encoder(tokens, training=True, seed=seeds.root(1))
  # Input and output; in a block attention, its output, MLP, its output.
  assert [shape for _, _, shape in calls] == [
      (10, 8), *[(2, 2, 5, 5), (10, 8), (10, 20), (10, 8)] * 3, (2, 5, 8)]
  assert {rate for rate, _, _ in calls} == {0.3}
  assert len({seed for _, seed, _ in calls}) == len(calls) == 14
  calls.clear()
  encoder(tokens, training=False, seed=seeds.root(1))
  assert {rate for rate, _, _ in calls} == {0.0}


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_remat_changes_nothing(dtype):
  tf.keras.mixed_precision.set_global_policy(dtype)
  tokens = tf.random.stateless_normal([2, 5, 8], [0, 2])
  mask = tf.constant([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]) > 0
  results = []
  for remat in (False, True):
    encoder = make_encoder("first", 0.3, remat=remat)

    @tf.function(autograph=False)
    def run(encoder=encoder):
      with tf.GradientTape() as tape:
        tape.watch(tokens)
        x = tf.cast(tokens, encoder.compute_dtype)
        output, _ = encoder(x, mask, training=True, seed=seeds.root(1))
        loss = tf.reduce_sum(tf.cast(output, tf.float32) ** 3)
      found = tape.gradient(loss, [tokens, *encoder.trainable_variables])
      return [tf.convert_to_tensor(g) for g in found]

    results.append(run())
  assert len(results[0]) == 1 + 3 * 12 + 2 + 1  # the bias has its own, too
  for plain, again in zip(*results):
    assert np.abs(plain).max() > 0
    np.testing.assert_allclose(
        again, plain, rtol=1e-5, atol=1e-5 * np.abs(plain).max())


# ---- Layers ----------------------------------------------------------------


def test_layer_norm_does_not_cancel():
  """E[x²] - mean² would lose a variance of 1 beside a mean of 10,000."""
  x = np.random.default_rng(0).normal(size=(4, 64)) + 1e4
  layer = LayerNorm()
  x = x.astype(np.float32)
  got = layer(x)
  np.testing.assert_allclose(
      got, norm_by_hand(x.astype(np.float64), layer), atol=2e-3)


def test_bfloat16_keeps_statistics_and_softmax_in_float32():
  """A bfloat16 holds 8 bits: 2⁻⁹ of rounding in a result is all there may be.
  Sums over 4096 values in bfloat16 would be off by tens of per cent."""
  tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
  x = np.random.default_rng(0).normal(size=(3, 4096)) + 2
  x = tf.cast(x, tf.bfloat16)
  layer = LayerNorm()
  got = layer(x)
  assert got.dtype == tf.bfloat16
  expected = norm_by_hand(tf.cast(x, tf.float64).numpy(), layer)
  np.testing.assert_allclose(
      tf.cast(got, tf.float64), expected, rtol=2 ** -7, atol=1e-3)
  # With all scores equal, each of 1500 keys weighs 1/1500, and the mean of the
  # values comes out; a softmax summed in bfloat16 would stop at 256.
  attention, norm = encoder_lib.Attention(8, 2), LayerNorm()
  tokens = tf.cast(tf.ones([1500, 8]), tf.bfloat16)
  norm(tokens)  # creates its weights
  _, maps = attention(tokens, norm, (1, 1500), return_attention=True)
  np.testing.assert_allclose(
      tf.cast(maps, tf.float32), 1 / 1500, rtol=2 ** -8)
  assert all(v.dtype == tf.float32 for v in attention.variables)
