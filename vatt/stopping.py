"""SIGTERM: a program that is asked to stop does so where nothing is lost.

Whoever runs programs, a scheduler or a cloud that takes its machine back, sends
SIGTERM and some 30 seconds later SIGKILL.
"""
import contextlib
import signal
from collections.abc import Iterator

from absl import logging


class Stopped(SystemExit):
  """SIGTERM came; the program ends with code 143 = 128 + 15."""

  def __init__(self, number: int = signal.SIGTERM):
    super().__init__(128 + number)


_asked = 0  # the number of the signal that came
_noted = 0  # how many `noted` there are around


def asked() -> int:
  """The number of the signal that came, or 0."""
  return _asked


def listen() -> None:
  """From here on SIGTERM raises Stopped where Python is, or is noted.

  Programs call it, not libraries; and again where TensorFlow has taken the
  signal for itself, as it does to start several workers.
  """
  signal.signal(signal.SIGTERM, _come)


def _come(number, _):
  global _asked
  _asked = number
  if not _noted:
    logging.warning("signal %d: stopped, with nothing to save", number)
    raise Stopped(number)


@contextlib.contextmanager
def noted() -> Iterator[None]:
  """Inside, SIGTERM is noted for `asked`, and nothing else happens."""
  global _asked, _noted
  previous = signal.signal(signal.SIGTERM, _come)
  _noted += 1
  try:
    yield
  finally:
    _noted -= 1
    signal.signal(signal.SIGTERM, previous)
    if not _noted:
      _asked = 0
