"""Steps of shipped configs at full size, as programs for TPUs: see lowering.py.

The slow ones print the table of vatt/README.md: `pytest -s -m slow`.
"""
import collections
import json
import os
import pathlib
import sys
import time

import pytest
import tensorflow as tf
from tensorflow.compiler.xla.service import hlo_pb2

from tests import lowering
from tests.configs_test import ALL, get_config
from vatt.models import cost
from vatt.tasks import make_task

ROOT = pathlib.Path(__file__).parents[1]
CORES = 256  # of the paper's pod
POD = ("pretrain", "ablations", "finetune")  # the files for it
WORDS = 1000  # where the data have them
CLASSES = {"kinetics400": 400, "kinetics600": 600, "kinetics700": 700,
           "moments": 339, "audioset": 527, "imagenet": 1000}
DIGITS = 10
# Fields that change no instruction of a step, or a number in it.
NOT_OF_A_STEP = {
    "total_steps", "batch_size", "steps_per_loop", "log_every",
    "checkpoint_every", "eval_every", "keep_checkpoints", "eval", "init",
    "strategy", "seed", "deterministic", "data_dir", "datasets", "shares",
    "train_split", "eval_split", "vocabulary", "shuffle_captions", "cache",
    "max_corrupt_share", "fps", "crop_area", "crop_aspect", "lr", "end_lr",
    "levels", "temperature", "weight", "word_vectors", "positions",
    "labels_per_class"}
# One of each task, in the default suite.
FIRST = [("pretrain", "bbs"), ("finetune", "audioset,base")]


def of_a_step(fields):
  """The fields that a step depends on, of a config's dict."""
  return {name: of_a_step(value) if isinstance(value, dict) else value
          for name, value in fields.items() if name not in NOT_OF_A_STEP}


def distinct_steps():
  """[(file, argument)s with the same step] of all shipped configs."""
  groups = collections.defaultdict(list)
  for name, arg in ALL:
    fields = of_a_step(get_config(name, arg).to_dict())
    groups[json.dumps(fields, sort_keys=True)].append((name, arg))
  return list(groups.values())


STEPS = distinct_steps()


def of_a_core(name, arg):
  """A config with the batch of a core, and how many cores there are."""
  config = get_config(name, arg)
  cores = min(CORES, config.batch_size) if name in POD else 1
  config.batch_size //= cores
  config.model.vocab_size = config.model.vocab_size or WORDS
  if config.task == "finetune":
    config.data.classes = CLASSES.get(arg.split(",")[0], (
        CLASSES["kinetics400"] if name in POD else DIGITS))
  return config, cores


def check(name, arg):
  """Lowers a step; returns what it is like and the seconds of a core
  that it took."""
  config, cores = of_a_core(name, arg)
  start = time.process_time()
  module = lowering.lower(config, cores)
  program = lowering.read(module)
  # The batch of a core is there, at full size.
  parameters = {tuple(shape.dimensions)
                for shape in module.host_program_shape.parameters}
  data, rows = config.data, config.batch_size
  wanted = dict(video=(rows, data.frames, data.size, data.size, 3),
                audio=(rows, data.audio_samples, 1))
  for modality in make_task(config).input_shapes():
    assert wanted.get(modality, (rows, data.captions, data.words)) in parameters
  # DropToken and mixup sort; else nothing would show that sorts are seen.
  mixup = config.task == "finetune" and config.finetune.mixup
  assert ("F32" in program.sorts) == bool(config.model.drop_rate or mixup)
  assert not program.dynamic
  assert not program.host
  assert not program.collectives
  assert not program.wide_sorts
  assert not program.doubles
  # 64 bits are in seeds and positions, of a row at most.
  assert max(program.integers.values()) <= max(3, rows)
  return program, time.process_time() - start


@pytest.mark.parametrize("name, arg", FIRST)
def test_step(name, arg):
  check(name, arg)


@pytest.mark.slow
@pytest.mark.parametrize("same", [
    pytest.param(same, id=":".join(same[0])) for same in STEPS])
