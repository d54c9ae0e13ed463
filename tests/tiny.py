"""A tiny VATT of each setting and front end, and a batch with gaps for it."""
import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from configs import common
from vatt import losses, seeds
from vatt.models.vatt import FLAVOURS, VATT

VIDEO = (4, 6, 8, 3)  # 2·2·2 patches of 2·3·4 pixels
AUDIO = {"waveform": (22, 1), "spectrogram": (6, 7, 1)}  # 6 and 2·2 patches
PATCH = {"waveform": (4,), "spectrogram": (3, 4)}
BATCH, CAPTIONS, WORDS, VOCABULARY = 6, 2, 5, 12
DIM_VA, DIM_VT, CLASSES = 10, 7, 5
WIDTHS = {"specific": dict(video=8, audio=12, text=6),
          "agnostic": dict(video=8, audio=8, text=8)}


_MODELS = {}  # and their values, by the arguments of `make_model`


def make_model(setting="specific", audio="waveform", dtype="float32", depth=2,
               random=True, **fields):
  """A model, always the same; sets the global policy.

  It takes a second to build. So outside of strategies and graphs there is one
  of a kind, which gets its first values back.

  Args:
    setting: a key of WIDTHS.
    audio: a key of AUDIO.
    dtype: Keras policy.
    depth: blocks of each encoder.
    random: whether its weights are such as no initializer gives.
    **fields: of the config, in place of those here.
  """
  tf.keras.mixed_precision.set_global_policy(dtype)
  if tf.distribute.has_strategy() or not tf.executing_eagerly():
    return _build(setting, audio, depth, random, fields)
  key = repr((setting, audio, dtype, depth, random, sorted(fields.items())))
  if key not in _MODELS:
    model = _build(setting, audio, depth, random, fields)
    _MODELS[key] = model, [v.numpy() for v in model.variables]
  model, values = _MODELS[key]
  for variable, value in zip(model.variables, values, strict=True):
    variable.assign(value)
  return model


def _build(setting, audio, depth, random, fields):
  encoders = {modality: dict(depth=depth, width=width, mlp_dim=16, num_heads=2)
              for modality, width in WIDTHS[setting].items()}
  if setting == "agnostic":
    encoders = dict(shared=encoders["video"])
  config = ConfigDict(dict(
      encoders=encoders, video_patch=(2, 3, 4), audio_patch=PATCH[audio],
      drop_rate=0.5, dropout=0.0, remat=False, dim_va=DIM_VA, dim_vt=DIM_VT,
      vocab_size=VOCABULARY) | FLAVOURS["paper"] | fields)
  tf.keras.utils.set_random_seed(0)
  model = VATT(config, VIDEO, AUDIO[audio], WORDS)
  if not random:
    return model
  rng = np.random.default_rng(0)
  for variable in model.variables:
    noise = rng.normal(scale=0.3, size=variable.shape)
    positive = "scale" in variable.name or "variance" in variable.name
    variable.assign(1 + np.abs(noise) if positive else noise)
  return model


def make_batch(audio="waveform", rows=BATCH):
  """A batch of the model's inputs, random: the first sample without captions,
  the second with one, the third without audio; captions of 1 to 5 words."""
  rng = np.random.default_rng(1)
  text = rng.integers(1, VOCABULARY, size=(rows, CAPTIONS, WORDS))
  lengths = rng.integers(1, WORDS + 1, size=(rows, CAPTIONS))
  word_mask = np.arange(WORDS) < lengths[..., None]
  caption_mask = np.ones((rows, CAPTIONS), bool)
  caption_mask[0] = False  # as of AudioSet
  caption_mask[1, 1] = False
  word_mask &= caption_mask[..., None]
  audio_mask = np.ones(rows, bool)
  audio_mask[2] = False
  return {name: tf.constant(value) for name, value in dict(
      video=rng.uniform(-1, 1, (rows, *VIDEO)).astype(np.float32),
      audio=rng.uniform(-1, 1, (rows, *AUDIO[audio])).astype(np.float32),
      text=np.where(word_mask, text, 0).astype(np.int32), word_mask=word_mask,
      video_mask=np.ones(rows, bool), audio_mask=audio_mask,
      caption_mask=caption_mask).items()}


def make_config(modality="", rows=BATCH):
  """A config that makes every draw there is, for `make_raw_batch`.

  Args:
    modality: that fine-tuning is on; of pre-training without one.
    rows: B.
  """
  config = (common.finetuning(modality, "base") if modality
            else common.pretraining("bbs"))
  config.seed, config.batch_size = 3, rows
  config.data.update(dict(frames=4, size=16, audio_samples=200, audio_rate=8000,
                          words=WORDS))
  if modality:
    config.data.classes = CLASSES
    config.model.classifier_dropout = 0.2
    config.finetune.update(dict(multi_label=modality == "audio", mixup=2))
  else:
    config.data.captions = CAPTIONS
  config.augment.update(dict(
      noise=0.1, gain=(0.5, 1.5), speed=(0.8, 1.25), shift=0.2))
  config.model.update(dict(
      video_patch=(2, 4, 8), audio_patch=(20,), dropout=0.2, drop_rate=0.5,
      dim_va=DIM_VA, dim_vt=DIM_VT, vocab_size=VOCABULARY))
  for part, encoder in config.model.encoders.items():
    encoder.update(dict(depth=1, width=WIDTHS["specific"][part], mlp_dim=16,
                        num_heads=2))
  return config


def make_raw_batch(config):
  """A batch from the input pipeline, random: with the gaps of `make_batch`."""
  rng = np.random.default_rng(2)
  data, rows = config.data, config.batch_size
  video = (rows, data.frames, data.size, data.size, 3)
  sound = (rows, data.audio_samples, 1)
  batch = make_batch(rows=rows)
  return batch | {name: tf.constant(value) for name, value in dict(
      video=rng.integers(0, 256, video).astype(np.uint8),
      audio=rng.integers(-2 ** 15, 2 ** 15, sound).astype(np.int16),
      labels=rng.random((rows, CLASSES)) < 0.4,
      index=np.arange(rows), record=np.arange(rows, dtype=np.int32),
      corrupt=~batch["video_mask"]).items()}


@tf.autograph.experimental.do_not_convert  # nothing to convert, and faster
def loss_and_gradients(model, batch):
  """The training loss of a batch, and its gradients, dense."""
  with tf.GradientTape() as tape:
    embeddings, _ = model(batch, training=True, seed=seeds.root(1))
    loss, _ = losses.vatt_loss(embeddings, batch, 0.07, 1.0, "paper")
  return loss, [tf.convert_to_tensor(g) for g in tape.gradient(
      loss, model.trainable_variables)]
