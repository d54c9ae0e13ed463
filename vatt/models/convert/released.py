"""The released VATT weights: what a checkpoint holds, in and out of our models.

The authors released checkpoints of `tf.train.Checkpoint(model=…, optimizer=…)`:
models pre-trained with three encoders or with one, and such fine-tuned on video
or on audio. `describe` tells from the variables which model one holds; `load`
fills such a model, `save` writes one in the same form.
"""
import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vatt import files
from vatt.errors import UserError, one_line
from vatt.models.convert import kinds
from vatt.models.tokenizers import resize_positions
from vatt.models.vatt import FLAVOURS, RELEASED_TEXT, VATT, Classifier

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
ROOT = "model/layer_with_weights-0"
SPECIFIC = f"{ROOT}/_base_layer"  # {vid,aud,txt}_backbone
SHARED = f"{ROOT}/_base_layer/unified_backbone/unified_transformer"
HEADS = f"{ROOT}/_head_layer/_bridge_heads/0"
FINE_TUNED = f"{ROOT}/_base"
CLASSIFIER = f"{ROOT}/_ops/cls"

# Beside the model: with these the program that wrote it could train on. Ours
# starts its optimizers anew.
IGNORED = re.compile(r"optimizer/.*|save_counter/.*|.*/\.OPTIMIZER_SLOT/.*|"
                     "_CHECKPOINTABLE_OBJECT_GRAPH")

# What TensorFlow raises for files that are missing, cut off or changed.
UNREADABLE = (LookupError, OSError, RuntimeError, ValueError, tf.errors.OpError)

SHORT = {"video": "vid", "audio": "aud", "text": "txt"}
# A patch's projection, by the modality and the axes of the patch.
PATCHES = {("video", 3): "voxel_to_patch", ("audio", 1): "wave_to_patch",
           ("audio", 2): "spectrum_to_patch"}


@dataclasses.dataclass(frozen=True)
class Entry:
  """Where one variable of ours lies in a released checkpoint.

  Attributes:
    variable: ours.
    keys: one or more, of variables that stand side by side along its last axis.
    shape: of each of them.
  """
  variable: tf.Variable
  keys: tuple[str, ...]
  shape: tuple[int, ...]

  def join(self, values: Sequence[np.ndarray]) -> np.ndarray:
    """Our value, of theirs."""
    # [4, 16, 16, 3, D] -> [3072, D]: a patch is a row
    rows = [*self.variable.shape[:-1], self.shape[-1]]
    return np.concatenate([v.reshape(rows) for v in values], axis=-1)

  def split(self) -> list[np.ndarray]:
    """Their values, of ours."""
    parts = np.split(self.variable.numpy(), len(self.keys), axis=-1)
    return [part.reshape(self.shape) for part in parts]


def entries(model: VATT | Classifier) -> list[Entry]:
  """The entries of all variables of a model."""
  if hasattr(model, "classifier"):
    found = _tower(model.tower, FINE_TUNED)
    return found + _dense(model.classifier, CLASSIFIER)
  found = []
  towers = model.towers
  shared = towers["video"].encoder is towers["text"].encoder
  for modality, tower in towers.items():
    if shared:
      found += _shared_tower(tower)
    elif modality == "text":
      found += _text_tower(tower)
    else:
      found += _tower(tower, f"{SPECIFIC}/{SHORT[modality]}_backbone/_base")
  if shared:
    found += _encoder(towers["video"].encoder, f"{SHARED}/tx")
  video_va, video_vt = model.heads["video_va"], model.heads["video_vt"]
  first, second = video_va.linears
  return [
      *found,
      *_dense(first, f"{HEADS}/vid_to_hid"),
      *_batch_norm(video_va.norms[0], f"{HEADS}/hid_to_va/pre_bn"),
      *_dense(second, f"{HEADS}/hid_to_va/dense"),
      *_batch_norm(video_va.norms[1], f"{HEADS}/hid_to_va/bn"),
      *_dense(video_vt.linears[0], f"{HEADS}/va_to_vat/dense"),
      *_batch_norm(video_vt.norms[0], f"{HEADS}/va_to_vat/bn"),
      *_dense(model.heads["audio_va"].linears[0], f"{HEADS}/aud_to_va"),
      *_dense(model.heads["text_vt"].linears[0], f"{HEADS}/txt_to_vat"),
  ]


