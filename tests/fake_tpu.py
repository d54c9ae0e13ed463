"""The training loop and evaluation as TPUs would get them, traced without one.

A TPUStrategy whose cores are logical CPUs traces what it would send to a TPU;
nothing of it runs. It needs a process of its own, as logical CPUs are made
before TensorFlow's first operation:

  python tests/fake_tpu.py DATA_DIR '{"NAME": ["FILE", "ARGUMENT"], …}'

prints a line of JSON: for each NAME what `found_in` says of its training loop,
`train`, of its evaluation, `evaluate`, and of the `sentences` in that; and what
`dump` returns.
"""
import collections
import contextlib
import functools
import importlib
import json
import math
import pathlib
import re
import sys
import tempfile
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict
from tensorflow.core.framework import (
  attr_value_pb2,
  function_pb2,
  graph_pb2,
  node_def_pb2,
  types_pb2,
)
from tensorflow.python.distribute import tpu_strategy
from tensorflow.python.framework import kernels
from tensorflow.python.tpu import tpu_system_metadata

from vatt import config as config_lib
from vatt import distribute, optimizers, train
from vatt.tasks import Task, make_task

CORES = 2
PLACE = "/job:localhost/replica:0/task:0/device:"
COLLECTIVES = ("AllToAll", "CrossReplicaSum", "CollectivePermute")
SORTS = ("TopKV2", "TopK", "XlaSort", "XlaKeyValueSort", "XlaVariadicSort")
CONDITIONS = ("If", "StatelessIf", "Case", "StatelessCase", "Switch", "Merge")
# What is only on TPUs, and marks in a graph that a TPU's compiler replaces.
TPU_ONLY = (*COLLECTIVES, "TPUReplicateMetadata", "TPUReplicatedInput",
            "TPUReplicatedOutput", "TPUCompilationResult")


class Cores(tpu_strategy.TPUExtended):
  """What a TPUStrategy does, with logical CPUs in place of its cores."""

  def __init__(self, strategy, cores):
    devices = [types.SimpleNamespace(name=f"{PLACE}TPU:{i}")
               for i in range(cores)]
    metadata = tpu_system_metadata.TPUSystemMetadata(
        num_cores=cores, num_hosts=1, num_of_cores_per_host=cores,
        topology=None, devices=devices)
    super().__init__(strategy, types.SimpleNamespace(
        get_tpu_system_metadata=lambda: metadata, cluster_spec=lambda: None,
        tpu_hardware_feature=None))
    names = [f"{PLACE}CPU:{i}" for i in range(cores)]
    self._host_device = names[0]
    self._tpu_devices = np.array(names, dtype=object)[:, None]
    self._device_input_worker_devices = {names[0]: names}
    self._host_input_worker_devices = {names[0]: names[:1] * cores}


class FakeTPU(tpu_strategy.TPUStrategyV2):
  """A TPUStrategy to trace with; make it before TensorFlow's first operation.

  Args:
    cores: logical CPUs to be its cores.
  """

  def __init__(self, cores):
    cpu, = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * cores)
    tf.distribute.Strategy.__init__(self, Cores(self, cores))
    # A variable's parts are captured one by one: CPUs cannot pack them.
    self._enable_packed_variable_in_eager_mode = False


# ---- What a graph holds -----------------------------------------------------


def tpu_types() -> set[int]:
  """Types that TPUs take, by TensorFlow's list of them, and variables."""
  header = pathlib.Path(
      tf.sysconfig.get_include(), "tensorflow/core/tpu/tpu_defs.h").read_text()
  names = header.partition("kTpuAllTypes = {")[2].partition(";")[0]
  return {tf.resource.as_datatype_enum, *(
      types_pb2.DataType.Value(name) for name in re.findall(r"DT_\w+", names))}


