"""The pre-training task: a batch to its loss, and a split to its embeddings."""
import os

import numpy as np
import tensorflow as tf
from absl import logging

from vatt import checkpoints, distribute, losses, seeds, similarity
from vatt.data import audio, input_pipeline, sources, text, video, windows
from vatt.errors import UserError
from vatt.evaluators import classification, retrieval
from vatt.models.vatt import VATT

METRICS = ("nce", "mil_nce")  # of `loss_and_metrics`
WORDS = "vocabulary.txt"  # in a workdir, what `resolve` returns


def open_sources(config, split):
  """Opens the datasets of a config: a list of Source."""
  return [sources.open_source(name, config.data.data_dir, split)
          for name in config.data.datasets]


def resolve(config, data_sources, workdir=None):
  """Completes a config by what only the data tell; returns the vocabulary.

  Sets `data.vocabulary` and, if it is 0, `model.vocab_size`. Without
  `data.vocabulary`, the vocabulary.txt of the workdir comes first, then that of
  `init`, so that a model stays with its words, and then the first dataset's.

  Raises:
    UserError: no vocabulary file, or one of another size; fields that do not
      fit each other.
  """
  windows.check_windows(config.data)
  windows.check_views(config)
  losses.check_form(config.loss.form)
  retrieval.Retrieval(config.eval)
  if data_sources:
    input_pipeline.mixture(config.data, config.batch_size)
  path = config.data.vocabulary
  if not path:
    folders = [folder for folder in (workdir, config.init) if folder]
    folders += [source.directory for source in data_sources[:1]]
    paths = [os.path.join(folder, "vocabulary.txt") for folder in folders]
    path = next(filter(tf.io.gfile.exists, paths), paths[-1])
    model = config.init and os.path.join(config.init, "config.json")
    if data_sources and path == paths[-1] and (
        model and tf.io.gfile.exists(model)):
      # The dataset's words would not be those that the model has learnt.
      raise UserError(
          f"init: {config.init} has no vocabulary.txt, expected the words of "
          "its model as data.vocabulary")
  words = text.load_vocabulary(path)
  rows = len(words) + text.FIRST_WORD
  if config.model.vocab_size not in (0, rows):
    raise UserError(
        f"{path}: {len(words)} words, expected "
        f"{config.model.vocab_size - text.FIRST_WORD} (model.vocab_size "
        f"{config.model.vocab_size} less {text.FIRST_WORD} reserved ids)")
  config.data.vocabulary = path
  config.model.vocab_size = rows
  return words


def audio_shape(config):
  """Shape of what the audio tokenizer sees: (S, 1) or (frames, bins, 1)."""
  data = config.data
  if config.model.audio_input == "waveform":
    return (data.audio_samples, 1)
  if config.model.audio_input != "spectrogram":
    raise UserError(f"model.audio_input is {config.model.audio_input!r}, "
                    "expected 'waveform' or 'spectrogram'")
  frames = audio.mel_frames(
      data.audio_samples, data.audio_rate, data.spectrogram.step_s)
  return (frames, data.spectrogram.bins, 1)


def input_shapes(config):
  """Shapes of what the tokenizers see, by modality: of `make_towers`."""
  data = config.data
  return dict(video=(data.frames, data.size, data.size, 3),
              audio=audio_shape(config), text=(data.words,))


def build_model(config, words):
  """The model of a resolved config, its variables initialized."""
  tf.keras.mixed_precision.set_global_policy(config.dtype)
  tf.keras.utils.set_random_seed(config.seed)
  shapes = input_shapes(config)
  model = VATT(
      config.model, shapes["video"], shapes["audio"], config.data.words)
  if config.model.word_vectors:
    table = model.towers["text"].tokenizer.embedding
    table.assign(text.load_word_vectors(
        config.model.word_vectors, words, table.shape[1]))
  return model


def start_from(workdir, config, model):
  """Fills a model with the weights of another workdir's; returns their step.

  Raises:
    UserError: there are none, or they are of another model.
  """
  return checkpoints.restore_model(
      os.path.join(workdir, "checkpoints"), model)


