"""Ranks and recalls against values worked out by hand and by sorting."""
import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from configs import spoken_digits
from vatt import pretrain
from vatt.data import input_pipeline
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
  for captions in (2, 9):
    both = run(captions)
    assert both["text_to_video/R@1"] == pytest.approx(3 / 5)
    assert both["text_to_video/MedR"] == 1.0
    assert both["video_to_text/R@1"] == pytest.approx(2 / 3)
    assert both["video_to_text/R@5"] == 1.0


def test_clips_are_averaged_over_their_views(digits_dir):
  config = ConfigDict(spoken_digits.get_config()).lock()
  data = config.data
  data.update(dict(  # half a clip, so that windows differ
      data_dir=digits_dir, size=16, frames=data.frames // 2,
      audio_samples=data.audio_samples // 2))
  config.model.video_patch = (4, 8, 8)
  for size in config.model.encoders.values():
    size.update(dict(depth=1, width=16, mlp_dim=32, num_heads=2))
  config.eval.update(dict(batch_size=16, windows=3))
  source, = pretrain.open_sources(config, "test")
  words = pretrain.resolve(config, [source])
  model = pretrain.build_model(config, words)
  views = {}  # by name and clip
  run = tf.function(
      lambda batch: model(pretrain.model_inputs(batch, config))[0])
  for batch in input_pipeline.eval_dataset(data, source, 16, 3):
    embeddings = run(batch)
    for i in np.flatnonzero(batch["valid"]):
      for name, value in embeddings.items():
        views.setdefault((name, int(batch["index"][i])), []).append(
            value[i].numpy().astype(np.float64))

  def unit(x):
    return x / np.sqrt((x ** 2).sum(axis=-1, keepdims=True))

  def embed():
    return pretrain.embed_split(
        config, model, tf.distribute.get_strategy(), source)

  tables = {}
  for average in ("embedding", "similarity"):
    config.eval.average = average
    tables[average] = embed()
    for name in ("video_va", "video_vt", "audio_va", "audio_vt", "text_vt"):
      for i in range(len(source.index)):
        stack = np.stack(views[name, i])
        assert len(stack) == 3
        expected = (unit(stack.mean(axis=0)) if average == "embedding"
                    else unit(stack).mean(axis=0))
        there = (tables[average]["has_caption"][i] if name == "text_vt"
                 else slice(None))
        np.testing.assert_allclose(
            tables[average][name][i][there], expected[there], atol=1e-5)
  # They are not the same; this split's windows differ.
  apart = np.linalg.norm(tables["similarity"]["video_va"], axis=1)
  assert apart.min() < 1 - 1e-4
  # What the config reads nothing of is not there, and the rest is the same.
  config.eval.average = "embedding"
  data.audio_samples = data.captions = 0
  silent = embed()
  assert not {"audio_va", "audio_vt", "text_vt"} & set(silent)
  assert not silent["has_audio"].any() and silent["has_caption"].shape == (
      len(source.index), 0)
  np.testing.assert_allclose(
      silent["video_vt"], tables["embedding"]["video_vt"], atol=1e-5)
  assert not list(retrieval.Retrieval(config.eval).run(silent))


@pytest.mark.parametrize("field, value", [
    ("match", "clip"), ("average", "logits"), ("captions", 0)])
def test_unknown_options(field, value):
  with pytest.raises(UserError, match=f"eval.{field} is '?{value}"):
    retrieval.Retrieval(ConfigDict(OPTIONS | {field: value}))
