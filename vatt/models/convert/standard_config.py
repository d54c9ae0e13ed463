"""What a config.json beside the weights of a ViT or T5 tells of them.

Hugging Face writes the arguments of a class, timm the name of an architecture
and what differs from it. Much of it the tensors tell; the rest has to be that
of the tower, or is taken on trust.
"""
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vatt.errors import UserError
from vatt.models.vatt import Tower

# Of Hugging Face, model types that compute the same from tensors of the same
# names; and the arguments that their classes have by default.
VIT = dict(hidden_act="gelu", layer_norm_eps=1e-12, num_attention_heads=12,
           qkv_bias=True, num_channels=3, image_size=224, patch_size=16)
T5 = dict(feed_forward_proj="relu", layer_norm_epsilon=1e-6, d_kv=64,
          num_heads=8, relative_attention_num_buckets=32,
          relative_attention_max_distance=128)
DEFAULTS = {
    "hf": {"vit": VIT, "vit_msn": VIT | dict(layer_norm_eps=1e-6),
           # Of these the encoder, as it is without a mask over the patches.
           "vit_mae": VIT},
    "t5": {"t5": T5, "mt5": T5 | dict(feed_forward_proj="gated-gelu",
                                      num_heads=6)},
}
# What no tensor tells, by layout.
UNTOLD = {
    "hf": ("hidden_act", "layer_norm_eps", "num_attention_heads"),
    "timm": ("block_fn", "hidden_act", "layer_norm_eps", "num_attention_heads"),
    "t5": ("feed_forward_proj", "layer_norm_epsilon",
           "relative_attention_max_distance"),
}

# timm's names of plain ViTs, and how many heads each size has.
PLAIN = re.compile(
    r"(?:vit|deit)_(tiny|small|base|large|huge|giant|gigantic)_patch\d+_\d+"
    r"(?:\..*)?")
PLAIN_EPSILON = 1e-6
HEADS = dict(tiny=3, small=6, base=12, large=16, huge=16, giant=16, gigantic=16)
# Its arguments that names or shapes of tensors tell, or that do not matter to
# features; a value that is none is no argument.
TOLD = re.compile(
    "img_size|patch_size|in_chans|num_classes|global_pool|embed_dim|depth|"
    "mlp_ratio|qkv_bias|proj_bias|qk_norm|scale_(attn|mlp)_norm|init_values|"
    "class_token|pos_embed|no_embed_class|reg_tokens|pre_norm|final_norm|"
    "fc_norm|pool_include_prefix|dynamic_img_(size|pad)|.*drop_rate|"
    "weight_init|fix_init|num_heads")


def describe(tower: Tower) -> dict[str, Any]:
  """The config.json of Hugging Face for the weights of a tower."""
  encoder, tokenizer = tower.encoder, tower.tokenizer
  block, depth, untold = encoder.blocks[0], len(encoder.blocks), encoder.untold
  width, mlp_dim = block.mlp_in.kernel.shape
  if tower.modality == "text":
    return dict(
        model_type="t5", vocab_size=tokenizer.embedding.shape[0] + 1,
        d_model=width, d_kv=block.attention.head_dim, d_ff=mlp_dim,
        num_layers=depth, num_heads=untold["num_heads"],
        feed_forward_proj=untold["activation"],
        relative_attention_num_buckets=encoder.relative_bias.num_buckets,
        relative_attention_max_distance=untold["max_distance"],
        layer_norm_epsilon=untold["epsilon"])
  patch = tokenizer.patch[1:]
  size = [n * p for n, p in zip(tokenizer.position.sizes[1:], patch)]
  return dict(
      model_type="vit", hidden_size=width, num_hidden_layers=depth,
      num_attention_heads=untold["num_heads"], intermediate_size=mlp_dim,
      hidden_act=untold["activation"], layer_norm_eps=untold["epsilon"],
      qkv_bias=True, num_channels=3, image_size=_one(size),
      patch_size=_one(patch))


def describe_pixels(tower: Tower) -> dict[str, Any]:
  """The preprocessor_config.json that makes images what a tower of video sees:
  in [-1, 1]."""
  height, width = (n * p for n, p in zip(
      tower.tokenizer.position.sizes[1:], tower.tokenizer.patch[1:]))
  return dict(
      image_processor_type="ViTImageProcessor", do_resize=True,
      size=dict(height=height, width=width), do_rescale=True,
      rescale_factor=1 / 255, do_normalize=True, image_mean=[0.5] * 3,
      image_std=[0.5] * 3)


