"""The Transformer encoder of all modalities: pre-LN blocks (section 3.2)."""
import numpy as np
import tensorflow as tf

from vatt import seeds
from vatt.errors import UserError
from vatt.models import kernels
from vatt.xla import not_before

LAYER_NORM_EPSILON = 1e-6


def dropout_words(shape, rate, seed, site):
  """What the masks of a dropout are made of, see `kernels.draw_words`.

  Args:
    shape: of what is dropped from.
    rate: fraction that is zeroed; nothing is drawn for 0.
    seed: int32 [2]; replicas draw different masks from the same seed.
    site: name of the draw among those of the seed.
  """
  if not rate:
    return None
  seed = seeds.fold(seed, site)
  context = tf.distribute.get_replica_context()
  if context and context.num_replicas_in_sync > 1:
    seed = seeds.fold(seed, tf.cast(context.replica_id_in_sync_group, tf.int32))
  return kernels.draw_words(shape, seed)


def dropout(x, rate, seed, site):
  """Zeros a fraction of `x` and scales the rest; a pure function of the seed.

  Args:
    x: any shape.
    rate, seed, site: as of `dropout_words`; rate 0 returns `x`.

  Returns:
    The same shape and dtype.
  """
  if not rate:
    return x
  return kernels.dropout(x, dropout_words(x.shape, rate, seed, site), rate)


class LayerNorm(tf.keras.layers.Layer):
  """Layer normalization over the last axis, statistics in float32."""

  def build(self, shape):
    self.scale = self.add_weight("scale", [shape[-1]], initializer="ones")
    self.offset = self.add_weight("offset", [shape[-1]], initializer="zeros")

  @property
  def maker(self):
    """What it does, for a Linear layer after it."""
    return kernels.layer_norm(
        tf.convert_to_tensor(self.scale), tf.convert_to_tensor(self.offset),
        LAYER_NORM_EPSILON)

  def call(self, x):
    rows = tf.reshape(x, [-1, x.shape[-1]])  # [..., D] -> [M, D]
    return tf.reshape(kernels.apply(rows, self.maker), tf.shape(x))


class RMSNorm(LayerNorm):
  """T5's norm: over the root mean square of the last axis, in float32."""

  def build(self, shape):
    self.scale = self.add_weight("scale", [shape[-1]], initializer="ones")

  @property
  def maker(self):
    return kernels.layer_norm(
        tf.convert_to_tensor(self.scale), None, LAYER_NORM_EPSILON)


NORMS = {"layer": LayerNorm, "rms": RMSNorm}


class Linear(tf.keras.layers.Dense):
  """A linear layer of [M, D] that can do what stands before it, too."""

  def call(self, x, maker=None):
    """[M, D] -> [M, E]; of what `maker` makes of x (`kernels.linear`)."""
    bias = tf.convert_to_tensor(self.bias) if self.use_bias else None
    return kernels.linear(x, tf.convert_to_tensor(self.kernel), bias, maker)


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
    self.qkv = Linear(
        3 * num_heads * self.head_dim, use_bias=bias, name="qkv")
    self.out = Linear(width, use_bias=bias, name="out")

  def call(self, x, norm, shape, mask, bias, training, seed,
           return_attention=False):
    """Attends from and to what a norm makes of x.

    Args:
      x: [B·N, D].
      norm: a Maker, or None.
      shape: (B, N).
      mask, bias: see `kernels.attention`.
      training, seed: of dropout.
      return_attention: whether to return the attention maps.

    Returns:
      [B·N, D], and [B, H, N, N] or None.
    """
    qkv = self.qkv(x, norm)
    rate = self.dropout_rate if training else 0.0
    batch, length = shape
    heads = batch, length, self.num_heads
    words = dropout_words(
        [batch, self.num_heads, length, length], rate, seed, "attention")
    mixed = kernels.attention(
        qkv, heads, self.scale, bias, mask, words, rate, self.variable_dtype)
    maps = None
    if return_attention:
      query, key, _ = kernels.split_heads(qkv, heads, 3)
      maps = kernels.attention_weights(
          query * self.scale, key, bias, mask, self.variable_dtype)
    return self.out(mixed), maps