def test_every_distinct_step(python, python_env, same):
  """And prints a row of the table. Each in a process: XLA keeps what it has
  lowered, some hundred MB, and 62 of them do not fit."""
  name, arg = same[0]
  path = os.pathsep.join([python_env["PYTHONPATH"], str(ROOT / "scripts")])
  done = python.run("-m", "tests.lowering_test", name, arg,
                    env=python_env | {"PYTHONPATH": path})
  assert done.returncode == 0, done.stderr
  instructions, seconds = map(float, done.stdout.split())
  config, cores = of_a_core(name, arg)
  state, clip, fit = core_of(config)
  print(f"\n| `{name}.py:{arg}`"
        + (f" and {len(same) - 1} more" if same[1:] else "")
        + f" | {cores} x {config.batch_size} | {seconds:.0f} "
        f"| {instructions / 1000:.0f} | {state / 2 ** 30:.2f} "
        f"| {clip / 2 ** 20:,.0f} | {fit} |")


def test_steps_are_told_apart():
  """By what they depend on; each config has one."""
  assert sorted(item for same in STEPS for item in same) == sorted(ALL)
  group = {item: i for i, same in enumerate(STEPS) for item in same}
  same, other = group["pretrain", "mbs"], group["pretrain", "bbs"]
  assert group["ablations", "batch_8192"] == same != other
  assert group["ablations", "batch_8192_lamb"] != same
  assert group["ablations", "audio_256"] != same
  assert (group["finetune", "kinetics400,base"]
          == group["finetune", "moments,base"])


# Three functions that a TPU would not take, or not well.
def sort_of_64_bits(x):
  return tf.sort(tf.cast(x, tf.int64))


def of_unknown_size(x):
  return tf.reduce_sum(tf.where(x > 0))


def in_float64(x):
  return tf.reduce_sum(tf.cast(x, tf.float64))


@pytest.mark.parametrize("function, fault", [
    (sort_of_64_bits, "wide_sorts"), (of_unknown_size, "dynamic"),
    (in_float64, "doubles")])
def test_faults_are_found(function, fault):
  lowered = tf.function(
      function, jit_compile=True).experimental_get_compiler_ir(tf.ones([4]))
  program = lowering.read(hlo_pb2.HloModuleProto.FromString(
      lowered(stage="hlo_serialized")))
  assert getattr(program, fault)


@pytest.mark.parametrize("opcode, fault", [
    ("custom-call", "host"), ("infeed", "host"), ("send", "host"),
    ("all-reduce", "collectives"), ("all-to-all", "collectives")])
def test_faults_of_instructions_are_found(opcode, fault):
  """Which no program that TensorFlow makes on a processor has."""
  module = hlo_pb2.HloModuleProto()
  instruction = module.computations.add().instructions.add(
      name="x", opcode=opcode)
  instruction.shape.element_type = 5  # S64
  assert getattr(lowering.read(module), fault) == ["x"]


# ---- What a core holds, and how long a loop takes ---------------------------

PAPER_SECONDS = 3 * 24 * 3600 / 500_000  # a step of pretrain.py:mbs
# A machine that is taken back has 30 s, of which a save needs some.
STOP_SECONDS = 15


def core_of(config):
  """Bytes of a step's state and of a clip, and the clips that a core holds."""
  shapes = make_task(config).input_shapes()
  classes = (dict(num_classes=max(1, config.data.classes))
             if config.task == "finetune" else {})
  state = cost.state_bytes(
      config.model, shapes, config.optimizer.name, **classes)
  clip = cost.total(cost.activation_bytes(
      config.model, shapes, config.data.captions, config.dtype))
  return state, clip, cost.clips_that_fit(state, clip)


def step_flops(config):
  classes = dict(num_classes=1) if config.task == "finetune" else {}
  return config.batch_size * cost.total(cost.flops(
      config.model, make_task(config).input_shapes(), config.data.captions,
      training=True, **classes))


def test_a_run_on_a_pod_soon_hears_that_it_is_to_stop():
  """Loops are short at the speed of the paper's cores; all 256 pre-train, and
  as few as hold the batch fine-tune."""
  speed = step_flops(get_config("pretrain", "mbs")) / PAPER_SECONDS / CORES
  for name, arg in ALL:
    if name not in POD:
      continue
    config = get_config(name, arg)
    cores = CORES
    if config.task == "finetune":
      cores = config.batch_size / core_of(config)[-1]
    seconds = config.steps_per_loop * step_flops(config) / speed / cores
    assert seconds <= STOP_SECONDS, (name, arg)
    # But long beside what it costs to start one, some milliseconds.
    assert seconds >= 0.5, (name, arg)


if __name__ == "__main__":
  checked, processor_seconds = check(*sys.argv[1:])
  print(checked.instructions, processor_seconds)
