"""Configs of runs: validated, completed by the data, replaced; never changed.

A config file builds a ConfigDict and flags change fields of it. From then on
nobody writes to one: `resolve` and `replace` return new, frozen ones.
"""
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FrozenConfigDict

from vatt import fields, optimizers, preprocess
from vatt.data import input_pipeline, sources, windows
from vatt.errors import UserError

PATHS = ("init", "data.data_dir", "data.vocabulary", "model.word_vectors")
DURATIONS = ("log_every", "checkpoint_every", "eval_every", "total_steps")
# Those with patches, and the field of data that says how long they are.
SIGNALS = {"video": "frames", "audio": "audio_samples"}


class Fact(NamedTuple):
  """What the data say of a field.

  Attributes:
    value: of the field.
    found: what was found and where, for an error.
    at_most: whether a field may also say more, as a bound.
  """
  value: Any
  found: str
  at_most: bool = False


def resolve(config: ConfigDict, facts: dict[str, Fact]) -> FrozenConfigDict:
  """Completes a config by what only the data tell.

  Args:
    config: of a run.
    facts: by field, such as "model.vocab_size". A field that is empty or 0
      takes the value; any other must have it, or bound it.

  Raises:
    UserError: a field says otherwise.
  """
  for field, fact in facts.items():
    value = _get(config, field)
    if value not in ("", 0, fact.value) and not (
        fact.at_most and value > fact.value):
      most = "at most " if fact.at_most else ""
      raise UserError(f"{fact.found}, expected {most}{field} ({value})")
  return replace(config, {field: fact.value for field, fact in facts.items()})


def replace(config: ConfigDict, values: dict[str, Any]) -> FrozenConfigDict:
  """A config with other values of some fields, such as {"data.size": 40}.

  Raises:
    KeyError: the config has no such field.
  """
  copy = ConfigDict(config).copy_and_resolve_references()
  with copy.unlocked():
    for field, value in values.items():
      *path, name = field.split(".")
      part = copy
      for step in path:
        part = part[step]
      if name not in part:
        raise KeyError(f"{field}: no such field in the config")
      if isinstance(value, Mapping):  # takes the place of all that is in it
        del part[name]
      part[name] = value
  return FrozenConfigDict(copy)


def expand_home(config: ConfigDict) -> ConfigDict:
  """The config with the home folder for ~ in its paths."""
  paths = {field: _get(config, field) for field in PATHS}
  return replace(config, {field: os.path.expanduser(path)
                          for field, path in paths.items()
                          if path.startswith("~")})


def _get(config, field):
  for step in field.split("."):
    config = config[step]
  return config


# -----------------------------------------------------------------------------
# Validation: all that can be told without the data and the devices.
# -----------------------------------------------------------------------------
def check(config: ConfigDict) -> None:
  """Validates a config.

  Raises:
    UserError: a field has a value that is none, or fields do not fit each
      other.
  """
  fields.check(config)
  check_durations(config)
  check_strategy(config.strategy, config.data.datasets)
  check_evaluation(config)
  input_pipeline.mixture(config.data, config.batch_size)
  check_model(config)
  if config.task == "finetune":
    check_finetune(config)
  elif not config.data.captions:
    raise UserError("data.captions is 0, expected the number of captions of a "
                    "clip that training takes")
  check_optimizer(config.optimizer, config.total_steps)
  check_clip_part(config)


def check_durations(config: ConfigDict) -> None:
  """Validates that steps_per_loop divides what happens between loops."""
  for field in DURATIONS:
    if config[field] % config.steps_per_loop:
      raise UserError(
          f"{field} is {config[field]}, expected a multiple of steps_per_loop "
          f"({config.steps_per_loop})")


def check_strategy(strategy: ConfigDict, datasets: Sequence[str] = ()) -> None:
  """Validates config.strategy, as far as the machine does not matter, and that
  its workers can read some datasets."""
  fields.check(strategy, "strategy")
  if strategy.tpu and strategy.name != "tpu":
    raise UserError(f"strategy.tpu is {strategy.tpu!r} and strategy.name "
                    f"{strategy.name}, expected the name tpu, or no TPU")
  for name in datasets:
    # tensorflow-io's operations are unknown to the workers of a TPU.
    if strategy.name == "tpu" and sources.says_flac(name):
      raise UserError(
          f"strategy.name is 'tpu', whose workers cannot decode the sound of "
          f"{name} (audio=flac), expected it built with audio=pcm")


