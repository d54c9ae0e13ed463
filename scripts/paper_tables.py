"""What a model costs, before anything is paid: parameters, FLOPs, memory.

  python scripts/paper_tables.py
  python scripts/paper_tables.py --config=configs/pretrain.py:mbs \
      [--config.FIELD=VALUE] [--hours_on=v3-256 [--shares=0.3] [--price=1]]

Without arguments: every cost that the paper states, beside ours counted as the
paper did and as it is; ends with code 1 if one is off. With a config: the cost
of its model, of a clip and of a batch, and the hours of its steps on a machine.
"""
import math
import re

from vatt import cli, fields, recipes
from vatt import config as config_lib
from vatt.data import text
from vatt.errors import UserError
from vatt.models import cost
from vatt.models.vatt import SIZES, VARIANTS
from vatt.tasks import make_task

from absl import flags
from ml_collections import ConfigDict

# How far a figure may be off the paper's, in per cent.
PARAMETERS_TOLERANCE = 0.1
FLOPS_TOLERANCE = 0.75

# Section 4 of the paper, in millions.
PARAMETERS = {"small": 20.9, "base": 87.9, "medium": 155.0, "large": 306.1}
# Of the video, the audio and the text encoder together.
SUMS = {"bbs": 197, "mbs": 264, "lbs": 415}
# GFLOPs of a view: (size, frames, pixels, drop rate).
VIEW_GFLOPS = {
    ("medium", 32, 320, 0.75): 279.8, ("medium", 32, 320, 0.5): 572.5,
    ("medium", 32, 320, 0.25): 898.9, ("medium", 32, 320, 0.0): 1252.3,
    ("medium", 32, 224, 0.0): 548.1, ("medium", 64, 224, 0.0): 1222.1}
# TFLOPs of 12 views of 32 x 320 x 320.
VIEWS = 12
VIEWS_TFLOPS = {"base": 9.09, "medium": 15.02, "large": 29.80}
# GFLOPs of a clip of pre-training with 5 captions, by the drop rate.
MULTIMODAL_GFLOPS = {0.75: 188.1, 0.5: 375.4, 0.25: 574.2, 0.0: 784.8}

PARAMETER_CLASSES = 600  # Kinetics-600
FLOPS_CLASSES = 400  # Kinetics-400
CAPTIONS = 5
WIDTHS = 13, 13, 13, 13, 17  # of a table's columns
# TFLOP/s in bfloat16 of a TPU's core (half of a chip's 123 and 275), or of a
# GPU, without sparsity, as their makers state them.
PEAK = {"v3": 61.5, "v4": 137.5, "a100": 312.0, "h100": 989.0}
SHAPES = dict(video=(32, 224, 224, 3), audio=(153_600, 1), text=(16,))


def video_model(size: str, flavour: str = "paper", drop_rate: float = 0.0
                ) -> ConfigDict:
  """The `model` of a config to classify videos."""
  model = recipes.pretraining("bbs", flavour).model
  model.encoders = dict(video=dict(SIZES[size]))
  model.drop_rate = drop_rate
  return model


def video_millions(size: str, flavour: str = "paper",
                   num_classes: int = PARAMETER_CLASSES) -> float:
  """Parameters of a video classifier, in millions."""
  return cost.total(cost.parameters(
      video_model(size, flavour), {"video": SHAPES["video"]},
      num_classes)) / 1e6


def variant_millions(variant: str, flavour: str = "paper",
                     trainable_only: bool = False) -> dict[str, float]:
  """Parameters of a pre-training model by part, in millions."""
  parts = cost.parameters(recipes.pretraining(variant, flavour).model, SHAPES,
                          trainable_only=trainable_only)
  return {part: count / 1e6 for part, count in parts.items()}


