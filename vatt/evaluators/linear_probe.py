"""Linear probes: classifiers of frozen features (section 4.3, appendix B.8).

They are trained on the features of several windows of each clip, [N, W, D], and
tested on one vector a clip, [M, D]; see features.py.
"""
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from vatt import seeds, similarity
from vatt.errors import UserError
from vatt.evaluators import classification
from vatt.models.heads import LowRankClassifier
from vatt.predict import tell_not_finite

HOLD_OUT = 5  # one training clip in so many, to choose the SVM's C


def check_labels(train: np.ndarray, test: np.ndarray) -> None:
  """Validates the labels of clips to train on, [N], and to test on, [M].

  Raises:
    UserError: fewer than two classes to train on; none to test on, or one that
      is not in training.
  """
  classes = np.unique(train)
  if len(classes) < 2:
    raise UserError(f"the training clips have {len(classes)} class, expected "
                    "at least two")
  if not len(test):
    raise UserError("no test clip has a label, expected some")
  unknown = np.setdiff1d(test, classes)
  if len(unknown):
    raise UserError(f"test clips have classes {unknown[:10].tolist()}, "
                    f"expected those of the training clips ({len(classes)})")


class Probe:
  """A classifier of features; `name` and `scores` are its kind's.

  `scores` trains on features [N, W, D] and labels int [N], 0 to C - 1, and
  returns [M, C] for those to test on, [M, D].
  """

  def run(self, train: np.ndarray, train_labels: np.ndarray, test: np.ndarray,
          test_labels: np.ndarray) -> Iterator[tuple[str, float]]:
    """Trains on one set of clips, and yields (name, value) of another.

    That is top-1 and, of more than five classes, top-5; ties count against, as
    in `classification.top_k`. Test clips whose features are no finite numbers
    are never right, and training clips with such ones take no part. Features
    that are the same in all training clips, up to `similarity.TIE`, tell no
    class from another: then all tie.

    Args:
      train: [N, W, D].
      train_labels: int [N].
      test: [M, D].
      test_labels: int [M].

    Raises:
      UserError: as of `check_labels`.
    """
    check_labels(train_labels, test_labels)
    classes = np.unique(train_labels)
    usable = np.isfinite(train).all(axis=(1, 2))
    asked = np.isfinite(test).all(axis=1)
    if not usable.all():
      train, train_labels = train[usable], train_labels[usable]
    learnt, labels = np.unique(train_labels, return_inverse=True)
    scores = np.full([len(test), len(classes)], -np.inf)
    if len(learnt) > 1 and _same(train):
      logging.warning("%s: all training clips have the same features, by which "
                      "no test clip is right", self.name)
    elif len(learnt) > 1 and asked.any():
      found = self.scores(train, labels, test[asked])
      tell_not_finite(found, f"{self.name}: scores")
      scores[np.ix_(asked, np.isin(classes, learnt))] = found
    for name, value in classification.top_k(
        scores, test_labels[:, None] == classes,
        (1, 5) if len(classes) > 5 else (1,)):
      yield f"{self.name}/{name}", value


def _same(train):
  """Whether features [N, W, D] are the same in all clips, up to TIE of the
  largest."""
  low, high = train.min(axis=(0, 1)), train.max(axis=(0, 1))
  return (high - low).max() <= similarity.TIE * max(high.max(), -low.min())


