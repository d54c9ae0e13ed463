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
  arrays = golden.npz("measures")
  text, windows = arrays["ret_text"], arrays["ret_video_windows"]
  # [N·W, E] -> [N, W, E] -> [N, E]
  clips = windows.reshape(len(text), -1, text.shape[1]).mean(axis=1)
  np.testing.assert_allclose(
      retrieval.similarities(text, clips), arrays["ret_sim_embd_averaged"],
      atol=1e-6)
  found = dict(retrieval.recalls(retrieval.ranks(
      text, clips, np.eye(len(text), dtype=bool))))
  for ours, theirs in (("R@1", "R1"), ("R@5", "R5"), ("R@10", "R10"),
                       ("MedR", "MedianRank")):
    assert found[ours] == pytest.approx(
        float(arrays[f"ret/txt2vid_embd_{theirs}"]), abs=1e-9), ours