@functools.cache
def tpu_kernels() -> dict[str, list[dict[str, set[int]]]]:
  """TensorFlow's ops that TPUs have, with the types that they take.

  The wheel for processors has no kernels for TPUs. But TensorFlow registers one
  set of kernels for all that XLA compiles, for each backend those of its types.
  So they are those of XLA_CPU_JIT, but for other types than a TPU's, and those
  that are made for TPUs.

  Returns:
    {op: [{attribute: numbers of its types} of each kernel]}.
  """
  tf.function(lambda x: x + 1, jit_compile=True)(1)  # registers them
  known = {op: [{}] for op in TPU_ONLY}
  for kernel in kernels.get_all_registered_kernels().kernel:
    if kernel.device_type == "XLA_CPU_JIT":
      known.setdefault(kernel.op, []).append({
          limit.name: set(limit.allowed_values.list.type) & tpu_types()
          for limit in kernel.constraint})
  return known


def without_kernel(nodes: list[node_def_pb2.NodeDef], functions: set[str]
                   ) -> list[str]:
  """Ops, with types where these are why, that TPUs do not have."""
  known = tpu_kernels()
  found = set()
  for node in nodes:
    if node.op in functions:
      continue
    if node.op not in known:
      found.add(node.op)
    elif not any(all(set(types_in(node.attr[name])) <= allowed
                     for name, allowed in kernel.items() if name in node.attr)
                 for kernel in known[node.op]):
      names = {tf.as_dtype(number).name for value in node.attr.values()
               for number in types_in(value)}
      found.add(f"{node.op} of {', '.join(sorted(names))}")
  return sorted(found)


def types_in(value: attr_value_pb2.AttrValue) -> list[int]:
  """The type, or the list of types, that an attribute has."""
  return list(value.list.type) or [value.type] * bool(value.type)


def type_of(node: node_def_pb2.NodeDef) -> str:
  """The type of what a node sends or sorts."""
  return tf.as_dtype(node.attr["T"].type).name


def called_by(node: node_def_pb2.NodeDef, functions: dict) -> list[str]:
  """Names of the functions that a node calls."""
  names = [value.func.name for value in node.attr.values()]
  names += [f.name for value in node.attr.values() for f in value.list.func]
  return [name for name in (node.op, *names) if name in functions]


def replicated(graph: graph_pb2.GraphDef) -> list[node_def_pb2.NodeDef]:
  """Nodes of the programs of the cores, those of functions called there too."""
  functions = {f.signature.name: f for f in graph.library.function}
  nodes = [node for body in (graph.node, *(
      f.node_def for f in functions.values())) for node in body
      if "_tpu_replicate" in node.attr]
  seen, queue = set(), nodes
  while queue:
    names = {name for node in queue for name in called_by(node, functions)}
    queue = [node for name in names - seen for node in functions[name].node_def]
    seen |= names
    nodes = nodes + queue
  return nodes


def source(name: str) -> str:
  """The node or argument that an input comes from; "" of what only waits."""
  return "" if name.startswith("^") else name.split(":")[0]


def reached(nodes: list[node_def_pb2.NodeDef], starts: set[str]) -> set[str]:
  """Names of nodes that take values of `starts`, near or far, and these."""
  readers = collections.defaultdict(list)
  for node in nodes:
    for name in node.input:
      readers[source(name)].append(node.name)
  found, queue = set(), list(starts)
  while queue:
    name = queue.pop()
    if name not in found:
      found.add(name)
      queue += readers[name]
  return found


