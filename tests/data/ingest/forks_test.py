"""Calls in forks of one process, and how all of them end."""
import errno
import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from vatt import stopping
from vatt.data.ingest import forks
from vatt.data.ingest.workers import Workers
from vatt.errors import UserError


class Odd(Exception):
  """One that cannot be made of what is pickled of it."""

  def __init__(self, a, b):
    super().__init__(f"{a} and {b}")


ERRORS = {
    "user": UserError("list.csv: row 3: found 4, expected 5"),
    "disk": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "shard"),
    "net": ConnectionResetError(errno.ECONNRESET, "reset by the store"),
    "odd": Odd(1, 2)}


def note(folder, item, report):
  """Writes down who did an item."""
  pathlib.Path(folder, str(item)).write_text(f"{os.getppid()} {os.getpid()}")
  report(item)
  report(1)


def fail(kind, item, report):
  report(1)
  if item == 3:
    raise ERRORS[kind]
  time.sleep(0.01)


def die(folder, item, report):
  note(folder, item, report)
  if item == 5:
    os.kill(os.getpid(), signal.SIGKILL)
  time.sleep(600)


def wait(folder, item, report):
  """Waits for a decoder, that is busy; then writes, if it comes to that."""
  workers = Workers()
  decoder = workers.call(5, os.getpid)
  pathlib.Path(folder, f"{os.getpid()}.begun").write_text(
      f"{os.getppid()} {os.getpid()} {decoder}")
  try:
    # In native code, as decoders are.
    workers.call(600, hashlib.pbkdf2_hmac, "sha256", b"", b"", 10 ** 9)
  finally:
    pathlib.Path(folder, f"{os.getpid()}.ended").touch()


def numbers(folder, pattern="*"):
  """The processes that have written themselves down."""
  return {int(number) for path in folder.glob(pattern)
          for number in path.read_text().split()}


def test_each_item_is_done_once_in_a_few_forks_of_one(tmp_path, processes):
  sums = []
  forks.run(note, str(tmp_path), range(40), 3, sums.append)
  assert sum(sums) == sum(range(40)) + 40
  found = [path.read_text().split() for path in tmp_path.iterdir()]
  assert len(found) == 40
  (server,), workers = map(set, zip(*found))
  assert 1 <= len(workers) <= 3
  assert os.getpid() not in map(int, {server, *workers})
  assert processes.are_gone(map(int, {server, *workers}))


@pytest.mark.parametrize("kind, error, match", [
    ("user", UserError, r"^list.csv: row 3: found 4, expected 5$"),
    ("disk", OSError, "No space left on device"),
    ("net", ConnectionResetError, "reset by the store"),
    ("odd", RuntimeError, "^1 and 2$")])
def test_what_a_call_raises(kind, error, match):
  with pytest.raises(error, match=match) as raised:
    forks.run(fail, kind, range(10 ** 6), 2, lambda count: None)
  # Where it was raised is told, too, should it be a fault of ours.
  assert "in fail" in str(raised.value.__cause__)
  assert kind != "disk" or raised.value.errno == errno.ENOSPC


def test_what_cannot_be_found_by_others():
  class Local:
    pass

  with pytest.raises((AttributeError, TypeError)):
    forks.run(note, Local(), [1], 1, lambda count: None)


def test_one_that_is_killed_ends_all_in_a_line(tmp_path, processes):
  with pytest.raises(ChildProcessError, match="^a process was killed by signal "
                     "9, as one is that takes more memory than there is$"):
    forks.run(die, str(tmp_path), range(4, 10), 3, lambda count: None)
  assert processes.are_gone(numbers(tmp_path))


def kill_server(folder, item, report):
  note(folder, item, report)
  os.kill(os.getppid(), signal.SIGKILL)
  time.sleep(600)


def test_a_server_that_is_killed_ends_all_as_well(tmp_path, processes):
  with pytest.raises(ChildProcessError, match="killed by signal 9"):
    forks.run(kill_server, str(tmp_path), range(3), 2, lambda count: None)
  # 1: who has an orphan.
  assert processes.are_gone(numbers(tmp_path) - {1})


PROGRAM = """
import sys
sys.path[:0] = [{path!r}]
import forks_test
from vatt import stopping
from vatt.data.ingest import forks

with stopping.in_a_line("stopped; in a line"):
  forks.run(forks_test.wait, {folder!r}, range(9), 2, lambda count: None)
"""


@pytest.mark.parametrize("number, to_all", [
    (signal.SIGKILL, False), (signal.SIGTERM, True), (signal.SIGINT, True),
    pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow),
    pytest.param(signal.SIGHUP, True, marks=pytest.mark.slow)])
def test_all_end_with_the_one_that_waits(
    tmp_path, python_env, processes, number, to_all):
  """In the midst of what they do, and write nothing any more; the one says what
  it says, and they say nothing."""
  process = subprocess.Popen(
      [sys.executable, "-c", PROGRAM.format(
          path=os.path.dirname(__file__), folder=str(tmp_path))],
      env=python_env, stderr=subprocess.PIPE, text=True,
      start_new_session=True)
  try:
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("*.begun"))) < 2 and time.monotonic() < end:
      time.sleep(0.05)
    others = numbers(tmp_path)
    assert len(others) == 5  # a server, two forks, two decoders
    (os.killpg if to_all else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=30)
    assert processes.are_gone(others, 5)
  finally:
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
  lines = [line for line in said.splitlines() if line]
  if number in (signal.SIGINT, signal.SIGTERM):
    assert process.returncode == 128 + number
    assert lines[-1] == "stopped; in a line"
  else:
    assert process.returncode == -number
  assert "Traceback" not in said
  assert not list(tmp_path.glob("*.ended"))


def test_a_signal_that_is_noted_ends_the_waiting(
    tmp_path, processes, monkeypatch):
  monkeypatch.setattr(stopping, "_asked", signal.SIGTERM)
  with pytest.raises(stopping.Stopped):
    forks.run(die, str(tmp_path), range(6, 9), 2, lambda count: None)
  assert processes.are_gone(numbers(tmp_path))
