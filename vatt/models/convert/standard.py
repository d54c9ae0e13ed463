"""Standard Transformers, in and out of our towers, as safetensors.

The paper's video tower is a ViT with one more axis; a text encoder with T5's
settings is T5's. `load` fills a tower from a file in the layout of Hugging Face
(ViT, T5) or of timm (ViT), `save` writes one.

A ViT sees an image: it equals a tower for clips of one temporal patch, of
frames that are alike. Its kernel is spread evenly over the patch, ours summed
over it. It has a position for each patch where we have one for each row and
column, and one for CLS, our AGG, which becomes a part of that.
"""
import dataclasses
import json
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.numpy
import tensorflow as tf

from vatt.errors import UserError
from vatt.models.encoder import LAYER_NORM_EPSILON, NORMS
from vatt.models.vatt import Tower

# Names in a file, of layers without .weight and .bias; `ignored` is what no
# features need.
LAYOUTS = {
    "hf": dict(
        agg="embeddings.cls_token",
        positions="embeddings.position_embeddings",
        patches="embeddings.patch_embeddings.projection",
        block="encoder.layer.{}.", attention_norm="layernorm_before",
        qkv=("attention.attention.query", "attention.attention.key",
             "attention.attention.value"),
        out="attention.output.dense", mlp_norm="layernorm_after",
        mlp_in="intermediate.dense", mlp_out="output.dense", norm="layernorm",
        ignored=r"pooler\..*|classifier\..*|embeddings\.mask_token"),
    "timm": dict(
        agg="cls_token", positions="pos_embed", patches="patch_embed.proj",
        block="blocks.{}.", attention_norm="norm1", qkv=("attn.qkv",),
        out="attn.proj", mlp_norm="norm2", mlp_in="mlp.fc1", mlp_out="mlp.fc2",
        norm="norm", ignored=r"head\..*"),
    "t5": dict(
        words="shared.weight",
        relative_bias="encoder.block.0.layer.0.SelfAttention."
                      "relative_attention_bias.weight",
        block="encoder.block.{}.", attention_norm="layer.0.layer_norm",
        qkv=tuple(f"layer.0.SelfAttention.{part}" for part in "qkv"),
        out="layer.0.SelfAttention.o", mlp_norm="layer.1.layer_norm",
        mlp_in="layer.1.DenseReluDense.wi", mlp_out="layer.1.DenseReluDense.wo",
        norm="encoder.final_layer_norm",
        ignored=r"decoder\..*|lm_head\..*|encoder\.embed_tokens\..*"),
}
OF_MODALITY = {"video": ("hf", "timm"), "text": ("t5",)}

# Arguments of an Encoder that computes what a ViT, or T5's encoder, computes.
VIT = dict(relative_bias="", norm="layer", mlp_norm="layer", bias=True,
           scaled=True, activation="gelu")
T5 = dict(relative_bias="all", norm="rms", mlp_norm="rms", bias=False,
          scaled=False, activation="relu", max_distance=128)

# Of a config.json, what no tensor tells; old ones of T5 leave out the usual.
UNSEEN = ("num_attention_heads", "hidden_act", "num_heads", "feed_forward_proj",
          "relative_attention_max_distance")
USUAL = dict(feed_forward_proj="relu", relative_attention_max_distance=128)


@dataclasses.dataclass(frozen=True)
class Entry:
  """Variables of ours, and the tensors of a file that hold the same.

  Attributes:
    variables: ours.
    keys: of the tensors.
    join: tensors, as arguments -> values of the variables.
    split: the reverse.
  """
  variables: tuple[tf.Variable, ...]
  keys: tuple[str, ...]
  join: Callable
  split: Callable

  def tensors(self) -> dict[str, np.ndarray]:
    """{key: float32 array} of our values."""
    values = self.split(*(v.numpy() for v in self.variables))
    return {key: np.ascontiguousarray(value, np.float32)
            for key, value in zip(self.keys, values)}