def check_windows(data: ConfigDict) -> None:
  """Validates that frames and audio of config.data span the same time, up to a
  frame."""
  if not data.frames and not data.audio_samples:
    raise UserError("data.frames and data.audio_samples are 0, expected some "
                    "of one of them")
  audio_s = data.audio_samples / data.audio_rate
  if data.frames and data.audio_samples and (
      abs(windows.span(data) - audio_s) > 1.0 / data.fps):
    raise UserError(
        f"data: {data.frames} frames at {data.fps} fps are "
        f"{windows.span(data):.3f} s, {data.audio_samples} audio_samples at "
        f"{data.audio_rate} Hz are {audio_s:.3f} s; expected the same span")


def check_evaluation(config: ConfigDict) -> None:
  """Validates windows, views and what config.eval says of retrieval."""
  fields.check(config.data, "data")
  fields.check(config.eval, "eval")
  check_windows(config.data)
  # With data.captions 0 no sentence of the clips takes part.
  if (config.task == "pretrain"
      and 0 < config.data.captions < config.eval.captions):
    raise UserError(
        f"eval.captions is {config.eval.captions}, expected at most "
        f"data.captions ({config.data.captions}), which are read of a clip")
  for sentence in config.eval.templates if config.task == "pretrain" else ():
    # No operation of TensorFlow's: strategies want to be made before any.
    before = len(sentence.partition("{}")[0].split())
    if before >= config.data.words:
      raise UserError(
          f"eval.templates: {sentence!r} has {before} words before the name of "
          f"the class, expected fewer than data.words ({config.data.words}), "
          "which are read")
  if config.eval.crops > 1 and not config.data.frames:
    raise UserError(f"eval.crops is {config.eval.crops} and data.frames 0, "
                    "expected 1 crop: sound has nothing to crop")


def check_probe(config: ConfigDict) -> None:
  """Validates a config of probes, such as configs/linear_probe.py.

  Raises:
    UserError: a field has a value that is none, or fields do not fit each
      other.
  """
  fields.check(config, table=fields.PROBE)
  check_strategy(config.strategy, [config.probe.dataset])
  for name, none in ("fps", 0), ("test_crops", 1):
    if config.probe.modality == "audio" and config.probe[name] != none:
      raise UserError(
          f"probe.{name} is {config.probe[name]} and probe.modality audio, "
          f"expected {none}: sound has no frames")
  if config.lrc.kept > config.lrc.components:
    raise UserError(f"lrc.kept is {config.lrc.kept}, expected 1 to "
                    f"lrc.components ({config.lrc.components})")


def check_model(config: ConfigDict) -> None:
  """Validates config.model: its fields, encoders, patches in inputs."""
  model = config.model
  fields.check(model, "model")
  modalities = ("video", "audio", "text")
  if config.task == "finetune":
    for part, name in ((config, "finetune"), (model, "classifier_dropout")):
      if name not in part:
        raise UserError(f"task is finetune and {name} is missing, expected it "
                        "as of vatt.recipes.finetuning")
    fields.check(config.finetune, "finetune")
    modalities = (config.finetune.modality,)
  parts = set(model.encoders)
  if parts not in ({"shared"}, set(modalities)):
    raise UserError(f"model.encoders has {sorted(parts)}, expected "
                    f"{', '.join(modalities)}, or shared")
  for part, sizes in model.encoders.items():
    check_encoder(sizes, f"model.encoders.{part}")
  if model.audio_input == "spectrogram" and "audio" in modalities:
    check_spectrogram(config.data)
  shapes = preprocess.input_shapes(config)
  for modality, size in SIGNALS.items():
    if modality in modalities:
      if not config.data[size]:
        raise UserError(f"data.{size} is 0, expected some: the model has a "
                        f"tower of {modality}")
      check_patch(model[f"{modality}_patch"], shapes[modality][:-1],
                  f"model.{modality}_patch")


