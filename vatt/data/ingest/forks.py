"""Calls a function for many items, in processes that are forks of one.

That one, the server, imports what the function needs, and gets what all calls
have in common: so both are in memory once, and a process starts at once. It
runs nothing of them, as threads of libraries would be lost in a fork.

Who waits for the processes passes items on and counts; a process gets the next
item when it is done with the last. A pipe leads to each, and whoever finds the
other end of his closed ends: so all end with the one that waits, however that
ends.
"""
import contextlib
import gc
import os
import pickle
import selectors
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from multiprocessing import Pipe, connection
from typing import Any

from absl import logging

from vatt import stopping
from vatt.data.ingest import workers
from vatt.errors import one_line

# What processes say: how much they have done; the same, and that they want the
# next item; what was raised. The server: which process has ended, and how.
DONE, NEXT, FAILED, ENDED = range(4)
WAIT = 0.5  # seconds between two words of a process on how much it has done
GRACE = 5.0  # seconds for processes to end in
# Each has a core, and no other device. What TensorFlow says as it is loaded, it
# has said.
ENVIRONMENT = {"TF_NUM_INTEROP_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1",
               "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def run(function: Callable[[Any, Any, Callable[[int], None]], object],
        common: Any, items: Iterable[Any], count: int,
        progress: Callable[[int], object]) -> None:
  """Calls function(common, item, report) for each of some items.

  Args:
    function: of a module. It may call `report` with numbers, of what is done.
    common, items: can be pickled.
    count: of processes, each with one call at a time.
    progress: called with the sums of those numbers.

  Raises:
    Stopped: the program is to end.
    ChildProcessError: a process was killed.
    Exception: what a call raised.
  """
  ours, theirs = zip(*(Pipe() for _ in range(1 + count)))
  try:
    server = workers.start(__spec__.name, theirs, ENVIRONMENT)
  finally:
    for pipe in theirs:
      pipe.close()
  try:
    with contextlib.suppress(ConnectionError):  # its end is noted below
      ours[0].send((logging.get_verbosity(), function, common))
    _feed(server, ours[0], ours[1:], iter(items), progress)
  finally:
    for pipe in ours:
      pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
      server.wait(GRACE)  # which waits for all others


def _feed(server, control, pipes, items, progress):
  """Passes items on until there are none."""
  running = set(pipes)
  with selectors.DefaultSelector() as selector:
    for pipe in control, *pipes:
      selector.register(pipe, selectors.EVENT_READ)
    while running:
      for key, _ in selector.select(WAIT):
        pipe = key.fileobj
        try:
          kind, value = pipe.recv()
        except (EOFError, ConnectionError):
          if pipe is control:
            _lose(server.wait(GRACE))
          selector.unregister(pipe)  # the server tells why
          continue
        if kind == FAILED:
          error, text = value
          raise error from RuntimeError(text)
        if kind == ENDED:
          number, code = value
          if pipes[number] in running:
            _lose(code)
          continue
        progress(value)
        if kind == NEXT:
          for item in items:
            with contextlib.suppress(ConnectionError):  # as above
              pipe.send(item)
            break
          else:
            running.remove(pipe)
            selector.unregister(pipe)
            pipe.close()
      stopping.check()


def _lose(code):
  """Raises what the end of a process means."""
  time.sleep(workers.NOTED)  # a signal to all comes to this process, too
  stopping.check()
  raise ChildProcessError(
      f"a process was killed by signal {-code}, as one is that takes more "
      "memory than there is" if code < 0 else
      f"a process ended with code {code}")


# -----------------------------------------------------------------------------
# The server, and its forks.
# -----------------------------------------------------------------------------
def _serve(control, pipes):
  """Forks, and tells of the ends of the forks."""
  for number in signal.SIGINT, signal.SIGTERM:
    signal.signal(number, signal.SIG_IGN)  # to be told by the closed pipe
  try:
    verbosity, function, common = control.recv()
    logging.set_verbosity(verbosity)
    gc.freeze()  # to look through objects would copy the memory of all
    forks = {}
    for number, pipe in enumerate(pipes):
      process = os.fork()
      if not process:
        for other in control, *pipes:
          if other is not pipe:
            other.close()
        _work(pipe, function, common)
      forks[process] = number
  except EOFError:
    return
  except Exception as error:  # what it needs is not found, or no process more
    control.send((FAILED, _told(error)))
    return
  for pipe in pipes:
    pipe.close()
  while forks:
    process, status = os.wait()
    with contextlib.suppress(ConnectionError):  # nobody cares any more
      control.send((ENDED, (forks.pop(process),
                            os.waitstatus_to_exitcode(status))))


def _told(error):
  """An error as it can be sent, and where it was raised."""
  text = traceback.format_exc()
  try:
    pickle.loads(pickle.dumps(error))
  except Exception:  # of any kind
    error = RuntimeError(one_line(error))
  return error, text


def _work(pipe, function, common):
  """Is a fork: asks for items until there are no more."""
  workers.end_with(pipe)
  done, said = 0, time.monotonic()

  def report(number):
    nonlocal done, said
    done += number
    if time.monotonic() > said + WAIT:
      pipe.send((DONE, done))
      done, said = 0, time.monotonic()

  try:
    while True:
      pipe.send((NEXT, done))
      done = 0
      function(common, pipe.recv(), report)
  except BaseException as error:
    with contextlib.suppress(ConnectionError):
      pipe.send((FAILED, _told(error)))
      pipe.poll(None)  # until it is closed
  os._exit(0)


if __name__ == "__main__":
  _serve(*(lambda control, *pipes: (control, pipes))(
      *map(connection.Connection, map(int, sys.argv[1:]))))
