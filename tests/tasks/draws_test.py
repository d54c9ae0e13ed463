"""A whole step of training, with every draw that there is."""
import numpy as np
import pytest
import tensorflow as tf

from tests import tiny
from vatt import seeds
from vatt.tasks import make_task


@pytest.mark.parametrize("modality", [
    "audio", pytest.param("video", marks=pytest.mark.slow),
    pytest.param("", marks=pytest.mark.slow)])
def test_a_compiled_step_equals_a_plain_one(modality):
  """Of fine-tuning, and of pre-training."""
  config = tiny.make_config(modality)
  config.augment.equalizer = 6.0
  task = make_task(config)
  model, batch = task.build_model(), tiny.make_raw_batch(config)

  def step(batch, seed):
    with tf.GradientTape() as tape:
      loss, _ = task.loss_and_metrics(model, batch, seed)
    gradients = tape.gradient(loss, model.trainable_variables)
    return loss, [tf.convert_to_tensor(g) for g in gradients]

  plain = tf.function(step, autograph=False)
  compiled = tf.function(step, autograph=False, jit_compile=True)
  losses = []
  for number in range(3):
    seed = seeds.fold(seeds.root(3), number)
    loss, gradients = plain(batch, seed)
    same, others = compiled(batch, seed)
    np.testing.assert_allclose(same, loss, rtol=1e-5)
    norm = tf.linalg.global_norm(gradients)
    for variable, a, b in zip(model.trainable_variables, gradients, others):
      np.testing.assert_allclose(
          b, a, rtol=0, atol=1e-4 * norm, err_msg=variable.name)
    losses.append(loss)
  assert np.ptp(losses) > 0.01 * losses[0]  # draws do matter
