"""What a model costs before it is built: parameters, operations, memory.

Closed forms in the fields of a config's `model`. Tests hold them against the
variables and the graph of the models themselves.

All take `model`, that part of a config, and `shapes` of each modality's input:
(T, H, W, C) of `video`; (S, 1) or (frames, bins, 1) of `audio`; (W,) of `text`.
All return a dict by part: `video tokenizer`, `video encoder` and the like,
`video post-projection` if there is one, and `heads`, or `classifier` where a
number of classes is given.
"""
import inspect
import math
import types
from collections.abc import Mapping

import tensorflow as tf
from ml_collections import ConfigDict

from vatt.models.encoder import Encoder
from vatt.models.tokenizers import grid_of, num_kept

Shapes = Mapping[str, tuple[int, ...]]

NORM_VECTORS = {"layer": 2, "rms": 1}  # scale, and offset
BATCH_NORM_VECTORS = 4  # scale, offset, moving mean and variance: two trained
# Operations on each element of the scores in the paper's way of counting: five
# for softmax, one each for scaling and mask.
PAPER_SCORE_FLOPS = 7
GELU_KEEPS = 3  # x / √2, 1 + erf(x / √2) and x / 2, by Keras' layers
# A step's peak by the activations that it keeps: the most that was measured.
PEAK = 1.6
TPU_V3_CORE = 16 * 2 ** 30  # bytes


def total(parts: Mapping[str, float]) -> float:
  """The sum over all parts."""
  return sum(parts.values())


def parameters(model: ConfigDict, shapes: Shapes, num_classes: int = 0,
               trainable_only: bool = False) -> dict[str, int]:
  """Counts parameters; those of a shared encoder are `shared encoder`.

  Args:
    model, shapes: see above.
    num_classes: a Classifier's; 0 for a VATT.
    trainable_only: leaves out what no gradient changes: frozen vectors of words
      and moving statistics.
  """
  shared = "shared" in model.encoders
  parts = {}
  for modality, shape in shapes.items():
    encoder = encoder_of(model, modality)
    d = encoder.width
    if modality == "text":
      word_dim = model.word_dim or d
      frozen = trainable_only and model.word_dim
      count = 0 if frozen else model.vocab_size * word_dim
      if model.word_dim:
        count += linear(word_dim, d, bias=shared)
      count += d if shared else word_dim  # AGG
      rows = shape[0] if shared else 0
    else:
      grid = grid_of(shape[:-1], model[f"{modality}_patch"])
      count = linear(patch_values(model, modality, shape), d) + d  # and AGG
      if model.pre_projection:
        count += linear(d, d)
      rows = sum(grid)
    if rows:
      count += (rows + 2 * bool(model.normalize_positions)) * d
    parts[f"{modality} tokenizer"] = count
    parts["shared encoder" if shared else f"{modality} encoder"] = (
        encoder_parameters(encoder))
    if model.post_projection:
      parts[f"{modality} post-projection"] = linear(d, model.post_projection)
  if num_classes:
    modality, = shapes
    parts["classifier"] = linear(features(model, modality), num_classes)
    return parts
  vectors = BATCH_NORM_VECTORS - 2 * bool(trainable_only)
  parts["heads"] = sum(
      linear(fan_in, fan_out, bias=False) + (
          vectors if normalized else 1) * fan_out  # or a bias
      for _, fan_in, fan_out, normalized in head_layers(model))
  return parts