def view_gflops(size: str, frames: int, pixels: int, drop_rate: float = 0.0
                ) -> list[float]:
  """GFLOPs of a view: as the paper counts, and true."""
  return [cost.total(cost.flops(
      video_model(size, drop_rate=drop_rate),
      {"video": (frames, pixels, pixels, 3)}, num_classes=FLOPS_CLASSES,
      training=True, paper=paper)) / 1e9 for paper in (True, False)]


def multimodal_gflops(drop_rate: float) -> list[float]:
  """GFLOPs of a clip of MBS's pre-training: as the paper counts, and true."""
  model = recipes.pretraining("mbs").model
  model.drop_rate = drop_rate
  return [cost.total(cost.flops(
      model, SHAPES, CAPTIONS, training=True, paper=paper)) / 1e9
          for paper in (True, False)]


def compare(title, rows, tolerance, digits):
  """Prints a table.

  Args:
    title: of the table.
    rows: (name, the paper's figure, counted as there, true count).
    tolerance: how far the second count may be off the first, in per cent.
    digits: of the counts, behind the point.

  Returns:
    The names of the rows that are off.
  """
  print(f"\n{title:41}{'paper':>8}{'counted':>11}{'off':>9}{'true':>11}"
        f"{'off':>9}")
  bad = []
  for name, paper, *counts in rows:
    off = [100 * (count / paper - 1) for count in counts]
    print(f"  {name:39}{paper:8}" + "".join(
        f"{count:11.{digits}f}{o:+7.2f} %" for count, o in zip(counts, off)))
    if abs(off[0]) > tolerance:
      bad.append(f"{title}: {name} is {off[0]:+.2f} % off the paper's, expected"
                 f" at most {tolerance} %")
  return bad


def compare_parameters():
  """Prints the paper's parameters beside ours; returns what is off."""
  print("""\
paper    as it is stated there
counted  as the paper counted. Parameters: a released video classifier of 600
         classes. FLOPs, forward: two a multiply-add; all patches are projected;
         queries times keys are not seen; 7 more on each attention score.
true     this project's models, flavour paper. FLOPs: two a multiply-add of all
         matrix products; only the patches that are kept are projected.""")
  title = "Video classifiers, million parameters"
  rows = [(size.title(), PARAMETERS[size], video_millions(size, "released"),
           video_millions(size)) for size in ("base", "medium", "large")]
  bad = compare(title, rows, PARAMETERS_TOLERANCE, 3)
  bad += [f"{title}: {name} is {count:.3f}, expected what rounds to {paper}"
          for name, paper, count, _ in rows if round(count, 1) != paper]
  words = variant_millions("bbs", "released", trainable_only=True)
  print(f"  Small's {PARAMETERS['small']} is no exact count of anything: "
        f"{video_millions('small', 'released'):.3f} with 600 classes,\n"
        f"  {video_millions('small', 'released', 700):.3f} with 700; "
        f"{words['text tokenizer'] + words['text encoder']:.3f} of the released"
        " text encoder without its word vectors.")

  print(f"\n{'Pre-training models, million parameters':41}{'paper':>8}"
        f"{'sum':>11}{'true':>20}{'released':>11}{'trained':>9}")
  for variant, paper in SUMS.items():
    *sizes, small = VARIANTS[variant].values()
    added = PARAMETERS[small] + sum(
        video_millions(size, "released") for size in sizes)
    counts = [cost.total(variant_millions(variant, *more)) for more in (
        (), ("released",), ("released", True))]
    print(f"  {variant.upper():39}{paper:8}{added:11.1f}{counts[0]:20.3f}"
          f"{counts[1]:11.3f}{counts[2]:9.1f}")
    if round(added) != paper:
      bad.append(f"{variant.upper()}: the sum is {added:.1f}, expected what "
                 f"rounds to {paper}")
  print("""\
  The paper's add up its table, as if each encoder were a video classifier. True
  is the whole model: 2^16 words alone have 33.6; the released ones 19.7, which
  are not trained.""")
  return bad


