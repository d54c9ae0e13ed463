"""How programs end: where nothing is lost, and soon.

Whoever runs programs, a scheduler or a cloud that takes its machine back, sends
SIGTERM and some 30 seconds later SIGKILL.
"""
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from absl import logging


class Stopped(SystemExit):
  """A signal came; the program ends with code 143 = 128 + 15 if it is SIGTERM.
  """

  def __init__(self, number: int = signal.SIGTERM):
    super().__init__(128 + number)


_asked = 0  # the number of the signal that came
_noted = 0  # how many `noted` there are around


def asked() -> int:
  """The number of the signal that came, or 0."""
  return _asked


def listen(*numbers: int) -> None:
  """From here on a signal raises Stopped where Python is, or is noted.

  Programs call it, not libraries; and again where TensorFlow has taken the
  signal for itself, as it does to start several workers.

  Args:
    *numbers: the signals, SIGTERM if none is given. One that is ignored, as
      Ctrl-C is by what runs in the background, stays so.
  """
  for number in numbers or (signal.SIGTERM,):
    if signal.getsignal(number) != signal.SIG_IGN:
      signal.signal(number, _come)


@contextlib.contextmanager
def kept() -> Iterator[None]:
  """Puts back what SIGTERM did, which something inside takes for itself."""
  handler = signal.getsignal(signal.SIGTERM)
  try:
    yield
  finally:
    # None: not Python's. Other threads cannot.
    if handler is not None and (
        threading.current_thread() is threading.main_thread()):
      signal.signal(signal.SIGTERM, handler)


def _come(number, _):
  global _asked
  again, _asked = _asked, number
  # A second one, as of a group's and a launcher's, is not to end the end.
  if not _noted and not again:
    logging.warning("signal %d: stopped, with nothing to save", number)
    raise Stopped(number)


@contextlib.contextmanager
def noted() -> Iterator[None]:
  """Inside, SIGTERM is noted for `asked`, and nothing else happens."""
  global _asked, _noted
  previous = signal.signal(signal.SIGTERM, _come)
  _noted += 1
  ends = False
  try:
    yield
  except Stopped:
    ends = True
    raise
  finally:
    _noted -= 1
    signal.signal(signal.SIGTERM, previous)
    if not _noted and not ends:
      _asked = 0


_at_once = False


def end_at_once() -> None:
  """Has `leave` end the process without what libraries do at its end."""
  global _at_once
  _at_once = True


def leave(code: object) -> None:
  """Ends the process with a code, of a SystemExit, if `end_at_once` said so;
  programs call it last."""
  if not _at_once:
    return
  if not isinstance(code, int | None):
    print(code, file=sys.stderr)
    code = 1
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError, ValueError):
      stream.flush()
  os._exit(code or 0)
