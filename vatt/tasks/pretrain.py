"""Pre-training: video, audio and text in common spaces (section 3)."""
import os
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from vatt import losses, preprocess, seeds, similarity
from vatt.config import Fact
from vatt.data import text
from vatt.data.sources import Source
from vatt.errors import UserError
from vatt.evaluators import classification, retrieval
from vatt.models.vatt import VATT
from vatt.predict import Views, predict
from vatt.tasks import Task, features_of

SIGNALS = {"video": "frames", "audio": "audio_samples", "text": "captions"}


class Pretrain(Task):
  """NCE of video and audio, MIL-NCE of video and text; see `Task`."""

  METRICS = ("nce", "mil_nce")
  WORDS_FILE = "vocabulary.txt"

  def read_words(self, data_sources, workdir):
    """The vocabulary, of `data.vocabulary` or, without one, of the workdir, of
    `init`, so that a model stays with its words, and then of the first dataset.

    Raises:
      UserError: no vocabulary file.
    """
    path = self.config.data.vocabulary
    init = self.config.init
    if not path:
      folders = [folder for folder in (workdir, init) if folder]
      folders += [source.directory for source in data_sources[:1]]
      paths = [os.path.join(folder, self.WORDS_FILE) for folder in folders]
      path = next(filter(tf.io.gfile.exists, paths), paths[-1])
      if init and data_sources and path == paths[-1] and tf.io.gfile.exists(
          os.path.join(init, "config.json")):
        # The dataset's words would not be those that the model has learnt.
        raise UserError(
            f"init: {init} has no {self.WORDS_FILE}, expected the words of its "
            "model as data.vocabulary")
    words = text.load_vocabulary(path)
    rows = len(words) + text.FIRST_WORD
    return words, {
        "data.vocabulary": Fact(path, f"vocabulary {path}"),
        "model.vocab_size": Fact(
            rows, f"{path}: {len(words)} words and {text.FIRST_WORD} reserved "
            f"ids, {rows} rows", at_most=True)}

  def own_words(self, workdir):
    path = os.path.join(workdir, self.WORDS_FILE)
    return text.load_vocabulary(path) if tf.io.gfile.exists(path) else []

  def input_shapes(self):
    return preprocess.input_shapes(self.config)

  def _build_model(self):
    shapes = self.input_shapes()
    model = VATT(self.config.model, shapes["video"], shapes["audio"],
                 self.config.data.words)
    if self.config.model.word_vectors:
      table = model.towers["text"].tokenizer.embedding
      table.assign(text.load_word_vectors(
          self.config.model.word_vectors, self.words, table.shape[1]))
    return model

  def start_from(self, donor, model, name):
    ours, theirs = model.variables, donor.variables
    if len(ours) != len(theirs):
      raise UserError(f"{name}: holds {len(theirs)} variables of a model, "
                      f"expected the {len(ours)} of this one")
    for variable, value in zip(ours, theirs):
      if (variable.shape, variable.trainable) != (value.shape, value.trainable):
        raise UserError(
            f"{name}: {value.name} is {tuple(value.shape)}, expected "
            f"{tuple(variable.shape)} by this config")
      variable.assign(value.numpy())

  def loss_and_metrics(self, model, batch, seed):
    config = self.config
    inputs = preprocess.model_inputs(batch, config, training=True, seed=seed)
    if config.loss.form == "released":  # there, batch norm sees all rows
      for name in ("video_mask", "audio_mask", "caption_mask"):
        del inputs[name]
    embeddings, _ = model(
        inputs, training=True, seed=seeds.fold(seed, "model"))
    return losses.vatt_loss(
        embeddings, batch, config.loss.temperature, config.loss.weight,
        config.loss.form)

  def evaluate(self, model, strategy, source, progress=None, workdir=None):
    """Zero-shot retrieval and classification; keeps nothing in a workdir."""
    return self.measure(model, strategy, source.label_names, self.embed_split(
        model, strategy, source, progress))

  def measure(self, model: tf.keras.Model, strategy: tf.distribute.Strategy,
              label_names: Sequence[str], embedded: dict[str, np.ndarray]
              ) -> list[tuple[str, float]]:
    """`evaluate`, where the clips are embedded already, by `embed_split`."""
    options = self.config.eval
    results = list(retrieval.Retrieval(options).run(embedded))
    if label_names and options.templates:
      sentences = [template.format(name) for name in label_names
                   for template in options.templates]
      text.warn_of(text.understand(
          self.words, sentences, self.config.data.words), "eval.templates")
      vectors = self.embed_sentences(model, strategy, sentences)
      # [C·n, E] -> [C, n, E]: n sentences a class
      vectors = vectors.reshape(
          len(label_names), len(options.templates), -1)
      results += classification.ZeroShot(vectors).run(embedded)
    return results

  def embed_split(self, model: tf.keras.Model,
                  strategy: tf.distribute.Strategy, source: Source,
                  progress: Callable[[int], object] | None = None
                  ) -> dict[str, np.ndarray]:
    """Embeds every clip of a split, averaged over its views.

    A clip's similarity to another is the dot product of what is returned. With
    `eval.average` "embedding" that is the cosine of the mean embeddings
    (section 4.3), with "similarity" the mean of the cosines of all pairs of
    their views.

    Args:
      model, strategy, source, progress: as of `evaluate`.

    Returns:
      Arrays in the order of the records: `video_va`, `video_vt`, `audio_va`,
      `audio_vt` [N, E]; `text_vt` [N, K, E]; `has_video`, `has_audio` bool [N],
      `has_caption` bool [N, K]; `label` [N]. Modalities that the config reads
      nothing of (as audio with `data.audio_samples` 0) have no embeddings.
    """
    config = self.config
    averaged = config.eval.average == "embedding"
    absent = [name for name, size in SIGNALS.items() if not config.data[size]]

    def embed(batch):
      inputs = {name: value for name, value in batch.items()
                if name not in absent}
      embeddings, _ = model(preprocess.model_inputs(inputs, config))
      if not averaged:
        embeddings = {name: tf.math.l2_normalize(value, -1)
                      for name, value in embeddings.items()}
      return Views(means=embeddings, first=dict(
          has_video=batch["video_mask"], has_audio=batch["audio_mask"],
          has_caption=batch["caption_mask"], label=batch["label"],
          known_caption=tf.reduce_any(batch["text"] > text.UNKNOWN, -1)))

    table = predict(config, embed, strategy, source, progress)
    unknown = table["has_caption"] & ~table.pop("known_caption")
    if unknown.any():
      logging.warning(
          "%d of %d captions of split '%s' have no word of the vocabulary",
          np.count_nonzero(unknown), np.count_nonzero(table["has_caption"]),
          source.split)
    if averaged:
      for name in table:
        if name.endswith(("_va", "_vt")):
          table[name] = similarity.normalize(table[name])
    return table

  def embed_sentences(self, model: tf.keras.Model,
                      strategy: tf.distribute.Strategy,
                      sentences: Sequence[str]) -> np.ndarray:
    """Embeds n sentences in S_vt: float32 [n, E], not normalized."""
    ids, mask = text.encode(
        text.make_table(self.words),
        tf.constant(list(map(text.compose, sentences))), self.config.data.words)

    @tf.function(autograph=False)
    def embed(ids, mask):
      def replica(ids, mask):
        # [n, W] -> [n, 1, W]: a caption each
        embeddings, _ = model(
            {"text": ids[:, None], "word_mask": mask[:, None]})
        return embeddings["text_vt"][:, 0]
      result = strategy.run(replica, args=(ids, mask))
      return strategy.experimental_local_results(result)[0]

    return embed(ids, mask).numpy()

  def infer(self, model, batch):
    embeddings, out = model(preprocess.model_inputs(batch, self.config))
    return embeddings | features_of(out)
