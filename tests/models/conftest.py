"""What all tests of models share."""
import pytest
import tensorflow as tf


@pytest.fixture(autouse=True)
def float32_afterwards():
  """A test may set the global policy; the next one finds the usual one."""
  yield
  tf.keras.mixed_precision.set_global_policy("float32")