def check_spectrogram(data: ConfigDict) -> None:
  """Validates config.data.spectrogram at the sampling rate."""
  options = data.spectrogram
  for field in ("window_s", "step_s"):
    if round(data.audio_rate * options[field]) < 1:
      raise UserError(
          f"data.spectrogram.{field} is {options[field]}, expected a sample at "
          f"least, of {data.audio_rate} a second")
  if options.low >= min(options.high, data.audio_rate / 2):
    raise UserError(
        f"data.spectrogram.low is {options.low}, expected less than "
        f"data.spectrogram.high ({options.high}) and half of data.audio_rate "
        f"({data.audio_rate / 2})")


def check_encoder(sizes: ConfigDict, field: str = "model.encoders.video"
                  ) -> None:
  """Validates the arguments of an Encoder."""
  fields.check(sizes, field)
  if not sizes.get("head_dim") and sizes["width"] % sizes["num_heads"]:
    raise UserError(f"{field}: width is {sizes['width']}, expected a multiple "
                    f"of num_heads ({sizes['num_heads']})")
  buckets, most = (sizes.get(name, default) for name, default in (
      ("num_buckets", 32), ("max_distance", 64)))
  if sizes.get("relative_bias") and (buckets % 4 or most <= buckets // 4):
    raise UserError(
        f"{field}: num_buckets is {buckets} and max_distance {most}, expected "
        "a multiple of 4, and more than a quarter of that")


def check_patch(patch: tuple[int, ...], shape: tuple[int, ...],
                field: str) -> None:
  """Validates that a patch lies within its input, both without channels."""
  if len(shape) != len(patch):
    raise UserError(f"{field} is {tuple(patch)}, expected {len(shape)} sizes: "
                    f"the input is {tuple(shape)}")
  if any(p > s for p, s in zip(patch, shape)):
    raise UserError(f"{field} is {tuple(patch)}, expected sizes from 1 to "
                    f"those of the input, {tuple(shape)}")


def check_optimizer(config: ConfigDict, total_steps: int) -> None:
  """Validates config.optimizer and the knots of its schedule."""
  fields.check(config, "optimizer")
  if config.weight_decay and config.name in ("adam", "sgd"):
    raise UserError(f"optimizer.weight_decay is {config.weight_decay}, which "
                    f"{config.name} has not; expected 0, or the optimizer lamb "
                    "or sgdw")
  if bool(config.levels) != (config.schedule == "levels"):
    raise UserError(f"optimizer.levels is {config.levels} and "
                    f"optimizer.schedule {config.schedule}, expected pairs "
                    "(step, rate) of the schedule levels, or none")
  steps = [step for step, _ in optimizers.knots(config, total_steps)]
  if not 0 <= steps[0] <= steps[-1] <= total_steps or any(
      a >= b for a, b in zip(steps[:-2], steps[1:-1])):
    raise UserError(
        f"optimizer: warm-up and levels end at steps {steps[:-1] or steps}, "
        f"expected rising numbers from 0 to total_steps ({total_steps})")


def check_clip_part(config: ConfigDict) -> None:
  """Validates that the part whose gradients are clipped is one of the model."""
  part = config.optimizer.clip_part
  known = ("", "tower", "classifier") if config.task == "finetune" else ("",)
  if part not in known:
    raise UserError(f"optimizer.clip_part is {part!r}, expected one of "
                    f"{', '.join(map(repr, known))}, of a model of the task "
                    f"{config.task}")
  if part and not config.optimizer.clip_norm:
    raise UserError(f"optimizer.clip_part is {part!r} and optimizer.clip_norm "
                    "0, expected a norm to clip it to, or no part")


def check_finetune(config: ConfigDict) -> None:
  """Validates config.finetune, of a config whose model is valid."""
  options = config.finetune
  if options.multi_label and options.label_smoothing:
    raise UserError(
        f"finetune.label_smoothing is {options.label_smoothing} and "
        "finetune.multi_label True, expected 0: it is of a single label")
  (sizes,) = config.model.encoders.values()
  known = ["", "tokenizer", "tower",
           *(f"blocks_{i + 1}" for i in range(sizes.depth))]
  if options.freeze not in known:
    raise UserError(f"finetune.freeze is {options.freeze!r}, expected one of "
                    f"'', tokenizer, tower, blocks_1 to {known[-1]}")
