"""Runs functions that read media in processes of their own.

Decoders are native code, and media comes from anywhere: a damaged file may
crash one, or keep it busy for ever. Then the process is lost and nothing else.
"""
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import Pipe, connection
from typing import Any

from vatt.data.ingest.media import MediaError

# Sent to all processes of a terminal or a job.
STOPPED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MAX_MEMORY = 8 << 30  # bytes of addresses; damaged headers ask for any size


class Workers:
  """Processes, one for each thread that calls at the same time.

  They start when they are first needed, and end with this object or with the
  process that has it, however that ends.
  """

  def __init__(self):
    self._idle = []

  def call(self, limit: float, function: Callable[..., Any], *args: Any,
           **kwargs: Any) -> Any:
    """Calls a function in a process.

    Args:
      limit: seconds of processor time that it may take; ten times that by the
        clock, for it may have to share the processor.
      function: at the top level of a module of this package.
      *args, **kwargs: the function's; can be pickled, as its result.

    Returns:
      What the function returns.

    Raises:
      MediaError: the function raised anything, took too long or crashed.
    """
    process, pipe = self._idle.pop() if self._idle else _start()
    try:
      pipe.send((limit, function, args, kwargs))
      done, result = pipe.recv()
    except (EOFError, OSError) as error:
      pipe.close()
      code = process.wait()
      if -code in STOPPED:  # no fault of the file
        raise KeyboardInterrupt from error
      if -code in (signal.SIGPROF, signal.SIGALRM):
        raise MediaError(f"took longer than {limit:.0f} s") from error
      raise MediaError(f"the decoder crashed (exit code {code})") from error
    except BaseException:  # such as the user's Ctrl-C: the answer is not read
      process.kill()
      raise
    self._idle.append((process, pipe))
    if not done:
      raise MediaError(result)
    return result


def _start():
  ours, theirs = Pipe()
  with theirs:
    process = subprocess.Popen(
        [sys.executable, "-m", "vatt.data.ingest.workers",
         str(theirs.fileno())],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
  return process, ours


def _serve(pipe):
  """Answers calls until the other end is closed."""
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends without a traceback
  for alarm in (signal.SIGPROF, signal.SIGALRM):
    signal.signal(alarm, signal.SIG_DFL)  # ends even native code
  resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
  while True:
    try:
      limit, function, args, kwargs = pipe.recv()
    except EOFError:
      return
    signal.setitimer(signal.ITIMER_PROF, limit)
    signal.setitimer(signal.ITIMER_REAL, 10 * limit)
    try:
      answer = True, function(*args, **kwargs)
    except MediaError as error:
      answer = False, str(error)
    except Exception as error:  # damaged media raise nearly anything
      answer = False, f"{type(error).__name__}: {' '.join(str(error).split())}"
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    pipe.send(answer)


if __name__ == "__main__":
  _serve(connection.Connection(int(sys.argv[1])))
