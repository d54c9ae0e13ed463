"""The Transformer encoder of all modalities: pre-LN blocks (section 3.2)."""
import functools
import types

import numpy as np
import tensorflow as tf

from vatt import seeds
from vatt.models import kernels
from vatt.xla import not_before

EPSILON = 1e-6  # of the norms, where nothing else is said


def dropout_bits(shape, rate: float, seed: tf.Tensor, site: str,
                 samples: int | None = None) -> tf.Tensor | None:
  """The random bits of a dropout's mask, see `kernels.draw_bits`.

  Args:
    shape: of what is dropped from.
    rate: fraction that is zeroed; nothing is drawn for 0.
    seed: int32 [2].
    site: name of the draw among those of the seed.
    samples: whose rows there are; by default each row is one.
  """
  return kernels.draw_bits(
      shape, seeds.fold(seed, site), samples) if rate else None


def dropout(x: tf.Tensor, rate: float, seed: tf.Tensor, site: str,
            samples: int | None = None) -> tf.Tensor:
  """Zeros a fraction of x [M, ..., n], and scales the rest; a pure function of
  the seed and of each sample's number. See `dropout_bits`; rate 0 returns x."""
  if not rate:
    return x
  return kernels.dropout(
      x, dropout_bits(x.shape, rate, seed, site, samples), rate)


def add_dropped(z: tf.Tensor, x: tf.Tensor, rate: float, seed: tf.Tensor,
                site: str, samples: int | None = None) -> tf.Tensor:
  """z + dropout(x), in one pass over memory."""
  if not rate:
    return z + x
  return kernels.add_dropped(
      z, x, dropout_bits(x.shape, rate, seed, site, samples), rate)


class LayerNorm(tf.keras.layers.Layer):
  """Layer normalization over the last axis, statistics in float32."""

  centred = True

  def __init__(self, epsilon: float = EPSILON, **kwargs):
    super().__init__(**kwargs)
    self.epsilon = epsilon  # added to the variance

  def build(self, shape):
    self.scale = self.add_weight("scale", [shape[-1]], initializer="ones")
    self.offset = None
    if self.centred:
      self.offset = self.add_weight("offset", [shape[-1]], initializer="zeros")
    super().build(shape)

  def call(self, x: tf.Tensor) -> tf.Tensor:
    rows = tf.reshape(x, [-1, x.shape[-1]])  # [..., D] -> [M, D]
    y = kernels.norm(rows, self.scale, self.offset, self.epsilon)
    return tf.reshape(y, tf.shape(x))


class RMSNorm(LayerNorm):
  """T5's norm: over the root mean square of the last axis, in float32."""

  centred = False


NORMS = {"layer": LayerNorm, "rms": RMSNorm}


def create_weights(layer: tf.keras.layers.Layer, width: int):
  """Creates a layer's weights under its name, as calling it on [..., width]
  would: kernels are called with the weights of several layers at once."""
  with tf.name_scope(layer.name):
    layer.build([None, width])


def relative_buckets(length: int, num_buckets: int = 32,
                     max_distance: int = 64) -> np.ndarray:
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

  def call(self, tokens: tf.Tensor) -> tf.Tensor:
    """The bias for tokens [B, N, D], AGG first: [1, H, N, N]."""
    buckets = relative_buckets(
        tokens.shape[1], self.num_buckets, self.max_distance)
    bias = tf.gather(tf.cast(self.table, self.compute_dtype), buckets)
    return tf.transpose(bias, [2, 0, 1])[None]  # [N, N, H] -> [1, H, N, N]


