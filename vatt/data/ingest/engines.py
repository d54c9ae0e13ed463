"""Who builds shards: threads of this process, or processes of its own."""
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from multiprocessing import connection

from vatt import stopping
from vatt.data.ingest import shards as shards_lib
from vatt.data.ingest.plans import Shard

WAIT = 0.5  # seconds between two looks at how far it is
AHEAD = 2  # shards that wait for each process

_done = _stopped = None  # of a process that builds: shared with all others


def run(job: shards_lib.Job, shards: Sequence[Shard], workers: int,
        processes: bool, progress: Callable[[int], object]) -> None:
  """Builds shards.

  Args:
    job, shards: as of `shards.build`.
    workers: how many shards are built at a time.
    processes: whether each is built by a process, which takes some seconds to
      start, and not by a thread.
    progress: called with the number of clips that are done since.

  Raises:
    Stopped: the program is to end.
    Exception: what the building of a shard raised.
  """
  context = multiprocessing.get_context("forkserver")
  if processes:
    # Once, and not by each of the processes.
    context.set_forkserver_preload(["vatt.data.ingest.shards"])
    done, stopped = context.Value("q", 0), context.Value("b", 0)
    pool = ProcessPoolExecutor(
        workers, context, initializer=_begin, initargs=(done, stopped))
  else:
    done, stopped = multiprocessing.Value("q", 0), multiprocessing.Value("b", 0)
    _begin(done, stopped, ours=True)
    pool = ThreadPoolExecutor(workers)
  try:
    _run(pool, job, shards, AHEAD * workers, done, progress)
  except BaseException:
    stopped.value = 1
    raise
  finally:
    pool.shutdown(cancel_futures=True)


def _run(pool: Executor, job, shards, ahead, done, progress):
  waiting, running, seen = iter(shards), set(), 0
  while True:
    for shard in waiting:
      running.add(pool.submit(_build, job, shard))
      if len(running) == ahead:
        break
    finished, running = wait(running, WAIT, FIRST_COMPLETED)
    stopping.check()
    for future in finished:
      future.result()
    count = done.value
    progress(count - seen)
    seen = count
    if not running:
      return


def _begin(done, stopped, ours=False):
  """Begins a process that builds, or what threads of ours build."""
  global _done, _stopped
  _done, _stopped = done, stopped
  if ours:
    return
  # Those to all of a terminal: the parent says when to stop.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  parent = multiprocessing.parent_process()

  def watch():  # killed, it can tell nobody
    connection.wait([parent.sentinel])
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def _build(job, shard):
  shards_lib.build(job, shard, _progress)


def _progress(count):
  if _stopped.value:
    raise stopping.Stopped()
  with _done.get_lock():
    _done.value += count