def flops(model: ConfigDict, shapes: Shapes, captions: int = 1,
          num_classes: int = 0, training: bool = False, paper: bool = False
          ) -> dict[str, int]:
  """Counts the floating-point operations of a clip's forward pass.

  They are those of all matrix products, two a multiply-add. With `paper`, as
  the paper's figures were counted: all patches are projected, and DropToken
  comes after; the product of queries and keys is not counted; 7 operations are
  added for each element of the scores.

  Args:
    model, shapes: see above.
    captions: K of a clip.
    num_classes: a Classifier's; 0 for a VATT.
    training: whether DropToken drops `model.drop_rate` of the patches, and
      audio stays out of S_vt.
    paper: whether to count as the paper did.
  """
  parts = {}
  for modality, shape in shapes.items():
    encoder = encoder_of(model, modality)
    d, clip = encoder.width, captions if modality == "text" else 1
    n = num_tokens(model, modality, shape, training)
    if modality == "text":
      # AGG is a word among the others, or joins them later.
      words = shape[0] if "shared" in model.encoders else n
      count = words * model.word_dim * d
    else:
      projected = num_tokens(model, modality, shape) - 1 if paper else n - 1
      count = projected * d * (
          patch_values(model, modality, shape) + bool(model.pre_projection) * d)
    parts[f"{modality} tokenizer"] = 2 * clip * count
    parts[f"{modality} encoder"] = clip * encoder_flops(encoder, n, paper)
    if model.post_projection:
      parts[f"{modality} post-projection"] = (
          2 * clip * n * d * model.post_projection)
  if num_classes:
    modality, = shapes
    parts["classifier"] = 2 * features(model, modality) * num_classes
    return parts
  layers = [(captions if modality == "text" else 1) * fan_in * fan_out
            for modality, fan_in, fan_out, _ in head_layers(model)]
  if not training:  # audio passes the video's head from S_va to S_vt
    layers.append(model.dim_va * model.dim_vt)
  parts["heads"] = 2 * sum(layers)
  return parts


def activation_bytes(model: ConfigDict, shapes: Shapes, captions: int = 1,
                     dtype: str = "float32") -> dict[str, int]:
  """Estimates what a clip's step keeps for the backward pass, in bytes.

  Assumed: TensorFlow runs the graph as it is written, so that every tensor that
  a gradient reads is kept and none beside, and MLPs have GELU. Nothing is kept
  that `kernels` recomputes. With e bytes a number and N tokens, AGG among them,
  a block keeps

  - the inputs of its norms, twice e [N, D];
  - queries, keys, values and their mixture, 4e [N, inner];
  - GELU's input, e [N, mlp_dim];
  - 8 bytes for each row of a dropout: N thrice, and heads · N;

  and with `model.remat` its input alone, e [N, D].

  Left out: what does not grow with the tokens (heads, losses), what lives for a
  moment (in the backward pass, gradients of a block), weights and the input.

  Args:
    model, shapes: see above; `drop_rate` and `dropout` are those of `model`.
    captions: K of a clip.
    dtype: name of a Keras policy.
  """
  policy = tf.keras.mixed_precision.Policy(dtype)
  e = tf.as_dtype(policy.compute_dtype).size
  bits = 8 if model.dropout else 0  # bytes of a row that is dropped from
  parts = {}
  for modality, shape in shapes.items():
    encoder = encoder_of(model, modality)
    d, clip = encoder.width, captions if modality == "text" else 1
    n = num_tokens(model, modality, shape, training=True)
    if modality == "text":
      row = model.word_dim and model.word_dim + GELU_KEEPS * d
    else:
      row = patch_values(model, modality, shape)
      row += bool(model.pre_projection) * (1 + GELU_KEEPS) * d
    parts[f"{modality} tokenizer"] = clip * (n - 1) * row * e
    block = (e * (2 * d + 4 * encoder.inner + encoder.mlp_dim)
             + bits * (3 + encoder.num_heads)) if not model.remat else e * d
    parts[f"{modality} encoder"] = clip * n * (
        encoder.depth * block + d * e + 2 * bits)
    if model.post_projection:
      parts[f"{modality} post-projection"] = (
          clip * n * (d + GELU_KEEPS * model.post_projection) * e)
  return parts


def state_bytes(model: ConfigDict, shapes: Shapes, optimizer: str,
                num_classes: int = 0) -> int:
  """What a step holds of a model, whatever the batch, in bytes: float32 weights
  and, of those that are trained, gradients and the optimizer's moments.

  Args:
    model, shapes, num_classes: as of `parameters`.
    optimizer: its name in a config.
  """
  count, trained = (total(parameters(model, shapes, num_classes, only))
                    for only in (False, True))
  moments = 1 if optimizer.startswith("sgd") else 2
  return 4 * (count + (1 + moments) * trained)