def model_inputs(batch, config, training=False, seed=None):
  """Turns a batch of raw signals into the model's inputs, on the device.

  Args:
    batch: batch dict; any of `video` uint8 [B, T, H, W, 3], `audio` int16
      [B, S, 1], `text` int32 [B, K, W] and the masks.
    config: of the run.
    training: whether to augment.
    seed: int32 [2], needed when training.

  Returns:
    The batch with video and audio in [-1, 1] (but for `data.audio_rms`), audio
    as the model wants it.
  """
  inputs = dict(batch)
  if "video" in batch:
    if training:
      inputs["video"] = video.augment_video(
          batch["video"], seeds.fold(seed, "video"), config.augment)
    else:
      inputs["video"] = video.normalize_video(batch["video"])
  if "audio" in batch:
    if training:
      wave = audio.augment_audio(
          batch["audio"], seeds.fold(seed, "audio"), config.augment)
    else:
      wave = audio.normalize_audio(batch["audio"])
    if config.data.audio_rms:
      wave = audio.scale_loudness(wave, config.data.audio_rms)
    if config.model.audio_input == "spectrogram":
      wave = audio.log_mel(
          wave, config.data.audio_rate, **config.data.spectrogram)
      if training:
        wave = audio.augment_spectrogram(
            wave, seeds.fold(seed, "spectrogram"), config.augment)
    inputs["audio"] = wave
  return inputs


def loss_and_metrics(model, batch, config, seed):
  """The loss of a batch; a pure function of (weights, batch, seed).

  Returns:
    This replica's part of the loss, and of the metrics by name. Each sums over
    replicas.
  """
  inputs = model_inputs(batch, config, training=True, seed=seed)
  if config.loss.form == "released":  # there, batch norm sees all rows
    for name in ("video_mask", "audio_mask", "caption_mask"):
      del inputs[name]
  embeddings, _ = model(
      inputs, training=True, seed=seeds.fold(seed, "model"))
  return losses.vatt_loss(
      embeddings, batch, config.loss.temperature, config.loss.weight,
      config.loss.form)


def train_dataset(config, data_sources, start_step):
  """A function (input_id, num_inputs, rows_per_batch) -> tf.data.Dataset."""
  def make(input_id, num_inputs, rows_per_batch):
    return input_pipeline.train_dataset(
        config.data, data_sources, config.batch_size, config.seed, start_step,
        input_id, num_inputs, rows_per_batch)
  return make


def embed_split(config, model, strategy, source, progress=None):
  """Embeds every clip of a split, averaged over its views.

  A clip's similarity to another is the dot product of what is returned. With
  `eval.average` "embedding" that is the cosine of the mean embeddings (section
  4.3), with "similarity" the mean of the cosines of all pairs of their views.

  Args:
    config: of the run.
    model: VATT.
    strategy: the model's.
    source: of `open_sources`.
    progress: called with the number of clips done.

  Returns:
    Arrays in the order of the records: `video_va`, `video_vt`, `audio_va`,
    `audio_vt` [N, E]; `text_vt` [N, K, E]; `has_video`, `has_audio` bool [N],
    `has_caption` bool [N, K]; `label` [N]. Modalities that the config reads
    nothing of (as audio with `data.audio_samples` 0) have no embeddings.
  """
  averaged = config.eval.average == "embedding"
  signals = {"video": config.data.frames, "audio": config.data.audio_samples,
             "text": config.data.captions}
  absent = [name for name, size in signals.items() if not size]

  def embed(batch):
    inputs = {name: value for name, value in batch.items()
              if name not in absent}
    embeddings, _ = model(model_inputs(inputs, config))
    if not averaged:
      embeddings = {name: tf.math.l2_normalize(value, -1)
                    for name, value in embeddings.items()}
    return dict(embeddings, has_video=batch["video_mask"],
                has_audio=batch["audio_mask"],
                has_caption=batch["caption_mask"], label=batch["label"],
                views=tf.ones(batch["label"].shape))

  table = run_split(config, embed, strategy, source, progress)
  views = table.pop("views")[0]
  for name in table:
    if name.endswith(("_va", "_vt")):
      table[name] = (similarity.normalize(table[name]) if averaged
                     else table[name] / views)
  return table


