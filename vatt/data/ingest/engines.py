"""Who builds shards: threads of this process, or processes of its own."""
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from vatt import stopping
from vatt.data.ingest import forks
from vatt.data.ingest import shards as shards_lib
from vatt.data.ingest.plans import Shard


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
  workers = max(1, min(workers, len(shards)))
  # Other processes do not find what a program has in itself.
  if processes and job.read.__module__ != "__main__":
    try:
      forks.run(shards_lib.build, job, shards, workers, progress)
    except BaseException:
      # They were told to end at once.
      shards_lib.remove_temporaries(job.folder, os.path.commonprefix(
          [shard.name for shard in shards]))
      raise
  else:
    _run_threads(job, shards, workers, progress)


def _run_threads(job, shards, workers, progress):
  lock, failed = threading.Lock(), []

  def build(shard):
    try:
      if not failed:
        shards_lib.build(job, shard, note)
    except BaseException as error:
      failed.append(error)

  def note(count):
    stopping.check()
    if failed:
      raise stopping.Stopped()
    with lock:
      progress(count)

  pool = ThreadPoolExecutor(workers)
  try:
    wait([pool.submit(build, shard) for shard in shards])
  except BaseException as error:  # Ctrl-C, where it is not noted
    failed.append(error)
  finally:
    pool.shutdown()
  if failed:
    raise failed[0]
