"""A model that collapsed, or whose weights are no numbers, in every measure."""
import math

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from vatt.evaluators import classification, linear_probe, retrieval
from vatt.tasks import finetune

CLASSES, WIDTH = 3, 4
LABELS = np.repeat(np.arange(CLASSES), [20, 2, 2])  # five in six are of class 0
CLIPS = len(LABELS)
OWN = LABELS[:, None] == np.arange(CLASSES)


def constant(value):
  return lambda *shape: np.full(shape, value, np.float32)


def up_to_rounding(*shape):
  """One value, but for the last bit."""
  return np.float32(0.5 + 6e-8 * np.random.default_rng(0).integers(
      -1, 2, shape))


def measures(output):
  """(name, value, chance) of all that is measured, of a function shape ->
  what a model makes of clips."""
  vectors = output(CLIPS, WIDTH)
  clips = {f"{name}_{space}": vectors for name in ("video", "audio")
           for space in ("va", "vt")} | {
               "text_vt": vectors[:, None], "label": LABELS,
               "has_video": np.ones(CLIPS, bool),
               "has_audio": np.ones(CLIPS, bool),
               "has_caption": np.ones([CLIPS, 1], bool)}
  for match, right in (("pair", np.ones(CLIPS, int)),
                       ("label", np.bincount(LABELS)[LABELS])):
    options = ConfigDict(dict(match=match, captions=1))
    for name, value in retrieval.Retrieval(options).run(clips):
      if name.endswith("MedR"):  # a low one is good
        yield f"{match} {name}", -value, -np.median((CLIPS + 1) / (right + 1))
      else:  # K draws without one of the right ones
        k = int(name.split("@")[1])
        yield f"{match} {name}", value, 1 - np.mean([
            math.comb(CLIPS - n, k) / math.comb(CLIPS, k) for n in right])
  # Sentences that differ, beside clips that do not: the same guess for all.
  distinct = np.random.default_rng(0).normal(size=(CLASSES, 2, WIDTH))
  for sentences, chance in ((output(CLASSES, 2, WIDTH), 1 / CLASSES),
                            (distinct, OWN.mean(axis=0).max())):
    for name, value in classification.ZeroShot(sentences).run(clips):
      yield name, value, chance
  scores = output(CLIPS, CLASSES)
  for name, value in classification.top_k(scores, OWN, (1, 2)):
    yield name, value, int(name[-1]) / CLASSES
  accuracy = finetune.accuracy(*map(tf.constant, (
      scores, OWN, np.ones(CLIPS, bool))))
  yield "accuracy", float(accuracy), 1 / CLASSES
  chance = {"mAP": OWN.mean(), "AUC": 0.5, "d-prime": 0.0}
  for name, value in classification.multi_label(scores, OWN):
    if name != "classes left out":
      yield name, value, chance[name]
  for probe in (linear_probe.LRC(steps=3), linear_probe.SVM(),
                linear_probe.KNN(3)):
    for name, value in probe.run(
        output(CLIPS, 2, WIDTH), LABELS, vectors, LABELS):
      yield name, value, 1 / CLASSES


@pytest.mark.parametrize("output", [
    *map(constant, (0.0, 0.5, -7e3, np.nan, np.inf, -np.inf)), up_to_rounding],
                         ids="zero half large nan inf -inf rounding".split())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # inf / inf
def test_chance_or_below_in_every_measure(output):
  found = list(measures(output))
  assert len(found) == 2 * 6 * 4 + 2 * 2 + 2 + 1 + 3 + 3
  for name, value, chance in found:
    assert value <= chance + 1e-9, name  # not NaN, either


def test_a_model_that_knows_is_above_chance():
  """So that the figures above are of the measures and not of this file."""
  eye = np.eye(WIDTH, dtype=np.float32)[LABELS]

  def output(*shape):
    if shape == (CLASSES, 2, WIDTH):
      return np.repeat(np.eye(CLASSES, WIDTH)[:, None], 2, axis=1)
    if shape == (CLIPS, 2, WIDTH):
      return np.repeat(eye[:, None], 2, axis=1)
    return eye[:, :shape[1]]

  better = {name for name, value, chance in measures(output) if value > chance}
  assert {"top-1", "accuracy", "mAP", "AUC", "d-prime", "svm/top-1",
          "knn/top-1", "video_to_text/accuracy", "label text_to_video/R@1",
          "label audio_to_video/MedR"} <= better
