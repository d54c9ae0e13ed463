"""SIGTERM in a process of its own: raised, noted, put back."""
import signal

import pytest

from vatt import stopping

BEGIN = """
import os, signal, sys
from vatt import stopping

def term():
  os.kill(os.getpid(), signal.SIGTERM)
"""
RAISED = """
stopping.listen()
try:
  term()
finally:
  term()  # not to end what ends
  print("tidied up")
"""
NOTED = """
with stopping.noted():
  assert not stopping.asked()
  term()
  assert stopping.asked() == 15
  with stopping.noted():
    pass
  assert stopping.asked() == 15
assert not stopping.asked()
print("tidied up")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
with stopping.kept():
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
term()
"""
NOTED_AND_ENDED = """
stopping.listen()
try:
  with stopping.noted():
    term()
    raise stopping.Stopped()
finally:
  term()
  print("tidied up")
"""


@pytest.mark.parametrize("code, end", [
    (RAISED, 128 + signal.SIGTERM), (NOTED, 7),
    (NOTED_AND_ENDED, 128 + signal.SIGTERM)])
def test_sigterm(python, code, end):
  done = python.run("-c", BEGIN + code)
  assert done.returncode == end, done.stderr
  assert done.stdout == "tidied up\n"


def test_the_end_may_be_at_once(python):
  """Without what is registered for it, but with what was said."""
  done = python.run("-c", BEGIN + """
import atexit
atexit.register(print, "late")
print("said")
stopping.leave(3)
stopping.end_at_once()
stopping.leave("error: x")
""")
  assert done.returncode == 1
  assert done.stdout == "said\n" and done.stderr == "error: x\n"


def test_stopped_is_a_code():
  assert stopping.Stopped().code == 143
