"""Recalls of directions and matches, worked out by hand."""
import numpy as np
import pytest
from ml_collections import ConfigDict

from vatt.errors import UserError
from vatt.evaluators import retrieval

OPTIONS = dict(match="pair", average="embedding", captions=1)


def test_label_match_and_missing_modalities():
  eye = np.eye(4)
  clips = {
      "video_vt": eye, "video_va": eye, "audio_vt": eye,
      # Audio of clips 0 and 1 is swapped, clip 3 has none.
      "audio_va": eye[[1, 0, 2, 3]],
      "text_vt": eye[:, None],
      "has_video": np.ones(4, bool),
      "has_audio": np.array([True, True, True, False]),
      "has_caption": np.ones([4, 1], bool),
      "label": np.array([5, 5, 6, 6]),
  }

  def run(**options):
    return dict(retrieval.Retrieval(
        ConfigDict(OPTIONS | options)).run(clips))

  pair = run()
  assert pair["text_to_video/R@1"] == 1.0
  assert pair["audio_to_video/R@1"] == pytest.approx(1 / 3)
  assert run(match="label")["audio_to_video/R@1"] == 1.0  # 0, 1 share a label
  assert len(pair) == 6 * 4
  # Clips 0 and 1 are right for nobody without one.
  clips["label"][:2] = -1
  assert run(match="label")["audio_to_video/MedR"] == 1.0
  clips["label"][:] = -1
  assert not run(match="label")
  # Without sound nothing of it needs to be there.
  clips["has_audio"][:] = False
  del clips["audio_va"], clips["audio_vt"]
  assert {name.split("/")[0] for name in run()} == {
      "text_to_video", "video_to_text"}


def test_several_captions():
  """Video i is the i-th axis; captions point at one or between two."""
  clips = {
      "video_vt": np.eye(3),
      "text_vt": np.array([
          [[0.9, 0.1, 0], [0.1, 0.9, 0]],  # the second one is like video 1
          [[0, 0.8, 0.1], [0, 0, 0]],  # there is no second one
          [[0, 0.9, 0.2], [0, 0.1, 0.9]]]),  # the first one is like video 1
      "has_video": np.ones(3, bool), "has_audio": np.zeros(3, bool),
      "has_caption": np.array([[True, True], [True, False], [True, True]]),
      "label": np.full(3, -1),
  }

  def run(captions):
    return dict(retrieval.Retrieval(
        ConfigDict(OPTIONS | dict(captions=captions))).run(clips))

  # Ranks of the first captions: 1, 1, 2. Videos find them at 1, 2 (0.8 beside
  # 0.9), 1.
  one = run(1)
  assert one["text_to_video/R@1"] == pytest.approx(2 / 3)
  assert one["video_to_text/R@1"] == pytest.approx(2 / 3)
  # Of all five: 1, 2, 1, 2, 1. Video 1 now has two others before its own: 3.
  both = run(2)
  assert both["text_to_video/R@1"] == pytest.approx(3 / 5)
  assert both["text_to_video/MedR"] == 1.0
  assert both["video_to_text/R@1"] == pytest.approx(2 / 3)
  assert both["video_to_text/R@5"] == 1.0
  # With three it would be another protocol than what is asked for.
  with pytest.raises(UserError, match="eval.captions is 3, expected at most "
                     "the 2 that are embedded"):
    run(3)
