"""The fields of a config, and what each may hold on its own.

What fields must be to each other, `vatt.config` says. A field that stands in no
line here, as of an experiment of one's own, may hold anything.
"""
import numbers
import string
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf
from ml_collections import ConfigDict

from vatt import distribute, losses, optimizers
from vatt.errors import UserError
from vatt.models.encoder import NORMS
from vatt.models.vatt import FLAVOURS, SIZES

MANY = 10 ** 12  # steps, of which nobody waits for more
ROWS = 2 ** 20  # of a batch


class Rule(NamedTuple):
  """What a field may hold.

  Attributes:
    expected: the same in words.
    holds: a function of a value.
  """
  expected: str
  holds: Callable[[Any], bool]


def whole(low: int, high: int) -> Rule:
  """A whole number, bounds included; True is none."""
  return Rule(f"a whole number from {low} to {high}", lambda value: (
      isinstance(value, numbers.Integral) and not isinstance(value, bool)
      and low <= value <= high))


def real(low: float, high: float, above: bool = False, below: bool = False
         ) -> Rule:
  """A number, low excluded if it must be `above`, high if `below`."""
  return Rule(
      f"a number {'above' if above else 'from'} {low:g} "
      f"{'and below' if below else 'to'} {high:g}",
      lambda value: (
          isinstance(value, numbers.Real) and not isinstance(value, bool)
          and low <= value <= high  # neither holds for NaN
          and not (above and value == low) and not (below and value == high)))


def choice(*known: str) -> Rule:
  """One of some words."""
  words = ", ".join(word or "''" for word in known)
  return Rule(f"one of {words}",
              lambda value: isinstance(value, str) and value in known)


def some(rule: Rule, what: str, least: int = 0) -> Rule:
  """A tuple whose items each hold a rule."""
  return Rule(what, lambda value: (
      isinstance(value, (tuple, list)) and len(value) >= least
      and all(map(rule.holds, value))))


def rising(low: float, high: float) -> Rule:
  """A pair (least, most) of numbers above `low`."""
  bound = real(low, high, above=True)
  return Rule(
      f"a pair (least, most) of numbers above {low:g} to {high:g}",
      lambda value: (isinstance(value, (tuple, list)) and len(value) == 2
                     and all(map(bound.holds, value)) and value[0] <= value[1]))


def is_template(value: Any) -> bool:
  """Whether a sentence has one {} in the place of a name, and no other braces
  that `str.format` would fill."""
  if not isinstance(value, str):
    return False
  try:
    names = [(name, kind, conversion) for _, name, kind, conversion
             in string.Formatter().parse(value) if name is not None]
  except ValueError:  # a single brace
    return False
  return names == [("", "", None)]


def _is_activation(value):
  try:
    return (isinstance(value, str) and bool(tf.keras.activations.get(value))
            and value not in ("get", "serialize", "deserialize"))
  except ValueError:
    return False


FLAG = Rule("True or False", lambda value: isinstance(value, bool))
TEXT = Rule("a text", lambda value: isinstance(value, str))
NAME = Rule("a name", lambda value: isinstance(value, str) and bool(value))
SHARE = real(0, 1)
RATE = real(0, 1, below=True)
STEPS = whole(1, MANY)
SIZE = whole(1, 2 ** 20)