class Block(tf.keras.layers.Layer):
  """z' = MHA(LN(z)) + z;  z = MLP(LN(z')) + z'."""

  def __init__(self, width, mlp_dim, num_heads, dropout_rate, head_dim=0,
               norm="layer", mlp_norm="layer", bias=True, scaled=True,
               activation="gelu", **kwargs):
    super().__init__(**kwargs)
    self.dropout_rate = dropout_rate
    self.activation = tf.keras.activations.get(activation)
    self.attention_norm = NORMS[norm](name="attention_norm")
    self.attention = Attention(width, num_heads, dropout_rate, head_dim, bias,
                               scaled, name="attention")
    self.mlp_norm = NORMS[mlp_norm](name="mlp_norm")
    self.mlp_in = Linear(mlp_dim, use_bias=bias, name="mlp_in")
    self.mlp_out = Linear(width, use_bias=bias, name="mlp_out")

  def build(self, shape):
    for norm in (self.attention_norm, self.mlp_norm):
      with tf.name_scope(norm.name):  # of its variables, as when it is called
        norm.build(shape)
      norm.built = True

  def call(self, z, shape, mask, bias, training, seed, return_attention=False):
    rate = self.dropout_rate if training else 0.0

    def add(z, x, site):
      if not rate:
        return z + x
      return kernels.add_dropped(
          z, x, dropout_words(x.shape, rate, seed, site), rate)

    mixed, attention = self.attention(
        z, self.attention_norm.maker, shape, mask, bias, training, seed,
        return_attention)
    z = add(z, mixed, "residual")
    hidden = self.mlp_in(z, self.mlp_norm.maker)
    if self.activation is tf.keras.activations.gelu:
      mlp = self.mlp_out(hidden, kernels.gelu(
          dropout_words(hidden.shape, rate, seed, "mlp"), rate))
    else:
      mlp = self.mlp_out(dropout(self.activation(hidden), rate, seed, "mlp"))
    return add(z, mlp, "mlp_residual"), attention, mlp


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
    remat: whether training keeps of each block its input alone, and makes the
      rest again on the way back: less memory for a third more time. (VATT then
      has its towers go back one at a time, too.)
  """

  def __init__(self, depth, width, mlp_dim, num_heads, head_dim=0,
               relative_bias="", num_buckets=32, max_distance=64, norm="layer",
               mlp_norm="layer", bias=True, scaled=True, activation="gelu",
               dropout_rate=0.0, remat=False, **kwargs):
    super().__init__(**kwargs)
    for field, value, known in (
        ("relative_bias", relative_bias, ("", "first", "all")),
        ("norm", norm, NORMS), ("mlp_norm", mlp_norm, NORMS)):
      if value not in known:
        raise UserError(f"model.encoders: {field} is {value!r}, expected one "
                        f"of {', '.join(map(repr, known))}")
    self.width = width
    self.dropout_rate, self.remat = dropout_rate, remat
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
    batch = tf.shape(tokens)[0] if tokens.shape[0] is None else tokens.shape[0]
    shape = batch, tokens.shape[1]

    def rows(x):  # [B, N, D] -> [B·N, D]
      return tf.reshape(x, [-1, self.width])

    def unrows(x):  # and back
      return tf.reshape(x, [*shape, self.width])

    z = dropout(rows(tokens), rate, seed, "tokens")
    out = {"blocks": [], "mlps": []}
    if return_attention:
      out["attention"] = []
    bias = self.relative_bias(tokens) if self.biased_blocks else None
    for i, block in enumerate(self.blocks):
      def run(seed, z, *biases, block=block, i=i):
        return block(z, shape, mask, *(biases or [None]), training,
                     seeds.fold(seed, f"block_{i}"), return_attention)

      def run_again(z, *biases, run=run):
        same_seed, = not_before(z, seed)  # nor are masks kept
        return run(same_seed, z, *biases)[::2]

      biases = [bias] if i < self.biased_blocks else []
      if self.remat and training and not return_attention:
        z, mlp = tf.recompute_grad(run_again)(z, *biases)
      else:
        z, attention, mlp = run(seed, z, *biases)
      out["blocks"].append(unrows(z))
      out["mlps"].append(unrows(mlp))
      if return_attention:
        out["attention"].append(attention)
    return dropout(unrows(self.norm(z)), rate, seed, "output"), out
