import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from vatt import losses

TAU = 0.07


def normalized(vector):
  return vector / math.sqrt(sum(v * v for v in vector))


def loss_by_hand(video, items, video_mask, item_mask, form, tau=TAU):
  """SPEC section 5, pair by pair; returns the terms of the valid samples."""
  batch, k, _ = items.shape
  if form == "released":  # a sample's captions count all or none
    item_mask = np.repeat(item_mask.any(axis=1)[:, None], k, axis=1)

  def e(i, j, c):
    return math.exp(normalized(video[i]) @ normalized(items[j, c]) / tau)

  def captions(i):
    return [c for c in range(k) if video_mask[i] and item_mask[i, c]]

  terms = []
  for i in range(batch):
    if not captions(i):
      continue
    numerator = sum(e(i, i, c) for c in captions(i))
    others = [j for j in range(batch) if j != i]
    # v_i with others' captions; own captions with others' videos.
    to_items = sum(e(i, j, c) for j in others for c in captions(j))
    to_videos = sum(
        e(j, i, c) for j in others if video_mask[j] for c in captions(i))
    if form == "paper":
      term = -math.log(numerator / (numerator + to_items + to_videos))
    elif form == "released":
      term = -math.log(numerator / (2 * numerator + to_items + to_videos))
    elif form == "one_way":
      term = -math.log(numerator / (numerator + to_items))
    else:
      term = -0.5 * (math.log(numerator / (numerator + to_items))
                     + math.log(numerator / (numerator + to_videos)))
    terms.append(term)
  return terms


# Samples that have their video, their audio, all, some or none of the captions.
VIDEO_MASKS = {"all": [1, 1, 1, 1], "two missing": [1, 0, 1, 0],
               "one left": [0, 1, 0, 0], "none": [0, 0, 0, 0]}
ITEM_MASKS = {
    "all": [[1, 1, 1]] * 4,
    "some captions": [[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1]],
    "some samples": [[1, 1, 1], [0, 0, 0], [0, 0, 0], [1, 1, 1]],
    "some of both": [[0, 0, 0], [0, 1, 1], [1, 0, 0], [1, 1, 1]],
    "one caption": [[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]],
    "none": [[0, 0, 0]] * 4,
}


def vectors(k=3, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(4, 5)) * 3, rng.normal(size=(4, k, 5)) / 2


@pytest.mark.parametrize("form", losses.FORMS)
@pytest.mark.parametrize("k", [1, 3])
def test_forms_and_masks_against_loops(form, k):
  video, items = vectors(k)
  run = tf.function(lambda v, t, v_mask, t_mask: losses.mil_nce(
      v, t, v_mask, t_mask, TAU, form))
  for video_mask, item_mask in itertools.product(
      VIDEO_MASKS.values(), ITEM_MASKS.values()):
    video_mask = np.array(video_mask, bool)
    item_mask = np.array(item_mask, bool)[:, :k]
    terms = loss_by_hand(video, items, video_mask, item_mask, form)
    for dtype, rtol in ((np.float64, 1e-12), (np.float32, 1e-5)):
      loss = run(tf.constant(video, dtype), tf.constant(items, dtype),
                 tf.constant(video_mask), tf.constant(item_mask))
      assert loss.dtype == dtype and loss.shape == []
      np.testing.assert_allclose(
          loss, sum(terms) / max(len(terms), 1), rtol=rtol, atol=rtol)


def test_worked_by_hand():
  """Two orthogonal pairs, temperature 1: every e is 𝑒 or 1."""
  video = tf.constant([[2.0, 0.0], [0.0, 0.5]])
  items = video[:, None] * 3
  both = tf.constant([True, True])
  e = math.e
  for form, expected in {
      "paper": math.log((e + 2) / e), "released": math.log((2 * e + 2) / e),
      "one_way": math.log((e + 1) / e), "info_nce": math.log((e + 1) / e),
  }.items():
    loss = losses.mil_nce(video, items, both, both[:, None], 1.0, form)
    assert float(loss) == pytest.approx(expected, rel=1e-6)
  # Two captions each, both right: numerator 2e, and 2 + 2 negatives.
  loss = losses.mil_nce(video, tf.repeat(items, 2, axis=1), both,
                        tf.repeat(both[:, None], 2, axis=1), 1.0)
  assert float(loss) == pytest.approx(math.log((2 * e + 4) / (2 * e)), rel=1e-6)
  # The second audio is missing: its video still is a negative of the first's.
  one = tf.constant([[True], [False]])
  loss = losses.mil_nce(video, items, both, one, 1.0)
  assert float(loss) == pytest.approx(math.log((e + 1) / e), rel=1e-6)
  # The second record is corrupt: the first has no negative at all.
  loss = losses.mil_nce(video, items, tf.constant([True, False]), both[:, None],
                        1.0)
  assert float(loss) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("form", losses.FORMS)
