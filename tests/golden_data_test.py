"""Inputs and measures against the release's."""
import numpy as np
import pytest
import tensorflow as tf

from vatt.data import audio, video
from vatt.evaluators import classification, retrieval


def test_log_mel(golden):
  arrays = golden.npz("data")
  mel = audio.log_mel(arrays["audio"][None, :, None], 48000)
  np.testing.assert_allclose(mel[0], arrays["mel_normalized"], atol=1e-4)


def test_values_of_pixels(golden):
  arrays = golden.npz("data")
  np.testing.assert_allclose(
      video.normalize_video(tf.constant(arrays["frames"][None]))[0],
      arrays["normalize_zero_centered"], atol=1e-6)


def test_top_k(golden):
  arrays = golden.npz("measures")
  found = dict(classification.top_k(
      arrays["cls_scores"], arrays["cls_labels"][:, 0]))
  assert found == {"top-1": arrays["cls/top1"], "top-5": arrays["cls/top5"]}


def test_multi_label(golden):
  arrays = golden.npz("measures")
  found = dict(classification.multi_label(
      arrays["ml_pred"], arrays["ml_gt"] > 0))
  assert found.pop("classes left out") == 0
  for name, value in found.items():
    assert value == pytest.approx(float(arrays[f"ml/{name}"]), abs=1e-9), name


def test_retrieval(golden):
  """Both ways of averaging over windows, as `pretrain.embed_split` does."""
  arrays = golden.npz("measures")
  text = retrieval.normalize(arrays["ret_text"])
  # [N·W, E] -> [N, W, E]
  windows = arrays["ret_video_windows"].reshape(len(text), -1, text.shape[1])
  ids = np.arange(len(text))
  for kind, measures, clips in (
      ("embd", "embd", retrieval.normalize(windows.mean(axis=1))),
      ("similarity", "cosine", retrieval.normalize(windows).mean(axis=1))):
    np.testing.assert_allclose(
        text @ clips.T, arrays[f"ret_sim_{kind}_averaged"], atol=1e-6)
    found = dict(retrieval.recalls(retrieval.ranks(text, clips, ids, ids)))
    for ours, theirs in (("R@1", "R1"), ("R@5", "R5"), ("R@10", "R10"),
                         ("MedR", "MedianRank")):
      assert found[ours] == pytest.approx(
          float(arrays[f"ret/txt2vid_{measures}_{theirs}"]), abs=1e-9), (
              kind, ours)
