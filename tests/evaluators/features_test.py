"""Features of clips, against the towers' outputs for the same windows."""
import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from configs import common, linear_probe
from tests.data import conftest as records
from tests.media import number_of, numbered
from vatt import checkpoints, preprocess, restore, seeds, workdir
from vatt.data import input_pipeline, sources
from vatt.errors import UserError
from vatt.evaluators import features
from vatt.tasks import make_task

TINY = dict(depth=1, width=16, mlp_dim=32, num_heads=2)


def make_workdir(folder, digits_dir, name):
  """A workdir of random weights, without words; its model."""
  config = (common.finetuning("video", "base") if name == "finetune"
            else common.pretraining("mbs"))
  config.data.update(dict(
      data_dir=digits_dir, datasets=("spoken_digits/official",), frames=4,
      fps=10.0, size=32, audio_samples=3200, audio_rate=8000, classes=10))
  for part in config.model.encoders.values():
    part.update(TINY)
  config.model.vocab_size = 50
  task = make_task(config)
  model = task.build_model()
  rng = np.random.default_rng(0)
  for variable in model.variables:
    variable.assign(rng.normal(size=variable.shape))
  checkpoints.Checkpoints(str(folder / "checkpoints"), model=model).save(7)
  workdir.write(str(folder), task.config, task.WORDS_FILE, [])
  return model


def prepare(folder, modality, **options):
  strategy = tf.distribute.get_strategy()
  config, tower, step = restore.load_tower(
      str(folder), modality, strategy)
  assert step == 7
  config = features.config_for(config, ConfigDict(dict(dict(
      dataset="spoken_digits/official", modality=modality, fps=0.0,
      test_windows=2, test_crops=1, batch_size=16), **options)), "")
  train, test = (make_task(config).open_sources(split)[0]
                 for split in ("train", "test"))
  return config, tower, strategy, train, test


@pytest.mark.parametrize("arg, step", [
    ("ucf101", 2), pytest.param("", 5, marks=pytest.mark.slow)])
def test_frames_have_the_stride_of_the_papers_evaluation(tmp_path, arg, step):
  """Every second one of those that are stored at 25 a second, 32 of them,
  whatever the model was trained with: 5 a second here; without a rate, the
  model's. In training and in the test."""
  options = ConfigDict(linear_probe.get_config(arg or "demo").probe)
  if not arg:
    options.dataset = "clips/other"
  records.write_built(tmp_path, options.dataset, {split: [records.serialize(
      records.clip(0, seconds=10.0) | {
          "fps": 25.0, "frames": [
              tf.io.encode_jpeg(numbered(t, 64, 64), quality=95).numpy()
              for t in range(250)]})] for split in ("train1", "test1")},
                      num_shards=1)
  config = common.pretraining("mbs")
  config.data.update(dict(
      fps=5.0, size=64, crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0)))
  config = features.config_for(config, options, str(tmp_path))
  train, test = (sources.open_source(options.dataset, str(tmp_path), split)
                 for split in ("train1", "test1"))
  tests = input_pipeline.eval_dataset(
      config.data, test, options.test_windows, options.test_windows)
  training = input_pipeline.train_dataset(config.data, [train], 3, 0, 0)
  firsts = set()
  for batch in (next(iter(tests)), next(iter(training))):
    for frames in batch["video"].numpy():
      found = [number_of(frame) for frame in frames]
      assert found == list(range(
          found[0], found[0] + 32 * step, step)), found
      firsts.add(found[0])
  last = 250 - 32 * step  # where a window can start
  assert {0, last} <= firsts and max(firsts) == last and len(firsts) > 3


@pytest.mark.parametrize("task, modality", [
    ("pretrain", "video"), ("pretrain", "audio"), ("finetune", "video")])
def test_features_of_test_clips(tmp_path, digits_dir, task, modality):
  """The AGG token's output, in the mean of both windows; no words needed."""
  model = make_workdir(tmp_path, digits_dir, task)
  config, tower, strategy, _, test = prepare(tmp_path, modality)
  table = features.mean_features(config, tower, strategy, test)
  assert table["mask"].all()
  for i, batch in enumerate(input_pipeline.eval_dataset(
      config.data, test, 2, 2)):  # both windows of a clip
    signal = preprocess.model_inputs({modality: batch[modality]}, config)
    if task == "finetune":
      _, out = model(signal[modality])
    else:
      out = model(signal)[1][modality]
    np.testing.assert_allclose(
        table["features"][i], out["pooled"].numpy().mean(0), atol=2e-5)
    assert table["label"][i] == batch["label"][0]
  assert i + 1 == len(test.index)


