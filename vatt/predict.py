"""A split of a dataset through a function of its batches, clip by clip."""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict

from vatt import distribute
from vatt.data import input_pipeline
from vatt.data.sources import Source, warn_of_unreadable


class Views(NamedTuple):
  """What a function finds in a batch of views (a window, and a crop of it).

  Attributes:
    means: {name: float [b, …]}, of which a clip has the mean over its views.
    first: {name: [b, …]}, of which a clip has what its first view has: labels,
      masks and all that is the same in each.
  """
  means: dict[str, tf.Tensor]
  first: dict[str, tf.Tensor]


def predict(config: ConfigDict,
            function: Callable[[dict[str, tf.Tensor]], Views],
            strategy: tf.distribute.Strategy, source: Source,
            progress: Callable[[int], object] | None = None
            ) -> dict[str, np.ndarray]:
  """Runs a function on every view of every clip of a split, once.

  Args:
    config: of the run.
    function: of a replica's batch.
    strategy: the model's.
    source: the split.
    progress: called with the number of clips done.

  Returns:
    Arrays [N, …] by the names of Views, in the order of the records.

  Raises:
    UserError: a label is no class.
    Stopped: a signal came, where it is noted.
  """
  options, num_clips = config.eval, len(source.index)
  num_views = options.windows * options.crops

  run_batch = distribute.gathered(strategy, lambda batch: (
      function(batch),
      {key: batch[key] for key in ("index", "valid", "corrupt")}))

  def make(input_id, num_inputs, rows_per_batch):
    return input_pipeline.eval_dataset(
        config.data, source, options.batch_size, options.windows,
        options.crops, input_id, num_inputs, rows_per_batch)

  table, corrupt = {}, np.zeros([num_clips], bool)
  seen, done = np.zeros([num_clips], np.int64), 0  # views of each clip
  with input_pipeline.tell_in_a_line():
    dataset = distribute.distribute_dataset(
        strategy, options.batch_size, make, "eval.batch_size")
    for batch in dataset:
      views, rows = run_batch(batch)
      valid = rows["valid"]
      index = rows["index"][valid]
      corrupt[index] = rows["corrupt"][valid]
      # Views of a clip lie next to each other; a batch may begin among them.
      clips, first = np.unique(index, return_index=True)
      first = first[seen[clips] == 0]
      for name, value in (*views.means.items(), *views.first.items()):
        if name not in table:
          table[name] = np.zeros([num_clips, *value.shape[1:]], value.dtype)
      for name, value in views.means.items():
        np.add.at(table[name], index, value[valid])
      for name, value in views.first.items():
        table[name][index[first]] = value[valid][first]
      np.add.at(seen, index, 1)
      if progress:
        whole = int(seen.sum()) // num_views
        progress(whole - done)
        done = whole
      distribute.end_if_asked(strategy)
  if not (seen == num_views).all():
    raise RuntimeError(f"clips were seen {np.unique(seen)} times, "
                       f"expected {num_views}")
  for name in views.means:
    table[name] /= np.asarray(num_views, table[name].dtype)
    tell_not_finite(table[name], f"{name} of split '{source.split}'")
  warn_of_unreadable(source, np.flatnonzero(corrupt))
  return table


def tell_not_finite(values: np.ndarray, what: str) -> None:
  """Warns of clips whose values, [N, …], are no finite numbers: to measures
  they are never right."""
  bad = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
  if bad.any():
    logging.warning("%s: %d of %d clips have what is no finite number, and are "
                    "never right", what, bad.sum(), len(bad))
