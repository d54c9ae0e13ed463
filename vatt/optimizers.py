"""Optimizers and learning rates of the recipes."""
import math
import warnings
from collections.abc import Sequence

import tensorflow as tf
from ml_collections import ConfigDict

SCHEDULES = ("quarter_cosine", "half_cosine", "levels", "constant")
OPTIMIZERS = ("adam", "sgd", "lamb", "sgdw")

# Patterns of the names of variables that no weight decay pulls to 0 and, in
# LAMB, no layer-wise rate scales.
NOT_DECAYED = ["bias", "norm"]


class CosineKnots(tf.keras.optimizers.schedules.LearningRateSchedule):
  """A rate that rises from 0 and then follows cosines from knot to knot.

  It is 0 at step 0, linear up to the first knot, and constant after the last.
  Between knots (s0, r0) and (s1, r1), with x = (s1 − s) / (s1 − s0), it is
  r1 + (r0 − r1)·sin(π/2·x)^power: a quarter period of a cosine for power 1,
  half a period for power 2.

  Written in what is left of a stretch, counted in integers, nothing cancels
  where a stretch ends: in float32 too the rate is right, finite and monotone
  between knots to a few units of the last place, at any step.
  """

  def __init__(self, knots: Sequence[tuple[int, float]], power: int):
    """Takes knots, pairs (step, rate) in rising order, and the power."""
    self.knots = [(int(step), float(rate)) for step, rate in knots]
    self.power = power

  def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
    """The rate, float32 [], of the update that starts at an integer step."""
    step = tf.cast(step, tf.int64)
    first, rate = self.knots[0]
    rate = tf.constant(rate, tf.float32)
    if first:
      rate *= tf.cast(tf.minimum(step, first), tf.float32) / first
    for (begin, r0), (end, r1) in zip(self.knots, self.knots[1:]):
      left = tf.cast(tf.maximum(end - step, 0), tf.float32) / (end - begin)
      wave = tf.sin(math.pi / 2 * left) ** self.power
      rate = tf.where(step > begin, r1 + (r0 - r1) * wave, rate)
    return rate

  def get_config(self) -> dict:
    return {"knots": self.knots, "power": self.power}


def learning_rate(config: ConfigDict, total_steps: int) -> CosineKnots:
  """Makes the schedule of the learning rate (the paper's appendix).

  Args:
    config: config.optimizer: `schedule`; `lr` reached after `warmup_steps`, in
      proportion to the step; `end_lr` at `total_steps`. quarter_cosine is the
      paper's for pre-training, half_cosine for fine-tuning. levels goes half a
      period from each of `levels`, pairs (step, rate), to the next and to
      `end_lr`; warm-up ends at the first of them. constant stays at `lr`.
    total_steps: steps of the whole run.

  Returns:
    A schedule: step -> float32 []. Beyond the last step the rate stays.
  """
  stretch = knots(config, total_steps)
  if len(stretch) > 1 and stretch[-2][0] == stretch[-1][0]:
    stretch.pop()  # Nothing is left to go down in.
  return CosineKnots(stretch, 1 if config.schedule == "quarter_cosine" else 2)


def knots(config: ConfigDict, total_steps: int) -> list[tuple[int, float]]:
  """The (step, rate)s between which a schedule goes, see `learning_rate`."""
  found = (list(config.levels) if config.schedule == "levels"
           else [(config.warmup_steps, config.lr)])
  if config.schedule != "constant":
    found.append((total_steps, config.end_lr))
  return found


class _Scaled(tf.keras.optimizers.schedules.LearningRateSchedule):
  """A schedule times a factor."""

  def __init__(self, schedule, factor):
    self.schedule, self.factor = schedule, factor

  def __call__(self, step):
    return self.factor * self.schedule(step)

  def get_config(self):
    return {"schedule": self.schedule, "factor": self.factor}


def make_optimizer(config: ConfigDict, total_steps: int
                   ) -> tf.keras.optimizers.legacy.Optimizer:
  """Makes the optimizer of config.optimizer, a Keras legacy optimizer.

  Call it in the strategy's scope. Its slots exist only after
  `_create_all_weights(variables)`, which must come before a restore. Gradients
  are clipped in the training loop, not here.

  Args:
    config: config.optimizer: `name` (adam, sgd, lamb or sgdw), the fields that
      `learning_rate` reads, and `momentum` or `beta_1`, `beta_2`, `epsilon`.
      `weight_decay` w subtracts lr·w·variable in a step, from all but biases
      and norms; lamb and sgdw have it.
    total_steps: steps of the whole run.
  """
  rate = learning_rate(config, total_steps)
  moments = dict(beta_1=config.beta_1, beta_2=config.beta_2,
                 epsilon=config.epsilon)
  if config.name == "adam":
    return tf.keras.optimizers.legacy.Adam(rate, **moments)
  if config.name == "sgd":
    return tf.keras.optimizers.legacy.SGD(rate, config.momentum)
  addons = _import_addons()
  if config.name == "lamb":
    return addons.LAMB(
        rate, weight_decay=config.weight_decay,
        exclude_from_weight_decay=NOT_DECAYED, **moments)
  return addons.SGDW(
      _Scaled(rate, config.weight_decay), learning_rate=rate,
      momentum=config.momentum, exclude_from_weight_decay=NOT_DECAYED)


def apply(config: ConfigDict, optimizer: tf.keras.optimizers.legacy.Optimizer,
          model: tf.keras.Model, gradients: Sequence[tf.Tensor],
          norm: tf.Tensor) -> None:
  """Clips gradients by `clip_norm` and `clip_part`, and updates the variables.

  Args:
    config: config.optimizer.
    optimizer, model: of a run.
    gradients: of the trained variables, equal on all replicas.
    norm: float [], the norm of all.
  """
  variables = model.trainable_variables
  if config.clip_norm:
    part = config.clip_part
    gradients = clip(gradients, variables, config.clip_norm,
                     getattr(model, part).variables if part else variables,
                     norm)
  optimizer.apply_gradients(
      zip(gradients, variables), experimental_aggregate_gradients=False)


def clip(gradients: Sequence[tf.Tensor], variables: Sequence[tf.Variable],
         clip_norm: float, of: Sequence[tf.Variable], norm: tf.Tensor
         ) -> list[tf.Tensor]:
  """Scales gradients down to a global norm.

  Args:
    gradients: one for each variable.
    variables: the trained ones.
    clip_norm: the largest norm.
    of: those variables whose gradients alone count and are scaled, such as
      the backbone's; the same list as `variables` for all.
    norm: float [], the norm of all gradients.

  Returns:
    The gradients, in the same order.
  """
  if of is variables:
    return tf.clip_by_global_norm(gradients, clip_norm, norm)[0]
  chosen = {v.ref() for v in of}
  places = [i for i, v in enumerate(variables) if v.ref() in chosen]
  clipped, _ = tf.clip_by_global_norm([gradients[i] for i in places], clip_norm)
  gradients = list(gradients)
  for i, gradient in zip(places, clipped):
    gradients[i] = gradient
  return gradients


def _import_addons():
  """tensorflow_addons.optimizers, without the news of its end of life."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tensorflow_addons
  return tensorflow_addons.optimizers
