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


IN_A_LINE = """
number, how = int(sys.argv[1]), sys.argv[2]
if how == "ignored":
  signal.signal(number, signal.SIG_IGN)
before = signal.getsignal(number)
with stopping.in_a_line("told", grace=0.2 if how == "late" else 60):
  stopping.check()
  if how != "never":
    os.kill(os.getpid(), number)
  if how == "late":
    import threading
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()  # for ever
  try:
    stopping.check()
  finally:
    print("tidied up")
assert signal.getsignal(number) == before and not stopping.asked()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("how, tidy", [
    ("checked", True), ("late", False), ("ignored", True), ("never", True)])
def test_a_program_that_can_be_killed_ends_in_a_line(python, number, how, tidy):
  done = python.run("-c", BEGIN + IN_A_LINE, str(number), how)
  ends = how in ("checked", "late")
  assert done.returncode == ends * (128 + number), done.stderr
  assert done.stderr.split() == ["told"] * ends
  assert done.stdout == "tidied up\n" * tidy


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