def _layer(layer, *keys):
  """A Dense layer or a norm; theirs is one layer, or several side by side."""
  pair = ((layer.kernel, layer.bias) if hasattr(layer, "kernel") else
          (layer.scale, layer.offset))
  return [
      Entry((variable,), tuple(f"{key}.{name}" for key in keys),
            # n of [out, in] <-> [in, n·out]; n of [out] <-> [n·out]
            lambda *parts: [np.concatenate(parts).T],
            lambda value: np.split(value.T, len(keys)))
      for name, variable in zip(("weight", "bias"), pair)
      if variable is not None]


def _patches(tokenizer, key):
  frames, *patch = tokenizer.patch
  kernel, bias = _layer(tokenizer.projection, key)

  def join(image):
    # [D, 3, h, w] -> [h, w, 3, D] -> [t, h, w, 3, D] -> [t·h·w·3, D]
    image = image.transpose(2, 3, 1, 0) / np.float32(frames)
    return [np.stack([image] * frames).reshape(-1, image.shape[-1])]

  def split(clip):
    # In float64: by a power of two, what `join` divided comes back exactly.
    clip = clip.reshape(frames, *patch, 3, -1).astype(np.float64)
    return [clip.sum(0).transpose(3, 2, 0, 1)]

  return [dataclasses.replace(kernel, join=join, split=split), bias]


def _positions(tokenizer, *keys):
  position = tokenizer.position
  times, *grid = position.sizes

  def join(cls, table):
    # The rows and columns whose sums are nearest to the table, in the sense of
    # least squares: their means. [1, 1 + H·W, D] -> [H, W, D]
    full = table[0, 1:].reshape(*grid, -1).astype(np.float64)
    return (cls[0, 0] + table[0, 0], np.zeros([times, full.shape[-1]]),
            full.mean(1), full.mean(0) - full.mean((0, 1)))

  def split(agg, temporal, vertical, horizontal):
    # [H, 1, D] + [W, D] -> [1, H·W, D] -> [1, 1 + H·W, D]
    full = temporal.astype(np.float64).mean(0) + vertical[:, None] + horizontal
    full = full.reshape(1, -1, agg.shape[0])
    return agg[None, None], np.pad(full, [[0, 0], [1, 0], [0, 0]])

  return Entry((tokenizer.agg, *position.tables.values()), keys, join, split)


def entries(tower: Tower, layout: str, words: bool = True) -> list[Entry]:
  """The entries of a tower.

  Args:
    tower: of video or text.
    layout: a key of LAYOUTS.
    words: whether with the words' embedding, and AGG as its last row.
  """
  names, tokenizer, encoder = LAYOUTS[layout], tower.tokenizer, tower.encoder
  found = _layer(encoder.norm, names["norm"])
  for i, block in enumerate(encoder.blocks):
    prefix = names["block"].format(i)
    found += _layer(block.attention.qkv, *(prefix + k for k in names["qkv"]))
    found += _layer(block.attention.out, prefix + names["out"])
    for name in ("attention_norm", "mlp_norm", "mlp_in", "mlp_out"):
      found += _layer(getattr(block, name), prefix + names[name])
  if layout != "t5":
    return [*found, *_patches(tokenizer, names["patches"]),
            _positions(tokenizer, names["agg"], names["positions"])]
  found.append(Entry(
      (encoder.relative_bias.table,), (names["relative_bias"],),
      lambda table: [table], lambda table: [table]))
  if words:
    found.append(Entry(
        (tokenizer.embedding, tokenizer.agg), (names["words"],),
        lambda table: (table[:-1], table[-1]),
        lambda table, agg: [np.concatenate([table, agg[None]])]))
  return found


