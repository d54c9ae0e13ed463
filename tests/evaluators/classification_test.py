"""Zero-shot classification, worked out by hand."""
import numpy as np
import pytest

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
  found = dict(classification.top_k(scores, np.array([0, 0, 1, 2]), (1, 2, 3)))
  # Ranks: 1; 2, as its equal goes first; 3; 4.
  assert found == {"top-1": 0.25, "top-2": 0.5, "top-3": 0.75}


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
  assert dict(classification.multi_label(scores, labels & False)) == {
      "classes left out": 3}
