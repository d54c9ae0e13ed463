"""Inputs and measures against the release's."""
import numpy as np
import pytest
import tensorflow as tf

from vatt import losses, similarity
from vatt.data import audio, video
from vatt.evaluators import classification, retrieval
from vatt.tasks import finetune


def test_log_mel(golden):
  arrays = golden.npz("data")
  mel = audio.log_mel(arrays["audio"][None, :, None], 48000)
  np.testing.assert_allclose(mel[0], arrays["mel_normalized"], atol=1e-4)


def test_values_of_pixels(golden):
  arrays = golden.npz("data")
  np.testing.assert_allclose(
      video.normalize_video(tf.constant(arrays["frames"][None]))[0],
      arrays["normalize_zero_centered"], atol=1e-6)


def test_values_from_0_to_1(golden):
  """Those that colours are clipped to, before they go to -1 … 1."""
  arrays = golden.npz("data")
  found = video.normalize_video(tf.constant(arrays["frames"]))
  np.testing.assert_allclose(
      (found + 1) / 2, arrays["normalize_0_1"], atol=1e-6)


@pytest.mark.parametrize("name, axis", [
    ("multi_crop_16", 1), ("multi_crop_16_portrait", 2)])
def test_crops(golden, name, axis):
  """Pixel by pixel, where the shorter side is that of the crop. The release
  expects this; of the frames here, 20 × 26, it took the first 16 rows."""
  arrays = golden.npz("data")
  frames = arrays["frames"]
  if axis == 2:
    frames = frames.transpose(0, 2, 1, 3)
  frames = np.take(frames, range(16), axis)
  encoded = tf.constant([tf.io.encode_png(f).numpy() for f in frames])
  np.testing.assert_array_equal(  # [M, T, …] -> [M·T, …]
      tf.reshape(video.decode_crops(encoded, 16, 3), [-1, 16, 16, 3]),
      arrays[name])


def test_crops_of_smaller_frames(golden):
  """The release resizes (bilinear without a filter, which aliases, and cut to
  whole numbers), then crops; here crops are cut, then resized with a filter,
  and rounded. On smooth frames there is little between them."""
  def theirs(frames, size):
    return np.floor(tf.image.resize(frames, size).numpy())

  arrays = golden.npz("data")
  np.testing.assert_array_equal(
      theirs(arrays["frames"], [17, 22]), arrays["resize_smallest_17"])
  y, x = np.mgrid[0:1:200j, 0:1:260j]
  frame = np.uint8(127 + 60 * np.stack([
      np.sin(6 * x) + np.cos(6 * y), 2 * np.sin(5 * x + 2),
      np.cos(6 * x - 4 * y)], -1))
  resized = theirs(frame, [170, 221])
  ours = video.decode_crops(tf.io.encode_png(frame)[None], 170, 3)
  for crop, first in zip(ours, (0, 25, 51)):
    # At most half a pixel aside, where colours change by 4 of 255 a pixel.
    difference = tf.cast(crop[0], tf.float32) - resized[:, first:first + 170]
    assert np.abs(difference).max() <= 4
    assert np.abs(difference).mean() < 1.5


def test_smoothed_labels(golden):
  arrays = golden.npz("data")
  np.testing.assert_allclose(
      finetune.smooth(tf.constant(arrays["labels"]), 0.1),
      arrays["labels_smoothed_0.1"], atol=1e-6)


def test_measures_in_training(golden):
  """The release's, of Keras. Its AUC is that of scores which are told apart by
  200 thresholds: equal ones count half on both sides. Its mAP interpolates
  between these, ours steps (both are called average precision)."""
  arrays = golden.npz("measures")
  scores, labels = arrays["cls_scores"], arrays["cls_labels"][:, 0]
  found = dict(classification.top_k(
      scores, labels[:, None] == np.arange(scores.shape[1])))
  assert found == {"top-1": pytest.approx(arrays["keras_cls/t1"]),
                   "top-5": pytest.approx(arrays["keras_cls/t5"])}
  rows, classes = scores.shape
  loss = losses.cross_entropy(
      scores, tf.one_hot(labels, classes), tf.ones([rows], bool))
  assert float(loss) == pytest.approx(float(arrays["keras_cls/cce"]), rel=1e-6)

  scores, labels = arrays["ml_pred01"], arrays["ml_gt"] > 0
  # Alone in its batch, a sample has a weight of 1.
  terms = [float(losses.balanced_sigmoid_cross_entropy(
      logits[None], tf.cast(own[None], tf.float32), tf.constant([True])))
      for logits, own in zip(np.log(scores / (1 - scores)), labels)]
  assert np.mean(terms) / scores.shape[1] == pytest.approx(
      float(arrays["keras_ml/bce"]), rel=1e-5)
  told_apart = np.searchsorted(np.arange(1, 199) / 199, scores)
  found = dict(classification.multi_label(told_apart, labels))
  assert found["AUC"] == pytest.approx(float(arrays["keras_ml/AUC"]), rel=1e-6)
  assert found["mAP"] == pytest.approx(
      float(arrays["keras_ml/mAP"]), abs=0.005)
  exact = dict(classification.multi_label(scores, labels))
  for name in ("AUC", "mAP"):
    assert exact[name] == pytest.approx(
        float(arrays[f"keras_ml/{name}"]), abs=0.01), name


def test_top_k(golden):
  arrays = golden.npz("measures")
  scores = arrays["cls_scores"]
  found = dict(classification.top_k(
      scores, arrays["cls_labels"][:, :1] == np.arange(scores.shape[1])))
  assert found == {"top-1": arrays["cls/top1"], "top-5": arrays["cls/top5"]}


def test_multi_label(golden):
  arrays = golden.npz("measures")
  found = dict(classification.multi_label(
      arrays["ml_pred"], arrays["ml_gt"] > 0))
  assert found.pop("classes left out") == 0
  for name, value in found.items():
    assert value == pytest.approx(float(arrays[f"ml/{name}"]), abs=1e-9), name


def test_retrieval(golden):
  """Both ways of averaging over windows, as `Pretrain.embed_split` does."""
  arrays = golden.npz("measures")
  text = similarity.normalize(arrays["ret_text"])
  # [N·W, E] -> [N, W, E]
  windows = arrays["ret_video_windows"].reshape(len(text), -1, text.shape[1])
  ids = np.arange(len(text))
  for kind, measures, clips in (
      ("embd", "embd", similarity.normalize(windows.mean(axis=1))),
      ("similarity", "cosine", similarity.normalize(windows).mean(axis=1))):
    np.testing.assert_allclose(
        text @ clips.T, arrays[f"ret_sim_{kind}_averaged"], atol=1e-6)
    found = dict(retrieval.recalls(similarity.ranks(text, clips, ids, ids)))
    for ours, theirs in (("R@1", "R1"), ("R@5", "R5"), ("R@10", "R10"),
                         ("MedR", "MedianRank")):
      assert found[ours] == pytest.approx(
          float(arrays[f"ret/txt2vid_{measures}_{theirs}"]), abs=1e-9), (
              kind, ours)
