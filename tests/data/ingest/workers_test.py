"""Functions that crash, hang and fail in processes of their own."""
import math
import os
import signal
import threading
import time

import pytest

from vatt import stopping
from vatt.data.ingest.media import MediaError
from vatt.data.ingest.workers import Workers


@pytest.mark.parametrize("function, args, reason", [
    (os.abort, (), "crashed"),
    (sum, (range(10 ** 13),), "took longer than 1 s"),  # in native code
    (bytearray, (1 << 45,), "MemoryError"),
    (math.sqrt, (-1,), "ValueError: math domain error"),
    (os._exit, (0,), "crashed"),
])
def test_what_goes_wrong_is_told_and_costs_nothing_else(
    function, args, reason):
  workers = Workers()
  assert workers.call(1, math.sqrt, 4) == 2
  with pytest.raises(MediaError, match=reason):
    workers.call(1, function, *args)
  assert workers.call(1, math.sqrt, 9) == 3


def test_waiting_is_limited_too():
  with pytest.raises(MediaError, match="took longer"):
    Workers().call(0.1, time.sleep, 100)


def test_stopped_from_outside_is_no_fault_of_the_file():
  workers = Workers()
  for number in (2, 15):
    with pytest.raises(KeyboardInterrupt):
      workers.call(1, os.kill, workers.call(1, os.getpid), number)


def test_what_all_processes_are_told_ends_this_one_as_it_was_told():
  workers = Workers()
  process = workers.call(1, os.getpid)
  with stopping.noted():
    threading.Timer(0.5, lambda: [
        os.kill(pid, signal.SIGTERM) for pid in (process, os.getpid())]).start()
    with pytest.raises(stopping.Stopped) as stopped:
      workers.call(60, time.sleep, 600)
  assert stopped.value.code == 143


def test_nothing_is_said_by_one_that_is_stopped_before_it_has_begun(capfd):
  """As by Ctrl-C, which reaches all processes of a terminal."""
  workers = Workers()
  workers._idle.append(process_and_pipe := workers._take())
  process_and_pipe[0].send_signal(signal.SIGINT)
  with pytest.raises(KeyboardInterrupt):
    workers.call(1, math.sqrt, 4)
  assert process_and_pipe[0].wait() == -signal.SIGINT
  assert capfd.readouterr().err == ""


def test_a_program_that_is_stopped_waits_for_no_answer(monkeypatch):
  workers = Workers()
  workers.call(1, os.getpid)
  (process, _), = workers._idle
  monkeypatch.setattr(stopping, "_asked", signal.SIGTERM)
  with pytest.raises(stopping.Stopped) as stopped:
    workers.call(60, time.sleep, 600)
  assert stopped.value.code == 143 and process.poll() == -signal.SIGKILL


def test_a_process_is_used_again_and_others_have_their_own():
  workers = Workers()
  pid = workers.call(1, os.getpid)
  assert workers.call(1, os.getpid) == pid != os.getpid()
  assert Workers().call(1, os.getpid) not in (pid, os.getpid())


def test_processes_end_with_their_owner():
  workers = Workers()
  pid = workers.call(1, os.getpid)
  process = workers._idle[0][0]
  del workers
  try:
    process.wait(20)
  except Exception:
    os.kill(pid, 9)
    raise


def count(upto, wrong=None):
  """Yields numbers; a function of a module, as those of other processes are."""
  for i in range(upto):
    if i == wrong:
      raise MediaError("no more")
    yield i


def test_items_come_one_by_one_and_what_goes_wrong_behind_them():
  workers = Workers()
  assert list(workers.stream(1, count, 3)) == [0, 1, 2]
  assert list(workers.stream(1, count, 0)) == []
  items = workers.stream(1, count, 9, wrong=2)
  assert [next(items), next(items)] == [0, 1]
  with pytest.raises(MediaError, match="^no more$"):
    next(items)
  assert workers.call(1, math.sqrt, 4) == 2


def test_who_takes_no_more_items_gets_none_of_them_later():
  workers = Workers()
  items = workers.stream(1, count, 10 ** 9)
  assert next(items) == 0
  items.close()
  assert workers.call(1, math.sqrt, 4) == 2


def test_an_item_is_waited_for_no_longer_than_the_limit():
  workers = Workers()
  items = workers.stream(0.15, count, 10)
  time.sleep(2)  # who takes them may take longer than ten times that
  assert list(items) == list(range(10))
  with pytest.raises(MediaError, match="took longer"):
    list(workers.stream(0.15, sum, range(10 ** 13)))


def test_one_that_ended_while_it_waited_is_replaced():
  """As Ctrl-C does in a terminal, of whoever goes on."""
  workers = Workers()
  os.kill(workers.call(1, os.getpid), 2)
  workers._idle[0][0].wait(20)
  assert workers.call(1, math.sqrt, 4) == 2
