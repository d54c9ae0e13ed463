"""From raw signals to tokens: patches, positions, the AGG token, DropToken.

One tokenizer serves every signal on a grid: video (T, H, W), waveform (S,) and
spectrogram (frames, bins). DropToken picks patches of the raw signal, so that
only what is kept is ever projected.
"""
import math
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from vatt import seeds
from vatt.models.encoder import LayerNorm


def table_init(scale: float = 0.02) -> tf.keras.initializers.Initializer:
  """Initializer of a learnable table; a new one each, as Keras asks for."""
  return tf.keras.initializers.TruncatedNormal(stddev=scale)


def grid_of(shape: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
  """Patches along each axis, the last one padded: ceil(size / patch).

  Args:
    shape: sizes of the signal's axes, such as (T, H, W).
    patch: sizes of a patch along the same axes.
  """
  return tuple(math.ceil(s / p) for s, p in zip(shape, patch))


def patchify(signal: tf.Tensor, patch: Sequence[int]) -> tf.Tensor:
  """Cuts a signal into patches, zero-padded at the end of each axis.

  Args:
    signal: [B, S_1, .., S_n, C].
    patch: (p_1, .., p_n).

  Returns:
    [B, N, p_1·…·p_n·C], patches and their contents in row-major order.
  """
  *shape, channels = signal.shape[1:]
  grid = grid_of(shape, patch)
  pads = [g * p - s for g, p, s in zip(grid, patch, shape)]
  if any(pads):
    signal = tf.pad(signal, [[0, 0], *([0, p] for p in pads), [0, 0]])
  n = len(patch)
  batch = tf.shape(signal)[0] if signal.shape[0] is None else signal.shape[0]
  # [B, g_1·p_1, .., C] -> [B, g_1, p_1, .., g_n, p_n, C]
  split = [size for pair in zip(grid, patch) for size in pair]
  signal = tf.reshape(signal, [batch, *split, channels])
  # -> [B, g_1, .., g_n, p_1, .., p_n, C] -> [B, N, p_1·…·p_n·C]
  order = [0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2), 2 * n + 1]
  if n > 1:
    signal = tf.transpose(signal, order)
  return tf.reshape(
      signal, [batch, math.prod(grid), math.prod(patch) * channels])


def num_kept(num_tokens: int, drop_rate: float) -> int:
  """Tokens that DropToken keeps of `num_tokens`: at least one."""
  return max(1, round(num_tokens * (1.0 - drop_rate)))


def draw_kept_tokens(batch: int, num_tokens: int, drop_rate: float,
                     seed: tf.Tensor) -> tf.Tensor | None:
  """Draws the tokens that stay, a uniform random subset for each sample.

  DropToken (section 3.1.1 of the paper). A sample keeps the same tokens on any
  number of replicas.

  Args:
    batch: samples on this replica, B.
    num_tokens: tokens of a sample, N.
    drop_rate: fraction that is dropped, in [0, 1).
    seed: int32 [2].

  Returns:
    int32 [B, n]: positions of the n kept tokens, or None if all stay.
  """
  kept = num_kept(num_tokens, drop_rate)
  if kept == num_tokens:
    return None
  # The n largest of N equal draws are a uniform subset.
  draw = seeds.uniform_rows(batch, [num_tokens], seed)
  return tf.math.top_k(draw, kept).indices


class PositionEmbedding(tf.keras.layers.Layer):
  """e_POS: the sum of one learnable table per axis (section 3.1).

  Args:
    axes: {name: size} of the axes, in order.
    width: D.
    scale: standard deviation of the sum when it is drawn.
    normalized: whether the sum passes a LayerNorm (the released weights).
  """

  def __init__(self, axes: Mapping[str, int], width: int, scale: float,
               normalized: bool):
    super().__init__(name="position")
    self.sizes = tuple(axes.values())
    scale *= len(axes) ** -0.5
    self.tables = {
        axis: self.add_weight(
            axis, [size, width], initializer=table_init(scale),
            # A row's gradient sums over the batch: too much for bfloat16.
            experimental_autocast=False)
        for axis, size in axes.items()}
    # Not in bfloat16 either.
    self.norm = normalized and LayerNorm(
        name="norm", dtype=tf.keras.mixed_precision.global_policy()
        .variable_dtype)

  def call(self, kept: tf.Tensor | None) -> tf.Tensor:
    """Positions of the kept tokens [B, n, D], or of all, row-major: [N, D].

    Args:
      kept: int32 [B, n], or None for all tokens.
    """
    total = 0.0
    for axis, table in enumerate(self.tables.values()):
      shape = [1] * len(self.sizes)
      shape[axis] = self.sizes[axis]
      # [g, D] -> [1, .., g, .., 1, D]: one axis of the grid
      total += tf.reshape(table, [*shape, -1])
    # [g_1, .., g_n, D] -> [N, D]
    total = tf.reshape(total, [math.prod(self.sizes), -1])
    if self.norm:
      total = self.norm(total)
    return total if kept is None else tf.gather(total, kept)