def load(path: str, tower: Tower, words: bool = False) -> list[str]:
  """Fills a tower with the weights of a ViT, or of T5's encoder.

  Args:
    path: local safetensors file. A config.json beside it is compared with the
      tower in what no tensor tells.
    tower: of video or text.
    words: whether the file's words are the model's, and AGG the last of them,
      as `save` writes it. Else words and AGG stay as they are.

  Returns:
    Lines: what was left out, is not carried over or not verified.

  Raises:
    UserError: the file cannot be read; a tensor has no place in the tower, is
      missing or of another shape; the tower computes something else.
  """
  _check(tower)
  try:
    tensors = {key.removeprefix("vit."): value for key, value in
               safetensors.numpy.load_file(path).items()}
    beside = os.path.join(os.path.dirname(path), "config.json")
    config = {}
    if os.path.exists(beside):
      with open(beside) as file:
        config = dict(json.load(file))
  except (OSError, safetensors.SafetensorError, KeyError, TypeError,
          ValueError) as error:
    raise UserError(f"{path}: not a safetensors file, or its config.json not "
                    f"JSON: {error}") from None
  signs = {layout: LAYOUTS[layout]["norm"] + ".weight"
           for layout in OF_MODALITY[tower.modality]}
  layout = next((name for name in signs if signs[name] in tensors), None)
  if layout is None:
    raise UserError(f"{path}: of no layout known for {tower.modality}, expected"
                    f" {' or '.join(signs.values())} among its tensors")
  if any(".DenseReluDense.wi_0." in key for key in tensors):
    raise UserError(f"{path}: its MLPs are gated (wi_0 and wi_1, as in T5 1.1 "
                    "and Flan-T5), expected plain ones (wi)")

  found, names = entries(tower, layout, words), LAYOUTS[layout]
  shapes = {key: value.shape for entry in found
            for key, value in entry.tensors().items()}
  ours = {k: v for k, v in describe(tower).items() if k in UNSEEN}
  theirs = {**(USUAL if config.get("model_type") == "t5" else {}), **config}
  ignored = names["ignored"] + ("" if words else r"|shared\.weight")
  ignored = [key for key in sorted(set(tensors) - set(shapes))
             if re.fullmatch(ignored, key)]
  problems = [f"{name} is {theirs[name]}, expected {value}"
              for name, value in ours.items()
              if theirs.get(name, value) != value]
  problems += [f"{key} is missing" for key in shapes if key not in tensors]
  problems += [f"{key} is {tensors[key].shape}, expected {shape}"
               for key, shape in shapes.items()
               if key in tensors and tensors[key].shape != shape]
  problems += [f"{key} has no place in the {tower.modality} tower" for key
               in sorted(set(tensors) - set(shapes) - set(ignored))]
  if problems:
    raise UserError(f"{path}: does not fit: {_some(problems)}")

  notes = [f"left out: {_some(ignored)}"] if ignored else []
  if trusted := sorted(set(ours) - set(theirs)):
    notes.append("on trust, as no config.json tells: "
                 + ", ".join(f"{name} {ours[name]}" for name in trusted))
  if layout == "t5" and not words:
    notes.append("words and AGG: as they were")
  for entry in found:
    values = entry.join(*(tensors[k].astype(np.float32) for k in entry.keys))
    for variable, value in zip(entry.variables, values):
      variable.assign(value)
    if names.get("positions") in entry.keys:
      table = tensors[entry.keys[1]][0, 1:].astype(np.float32)
      rest = entry.split(*values)[1][0, 1:] - table
      deviation = np.linalg.norm(table - table.mean(0))
      share = np.linalg.norm(rest) / max(deviation, 1e-12)
      notes.append(f"positions: rows plus columns leave {share:.1%} of their "
                   f"deviation out, {np.abs(rest).max():.2g} at most")
  return notes


