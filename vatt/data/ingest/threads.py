"""Calls a function for many items in threads, in order."""
import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from vatt import stopping

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 8  # items for each thread that may be done and not yet taken


def in_order(function: Callable[[Item], Result], items: Iterable[Item],
             threads: int) -> Iterator[tuple[Item, Result]]:
  """Yields (item, what a function returns of it), in order.

  Args:
    function: called in threads.
    items: any number of them: few are taken before their turn.
    threads: how many.

  Raises:
    Stopped: the program is to end.
  """
  pool, waiting = ThreadPoolExecutor(threads), collections.deque()
  try:
    for item in items:
      stopping.check()
      waiting.append((item, pool.submit(function, item)))
      if len(waiting) > AHEAD * threads:
        item, found = waiting.popleft()
        yield item, found.result()
    for item, found in waiting:
      stopping.check()
      yield item, found.result()
  finally:  # whoever stops it does not wait for those that have not begun
    pool.shutdown(cancel_futures=True)