def _entry(variable, *keys, shape=None):
  shape = shape or (*variable.shape[:-1], variable.shape[-1] // len(keys))
  return Entry(variable, tuple(key + VALUE for key in keys), tuple(shape))


def _dense(layer, *keys, shape=None):
  found = [_entry(layer.kernel, *(f"{key}/kernel" for key in keys),
                  shape=shape)]
  if layer.use_bias:
    found.append(_entry(layer.bias, *(f"{key}/bias" for key in keys)))
  return found


def _norm(layer, key):
  if layer.offset is None:  # RMSNorm
    return [_entry(layer.scale, f"{key}/weight")]
  return [_entry(layer.scale, f"{key}/gamma"),
          _entry(layer.offset, f"{key}/beta")]


def _batch_norm(layer, key):
  return [*_norm(layer, key),
          _entry(layer.moving_mean, f"{key}/moving_mean"),
          _entry(layer.moving_variance, f"{key}/moving_variance")]


def _encoder(encoder, key, attention="mha", attention_norm="layer_norm"):
  """`attention` and `attention_norm` are their keys within a layer."""
  found = _norm(encoder.norm, f"{key}/final_layer_norm")
  if encoder.biased_blocks:
    found.append(_entry(
        encoder.relative_bias.table,
        f"{key}/layers/0/{attention}/relative_attention_bias/embeddings"))
  for i, block in enumerate(encoder.blocks):
    layer = f"{key}/layers/{i}"
    found += [
        *_norm(block.attention_norm, f"{layer}/{attention_norm}"),
        *_dense(block.attention.qkv,
                *(f"{layer}/{attention}/{part}" for part in "qkv")),
        *_dense(block.attention.out, f"{layer}/{attention}/o"),
        *_norm(block.mlp_norm, f"{layer}/feed_forward/layer_norm"),
        *_dense(block.mlp_in, f"{layer}/feed_forward/mlp/wi"),
        *_dense(block.mlp_out, f"{layer}/feed_forward/mlp/wo")]
  return found


def _patches(tokenizer, key):
  size, width = tokenizer.projection.kernel.shape
  channels = size // math.prod(tokenizer.patch)
  return _dense(tokenizer.projection, key,
                shape=(*tokenizer.patch, channels, width))


def _positions(position, key):
  found = _norm(position.norm, f"{key}/layernorm") if position.norm else []
  for axis, table in position.tables.items():
    axis = "spectoral" if axis == "spectral" else axis  # their spelling
    found.append(_entry(table, f"{key}/{axis}_position_embeddings/embeddings"))
  return found


def _projections(tower, before, after):
  found = []
  if tower.tokenizer.pre_projection:
    found += _dense(tower.tokenizer.pre_projection, before)
  if tower.post_projection:
    found += _dense(tower.post_projection, after)
  return found


def _tower(tower, key):
  """Video or audio with an encoder of its own."""
  tokenizer = tower.tokenizer
  name = PATCHES[tower.modality, len(tokenizer.patch)]
  return [*_patches(tokenizer, f"{key}/{name}"),
          *_positions(tokenizer.position, f"{key}/pos_embedding_lookup"),
          _entry(tokenizer.agg, f"{key}/agg_embedding"),
          *_encoder(tower.encoder, f"{key}/tx"),
          *_projections(tower, f"{key}/pre_proj", f"{key}/post_proj")]


def _text_tower(tower):
  """Text with an encoder of its own."""
  key = f"{SPECIFIC}/txt_backbone"
  return [_entry(tower.tokenizer.embedding, f"{key}/embedding/embeddings"),
          _entry(tower.tokenizer.agg, f"{key}/agg_embedding"),
          *_encoder(tower.encoder, f"{key}/base_lm",
                    "self_attention/attention", "self_attention/layer_norm"),
          *_projections(tower, f"{key}/pre_proj", None)]


def _shared_tower(tower):
  """Any modality of the model with one encoder; without the encoder."""
  modality, tokenizer = tower.modality, tower.tokenizer
  raw = f"{SHARED}/raw_to_embeddings/{modality}"
  return [*([_entry(tokenizer.embedding, f"{raw}/embeddings")]
            if modality == "text" else _patches(tokenizer, raw)),
          *_positions(tokenizer.position,
                      f"{SHARED}/pos_embedding_lookup/{modality}"),
          _entry(tokenizer.agg, f"{SHARED}/{SHORT[modality]}_agg_embedding"),
          *_projections(tower, f"{SHARED}/pre_proj/{modality}",
                        f"{SHARED}/post_proj/{modality}")]


def load(path: str, model: VATT | Classifier, resize: bool = False) -> None:
  """Fills a model with the weights of a released checkpoint.

  Args:
    path: prefix of the checkpoint, without .index.
    model: with the fields that `describe` finds.
    resize: whether tables of positions of another length, as for another
      resolution, are resized along a spline.

  Raises:
    UserError: the checkpoint is missing or damaged, a variable of either side
      has no counterpart or one of another shape.
  """
  shapes = read_shapes(path)
  problems = misfits(shapes, model, resize)
  if problems:
    raise UserError(f"{path}: does not fit{kinds.seems(shapes)}: "
                    f"{_some(problems)}")
  with _open(path) as reader:
    for entry in entries(model):
      values = [_read(reader, path, key) for key in entry.keys]
      if values[0].shape != entry.shape:
        values = [resize_positions(values[0], entry.shape[0], "spline")]
      entry.variable.assign(entry.join(values))


def misfits(shapes: Mapping[str, tuple[int, ...]], model: VATT | Classifier,
            resize: bool = False) -> list[str]:
  """Why a checkpoint does not fit a model: sentences, none if it does.

  Args:
    shapes: of the checkpoint's variables, by key.
    model: the model to fill.
    resize: whether tables of positions may have another length.
  """
  wanted = entries(model)
  problems = []
  for entry in wanted:
    for key in entry.keys:
      found = shapes.get(key)
      free = resize and "_position_embeddings/" in key
      if found is None:
        problems.append(f"{_short(key)} is missing")
      elif found[free:] != entry.shape[free:]:
        problems.append(f"{_short(key)} is {found}, expected {entry.shape}")
  used = {key for entry in wanted for key in entry.keys}
  problems += [f"{_short(key)} has no place in this model"
               for key in sorted(shapes)
               if key not in used and not IGNORED.fullmatch(key)]
  return problems + [
      f"{name} is in no release" for name in homeless(model)]


def homeless(model: VATT | Classifier) -> list[str]:
  """Names of the variables of a model that have no place in a release."""
  placed = {entry.variable.ref() for entry in entries(model)}
  return [variable.name for variable in model.variables
          if variable.ref() not in placed]


def ignored(shapes: Iterable[str]) -> list[str]:
  """Names of what a released checkpoint holds beside the model."""
  return sorted(filter(IGNORED.fullmatch, shapes))


def read_shapes(path: str) -> dict[str, tuple[int, ...]]:
  """{key: shape} of the variables of a checkpoint.

  Raises:
    UserError: it is missing, or damaged.
  """
  with _open(path) as reader:
    return {key: tuple(shape) for key, shape in
            reader.get_variable_to_shape_map().items()}


def find(path: str) -> str:
  """The prefix of a checkpoint that a path means: that prefix, one of its
  files, or the folder of one checkpoint, or of several with a state file.

  Raises:
    UserError: a folder with none, or with several.
  """
  path = re.sub(r"\.(index|data-\d+-of-\d+)$", "", path)
  if not os.path.isdir(path) or os.path.exists(f"{path}.index"):
    return path
  found = sorted(name.removesuffix(".index") for name in os.listdir(path)
                 if name.endswith(".index"))
  if len(found) != 1:  # the one that the state file names, as it was or moved
    with contextlib.suppress(OSError, UnicodeDecodeError):
      with open(os.path.join(path, "checkpoint"), encoding="utf-8") as file:
        newest = re.match(r'model_checkpoint_path: "(?:.*/)?(.*)"', file.read())
      found = [name for name in found if newest and newest[1] == name] or found
  if len(found) != 1:
    raise UserError(f"{path}: a folder with {len(found)} checkpoints"
                    f"{': ' * bool(found)}{', '.join(found[:5])}, expected one "
                    "or the path of one")
  return os.path.join(path, found[0])


def save(path: str, model: VATT | Classifier) -> None:
  """Writes a model as a checkpoint of the released form; whole, or not at all.

  Args:
    path: prefix of the checkpoint to write.
    model: with the fields of the released flavour.

  Raises:
    UserError: it cannot be written.
  """
  root = tf.Module()
  for entry in entries(model):
    for key, value in zip(entry.keys, entry.split()):
      *parents, leaf = key.removesuffix(VALUE).split("/")
      node = root
      for name in parents:
        if not hasattr(node, name):
          setattr(node, name, tf.Module())
        node = getattr(node, name)
      setattr(node, leaf, tf.Variable(value))
  folder, name = os.path.split(path)
  try:
    with files.aside(path) as aside:
      tf.train.Checkpoint(root).write(os.path.join(aside, name))
      for file in sorted(tf.io.gfile.listdir(aside)):  # the index last
        files.put(os.path.join(aside, file), os.path.join(folder, file))
  except files.REFUSED as error:
    raise UserError(f"{path}: cannot be written: {one_line(error)}") from None


def describe(shapes: Mapping[str, tuple[int, ...]], path: str,
             head_dim: int = 64) -> dict[str, Any]:
  """The model that a released checkpoint holds, from its variables' shapes.

  Args:
    shapes: of its variables, by key.
    path: of the checkpoint, for errors.
    head_dim: width of an attention head. No variable tells it; it is 64 in all
      that was released.

  Returns:
    A dict of `model`, fields of a config's `model`, and `data`, of its `data`:
    all sizes that the variables tell. Of a fine-tuned one also `modality` and
    `num_classes`, and, of one for spectrograms, `spectrogram`: their frames and
    bins.

  Raises:
    UserError: it has no released form.
  """
  shapes = {key.removesuffix(VALUE): shape for key, shape in shapes.items()}

  def encoder(key):
    numbers = {int(m[1]) for name in shapes
               if (m := re.match(re.escape(key) + r"/layers/(\d+)/", name))}
    width, mlp_dim = shapes[f"{key}/layers/0/feed_forward/mlp/wi/kernel"]
    inner = shapes.get(f"{key}/layers/0/mha/q/kernel") or shapes[
        f"{key}/layers/0/self_attention/attention/q/kernel"]
    if inner[1] % head_dim:
      raise UserError(f"{path}: attention is {inner[1]} wide, expected a "
                      f"multiple of head_dim, {head_dim}")
    size = dict(depth=len(numbers), width=width, mlp_dim=mlp_dim,
                num_heads=inner[1] // head_dim)
    if inner[1] != width:
      size["head_dim"] = head_dim
    if f"{key}/layers/0/feed_forward/mlp/wi/bias" not in shapes:
      size["bias"] = False
    return size

  def signal(modality, patches, positions):
    *patch, _, _ = shapes[f"{patches}/kernel"]
    tables = [f"{positions}/{axis}_position_embeddings/embeddings"
              for axis in ("temporal", "vertical", "horizontal", "spectoral")]
    grid = [shapes[table][0] * size for table, size in zip(
        filter(shapes.get, tables), patch)]
    model[f"{modality}_patch"] = tuple(patch)
    if modality == "video":
      data.update(frames=grid[0], size=grid[1])
    elif len(grid) == 1:
      data.update(audio_samples=grid[0])
    else:
      facts["spectrogram"] = tuple(grid)

  model, data = dict(FLAVOURS["released"]), {}
  facts = dict(model=model, data=data)
  try:
    if f"{SHARED}/vid_agg_embedding" in shapes:
      model["encoders"] = dict(shared=encoder(f"{SHARED}/tx"))
      for modality in ("video", "audio"):
        signal(modality, f"{SHARED}/raw_to_embeddings/{modality}",
               f"{SHARED}/pos_embedding_lookup/{modality}")
      rows, word_dim = shapes[f"{SHARED}/raw_to_embeddings/text/embeddings"]
      data["words"] = shapes[f"{SHARED}/pos_embedding_lookup/text/"
                             "temporal_position_embeddings/embeddings"][0]
      model.update(vocab_size=rows, word_dim=word_dim, pre_projection=True,
                   post_projection=shapes[f"{SHARED}/post_proj/text/bias"][0])
    elif f"{SPECIFIC}/txt_backbone/agg_embedding" in shapes:
      model["encoders"] = {}
      for modality, name in (("video", "voxel"), ("audio", "wave")):
        key = f"{SPECIFIC}/{SHORT[modality]}_backbone/_base"
        signal(modality, f"{key}/{name}_to_patch",
               f"{key}/pos_embedding_lookup")
        model["encoders"][modality] = encoder(f"{key}/tx")
      key = f"{SPECIFIC}/txt_backbone"
      buckets, _ = shapes[f"{key}/base_lm/layers/0/self_attention/attention/"
                          "relative_attention_bias/embeddings"]
      model["encoders"]["text"] = dict(
          encoder(f"{key}/base_lm"), num_buckets=buckets, **RELEASED_TEXT)
      rows, word_dim = shapes[f"{key}/embedding/embeddings"]
      model.update(vocab_size=rows, word_dim=word_dim)
    elif f"{CLASSIFIER}/kernel" in shapes:
      (modality, _), name = next(
          (kind, name) for kind, name in PATCHES.items()
          if f"{FINE_TUNED}/{name}/kernel" in shapes)
      model["encoders"] = {modality: encoder(f"{FINE_TUNED}/tx")}
      signal(modality, f"{FINE_TUNED}/{name}",
             f"{FINE_TUNED}/pos_embedding_lookup")
      if f"{FINE_TUNED}/post_proj/bias" in shapes:
        model.update(pre_projection=True,
                     post_projection=shapes[f"{FINE_TUNED}/post_proj/bias"][0])
      facts.update(modality=modality,
                   num_classes=shapes[f"{CLASSIFIER}/kernel"][1])
      return facts
    else:
      raise KeyError(f"{CLASSIFIER}/kernel")
    model.update(dim_va=shapes[f"{HEADS}/aud_to_va/bias"][0],
                 dim_vt=shapes[f"{HEADS}/txt_to_vat/bias"][0])
  except (KeyError, StopIteration) as error:
    raise UserError(f"{path}: no released VATT{kinds.seems(shapes)}: "
                    f"{str(error) or 'a patch'} is missing") from None
  return facts


@contextlib.contextmanager
def _open(path):
  """A reader of a checkpoint."""
  with contextlib.ExitStack() as stack:
    try:
      reader = tf.train.load_checkpoint(
          stack.enter_context(files.checkpoint_path(path)))
    except UNREADABLE as error:
      raise UserError(f"{path}: not a checkpoint that can be read: "
                      f"{one_line(error)}") from None
    yield reader


def _read(reader, path, key):
  try:
    return reader.get_tensor(key)
  except UNREADABLE as error:
    raise UserError(f"{path}: cannot read {_short(key)}: "
                    f"{one_line(error)}") from None


def _short(key):
  return key.removesuffix(VALUE).removeprefix(f"{ROOT}/")


def _some(problems, limit=20):
  """All problems, or the first of many."""
  rest = len(problems) - limit
  return "; ".join(problems[:limit]) + (f"; {rest} more" if rest > 0 else "")
