"""Which float samples are sound: their scale is -1 to 1."""

LOUDEST = 2.0  # a little too loud is clipped, as players do
# Of the samples of a clip that are no numbers, these become silence: no more.
SILENCED = 0.1
EXPECTED = (
    "expected finite ones within -1 and 1: divide those that were int16 by "
    "32768; where s32le was read as float32, have ffmpeg write f32le")


def refusal(low: float, high: float) -> str:
  """Says why samples are refused, and what to do: a line.

  Args:
    low, high: the least and the largest of the samples.
  """
  return f"samples from {low:g} to {high:g}, {EXPECTED}"
