"""Probes against hand-worked values, scikit-learn and closed forms."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from vatt import seeds
from vatt.errors import UserError
from vatt.evaluators.linear_probe import KNN, LRC, SVM
from vatt.models.heads import LowRankClassifier

TINY = dict(depth=1, width=16, mlp_dim=32, num_heads=2)


@pytest.fixture(autouse=True)
def float32_afterwards():
  yield
  tf.keras.mixed_precision.set_global_policy("float32")


def clusters(rng, classes=3, clips=60, windows=2, width=8, noise=0.3):
  """Clips around a centre each class, and test clips."""
  centres = rng.normal(size=(classes, width))

  def draw(*shape):
    labels = np.arange(shape[0]) % classes
    own = centres[labels].reshape(
        len(labels), *[1] * (len(shape) - 1), width)
    x = own + noise * rng.normal(size=(*shape, width))
    return x.astype(np.float32), labels

  return *draw(clips, windows), *draw(30)


# -----------------------------------------------------------------------------
# The low-rank classifier.
# -----------------------------------------------------------------------------
def test_low_rank_classifier_by_hand():
  """In training 13 components times 128 / 13, others for other seeds; all of
  them in the test; in the mean of many seeds the two are the same."""
  model = LowRankClassifier(5, dtype="float64")
  rng = np.random.default_rng(0)
  x = rng.normal(size=(4, 7))
  model(x)
  u, v = rng.normal(size=(7, 128)), rng.normal(size=(128, 5))
  model.u.assign(u)
  model.v.assign(v)
  np.testing.assert_allclose(model(x), x @ u @ v, rtol=1e-10)

  @tf.function
  def both(i):
    seed = seeds.fold(seeds.root(0), i)
    with tf.GradientTape() as tape:
      logits = model(tf.constant(x), training=True, seed=seed)
      # Its gradient in V is not 0 in the rows of kept components alone.
      loss = tf.reduce_sum(logits)
    return logits, tape.gradient(loss, model.v)

  total, used = np.zeros([4, 5]), np.zeros(128)
  number = 2000
  for i in range(number):
    logits, gradient = both(tf.constant(i))
    kept = np.flatnonzero(np.abs(gradient).sum(1))
    used[kept] += 1
    assert len(kept) == 13
    if i < 20:
      np.testing.assert_allclose(
          logits, x @ u[:, kept] @ v[kept] * (128 / 13), rtol=1e-9)
    total += logits
  parts = (x @ u)[..., None] * v  # [4, 128, 5]
  share = 13 / 128
  deviation = np.sqrt((parts ** 2).sum(1) * (1 - share) / share / number)
  assert (np.abs(total / number - x @ u @ v) < 4.5 * deviation).all()
  expected = number * share
  assert (np.abs(used - expected) < 6 * np.sqrt(expected)).all()


def test_lrc_finds_the_planes_of_separable_classes():
  """Classes on orthogonal axes: the right one has the largest coordinate."""
  rng = np.random.default_rng(0)
  train = rng.uniform(0, 0.5, (90, 2, 6)).astype(np.float32)
  labels = np.arange(90) % 6
  train[np.arange(90), :, labels] += 2
  test = rng.uniform(0, 0.5, (60, 6)).astype(np.float32)
  test[np.arange(60), np.arange(60) % 6] += 1
  probe = LRC(lr=5e-3, steps=600)
  weight = probe.fit(train, labels)(np.eye(6, dtype=np.float32)).numpy()
  assert (weight.argmax(1) == np.arange(6)).all()
  assert dict(probe.run(train, labels, test, np.arange(60) % 6)) == {
      "lrc/top-1": 1.0, "lrc/top-5": 1.0}


def test_lrc_is_a_function_of_its_seed():
  train, labels, test, _ = clusters(np.random.default_rng(0))
  done = []
  first, again, other = (
      LRC(steps=30, seed=seed, progress=done.append).scores(
          train, labels, test) for seed in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 1e-3
  assert done == [30] * 3


# -----------------------------------------------------------------------------
# k-NN and SVM, as scikit-learn has them.
# -----------------------------------------------------------------------------
@pytest.mark.parametrize("temperature", [0.07, np.inf])
def test_knn_is_scikit_learns(temperature):
  rng = np.random.default_rng(0)
  for case in range(50):
    classes, k = rng.integers(2, 8), int(rng.integers(1, 25))
    train, labels, test, _ = clusters(
        rng, classes, int(rng.integers(25, 60)), noise=2.0)
    model = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / temperature))
    model.fit(train.mean(1), labels)
    votes = KNN(k, temperature).scores(train, labels, test)
    np.testing.assert_allclose(
        votes / votes.sum(1, keepdims=True), model.predict_proba(test),
        atol=1e-5, err_msg=str(case))


def test_knn_ties_by_hand():
  """Three clips as near: they share two places, wherever they stand. Of classes
  with equal votes none is the one answer."""
  train = np.array([[0, 1], [1, 0], [2, 0], [3, 0]], np.float32)[:, None]
  labels = np.array([0, 1, 2, 2])
  test = np.array([[1, 0]], np.float32)
  far = np.exp(-1 / 0.5)  # beside the nearest, which has one vote
  for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]):
    for k, expected in ((2, [0, 2 / 3, 4 / 3]), (3, [0, 1, 2]),
                        (20, [far, 1, 2])):
      np.testing.assert_allclose(KNN(k, 0.5).scores(
          train[order], labels[order], test), [expected], rtol=1e-6)
  found = KNN(2).run(train[:3], labels[:3], test, np.array([1]))
  assert dict(found) == {"knn/top-1": 0.0}
  found = KNN(2).run(train, labels, test, np.array([2]))
  assert dict(found) == {"knn/top-1": 1.0}


def test_knn_at_a_temperature_that_would_overflow():
  """exp(1 / 0.001) is no number of float64; the nearest one has a vote."""
  train, labels, test, test_labels = clusters(
      np.random.default_rng(0), noise=1.0)
  nearest = KNeighborsClassifier(1, metric="cosine", algorithm="brute")
  nearest.fit(train.mean(1), labels)
  for k in (1, 20):
    found = dict(KNN(k, 1e-5).run(train, labels, test, test_labels))
    assert found["knn/top-1"] == pytest.approx(
        nearest.score(test, test_labels))


@pytest.mark.parametrize("classes", [2, 7])
def test_svm_is_scikit_learns(classes):
  train, labels, test, test_labels = clusters(
      np.random.default_rng(0), classes, noise=1.5)
  flat, repeated = train.reshape(-1, 8), np.repeat(labels, 2)
  scaler = StandardScaler().fit(flat)
  model = LinearSVC(C=0.01, dual=False).fit(scaler.transform(flat), repeated)
  found = dict(SVM([0.01]).run(train, labels, test, test_labels))
  assert found["svm/top-1"] == pytest.approx(
      model.score(scaler.transform(test), test_labels))
  assert 0.3 < found["svm/top-1"] < 1
  assert ("svm/top-5" in found) == (classes > 5)


def test_svm_chooses_c_on_held_out_training_clips():
  """Every fifth of each class, by the mean of its windows; trained on the first
  windows of the others, at twice the C as a clip has two."""
  chosen = set()
  for case in range(4):
    train, labels, test, _ = clusters(
        np.random.default_rng(case), 5, 150, noise=1.5)
    rest = np.arange(150) // 5 % 5 > 0  # 30 clips a class, in turns
    scaler = StandardScaler().fit(train[rest, 0])
    right = []
    for c in (1e-4, 1e-2, 1.0):
      model = LinearSVC(C=2 * c, dual=False).fit(
          scaler.transform(train[rest, 0]), labels[rest])
      right.append(model.score(
          scaler.transform(train[~rest].mean(1)), labels[~rest]))
    best = (1e-4, 1e-2, 1.0)[np.argmax(right)]
    chosen.add(best)
    np.testing.assert_array_equal(
        SVM([1.0, 1e-4, 1e-2]).scores(train, labels, test),
        SVM([best]).scores(train, labels, test))
  assert len(chosen) > 1


def test_svm_with_few_clips_has_all_classes_to_choose_by(caplog):
  """A class's only clip was held out where its place was a fifth one, and the
  solver found one class in the rest. Of several clips one is held out."""
  caplog.set_level("INFO")
  rng = np.random.default_rng(0)
  cs = (1e-3, 10.0)
  for counts in ((5, 1), (1, 5), (1, 2), (1, 1, 4), (2, 2), (1, 9, 1, 9)):
    labels = np.repeat(np.arange(len(counts)), counts)
    train = rng.normal(size=(len(labels), 2, 3)).astype(np.float32)
    train[np.arange(len(labels)), :, labels % 3] += 9 * (1 + labels // 3)[
        :, None]
    found = dict(SVM(cs).run(train, labels, train[:, 0], labels))
    assert 0.5 < found["svm/top-1"] <= 1, counts
    several = sum(count for count in counts if count > 1)
    assert f"of {-(-several // 5)} held-out clips" in caplog.text
    caplog.clear()
  labels = np.arange(3)  # one of each
  scores = SVM(cs).scores(train[:3], labels, train[:3, 0])
  np.testing.assert_array_equal(
      scores, SVM(cs[:1]).scores(train[:3], labels, train[:3, 0]))
  assert "one training clip in each class" in caplog.text


# -----------------------------------------------------------------------------
# What is no number; of what cannot be told apart, see collapsed_test.py.
# -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "probe", [LRC(steps=3), SVM(), KNN(3)], ids=lambda probe: probe.name)
def test_what_is_no_number_counts_against(probe):
  """Test clips are wrong, training clips take no part, and nor does a class
  that has no others."""
  train, labels, test, test_labels = clusters(
      np.random.default_rng(0), noise=0.1)
  few = labels < 2
  expected = dict(probe.run(
      train[few], labels[few], test[test_labels < 2],
      test_labels[test_labels < 2]))[f"{probe.name}/top-1"]
  train[labels == 2, 1, 3] = np.nan
  found, = dict(probe.run(train, labels, test, test_labels)).values()
  assert found == pytest.approx(expected * 2 / 3)
  test[test_labels == 1, 0] = np.inf
  found, = dict(probe.run(train, labels, test, test_labels)).values()
  assert found <= 1 / 3


def test_a_diverged_classifier_is_said(caplog):
  train, labels, test, test_labels = clusters(np.random.default_rng(0))
  found = dict(LRC(lr=1e30, steps=5).run(train, labels, test, test_labels))
  assert found == {"lrc/top-1": 0.0}
  assert "lrc: scores: 30 of 30 clips have what is no finite" in caplog.text


def test_classes_that_do_not_fit():
  train, labels, test, test_labels = clusters(np.random.default_rng(0))
  with pytest.raises(UserError, match=r"test clips have classes \[9\], expec"):
    list(KNN().run(train, labels, test, np.where(
        test_labels == 1, 9, test_labels)))
  with pytest.raises(UserError, match="have 1 class, expected at least two"):
    list(KNN().run(train, labels * 0, test, test_labels * 0))
  # Numbers of classes may have gaps.
  spread = np.array([2, 40, 7])
  assert dict(KNN().run(train, spread[labels], test, spread[test_labels])) == (
      dict(KNN().run(train, labels, test, test_labels)))