def host_waits(graph: graph_pb2.GraphDef) -> list[str]:
  """Where a host has to know what a core computed, to go on: conditions outside
  of the cores' programs, and ends of loops, that depend on a program."""
  functions = {f.signature.name: f for f in graph.library.function}
  found = []

  def visit(nodes, starts):
    """Goes through a body; `starts`, arguments that a core has computed."""
    starts = starts | {node.name for node in nodes
                       if node.op == "TPUReplicatedOutput"}
    while True:
      known = reached(nodes, starts)
      # What a function returns of a program is of a program.
      more = {node.name for node in nodes for name in called_by(node, functions)
              if "_tpu_replicate" not in node.attr and computes(name)}
      if more <= known:
        break
      starts |= more
    for node in nodes:
      if "_tpu_replicate" in node.attr:
        continue
      given = [source(name) in known for name in node.input]
      if node.op in CONDITIONS and any(given[:1]):
        found.append(f"{node.op} {node.name} of {len(node.input)} inputs")
      if node.op in ("While", "StatelessWhile"):
        body, cond = (functions[node.attr[name].func.name]
                      for name in ("body", "cond"))
        given = carried(body, given)
        if depends(cond, given):
          found.append(f"the end of loop {node.name}")
        visit(body.node_def, arguments(body, given))
      else:
        for name in called_by(node, functions):
          of_function = functions[name]
          skip = node.op in CONDITIONS  # whose first input is the condition
          visit(of_function.node_def, arguments(of_function, given[skip:]))

  def computes(name):
    """Whether a function has a program."""
    return any(node.op == "TPUReplicatedOutput" or any(
        map(computes, called_by(node, functions)))
        for node in functions[name].node_def)

  def carried(body, given):
    """Which variables of a loop come from a program, after any step."""
    while True:
      starts = arguments(body, given) | {
          node.name for node in body.node_def
          if node.op == "TPUReplicatedOutput" or any(
              map(computes, called_by(node, functions)))}
      known = reached(body.node_def, starts)
      after = [old or source(body.ret[arg.name]) in known for old, arg in zip(
          given, body.signature.output_arg, strict=True)]
      if after == given:
        return given
      given = after

  visit(list(graph.node), set())
  return found


def arguments(function: function_pb2.FunctionDef, given: list[bool]
              ) -> set[str]:
  """Names of a function's arguments of which `given` is true."""
  return {arg.name for arg, is_given in zip(
      function.signature.input_arg, given, strict=False) if is_given}


def depends(function: function_pb2.FunctionDef, given: list[bool]) -> bool:
  """Whether what a function returns depends on those arguments."""
  known = reached(function.node_def, arguments(function, given))
  return any(source(name) in known for name in function.ret.values())


def found_in(graph: graph_pb2.GraphDef) -> dict:
  """What a traced loop or evaluation asks of TPUs.

  Args:
    graph: of a concrete function.

  Returns:
    {"ops": those of the programs,
     "programs": how often a program is started in the graph's text,
     "collectives", "sorts": {op: {type: count}} in the programs,
     "conditions": those in the programs,
     "no_kernel": ops of the programs that TPUs do not have,
     "host_waits": as of `host_waits`,
     "host_calls": ops of the programs that run on the host}.
  """
  nodes = replicated(graph)
  functions = {f.signature.name for f in graph.library.function}
  everywhere = [*graph.node, *(
      node for f in graph.library.function for node in f.node_def)]

  def count(ops):
    table = collections.defaultdict(collections.Counter)
    for node in nodes:
      if node.op in ops:
        table[node.op][type_of(node)] += 1
    return {op: dict(found) for op, found in table.items()}

  return dict(
      ops=sorted({node.op for node in nodes} - functions),
      programs=sum(node.op == "TPUReplicateMetadata" for node in everywhere),
      collectives=count(COLLECTIVES), sorts=count(SORTS),
      conditions=[node.name for node in nodes if node.op in CONDITIONS],
      no_kernel=without_kernel(nodes, functions),
      host_waits=host_waits(graph),
      host_calls=sorted({node.op for node in nodes
                         if "_xla_outside_compilation" in node.attr
                         or "PyFunc" in node.op or "HostCompute" in node.op}))


# ---- What is traced ---------------------------------------------------------


