"""Training and evaluation under a TPUStrategy, traced: see fake_tpu.py."""
import json

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops

from tests import fake_tpu
from tests.configs_test import ALL, SAME_GRAPH
from vatt import optimizers, train
from vatt.tasks import make_task

WIDE = {"int64", "uint64", "float64", "complex128"}
FIRST = ("pretrain", "mbs")  # in the default suite
OTHERS = [item for item in ALL if item not in SAME_GRAPH and item != FIRST]


@pytest.fixture(scope="module")
def traced(python, digits_dir):
  """A function of configs, (file, argument)s: what is found in each."""
  def run(*configs):
    names = [",".join(config) for config in configs]
    result = python.run("tests/fake_tpu.py", digits_dir, json.dumps(
        dict(zip(names, configs))), timeout=3000)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    return [found[name] for name in names], found["dump"]
  return run


@pytest.fixture(scope="module")
def first(traced):
  return traced(FIRST)


def check(found):
  """What has to hold of a config's training loop and evaluation."""
  for name, graph in found.items():
    sent = graph["collectives"]
    assert not any(WIDE & set(types) for types in sent.values()), (name, sent)
    assert not any(WIDE & set(types) for types in graph["sorts"].values())
    # A step is one program, and nothing in or around it waits for another.
    assert graph["programs"] == 1, name
    assert not graph["conditions"] and not graph["host_waits"], name
    assert not graph["host_calls"] and not graph["no_kernel"], name
    assert "TPUReplicateMetadata" in graph["ops"]
  # Gradients are summed, and so are seen.
  assert found["train"]["collectives"]["CrossReplicaSum"]["float32"] > 10
  assert not found["evaluate"]["collectives"]


def test_pretraining(first):
  (found,), _ = first
  check(found)
  assert "sentences" in found
  # DropToken, of video and of audio.
  assert found["train"]["sorts"] == {"TopKV2": {"float32": 2}}
  assert {"AssignSubVariableOp", "MatMul", "TopKV2"} & set(
      found["train"]["ops"])


@pytest.mark.slow
def test_all_others(traced):
  found, _ = traced(*OTHERS)
  for config in found:
    check(config)


def test_a_dump_asks_nothing_of_a_core(first):
  """Cores run nothing here: it would fail if it did."""
  _, names = first
  assert {"batch/video", "batch/index", "metrics/loss"} <= set(names)


# ---- That faults are found --------------------------------------------------


def graph_of(function, *specs):
  return tf.function(function).get_concrete_function(
      *specs).graph.as_graph_def()


def program(x):
  """What a core computes."""
  return tf.raw_ops.TPUReplicatedOutput(input=x, num_replicas=1)[0]


NUMBER = tf.TensorSpec([], tf.float32)


@pytest.mark.parametrize("waits", [False, True])
def test_conditions_on_what_a_core_computes_are_found(waits):
  def branch(x):
    known = program(x) if waits else x
    return tf.cond(known > 0, lambda: x + 1, lambda: x)

  found = fake_tpu.host_waits(graph_of(branch, NUMBER))
  assert [line.split()[0] for line in found] == ["StatelessIf"] * waits


@pytest.mark.parametrize("waits", [False, True])
def test_loops_that_end_by_what_a_core_computes_are_found(waits):
  """Also by way of another variable of the loop, a step later."""
  def loop(x):
    def step(i, last, before):
      return i + 1, program(before), last if waits else before

    return tf.while_loop(
        lambda i, last, before: (i < 3.0) & (before > 0.0), step, (0.0, x, x))

  found = fake_tpu.host_waits(graph_of(loop, NUMBER))
  assert [line[:15] for line in found] == ["the end of loop"] * waits


def test_waits_in_the_body_of_a_loop_are_found():
  def loop(x):
    def step(i, last):
      return i + 1, tf.cond(last > 0, lambda: program(last), lambda: last)
    return tf.while_loop(lambda i, last: i < 3, step, (0, x))

  found = fake_tpu.host_waits(graph_of(loop, NUMBER))
  assert len(found) == 1 and found[0].startswith("StatelessIf")


def test_ops_without_a_kernel_are_found():
  graph = graph_of(
      lambda x: (tf.math.top_k(x, 1), tf.identity_n([x, x]),
                 tf.exp(tf.cast(x, tf.complex128)),
                 tf.identity(tf.strings.as_string(x)), tf.image.encode_png(
                     tf.cast(x[:, None, None], tf.uint8))),
      tf.TensorSpec([3], tf.int32))
  found = set(fake_tpu.without_kernel(graph.node, set()))
  assert found - {"Placeholder"} == {  # the function's argument
      "AsString", "Cast of complex128, int32", "EncodePng", "Exp of complex128",
      "Identity of complex128", "Identity of string"}


# ---- Reads ------------------------------------------------------------------


@pytest.mark.slow
def test_a_loop_is_read_once(digits_dir, tmp_path, monkeypatch):
  """Of all tensors, the host reads those that a loop returns, and after it."""
  config = fake_tpu.tiny("finetune", "audioset,base", digits_dir)
  config.total_steps = config.log_every = config.checkpoint_every = 6
  config.eval_every, config.steps_per_loop = 6, 2
  task = make_task(config)
  data_sources = task.open_sources("train")
  task = task.resolve(data_sources)
  reads, returned = [], []  # of each loop
  read, make_loop = ops._EagerTensorBase._numpy, train.make_loop

  def counted(tensor):
    if reads:
      reads[-1].append(tensor)
    return read(tensor)

  def make(*args):
    loop = make_loop(*args)

    def call(iterator):
      returned.append(loop(iterator))
      reads.append([])
      return returned[-1]
    return call

  monkeypatch.setattr(train, "make_loop", make)
  monkeypatch.setattr(ops._EagerTensorBase, "_numpy", counted)
  try:
    model = task.build_model()
    train.train(
        task, model, optimizers.make_optimizer(config.optimizer, 6),
        data_sources, str(tmp_path), tf.distribute.get_strategy())
  finally:
    tf.keras.mixed_precision.set_global_policy("float32")
  assert len(reads) == 3  # the last one's, with logs and a checkpoint
  for tensors, loop in zip(reads[:2], returned):
    assert len(tensors) == len(loop)
    assert all(a is b for a, b in zip(tensors, loop))
  assert np.isfinite(returned[0].metrics).all()
