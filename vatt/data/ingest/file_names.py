"""What files are called that are cut out of others."""
import functools


def of_cut(file: str, start: float, end: float | None = None) -> list[str]:
  """Names of a file that is no more than a clip, as tools give them.

  Args:
    file: name of the one that it is cut out of.
    start: seconds in that.
    end: likewise; None for names without it.

  Returns:
    `{file}_{start}_{end}` or `{file}_{start}-{end}`, the likeliest first: in
    whole seconds, of six digits too, in milliseconds, or with decimals.
  """
  return [file + times for times in _times(start, end)]


@functools.lru_cache(2**16)  # many clips start alike
def _times(start, end):
  """What comes behind the name of the file."""
  if end is None:
    return tuple(dict.fromkeys(f"_{time}" for time in _written(start)))
  return tuple(dict.fromkeys(
      f"_{first}{between}{last}" for between in "_-"
      for first, last in zip(_written(start), _written(end))))


def _written(seconds):
  """A time as it is written in a name."""
  whole, exact = int(seconds), round(1000 * seconds)
  return (f"{whole:06d}", f"{whole}", f"{exact}", f"{exact:06d}",
          f"{seconds:.1f}", f"{seconds:.3f}")
