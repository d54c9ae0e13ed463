"""Runs functions that read media in processes of their own.

Decoders are native code, and media comes from anywhere: a damaged file may
crash one, or keep it busy for ever. Then the process is lost and nothing else.
"""
import contextlib
import inspect
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import Pipe, connection
from types import MappingProxyType
from typing import Any

from vatt import stopping
from vatt.data.ingest.media import MediaError

# Sent to all processes of a terminal or a job.
STOPPED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What a process answers: an item, that there is no more, or why.
ITEM, DONE, FAILED = range(3)
_END = object()
MAX_MEMORY = 8 << 30  # bytes of addresses; damaged headers ask for any size
NOTED = 0.2  # seconds, until a signal is noted everywhere
WAIT = 0.1  # seconds, until a thread notes that the program is stopped


class Lost(MediaError):
  """A process ended in the midst of its work.

  Attributes:
    late: whether that took too long; else it crashed, or was killed.
  """

  def __init__(self, message: str, late: bool = False):
    super().__init__(message)
    self.late = late


class Workers:
  """Processes, one for each thread that calls at the same time.

  They start when they are first needed, and end with this object or with the
  process that has it, however that ends, in the midst of their work, too.
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
      MediaError: the function raised anything; Lost if it took too long or
        crashed.
      KeyboardInterrupt: the process was stopped by a signal.
      Stopped: this one was.
    """
    result, = self.stream(limit, function, *args, **kwargs)
    return result

  def stream(self, limit: float, function: Callable[..., Any], *args: Any,
             **kwargs: Any) -> Iterator[Any]:
    """Calls a function in a process, and yields the items that it yields, each
    within the limit, or its one result; see `call`. The process waits, with an
    item or two in hand, for who takes them."""
    process, pipe = self._take()
    try:
      pipe.send((limit, function, args, kwargs))
      while (answer := _receive(pipe))[0] == ITEM:
        yield answer[1]
    except (EOFError, OSError) as error:
      pipe.close()
      code = process.wait()
      if -code in STOPPED:  # no fault of the file
        time.sleep(NOTED)  # a signal to all comes to this process, too
        stopping.check()
        raise KeyboardInterrupt from error
      if -code in (signal.SIGPROF, signal.SIGALRM):
        raise Lost(f"took longer than {limit:.0f} s", late=True) from error
      raise Lost(f"the decoder crashed (exit code {code})") from error
    except BaseException:  # such as the user's Ctrl-C: the answer is not read
      process.kill()
      process.wait()  # else a zombie would be left
      raise
    self._idle.append((process, pipe))
    if answer[0] == FAILED:
      raise MediaError(answer[1])

  def close(self) -> None:
    """Ends the processes that wait. The next call starts a new one."""
    while self._idle:
      process, pipe = self._idle.pop()
      pipe.close()
      process.wait()

  def _take(self):
    """A process that waits, or a new one."""
    while True:
      try:
        process, pipe = self._idle.pop()
      except IndexError:  # none, or another thread was first
        return _start()
      if process.poll() is None:  # Ctrl-C ends those that wait, too
        return process, pipe
      pipe.close()


def _receive(pipe):
  """What a process answers; raises Stopped if this one is to end."""
  while not pipe.poll(WAIT):
    stopping.check()
  return pipe.recv()


def _start():
  ours, theirs = Pipe()
  with theirs:
    return start(__spec__.name, [theirs]), ours


def start(module: str, pipes: Sequence[connection.Connection],
          environment: Mapping[str, str] = MappingProxyType({})
          ) -> subprocess.Popen:
  """Starts a process that runs a module, with SIGINT blocked: Ctrl-C is to end
  it, but not with the traceback that Python has before the first line of ours.

  Args:
    module: its name.
    pipes: that it gets; their numbers are the arguments.
    environment: variables that it has besides those of this process.
  """
  numbers = [pipe.fileno() for pipe in pipes]
  blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
  try:
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, numbers)],
        env={**os.environ, **environment,
             "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL, pass_fds=numbers)
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def end_with(pipe: connection.Connection) -> None:
  """Has this process end as soon as nobody has the other end of a pipe, as
  whoever had it was killed: in the midst of what it does, but for native code
  that holds Python's lock, as decoders do not."""
  closed = select.poll()
  closed.register(pipe, 0)  # for that alone, and not for what is to be read

  def watch():
    closed.poll()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def _serve(pipe):
  """Answers calls until the other end is closed, however that ends."""
  end_with(pipe)
  with contextlib.suppress(EOFError, ConnectionError):
    _answer_calls(pipe)


def _answer_calls(pipe):
  if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # in the background
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends without a traceback
  signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
  for alarm in (signal.SIGPROF, signal.SIGALRM):
    signal.signal(alarm, signal.SIG_DFL)  # ends even native code
  resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
  while True:
    limit, function, args, kwargs = pipe.recv()
    try:
      with _limited(limit):
        result = function(*args, **kwargs)
      if not inspect.isgenerator(result):
        result = iter([result])
      while True:
        with _limited(limit):
          item = next(result, _END)
        if item is _END:
          break
        pipe.send((ITEM, item))
      answer = DONE, None
    except MediaError as error:
      answer = FAILED, str(error)
    except Exception as error:  # damaged media raise nearly anything
      answer = FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}"
    pipe.send(answer)


@contextlib.contextmanager
def _limited(limit):
  """Ends the process if what stands within takes too long."""
  signal.setitimer(signal.ITIMER_PROF, limit)
  signal.setitimer(signal.ITIMER_REAL, 10 * limit)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
  _serve(connection.Connection(int(sys.argv[1])))
