"""Configs of runs: validated, completed by the data, replaced; never changed.

A config file builds a ConfigDict and flags change fields of it. From then on
nobody writes to one: `resolve` and `replace` return new, frozen ones.
"""
from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FrozenConfigDict

from vatt import distribute, losses, optimizers, preprocess
from vatt.data import input_pipeline, windows
from vatt.errors import UserError
from vatt.models.encoder import NORMS
from vatt.models.vatt import FLAVOURS, SIZES

DURATIONS = ("log_every", "checkpoint_every", "eval_every", "total_steps")
SIGNALS = ("video", "audio")  # those with patches


class Fact(NamedTuple):
  """What the data say of a field.

  Attributes:
    value: of the field.
    found: what was found and where, for an error.
  """
  value: Any
  found: str


def resolve(config: ConfigDict, facts: dict[str, Fact]) -> FrozenConfigDict:
  """Completes a config by what only the data tell.

  Args:
    config: of a run.
    facts: by field, such as "model.vocab_size". A field that is empty or 0
      takes the value; any other must have it.

  Raises:
    UserError: a field says otherwise.
  """
  for field, fact in facts.items():
    value = _get(config, field)
    if value not in ("", 0, fact.value):
      raise UserError(f"{fact.found}, expected {field} ({value})")
  return replace(config, {field: fact.value for field, fact in facts.items()})


def replace(config: ConfigDict, fields: dict[str, Any]) -> FrozenConfigDict:
  """A config with other values of some fields, such as {"data.size": 40}.

  Raises:
    KeyError: the config has no such field.
  """
  copy = ConfigDict(config).copy_and_resolve_references()
  with copy.unlocked():
    for field, value in fields.items():
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
  check_durations(config)
  check_strategy(config.strategy)
  check_evaluation(config)
  input_pipeline.mixture(config.data, config.batch_size)
  check_model(config)
  if config.task == "finetune":
    check_finetune(config)
  else:
    _check_choice("loss.form", config.loss.form, losses.FORMS)
  check_optimizer(config.optimizer, config.total_steps)


def _check_choice(field, value, known):
  if value not in known:
    raise UserError(f"{field} is {value!r}, expected one of "
                    f"{', '.join(map(str, known))}")


def check_durations(config: ConfigDict) -> None:
  """Validates that steps_per_loop divides what happens between loops, and that
  batches and checkpoints are some."""
  if config.batch_size < 1:
    raise UserError(f"batch_size is {config.batch_size}, expected 1 or more")
  for field in DURATIONS:
    if config[field] % config.steps_per_loop:
      raise UserError(
          f"{field} is {config[field]}, expected a multiple of steps_per_loop "
          f"({config.steps_per_loop})")
  if config.keep_checkpoints < 1:
    raise UserError(f"keep_checkpoints is {config.keep_checkpoints}, expected "
                    "1 or more")


def check_strategy(strategy: ConfigDict) -> None:
  """Validates config.strategy, as far as the machine does not matter."""
  _check_choice("strategy.name", strategy.name, distribute.STRATEGIES)
  if strategy.devices < 0:
    raise UserError(f"strategy.devices is {strategy.devices}, expected 0 (all) "
                    "or more")


def check_windows(data: ConfigDict) -> None:
  """Validates that frames and audio of config.data span the same time, up to a
  frame."""
  audio_s = data.audio_samples / data.audio_rate
  if data.frames and data.audio_samples and (
      abs(windows.span(data) - audio_s) > 1.0 / data.fps):
    raise UserError(
        f"data: {data.frames} frames at {data.fps} fps are "
        f"{windows.span(data):.3f} s, {data.audio_samples} audio_samples at "
        f"{data.audio_rate} Hz are {audio_s:.3f} s; expected the same span")


def check_evaluation(config: ConfigDict) -> None:
  """Validates windows, views and what config.eval says of retrieval."""
  check_windows(config.data)
  for field in ("windows", "crops", "captions"):
    if config.eval[field] < 1:
      raise UserError(
          f"eval.{field} is {config.eval[field]}, expected 1 or more")
  if config.eval.crops > 1 and not config.data.frames:
    raise UserError(f"eval.crops is {config.eval.crops} and data.frames 0, "
                    "expected 1 crop: sound has nothing to crop")
  _check_choice("eval.match", config.eval.match, ("pair", "label"))
  _check_choice("eval.average", config.eval.average,
                ("embedding", "similarity"))