def run_split(config, run, strategy, source, progress=None):
  """Runs a function on every view of a split; sums what it gives of a clip.

  Args:
    config: of the run.
    run: a function of a replica's batch -> dict of [b, …].
    strategy: the model's.
    source: of `open_sources`.
    progress: called with the number of clips done.

  Returns:
    Arrays [N, …] in the order of the records: sums over the views (windows, and
    crops of each) of numbers, one view's of integers and bools.

  Raises:
    UserError: a label is no class.
  """
  options, count = config.eval, len(source.index)
  views = options.windows * options.crops

  @tf.function
  def run_batch(batch):
    return strategy.run(lambda batch: dict(
        run(batch), index=batch["index"], valid=batch["valid"],
        corrupt=batch["corrupt"]), args=(batch,))

  def make(input_id, num_inputs, rows_per_batch):
    return input_pipeline.eval_dataset(
        config.data, source, options.batch_size, options.windows,
        options.crops, input_id, num_inputs, rows_per_batch)

  table, seen, done = {}, np.zeros([count], np.int64), 0
  dataset = distribute.distribute_dataset(strategy, options.batch_size, make)
  with input_pipeline.tell_in_a_line():
    for batch in dataset:
      rows = {name: distribute.gather(strategy, value)
              for name, value in run_batch(batch).items()}
      valid = rows.pop("valid")
      index = rows.pop("index")[valid]
      np.add.at(seen, index, 1)
      for name, value in rows.items():
        if name not in table:
          table[name] = np.zeros([count, *value.shape[1:]], value.dtype)
        if value.dtype.kind == "f":
          np.add.at(table[name], index, value[valid])
        else:
          table[name][index] = value[valid]
      if progress:
        whole = int(seen.sum()) // views
        progress(whole - done)
        done = whole
  if not (seen == views).all():
    raise RuntimeError(f"clips were seen {np.unique(seen)} times, "
                       f"expected {views}")
  unread = np.flatnonzero(table.pop("corrupt"))
  if len(unread):
    logging.warning(
        "%d of %d clips of split '%s' cannot be read, left out; the first: %s "
        "at byte %d", len(unread), count, source.split,
        *source.index.place(unread[0]))
  return table


def embed_sentences(config, model, strategy, words, sentences):
  """Embeds sentences in S_vt: float32 [n, E], not normalized.

  Args:
    config, model, strategy: of the run.
    words: the vocabulary.
    sentences: list of n strings.
  """
  ids, mask = text.encode(
      text.make_table(words), tf.constant(sentences), config.data.words)

  @tf.function
  def embed(ids, mask):
    def replica(ids, mask):
      # [n, W] -> [n, 1, W]: a caption each
      embeddings, _ = model(
          {"text": ids[:, None], "word_mask": mask[:, None]})
      return embeddings["text_vt"][:, 0]
    result = strategy.run(replica, args=(ids, mask))
    return strategy.experimental_local_results(result)[0]

  return embed(ids, mask).numpy()


def evaluate(config, model, strategy, source, words, progress=None,
             workdir=None):
  """Zero-shot retrieval and classification on a split.

  Nothing is kept in a workdir.

  Returns:
    A list of (name, value).
  """
  embedded = embed_split(config, model, strategy, source, progress)
  return evaluate_embedded(config, model, strategy, source, words, embedded)


def evaluate_embedded(config, model, strategy, source, words, embedded):
  """`evaluate`, where the clips are embedded already.

  Args:
    embedded: arrays of `embed_split`.
  """
  results = list(retrieval.Retrieval(config.eval).run(embedded))
  if source.label_names and config.eval.templates:
    sentences = [template.format(name) for name in source.label_names
                 for template in config.eval.templates]
    for sentence in sentences:
      unknown = text.unknown_words(words, sentence)
      if unknown:
        logging.warning("eval.templates: %r has words unknown to the "
                        "vocabulary: %s", sentence, ", ".join(unknown))
    vectors = embed_sentences(config, model, strategy, words, sentences)
    # [C·n, E] -> [C, n, E]: n sentences a class
    vectors = vectors.reshape(
        len(source.label_names), len(config.eval.templates), -1)
    results += classification.ZeroShot(vectors).run(embedded)
  return results
