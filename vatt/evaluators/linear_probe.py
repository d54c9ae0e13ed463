"""Linear probes: classifiers of frozen features (section 4.3, appendix B.8).

`load_tower` and the functions behind it make features of clips, `LRC`, `SVM`
and `KNN` classify them. In training a clip has the features of several windows,
augmented as in the model's own training, [N, W, D]; in the test it has the mean
over evenly spread windows, [M, D].
"""
import dataclasses
import os

import numpy as np
import tensorflow as tf
from absl import logging

from vatt import checkpoints, distribute, inference, pretrain, seeds
from vatt.data import input_pipeline, record_index
from vatt.errors import UserError
from vatt.evaluators import classification
from vatt.models.heads import LowRankClassifier
from vatt.similarity import normalize
from vatt.tasks import task_of

HOLD_OUT = 5  # one training clip in so many, to choose the SVM's C


# -----------------------------------------------------------------------------
# Features.
# -----------------------------------------------------------------------------
def load_tower(workdir, modality, strategy):
  """The trained tower of a modality; no words are needed.

  Args:
    workdir: of pre-training or fine-tuning, or of a converted model.
    modality: video or audio.
    strategy: of `distribute.make_strategy`.

  Returns:
    The workdir's config, the Tower, the step.

  Raises:
    UserError: there is no model, or it has no such tower.
  """
  config = inference.read_config(workdir)
  config.model.word_vectors = ""  # the checkpoint has them
  with strategy.scope():
    model = task_of(config).build_model(config, [])
  towers = getattr(model, "towers", None) or {
      model.tower.modality: model.tower}
  if modality not in ("video", "audio") or modality not in towers:
    known = ", ".join(name for name in towers if name != "text")
    raise UserError(f"probe.modality is {modality!r}, expected {known}, which "
                    f"{workdir} has")
  step = checkpoints.restore_model(os.path.join(workdir, "checkpoints"), model)
  return config, towers[modality], step


def settle(config, options, data_dir):
  """Makes the config of a workdir that of a data set's features.

  The shape of a window and its augmentation stay, the other modality goes.

  Args:
    config: of `load_tower`.
    options: the `probe` part of a config.
    data_dir: of the data set; "" for the config's own.
  """
  config.data.update(dict(
      datasets=(options.dataset,), shares=(), captions=0, classes=0,
      data_dir=data_dir or config.data.data_dir, shuffle_captions=False,
      cache=False))
  unused = "audio_samples" if options.modality == "video" else "frames"
  config.data[unused] = 0
  config.eval.update(dict(
      windows=options.test_windows, crops=options.test_crops,
      batch_size=options.batch_size))


def union(sources):
  """One source of the records of several, each record once.

  Returns:
    Source, and for each of the sources the numbers of its records in it.
  """
  files = sorted({path for source in sources for path in source.index.files})
  number = {path: i for i, path in enumerate(files)}
  places = []  # [N, 2]: file and offset
  for source in sources:
    index = source.index
    numbers = np.array([number[path] for path in index.files])
    places.append(np.stack([numbers[index.file_ids], index.offsets], axis=1))
  unique, inverse = np.unique(
      np.concatenate(places), axis=0, return_inverse=True)
  ends = np.cumsum([len(place) for place in places])
  index = record_index.RecordIndex(
      files, unique[:, 0].astype(np.int32), unique[:, 1])
  return (dataclasses.replace(sources[0], index=index),
          np.split(inverse.reshape(-1), ends[:-1]))


def make_run(config, tower):
  """A function of a replica's batch (and the seed of augmentation) -> dict of
  features [b, D], label [b] and there [b], whether the signal is."""
  name = tower.modality

  def run(batch, seed=None):
    inputs = pretrain.model_inputs(
        {name: batch[name]}, config, training=seed is not None, seed=seed)
    pooled, _ = tower(inputs[name])
    return dict(features=tf.cast(pooled, tf.float32), label=batch["label"],
                there=batch[f"{name}_mask"])

  return run


