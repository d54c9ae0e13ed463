"""XLA: for what lies between TensorFlow's own kernels, or for all (TPUs)."""
import contextlib
import functools
from collections.abc import Callable, Iterator

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla
from tensorflow.python.ops import control_flow_util

# Elements from which a compiled function pays. Calling it costs some tens of
# microseconds, compiling it some tenths of a second for each shape.
COMPILED_SIZE = 2 ** 17

_portable = False


@contextlib.contextmanager
def portable() -> Iterator[None]:
  """What is traced within has TensorFlow's own operations alone: no part that
  XLA compiles, no gradient of ours, which a saved graph would ask for where
  none of this code is."""
  global _portable
  before, _portable = _portable, True
  try:
    yield
  finally:
    _portable = before


def is_portable() -> bool:
  """Whether this is within `portable`."""
  return _portable


def compiled(function: Callable) -> Callable:
  """Has XLA compile a function of tensors, where one of them is large: what
  TensorFlow does in a dozen passes over memory becomes one.

  With tensors of unknown sizes, or small ones, or within `portable`, the
  function runs as it is.
  Arguments that are no tensors, such as numbers, are constants of a program.
  """
  fast = tf.function(function, jit_compile=True, autograph=False)

  @functools.wraps(function)
  def call(*args):
    sizes = [x.shape.num_elements() for x in args if tf.is_tensor(x)]
    large = (None not in sizes and max(sizes) >= COMPILED_SIZE
             and not _portable)
    return (fast if large else function)(*args)

  return call


def whole_program() -> bool:
  """Whether what is being traced is part of a program that XLA compiles whole,
  as it does for a TPU. A function that was traced by itself before keeps its
  answer when such a program calls it."""
  return not tf.executing_eagerly() and (
      control_flow_util.GraphOrParentsInXlaContext(
          tf.compat.v1.get_default_graph()))


def not_before(event: tf.Tensor,
               *tensors: tf.Tensor | None) -> list[tf.Tensor | None]:
  """The tensors, available no earlier than `event`: what a backward pass
  computes from them is recomputed then, not kept since the forward pass.

  Compilers merge what is computed twice of the same tensors. TensorFlow heeds
  control dependencies, XLA only barriers; its compiler for processors takes
  these away before it merges for the last time, that for GPUs does not.
  A barrier has no gradient: this is for backward passes.

  Args:
    event: any tensor.
    *tensors: to be delayed; None stays None.

  Returns:
    The tensors, equal in value.
  """
  if whole_program():
    return [x if x is None else xla.optimization_barrier(event, x)[1]
            for x in tensors]
  with tf.control_dependencies([event]):
    return [x if x is None else tf.identity(x) for x in tensors]
