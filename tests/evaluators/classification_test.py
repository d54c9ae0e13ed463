"""Classification: measures by hand and as scikit-learn has them."""
import numpy as np
import pytest
import scipy.stats
from sklearn import metrics

from vatt.errors import UserError
from vatt.evaluators import classification
from vatt.evaluators.classification import ZeroShot


def test_class_is_the_mean_of_normalized_sentences():
  # Class 0 has sentences at 0° (long) and 90°: its mean is at 45°, whatever
  # their lengths. Class 1 is at 100°.
  def at(degrees, length=1.0):
    angle = np.deg2rad(degrees)
    return [length * np.cos(angle), length * np.sin(angle)]

  evaluator = ZeroShot(np.array([[at(0, 9.0), at(90)], [at(100), at(100)]]))
  clips = {
      "video_vt": np.array([at(60), at(80), at(70), at(50)]),
      "audio_vt": np.array([at(10), at(120), at(0), at(0)]),
      "has_video": np.ones(4, bool),
      "has_audio": np.array([True, True, False, False]),
      "label": np.array([0, 0, 1, -1]),
  }
  # Border at 72.5°: videos at 60° and 80° are of class 0 (right, wrong), 70°
  # is of class 1 (wrong), the last has no label.
  assert dict(evaluator.run(clips)) == {
      "video_to_text/accuracy": pytest.approx(1 / 3),
      "audio_to_text/accuracy": pytest.approx(1 / 2),
  }


def test_top_k_counts_ties_against():
  scores = np.array([[3.0, 2, 1, 0], [1, 1, 0, 0], [0, 1, 2, 3], [1, 1, 1, 1]])
  found = dict(classification.top_k(
      scores, np.eye(4, dtype=bool)[[0, 0, 1, 2]], (1, 2, 3)))
  # Ranks: 1; 2, as its equal goes first; 3; 4.
  assert found == {"top-1": 0.25, "top-2": 0.5, "top-3": 0.75}


def test_top_k_of_what_is_no_finite_number():
  """It is never right, and ranks before what is; and so does what ties up to
  the last bits."""
  inf, nan = np.inf, np.nan
  scores = np.array([[nan, 0, 0], [0, nan, -1], [inf, 0, 0], [-inf, 0, 0],
                     [0, -inf, -inf], [1, 1 - 1e-7, 0], [7000, 7000.001, 0],
                     [1, 1 - 1e-5, 0]], np.float32)
  own = np.tile([True, False, False], (len(scores), 1))
  found = dict(classification.top_k(scores, own, (1, 2, 3)))
  # Ranks 3, 2, 3, 3, 1, 2, 2, 1.
  assert found == {"top-1": 2 / 8, "top-2": 5 / 8, "top-3": 1.0}
  several = np.array([[True, True, False]])  # one of them right is enough
  for row, right in (([1, 0, 0], 1.0), ([1, nan, 0], 0.0)):
    assert dict(classification.top_k(np.array([row]), several, (1,))) == {
        "top-1": right}


def test_multi_label_by_hand():
  """Class 0: a positive before a negative, then a positive: AUC 1/2 (one pair
  of two right), AP (1 + 2/3) / 2. Class 1: all right, 2 pairs: d-prime as of
  an AUC of 3/4. Class 2 has no positive and counts nowhere."""
  scores = np.array([[3.0, 9, 1], [2, 1, 5], [1, 0, 7]])
  labels = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0]], bool)
  found = dict(classification.multi_label(scores, labels))
  quartile = 0.6744897501960817  # Φ⁻¹(3/4)
  assert found == {
      "classes left out": 1,
      "mAP": pytest.approx((5 / 6 + 1) / 2),
      "AUC": pytest.approx((1 / 2 + 1) / 2),
      "d-prime": pytest.approx((0 + np.sqrt(2) * quartile) / 2)}


@pytest.mark.parametrize("case", range(60))
def test_top_k_as_sklearn(case):
  """Without ties, for scikit-learn orders equal scores by their class; and with
  many of them, by sorting each row with its own class last."""
  rng = np.random.default_rng(case)
  rows, classes = rng.integers(1, 40), rng.integers(3, 12)
  labels = rng.integers(0, classes, rows)
  ks = (1, 2, classes - 1, classes)
  scores = rng.permuted(
      np.tile(np.arange(classes, dtype=np.float32), (rows, 1)), axis=1)
  own = labels[:, None] == np.arange(classes)
  found = dict(classification.top_k(scores, own, ks))
  for k in ks[:-1]:
    assert found[f"top-{k}"] == pytest.approx(metrics.top_k_accuracy_score(
        labels, scores, k=k, labels=np.arange(classes)))
  assert found[f"top-{classes}"] == 1
  tied = rng.integers(0, 3, (rows, classes)).astype(np.float32)
  found = dict(classification.top_k(tied, own, ks))
  for k in ks:
    hits = 0
    for row, label in zip(tied, labels):
      order = sorted(range(classes), key=lambda c: (-row[c], c == label))
      hits += label in order[:k]
    assert found[f"top-{k}"] == pytest.approx(hits / rows)


