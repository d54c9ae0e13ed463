"""Compiling by XLA what lies between TensorFlow's own kernels."""
import functools

import tensorflow as tf

# Elements from which a compiled function pays. Calling it costs some tens of
# microseconds, compiling it some tenths of a second for each shape.
COMPILED_SIZE = 2 ** 17


def compiled(function):
  """Has XLA compile a function of tensors, where one of them is large: what
  TensorFlow does in a dozen passes over memory becomes one.

  Tensors of open sizes, and small ones, meet the function as it is. Arguments
  that are no tensors, such as numbers, are constants of a program.
  """
  fast = tf.function(function, jit_compile=True, autograph=False)

  @functools.wraps(function)
  def call(*args):
    sizes = [x.shape.num_elements() for x in args if tf.is_tensor(x)]
    large = None not in sizes and max(sizes) >= COMPILED_SIZE
    return (fast if large else function)(*args)

  return call
