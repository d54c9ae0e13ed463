"""The encoder's training step in PyTorch, to compare with: what one would
write there today, with its fused attention. PyTorch is no dependency."""
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:  # for the hints alone
  from vatt.models import encoder as encoder_lib


class Block(nn.Module):
  """A pre-LN block, with dropout where ours has it."""

  def __init__(self, width: int, mlp_dim: int, num_heads: int, dropout: float,
               epsilon: float):
    super().__init__()
    self.num_heads, self.dropout = num_heads, dropout
    self.attention_norm = nn.LayerNorm(width, eps=epsilon)
    self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
    self.mlp_norm = nn.LayerNorm(width, eps=epsilon)
    self.mlp_in = nn.Linear(width, mlp_dim)
    self.mlp_out = nn.Linear(mlp_dim, width)

  def drop(self, x: torch.Tensor) -> torch.Tensor:
    return functional.dropout(x, self.dropout, self.training)

  def forward(self, z: torch.Tensor) -> torch.Tensor:
    batch, length, width = z.shape
    # [B, N, 3·H·d] -> [B, N, 3, H, d] -> [3, B, H, N, d]
    qkv = self.qkv(self.attention_norm(z)).view(
        batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(
        *qkv, dropout_p=self.dropout if self.training else 0.0)
    # [B, H, N, d] -> [B, N, H·d]
    mixed = mixed.transpose(1, 2).reshape(batch, length, width)
    z = z + self.drop(self.out(mixed))
    hidden = self.drop(functional.gelu(self.mlp_in(self.mlp_norm(z))))
    return z + self.drop(self.mlp_out(hidden))


class Encoder(nn.Sequential):
  """Blocks and a final norm: [B, N, D] -> [B, N, D]."""

  def __init__(self, depth: int, width: int, mlp_dim: int, num_heads: int,
               dropout: float, epsilon: float | None = None):
    epsilon = epsilon or 1e-6
    super().__init__(
        *(Block(width, mlp_dim, num_heads, dropout, epsilon)
          for _ in range(depth)),
        nn.LayerNorm(width, eps=epsilon))


def copy_weights(encoder: "encoder_lib.Encoder", to: Encoder) -> None:
  """Gives a PyTorch encoder the weights of ours."""
  layers = []
  for block, its in zip(encoder.blocks, to):
    layers += [
        (block.attention_norm, its.attention_norm),
        (block.attention.qkv, its.qkv), (block.attention.out, its.out),
        (block.mlp_norm, its.mlp_norm), (block.mlp_in, its.mlp_in),
        (block.mlp_out, its.mlp_out)]
  for ours, its in [*layers, (encoder.norm, to[-1])]:
    weight, bias = (torch.from_numpy(v.numpy()) for v in ours.weights)
    with torch.no_grad():
      its.weight.copy_(weight.T if weight.ndim == 2 else weight)
      its.bias.copy_(bias)


def runs(encoder: Encoder, tokens: np.ndarray, bfloat16: bool, threads: int
         ) -> dict[str, Callable[[], float]]:
  """Functions that run an encoder forward and backward, eagerly and compiled.

  Args:
    encoder: of PyTorch.
    tokens: float32 array [B, N, D].
    bfloat16: whether to compute in it (autocast).
    threads: of the processor.

  Returns:
    {"torch eager": function, "torch compiled": function}.
  """
  torch.set_num_threads(threads)
  encoder.train()

  def make(model):
    def run():
      inputs = torch.from_numpy(tokens).requires_grad_()
      encoder.zero_grad(set_to_none=True)
      with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        loss = model(inputs)[:, 0].float().sum()
      loss.backward()
      return float(inputs.grad[0, 0, 0])
    return run

  return {"torch eager": make(encoder),
          "torch compiled": make(torch.compile(encoder))}