def test_what_is_masked_has_no_influence(form):
  """Not in the loss, and no gradient goes there."""
  video, items = vectors()
  video_mask = np.array([1, 1, 0, 1], bool)
  item_mask = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [1, 1, 0]], bool)
  if form == "released":  # counts all captions of a sample with one
    item_mask = np.repeat(item_mask.any(axis=1)[:, None], 3, axis=1)
  item_there = item_mask & video_mask[:, None]
  rng = np.random.default_rng(9)
  other_video = np.where(
      video_mask[:, None], video, rng.normal(size=video.shape))
  other_items = np.where(
      item_there[..., None], items, rng.normal(size=items.shape))

  def run(video, items):
    video, items = tf.constant(video), tf.constant(items)
    with tf.GradientTape() as tape:
      tape.watch([video, items])
      loss = losses.mil_nce(video, items, video_mask, item_mask, TAU, form)
    return loss, *tape.gradient(loss, [video, items])

  loss, to_video, to_items = run(video, items)
  other_loss, *_ = run(other_video, other_items)
  np.testing.assert_array_equal(loss, other_loss)
  there = np.abs(to_video).max(axis=-1) > 0
  # Sample 1 has no caption, but its video is a negative of the others' where
  # captions are compared with videos.
  expected = video_mask.copy()
  expected[1] = form != "one_way"
  np.testing.assert_array_equal(there, expected)
  np.testing.assert_array_equal(
      np.abs(to_items).max(axis=-1) > 0, item_there)


@pytest.mark.parametrize("form", losses.FORMS)
@pytest.mark.parametrize("masks", [
    ("none", "all"), ("all", "none"), ("two missing", "one caption")])
def test_nothing_valid_gives_zero(form, masks):
  video, items = vectors()
  video_mask = np.array(VIDEO_MASKS[masks[0]], bool)
  item_mask = np.array(ITEM_MASKS[masks[1]], bool)
  for dtype in (np.float32, np.float64):
    v, t = tf.constant(video, dtype), tf.constant(items, dtype)
    with tf.GradientTape() as tape:
      tape.watch([v, t])
      loss = losses.mil_nce(v, t, video_mask, item_mask, TAU, form)
    assert float(loss) == 0
    for gradient in tape.gradient(loss, [v, t]):
      np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


def test_zero_vectors_stay_finite():
  """A head may give zeros for a sample: no NaN may come of its length."""
  video, items = vectors()
  video[1], items[2] = 0, 0
  v, t = tf.constant(video, tf.float32), tf.constant(items, tf.float32)
  with tf.GradientTape() as tape:
    tape.watch([v, t])
    loss = losses.mil_nce(v, t, np.ones(4, bool), np.ones((4, 3), bool), TAU)
  for value in (loss, *tape.gradient(loss, [v, t])):
    assert np.isfinite(value).all()


@pytest.mark.parametrize("form", losses.FORMS)
@pytest.mark.parametrize("video_mask, item_mask", [
    ("all", "all"), ("all", "some of both"), ("two missing", "some captions")])