class Attention(tf.keras.layers.Layer):
  """Multi-head self-attention with one fused projection to Q, K and V."""

  def __init__(self, width, num_heads, head_dim=0, bias=True, scaled=True,
               **kwargs):
    super().__init__(**kwargs)
    self.num_heads = num_heads
    self.head_dim = head_dim or width // num_heads
    self.scale = self.head_dim ** -0.5 if scaled else 1.0
    inner = num_heads * self.head_dim
    self.qkv = tf.keras.layers.Dense(3 * inner, use_bias=bias, name="qkv")
    self.out = tf.keras.layers.Dense(width, use_bias=bias, name="out")

  def build(self, shape):
    create_weights(self.qkv, shape[-1])
    create_weights(self.out, self.num_heads * self.head_dim)
    super().build(shape)

  def call(self, z: tf.Tensor, norm: LayerNorm, shape: tuple,
           mask: tf.Tensor | None = None, bias: tf.Tensor | None = None,
           rate: float = 0.0, seed: tf.Tensor | None = None,
           return_attention: bool = False) -> tuple[tf.Tensor, ...]:
    """MHA(norm(z)).

    Args:
      z: [B·N, D].
      norm: a LayerNorm or RMSNorm.
      shape: (B, N).
      mask, bias: see `kernels.attention`.
      rate, seed: of dropout.
      return_attention: whether to return the attention maps.

    Returns:
      [B·N, D], and on request [B, H, N, N].
    """
    batch, length = shape
    heads = batch, length, self.num_heads
    random_bits = dropout_bits(
        [batch, self.num_heads, length, length], rate, seed, "attention")
    qkv = kernels.norm_linear(  # [B·N, D] -> [B·N, 3·H·d]
        z, norm.scale, norm.offset, self.qkv.kernel, self.qkv.bias,
        norm.epsilon)
    mixed = kernels.attention(  # -> [B·N, H·d]
        qkv, bias, mask, random_bits, heads, self.scale, rate,
        self.variable_dtype)
    # -> [B·N, D]
    out = kernels.linear(mixed, self.out.kernel, self.out.bias)
    if not return_attention:
      return out,
    query, key, _ = kernels.split_heads(qkv, heads, 3)
    return out, kernels.attention_weights(
        query * self.scale, key, bias, mask, self.variable_dtype)


class Block(tf.keras.layers.Layer):
  """z' = MHA(LN(z)) + z;  z = MLP(LN(z')) + z' (section 3.2)."""

  def __init__(self, width, mlp_dim, num_heads, dropout_rate, head_dim=0,
               norm="layer", mlp_norm="layer", bias=True, scaled=True,
               activation="gelu", epsilon=EPSILON, **kwargs):
    super().__init__(**kwargs)
    self.dropout_rate = dropout_rate
    self.activation = tf.keras.activations.get(activation)
    self.attention_norm = NORMS[norm](epsilon, name="attention_norm")
    self.attention = Attention(
        width, num_heads, head_dim, bias, scaled, name="attention")
    self.mlp_norm = NORMS[mlp_norm](epsilon, name="mlp_norm")
    self.mlp_in = tf.keras.layers.Dense(mlp_dim, use_bias=bias, name="mlp_in")
    self.mlp_out = tf.keras.layers.Dense(width, use_bias=bias, name="mlp_out")

  def build(self, shape):
    for layer in (self.attention_norm, self.mlp_norm, self.attention,
                  self.mlp_in):
      create_weights(layer, shape[-1])
    create_weights(self.mlp_out, self.mlp_in.units)
    super().build(shape)

  def call(self, z: tf.Tensor, bias: tf.Tensor | None = None, *, shape: tuple,
           mask: tf.Tensor | None = None, training: bool = False,
           seed: tf.Tensor | None = None,
           return_attention: bool = False) -> tuple[tf.Tensor, ...]:
    """Returns z [B·N, D], the MLP's output before it is added [B·N, D] and, on
    request, the attention maps; for the arguments see `Attention`."""
    rate = self.dropout_rate if training else 0.0
    # z' = MHA(LN(z)) + z
    mixed, *maps = self.attention(  # [B·N, D] -> [B·N, D]
        z, self.attention_norm, shape, mask, bias, rate, seed,
        return_attention)
    samples, _ = shape
    z = add_dropped(z, mixed, rate, seed, "residual", samples)

    # z = MLP(LN(z')) + z'
    hidden = kernels.norm_linear(  # [B·N, D] -> [B·N, mlp_dim]
        z, self.mlp_norm.scale, self.mlp_norm.offset, self.mlp_in.kernel,
        self.mlp_in.bias, self.mlp_norm.epsilon)
    out = self.mlp_out  # -> [B·N, D]
    if self.activation is tf.keras.activations.gelu:
      random_bits = dropout_bits(hidden.shape, rate, seed, "mlp", samples)
      mlp = kernels.gelu_linear(
          hidden, out.kernel, out.bias, random_bits, rate)
    else:
      hidden = dropout(self.activation(hidden), rate, seed, "mlp", samples)
      mlp = kernels.linear(hidden, out.kernel, out.bias)
    z = add_dropped(z, mlp, rate, seed, "mlp_residual", samples)
    return z, mlp, *maps