def save(folder: str, tower: Tower, layout: str | None = None) -> list[str]:
  """Writes a tower as a standard Transformer: folder/model.safetensors.

  Beside it goes the config.json with which `transformers` reads it; none for
  timm, where the name of a model tells its sizes.

  Args:
    folder: local; a new one.
    tower: of video or text.
    layout: hf or timm, of video; t5, of text; None for the first of these.

  Returns:
    Lines: what is not carried over.

  Raises:
    UserError: a layout of another modality; the tower computes something else;
      the folder has files of that name, or cannot be written.
  """
  _check(tower)
  layouts = OF_MODALITY[tower.modality]
  layout = layout or layouts[0]
  if layout not in layouts:
    raise UserError(f"layout is {layout}, expected {' or '.join(layouts)}")
  path, config = (os.path.join(folder, name)
                  for name in ("model.safetensors", "config.json"))
  if os.path.exists(path) or os.path.exists(config):
    raise UserError(f"{folder}: has a model, expected a new folder")
  tensors = {}
  for entry in entries(tower, layout):
    tensors.update(entry.tensors())
  try:
    os.makedirs(folder, exist_ok=True)
    safetensors.numpy.save_file(tensors, path, {"format": "pt"})
    if layout != "timm":
      with open(config, "w") as file:
        json.dump(describe(tower), file, indent=2)
  except (OSError, safetensors.SafetensorError) as error:
    raise UserError(f"{folder}: cannot be written: {error}") from None
  times = tower.tokenizer.position.sizes[0] if tower.modality == "video" else 1
  return [f"positions: the mean of {times} in time"] if times > 1 else []


def describe(tower: Tower) -> dict[str, Any]:
  """The config.json of Hugging Face for what `save` writes."""
  encoder, tokenizer = tower.encoder, tower.tokenizer
  block, depth = encoder.blocks[0], len(encoder.blocks)
  width, mlp_dim = block.mlp_in.kernel.shape
  heads, head_dim = block.attention.num_heads, block.attention.head_dim
  activation = tf.keras.activations.serialize(block.activation)
  if tower.modality == "text":
    bias = encoder.relative_bias
    return dict(
        model_type="t5", vocab_size=tokenizer.embedding.shape[0] + 1,
        d_model=width, d_kv=head_dim, d_ff=mlp_dim, num_layers=depth,
        num_heads=heads, feed_forward_proj=activation,
        relative_attention_num_buckets=bias.num_buckets,
        relative_attention_max_distance=bias.max_distance,
        layer_norm_epsilon=LAYER_NORM_EPSILON)
  patch = tokenizer.patch[1:]
  size = [n * p for n, p in zip(tokenizer.position.sizes[1:], patch)]
  return dict(
      model_type="vit", hidden_size=width, num_hidden_layers=depth,
      num_attention_heads=heads, intermediate_size=mlp_dim,
      hidden_act=activation, layer_norm_eps=LAYER_NORM_EPSILON,
      image_size=size[0] if size[0] == size[1] else size,
      patch_size=patch[0] if patch[0] == patch[1] else patch)


def _check(tower):
  """Raises UserError unless a tower computes what a ViT or T5 computes."""
  if tower.modality not in OF_MODALITY:
    raise UserError(f"modality is {tower.modality}, expected video or text")
  encoder, wanted = tower.encoder, VIT if tower.modality == "video" else T5
  block, depth = encoder.blocks[0], len(encoder.blocks)
  norms = {layer: name for name, layer in NORMS.items()}
  found = dict(
      relative_bias={0: "", depth: "all"}.get(encoder.biased_blocks, "first"),
      norm=norms[type(encoder.norm)], mlp_norm=norms[type(block.mlp_norm)],
      bias=block.mlp_in.use_bias, scaled=block.attention.scale != 1.0,
      activation=tf.keras.activations.serialize(block.activation))
  if wanted is T5 and found["activation"] == "gelu":
    wanted = dict(T5, activation="gelu")  # T5 has both
  problems = [f"{name} is {value!r}, expected {wanted[name]!r}"
              for name, value in found.items() if value != wanted[name]]
  if wanted is VIT and block.attention.out.kernel.shape[0] != encoder.width:
    problems.append("heads are not as wide as width / num_heads")
  if not problems:
    placed = {variable.ref() for entry in entries(
        tower, OF_MODALITY[tower.modality][0]) for variable in entry.variables}
    problems = [f"{variable.name} has no place there"
                for variable in tower.variables if variable.ref() not in placed]
  if problems:
    raise UserError(f"the {tower.modality} tower is no "
                    f"{'ViT' if wanted is VIT else 'T5'}: {_some(problems)}")


def _some(items, limit=10):
  """All items, or the first of many."""
  rest = len(items) - limit
  return "; ".join(items[:limit]) + (f"; {rest} more" if rest > 0 else "")
