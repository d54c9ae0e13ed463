"""The Transformer encoder of all modalities: pre-LN blocks (section 3.2)."""
import numpy as np
import tensorflow as tf

from vatt import seeds
from vatt.errors import UserError

LAYER_NORM_EPSILON = 1e-6
MASKED_SCORE = -1e9  # finite, so that a fully masked row stays finite


def dropout(x, rate, seed, site):
  """Zeros a fraction of `x` and scales the rest; a pure function of the seed.

  Args:
    x: any shape.
    rate: fraction that is zeroed; 0 returns `x`.
    seed: int32 [2]; replicas draw different masks from the same seed.
    site: name of the draw among those of the seed.

  Returns:
    The same shape and dtype.
  """
  if not rate:
    return x
  seed = seeds.fold(seed, site)
  context = tf.distribute.get_replica_context()
  if context and context.num_replicas_in_sync > 1:
    seed = seeds.fold(seed, tf.cast(context.replica_id_in_sync_group, tf.int32))
  keep = tf.random.stateless_uniform(tf.shape(x), seed) >= rate
  return x * tf.cast(keep, x.dtype) * (1.0 / (1.0 - rate))


class LayerNorm(tf.keras.layers.Layer):
  """Layer normalization over the last axis, statistics in float32."""

  def build(self, shape):
    self.scale = self.add_weight("scale", [shape[-1]], initializer="ones")
    self.offset = self.add_weight("offset", [shape[-1]], initializer="zeros")

  def call(self, x):
    wide = tf.cast(x, self.variable_dtype)
    mean = tf.reduce_mean(wide, axis=-1, keepdims=True)
    centred = wide - mean
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    normal = centred * tf.math.rsqrt(variance + LAYER_NORM_EPSILON)
    return tf.cast(normal, x.dtype) * self.scale + self.offset


class RMSNorm(tf.keras.layers.Layer):
  """T5's norm: over the root mean square of the last axis, in float32."""

  def build(self, shape):
    self.scale = self.add_weight("scale", [shape[-1]], initializer="ones")

  def call(self, x):
    wide = tf.cast(x, self.variable_dtype)
    square = tf.reduce_mean(tf.square(wide), axis=-1, keepdims=True)
    normal = wide * tf.math.rsqrt(square + LAYER_NORM_EPSILON)
    return tf.cast(normal, x.dtype) * self.scale


NORMS = {"layer": LayerNorm, "rms": RMSNorm}


def relative_buckets(length, num_buckets=32, max_distance=64):
  """T5's bidirectional buckets of the relative positions in a sequence.

  Half of the buckets serve each direction; of these, half hold one distance
  each and half grow logarithmically up to `max_distance`.

  Returns:
    int32 [length, length]: the bucket of (key position - query position).
  """
  relative = np.arange(length)[None, :] - np.arange(length)[:, None]
  half = num_buckets // 2
  exact = half // 2
  distance = np.abs(relative)
  ratio = np.log(np.maximum(distance, 1) / exact) / np.log(max_distance / exact)
  far = np.minimum(exact + (ratio * (half - exact)).astype(int), half - 1)
  bucket = np.where(distance < exact, distance, far)
  return (bucket + half * (relative > 0)).astype(np.int32)


class RelativeBias(tf.keras.layers.Layer):
  """T5's learnable bias on attention scores: one value a bucket and head."""

  def __init__(self, num_heads, num_buckets=32, max_distance=64, **kwargs):
    super().__init__(**kwargs)
    self.num_buckets, self.max_distance = num_buckets, max_distance
    self.table = self.add_weight(
        "table", [num_buckets, num_heads], initializer="zeros")

  def call(self, tokens):
    """The bias for tokens [B, N, D], AGG first: [1, H, N, N]."""
    buckets = relative_buckets(
        tokens.shape[1], self.num_buckets, self.max_distance)
    bias = tf.gather(tf.cast(self.table, self.compute_dtype), buckets)
    return tf.transpose(bias, [2, 0, 1])[None]  # [N, N, H] -> [1, H, N, N]


class Attention(tf.keras.layers.Layer):
  """Multi-head self-attention with one fused projection to Q, K and V."""

  def __init__(self, width, num_heads, dropout_rate, head_dim=0, bias=True,
               scaled=True, **kwargs):
    super().__init__(**kwargs)
    if not head_dim and width % num_heads:
      raise UserError(f"model.encoders: width is {width}, expected a multiple "
                      f"of num_heads ({num_heads})")
    self.num_heads = num_heads
    self.head_dim = head_dim or width // num_heads
    self.scale = self.head_dim ** -0.5 if scaled else 1.0
    self.dropout_rate = dropout_rate
    self.qkv = tf.keras.layers.Dense(
        3 * num_heads * self.head_dim, use_bias=bias, name="qkv")
    self.out = tf.keras.layers.Dense(width, use_bias=bias, name="out")

  def call(self, x, mask, bias, training, seed):
    """[B, N, D] -> [B, N, D] and the attention maps [B, H, N, N]."""
    batch, length = tf.shape(x)[0], x.shape[1]
    heads, dim = self.num_heads, self.head_dim
    # [B, N, 3·H·d] -> [B, N, 3, H, d] -> [3, B, H, N, d]
    qkv = tf.reshape(self.qkv(x), [batch, length, 3, heads, dim])
    query, key, value = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]))
    scores = tf.matmul(query * self.scale, key, transpose_b=True)
    if bias is not None:
      scores += bias
    scores = tf.cast(scores, self.variable_dtype)
    if mask is not None:
      # [B, N] -> [B, 1, 1, N]: no query looks at a padded key
      scores = tf.where(mask[:, None, None, :], scores,
                        tf.constant(MASKED_SCORE, scores.dtype))
    attention = tf.cast(tf.nn.softmax(scores), x.dtype)
    rate = self.dropout_rate if training else 0.0
    mixed = tf.matmul(dropout(attention, rate, seed, "attention"), value)
    # [B, H, N, d] -> [B, N, H·d]
    mixed = tf.reshape(
        tf.transpose(mixed, [0, 2, 1, 3]), [batch, length, heads * dim])
    return self.out(mixed), attention


