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

GRACE = 5.0  # seconds to end in, where nothing is lost


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


def listen() -> None:
  """From here on SIGTERM raises Stopped where Python is, or is noted.

  Programs call it, not libraries; and again where TensorFlow has taken the
  signal for itself, as it does to start several workers.
  """
  signal.signal(signal.SIGTERM, _come)


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


def check() -> None:
  """Raises Stopped if a signal came."""
  if _asked:
    raise Stopped(_asked)


@contextlib.contextmanager
def in_a_line(line: str, grace: float = GRACE) -> Iterator[None]:
  """Inside, Ctrl-C and SIGTERM end the program with a line and their code.

  Nothing is raised where it happens to be: that would leave locks behind, and
  other threads waiting. The signal is noted for `check`, which long work calls
  again and again; what calls it too seldom ends all the same, `grace` seconds
  later, as if it was killed. A signal that is ignored, as Ctrl-C is by what
  runs in the background, stays so.

  Args:
    line: said on stderr.
    grace: seconds.
  """
  global _asked

  def note(number, _):
    global _asked
    _asked = _asked or number

  def watch():
    while data := os.read(reader, 1):
      if data[0] in previous and not ended.wait(grace):
        os.write(2, f"\n{line}\n".encode())  # behind a progress bar
        os._exit(128 + data[0])

  ended, (reader, writer) = threading.Event(), os.pipe()
  os.set_blocking(writer, False)
  previous = {number: signal.signal(number, note)
              for number in (signal.SIGINT, signal.SIGTERM)
              if signal.getsignal(number) != signal.SIG_IGN}
  # Written by the system, even where Python does not get to its handlers.
  waker = signal.set_wakeup_fd(writer)
  threading.Thread(target=watch, daemon=True).start()
  try:
    yield
  except (KeyboardInterrupt, Stopped):  # the first, of a process of Workers
    ended.set()
    print(line, file=sys.stderr)
    end_at_once()
    leave(128 + (_asked or signal.SIGINT))
  finally:
    ended.set()
    signal.set_wakeup_fd(waker)
    for number, handler in previous.items():
      signal.signal(number, handler)
    os.close(writer)
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
