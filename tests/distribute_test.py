import json

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from vatt import distribute, replicas
from vatt.config import check_strategy
from vatt.errors import UserError


def config(name, devices=0, tpu=""):
  return ConfigDict(dict(
      name=name, devices=devices, tpu=tpu, wait_minutes=1.0))


STRATEGIES = {  # the kind and number of replicas, by what is asked for
    ("one_device", 0): 1, ("one_device", 1): 1, ("mirrored", 1): 1,
    ("mirrored", 2): 2, ("mirrored", 4): 4, ("mirrored", 0): 4}


@pytest.fixture(params=STRATEGIES, ids=lambda key: f"{key[0]}-{key[1]}")
def strategy(request):
  strategy = distribute.make_strategy(config(*request.param))
  assert strategy.num_replicas_in_sync == STRATEGIES[request.param]
  return strategy


def rows_of_host(batch_size):
  """`make` of a stream of rows 0, 1, 2, … in global order."""
  def make(input_id, num_inputs, rows_per_batch):
    part = batch_size // num_inputs

    def rows(step):
      return tf.range(part, dtype=tf.int64) + step * batch_size + (
          input_id * part)

    return (tf.data.Dataset.range(5).map(rows).unbatch()
            .batch(rows_per_batch, drop_remainder=True)
            .map(lambda row: {"row": row, "odd": row % 2 == 1,
                              "byte": tf.cast(row, tf.uint8)}))
  return make


