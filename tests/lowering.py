"""The training step of a config at full size, lowered for XLA and not run.

It is the program of one core: augmentation, model, loss, gradients, optimizer
and metrics. XLA cannot compile collectives for a processor, so that what would
come from other cores is this core's, repeated: shapes are those of the whole
pod. tests/fake_tpu.py shows the collectives themselves.
"""
import collections
import contextlib
import dataclasses
import gc
import math
from unittest import mock

import tensorflow as tf
from benchmarks.step import random_batch
from ml_collections import ConfigDict
from tensorflow.compiler.xla import xla_data_pb2
from tensorflow.compiler.xla.service import hlo_pb2

from vatt import optimizers, replicas, train
from vatt.tasks import make_task

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute",
               "reduce-scatter")
HOST = ("custom-call", "infeed", "outfeed", "send", "recv")
WIDE = ("S64", "U64", "F64", "C128")


@dataclasses.dataclass
class Program:
  """What a lowered program holds; what a TPU would not take is last.

  Attributes:
    instructions: their number.
    integers: {opcode: the most numbers of 64 bits that one has}; TPUs have
      them in two halves.
    sorts: types that are sorted.
    dynamic: instructions of a size that only a run tells.
    host: instructions that call the host.
    collectives: of types of 64 bits.
    wide_sorts: of types of 64 bits.
    doubles: instructions with float64.
  """
  instructions: int
  integers: dict[str, int]
  sorts: set[str]
  dynamic: list[str]
  host: list[str]
  collectives: list[str]
  wide_sorts: list[str]
  doubles: list[str]


def leaves(shape: xla_data_pb2.ShapeProto) -> list[xla_data_pb2.ShapeProto]:
  """The arrays of a shape, which may be a tuple of them."""
  if not shape.tuple_shapes:
    return [shape]
  return [leaf for part in shape.tuple_shapes for leaf in leaves(part)]


def type_of(shape: xla_data_pb2.ShapeProto) -> str:
  """Such as "F32"."""
  return xla_data_pb2.PrimitiveType.Name(shape.element_type)


def read(module: hlo_pb2.HloModuleProto) -> Program:
  """Looks through all computations of a program."""
  found = Program(0, collections.defaultdict(int), set(), [], [], [], [], [])
  for computation in module.computations:
    opcodes = {i.id: i.opcode for i in computation.instructions}
    for i in computation.instructions:
      found.instructions += 1
      shapes = leaves(i.shape)
      types = {type_of(shape) for shape in shapes}
      wide = bool(types & set(WIDE))
      if any(any(shape.is_dynamic_dimension) for shape in shapes) or (
          # A size that is constant is no dynamic one.
          i.opcode == "set-dimension-size"
          and opcodes[i.operand_ids[1]] != "constant"):
        found.dynamic.append(i.name)
      if i.opcode.startswith(HOST):
        found.host.append(i.name)
      if i.opcode.startswith(COLLECTIVES) and wide:
        found.collectives.append(i.name)
      if i.opcode == "sort":
        found.sorts |= types
        if wide:
          found.wide_sorts.append(i.name)
      if types & {"F64", "C128"}:
        found.doubles.append(i.name)
      for shape in shapes:
        if type_of(shape) in WIDE and i.opcode not in ("tuple", "parameter"):
          found.integers[i.opcode] = max(
              found.integers[i.opcode], math.prod(shape.dimensions))
  return found


@contextlib.contextmanager
def one_of(cores: int):
  """Code of a replica is traced as that of one of `cores`."""
  def repeated(x):
    return tf.tile(x, [cores] + [1] * (len(x.shape) - 1))

  with mock.patch.multiple(
      replicas, count=lambda: cores, gather=repeated,
      rank=lambda: tf.constant(cores - 1)) if cores > 1 else (
          contextlib.nullcontext()):
    yield


def without_values(create, initial_value=None, **options):
  """Creates a variable whose memory nobody has written, nor given yet."""
  keywords = getattr(initial_value, "keywords", None)
  if keywords is not None:  # else it is a number
    shape = keywords.get("shape") or initial_value.args[0]
    dtype = options.get("dtype") or keywords["dtype"]

    def initial_value():
      return tf.raw_ops.Empty(
          shape=tf.constant(list(shape), tf.int32), dtype=dtype, init=False)
  return create(initial_value=initial_value, **options)


def lower(config: ConfigDict, cores: int = 1) -> hlo_pb2.HloModuleProto:
  """The step of one of `cores` cores as HLO, before XLA has optimized it.

  Args:
    config: with `model.vocab_size` or `data.classes`; batch_size is a core's.
    cores: that train together.
  """
  task = make_task(config)
  try:
    with tf.variable_creator_scope(without_values):
      model = task.build_model()
      optimizer = optimizers.make_optimizer(
          config.optimizer, config.total_steps)
      optimizer._create_all_weights(model.trainable_variables)
    step = train.make_step(
        task, model, optimizer, tf.distribute.get_strategy())
    with tf.Graph().as_default():
      batch = {name: tf.TensorSpec.from_tensor(value)
               for name, value in random_batch(config).items()}

    @tf.function(jit_compile=True, autograph=False)
    def program(*values):
      return step(dict(zip(batch, values)))

    with one_of(cores):
      lowered = program.experimental_get_compiler_ir(*batch.values())
    return hlo_pb2.HloModuleProto.FromString(lowered(stage="hlo_serialized"))
  finally:
    tf.keras.mixed_precision.set_global_policy("float32")
    # The model is in a cycle, and what it would take is counted.
    model = optimizer = step = program = lowered = None
    gc.collect()