def test_gradients_against_finite_differences(form, video_mask, item_mask):
  point = list(vectors(seed=3))
  video_mask = np.array(VIDEO_MASKS[video_mask], bool)
  item_mask = np.array(ITEM_MASKS[item_mask], bool)

  def function(video, items):
    return losses.mil_nce(video, items, video_mask, item_mask, TAU, form)

  watched = [tf.constant(p) for p in point]
  with tf.GradientTape() as tape:
    tape.watch(watched)
    loss = function(*watched)
  compiled = tf.function(function)
  for i, gradient in enumerate(tape.gradient(loss, watched)):
    for at in np.ndindex(point[i].shape):
      ends = []
      for step in (1e-6, -1e-6):
        moved = [p.copy() for p in point]
        moved[i][at] += step
        ends.append(compiled(*map(tf.constant, moved)).numpy())
      slope = (ends[0] - ends[1]) / 2e-6
      assert gradient.numpy()[at] == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_sum_of_both_losses():
  rng = np.random.default_rng(1)
  embeddings = {"video_va": rng.normal(size=(4, 6)),
                "audio_va": rng.normal(size=(4, 6)),
                "video_vt": rng.normal(size=(4, 5)),
                "text_vt": rng.normal(size=(4, 3, 5))}
  masks = {"video_mask": np.array([1, 1, 1, 0], bool),
           "audio_mask": np.array([1, 0, 1, 1], bool),
           "caption_mask": np.array(ITEM_MASKS["some of both"], bool)}
  for form in losses.FORMS:
    nce = np.mean(loss_by_hand(
        embeddings["video_va"], embeddings["audio_va"][:, None],
        masks["video_mask"], masks["audio_mask"][:, None], form, 0.2))
    mil_nce = np.mean(loss_by_hand(
        embeddings["video_vt"], embeddings["text_vt"], masks["video_mask"],
        masks["caption_mask"], form, 0.2))
    loss, terms = losses.vatt_loss(
        {k: tf.constant(v) for k, v in embeddings.items()},
        {k: tf.constant(v) for k, v in masks.items()}, 0.2, 0.5, form)
    assert set(terms) == {"nce", "mil_nce"}
    assert float(terms["nce"]) == pytest.approx(nce, rel=1e-12)
    assert float(terms["mil_nce"]) == pytest.approx(mil_nce, rel=1e-12)
    total = nce + 0.5 * mil_nce
    if form == "released":
      total /= 1.5
    assert float(loss) == pytest.approx(total, rel=1e-12)


# ---- Of fine-tuning --------------------------------------------------------


def test_cross_entropy_by_hand():
  logits = np.log([[0.2, 0.3, 0.5], [0.25, 0.25, 0.5]])
  labels = np.array([[0.9, 0.05, 0.05], [0.0, 0.0, 1.0]])
  expected = -(0.9 * math.log(0.2) + 0.05 * math.log(0.3)
               + 0.05 * math.log(0.5) + math.log(0.5)) / 2
  assert float(losses.cross_entropy(
      logits, labels, [True] * 2)) == pytest.approx(
      expected, rel=1e-12)


def test_balanced_sigmoid_cross_entropy_by_hand():
  """Two samples carry label 0, one of them 2 too, and two none at all."""
  labels = np.array([[1.0, 0, 0], [1, 0, 1], [0, 0, 0], [0, 0, 0]])
  logits = np.random.default_rng(0).normal(size=(4, 3))
  chance = 1 / (1 + np.exp(-logits))
  terms = -np.where(labels > 0, np.log(chance), np.log(1 - chance)).sum(1)
  weights = [1 / 2, (1 / 2 + 1) / 2, 1 / 2, 1 / 2]
  assert float(losses.balanced_sigmoid_cross_entropy(
      logits, labels, [True] * 4)) == pytest.approx(
          (weights * terms).mean(), rel=1e-12)
  # Without the second row, label 0 is carried once, and label 2 by nobody.
  weights = [1, 0, 1 / 2, 1 / 2]
  assert float(losses.balanced_sigmoid_cross_entropy(
      logits, labels, [True, False, True, True])) == pytest.approx(
          (weights * terms).mean(), rel=1e-12)


@pytest.mark.parametrize("name", [
    "cross_entropy", "balanced_sigmoid_cross_entropy"])
def test_losses_of_fine_tuning_on_replicas(name):
  """The parts of two replicas sum to the loss of one, and so do gradients."""
  rng = np.random.default_rng(1)
  logits = rng.normal(size=(6, 4))
  labels = (rng.random((6, 4)) < 0.3).astype(float)
  loss_of = getattr(losses, name)

  def with_gradient(logits, labels):
    with tf.GradientTape() as tape:
      tape.watch(logits)
      loss = loss_of(logits, labels, tf.ones([len(logits)], tf.bool))
    return loss, tape.gradient(loss, logits)

  loss, gradient = with_gradient(tf.constant(logits), tf.constant(labels))
  strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])

  def rows(values):
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(
            values, 2)[context.replica_id_in_sync_group]))

  parts = tf.function(lambda *args: strategy.run(with_gradient, args))(
      rows(logits), rows(labels))
  found, gradients = (strategy.experimental_local_results(p) for p in parts)
  assert float(sum(found)) == pytest.approx(float(loss), rel=1e-12)
  np.testing.assert_allclose(np.concatenate(gradients), gradient, atol=1e-12)
