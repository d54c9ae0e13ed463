"""The video encoder's training step alone: how it grows with the batch and with
the tokens, and beside PyTorch's."""
from collections.abc import Callable
from typing import Any

from vatt import seeds
from vatt.config import replace
from vatt.errors import UserError
from vatt.models import cost
from vatt.models.encoder import Encoder
from vatt.tasks import make_task

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from benchmarks import timing
from benchmarks.step import Step

BATCHES = 1, 2, 4, 8, 16
LENGTHS = 200, 400, 800, 1600, 3200
DEPTH = 3  # blocks to measure: one takes as long as the other
DROP_RATES = 0.0, 0.5, 0.75


class EncoderStep:
  """The encoder of a config's video, forward and backward on given tokens."""

  def __init__(self, config: ConfigDict):
    tf.keras.mixed_precision.set_global_policy(config.dtype)
    self.config = config
    self.encoder = Encoder(
        **config.model.encoders["video"], dropout_rate=config.model.dropout,
        remat=config.model.remat)
    data = config.data
    self.length = cost.num_tokens(  # of a sample in training
        config.model, "video", (data.frames, data.size, data.size, 3), True)

    @tf.function
    def step(tokens):
      with tf.GradientTape() as tape:
        tape.watch(tokens)
        outputs, _ = self.encoder(
            tf.cast(tokens, self.encoder.compute_dtype), training=True,
            seed=seeds.root(0))
        loss = tf.reduce_sum(tf.cast(outputs[:, 0], tf.float32))
      return tape.gradient(loss, [tokens, *self.encoder.trainable_variables])

    self._step = step

  def tokens(self, batch: int, length: int) -> np.ndarray:
    """float32 array [B, N, D], the same each time."""
    shape = [batch, length, self.encoder.width]
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)

  def run(self, batch: int, length: int) -> Callable[[], None]:
    """A function that makes the step on a batch of that many tokens."""
    tokens = tf.constant(self.tokens(batch, length))
    return lambda: timing.wait(self._step(tokens)[0])

  def flops(self, batch: int, length: int) -> float:
    """Operations of a step, three times those of the forward pass."""
    return 3.0 * batch * cost.encoder_flops(
        cost.encoder_of(self.config.model, "video"), length, paper=False)


def measure_growth(config: ConfigDict, repeats: int) -> dict[str, Any]:
  """Times DEPTH blocks of the encoder by the batch and by the tokens, and the
  whole step by DropToken's rate, each beside the first of its kind.

  Args:
    config: of pre-training.
    repeats: turns.

  Returns:
    Figures by name: seconds, and how much longer a clip (or a FLOP) takes than
    in the first; no more than 1 is no worse than linear.
  """
  depth = min(DEPTH, config.model.encoders.video.depth)
  step = EncoderStep(replace(config, {"model.encoders.video.depth": depth}))
  figures = {}

  def compare(kind, runs, work):
    seconds = timing.interleave(runs, repeats, kind)
    first = next(iter(runs))
    for name, values in seconds.items():
      figures[f"{name}, s"] = timing.spread(values)
      figures[f"{name}, by {kind}"] = timing.spread(
          values / work[name] / (seconds[first] / work[first]))

  names = {f"batch {b} of {step.length} tokens": b for b in BATCHES}
  compare("clip", {name: step.run(b, step.length)
                   for name, b in names.items()}, names)
  names = {f"{n} tokens": n for n in LENGTHS}
  compare("FLOP of tokens",
          {name: step.run(1, n) for name, n in names.items()},
          {name: step.flops(1, n) for name, n in names.items()})
  steps = {}
  for rate in DROP_RATES:
    steps[f"whole step, DropToken {rate:.0%}"] = Step(make_task(
        replace(config, {"model.drop_rate": rate})))
  compare("FLOP of kept tokens",
          {name: whole.run() for name, whole in steps.items()},
          {name: whole.flops() for name, whole in steps.items()})
  return figures


def measure_torch(config: ConfigDict, repeats: int, threads: int
                  ) -> dict[str, Any]:
  """Times the encoder's step beside PyTorch's.

  Args:
    config: of pre-training.
    repeats: turns.
    threads: of the processor, for PyTorch.

  Returns:
    Figures by name.

  Raises:
    UserError: PyTorch is not installed.
  """
  try:
    from benchmarks import torch_encoder
  except ImportError:
    raise UserError("--vs=torch: PyTorch is not installed here, expected "
                    "`pip install torch`") from None
  step = EncoderStep(config)
  batch, length = config.batch_size, step.length
  run = step.run(batch, length)
  run()  # makes the weights
  theirs = torch_encoder.Encoder(
      **config.model.encoders["video"], dropout=config.model.dropout)
  torch_encoder.copy_weights(step.encoder, theirs)
  seconds = timing.interleave({"ours": run} | torch_encoder.runs(
      theirs, step.tokens(batch, length), config.dtype == "mixed_bfloat16",
      threads), repeats, "encoder")
  flops = step.flops(batch, length)
  figures = {"tokens": length, "GFLOP": flops / 1e9}
  for name, values in seconds.items():
    figures[f"{name}, s"] = timing.spread(values)
    figures[f"{name}, GFLOP/s"] = timing.spread(flops / values / 1e9)
    if name != "ours":
      figures[f"ours over {name}"] = timing.spread(values / seconds["ours"])
  return figures