def clips_that_fit(state: float, clip: float, memory: int = TPU_V3_CORE) -> int:
  """The largest power of two of clips whose step fits a device; 0 for none.

  Args:
    state: bytes that the batch does not change, see `state_bytes`.
    clip: bytes of activations that a clip keeps, see `activation_bytes`.
    memory: bytes of the device.
  """
  clips = int((memory - state) // (PEAK * clip))
  return 1 << clips.bit_length() - 1 if clips > 0 else 0


# -----------------------------------------------------------------------------
# Sizes.
# -----------------------------------------------------------------------------
def encoder_of(model: ConfigDict, modality: str) -> types.SimpleNamespace:
  """The fields of the encoder of a modality by their names, Encoder's defaults
  among them, and `inner`, the width of all heads."""
  fields = {name: field.default for name, field in
            inspect.signature(Encoder).parameters.items()}
  part = "shared" if "shared" in model.encoders else modality
  if part == "text":
    fields["relative_bias"] = "first"
  fields.update(model.encoders[part])
  encoder = types.SimpleNamespace(**fields)
  encoder.inner = encoder.num_heads * (
      encoder.head_dim or encoder.width // encoder.num_heads)
  return encoder


def num_tokens(model: ConfigDict, modality: str, shape: tuple[int, ...],
               training: bool = False) -> int:
  """Tokens that the encoder sees, AGG among them."""
  if modality == "text":
    return 1 + shape[0]
  patches = math.prod(grid_of(shape[:-1], model[f"{modality}_patch"]))
  return 1 + (num_kept(patches, model.drop_rate) if training else patches)


def patch_values(model: ConfigDict, modality: str, shape: tuple[int, ...]
                 ) -> int:
  """Numbers in a patch."""
  return math.prod(model[f"{modality}_patch"]) * shape[-1]


def features(model: ConfigDict, modality: str) -> int:
  """Width of a modality's features."""
  return model.post_projection or encoder_of(model, modality).width


def head_layers(model: ConfigDict) -> list[tuple[str, int, int, bool]]:
  """(modality, width in, width out, whether batch norm follows) of the linear
  layers of a VATT's heads."""
  va, vt, paper = model.dim_va, model.dim_vt, model.heads == "paper"
  return [("video", features(model, "video"), va, True),
          ("video", va, va, True),
          ("audio", features(model, "audio"), va, paper),
          ("video", va, vt, True),
          ("text", features(model, "text"), vt, paper)]


def linear(fan_in: int, fan_out: int, bias: bool = True) -> int:
  """Parameters of a linear layer."""
  return (fan_in + bool(bias)) * fan_out


def encoder_parameters(encoder: types.SimpleNamespace) -> int:
  """Parameters of an encoder, given its fields."""
  d, bias = encoder.width, encoder.bias
  norms = NORM_VECTORS[encoder.norm], NORM_VECTORS[encoder.mlp_norm]
  block = (linear(d, 3 * encoder.inner, bias) + linear(encoder.inner, d, bias)
           + linear(d, encoder.mlp_dim, bias) + linear(encoder.mlp_dim, d, bias)
           + sum(norms) * d)
  table = bool(encoder.relative_bias) * encoder.num_buckets * encoder.num_heads
  return encoder.depth * block + norms[0] * d + table


def encoder_flops(encoder: types.SimpleNamespace, n: int, paper: bool) -> int:
  """Operations of an encoder on n tokens; with `paper`, as the paper counts."""
  d, inner = encoder.width, encoder.inner
  block = 2 * n * (4 * d * inner + 2 * d * encoder.mlp_dim)
  if paper:
    block += 2 * n * n * inner + PAPER_SCORE_FLOPS * n * n * encoder.num_heads
  else:
    block += 2 * (2 * n * n * inner)  # Q·Kᵀ, and the mixture of the values
  return encoder.depth * block
