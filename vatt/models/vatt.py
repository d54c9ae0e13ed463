"""The two VATT models: three encoders, or one shared by all modalities."""
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from ml_collections import ConfigDict

from vatt import seeds
from vatt.models import kernels, tokenizers
from vatt.models.encoder import Encoder, dropout
from vatt.models.heads import ProjectionHead

AXES = {  # names of a signal's axes, by their number
    1: ("temporal",), 2: ("temporal", "spectral"),
    3: ("temporal", "vertical", "horizontal")}

# Section 4 of the paper: sizes of a Transformer.
SIZES = {
    "small": dict(depth=6, width=512, mlp_dim=2048, num_heads=8),
    "base": dict(depth=12, width=768, mlp_dim=3072, num_heads=12),
    "medium": dict(depth=12, width=1024, mlp_dim=4096, num_heads=16),
    "large": dict(depth=24, width=1024, mlp_dim=4096, num_heads=16),
}

# Video, audio and text encoder of a modality-specific model, or the `shared`
# one of a modality-agnostic model.
VARIANTS = {
    "bbs": dict(video="base", audio="base", text="small"),
    "mbs": dict(video="medium", audio="base", text="small"),
    "lbs": dict(video="large", audio="base", text="small"),
    "ma": dict(shared="medium"),
}

# What the paper says, and where the weights that its authors released differ.
FLAVOURS = {
    "paper": dict(
        word_dim=0,  # width of the words' vectors; 0: of the encoder, trained
        normalize_positions=False,  # LayerNorm after e_POS
        pre_projection=False,  # Dense with GELU after the patches' projection
        post_projection=0,  # width of a Dense with GELU after the encoder
        heads="paper"),
    "released": dict(
        word_dim=300, normalize_positions=True, pre_projection=False,
        post_projection=0, heads="released"),
}
RELEASED_SHARED = dict(pre_projection=True, post_projection=1024)
RELEASED_TEXT = dict(
    relative_bias="all", norm="rms", bias=False, scaled=False)


def model_fields(variant: str, flavour: str = "paper") -> dict[str, Any]:
  """The fields of a config's `model` that a variant and a flavour set.

  Args:
    variant: a key of VARIANTS.
    flavour: a key of FLAVOURS.
  """
  encoders = {part: dict(SIZES[size])
              for part, size in VARIANTS[variant].items()}
  fields = dict(FLAVOURS[flavour])
  if flavour == "released":
    if "shared" in encoders:
      fields.update(RELEASED_SHARED)
    else:
      encoders["text"].update(RELEASED_TEXT)
  return dict(fields, encoders=encoders)


class Tower(tf.keras.layers.Layer):
  """One modality from its raw signal to its features.

  Args:
    modality: video, audio or text.
    tokenizer: PatchTokenizer, or TextTokenizer for text.
    encoder: the modality's own, or the one shared by all: an Encoder, or what
      is called as one, on as many tokens as DropToken leaves, and has a width.
    drop_rate: fraction of the tokens that DropToken drops in training.
    post_projection: width of a Dense layer with GELU after the encoder; 0 for
      none.
  """

  def __init__(self, modality: str, tokenizer: tf.keras.layers.Layer,
               encoder: Encoder, drop_rate: float = 0.0,
               post_projection: int = 0):
    super().__init__(name=f"{modality}_tower")
    self.modality = modality
    self.tokenizer, self.encoder = tokenizer, encoder
    self.drop_rate = drop_rate
    self.post_projection = post_projection and tf.keras.layers.Dense(
        post_projection, "gelu", name="post_projection")

  def call(self, inputs: tf.Tensor, mask: tf.Tensor | None = None,
           training: bool = False, seed: tf.Tensor | None = None,
           return_attention: bool = False, earlier: tf.Tensor | None = None
           ) -> tuple[tf.Tensor, dict[str, Any]]:
    """Tokenizes and encodes.

    Args:
      inputs: [B, T, H, W, C], [B, S, 1], [B, frames, bins, 1], or ids [B, W].
      mask: bool [B, W], False at the padding of a text; None for the others.
      training: whether DropToken and dropout are on.
      seed: int32 [2], needed when training.
      return_attention: keeps the attention maps.
      earlier: features [B, D] of another tower, whose backward pass is to wait
        for this one's. Use those of that name among the intermediates instead.

    Returns:
      The AGG token's features [B, D], and a dict of intermediates: `tokens`
      (the encoder's input), `outputs` (the encoder's, of all tokens),
      `features` (the outputs, or their post-projection), `pooled` (those of
      AGG) and the encoder's own.
    """
    if seed is None:
      if training:  # else every step would draw alike
        raise ValueError("training needs a seed, found None")
      seed = seeds.root(0)
    seed = seeds.fold(seed, self.modality)
    tokens = self.tokenize(inputs, training, seed)
    if earlier is not None:
      earlier, tokens = kernels.in_turn(earlier, tokens)
    if mask is not None:  # AGG is always attended
      mask = tf.pad(mask, [[0, 0], [1, 0]], constant_values=True)
    outputs, out = self.encoder(
        tokens, mask=mask, training=training, seed=seeds.fold(seed, "encoder"),
        return_attention=return_attention)
    features = outputs
    if self.post_projection:
      features = self.post_projection(outputs)
    pooled = features[:, 0]
    out.update(
        tokens=tokens, outputs=outputs, features=features, pooled=pooled)
    if earlier is not None:
      out["earlier"] = earlier
    return pooled, out

  def tokenize(self, inputs: tf.Tensor, training: bool, seed: tf.Tensor
               ) -> tf.Tensor:
    """The encoder's input [B, 1 + N, D], of the arguments of `call`."""
    if self.modality == "text":
      return self.tokenizer(inputs)
    kept = None
    if training and self.drop_rate:
      kept = tokenizers.draw_kept_tokens(
          inputs.shape[0], self.tokenizer.num_tokens, self.drop_rate,
          seeds.fold(seed, "droptoken"))
    return self.tokenizer(inputs, kept)


