"""Waiting for what another process does."""
import time


def wait_until(there, told=None, seconds=60):
  """Returns once there() is true; else fails, with what told() has to say."""
  end = time.monotonic() + seconds
  while not there():
    assert time.monotonic() < end, told() if told else "it did not come"
    time.sleep(0.01)
