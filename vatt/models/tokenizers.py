"""From raw signals to tokens: patches, positions, the AGG token, DropToken.

One tokenizer serves every signal on a grid: video (T, H, W), waveform (S,) and
spectrogram (frames, bins). DropToken picks patches of the raw signal, so that
only what is kept is ever projected.
"""
import math

import tensorflow as tf

from vatt import seeds
from vatt.errors import UserError


def table_init(scale=0.02):
  """Initializer of a learnable table; a new one each, as Keras asks for."""
  return tf.keras.initializers.TruncatedNormal(stddev=scale)


def grid_of(shape, patch, field="patch"):
  """Patches along each axis, the last one padded: ceil(size / patch).

  Args:
    shape: sizes of the signal's axes, such as (T, H, W).
    patch: sizes of a patch along the same axes.
    field: what an error calls the patch.

  Raises:
    UserError: a patch is larger than the signal, or of another rank.
  """
  if len(shape) != len(patch):
    raise UserError(f"{field} is {tuple(patch)}, expected {len(shape)} sizes: "
                    f"the input is {tuple(shape)}")
  if any(p > s or p < 1 for p, s in zip(patch, shape)):
    raise UserError(f"{field} is {tuple(patch)}, expected sizes from 1 to "
                    f"those of the input, {tuple(shape)}")
  return tuple(math.ceil(s / p) for s, p in zip(shape, patch))


def patchify(signal, patch):
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


def num_kept(num_tokens, drop_rate):
  """Tokens that DropToken keeps of `num_tokens`: at least one."""
  return max(1, round(num_tokens * (1.0 - drop_rate)))


def draw_kept_tokens(batch, num_tokens, drop_rate, seed):
  """Draws the tokens that stay, a uniform random subset for each sample.

  DropToken (section 3.1.1 of the paper). The draw is made for the global batch,
  so that a sample keeps the same tokens on any number of replicas.

  Args:
    batch: samples on this replica.
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


class PatchTokenizer(tf.keras.layers.Layer):
  """Patches -> tokens: x W_P + e_POS, after an AGG token (sections 3.1, 3.2).

  The position embedding of a token is the sum of one learnable table per axis.

  Args:
    shape: sizes of the signal's axes, such as (T, H, W).
    patch: sizes of a patch along them.
    width: D.
    axes: names of the axes, for the tables' names.
    modality: video or audio, for the layer's name and in errors.
  """

  def __init__(self, shape, patch, width, axes, modality):
    super().__init__(name=f"{modality}_tokenizer")
    self.patch = tuple(patch)
    self.grid = grid_of(shape, patch, f"model.{modality}_patch")
    self.num_tokens = math.prod(self.grid)
    self.projection = tf.keras.layers.Dense(width, name="projection")
    # The sum of the tables starts at the scale of the projected patches: with
    # positions that are small beside them, training takes far longer to begin.
    scale = len(self.grid) ** -0.5
    self.positions = [
        self.add_weight(
            f"position_{axis}", [size, width], initializer=table_init(scale),
            # A row's gradient sums over the batch: too much for bfloat16.
            experimental_autocast=False)
        for axis, size in zip(axes, self.grid)]
    self.agg = self.add_weight("agg", [width], initializer=table_init())

  def position_embedding(self):
    """Sum of the axes' tables for every token: [N, D]."""
    total = 0.0
    for axis, table in enumerate(self.positions):
      shape = [1] * len(self.grid)
      shape[axis] = self.grid[axis]
      # [g, D] -> [1, .., g, .., 1, D]: one axis of the grid
      total += tf.reshape(table, [*shape, -1])
    # [g_1, .., g_n, D] -> [N, D]
    return tf.reshape(total, [self.num_tokens, -1])

  def call(self, signal, kept=None):
    """Tokenizes a batch of signals.

    Args:
      signal: [B, *shape, C] in [-1, 1].
      kept: int32 [B, n] of `draw_kept_tokens`, or None for all tokens.

    Returns:
      [B, 1 + n, D], the AGG token first.
    """
    patches = patchify(signal, self.patch)
    positions = self.position_embedding()
    if kept is not None:
      patches = tf.gather(patches, kept, batch_dims=1)
      positions = tf.gather(positions, kept)
    tokens = self.projection(patches)
    tokens += tf.cast(positions, tokens.dtype)
    return prepend_agg(tokens, tf.cast(self.agg, tokens.dtype))


class TextTokenizer(tf.keras.layers.Layer):
  """Word ids -> tokens: embedding lookup after an AGG token (section 3.1).

  Args:
    vocab_size: rows of the embedding, padding and unknown word included.
    width: D.
    num_words: words of a caption.
    positions: adds a learnable row per word. The agnostic model needs it: its
      encoder has no relative bias.
  """

  def __init__(self, vocab_size, width, num_words, positions, name):
    super().__init__(name=name)
    # A word's vector is the whole token, so it starts at the scale of one.
    self.embedding = self.add_weight(
        "embedding", [vocab_size, width], initializer=table_init(scale=1.0))
    self.position = positions and self.add_weight(
        "position", [num_words, width], initializer=table_init(scale=1.0))
    self.agg = self.add_weight("agg", [width], initializer=table_init())

  def call(self, ids):
    """int32 [B, W] -> [B, 1 + W, D], the AGG token first."""
    tokens = tf.gather(tf.cast(self.embedding, self.compute_dtype), ids)
    if self.position is not False:
      tokens += tf.cast(self.position, tokens.dtype)
    return prepend_agg(tokens, tf.cast(self.agg, tokens.dtype))


def prepend_agg(tokens, agg):
  """[B, N, D] and [D] -> [B, 1 + N, D]."""
  # [D] -> [B, 1, D]
  first = tf.broadcast_to(agg, [tf.shape(tokens)[0], 1, agg.shape[0]])
  return tf.concat([first, tokens], axis=1)