def recomputed(block: Block, z: tf.Tensor, bias: tf.Tensor | None,
               seed: tf.Tensor, **kwargs) -> tuple[tf.Tensor, ...]:
  """A block's call, for whose backward pass z and bias alone are kept."""
  @tf.recompute_grad
  def run(z, *bias):
    later_seed, = not_before(z, seed)  # or random bits would be kept
    return block(z, *bias, seed=later_seed, **kwargs)

  return run(z, *([] if bias is None else [bias]))


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
    epsilon: of the norms, added to the variance; None for EPSILON.
    dropout_rate: of attention weights, MLP, residuals, input and output.
    remat: whether training keeps of each block its input alone, and recomputes
      the rest in the backward pass: less memory for a third more time. (VATT
      then runs the backward passes of its towers one at a time, too.)

  Attributes:
    untold: what it computes that the shapes of its weights do not tell, by
      argument.
  """

  def __init__(self, depth: int, width: int, mlp_dim: int, num_heads: int,
               head_dim: int = 0, relative_bias: str = "",
               num_buckets: int = 32, max_distance: int = 64,
               norm: str = "layer", mlp_norm: str = "layer", bias: bool = True,
               scaled: bool = True, activation: str = "gelu",
               epsilon: float | None = None, dropout_rate: float = 0.0,
               remat: bool = False, **kwargs):
    super().__init__(**kwargs)
    self.width = width
    self.dropout_rate, self.remat = dropout_rate, remat
    epsilon = EPSILON if epsilon is None else epsilon
    self.biased_blocks = {"": 0, "first": 1, "all": depth}[relative_bias]
    # Read-only, as checkpoints take a dict of a layer for a part of it.
    self.untold = types.MappingProxyType(dict(
        num_heads=num_heads, norm=norm, mlp_norm=mlp_norm, bias=bias,
        scaled=scaled, activation=activation, epsilon=epsilon,
        relative_bias="all" if self.biased_blocks == depth else relative_bias,
        max_distance=max_distance if relative_bias else None))
    if self.biased_blocks:
      self.relative_bias = RelativeBias(
          num_heads, num_buckets, max_distance, name="relative_bias")
    self.blocks = [
        Block(width, mlp_dim, num_heads, dropout_rate, head_dim, norm, mlp_norm,
              bias, scaled, activation, epsilon, name=f"block_{i}")
        for i in range(depth)]
    self.norm = NORMS[norm](epsilon, name="norm")

  def call(self, tokens: tf.Tensor, mask: tf.Tensor | None = None,
           training: bool = False, seed: tf.Tensor | None = None,
           return_attention: bool = False) -> tuple[tf.Tensor, dict]:
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

    def unrows(x):  # [B·N, D] -> [B, N, D]
      return tf.reshape(x, [*shape, self.width])

    z = tf.reshape(tokens, [-1, self.width])  # [B, N, D] -> [B·N, D]
    z = dropout(z, rate, seed, "tokens", batch)
    out = {"blocks": [], "mlps": []}
    if return_attention:
      out["attention"] = []
    bias = self.relative_bias(tokens) if self.biased_blocks else None
    remat = self.remat and training and not return_attention
    for i, block in enumerate(self.blocks):
      run = functools.partial(recomputed, block) if remat else block
      z, mlp, *maps = run(
          z, bias if i < self.biased_blocks else None, shape=shape, mask=mask,
          training=training, seed=seeds.fold(seed, f"block_{i}"),
          return_attention=return_attention)
      out["blocks"].append(unrows(z))
      out["mlps"].append(unrows(mlp))
      if return_attention:
        out["attention"] += maps
    return dropout(unrows(self.norm(z)), rate, seed, "output"), out