def make_towers(config: ConfigDict, shapes: Mapping[str, tuple[int, ...]]
                ) -> dict[str, Tower]:
  """The towers of some modalities, by modality.

  Args:
    config: the `model` part of a config.
    shapes: of each modality's input: (T, H, W, C) of `video`; (S, 1) of
      `audio` as waveform, (frames, bins, 1) as spectrogram; (W,) of `text`.
  """
  sizes = {part: dict(size) for part, size in config.encoders.items()}
  shared = "shared" in sizes
  if "text" in sizes:
    sizes["text"].setdefault("relative_bias", "first")
  encoders = {}
  towers = {}
  for modality, shape in shapes.items():
    part = "shared" if shared else modality
    if part not in encoders:
      encoders[part] = Encoder(
          **sizes[part], dropout_rate=config.dropout, remat=config.remat,
          name=f"{part}_encoder")
    width = encoders[part].width
    if modality == "text":
      tokenizer = tokenizers.TextTokenizer(
          config.vocab_size, width, *shape, positions=shared,
          word_dim=config.word_dim,
          normalize_positions=config.normalize_positions)
    else:
      axes = AXES[len(shape) - 1]
      tokenizer = tokenizers.PatchTokenizer(
          shape[:-1], config[f"{modality}_patch"], width, axes, modality,
          config.pre_projection, config.normalize_positions)
    towers[modality] = Tower(modality, tokenizer, encoders[part],
                             config.drop_rate, config.post_projection)
  return towers


def create_variables(model: tf.keras.Model, inputs: Any) -> None:
  """Traces a model, as optimizers and checkpoints need its variables before the
  first step. Nothing is computed.

  Args:
    model: without variables yet.
    inputs: tf.TensorSpecs of what it is called with.
  """
  def call_once(inputs):
    # TensorFlow traces what has made variables again, for which is no need.
    if not model.built:
      model(inputs)

  tf.function(call_once, autograph=False).get_concrete_function(inputs)