def window_features(config, tower, strategy, source, windows, seed=0,
                    progress=None):
  """Features of training windows: every clip once in each of `windows` epochs.

  They are the first epochs of training with that seed: window, crop, flip and
  colours are functions of the seed and the place in the stream.

  Args:
    config: of the workdir, after `settle`.
    tower: of `load_tower`.
    strategy: the tower's.
    source: Source.
    windows: W.
    seed: int.
    progress: called with the number of windows done.

  Returns:
    Arrays in the order of the records: `features` [N, W, D], `label` [N, W],
    `there` bool [N, W].
  """
  batch_size, count = config.eval.batch_size, len(source.index)
  records = np.concatenate([
      input_pipeline.epoch_records(seed, source, epoch)
      for epoch in range(windows)])
  run = make_run(config, tower)

  @tf.function
  def run_batch(batch, step):
    def replica(batch):
      return dict(run(batch, seeds.fold(seeds.root(seed), step)),
                  index=batch["index"])
    return strategy.run(replica, args=(batch,))

  def make(input_id, num_inputs, rows_per_batch):
    return input_pipeline.train_dataset(
        config.data, [source], batch_size, seed, 0, input_id, num_inputs,
        rows_per_batch)

  batches = iter(distribute.distribute_dataset(strategy, batch_size, make))
  table = {}
  for step in range(-(-len(records) // batch_size)):
    rows = {name: distribute.gather(strategy, value) for name, value in
            run_batch(next(batches), tf.constant(step, tf.int64)).items()}
    position = rows.pop("index")
    position = position[position < len(records)]
    for name, value in rows.items():
      if name not in table:
        table[name] = np.zeros([count, windows, *value.shape[1:]], value.dtype)
      table[name][records[position], position // count] = value[:len(position)]
    if progress:
      progress(len(position))
  return table


def mean_features(config, tower, strategy, source, progress=None):
  """Features of test clips: means over their windows and crops.

  Args:
    config, tower, strategy, source: as of `window_features`.
    progress: called with the number of clips done.

  Returns:
    Arrays in the order of the records: `features` [N, D], `label` [N], `there`
    bool [N].
  """
  run = make_run(config, tower)

  def run_and_count(batch):
    return dict(run(batch), views=tf.ones(batch["label"].shape))

  table = pretrain.run_split(
      config, run_and_count, strategy, source, progress)
  table["features"] /= table.pop("views")[:, None]
  return table


def labelled(table, rows, split):
  """The clips of a split that have a label, and their signal in all windows.

  Args:
    table: of `window_features` or `mean_features`.
    rows: numbers of the split's records in it.
    split: the split's name, for errors.

  Returns:
    Features and labels.

  Raises:
    UserError: there is none.
  """
  label = table["label"][rows].reshape(len(rows), -1)
  there = table["there"][rows].reshape(len(rows), -1) & (label >= 0)
  there = there.all(axis=1)
  if not there.any():
    raise UserError(f"{split}: none of the {len(rows)} clips has a label and "
                    "the signal, expected labelled clips")
  if not there.all():
    logging.warning("%s: %d of %d clips have no label or not the signal, and "
                    "are left out", split, (~there).sum(), len(rows))
  return table["features"][rows][there], label[there, 0].astype(np.int64)


# -----------------------------------------------------------------------------
# Classifiers.
# -----------------------------------------------------------------------------
class Probe:
  """A classifier of features; `name` and `scores` are its kind's."""

  def run(self, train, train_labels, test, test_labels):
    """Trains on one set of clips, and yields (name, value) of another.

    That is top-1 and, of more than five classes, top-5; ties count against, as
    in `classification.top_k`.

    Args:
      train: [N, W, D].
      train_labels: int [N].
      test: [M, D].
      test_labels: int [M].

    Raises:
      UserError: fewer than two classes to train on; labels in the test that are
        not in training.
    """
    classes, labels = np.unique(train_labels, return_inverse=True)
    if len(classes) < 2:
      raise UserError(f"the training clips have {len(classes)} class, expected "
                      "at least two")
    unknown = np.setdiff1d(test_labels, classes)
    if len(unknown):
      raise UserError(f"test clips have classes {unknown[:10].tolist()}, "
                      f"expected those of the training clips ({len(classes)})")
    scores = self.scores(train, labels, test)
    for name, value in classification.top_k(
        scores, np.searchsorted(classes, test_labels),
        (1, 5) if len(classes) > 5 else (1,)):
      yield f"{self.name}/{name}", value


class LRC(Probe):
  """The paper's low-rank classifier, trained by Adam (appendix B.8).

  Features are taken as they are. A batch is drawn with replacement of all
  windows of all clips; batch and components are functions of (seed, step).

  Args:
    components, kept: as of `LowRankClassifier`.
    lr: learning rate.
    batch_size: windows of a step.
    steps: of training.
    seed: int.
    progress: called with the number of steps done.

  Raises:
    UserError: no such share of the components.
  """
  name = "lrc"

  def __init__(self, components=128, kept=13, lr=5e-4, batch_size=64,
               steps=50_000, seed=0, progress=None):
    if not 1 <= kept <= components:
      raise UserError(f"lrc.kept is {kept}, expected 1 to lrc.components "
                      f"({components})")
    self.components, self.kept = components, kept
    self.lr, self.batch_size, self.steps = lr, batch_size, steps
    self.seed, self.progress = seed, progress

  def scores(self, train, labels, test):
    """Logits [M, C], of all components."""
    return self.fit(train, labels)(tf.constant(test)).numpy()

  def fit(self, train, labels):
    """The trained LowRankClassifier."""
    tf.keras.utils.set_random_seed(self.seed)
    model = LowRankClassifier(
        labels.max() + 1, self.components, self.kept, dtype="float32")
    model(tf.zeros([1, train.shape[-1]]))  # makes its variables
    optimizer = tf.keras.optimizers.Adam(self.lr)
    optimizer.build(model.trainable_variables)
    root = seeds.fold(seeds.root(self.seed), "lrc")

    @tf.function
    def loop(features, labels, first, last):
      for step in tf.range(first, last):
        seed = seeds.fold(root, step)
        rows = tf.random.stateless_uniform(
            [self.batch_size], seeds.fold(seed, "batch"), 0,
            tf.size(labels), tf.int32)
        with tf.GradientTape() as tape:
          logits = model(tf.gather(features, rows), training=True,
                         seed=seeds.fold(seed, "components"))
          loss = tf.reduce_mean(
              tf.nn.sparse_softmax_cross_entropy_with_logits(
                  tf.gather(labels, rows), logits))
        variables = model.trainable_variables
        optimizer.apply_gradients(
            zip(tape.gradient(loss, variables), variables))

    # [N, W, D] -> [N·W, D]
    features = tf.constant(train.reshape(-1, train.shape[-1]))
    labels = tf.constant(np.repeat(labels, train.shape[1]), tf.int32)
    for first in range(0, self.steps, 500):
      last = min(first + 500, self.steps)
      loop(features, labels, tf.constant(first), tf.constant(last))
      if self.progress:
        self.progress(last - first)
    return model


class SVM(Probe):
  """scikit-learn's LinearSVC on standardised features.

  Mean and deviation are those of the training windows. Of several C, that one
  is taken which classifies one training clip in five (of each class) best when
  trained on the others, of equal ones the smallest. That has the first of W
  windows only, and so W times the C: clips weigh as much as with all.

  Args:
    cs: values of C to choose from.

  Raises:
    UserError: there is none.
  """
  name = "svm"

  def __init__(self, cs=(1e-4, 1e-3, 1e-2, 1e-1)):
    if not cs:
      raise UserError("svm.cs is empty, expected values of C")
    self.cs = sorted(cs)

  def scores(self, train, labels, test):
    """Distances from the planes, [M, C]."""
    c = self.cs[0]
    if len(self.cs) > 1:
      held_out = np.zeros(len(labels), bool)
      held_out[np.argsort(labels, kind="stable")[::HOLD_OUT]] = True
      right = []
      for c in self.cs:
        model = self._fit(train[~held_out, :1], labels[~held_out],
                          c * train.shape[1])
        found = model.predict(train[held_out].mean(axis=1))
        right.append(np.mean(found == labels[held_out]))
      c = self.cs[int(np.argmax(right))]
      logging.info("svm: C %g of %s, held-out top-1 %s", c, self.cs,
                   np.round(right, 4).tolist())
    scores = self._fit(train, labels, c).decision_function(test)
    if scores.ndim == 1:  # of two classes
      scores = np.stack([-scores, scores], axis=1)
    return scores

  def _fit(self, train, labels, c):
    # Imported where they are used: they are slow to load.
    from sklearn import pipeline, preprocessing, svm

    model = pipeline.make_pipeline(
        preprocessing.StandardScaler(),
        svm.LinearSVC(C=c, dual="auto", random_state=0))
    return model.fit(train.reshape(-1, train.shape[-1]),
                     np.repeat(labels, train.shape[1]))


class KNN(Probe):
  """The k training clips nearest by cosine vote for their classes.

  A clip is the mean of its windows. It votes with exp(cosine / temperature); at
  the k-th place the earlier of equally near clips is taken.

  Args:
    k: neighbours; all clips if there are fewer.
    temperature: inf lets all vote alike.
  """
  name = "knn"

  def __init__(self, k=20, temperature=0.07):
    if k < 1 or not temperature > 0:
      raise UserError(f"knn: k is {k}, temperature {temperature}; expected at "
                      "least 1, and over 0")
    self.k, self.temperature = k, temperature

  def scores(self, train, labels, test):
    """Votes [M, C]."""
    items = normalize(train.mean(axis=1))
    classes = np.eye(labels.max() + 1)
    votes = []
    for queries in np.array_split(test, -(-len(test) // 1024)):
      similarity = normalize(queries) @ items.T  # [m, N]
      near = np.argsort(-similarity, axis=1, kind="stable")[:, :self.k]
      weight = np.exp(np.take_along_axis(similarity, near, axis=1).astype(
          np.float64) / self.temperature)
      votes.append((weight[..., None] * classes[labels[near]]).sum(axis=1))
    return np.concatenate(votes)
