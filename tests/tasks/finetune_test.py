"""Fine-tuning: where it starts, what it trains on, how it is measured."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn import metrics

from configs import common
from tests.data import conftest as records
from vatt import checkpoints, optimizers, seeds, train, transfer, workdir
from vatt.data import input_pipeline
from vatt.errors import UserError
from vatt.evaluators import classification
from vatt.models.tokenizers import resize_positions
from vatt.tasks import finetune, make_task

TINY = dict(depth=1, width=16, mlp_dim=32, num_heads=2)


@pytest.fixture(autouse=True)
def float32_afterwards():
  yield
  tf.keras.mixed_precision.set_global_policy("float32")


def small(config, digits_dir, frames=8, size=32):
  """A config at tiny size, on digits."""
  config.data.update(dict(
      data_dir=digits_dir, datasets=("spoken_digits/official",), frames=frames,
      fps=10.0, size=size, audio_samples=frames * 800, audio_rate=8000))
  for part in config.model.encoders.values():
    part.update(TINY)
  config.model.vocab_size = 0
  config.eval.update(dict(windows=2, batch_size=16))
  return config


def resolved(config):
  """The task of a config, as the data complete it."""
  task = make_task(config)
  return task.resolve(task.open_sources("train"))


def save_workdir(folder, task, model):
  """What training leaves: a checkpoint, the config and the words."""
  checkpoints.Checkpoints(str(folder / "checkpoints"), model=model).save(7)
  workdir.write(str(folder), task.config, task.WORDS_FILE, task.words)


def pretrained(tmp_path, digits_dir, variant):
  """The workdir of a pre-trained model with random weights, and the model."""
  task = resolved(small(common.pretraining(variant), digits_dir))
  model = task.build_model()
  rng = np.random.default_rng(0)
  for variable in model.variables:
    variable.assign(rng.normal(size=variable.shape))
  save_workdir(tmp_path, task, model)
  return model


@pytest.mark.parametrize("variant, size, modality", [
    ("mbs", "medium", "video"), ("ma", "ma", "audio")])
def test_starts_from_a_pretrained_tower(
    tmp_path, digits_dir, variant, size, modality):
  """Longer and larger inputs have more positions; all else is the same."""
  donor = pretrained(tmp_path, digits_dir, variant).towers[modality]
  config = small(common.finetuning(modality, size), digits_dir, frames=16,
                 size=48)
  task = resolved(config)
  model = task.build_model()
  last = model.classifier.kernel.numpy()
  assert transfer.start_from(str(tmp_path), task, model) == 7
  np.testing.assert_array_equal(model.classifier.kernel, last)
  ours, theirs = model.tower, donor
  for a, b in zip(ours.encoder.variables, theirs.encoder.variables):
    np.testing.assert_array_equal(a, b)
  np.testing.assert_array_equal(ours.tokenizer.projection.kernel,
                                theirs.tokenizer.projection.kernel)
  for axis, table in ours.tokenizer.position.tables.items():
    source = theirs.tokenizer.position.tables[axis].numpy()
    assert table.shape[0] > len(source)
    np.testing.assert_array_equal(
        table, resize_positions(source, table.shape[0], "bicubic"))


def test_start_from_another_model_is_refused(tmp_path, digits_dir):
  pretrained(tmp_path, digits_dir, "mbs")
  config = small(common.finetuning("video", "medium"), digits_dir)

  def start(folder):
    task = resolved(config)
    transfer.start_from(str(folder), task, task.build_model())

  config.model.encoders.video.depth = 2
  with pytest.raises(UserError, match="its video tower has .* variables, "
                     "expected the"):
    start(tmp_path)
  config.model.encoders.video.update(dict(depth=1, width=32))
  with pytest.raises(UserError, match=r"is \(16,\), expected \(32,\)|"
                     r"expected \(.*32\) by this config"):
    start(tmp_path)
  # No variable tells how many heads share it, or the axes of a patch.
  config.model.encoders.video.update(dict(width=16, num_heads=4))
  with pytest.raises(UserError, match="init: model.encoders.video.num_heads is "
                     "4, expected 2 as in "):
    start(tmp_path)
  config.model.encoders.video.num_heads = 2
  times, height, width = config.model.video_patch
  config.model.video_patch = (times, height * 2, width // 2)
  with pytest.raises(UserError, match="init: model.video_patch is .*, expec"):
    start(tmp_path)
  with pytest.raises(UserError, match="not found, expected the workdir"):
    start(tmp_path / "no")


def test_start_from_a_model_without_the_tower_is_refused(tmp_path, digits_dir):
  task = resolved(small(common.finetuning("audio", "base"), digits_dir))
  save_workdir(tmp_path, task, task.build_model())
  task = resolved(small(common.finetuning("video", "base"), digits_dir))
  with pytest.raises(UserError, match="has towers of audio, expected video"):
    transfer.start_from(str(tmp_path), task, task.build_model())


def test_resolve_names_the_classes(digits_dir):
  config = small(common.finetuning("video", "base"), digits_dir)
  task = make_task(config)
  sources = task.open_sources("train")
  found = task.resolve(sources)
  assert found.words == list(sources[0].label_names) and len(found.words) > 1
  assert found.config.data.classes == len(found.words)
  assert config.data.classes == 0  # as it was given
  config.data.classes = len(found.words) + 1
  with pytest.raises(UserError, match="classes, expected data.classes"):
    task.resolve(sources)


def test_mixup_is_that_of_the_paper():
  """α of each pair has the moments of Beta(5, 5): mean 1/2, variance 1/44."""
  rows = 4000
  inputs = tf.reshape(tf.range(rows, dtype=tf.float64), [rows, 1, 1])
  labels = tf.one_hot(tf.range(rows) % 2, 2, dtype=tf.float64)
  mixed, mixed_labels = finetune.mixup(inputs, labels, 5, seeds.root(3))
  first, second = inputs[:, 0, 0], tf.roll(inputs, -1, 0)[:, 0, 0]
  alpha = ((mixed[:, 0, 0] - second) / (first - second)).numpy()
  assert (alpha > 0).all() and (alpha < 1).all()
  assert alpha.mean() == pytest.approx(0.5, abs=0.01)
  assert alpha.var() == pytest.approx(1 / 44, rel=0.1)
  own = np.take_along_axis(  # of the label that a sample brought
      mixed_labels.numpy(), np.arange(rows)[:, None] % 2, 1)[:, 0]
  np.testing.assert_allclose(own, alpha, atol=1e-12)
  np.testing.assert_allclose(tf.reduce_sum(mixed_labels, 1), 1)


@pytest.mark.parametrize("multi_label", [False, True])
def test_evaluation_averages_logits_of_windows(digits_dir, multi_label):
  """Against logits that are computed here, clip by clip."""
  config = small(common.finetuning("video", "base"), digits_dir, frames=4)
  config.finetune.multi_label = multi_label
  task = resolved(config)
  model = task.build_model()
  source, = task.open_sources("test")
  found = dict(task.evaluate(model, tf.distribute.get_strategy(), source))
  dataset = input_pipeline.eval_dataset(task.config.data, source, 2, 2)
  logits, labels = [], []
  for batch in dataset:  # both windows of a clip
    assert len(set(batch["index"].numpy())) == 1
    frames = tf.cast(batch["video"], tf.float32) / 127.5 - 1
    logits.append(model(frames)[0].numpy().mean(0))
    labels.append(int(batch["label"][0]))
    assert batch["labels"][0].numpy().nonzero()[0].tolist() == labels[-1:]
  logits, labels = np.array(logits), np.array(labels)
  if multi_label:
    expected = np.mean([metrics.average_precision_score(
        labels == c, logits[:, c]) for c in set(labels)])
    assert found["mAP"] == pytest.approx(expected, abs=1e-4)
    assert found["classes left out"] == logits.shape[1] - len(set(labels))
    return
  right = logits.argmax(1) == labels
  best_five = np.argsort(-logits, 1)[:, :5]
  assert found == {
      "top-1": pytest.approx(right.mean(), abs=0.01),
      "top-5": pytest.approx((best_five == labels[:, None]).any(1).mean(),
                             abs=0.01)}


def test_what_cannot_be_evaluated_is_told(tmp_path):
  clips = [records.clip(i) for i in range(3)]
  records.write_built(tmp_path, "clips", {
      split: [records.serialize(clip | changes) for clip in clips]
      for split, changes in (
          ("train", {}), ("none", {"label": []}), ("same", {"label": [3]}))})
  config = small(common.finetuning("video", "base"), str(tmp_path), frames=4)
  config.data.datasets = ("clips",)
  for split, multi_label, message in (
      ("none", False, "no clip with a label, expected some"),
      ("none", True, "of 10 classes and 3 clips, no class has clips with it "),
      ("same", True, "of 10 classes and 3 clips, no class has clips with it ")):
    config.finetune.multi_label = multi_label
    task = resolved(config)
    source, = task.open_sources(split)
    evaluation = task.build_model(), tf.distribute.get_strategy(), source
    with pytest.raises(UserError, match=(
        f"/clips/1.0.0: split '{split}', video: {message}")):
      task.evaluate(*evaluation)
  with pytest.raises(UserError, match="predictions.npz: cannot be written .+"):
    task.evaluate(*evaluation, workdir=str(tmp_path / "nowhere"))


def test_loss_of_a_step_by_hand(digits_dir):
  """Smoothed labels; a row without a label adds nothing."""
  config = small(common.finetuning("video", "base"), digits_dir)
  config.augment.update(dict(
      flip=False, brightness=0.0, saturation=0.0, contrast=0.0, hue=0.0))
  config.model.dropout = 0.0
  config.batch_size = 3
  task = resolved(config)
  config, model = task.config, task.build_model()
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (3, 8, 32, 32, 3)).astype(np.uint8)
  labels = np.zeros((3, config.data.classes), bool)
  labels[0, 1] = labels[1, 0] = True
  batch = dict(video=tf.constant(video), labels=tf.constant(labels),
               video_mask=tf.constant([True, True, True]))
  loss, parts = task.loss_and_metrics(model, batch, seeds.root(0))
  logits = model(video / np.float32(127.5) - 1)[0].numpy().astype(float)
  chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  target = 0.9 * labels + 0.1 / config.data.classes
  expected = -(target * np.log(chance)).sum(1)[:2].sum() / 3
  assert float(loss) == pytest.approx(expected, rel=1e-5)
  assert float(parts["accuracy"]) * 2 == pytest.approx(  # of the labelled
      labels[np.arange(3), logits.argmax(1)].sum())
  # A corner that is to be enlarged is, first.
  batch["video_part"] = tf.constant([[32, 32]] * 3)
  same, _ = task.loss_and_metrics(model, batch, seeds.root(0))
  assert float(same) == pytest.approx(float(loss), rel=1e-5)
  batch["video_part"] = tf.constant([[16, 16]] * 3)
  other, _ = task.loss_and_metrics(model, batch, seeds.root(0))
  large = np.stack([tf.image.resize(clip[:, :16, :16], [32, 32])
                    for clip in video])
  large = tf.constant(np.floor(large + 0.5).astype(np.uint8))
  found, _ = task.loss_and_metrics(
      model, dict(video=large, labels=batch["labels"],
                  video_mask=batch["video_mask"]), seeds.root(0))
  assert float(other) == pytest.approx(float(found), rel=1e-3) != float(loss)
  del batch["video_part"]
  # Nor does a row without its signal.
  batch["video_mask"] = tf.constant([True, False, True])
  loss, _ = task.loss_and_metrics(model, batch, seeds.root(0))
  expected = -(target * np.log(chance)).sum(1)[0] / 3
  assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_training_and_evaluation_count_the_same(digits_dir):
  """Any of a clip's labels is right, ties are wrong, and what has no label or
  no signal does not count: by the numbers of both."""
  nan, inf = np.nan, np.inf
  logits = np.array([[3, 1, 0], [0, 2, 1], [0, 1, 2], [2, 2, 0], [5, 1, 0],
                     [1, 0, 0], [0, 0, nan], [nan, 0, 0], [2, 1, nan],
                     [inf, 0, 0], [-inf, -inf, -inf], [1, 1 - 1e-7, 0],
                     [0, -inf, -inf]], np.float32)
  labels = np.array([[1, 0, 1], [1, 0, 1], [0, 1, 1], [1, 0, 0], [1, 0, 0],
                     [0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 1], [1, 0, 0],
                     [1, 0, 0], [1, 0, 0], [1, 0, 0]], bool)
  mask = np.array([1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1], bool)
  # Right, wrong, right, a tie, no signal, no label, five of no finite number, a
  # tie up to the last bit, right.
  found = finetune.accuracy(
      *(tf.constant(x) for x in (logits, labels, mask)))
  counted = mask & labels.any(axis=1)
  expected = dict(classification.top_k(logits[counted], labels[counted], (1,)))
  assert float(found) == pytest.approx(3 / 11)
  assert expected == {"top-1": pytest.approx(3 / 11)}


@pytest.mark.parametrize("what, names", [
    ("tokenizer", ["tokenizer"]),
    ("blocks_1", ["tokenizer", "block_0"]),
    ("tower", ["tokenizer", "block_0", "block_1", "encoder/norm"])])
def test_what_is_frozen_stays(tmp_path, digits_dir, what, names):
  """Also where training starts from another model, and begins in its weights
  in the same order."""
  config = small(common.finetuning("video", "medium"), digits_dir)
  config.model.encoders.video.depth = 2
  config.batch_size = 2
  config.optimizer.update(dict(schedule="constant", warmup_steps=0))
  task = resolved(config)
  donor = task.build_model()
  rng = np.random.default_rng(0)
  for variable in donor.variables:
    variable.assign(rng.normal(size=variable.shape))
  save_workdir(tmp_path, task, donor)

  config.finetune.freeze = what
  task = resolved(config)
  model = task.build_model()
  transfer.start_from(str(tmp_path), task, model)

  def parts_of(model):
    encoder = model.tower.encoder
    return {"tokenizer": model.tower.tokenizer, "block_0": encoder.blocks[0],
            "block_1": encoder.blocks[1], "encoder/norm": encoder.norm,
            "classifier": model.classifier}

  parts, theirs = parts_of(model), parts_of(donor)
  for name in set(parts) - {"classifier"}:
    for a, b in zip(parts[name].variables, theirs[name].variables, strict=True):
      np.testing.assert_array_equal(a, b)
  before = {name: [v.numpy() for v in part.variables]
            for name, part in parts.items()}
  sources = task.open_sources("train")
  batch = next(iter(task.train_dataset(sources, 0)(0, 1, 2)))
  optimizer = optimizers.make_optimizer(config.optimizer, config.total_steps)
  train.make_step(
      task, model, optimizer, tf.distribute.get_strategy())(batch)
  moved = {name for name, part in parts.items()
           if any(np.any(v != old) for v, old in zip(
               part.variables, before[name]))}
  assert moved == set(parts) - set(names)


def test_rare_classes_start_rare(digits_dir):
  config = small(common.finetuning("audio", "base"), digits_dir)
  config.finetune.rare_classes = True
  task = resolved(config)
  bias = task.build_model().classifier.bias
  chance = 1 / (1 + np.exp(-bias.numpy().astype(float)))
  np.testing.assert_allclose(chance, 1 / task.config.data.classes, rtol=1e-6)


def test_few_labels_are_of_training_alone(digits_dir):
  config = small(common.finetuning("video", "base"), digits_dir)
  everything = {split: len(make_task(config).open_sources(split)[0].index)
                for split in ("train", "test")}
  config.finetune.labels_per_class = 2
  few = {split: make_task(config).open_sources(split)[0]
         for split in ("train", "test")}
  assert len(few["train"].index) == 2 * len(few["train"].label_names)
  assert len(few["train"].index) < everything["train"]
  assert len(few["test"].index) == everything["test"]


def test_other_classes_than_those_trained_are_refused(tmp_path, digits_dir):
  config = small(common.finetuning("video", "base"), digits_dir)
  task = make_task(config)
  sources = task.open_sources("train")
  names = task.resolve(sources).words
  (tmp_path / "labels.txt").write_text("".join(n + "\n" for n in names))
  assert task.resolve(sources, str(tmp_path)).words == names
  (tmp_path / "labels.txt").write_text("".join(
      n + "\n" for n in [*names[:-1], "other"]))
  with pytest.raises(UserError, match=f"number {len(names) - 1} is "
                     f"'{names[-1]}', expected 'other' as in "):
    task.resolve(sources, str(tmp_path))
  (tmp_path / "labels.txt").write_text("one\n")
  with pytest.raises(UserError, match=f"{len(names)} lines, expected the 1 "):
    task.resolve(sources, str(tmp_path))
