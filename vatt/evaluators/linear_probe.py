"""Linear probes: classifiers of frozen features (section 4.3, appendix B.8).

They are trained on the features of several windows of each clip, [N, W, D], and
tested on one vector a clip, [M, D]; see features.py.
"""
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from vatt import seeds
from vatt.errors import UserError
from vatt.evaluators import classification
from vatt.models.heads import LowRankClassifier
from vatt.similarity import normalize

HOLD_OUT = 5  # one training clip in so many, to choose the SVM's C


class Probe:
  """A classifier of features; `name` and `scores` are its kind's.

  `scores` trains on features [N, W, D] and labels int [N], 0 to C - 1, and
  returns [M, C] for those to test on, [M, D].
  """

  def run(self, train: np.ndarray, train_labels: np.ndarray, test: np.ndarray,
          test_labels: np.ndarray) -> Iterator[tuple[str, float]]:
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
        scores, test_labels[:, None] == classes,
        (1, 5) if len(classes) > 5 else (1,)):
      yield f"{self.name}/{name}", value


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

  Raises:
    UserError: no such share of the components.
  """
  name = "lrc"

  def __init__(self, components: int = 128, kept: int = 13, lr: float = 5e-4,
               batch_size: int = 64, steps: int = 50_000, seed: int = 0,
               progress: Callable[[int], object] | None = None):
    if not 1 <= kept <= components:
      raise UserError(f"lrc.kept is {kept}, expected 1 to lrc.components "
                      f"({components})")
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

  def __init__(self, cs: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1)):
    if not cs:
      raise UserError("svm.cs is empty, expected values of C")
    self.cs = sorted(cs)

  def scores(self, train: np.ndarray, labels: np.ndarray, test: np.ndarray
             ) -> np.ndarray:
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

  def __init__(self, k: int = 20, temperature: float = 0.07):
    if k < 1 or not temperature > 0:
      raise UserError(f"knn: k is {k}, temperature {temperature}; expected at "
                      "least 1, and over 0")
    self.k, self.temperature = k, temperature

  def scores(self, train: np.ndarray, labels: np.ndarray, test: np.ndarray
             ) -> np.ndarray:
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