def tiny(file: str, argument: str, data_dir: str) -> ConfigDict:
  """A shipped config with small towers, on the digits; the rest is its own."""
  config = ConfigDict(
      importlib.import_module(f"configs.{file}").get_config(argument))
  frames, samples = config.data.frames, config.data.audio_samples
  config.data.update(dict(
      data_dir=data_dir, datasets=("spoken_digits/official",), shares=(),
      eval_split="test", size=32, frames=min(frames, 8),
      audio_samples=(samples * min(frames, 8) // frames if frames else
                     min(samples, 38_400))))
  config.batch_size, config.model.vocab_size = 2 * CORES, 0
  config.eval.batch_size = 2 * CORES
  for sizes in config.model.encoders.values():
    sizes.update(dict(depth=1, width=16, mlp_dim=32, num_heads=2))
  return config


def trace_loop(task: Task, model: tf.keras.Model,
               strategy: tf.distribute.Strategy, data_sources: list
               ) -> graph_pb2.GraphDef:
  """The loop of `train.train`."""
  config = task.config
  with strategy.scope():
    optimizer = optimizers.make_optimizer(config.optimizer, config.total_steps)
    optimizer.iterations  # noqa: B018  creates the step counter
    optimizer._create_all_weights(model.trainable_variables)
  step = train.make_step(task, model, optimizer, strategy)
  loop = train.make_loop(step, (*task.METRICS, "loss", "grad_norm"),
                         config.steps_per_loop)
  dataset = distribute.distribute_dataset(
      strategy, config.batch_size, task.train_dataset(data_sources, 0))
  traced = loop.get_concrete_function(iter(dataset))
  return traced.graph.as_graph_def()


class Traced(Exception):
  """Of a function that was to run: its graph."""


@contextlib.contextmanager
def only_traced():
  """Functions made here raise Traced where they would run."""
  function = tf.function

  def make(python_function=None, **options):
    if python_function is None:
      return lambda later: make(later, **options)
    made = function(python_function, **options)

    def call(*args):
      raise Traced(made.get_concrete_function(*args).graph.as_graph_def())
    return call

  tf.function = make
  try:
    yield
  finally:
    tf.function = function


def trace_call(function: Callable, *args: Any) -> graph_pb2.GraphDef:
  """The first tf.function that a function makes and calls."""
  with only_traced():
    try:
      function(*args)
    except Traced as traced:
      return traced.args[0]
  raise AssertionError("nothing was called")


def trace(strategy: tf.distribute.Strategy, file: str, argument: str,
          data_dir: str) -> dict:
  """What is found in the training loop and in the evaluation of a config."""
  task = make_task(tiny(file, argument, data_dir))
  config_lib.check(task.config)
  data_sources = task.open_sources("train")
  task = task.resolve(data_sources)
  with strategy.scope():
    model = task.build_model()
  test, = task.open_sources("test")
  graphs = dict(train=trace_loop(task, model, strategy, data_sources),
                evaluate=trace_call(task.evaluate, model, strategy, test))
  if task.config.task == "pretrain":
    graphs["sentences"] = trace_call(
        task.embed_sentences, model, strategy, ["seven", "nine"])
  return {name: found_in(graph) for name, graph in graphs.items()}


def dump(file: str, argument: str, data_dir: str) -> list[str]:
  """Names in the dump of a step that was not finite."""
  task = make_task(tiny(file, argument, data_dir))
  data_sources = task.open_sources("train")
  task = task.resolve(data_sources)
  with tempfile.TemporaryDirectory() as folder:
    train.dump_non_finite(task, data_sources, folder, 1, {
        "loss": math.nan, "grad_norm": math.nan}, is_chief=True)
    with np.load(f"{folder}/non_finite_1.npz") as arrays:
      return sorted(arrays)


def main(data_dir, what):
  strategy = FakeTPU(CORES)
  print(json.dumps(dict(
      {name: trace(strategy, *config, data_dir)
       for name, config in json.loads(what).items()},
      dump=dump("pretrain", "mbs", data_dir))))


if __name__ == "__main__":
  main(*sys.argv[1:])
