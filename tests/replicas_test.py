"""The same global batch gives the same result on any number of replicas."""

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from configs import common
from tests import tiny
from tests.data import conftest as records
from vatt import losses, seeds
from vatt.data import input_pipeline
from vatt.tasks import Task, finetune, make_task
from vatt.train import make_step

ROWS = 16
CONFIG = ConfigDict(dict(
    seed=3, batch_size=ROWS, optimizer=dict(clip_norm=0.0)))


@pytest.fixture(autouse=True)
def plain_graphs_and_float32_afterwards():
  # To optimize the large graphs of four replicas takes longer than to run them.
  tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
  yield
  tf.config.optimizer.set_experimental_options(
      {"disable_meta_optimizer": False})
  tf.keras.mixed_precision.set_global_policy("float32")


def strategy_of(replicas):
  if replicas == 1:  # as one_device has it
    return tf.distribute.get_strategy()
  return tf.distribute.MirroredStrategy(
      [f"/cpu:{i}" for i in range(replicas)])


def spread(strategy, batch):
  """Gives replica r the rows [r·B/R, (r+1)·B/R)."""
  rows = ROWS // strategy.num_replicas_in_sync

  def own_rows(context):
    first = context.replica_id_in_sync_group * rows
    return {name: value[first:first + rows] for name, value in batch.items()}
  return strategy.experimental_distribute_values_from_function(own_rows)


def make_batch(audio="waveform"):
  """With gaps such that of 4 replicas one has no audio, another no caption,
  and a corrupt record."""
  batch = {name: value.numpy()
           for name, value in tiny.make_batch(audio, ROWS).items()}
  batch["caption_mask"][:4] = False
  batch["audio_mask"][4:8] = False
  for mask in ("video_mask", "audio_mask", "caption_mask"):
    batch[mask][9] = False
  batch["index"] = np.arange(ROWS)
  batch["record"] = np.arange(100, 100 + ROWS, dtype=np.int32)
  batch["corrupt"] = ~batch["video_mask"]
  return {name: tf.constant(value) for name, value in batch.items()}


class Contrast(Task):
  """The losses of embeddings of ready inputs."""

  def loss_and_metrics(self, model, batch, seed):
    embeddings, _ = model(batch, training=True, seed=seeds.fold(seed, "model"))
    return losses.vatt_loss(embeddings, batch, 0.07, 1.0, "paper")


def make_run(replicas, make_optimizer, **model):
  """Strategy, model, and the function of a step, on so many replicas."""
  strategy = strategy_of(replicas)
  with strategy.scope():
    model = tiny.make_model(depth=1, **model)
    optimizer = make_optimizer()
    optimizer.iterations  # noqa: B018  creates the step counter
    optimizer._create_all_weights(model.trainable_variables)
  return strategy, model, make_step(
      Contrast(CONFIG), model, optimizer, strategy)


def one_step(replicas, **model):
  """Metrics, gradients on each replica, and moving statistics on each."""
  # A gradient is what this optimizer takes off.
  strategy, model, step = make_run(
      replicas, lambda: tf.keras.optimizers.legacy.SGD(1.0), **model)
  batch = spread(strategy, make_batch(model_audio(model)))
  before = [v.numpy() for v in model.trainable_variables]
  metrics, facts = tf.function(step)(batch)
  local = strategy.experimental_local_results
  values = [{name: value.numpy() for name, value in metrics.items()}]
  for r in range(replicas):
    values.append({
        f"{i} {v.name}": old - local(v)[r].numpy() for i, (v, old) in enumerate(
            zip(model.trainable_variables, before))})
    values.append({f"{i} {v.name}": local(v)[r].numpy() for i, v in enumerate(
        model.non_trainable_variables)})
  return values, facts


def model_audio(model):
  axes = model.towers["audio"].tokenizer.position.sizes
  return ("waveform", "spectrogram")[len(axes) - 1]