class LRC(Probe):
  """The paper's low-rank classifier, trained by Adam (appendix B.8).

  Features are taken as they are. A batch is drawn with replacement of all
  windows of all clips; batch and components are functions of (seed, step).

  Args:
    components: n, the rank of the classifier.
    kept: of them, those that take part in a step, drawn anew in each.
    lr: learning rate.
    batch_size: windows of a step.
    steps: of training.
    seed: of the weights, the batches and the components of each step.
    progress: called with the number of steps done.
  """
  name = "lrc"

  def __init__(self, components: int = 128, kept: int = 13, lr: float = 5e-4,
               batch_size: int = 64, steps: int = 50_000, seed: int = 0,
               progress: Callable[[int], object] | None = None):
    self.components, self.kept = components, kept
    self.lr, self.batch_size, self.steps = lr, batch_size, steps
    self.seed, self.progress = seed, progress

  def scores(self, train: np.ndarray, labels: np.ndarray, test: np.ndarray
             ) -> np.ndarray:
    """Logits [M, C], of all components."""
    return self.fit(train, labels)(tf.constant(test)).numpy()

  def fit(self, train: np.ndarray, labels: np.ndarray) -> LowRankClassifier:
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
        bits = seeds.bits_rows(
            self.batch_size, [], seeds.fold(seed, "batch"), first_row=0)
        rows = tf.cast(bits % tf.cast(tf.size(labels), tf.uint32), tf.int32)
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
  windows only, and so W times the C: clips weigh as much as with all. A class's
  only clip is never held out, so that all classes are among the others; where
  each class has just one, the smallest C is taken.

  Args:
    cs: values of C to choose from.
  """
  name = "svm"

  def __init__(self, cs: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1)):
    self.cs = sorted(cs)

  def scores(self, train: np.ndarray, labels: np.ndarray, test: np.ndarray
             ) -> np.ndarray:
    """Distances from the planes, [M, C]."""
    c = self.cs[0]
    if len(self.cs) > 1:
      c = self._choose(train, labels)
    return self._scores(train, labels, c, test)

  def _choose(self, train, labels):
    """The best C on training clips that are held out."""
    held_out = np.zeros(len(labels), bool)
    several = np.flatnonzero(np.bincount(labels)[labels] > 1)
    order = several[np.argsort(labels[several], kind="stable")]
    held_out[order[::HOLD_OUT]] = True
    if not held_out.any():
      logging.warning("svm: one training clip in each class, none to choose C "
                      "by: the smallest, %g", self.cs[0])
      return self.cs[0]
    right = []
    for c in self.cs:
      scores = self._scores(train[~held_out, :1], labels[~held_out],
                            c * train.shape[1], train[held_out].mean(axis=1))
      own = labels[held_out, None] == np.arange(scores.shape[1])
      right += [share for _, share in classification.top_k(scores, own, (1,))]
    c = self.cs[int(np.argmax(right))]
    logging.info("svm: C %g of %s, top-1 of %d held-out clips %s", c, self.cs,
                 held_out.sum(), np.round(right, 4).tolist())
    return c

  def _scores(self, train, labels, c, test):
    """Trains with one C, on clips of all classes."""
    # Imported where they are used: they are slow to load.
    from sklearn import pipeline, preprocessing, svm

    model = pipeline.make_pipeline(
        preprocessing.StandardScaler(),
        svm.LinearSVC(C=c, dual="auto", random_state=0))
    model.fit(train.reshape(-1, train.shape[-1]),
              np.repeat(labels, train.shape[1]))
    scores = model.decision_function(test)
    if scores.ndim == 1:  # of two classes
      scores = np.stack([-scores, scores], axis=1)
    return scores


class KNN(Probe):
  """The k training clips nearest by cosine vote for their classes.

  A clip is the mean of its windows. It votes with exp(cosine / temperature), in
  proportion to the nearest one's vote. Clips that are as near as the k-th, up
  to `similarity.TIE`, share the places that nearer ones leave.

  Args:
    k: neighbours; all clips if there are fewer.
    temperature: inf lets all vote alike.
  """
  name = "knn"

  def __init__(self, k: int = 20, temperature: float = 0.07):
    self.k, self.temperature = k, temperature

  def scores(self, train: np.ndarray, labels: np.ndarray, test: np.ndarray
             ) -> np.ndarray:
    """Votes [M, C]."""
    items = similarity.normalize(train.mean(axis=1))
    classes = np.eye(labels.max() + 1)[labels]  # [N, C]
    k = min(self.k, len(items))
    if k < self.k:
      logging.warning("knn: k is %d, all %d training clips vote", self.k, k)
    votes = []
    for queries in np.array_split(test, -(-len(test) // 1024)):
      cosine = (similarity.normalize(queries) @ items.T).astype(np.float64)
      # The k-th largest of each row, [m, 1]
      last = -np.partition(-cosine, k - 1, axis=1)[:, k - 1:k]
      nearer = similarity.bar(cosine) > last
      tied = ~nearer & ~(cosine < similarity.bar(last))
      places = k - nearer.sum(axis=1, keepdims=True)
      share = nearer + tied * places / tied.sum(axis=1, keepdims=True)
      nearest = cosine.max(axis=1, keepdims=True)
      weight = np.exp((cosine - nearest) / self.temperature)
      votes.append((share * weight) @ classes)
    return np.concatenate(votes)