def compare(config: Mapping[str, Any], tower: Tower, layout: str, words: bool
            ) -> tuple[list[str], list[str]]:
  """What a config.json says otherwise than a tower is, and what it leaves out.

  Args:
    config: of the config.json; {} if there is none.
    tower: of video or text.
    layout: hf, timm or t5, that of the tensors.
    words: whether the words are the model's.

  Returns:
    Problems, none if it fits; and what is taken on trust, such as
    "hidden_act gelu".
  """
  ours = describe(tower)
  del ours["model_type"]
  if not words:
    ours.pop("vocab_size", None)
  if layout == "t5":  # which its config.json says twice
    ours.update(dense_act_fn=ours["feed_forward_proj"], is_gated_act=False)
  if layout == "timm":
    ours = {name: ours.get(name, "Block") for name in UNTOLD[layout]}
  try:
    theirs = _facts(config, layout)
  except UserError as error:
    return [str(error)], []
  problems = [
      f"{name} is {_one(theirs[name])}, expected {value}"
      for name, value in ours.items()
      if name in theirs and _one(theirs[name]) != value]
  return problems, [f"{name} {ours[name]}" for name in UNTOLD[layout]
                    if name not in theirs]


def pixels(config: Mapping[str, Any], preprocessor: Mapping[str, Any]
           ) -> tuple[np.ndarray, np.ndarray] | None:
  """How the pixels that a ViT was trained on come from ours, in [-1, 1].

  Args:
    config: of the config.json, where timm says it; {} if there is none.
    preprocessor: of the preprocessor_config.json, where Hugging Face does.

  Returns:
    Scale and shift, float64 [3], of ours by channel; None if nothing tells.

  Raises:
    UserError: a mean or a deviation that is none.
  """
  told = config.get("pretrained_cfg") or {}
  mean, std, factor = told.get("mean"), told.get("std"), 1 / 255
  if preprocessor:
    mean, std = (preprocessor.get(f"image_{name}") for name in ("mean", "std"))
    if not preprocessor.get("do_normalize", True):
      mean, std = [0.0] * 3, [1.0] * 3
    factor = (preprocessor.get("rescale_factor", factor)
              if preprocessor.get("do_rescale", True) else 1.0)
  if mean is None or std is None:
    return None
  try:
    mean, std = (np.array(value, np.float64) for value in (mean, std))
    if mean.shape != (3,) or std.shape != (3,) or not (std > 0).all():
      raise ValueError
    scale = 127.5 * float(factor)  # 255 (x + 1) / 2 · factor
  except (TypeError, ValueError):
    raise UserError(f"pixels of mean {mean} and deviation {std}, expected "
                    "three numbers each") from None
  # To what float32 has: Google's are ours.
  return np.round(scale / std, 7), np.round((scale - mean) / std, 7)


def epsilon(config: Mapping[str, Any]) -> float | None:
  """That of the norms, as a config.json says it; None if it does not."""
  for layout in UNTOLD:
    try:
      facts = _facts(config, layout)
    except UserError:
      continue
    for name in ("layer_norm_eps", "layer_norm_epsilon"):
      if name in facts:
        return facts[name]
  return None


def _facts(config, layout):
  """What it says, by Hugging Face's names, with what it leaves to defaults.

  Raises:
    UserError: it is of another model.
  """
  kind, other = (("architecture", "model_type") if layout == "timm" else
                 ("model_type", "architecture"))
  if kind not in config:
    if other in config:
      raise UserError(f"{other} is {config[other]}, expected a config.json "
                      f"with {kind}, as the tensors are named so")
    return dict(config)
  if layout != "timm":
    known = DEFAULTS[layout]
    if config[kind] not in known:
      raise UserError(f"{kind} is {config[kind]}, expected one of "
                      f"{', '.join(known)}")
    return {**known[config[kind]], **config}
  plain = PLAIN.fullmatch(str(config[kind]))
  if not plain:
    raise UserError(f"{kind} is {config[kind]}, not known to be a plain ViT, "
                    "as vit_base_patch16_224 is: without this config.json it "
                    "is taken on trust")
  arguments = config.get("model_args") or {}
  strange = [f"{name} {value}" for name, value in arguments.items()
             if value is not None and not TOLD.fullmatch(name)]
  if strange:
    raise UserError(f"model_args has {', '.join(strange)}, expected none of "
                    "what no tensor tells")
  return dict(
      block_fn="Block", hidden_act="gelu", layer_norm_eps=PLAIN_EPSILON,
      num_attention_heads=arguments.get("num_heads") or HEADS[plain[1]])


def _one(value):
  """3 for [3, 3], as for sizes of squares; others as lists."""
  if not isinstance(value, list | tuple):
    return value
  return value[0] if len(set(map(str, value))) == 1 else list(value)