def test_loss_gradients_and_statistics_in_float64():
  """DropToken is on: its draw is part of what must not change."""
  fields = dict(setting="agnostic", audio="spectrogram", dtype="float64")
  replicas = 2
  (metrics, gradients, statistics), _ = one_step(1, **fields)
  assert set(metrics) == {"loss", "nce", "mil_nce", "grad_norm"}
  assert metrics["loss"] == metrics["nce"] + metrics["mil_nce"] > 0
  norm = metrics["grad_norm"]
  assert norm == pytest.approx(np.sqrt(sum(
      (g ** 2).sum() for g in gradients.values())))
  fresh = tiny.make_model(depth=1, **fields)
  for variable, moved in zip(fresh.non_trainable_variables,
                             statistics.values()):
    assert np.abs(variable - moved).max() > 1e-3  # the step did move them
  (others, *parts), facts = one_step(replicas, **fields)
  assert bool(facts["finite"])
  np.testing.assert_array_equal(
      facts["corrupt"], np.where(np.arange(ROWS) == 9, 110, 0))
  for name, value in metrics.items():
    assert others[name] == pytest.approx(value, rel=1e-12), name
  assert len(parts) == 2 * replicas
  for i, part in enumerate(parts):  # each replica has the same
    for name, value in (statistics if i % 2 else gradients).items():
      scale = 1 if i % 2 else norm
      np.testing.assert_allclose(
          part[name], value, rtol=1e-12, atol=1e-12 * scale, err_msg=name)


@pytest.mark.parametrize("modality, replicas", [
    ("", 2), pytest.param("", 4, marks=pytest.mark.slow), ("video", 2),
    ("audio", 4)])
def test_steps_with_every_draw_in_float64(modality, replicas):
  """Of pre-training, and of fine-tuning: video with one label, smoothed; audio
  with several, balanced; both mixed. Of 4 replicas one has no label and no
  caption, another no signal. Inputs are drawn and changed in float32, all but
  by the equalizer, whose powers are rounded otherwise at the end of a tensor.
  """
  config = tiny.make_config(modality, ROWS)
  config.dtype = "float64"
  batch = {name: value.numpy()
           for name, value in tiny.make_raw_batch(config).items()}
  batch["labels"][:4] = batch["caption_mask"][:4] = False
  batch["audio_mask"][4:8] = modality == "audio"
  for name in ("video_mask", "audio_mask", "caption_mask"):
    batch[name][8:13] = False
  batch = {name: tf.constant(value) for name, value in batch.items()}
  task = make_task(config)
  first = task.build_model().get_weights()

  def train(replicas):
    """The metrics of each step, and the weights before and after."""
    strategy = strategy_of(replicas)
    with strategy.scope():
      model = task.build_model()
      model.set_weights(first)
      optimizer = tf.keras.optimizers.legacy.SGD(1.0)
      optimizer.iterations  # noqa: B018  creates the step counter
      optimizer._create_all_weights(model.trainable_variables)
    step = make_step(task, model, optimizer, strategy)
    own = spread(strategy, batch)
    run = tf.function(lambda: step(own), autograph=False)
    metrics, weights = [], [first]
    for _ in range(3):
      found, facts = run()
      assert facts["finite"]
      metrics.append({name: float(value) for name, value in found.items()})
      weights.append(model.get_weights())
    return metrics, weights

  alone, weights = train(1)
  assert np.abs(np.diff([m["loss"] for m in alone])).min() > 1e-3
  metrics, others = train(replicas)
  for one, many in zip(alone, metrics, strict=True):
    assert many == pytest.approx(one, rel=1e-12)
  for one, many in zip(weights, others, strict=True):  # gradients, step by step
    for a, b in zip(one, many, strict=True):
      np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12)


def test_loss_of_20_adam_steps_in_float32():
  """Also that the steps' DropToken differs, from step to step alone."""
  batch = make_batch()

  def train(replicas):
    strategy, _, step = make_run(
        replicas, lambda: tf.keras.optimizers.legacy.Adam(1e-4), random=False)
    own = spread(strategy, batch)
    loss = tf.function(lambda: step(own)[0]["loss"], autograph=False)
    return np.array([loss().numpy() for _ in range(20)])

  alone = train(1)
  assert np.abs(np.diff(alone)).min() > 1e-4
  np.testing.assert_allclose(train(2), alone, rtol=1e-6)


def test_every_form_of_the_loss():
  rng = np.random.default_rng(0)
  batch = {"video": rng.normal(size=(ROWS, 5)),
           "items": rng.normal(size=(ROWS, 3, 5)),
           "video_mask": rng.random(ROWS) < 0.8,
           "item_mask": rng.random((ROWS, 3)) < 0.6}
  batch = {name: tf.constant(value) for name, value in batch.items()}

  def run(replicas):
    """The losses, and the gradients of each, of all replicas' rows."""
    strategy = strategy_of(replicas)

    def replica(batch):
      inputs = [batch["video"], batch["items"]]
      results = []
      for form in losses.FORMS:
        with tf.GradientTape() as tape:
          tape.watch(inputs)
          loss = losses.mil_nce(
              *inputs, batch["video_mask"], batch["item_mask"], 0.1, form)
        results.append((loss[None], *tape.gradient(loss, inputs)))
      return results

    parts = tf.function(lambda batch: strategy.run(replica, args=(batch,)),
                        autograph=False)(spread(strategy, batch))
    return tf.nest.map_structure(
        lambda part: np.concatenate(strategy.experimental_local_results(part)),
        parts)

  alone = run(1)
  for replicas in (2, 4):
    for one, many in zip(alone, run(replicas)):
      assert many[0].sum() == pytest.approx(one[0][0], rel=1e-12)
      for a, b in zip(one[1:], many[1:]):
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-13)