def test_training_windows_are_those_of_the_first_epochs(tmp_path, digits_dir):
  """Every clip once in each of them, augmented: against the training batches
  themselves, and the places of records that the log would name."""
  make_workdir(tmp_path, digits_dir, "pretrain")
  config, tower, strategy, source, _ = prepare(tmp_path, "video")
  done = []
  table = features.window_features(
      config, tower, strategy, source, 2, 5, done.append)
  count = len(source.index)
  assert sum(done) == 2 * count
  assert table["mask"].all() and table["features"].shape == (count, 2, 16)
  run = tf.function(lambda video, step: tower(preprocess.model_inputs(
      {"video": video}, config, training=True,
      seed=seeds.fold(seeds.root(5), step))["video"])[0], autograph=False)
  pooled, labels, records = [], [], []
  dataset = input_pipeline.train_dataset(config.data, [source], 16, 5, 0)
  for step, batch in enumerate(dataset.take(-(-2 * count // 16))):
    pooled.extend(run(batch["video"], tf.constant(step, tf.int64)).numpy())
    labels.extend(batch["label"].numpy())
    records.extend(batch["record"].numpy())
  for position in range(0, 2 * count, 19):
    at = records[position], position // count
    np.testing.assert_allclose(
        table["features"][at], pooled[position], atol=2e-5)
    assert table["label"][at] == labels[position]
  for epoch in range(2):  # all of them, whatever their order
    ours, theirs = (np.array(x)[np.lexsort(np.round(x, 3).T)] for x in (
        table["features"][:, epoch],
        pooled[epoch * count:(epoch + 1) * count]))
    np.testing.assert_allclose(ours[:, -1], theirs[:, -1], atol=2e-3)
  # The windows of a clip differ.
  assert np.ptp(table["features"], axis=1).max(axis=1).min() > 1e-5


def test_union_of_splits(tmp_path, digits_dir):
  """Records that several sources share are there once."""
  make_workdir(tmp_path, digits_dir, "pretrain")
  *_, train, test = prepare(tmp_path, "video")

  def part(source, numbers):
    return dataclasses.replace(source, index=source.index.take(numbers))

  splits = [part(train, [2, 5, 9]), part(test, [0, 3]), part(train, [2, 7])]
  everything, rows = features.union(splits)
  assert len(everything.index) == 6
  for split, mine in zip(splits, rows):
    assert [everything.index.place(i) for i in mine] == [
        split.index.place(i) for i in range(len(split.index))]
  assert rows[0][0] == rows[2][0]


def test_labels_without_features(tmp_path):
  """A clip's first, of those that have one."""
  records.write_built(tmp_path, "clips", {name: [
      records.serialize(records.clip(0, 1) | {"label": label})
      for label in labels] for name, labels in {
          "train": [[3, 1], [], [4], [3]], "test": [[7], [], []]}.items()})
  splits = [sources.open_source("clips", str(tmp_path), name)
            for name in ("train", "test", "train")]
  assert [labels.tolist() for labels in features.labels_of(splits)] == [
      [3, 4, 3], [7], [3, 4, 3]]


def test_clips_without_label_or_signal_are_left_out():
  table = dict(features=np.arange(8.0).reshape(4, 2, 1),
               label=np.array([[3, 3], [-1, -1], [4, 4], [5, 5]], np.int32),
               mask=np.array([[1, 1], [1, 1], [1, 0], [1, 1]], bool))
  found, label = features.labelled(table, np.array([3, 2, 1, 0]), "a")
  assert label.tolist() == [5, 3]
  assert found[:, :, 0].tolist() == [[6, 7], [0, 1]]
  with pytest.raises(UserError, match="a: none of the 2 clips has a label"):
    features.labelled(table, np.array([1, 2]), "a")


def test_a_modality_that_is_not_there(tmp_path, digits_dir):
  make_workdir(tmp_path, digits_dir, "finetune")
  with pytest.raises(UserError, match="probe.modality is 'audio', expected "
                     "video, which"):
    restore.load_tower(
        str(tmp_path), "audio", tf.distribute.get_strategy())