def check_model(config: ConfigDict) -> None:
  """Validates config.model: rates, sizes of encoders, patches in inputs."""
  model = config.model
  for field in ("drop_rate", "dropout"):
    if not 0 <= model[field] < 1:
      raise UserError(f"model.{field} is {model[field]}, expected at least "
                      "0 and less than 1")
  _check_choice("model.audio_input", model.audio_input,
                ("waveform", "spectrogram"))
  _check_choice("model.heads", model.heads, FLAVOURS)
  modalities = ("video", "audio", "text")
  if config.task == "finetune":
    modalities = (config.finetune.modality,)
    _check_choice("finetune.modality", *modalities, SIGNALS)
  parts = set(model.encoders)
  if parts not in ({"shared"}, set(modalities)):
    raise UserError(f"model.encoders has {sorted(parts)}, expected "
                    f"{', '.join(modalities)}, or shared")
  for part, sizes in model.encoders.items():
    check_encoder(sizes, f"model.encoders.{part}")
  shapes = preprocess.input_shapes(config)
  for modality in SIGNALS:
    if modality in modalities:
      check_patch(model[f"{modality}_patch"], shapes[modality][:-1],
                  f"model.{modality}_patch")


def check_encoder(sizes: ConfigDict, field: str = "model.encoders") -> None:
  """Validates the arguments of an Encoder."""
  missing = [name for name in SIZES["base"] if name not in sizes]
  if missing:
    raise UserError(f"{field} has no {missing[0]}, expected "
                    f"{', '.join(SIZES['base'])}")
  for name, known in (("relative_bias", ("", "first", "all")),
                      ("norm", NORMS), ("mlp_norm", NORMS)):
    if name in sizes and sizes[name] not in known:
      raise UserError(f"{field}: {name} is {sizes[name]!r}, expected one of "
                      f"{', '.join(map(repr, known))}")
  if not sizes.get("head_dim") and sizes["width"] % sizes["num_heads"]:
    raise UserError(f"{field}: width is {sizes['width']}, expected a multiple "
                    f"of num_heads ({sizes['num_heads']})")


def check_patch(patch: tuple[int, ...], shape: tuple[int, ...],
                field: str) -> None:
  """Validates that a patch lies within its input, both without channels."""
  if len(shape) != len(patch):
    raise UserError(f"{field} is {tuple(patch)}, expected {len(shape)} sizes: "
                    f"the input is {tuple(shape)}")
  if any(p > s or p < 1 for p, s in zip(patch, shape)):
    raise UserError(f"{field} is {tuple(patch)}, expected sizes from 1 to "
                    f"those of the input, {tuple(shape)}")


def check_optimizer(config: ConfigDict, total_steps: int) -> None:
  """Validates config.optimizer and the knots of its schedule."""
  _check_choice("optimizer.name", config.name, optimizers.OPTIMIZERS)
  _check_choice("optimizer.schedule", config.schedule, optimizers.SCHEDULES)
  if config.weight_decay and config.name in ("adam", "sgd"):
    raise UserError(f"optimizer.weight_decay is {config.weight_decay}, which "
                    f"{config.name} has not; expected 0, or the optimizer lamb "
                    "or sgdw")
  if config.schedule == "levels" and (
      not config.levels or any(len(knot) != 2 for knot in config.levels)):
    raise UserError(f"optimizer.levels is {config.levels}, expected pairs "
                    "(step, rate)")
  knots = optimizers.knots(config, total_steps)
  steps = [step for step, _ in knots]
  if not 0 <= steps[0] <= steps[-1] <= total_steps or any(
      a >= b for a, b in zip(steps[:-2], steps[1:-1])):
    raise UserError(
        f"optimizer: warm-up and levels end at steps {steps[:-1] or steps}, "
        f"expected rising numbers from 0 to total_steps ({total_steps})")
  for _, rate in knots:
    if not 0 <= rate < float("inf"):
      raise UserError(f"optimizer: learning rate {rate}, expected 0 or more")


def check_finetune(config: ConfigDict) -> None:
  """Validates config.finetune, of a config whose model is valid."""
  options = config.finetune
  _check_choice("finetune.positions", options.positions, ("bicubic", "spline"))
  if not 0 <= options.label_smoothing < 1 or options.mixup < 0:
    raise UserError(f"finetune: label_smoothing is {options.label_smoothing}, "
                    f"mixup {options.mixup}; expected 0 to 1, and 0 or more")
  (sizes,) = config.model.encoders.values()
  known = ["", "tokenizer", "tower",
           *(f"blocks_{i + 1}" for i in range(sizes.depth))]
  if options.freeze not in known:
    raise UserError(f"finetune.freeze is {options.freeze!r}, expected one of "
                    f"'', tokenizer, tower, blocks_1 to {known[-1]}")
