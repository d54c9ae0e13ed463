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

import numpy as np
import safetensors.numpy
import tensorflow as tf

from vatt import files
from vatt.errors import UserError, one_line
from vatt.models.convert import kinds, standard_config, tensor_files
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
        ignored=r"(pooler|classifier|decoder)\..*|embeddings\.mask_token"),
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
PREPROCESSOR = "preprocessor_config.json"  # what Hugging Face does to pixels
OF_MODALITY = {"video": ("hf", "timm"), "text": ("t5",)}

# Arguments of an Encoder that computes what a ViT, or T5's encoder, computes.
VIT = dict(relative_bias="", norm="layer", mlp_norm="layer", bias=True,
           scaled=True, activation="gelu")
T5 = dict(relative_bias="all", norm="rms", mlp_norm="rms", bias=False,
          scaled=False, activation="relu", max_distance=128)


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
    path: local safetensors file, index of several, or folder of either. A
      config.json beside it is compared with the tower in what no tensor tells.
    tower: of video or text.
    words: whether the file's words are the model's, and AGG the last of them,
      as `save` writes it. Else words and AGG stay as they are.

  Returns:
    Lines: what was left out, is not carried over or not verified.

  Raises:
    UserError: a file cannot be read; a tensor has no place in the tower, is
      missing, of another shape, quantized or not finite; the tower computes
      something else. It is as it was then.
  """
  _check(tower)
  path = tensor_files.find(path)
  config = tensor_files.read_beside(path)
  tensors = {key.removeprefix("vit."): tensor for key, tensor in
             tensor_files.list_tensors(path).items()}
  signs = {layout: names.get("patches", names["norm"]) + ".weight"
           for layout, names in LAYOUTS.items()
           if layout in OF_MODALITY[tower.modality]}
  layout = next((name for name in signs if signs[name] in tensors), None)
  if layout is None:
    raise UserError(f"{path}: of no layout known for {tower.modality}"
                    f"{kinds.seems(tensors)}, expected "
                    f"{' or '.join(signs.values())} among its tensors")

  found, names = entries(tower, layout, words), LAYOUTS[layout]
  shapes = {key: value.shape for entry in found
            for key, value in entry.tensors().items()}
  rest = sorted(set(tensors) - set(shapes))
  ignored = names["ignored"] + ("" if words else r"|shared\.weight")
  ignored = [key for key in rest if re.fullmatch(ignored, key)]
  misfits = [f"{key} is missing" for key in shapes if key not in tensors]
  misfits += [f"{key} has no place in the {tower.modality} tower"
              for key in rest if key not in ignored]
  kind = kinds.seems(rest) if misfits else ""
  problems, trusted = standard_config.compare(config, tower, layout, words)
  problems += misfits
  for key, shape in shapes.items():
    if key in tensors and tensors[key].shape != shape:
      problems.append(f"{key} is {tensors[key].shape}, expected {shape}")
    elif key in tensors and tensors[key].dtype not in tensor_files.FLOATS:
      problems.append(f"{key} is of type {tensors[key].dtype}, expected "
                      f"{', '.join(tensor_files.FLOATS)}")
  pixels = None
  if tower.modality == "video":
    pixels = standard_config.pixels(
        config, tensor_files.read_beside(path, PREPROCESSOR))
    if not pixels:
      trusted.append("pixels in [-1, 1]")
  if problems:
    raise UserError(f"{path}: does not fit{kind}: {_some(problems)}")

  notes = [f"left out: {_some(ignored)}"] if ignored else []
  if trusted:
    notes.append(f"on trust, as no file beside it tells: {', '.join(trusted)}")
  if layout == "t5" and not words:
    notes.append("words and AGG: as they were")
  filled = []  # all are read before the first is assigned
  for entry in found:
    theirs = [tensor_files.read(key, tensors[key]) for key in entry.keys]
    values = entry.join(*theirs)
    filled.append((entry, values))
    if names.get("positions") in entry.keys:
      notes.append(_left_over(theirs[1], entry.split(*values)[1]))
  for entry, values in filled:
    for variable, value in zip(entry.variables, values):
      variable.assign(value)
  if pixels and _normalize(tower.tokenizer.projection, *pixels):
    notes.append("pixels: the patches' kernel takes ours to its mean and "
                 "deviation")
  return notes


def _normalize(projection, scale, shift):
  """Has patches of pixels x be projected as scale · x + shift were; whether
  that is anything else."""
  if (scale == 1).all() and (shift == 0).all():
    return False
  kernel = projection.kernel.numpy().astype(np.float64)
  kernel = kernel.reshape(-1, 3, kernel.shape[-1])  # [t·h·w·3, D]
  projection.bias.assign_add(np.einsum("pcd,c->d", kernel, shift))
  projection.kernel.assign((kernel * scale[:, None]).reshape(
      projection.kernel.shape))
  return True


def read_epsilon(path: str) -> float | None:
  """Epsilon of the norms of what `load` takes, if a config.json tells it.

  Raises:
    UserError: it is not JSON.
  """
  return standard_config.epsilon(
      tensor_files.read_beside(tensor_files.find(path)))


def _left_over(theirs, ours):
  """What of tables of positions [1, 1 + H·W, D] ours do not carry."""
  table, rest = theirs[0, 1:], (ours - theirs)[0, 1:]
  deviation = np.linalg.norm(table - table.mean(0))
  share = np.linalg.norm(rest) / max(deviation, 1e-12)
  return (f"positions: rows plus columns leave {100 * share:.2g}% of their "
          f"deviation out, {np.abs(rest).max():.2g} at most")


def save(folder: str, tower: Tower, layout: str | None = None) -> list[str]:
  """Writes a tower as a standard Transformer: folder/model.safetensors.

  Beside it goes the config.json with which `transformers` reads it, and for
  images its preprocessor_config.json; none for timm, where the name of a model
  tells its sizes.

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
  if os.path.exists(path):  # which comes last
    raise UserError(f"{folder}: has a model, expected a new folder")
  tensors = {}
  for entry in entries(tower, layout):
    tensors.update(entry.tensors())
  try:
    os.makedirs(folder, exist_ok=True)
    if layout != "timm":  # first: weights without it would be misread
      files.write_whole(
          config, json.dumps(standard_config.describe(tower), indent=2))
    if layout == "hf":
      files.write_whole(os.path.join(folder, PREPROCESSOR), json.dumps(
          standard_config.describe_pixels(tower), indent=2))
    files.write_whole_by(path, lambda temporary: safetensors.numpy.save_file(
        tensors, temporary, {"format": "pt"}))
  except (*files.REFUSED, safetensors.SafetensorError) as error:
    raise UserError(f"{folder}: cannot be written: {one_line(error)}") from None
  times = tower.tokenizer.position.sizes[0] if tower.modality == "video" else 1
  notes = [f"positions: the mean of {times} in time"] if times > 1 else []
  found, usual = tower.encoder.untold["epsilon"], standard_config.PLAIN_EPSILON
  if layout == "timm" and found != usual:
    notes.append(f"epsilon of the norms is {found}, timm's {usual}: make the "
                 f"model with norm_layer=partial(LayerNorm, eps={found})")
  return notes


def _check(tower):
  """Raises UserError unless a tower computes what a ViT or T5 computes."""
  if tower.modality not in OF_MODALITY:
    raise UserError(f"modality is {tower.modality}, expected video or text")
  encoder, wanted = tower.encoder, VIT if tower.modality == "video" else T5
  found = {name: encoder.untold[name] for name in wanted
           if name != "max_distance"}
  if wanted is T5 and found["activation"] == "gelu":
    wanted = dict(T5, activation="gelu")  # T5 has both
  problems = [f"{name} is {value!r}, expected {wanted[name]!r}"
              for name, value in found.items() if value != wanted[name]]
  inner, width = encoder.blocks[0].attention.out.kernel.shape
  if wanted is VIT and inner != width:
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