class VATT(tf.keras.Model):
  """Embeds video, audio and text in the common spaces S_va and S_vt.

  Args:
    config: the `model` part of a config: `encoders` (sizes of `video`, `audio`
      and `text`, or of one `shared` by all; arguments of Encoder),
      `video_patch`, `audio_patch`, `drop_rate`, `dropout`, `dim_va`, `dim_vt`,
      `vocab_size`, and the fields of FLAVOURS.
    video_shape: (T, H, W, C).
    audio_shape: (S, 1) of a waveform, or (frames, bins, 1) of a spectrogram.
    num_words: words of a caption.
  """

  def __init__(self, config: ConfigDict, video_shape: tuple[int, ...],
               audio_shape: tuple[int, ...], num_words: int):
    super().__init__(name="vatt")
    self.towers = make_towers(config, dict(
        video=video_shape, audio=audio_shape, text=(num_words,)))
    self.in_turn = config.remat
    paper = config.heads == "paper"
    self.heads = {
        "video_va": ProjectionHead([config.dim_va] * 2, name="video_va_head"),
        "audio_va": ProjectionHead(
            [config.dim_va], normalized=paper, name="audio_va_head"),
        "video_vt": ProjectionHead(
            [config.dim_vt], relu_first=not paper, name="video_vt_head"),
        "text_vt": ProjectionHead(
            [config.dim_vt], normalized=paper, name="text_vt_head"),
    }
    create_variables(self, {
        "video": tf.TensorSpec([1, *video_shape]),
        "audio": tf.TensorSpec([1, *audio_shape]),
        "text": tf.TensorSpec([1, 1, num_words], tf.int32),
    })

  def call(self, batch: Mapping[str, tf.Tensor], training: bool = False,
           seed: tf.Tensor | None = None, return_attention: bool = False
           ) -> tuple[dict[str, tf.Tensor], dict[str, dict[str, Any]]]:
    """Embeds the modalities that a batch holds.

    Args:
      batch: any of `video` [B, T, H, W, C] and `audio` [B, S, 1] or
        [B, frames, bins, 1] in [-1, 1], `text` int32 [B, K, W]; with
        `word_mask` bool [B, K, W] and, in training, `video_mask` [B],
        `audio_mask` [B] and `caption_mask` [B, K], bool (the valid rows; all if
        absent).
      training: whether batch statistics, DropToken and dropout are on.
      seed: int32 [2], needed when training.
      return_attention: keeps the attention maps in the intermediates.

    Returns:
      Embeddings, not normalized, in float32 (section 3.3): `video_va`,
      `audio_va` [B, 512], `video_vt` [B, 256], `text_vt` [B, K, 256] and,
      outside of training, `audio_vt` [B, 256], audio carried from S_va into
      S_vt by the video's head. And a dict of intermediates by modality.
    """
    inputs = {modality: (batch[modality], None)
              for modality in ("video", "audio") if modality in batch}
    if "text" in batch:
      words = batch["text"].shape[-1]
      # [B, K, W] -> [B·K, W]: captions are encoded one by one
      ids = tf.reshape(batch["text"], [-1, words])
      word_mask = batch.get("word_mask")
      inputs["text"] = ids, (ids > 0 if word_mask is None else tf.reshape(
          word_mask, [-1, words]))
    pooled, out, last = {}, {}, None
    for modality, (signal, mask) in inputs.items():
      # To save memory, the backward pass takes one tower at a time.
      earlier = pooled[last] if self.in_turn and last else None
      pooled[modality], out[modality] = self.towers[modality](
          signal, mask, training, seed, return_attention, earlier)
      if earlier is not None:
        pooled[last] = out[modality].pop("earlier")
      last = modality
    return self.project(pooled, batch, training), out

  def project(self, pooled: Mapping[str, tf.Tensor],
              batch: Mapping[str, tf.Tensor], training: bool = False
              ) -> dict[str, tf.Tensor]:
    """Projects features of the modalities into the common spaces.

    Args:
      pooled: the towers' features: `video`, `audio` [B, D], `text` [B·K, D].
      batch, training: as `call` takes them; of the batch the masks and `text`.

    Returns:
      The embeddings of `call`.
    """
    embeddings = {}

    def mask_of(name, rows):
      mask = batch.get(name)
      if mask is None:
        return tf.ones([rows], tf.bool)
      return tf.reshape(mask, [-1])  # of captions: [B, K] -> [B·K]

    for modality in ("video", "audio"):
      if modality not in pooled:
        continue
      features = pooled[modality]
      mask = mask_of(f"{modality}_mask", tf.shape(features)[0])
      z_va = self.heads[f"{modality}_va"](features, mask, training)
      embeddings[f"{modality}_va"] = z_va
      if modality == "video" or not training:
        embeddings[f"{modality}_vt"] = self.heads["video_vt"](
            z_va, mask, training)
    if "text" in pooled:
      features, captions = pooled["text"], batch["text"].shape[1]
      mask = mask_of("caption_mask", tf.shape(features)[0])
      z_vt = self.heads["text_vt"](features, mask, training)
      # [B·K, E] -> [B, K, E]
      embeddings["text_vt"] = tf.reshape(z_vt, [-1, captions, z_vt.shape[-1]])
    return embeddings


class Classifier(tf.keras.Model):
  """Classifies video or audio: a linear layer on the tower's AGG token.

  Args:
    config: the `model` part of a config: `encoders` (sizes of the modality's or
      of a `shared` one), the modality's patch, `drop_rate`, `dropout`,
      `classifier_dropout` and the fields of FLAVOURS.
    modality: video or audio.
    shape: (T, H, W, C), (S, 1) or (frames, bins, 1).
    num_classes: C.
  """

  def __init__(self, config: ConfigDict, modality: str, shape: tuple[int, ...],
               num_classes: int):
    super().__init__(name="classifier")
    self.tower = make_towers(config, {modality: shape})[modality]
    self.classifier = tf.keras.layers.Dense(
        num_classes, name="classifier",
        dtype=tf.keras.mixed_precision.global_policy().variable_dtype)
    self.dropout_rate = config.classifier_dropout
    create_variables(self, tf.TensorSpec([1, *shape]))

  @property
  def towers(self) -> dict[str, Tower]:
    """{modality: Tower}, as VATT has."""
    return {self.tower.modality: self.tower}

  def call(self, signal: tf.Tensor, training: bool = False,
           seed: tf.Tensor | None = None
           ) -> tuple[tf.Tensor, dict[str, Any]]:
    """[B, *shape] in [-1, 1] -> logits [B, C] in float32, and a dict of the
    tower's intermediates. Training needs a seed, int32 [2]."""
    pooled, out = self.tower(signal, training=training, seed=seed)
    if training:
      pooled = dropout(
          pooled, self.dropout_rate, seeds.fold(seed, "classifier"), "pooled")
    return self.classifier(pooled), out