def compare_flops():
  """Prints the paper's FLOPs beside ours; returns what is off."""
  return [
      *compare("One view, GFLOPs", [
          (f"{view[0].title()}, {view[1]} x {view[2]} x {view[2]}, "
           f"{view[3]:.0%} dropped", paper, *view_gflops(*view))
          for view, paper in VIEW_GFLOPS.items()],
          FLOPS_TOLERANCE, 1),
      *compare(f"{VIEWS} views of 32 x 320 x 320, TFLOPs", [
          (size.title(), paper,
           *(VIEWS * count / 1e3 for count in view_gflops(size, 32, 320)))
          for size, paper in VIEWS_TFLOPS.items()], FLOPS_TOLERANCE, 2),
      *compare(f"Video, audio and {CAPTIONS} captions, GFLOPs", [
          (f"MBS, {rate:.0%} dropped", paper, *multimodal_gflops(rate))
          for rate, paper in MULTIMODAL_GFLOPS.items()], FLOPS_TOLERANCE, 1)]


def number(value):
  """Three digits of a number, or all of those before the point."""
  return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def size(num_bytes):
  """Bytes in a unit that fits them, such as "27 MiB"."""
  units = ("B", "KiB", "MiB", "GiB", "TiB")
  power = min(max(int(math.log2(max(num_bytes, 1))) // 10, 0), len(units) - 1)
  return f"{number(num_bytes / 2 ** (10 * power))} {units[power]}"


def cost_of_config(config: ConfigDict) -> float:
  """Prints what the model of a config costs.

  Returns:
    FLOPs of a step, forward and backward.

  Raises:
    UserError: it is missing, of no task, or its sizes fit no model.
  """
  task = make_task(config)
  fields.check(config)
  config_lib.check_model(config)
  shapes = task.input_shapes()
  tuned = config.task == "finetune"
  classes = dict(num_classes=config.data.classes or 1) if tuned else {}
  no_words = "text" in shapes and not config.model.vocab_size
  if no_words:
    config = config_lib.replace(config, {"model.vocab_size": text.FIRST_WORD})
  data, model = config.data, config.model
  of_clip = [cost.flops(model, shapes, data.captions, **how, **classes)
             for how in (dict(training=True), dict(),
                         dict(training=True, paper=True))]
  kept = cost.activation_bytes(model, shapes, data.captions, config.dtype)
  columns = [(cost.parameters(model, shapes, **classes), 1e6),
             *((parts, 1e9) for parts in of_clip), (kept, 2 ** 20)]
  print(f"{'':24}{'parameters':>12}{'GFLOPs of a clip, forward':>39}"
        f"{'activations kept':>17}\n{'':24}{'millions':>12}{'training':>13}"
        f"{'evaluation':>13}{'as the paper':>13}{'MiB a clip':>17}")
  rows = {name: [parts.get(name) for parts, _ in columns]
          for name in (*of_clip[0], *columns[0][0])}
  rows["total"] = [cost.total(parts) for parts, _ in columns]
  for name, values in rows.items():
    print(f"{name:23}" + "".join(
        f"{'' if value is None else format(value / unit, ',.3f'):>{width}}"
        for value, (_, unit), width in zip(values, columns, WIDTHS)).rstrip())

  batch = config.batch_size
  step = 3 * batch * cost.total(of_clip[0])  # backward is twice forward
  trained = cost.total(cost.parameters(
      model, shapes, trainable_only=True, **classes))
  moments = 1 if config.optimizer.name.startswith("sgd") else 2
  print(f"""
Activations kept for the backward pass: an estimate. A step's peak grows by 1.4
to 1.6 times as much, as gradients and what lives for a moment come on top.
A batch of {batch:,} clips: {size(batch * cost.total(kept))} of activations \
kept for the backward pass,
{number(step / 1e12)} TFLOPs forward and backward (which is \
twice forward), on all devices together.
{trained / 1e6:,.3f} million parameters are trained: \
{size(4 * (2 + moments) * trained)} on each device, with their
gradients and the optimizer's moments, in float32.""")
  state = cost.state_bytes(
      model, shapes, config.optimizer.name, **classes)
  fit = cost.clips_that_fit(state, cost.total(kept))
  print(f"A core of a TPU v3, {size(cost.TPU_V3_CORE)}, takes "
        + (f"{fit} of these clips: the batch, {math.ceil(batch / fit)} cores "
           "or more." if fit else "none of these clips; try model.remat."))
  if classes and not data.classes:
    print("The classes are the data's; one is counted, each has "
          f"{cost.features(model, config.finetune.modality) + 1} parameters.")
  if no_words:
    width = model.word_dim or cost.encoder_of(model, "text").width
    print("The words are the data's, and not counted: each is "
          f"{width} parameters more.")
  return step


def hours_of_training(step: float, config: ConfigDict, machine: str,
                      shares: list[float], price: float) -> None:
  """Prints the hours of a config's steps on a machine.

  Args:
    step: FLOPs of a step.
    config: has `total_steps` and `batch_size`.
    machine: a key of PEAK and the number of cores or GPUs, such as "v3-256".
    shares: of its peak that a step reaches, assumed.
    price: of an hour of all of it; 0: not known.

  Raises:
    UserError: no such machine, or no such share.
  """
  kind, _, count = machine.lower().rpartition("-")
  if kind not in PEAK or not re.fullmatch("[1-9][0-9]{0,5}", count):
    raise UserError(f"--hours_on is {machine!r}, expected one of "
                    f"{', '.join(PEAK)}, - and how many: cores of a TPU, GPUs")
  for share in shares:
    if not 0 < share <= 1:
      raise UserError(
          f"--shares has {share:g}, expected more than 0, at most 1")
  peak = int(count) * PEAK[kind] * 1e12
  print(f"""
{config.total_steps:,} steps on {machine}, {count} x {PEAK[kind]:g} TFLOP/s \
in bfloat16, without evaluations,
starts, and waiting for input; the share of the peak is assumed, not measured:
{'share':>9}{'seconds a step':>18}{'clips/s':>11}{'hours':>11}""" + (
    f"{'cost':>14}" if price else ""))
  for share in shares:
    seconds = step / (peak * share)
    hours = config.total_steps * seconds / 3600
    print(f"{share:9g}{seconds:18.3f}{config.batch_size / seconds:11,.0f}"
          f"{hours:11,.1f}" + (f"{price * hours:14,.0f}" if price else ""))


def define_flags(argv):
  """Defines the flags: not at import, so that tests may import this."""
  del argv
  cli.define_config("Experiment, such as configs/pretrain.py:mbs; without it "
                    "the paper's tables.", required=False)
  flags.DEFINE_string(
      "hours_on", None, "Machine, such as v3-256 (cores) or h100-16 (GPUs), to "
      "tell the hours of a training on; needs --config.")
  flags.DEFINE_multi_float(
      "shares", [0.2, 0.3, 0.4], "Of the machine's peak that a step may reach.")
  flags.DEFINE_float(
      "price", 0.0, "Of an hour of the whole machine, to tell the cost too.",
      lower_bound=0.0)


def main():
  """Compares with the paper, or tells the cost of a config."""
  values = flags.FLAGS
  if values.config is not None:
    config = cli.config()
    step = cost_of_config(config)
    if values.hours_on:
      hours_of_training(
          step, config, values.hours_on, values.shares, values.price)
    return 0
  if values.hours_on:
    raise UserError("--hours_on needs a --config, expected one of the training")
  bad = compare_parameters() + compare_flops()
  print("\n" + "\n".join(bad or ["All within tolerance."]))
  return int(bool(bad))


if __name__ == "__main__":
  cli.run(main, define_flags)