class Block(tf.keras.layers.Layer):
  """z' = MHA(LN(z)) + z;  z = MLP(LN(z')) + z'."""

  def __init__(self, width, mlp_dim, num_heads, dropout_rate, head_dim=0,
               norm="layer", mlp_norm="layer", bias=True, scaled=True,
               activation="gelu", **kwargs):
    super().__init__(**kwargs)
    self.dropout_rate = dropout_rate
    self.attention_norm = NORMS[norm](name="attention_norm")
    self.attention = Attention(width, num_heads, dropout_rate, head_dim, bias,
                               scaled, name="attention")
    self.mlp_norm = NORMS[mlp_norm](name="mlp_norm")
    self.mlp_in = tf.keras.layers.Dense(
        mlp_dim, activation, use_bias=bias, name="mlp_in")
    self.mlp_out = tf.keras.layers.Dense(width, use_bias=bias, name="mlp_out")

  def call(self, z, mask, bias, training, seed):
    rate = self.dropout_rate if training else 0.0
    mixed, attention = self.attention(
        self.attention_norm(z), mask, bias, training, seed)
    z += dropout(mixed, rate, seed, "residual")
    hidden = dropout(self.mlp_in(self.mlp_norm(z)), rate, seed, "mlp")
    mlp = dropout(self.mlp_out(hidden), rate, seed, "mlp_residual")
    return z + mlp, attention, mlp


class Encoder(tf.keras.layers.Layer):
  """A stack of blocks and a final norm.

  Args:
    depth, width, mlp_dim, num_heads: sizes (table in section 4 of the paper).
    head_dim: width of a head; 0 for width / num_heads.
    relative_bias: T5's bias on the scores (text): "first", of the FIRST block
      alone, as in the paper; "all", the same one in every block; "" for none.
    num_buckets: of distances, for T5's bias.
    max_distance: beyond which T5's bias tells no distances apart.
    norm: before attention and after the last block: "layer", or T5's "rms".
    mlp_norm: before the MLP, likewise.
    bias: whether linear layers have one.
    scaled: whether scores are divided by the root of a head's width.
    activation: of the MLP, as Keras names it.
    dropout_rate: of attention weights, MLP, residuals, input and output.
  """

  def __init__(self, depth, width, mlp_dim, num_heads, head_dim=0,
               relative_bias="", num_buckets=32, max_distance=64, norm="layer",
               mlp_norm="layer", bias=True, scaled=True, activation="gelu",
               dropout_rate=0.0, **kwargs):
    super().__init__(**kwargs)
    for field, value, known in (
        ("relative_bias", relative_bias, ("", "first", "all")),
        ("norm", norm, NORMS), ("mlp_norm", mlp_norm, NORMS)):
      if value not in known:
        raise UserError(f"model.encoders: {field} is {value!r}, expected one "
                        f"of {', '.join(map(repr, known))}")
    self.width = width
    self.dropout_rate = dropout_rate
    self.biased_blocks = {"": 0, "first": 1, "all": depth}[relative_bias]
    if self.biased_blocks:
      self.relative_bias = RelativeBias(
          num_heads, num_buckets, max_distance, name="relative_bias")
    self.blocks = [
        Block(width, mlp_dim, num_heads, dropout_rate, head_dim, norm, mlp_norm,
              bias, scaled, activation, name=f"block_{i}")
        for i in range(depth)]
    self.norm = NORMS[norm](name="norm")

  def call(self, tokens, mask=None, training=False, seed=None,
           return_attention=False):
    """Encodes tokens.

    Args:
      tokens: [B, N, D], the AGG token first.
      mask: bool [B, N], False for padding; None if there is none.
      training: whether dropout is on.
      seed: int32 [2], needed when training.
      return_attention: keeps the attention maps of all blocks.

    Returns:
      [B, N, D], and a dict of intermediates: `blocks` (outputs of the blocks),
      `mlps` (their MLPs' outputs before the residual) and, on request,
      `attention` ([B, H, N, N] a block).
    """
    seed = tf.zeros([2], tf.int32) if seed is None else seed
    rate = self.dropout_rate if training else 0.0
    z = dropout(tokens, rate, seed, "tokens")
    out = {"blocks": [], "mlps": []}
    if return_attention:
      out["attention"] = []
    bias = self.relative_bias(tokens) if self.biased_blocks else None
    for i, block in enumerate(self.blocks):
      z, attention, mlp = block(
          z, mask, bias if i < self.biased_blocks else None, training,
          seeds.fold(seed, f"block_{i}"))
      out["blocks"].append(z)
      out["mlps"].append(mlp)
      if return_attention:
        out["attention"].append(attention)
    z = dropout(self.norm(z), rate, seed, "output")
    return z, out
