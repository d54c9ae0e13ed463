"""PyTorch's encoder computes what ours does, where PyTorch is installed."""
import numpy as np
import pytest
import tensorflow as tf

from vatt.models.encoder import Encoder

torch = pytest.importorskip("torch")


def test_computes_the_same():
  from benchmarks import torch_encoder

  sizes = dict(depth=2, width=8, mlp_dim=20, num_heads=2)
  encoder = Encoder(**sizes)
  tokens = np.random.default_rng(0).normal(size=(2, 7, 8)).astype(np.float32)
  encoder(tokens)
  rng = np.random.default_rng(1)
  for variable in encoder.variables:
    variable.assign(rng.normal(scale=0.5, size=variable.shape))
  theirs = torch_encoder.Encoder(**sizes, dropout=0.0)
  torch_encoder.copy_weights(encoder, theirs)

  inputs = tf.constant(tokens)
  with tf.GradientTape() as tape:
    tape.watch(inputs)
    output, _ = encoder(inputs)
    loss = tf.reduce_sum(output ** 3)
  its = torch.from_numpy(tokens).requires_grad_()
  out = theirs(its)
  (out ** 3).sum().backward()
  np.testing.assert_allclose(output, out.detach().numpy(), atol=1e-5)
  gradient = tape.gradient(loss, inputs).numpy()
  np.testing.assert_allclose(
      gradient, its.grad.numpy(), atol=1e-5 * np.abs(gradient).max())
