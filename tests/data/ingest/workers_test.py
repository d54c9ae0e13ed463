"""Functions that crash, hang and fail in processes of their own."""
import math
import os
import time

import pytest

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