def test_scores_near_each_other_are_no_chain():
  """Each ties with the next, and the best with few: they are in order."""
  scores = 1e-7 * np.arange(4000)[:, None]
  found = dict(classification.multi_label(scores, scores > 3e-4))
  assert found["AUC"] > 0.99 and found["mAP"] > 0.99


def average_precision(scores, positive):
  """Σ over the scores that occur, from high to low, of the precision of all
  rows with at least that one times the share of the positives that have it."""
  return sum(
      positive[scores >= s].mean() * (positive & (scores == s)).sum()
      for s in set(scores)) / positive.sum()


@pytest.mark.parametrize("case", range(60))
def test_multi_label_as_sklearn_and_by_counting(case):
  """Half of the cases have ties, most have classes to leave out."""
  rng = np.random.default_rng(case)
  rows, classes = rng.integers(5, 60), rng.integers(2, 9)
  scores = rng.normal(size=(rows, classes)).astype(np.float32)
  if case % 2:
    scores = np.round(scores)
  labels = rng.random((rows, classes)) < rng.random(classes) ** 3
  labels[:, 0] = rng.permutation(rows) < 2  # one class at least
  labels[:, -1] &= case % 3 > 0  # none
  found = dict(classification.multi_label(scores, labels))
  good = [c for c in range(classes) if 0 < labels[:, c].sum() < rows]
  assert found["classes left out"] == classes - len(good)
  own = metrics.average_precision_score(
      labels[:, good], scores[:, good], average=None)
  assert found["mAP"] == pytest.approx(np.mean(own), abs=1e-12)
  assert found["mAP"] == pytest.approx(np.mean(
      [average_precision(scores[:, c], labels[:, c]) for c in good]))
  auc, primes = [], []
  for c in good:
    high = scores[labels[:, c], c][:, None]
    low = scores[~labels[:, c], c]
    pairs = high.size * low.size
    auc.append(((high > low).sum() + (high == low).sum() / 2) / pairs)
    primes.append(np.sqrt(2) * scipy.stats.norm.ppf(
        min(max(auc[-1], 0.5 / pairs), 1 - 0.5 / pairs)))
  assert found["AUC"] == pytest.approx(np.mean(auc))
  assert found["AUC"] == pytest.approx(metrics.roc_auc_score(
      labels[:, good], scores[:, good], average="macro"))
  assert found["d-prime"] == pytest.approx(np.mean(primes))


def test_d_prime_is_finite_where_all_pairs_are_right_or_wrong():
  """Six pairs: as of an AUC of 11/12, or of 1/12."""
  labels = np.array([[True], [True], [False], [False], [False]])
  scores = np.array([[5.0], [4], [3], [2], [1]])
  expected = np.sqrt(2) * 1.3829941271006392  # Φ⁻¹(11/12)
  for sign in (1, -1):
    found = dict(classification.multi_label(sign * scores, labels))
    assert found["AUC"] == (sign + 1) / 2
    assert found["d-prime"] == pytest.approx(sign * expected)


def test_multi_label_of_what_is_no_finite_number():
  """As if that of positives were the lowest, that of negatives the highest; and
  what ties up to the last bits enters as one step."""
  scores = np.array([3, np.nan, 1, np.inf, 0, -np.inf, 2, 2 - 1e-7])
  labels = np.array([1, 1, 1, 0, 0, 0, 1, 0], bool)
  by_hand = np.array([3, -9, 1, 9, 0, 9, 2, 2])
  found, expected = (dict(classification.multi_label(
      np.float32(x)[:, None], labels[:, None])) for x in (scores, by_hand))
  assert found == expected
  assert found["AUC"] == metrics.roc_auc_score(labels, by_hand)
  assert found["mAP"] == metrics.average_precision_score(labels, by_hand)


def test_nothing_to_measure_is_refused():
  scores, none = np.zeros([4, 3]), np.zeros([4, 3], bool)
  for labels in (none, ~none, none[:0]):
    with pytest.raises(UserError, match=f"of 3 classes and {len(labels)} clips,"
                       " no class has clips with it and clips without"):
      dict(classification.multi_label(scores[:len(labels)], labels))
  with pytest.raises(UserError, match="no clip with a label, expected some"):
    dict(classification.top_k(scores[:0], np.zeros([0, scores.shape[1]], bool)))


def test_zero_shot_ties_count_against():
  """Classes 0 and 1 have the same sentences, so that neither is found; of five
  clips in six that would have been the first."""
  evaluator = ZeroShot(np.array([[[1.0, 0]], [[2.0, 0]], [[0, 1.0]]]))
  clips = {"video_vt": np.array([[1.0, 0]] * 5 + [[0, 1]]),
           "has_video": np.ones(6, bool), "has_audio": np.zeros(6, bool),
           "label": np.array([0, 0, 0, 0, 1, 2])}
  assert dict(evaluator.run(clips)) == {
      "video_to_text/accuracy": pytest.approx(1 / 6)}


def test_a_label_without_a_sentence_is_refused():
  clips = {"label": np.array([0, 2]), "has_video": np.ones(2, bool),
           "has_audio": np.ones(2, bool), "video_vt": np.ones([2, 2]),
           "audio_vt": np.ones([2, 2])}
  with pytest.raises(UserError, match="has label 2, expected 0 to 1"):
    dict(ZeroShot(np.ones([2, 1, 2])).run(clips))
