"""Features of clips: what a trained tower makes of them, for classifiers.

In training a clip has the features of several windows, augmented as in the
model's own training, [N, W, D]; in the test it has the mean over evenly spread
windows, [M, D].
"""
import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict

from vatt import distribute, preprocess, seeds
from vatt.config import replace
from vatt.data import input_pipeline, record_index
from vatt.data.sources import Source, read_labels
from vatt.errors import UserError
from vatt.models.vatt import Tower
from vatt.predict import Views, predict, tell_not_finite


def config_for(config: ConfigDict, options: ConfigDict, data_dir: str
               ) -> ConfigDict:
  """The config of a workdir, for the features of a dataset.

  The shape of a window and its augmentation stay, the other modality goes.
  Frames come at the rate of the protocol, if it has one (appendix B.1: 32 with
  a stride of 2 at 25 a second), whatever the model was trained with.

  Args:
    config: the workdir's, as `restore.load_tower` returns it.
    options: the `probe` part of a config.
    data_dir: where the dataset was built; "" for the config's own.
  """
  unused = "audio_samples" if options.modality == "video" else "frames"
  return replace(config, {
      "data.datasets": (options.dataset,), "data.shares": (),
      "data.data_dir": data_dir or config.data.data_dir,
      "data.captions": 0, "data.classes": 0, "data.shuffle_captions": False,
      "data.cache": False, f"data.{unused}": 0,
      "data.fps": options.fps or config.data.fps,
      "eval.windows": options.test_windows, "eval.crops": options.test_crops,
      "eval.batch_size": options.batch_size})


def union(sources: list[Source]) -> tuple[Source, list[np.ndarray]]:
  """One source of the records of several, each record once.

  Returns:
    Source, and for each of the sources the numbers of its records in it.
  """
  files = sorted({path for source in sources for path in source.index.files})
  number = {path: i for i, path in enumerate(files)}
  places = []  # [N, 3]: file, offset and size
  for source in sources:
    index = source.index
    numbers = np.array([number[path] for path in index.files])
    places.append(np.stack(
        [numbers[index.file_ids], index.offsets, index.sizes], axis=1))
  unique, inverse = np.unique(
      np.concatenate(places), axis=0, return_inverse=True)
  ends = np.cumsum([len(place) for place in places])
  index = record_index.RecordIndex(
      files, np.searchsorted(unique[:, 0], np.arange(len(files) + 1)),
      unique[:, 1], unique[:, 2])
  return (dataclasses.replace(sources[0], index=index),
          np.split(inverse.reshape(-1), ends[:-1]))


def labels_of(sources: list[Source]) -> list[np.ndarray]:
  """The labels of the clips of some splits, int64 [n] each, of those that have
  one: without features, and each record read once."""
  everything, rows = union(sources)
  first = np.array([(*labels, -1)[0] for labels in read_labels(everything)])
  return [first[mine][first[mine] >= 0] for mine in rows]


def _extract(config, tower, batch, seed=None):
  """Features [b, D] of a replica's batch; augmented with a seed."""
  inputs = preprocess.model_inputs(
      preprocess.signal_of(batch, tower.modality), config,
      training=seed is not None, seed=seed)
  pooled, _ = tower(inputs[tower.modality])
  return tf.cast(pooled, tf.float32)


def window_features(config: ConfigDict, tower: Tower,
                    strategy: tf.distribute.Strategy, source: Source,
                    windows: int, seed: int = 0,
                    progress: Callable[[int], object] | None = None
                    ) -> dict[str, np.ndarray]:
  """Features of training windows: every clip once in each of `windows` epochs.

  They are the first epochs of training with that seed: window, crop, flip and
  colours are functions of the seed and the place in the stream.

  Args:
    config: of the features, see `config_for`.
    tower: the trained tower.
    strategy: the tower's.
    source: the clips to read.
    windows: W.
    seed: of the order of the clips and their augmentation.
    progress: called with the number of windows done.

  Returns:
    Arrays in the order of the records: `features` float32 [N, W, D], `label`
    [N, W], `mask` bool [N, W], whether the window has the signal.
  """
  batch_size, num_clips = config.eval.batch_size, len(source.index)
  total = num_clips * windows

  run_batch = distribute.gathered(strategy, lambda batch, step: dict(
      features=_extract(config, tower, batch,
                        seeds.fold(seeds.root(seed), step)),
      label=batch["label"], mask=batch[f"{tower.modality}_mask"],
      record=batch["record"]))

  def make(input_id, num_inputs, rows_per_batch):
    return input_pipeline.train_dataset(
        config.data, [source], batch_size, seed, 0, input_id, num_inputs,
        rows_per_batch)

  table = {}
  with input_pipeline.tell_in_a_line():
    batches = iter(distribute.distribute_dataset(
        strategy, batch_size, make, "probe.batch_size"))
    for first in range(0, total, batch_size):
      rows = run_batch(
          next(batches), tf.constant(first // batch_size, tf.int64))
      position = np.arange(first, min(first + batch_size, total))
      record = rows.pop("record")[:len(position)]
      for name, value in rows.items():
        if name not in table:
          table[name] = np.zeros(
              [num_clips, windows, *value.shape[1:]], value.dtype)
        table[name][record, position // num_clips] = (
            value[:len(position)])
      if progress:
        progress(len(position))
      distribute.end_if_asked(strategy)
  tell_not_finite(table["features"], f"features of split '{source.split}'")
  return table


def mean_features(config: ConfigDict, tower: Tower,
                  strategy: tf.distribute.Strategy, source: Source,
                  progress: Callable[[int], object] | None = None
                  ) -> dict[str, np.ndarray]:
  """Features of test clips: means over their windows and crops.

  Args:
    config: of the features, see `config_for`.
    tower: the trained tower.
    strategy: the tower's.
    source: the clips to read.
    progress: called with the number of clips done.

  Returns:
    Arrays in the order of the records: `features` float32 [N, D], `label` [N],
    `mask` bool [N], whether the clip has the signal.
  """
  def extract(batch):
    return Views(means=dict(features=_extract(config, tower, batch)),
                 first=dict(label=batch["label"],
                            mask=batch[f"{tower.modality}_mask"]))

  return predict(config, extract, strategy, source, progress)


def labelled(table: dict[str, np.ndarray], rows: np.ndarray, split: str
             ) -> tuple[np.ndarray, np.ndarray]:
  """The clips of a split that have a label, and their signal in all windows.

  Args:
    table: what `window_features` or `mean_features` returns.
    rows: numbers of the split's records in it.
    split: the split's name, for errors.

  Returns:
    Features [n, W, D] or [n, D], and labels int64 [n].

  Raises:
    UserError: there is none.
  """
  # [N] or [N, W] -> [n, W]
  label = table["label"][rows].reshape(len(rows), -1)
  mask = table["mask"][rows].reshape(len(rows), -1) & (label >= 0)
  mask = mask.all(axis=1)
  if not mask.any():
    raise UserError(f"{split}: none of the {len(rows)} clips has a label and "
                    "the signal, expected labelled clips")
  if not mask.all():
    logging.warning("%s: %d of %d clips have no label or not the signal, and "
                    "are left out", split, (~mask).sum(), len(rows))
  return table["features"][rows][mask], label[mask, 0].astype(np.int64)