# -----------------------------------------------------------------------------
# Fine-tuning.
# -----------------------------------------------------------------------------
def finetuning(modality, **data):
  """A config at tiny size."""
  config = common.finetuning(modality, "base")
  config.batch_size = ROWS
  config.data.update(dict(dict(
      classes=5, frames=4, fps=8.0, size=16, audio_samples=4000,
      audio_rate=8000), **data))
  config.model.update(dict(video_patch=(2, 8, 8), dropout=0.0, drop_rate=0.5))
  config.model.encoders[modality].update(
      dict(depth=1, width=16, mlp_dim=32, num_heads=2))
  return config


def gather(strategy, rows):
  return np.concatenate(strategy.experimental_local_results(rows))


def test_mixup_pairs_the_rows_of_the_global_batch():
  """To the last bit."""
  rng = np.random.default_rng(0)
  batch = {"inputs": tf.constant(rng.normal(size=(ROWS, 3, 2))),
           "labels": tf.constant(rng.normal(size=(ROWS, 5))),
           "mask": tf.constant(rng.random(ROWS) < 0.5)}

  @tf.autograph.experimental.do_not_convert
  def replica(batch):
    return (*finetune.mixup(batch["inputs"], batch["labels"], 5, seeds.root(1)),
            finetune.next_rows(batch["mask"]))

  def run(replicas):
    strategy = strategy_of(replicas)
    parts = tf.function(lambda batch: strategy.run(replica, args=(batch,)))(
        spread(strategy, batch))
    return [gather(strategy, part) for part in parts]

  alone = run(1)
  np.testing.assert_array_equal(alone[2], np.roll(batch["mask"], -1))
  for replicas in (2, 4):
    for one, many in zip(alone, run(replicas)):
      np.testing.assert_array_equal(many, one)


def test_predictions_of_every_clip_once(tmp_path):
  """Seven clips of 2 windows × 3 crops in batches of 8: a clip's views are in
  two batches, in two replicas, and the last batch has two of them. Against the
  views in one batch."""
  raw = [records.serialize(records.clip(i, width=50)) for i in range(7)]
  records.write_built(tmp_path, "clips", {"test": raw})
  config = finetuning("video", data_dir=str(tmp_path), datasets=("clips",),
                      classes=10)
  config.eval.update(dict(windows=2, crops=3, batch_size=8))
  task = make_task(config, "abcdefghij")
  source, = task.open_sources("test")
  model = task.build_model()
  first = [3 * w for w in model.get_weights()]
  model.set_weights(first)
  batch, = input_pipeline.eval_dataset(config.data, source, 42, 2, 3)
  views = batch["video"].numpy()
  assert len({view.tobytes() for view in views}) == 42
  logits, _ = model(views / np.float32(127.5) - 1)
  expected = logits.numpy().reshape(7, 6, 10).mean(axis=1)
  largest = np.abs(expected).max()
  assert expected.std(0).min() > 0.01 * largest  # clips differ

  found, measures, counted = [], [], []
  for replicas in (1, 2, 4):
    strategy = strategy_of(replicas)
    with strategy.scope():
      model = task.build_model()
    model.set_weights(first)
    done = []
    measures.append(task.evaluate(
        model, strategy, source, done.append, str(tmp_path)))
    counted.append(sum(done))
    with np.load(tmp_path / "predictions.npz") as arrays:
      found.append(dict(arrays))
  assert counted == [7] * 3 and measures[0] == measures[1] == measures[2]
  for arrays in found:
    assert arrays["id"].tolist() == [f"clip{i}" for i in range(7)]
    assert arrays["classes"].tolist() == list("abcdefghij")
    assert arrays["has_video"].all()
    np.testing.assert_array_equal(arrays["labels"], np.eye(10)[:7] > 0)
    # But for rounding: a matrix of fewer rows is multiplied in another order.
    np.testing.assert_allclose(
        arrays["logits"], expected, atol=5e-6 * largest)
    np.testing.assert_allclose(
        arrays["logits"], found[0]["logits"], atol=1e-6 * largest)