FIELDS = {
    "task": NAME,
    "seed": whole(0, 2 ** 32 - 1),  # NumPy takes no more
    "init": TEXT,
    # Half precision has too few exponents for gradients that are not scaled.
    "dtype": choice("float32", "float64", "mixed_bfloat16"),
    "deterministic": FLAG,
    "total_steps": STEPS,
    "batch_size": whole(1, ROWS),
    "steps_per_loop": whole(1, 10 ** 6),
    "log_every": STEPS,
    "checkpoint_every": STEPS,
    "eval_every": STEPS,
    "keep_checkpoints": whole(1, 10 ** 6),
    "strategy": {
        "name": choice(*distribute.STRATEGIES),
        "devices": whole(0, 10 ** 5),  # 0: all
        "tpu": TEXT,
        "wait_minutes": real(0, 10 ** 5, above=True),
    },
    "data": {
        "data_dir": TEXT,
        "datasets": some(NAME, "a tuple of names, one at least", 1),
        "shares": some(real(0, 10 ** 9, above=True), "a positive number for "
                       "each of data.datasets, or none"),
        "train_split": NAME,
        "eval_split": NAME,
        "vocabulary": TEXT,
        "frames": whole(0, 10 ** 5),  # 0: none are read
        "fps": real(0, 1000, above=True),
        "size": whole(1, 10 ** 4),
        "audio_samples": whole(0, 10 ** 8),
        "audio_rate": whole(100, 10 ** 6),
        "audio_rms": SHARE,
        "captions": whole(0, 1000),
        "words": whole(1, 1000),
        "classes": whole(0, 10 ** 6),
        "crop_area": rising(0, 1),
        "crop_aspect": rising(0, 100),
        "enlarge_on_device": FLAG,
        "shuffle_captions": FLAG,
        "cache": FLAG,
        "max_corrupt_share": SHARE,
        "spectrogram": {
            "window_s": real(0, 10, above=True),
            "step_s": real(0, 10, above=True),
            "bins": whole(1, 2000),
            "low": real(0, 10 ** 6),
            "high": real(0, 10 ** 6, above=True),
        },
    },
    "augment": {
        "flip": FLAG,
        "brightness": SHARE,
        "saturation": SHARE,
        "contrast": SHARE,
        "hue": real(0, 0.5),
        "color_probability": SHARE,
        "noise": SHARE,
        "gain": rising(0, 1000),
        "speed": rising(0, 100),
        "shift": SHARE,
        "equalizer": real(0, 100),  # decibels
        "time_masks": whole(0, 1000),
        "time_mask_width": whole(0, 10 ** 5),
        "freq_masks": whole(0, 1000),
        "freq_mask_width": whole(0, 10 ** 4),
        "freq_warp": rising(0, 10),
    },
    "model": {
        "word_dim": whole(0, 2 ** 20),
        "normalize_positions": FLAG,
        "pre_projection": FLAG,
        "post_projection": whole(0, 2 ** 20),
        "heads": choice(*FLAVOURS),
        "video_patch": some(SIZE, "sizes of a patch, whole numbers above 0", 1),
        "audio_input": choice("waveform", "spectrogram"),
        "audio_patch": some(SIZE, "sizes of a patch, whole numbers above 0", 1),
        "drop_rate": RATE,
        "dropout": RATE,
        "classifier_dropout": RATE,
        "remat": FLAG,
        "dim_va": SIZE,
        "dim_vt": SIZE,
        "vocab_size": whole(0, 10 ** 8),
        "word_vectors": TEXT,
    },
    "loss": {
        "form": choice(*losses.FORMS),
        "temperature": real(0, 1000, above=True),
        "weight": real(0, 1000),
    },
    "optimizer": {
        "name": choice(*optimizers.OPTIMIZERS),
        "lr": real(0, 1000),
        "end_lr": real(0, 1000),
        "warmup_steps": whole(0, MANY),
        "schedule": choice(*optimizers.SCHEDULES),
        "levels": some(
            Rule("", lambda knot: (
                isinstance(knot, (tuple, list)) and len(knot) == 2
                and whole(0, MANY).holds(knot[0])
                and real(0, 1000).holds(knot[1]))),
            "pairs (step, rate)"),
        "momentum": RATE,
        "beta_1": RATE,
        "beta_2": RATE,
        "epsilon": real(0, 1, above=True),
        "weight_decay": SHARE,
        "clip_norm": real(0, 10 ** 9),
        "clip_part": TEXT,
    },
    "eval": {
        "batch_size": whole(1, ROWS),
        "windows": whole(1, 1000),
        "crops": whole(1, 100),
        "average": choice("embedding", "similarity"),
        "match": choice("pair", "label"),
        "captions": whole(1, 1000),
        "templates": some(
            Rule("", is_template), "a tuple of sentences, each with one {}, "
            "where the name of a class goes"),
    },
    "finetune": {
        "modality": choice("video", "audio"),
        "multi_label": FLAG,
        "label_smoothing": RATE,
        "mixup": whole(0, 1000),
        "labels_per_class": whole(0, 10 ** 9),
        "freeze": TEXT,
        "rare_classes": FLAG,
        "positions": choice("bicubic", "spline"),
    },
}
# Of configs/linear_probe.py.
PROBE = {
    "seed": FIELDS["seed"],
    "strategy": FIELDS["strategy"],
    "data": {"data_dir": TEXT},  # "": the workdir's
    "probe": {
        "dataset": NAME,
        "modality": choice("video", "audio"),
        "fps": real(0, 1000),  # 0: as the model was trained
        "splits": some(TEXT, "a tuple of what the names of splits end in, one "
                       "at least", 1),
        "probes": some(choice("lrc", "svm", "knn"),
                       "a tuple of some of lrc, svm, knn", 1),
        "train_windows": whole(1, 1000),
        "test_windows": FIELDS["eval"]["windows"],
        "test_crops": FIELDS["eval"]["crops"],
        "batch_size": whole(1, ROWS),
    },
    "lrc": {
        "components": whole(1, 10 ** 5),
        "kept": whole(1, 10 ** 5),
        "lr": real(0, 1000, above=True),
        "batch_size": whole(1, ROWS),
        "steps": whole(1, 10 ** 9),
    },
    "svm": {"cs": some(real(0, 10 ** 6, above=True),
                       "a tuple of numbers above 0 to 1e+06, one at least", 1)},
    "knn": {
        "k": whole(1, 10 ** 9),
        "temperature": real(0, float("inf"), above=True),  # inf: all vote alike
    },
}
# Arguments of an Encoder, of which those of SIZES are needed.
ENCODER = {
    "depth": whole(1, 1000),
    "width": SIZE,
    "mlp_dim": SIZE,
    "num_heads": whole(1, 10 ** 4),
    "head_dim": whole(0, 10 ** 4),  # 0: width / num_heads
    "relative_bias": choice("", "first", "all"),
    "num_buckets": whole(4, 10 ** 4),
    "max_distance": whole(2, 10 ** 6),
    "norm": choice(*NORMS),
    "mlp_norm": choice(*NORMS),
    "bias": FLAG,
    "scaled": FLAG,
    "activation": Rule("the name of an activation of Keras, such as gelu",
                       _is_activation),
    "epsilon": Rule("a number above 0 to 1, or None", lambda value: (
        value is None or real(0, 1, above=True).holds(value))),
}
# Which only some configs have.
OPTIONAL = ("finetune", "model.classifier_dropout")


