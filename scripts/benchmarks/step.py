"""A training step or a forward pass of any config: its speed beside matrix
products, its memory, its parts, its program for other machines."""
import json
import math
import os
from collections.abc import Callable
from typing import Any

from vatt import files, losses, optimizers, preprocess, seeds, train
from vatt.models import cost
from vatt.tasks import Task

import tensorflow as tf
from ml_collections import ConfigDict
from tensorflow.compiler.xla.service import hlo_pb2

from benchmarks import timing

LARGE = (4096, 4096, 4096)


def random_batch(config: ConfigDict) -> dict[str, tf.Tensor]:
  """A batch in the form of the input pipeline's, of noise: what a step costs
  does not depend on what is seen."""
  data, rows = config.data, config.batch_size

  def draw(site, shape, least, most, dtype):
    values = tf.random.stateless_uniform(
        shape, seeds.fold(seeds.root(0), site), least, most, tf.int32)
    return tf.cast(values, dtype)

  mask = tf.ones([rows], tf.bool)
  batch = dict(
      video=draw("video", [rows, data.frames, data.size, data.size, 3], 0, 256,
                 tf.uint8),
      audio=draw("audio", [rows, data.audio_samples, 1], -20_000, 20_000,
                 tf.int16),
      text=draw("text", [rows, data.captions, data.words], 2,
                max(3, config.model.vocab_size), tf.int32),
      video_mask=mask, audio_mask=mask,
      word_mask=tf.ones([rows, data.captions, data.words], tf.bool),
      caption_mask=tf.ones([rows, data.captions], tf.bool),
      corrupt=~mask, index=tf.range(rows, dtype=tf.int64),
      record=tf.range(rows),
      label=draw("label", [rows], 0, max(1, data.classes), tf.int32))
  if data.enlarge_on_device:
    batch["video_part"] = draw(
        "video_part", [rows, 2], 1, data.size + 1, tf.int32)
  if data.classes:
    batch["labels"] = tf.one_hot(batch["label"], data.classes) > 0
  return batch