def resize_positions(table: np.ndarray, size: int, method: str = "bicubic"
                     ) -> np.ndarray:
  """Resizes a table of positions, for a signal of another resolution.

  Args:
    table: float [N, D].
    size: M, rows of the result.
    method: bicubic (section 4.2 of the paper), or spline for the released
      weights: the natural cubic spline through the points (i / N, row i) at
      j / M, and a straight line beyond the last of them; in float64.

  Returns:
    float32 [M, D], the same table where M is N.
  """
  table = np.asarray(table)
  if len(table) == size:
    return table
  if method == "bicubic":
    # [N, D] -> [1, N, 1, D]: rows are the height of an image
    return tf.image.resize(
        table[None, :, None], [size, 1], "bicubic")[0, :, 0].numpy()
  if len(table) == 1:
    return np.repeat(table, size, axis=0)
  import scipy.interpolate  # where it is used: it is slow to load

  known = np.arange(len(table)) / len(table)
  wanted = np.arange(size) / size
  spline = scipy.interpolate.CubicSpline(
      known, table.astype(np.float64), bc_type="natural")
  inside = np.minimum(wanted, known[-1])
  beyond = (wanted - inside)[:, None] * spline(known[-1], 1)
  return (spline(inside) + beyond).astype(np.float32)


class PatchTokenizer(tf.keras.layers.Layer):
  """Patches -> tokens: x W_P + e_POS, after an AGG token (sections 3.1, 3.2).

  Args:
    shape: sizes of the signal's axes, such as (T, H, W).
    patch: sizes of a patch along them.
    width: D.
    axes: names of the axes, for the tables' names.
    modality: video or audio, for the layer's name.
    pre_projection: whether a Dense layer with GELU follows the projection (the
      released agnostic model).
    normalize_positions: whether e_POS passes a LayerNorm (released weights).
  """

  def __init__(self, shape: Sequence[int], patch: Sequence[int], width: int,
               axes: Sequence[str], modality: str, pre_projection: bool = False,
               normalize_positions: bool = False):
    super().__init__(name=f"{modality}_tokenizer")
    self.patch = tuple(patch)
    grid = grid_of(shape, patch)
    self.num_tokens = math.prod(grid)
    self.projection = tf.keras.layers.Dense(width, name="projection")
    self.pre_projection = pre_projection and tf.keras.layers.Dense(
        width, "gelu", name="pre_projection")
    axes = dict(zip(axes, grid))
    if normalize_positions and modality == "audio":
      # The release numbers the positions of a spectrogram band by band, and
      # its patches frame by frame.
      axes = dict(reversed(axes.items()))
    # e_POS starts at the scale of the projected patches: with positions that
    # are small beside them, training takes far longer to begin.
    self.position = PositionEmbedding(axes, width, 1.0, normalize_positions)
    self.agg = self.add_weight("agg", [width], initializer=table_init())

  def call(self, signal: tf.Tensor, kept: tf.Tensor | None = None
           ) -> tf.Tensor:
    """Tokenizes a batch of signals.

    Args:
      signal: [B, *shape, C] in [-1, 1].
      kept: int32 [B, n], positions of the kept tokens, or None for all.

    Returns:
      [B, 1 + n, D], the AGG token first.
    """
    patches = patchify(signal, self.patch)
    if kept is not None:
      patches = tf.gather(patches, kept, batch_dims=1)
    tokens = self.projection(patches)
    if self.pre_projection:
      tokens = self.pre_projection(tokens)
    tokens += tf.cast(self.position(kept), tokens.dtype)
    return prepend_agg(tokens, tf.cast(self.agg, tokens.dtype))


class TextTokenizer(tf.keras.layers.Layer):
  """Word ids -> tokens: embedding lookup after an AGG token (section 3.1).

  Args:
    vocab_size: rows of the embedding, padding and unknown word included.
    width: D.
    num_words: words of a caption.
    positions: adds a learnable row per word. The agnostic model needs it: its
      encoder has no relative bias.
    word_dim: width of the words' vectors; 0 for D. Others are not trained, and
      are projected by a Dense layer with GELU (released weights).
    normalize_positions: whether e_POS passes a LayerNorm (released weights).
  """

  def __init__(self, vocab_size: int, width: int, num_words: int,
               positions: bool, word_dim: int = 0,
               normalize_positions: bool = False,
               name: str = "text_tokenizer"):
    super().__init__(name=name)
    # A word's vector is the whole token, so it starts at the scale of one.
    self.embedding = self.add_weight(
        "embedding", [vocab_size, word_dim or width], trainable=not word_dim,
        initializer=table_init(scale=1.0))
    self.pre_projection = word_dim and tf.keras.layers.Dense(
        width, "gelu", use_bias=positions, name="pre_projection")
    self.position = positions and PositionEmbedding(
        {"temporal": num_words}, width, 1.0, normalize_positions)
    # Without positions, AGG is a word among the others.
    self.agg = self.add_weight(
        "agg", [width if positions else word_dim or width],
        initializer=table_init())

  def call(self, ids: tf.Tensor) -> tf.Tensor:
    """int32 [B, W] -> [B, 1 + W, D], the AGG token first."""
    tokens = tf.gather(tf.cast(self.embedding, self.compute_dtype), ids)
    agg = tf.cast(self.agg, tokens.dtype)
    if not self.position:
      tokens = prepend_agg(tokens, agg)
    if self.pre_projection:
      tokens = self.pre_projection(tokens)
    if self.position:
      tokens = prepend_agg(
          tokens + tf.cast(self.position(None), tokens.dtype), agg)
    return tokens


def prepend_agg(tokens: tf.Tensor, agg: tf.Tensor) -> tf.Tensor:
  """[B, N, D] and [D] -> [B, 1 + N, D]."""
  # [D] -> [B, 1, D]
  first = tf.broadcast_to(agg, [tf.shape(tokens)[0], 1, agg.shape[0]])
  return tf.concat([first, tokens], axis=1)
