"""A tiny VATT of each setting and front end, and a batch with gaps for it."""
import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from vatt import losses, seeds
from vatt.models.vatt import FLAVOURS, VATT

VIDEO = (4, 6, 8, 3)  # 2·2·2 patches of 2·3·4 pixels
AUDIO = {"waveform": (22, 1), "spectrogram": (6, 7, 1)}  # 6 and 2·2 patches
PATCH = {"waveform": (4,), "spectrogram": (3, 4)}
BATCH, CAPTIONS, WORDS, VOCABULARY = 6, 2, 5, 12
DIM_VA, DIM_VT = 10, 7
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


@tf.autograph.experimental.do_not_convert  # nothing to convert, and faster
def loss_and_gradients(model, batch):
  """The training loss of a batch, and its gradients, dense."""
  with tf.GradientTape() as tape:
    embeddings, _ = model(batch, training=True, seed=seeds.root(1))
    loss, _ = losses.vatt_loss(embeddings, batch, 0.07, 1.0, "paper")
  return loss, [tf.convert_to_tensor(g) for g in tape.gradient(
      loss, model.trainable_variables)]