class Step:
  """A training step of a config, and its forward pass, on one batch.

  Args:
    task: of a config with `model.vocab_size` or `data.classes`.
    batch: dict of tensors from the input pipeline; noise if None.
    training: whether an optimizer is made.
  """

  def __init__(self, task: Task, batch: dict[str, tf.Tensor] | None = None,
               training: bool = True):
    self.task, self.config = task, task.config
    config = self.config
    self.compute_dtype = tf.keras.mixed_precision.Policy(
        config.dtype).compute_dtype
    self.batch = batch or random_batch(config)
    self.model = task.build_model()
    self.shapes = task.input_shapes()
    if training:
      self.optimizer = optimizers.make_optimizer(
          config.optimizer, config.total_steps)
      self.optimizer._create_all_weights(self.model.trainable_variables)
      self.step = train.make_step(
          task, self.model, self.optimizer, tf.distribute.get_strategy())

  def function(self, **options: Any) -> Callable[[dict], tf.Tensor]:
    """A training step as a tf.function of the batch; returns the loss.

    Args:
      **options: of `tf.function`.
    """
    @tf.function(**options)
    def step(batch):
      metrics, _ = self.step(batch)
      return metrics["loss"]
    return step

  def run(self) -> Callable[[], float]:
    """A function that makes a step and returns the loss."""
    step = self.function()
    return lambda: float(step(self.batch))

  def run_forward(self) -> Callable[[], None]:
    """A function that runs the model as in evaluation."""
    @tf.function
    def forward(batch):
      inputs = preprocess.model_inputs(
          {name: batch[name] for name in self.shapes}, self.config)
      if self.config.task == "finetune":
        inputs, = inputs.values()
      return self.model(inputs)[0]
    return lambda: timing.wait(forward(self.batch))

  def flops(self, training: bool = True) -> float:
    """Operations of a step on the tokens that are kept, three times those of
    the forward pass; or of a forward pass in evaluation."""
    config = self.config
    classes = (dict(num_classes=config.data.classes)
               if config.task == "finetune" else {})
    passes = 3.0 if training else 1.0
    return passes * config.batch_size * cost.total(cost.flops(
        config.model, self.shapes, config.data.captions, training=training,
        **classes))

  def products(self, training: bool = True) -> list[tuple[int, int, int]]:
    """(m, k, n) of the matrix products of the encoder that has most to do."""
    model = self.config.model
    rows = {modality: cost.num_tokens(model, modality, shape, training)
            * (self.config.data.captions if modality == "text" else 1)
            for modality, shape in self.shapes.items()}
    modality = max(rows, key=lambda m: rows[m] * cost.encoder_parameters(
        cost.encoder_of(model, m)))
    encoder = cost.encoder_of(model, modality)
    m, d = self.config.batch_size * rows[modality], encoder.width
    return [(m, d, 3 * encoder.inner), (m, encoder.inner, d),
            (m, d, encoder.mlp_dim), (m, encoder.mlp_dim, d)]

  def matmuls(self, training: bool = True
              ) -> tuple[dict[str, Callable[[], None]], dict[str, float]]:
    """These products and a large one, to compare with: {name: function}, and
    {name: floating-point operations of a run}."""
    return timing.matmuls([LARGE, *self.products(training)],
                          self.compute_dtype)

  def parts(self) -> dict[str, Callable[[], None]]:
    """Functions that run one part of a step forward and backward, by name.

    Tokenizers are timed with the augmentation before them.
    """
    config, model = self.config, self.model
    seed = seeds.root(config.seed)
    pretraining = config.task == "pretrain"
    towers = model.towers

    def tokenize(batch):
      inputs = preprocess.model_inputs(
          {name: batch[name] for name in towers}, config, True, seed)
      if "text" in inputs:  # [B, K, W] -> [B·K, W]
        inputs["text"] = tf.reshape(inputs["text"], [-1, config.data.words])
      return {name: tower.tokenize(inputs[name], True, seed)
              for name, tower in towers.items()}

    def encode(tokens):
      return {name: tower.encoder(tokens[name], training=True, seed=seed)[0]
              [:, 0] for name, tower in towers.items()}

    def contrast(pooled):
      embeddings = model.project(pooled, self.batch, training=True)
      loss, _ = losses.vatt_loss(
          embeddings, self.batch, config.loss.temperature, config.loss.weight,
          config.loss.form)
      return {"loss": loss}

    def forward_backward(part, inputs, differentiate):
      variables = model.trainable_variables

      @tf.function
      def run(inputs):
        with tf.GradientTape() as tape:
          if differentiate:
            tape.watch(inputs)
          outputs = tf.nest.flatten(part(inputs))
          total = tf.add_n([tf.reduce_sum(tf.cast(x, tf.float32))
                            for x in outputs])
        wanted = variables + (tf.nest.flatten(inputs) if differentiate else [])
        found = [g for g in tape.gradient(total, wanted) if g is not None]
        return total, found
      return lambda: timing.wait(run(inputs)[0])

    tokens = tf.function(tokenize)(self.batch)
    runs = {"tokenizers": forward_backward(tokenize, self.batch, False),
            "encoders": forward_backward(encode, tokens, True)}
    if pretraining:
      pooled = tf.function(encode)(tokens)
      runs["heads and loss"] = forward_backward(contrast, pooled, True)
    update = tf.function(lambda: optimizers.apply(
        config.optimizer, self.optimizer, model, zeros, tf.constant(1.0)))
    zeros = [tf.zeros_like(v) for v in model.trainable_variables]

    def run_update():
      update()
      timing.wait(self.optimizer.iterations)
    return runs | {"optimizer": run_update}

  def export(self, folder: str) -> dict[str, Any]:
    """Writes the step for another machine's XLA, and what it costs.

    Args:
      folder: gets step.hlo.pb, the whole step as one program, and step.json,
        what is returned.

    Returns:
      {"batch_size", "dtype", "products" (see `products`), "flops",
      "state_bytes" (weights, optimizer and batch, read and written at least
      once), "activation_bytes" (estimated)}.
    """
    step = self.function(jit_compile=True)
    module = hlo_pb2.HloModuleProto.FromString(
        step.experimental_get_compiler_ir(self.batch)(stage="hlo_serialized"))
    for computation in module.computations:
      for instruction in computation.instructions:
        if instruction.opcode == "copy":
          # TensorFlow copies what it returns; other readers do not know this.
          instruction.opcode = "reshape"
    config = self.config
    state = [*self.model.variables, *self.optimizer.variables(),
             *self.batch.values()]
    notes = dict(
        batch_size=config.batch_size, dtype=self.compute_dtype,
        products=self.products(), flops=self.flops(),
        state_bytes=sum(math.prod(x.shape) * x.dtype.size for x in state),
        activation_bytes=config.batch_size * cost.total(cost.activation_bytes(
            config.model, self.shapes, config.data.captions, config.dtype)))
    tf.io.gfile.makedirs(folder)
    files.write_whole(os.path.join(folder, "step.hlo.pb"),
                      module.SerializeToString())
    files.write_whole(os.path.join(folder, "step.json"),
                      json.dumps(notes, indent=1))
    return notes