def check(config: ConfigDict, part: str = "",
          table: Mapping[str, Any] = FIELDS) -> None:
  """Validates each field of a config on its own.

  Args:
    config: of a run, or a part of one.
    part: the name of that part, such as "data" or "model.encoders.video".
    table: what it has, FIELDS or PROBE.

  Raises:
    UserError: a field is missing, or holds what it cannot.
  """
  if part.startswith("model.encoders."):
    _check_encoder(config, part)
    return
  for name, rule in (table[part] if part else table).items():
    _check_field(config, f"{part}.{name}" if part else name, rule)
  if part == "model":
    _expect_fields(config.get("encoders"), "model.encoders",
                   "sizes by the name of an encoder")
    for name, sizes in config.encoders.items():
      _check_encoder(sizes, f"model.encoders.{name}")


def _check_field(config, field, rule):
  """Validates a field, or all of those in it; config is what it lies in."""
  name = field.rpartition(".")[2]
  if name not in config:
    if field in OPTIONAL:
      return
    raise UserError(f"{field} is missing, expected " + (
        rule.expected if isinstance(rule, Rule) else ", ".join(rule)))
  value = config[name]
  if isinstance(rule, Rule):
    _check_value(field, value, rule)
    return
  _expect_fields(value, field, ", ".join(rule))
  if rule is FIELDS.get(field):
    check(value, field)
  else:
    for inner, rule_ in rule.items():
      _check_field(value, f"{field}.{inner}", rule_)


def _expect_fields(value, field, expected):
  if not isinstance(value, (ConfigDict, Mapping)):
    raise UserError(f"{field} is {_shown(value)}, expected {expected}")


def _check_encoder(sizes, field):
  needed = ", ".join(SIZES["base"])
  _expect_fields(sizes, field, needed)
  for name in SIZES["base"]:
    if name not in sizes:
      raise UserError(f"{field} has no {name}, expected {needed}")
  for name, value in sizes.items():
    if name not in ENCODER:
      raise UserError(f"{field}.{name}: no field of an encoder, expected some "
                      f"of {', '.join(ENCODER)}")
    _check_value(f"{field}.{name}", value, ENCODER[name])


def _check_value(field, value, rule):
  if not rule.holds(value):
    raise UserError(f"{field} is {_shown(value)}, expected {rule.expected}")


def _shown(value):
  """A value as an error shows it."""
  return f"{' '.join(repr(value).split()):.80}"  # a ConfigDict has lines
