"""Pre-training: embeddings of clips, against those of their views."""
import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from configs import spoken_digits
from vatt import preprocess
from vatt.config import replace
from vatt.data import input_pipeline, record_index
from vatt.evaluators import retrieval
from vatt.tasks import make_task


def test_clips_are_averaged_over_their_views(digits_dir, tmp_path, caplog):
  config = ConfigDict(spoken_digits.get_config()).lock()
  data = config.data
  data.update(dict(  # half a clip, so that windows differ
      data_dir=digits_dir, size=16, frames=data.frames // 2,
      audio_samples=data.audio_samples // 2))
  config.model.video_patch = (4, 8, 8)
  for size in config.model.encoders.values():
    size.update(dict(depth=1, width=16, mlp_dim=32, num_heads=2))
  config.eval.update(dict(batch_size=16, windows=3))
  (tmp_path / "words.txt").write_text("zero\nvoice\n")
  data.vocabulary = str(tmp_path / "words.txt")
  task = make_task(config)
  source, = task.open_sources("test")
  task = task.resolve([source])
  model = task.build_model()
  views = {}  # by name and clip
  run = tf.function(
      lambda batch: model(preprocess.model_inputs(batch, config))[0],
      autograph=False)
  for batch in input_pipeline.eval_dataset(task.config.data, source, 16, 3):
    embeddings = run(batch)
    for i in np.flatnonzero(batch["valid"]):
      for name, value in embeddings.items():
        views.setdefault((name, int(batch["index"][i])), []).append(
            value[i].numpy().astype(np.float64))

  def unit(x):
    return x / np.sqrt((x ** 2).sum(axis=-1, keepdims=True))

  def embed(fields):
    asked = make_task(replace(task.config, fields), task.words)
    return asked.embed_split(model, tf.distribute.get_strategy(), source)

  tables = {}
  for average in ("embedding", "similarity"):
    tables[average] = embed({"eval.average": average})
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
  # Captions without a word that the model knows are counted.
  tensors = record_index.file_tensors(source.index)
  captions = [text.decode().lower() for i in range(len(source.index))
              for text in source.parse(record_index.read_record(
                  tensors, tf.constant(i, tf.int64)))["captions/text"].numpy()[
                      :data.captions]]
  unknown = sum(not {"zero", "voice"} & set(text.rstrip(".").split())
                for text in captions)
  assert 0 < unknown < len(captions)
  assert caplog.messages.count(
      f"{unknown} of {len(captions)} captions of split 'test' have no word of "
      "the vocabulary") == 2
  # They are not the same; this split's windows differ.
  apart = np.linalg.norm(tables["similarity"]["video_va"], axis=1)
  assert apart.min() < 1 - 1e-4
  # What the config reads nothing of is not there, and the rest is the same.
  silent = embed({"data.audio_samples": 0, "data.captions": 0})
  assert not {"audio_va", "audio_vt", "text_vt"} & set(silent)
  assert not silent["has_audio"].any() and silent["has_caption"].shape == (
      len(source.index), 0)
  np.testing.assert_allclose(
      silent["video_vt"], tables["embedding"]["video_vt"], atol=1e-5)
  assert not list(retrieval.Retrieval(config.eval).run(silent))
