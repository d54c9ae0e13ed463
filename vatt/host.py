"""The machine that a process runs on: its cores and its memory."""
import ctypes
import os

# Of <malloc.h>: most pieces that are mapped apart, free bytes that are kept,
# and the number of heaps, of which none can use what is free in another. One
# heap serves one thread at a time, which is enough for the input: a clip takes
# about 1,000 pieces that count there, at 0.14 us each, 0.3 where 16 threads
# wait for each other; so much for 3,000 clips a second and more.
MALLOC_OPTIONS = {-4: 0, -1: 2 ** 31 - 1, -8: 1}


def num_cores() -> int:
  """The number of processor cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):  # Linux alone has it
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def hold_memory() -> None:
  """Has the process keep the memory that it frees, and use it again.

  The C library would give large pieces back to the system at once, and get
  them back page by page: on processors that takes several times as long as the
  arithmetic on them. Programs call this, not libraries; glibc alone has it.
  """
  options = getattr(ctypes.CDLL(None), "mallopt", None)
  if options:
    for option in MALLOC_OPTIONS.items():
      options(*option)
