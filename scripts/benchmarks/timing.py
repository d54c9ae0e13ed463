"""Seconds and memory, as ratios that hold on machines whose speed changes.

What is compared takes turns within one process; a figure is the median of its
turns, a ratio the median over the turns.
"""
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

WARM_UP = 2  # turns that do not count
LONG = 2 ** 34  # multiplications of some tenths of a second
STATUS = "/proc/self/status"  # of Linux


class Seconds(float):
  """What a function says that its run took."""


def interleave(runs: Mapping[Any, Callable[[], object]], repeats: int,
               what: str = "benchmark", warm_up: int = WARM_UP
               ) -> dict[Any, np.ndarray]:
  """Times functions in turns.

  Args:
    runs: {name: function without arguments that returns when it is done, with
      Seconds if not all that it took counts}.
    repeats: turns, after `warm_up` others.
    what: name on the progress bar.
    warm_up: turns that do not count.

  Returns:
    {name: seconds, float64 [repeats]}.
  """
  seconds = {name: [] for name in runs}
  turns = repeats + warm_up
  with tqdm(total=turns * len(runs), desc=what, unit="run",
            dynamic_ncols=True) as progress:
    for turn in range(turns):
      for name, run in runs.items():
        start = time.perf_counter()
        counted = run()
        if turn >= warm_up:
          took = time.perf_counter() - start
          seconds[name].append(
              counted if isinstance(counted, Seconds) else took)
        progress.update()
  return {name: np.asarray(values) for name, values in seconds.items()}


def spread(values: np.ndarray) -> dict[str, float]:
  """{"median", "least", "most"} of several values."""
  return dict(median=float(np.median(values)), least=float(np.min(values)),
              most=float(np.max(values)))


def wait(result: Any) -> None:
  """Waits for the tensors of a nest, without fetching them whole."""
  for x in tf.nest.flatten(result):
    tf.reshape(x, [-1])[0].numpy()


def matmuls(shapes: Sequence[tuple[int, int, int]], dtype: str
            ) -> tuple[dict[str, Callable[[], None]], dict[str, float]]:
  """Matrix products to compare with.

  Args:
    shapes: (m, k, n) of each.
    dtype: of both factors.

  Returns:
    {name: function}, and {name: floating-point operations of a run}.
  """
  runs, flops = {}, {}
  product = tf.function(tf.matmul)
  for m, k, n in shapes:
    name = f"matmul {m} x {k} x {n}"
    left, right = (tf.cast(tf.random.stateless_normal(shape, [0, i]), dtype)
                   for i, shape in enumerate(([m, k], [k, n])))
    # Short ones are repeated, to last longer than a call costs.
    count = min(16, max(1, round(LONG / (m * k * n))))

    def run(left=left, right=right, count=count):
      for _ in range(count):
        result = product(left, right)
      wait(result)

    runs[name], flops[name] = run, 2.0 * m * k * n * count
  return runs, flops


def best_rate(seconds: Mapping[str, np.ndarray], flops: Mapping[str, float]
              ) -> tuple[str, np.ndarray]:
  """The product that is fastest in the median.

  Args:
    seconds: of each product, [repeats].
    flops: floating-point operations of a run of each.

  Returns:
    Its name, and its FLOP/s in each turn.
  """
  rates = {name: count / seconds[name] for name, count in flops.items()}
  best = max(rates, key=lambda name: np.median(rates[name]))
  return best, rates[best]


def peak_memory() -> int | None:
  """The most memory that this process has held since the last
  `forget_peak`, in bytes; None if the system does not say."""
  return _status("VmHWM")


def resident_memory() -> int | None:
  """The memory that this process holds, in bytes; None likewise."""
  return _status("VmRSS")


def forget_peak() -> None:
  """Has `peak_memory` begin anew, where the system can."""
  try:
    with open("/proc/self/clear_refs", "w") as file:
      file.write("5")
  except OSError:
    pass


def _status(field):
  try:
    with open(STATUS) as file:
      for line in file:
        if line.startswith(field + ":"):
          return 1024 * int(line.split()[1])
  except FileNotFoundError:
    pass
  return None