def test_rows_reach_the_replicas_in_order(strategy):
  count = strategy.num_replicas_in_sync
  dataset = distribute.distribute_dataset(strategy, 8, rows_of_host(8))
  batches = list(dataset)
  assert len(batches) == 5
  for step, batch in enumerate(batches):
    want = np.arange(8) + 8 * step
    local = strategy.experimental_local_results(batch["row"])
    assert [rows.shape for rows in local] == [8 // count] * count
    np.testing.assert_array_equal(np.concatenate(local), want)
    got = distribute.gathered(strategy, lambda batch: batch)(batch)
    np.testing.assert_array_equal(got["row"], want)
    np.testing.assert_array_equal(got["odd"], want % 2 == 1)
    np.testing.assert_array_equal(got["byte"], want)
    assert [got[n].dtype for n in ("odd", "byte")] == [np.bool_, np.uint8]


def test_a_nest_is_gathered_in_the_order_of_rows(strategy):
  """Of all types and shapes, the empty one too."""
  rng = np.random.default_rng(0)
  want = {"bools": rng.random(8) < 0.5,
          "parts": [rng.normal(size=(8, 2, 3)).astype(np.float32),
                    rng.normal(size=(8, 0)).astype(np.float32)],
          "bytes": rng.integers(0, 256, (8, 5)).astype(np.uint8),
          "wide": rng.integers(0, 2 ** 60, 8), "int": np.arange(8, dtype="i4")}
  rows = 8 // strategy.num_replicas_in_sync

  @tf.function(autograph=False)
  def run():
    def replica():
      first = replicas.rank() * rows
      return replicas.gather_all(tf.nest.map_structure(
          lambda x: tf.ensure_shape(
              tf.constant(x)[first:first + rows], [rows, *x.shape[1:]]), want))
    return strategy.run(replica)

  found = tf.nest.map_structure(
      lambda value: strategy.experimental_local_results(value)[-1].numpy(),
      run())
  tf.nest.map_structure(np.testing.assert_array_equal, found, want)
  assert [x.dtype for x in tf.nest.flatten(found)] == [
      x.dtype for x in tf.nest.flatten(want)]


def test_batch_that_the_replicas_do_not_divide(strategy):
  count = strategy.num_replicas_in_sync
  for batch_size in {0, count + 1} - {count * 2}:
    with pytest.raises(
        UserError, match=f"batch_size is {batch_size}.* {count} replicas"):
      distribute.distribute_dataset(strategy, batch_size, rows_of_host(8))


def pair_sum(strategy):
  """Loss and gradient of Σ_ij z_i·z_j, z = x·w, by rows of each replica."""
  with strategy.scope():
    weights = tf.Variable([0.5, -1.0, 2.0], dtype=tf.float64)

  def make(input_id, num_inputs, rows_per_batch):
    rows = tf.constant(ROWS.reshape(-1, rows_per_batch, 3))
    return tf.data.Dataset.from_tensor_slices(rows).shard(num_inputs, input_id)

  def replica(rows):
    context = tf.distribute.get_replica_context()
    with tf.GradientTape() as tape:
      z = tf.linalg.matvec(rows, weights)
      loss = tf.reduce_sum(
          z[:, None] * context.all_gather(z, axis=0)[None, :])
    return [context.all_reduce(tf.distribute.ReduceOp.SUM, value)
            for value in (loss, tape.gradient(loss, weights))]

  @tf.function
  def step(iterator):
    return strategy.run(replica, args=(next(iterator),))

  dataset = distribute.distribute_dataset(strategy, 8, make)
  return [strategy.experimental_local_results(value)[0].numpy()
          for value in step(iter(dataset))]


ROWS = np.random.RandomState(0).normal(size=(8, 3))


def test_gathering_and_its_gradient_are_the_same_on_all(strategy):
  loss, gradient = pair_sum(strategy)
  total = ROWS.sum(0)
  want = total @ np.array([0.5, -1.0, 2.0])
  np.testing.assert_allclose(loss, want ** 2, rtol=1e-12)
  np.testing.assert_allclose(gradient, 2 * want * total, rtol=1e-12)


def test_one_device_is_the_first_cpu(strategy):
  if strategy.num_replicas_in_sync == 1:
    with strategy.scope():
      assert tf.Variable(1.0).device.endswith("CPU:0")


@pytest.mark.parametrize("asked, said", [
    (config("horovod"), "'horovod'.*one_device, mirrored, multi_worker, tpu"),
    (config("one_device", 2), "devices is 2.*one_device has 1"),
    (config("mirrored", 5), "devices is 5.*mirrored has 4"),
    (config("mirrored", -1), "devices is -1"),
    (config("tpu", tpu="local"), "no TPU at strategy.tpu 'local'"),
    (config("tpu"), "no TPU at strategy.tpu ''"),
])
def test_bad_config(asked, said, monkeypatch):
  monkeypatch.delenv("TPU_NAME", raising=False)
  with pytest.raises(UserError, match=said):
    check_strategy(asked)
    distribute.make_strategy(asked)


@pytest.mark.parametrize("text", [
    None, "", "{", "[]", '{"cluster": {}}', json.dumps(
        {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker"}})])
def test_tf_config_that_is_none(text, monkeypatch):
  monkeypatch.delenv("TF_CONFIG", raising=False)
  if text is not None:
    monkeypatch.setenv("TF_CONFIG", text)
  with pytest.raises(UserError, match="TF_CONFIG is .* expected"):
    distribute.make_strategy(config("multi_worker"))


def test_tf_config_of_a_task_outside(monkeypatch):
  monkeypatch.setenv("TF_CONFIG", json.dumps({
      "cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}))
  with pytest.raises(UserError, match="worker 1, expected one.*: worker 0$"):
    distribute.make_strategy(config("multi_worker"))
  monkeypatch.setenv("TF_CONFIG", json.dumps({
      "cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}))
  with pytest.raises(UserError, match="devices is 2.*multi_worker has 1"):
    distribute.make_strategy(config("multi_worker", 2))


def test_logical_cpus_are_made(python):
  script = """
import tensorflow as tf
from ml_collections import ConfigDict
from vatt import distribute
strategy = distribute.make_strategy(
    ConfigDict(dict(name="mirrored", devices=3, tpu="")))
assert strategy.num_replicas_in_sync == 3
assert len(tf.config.list_logical_devices("CPU")) == 3
"""
  python.run("-c", script).check_returncode()
