"""What a decoded frame looks like on screen."""
import av
import numpy as np
from av.video.reformatter import Interpolation

# Exact and the same with every instruction set; the default is off by -1.5.
# Flags of libswscale that older PyAV has no names for: full chroma, accurate
# rounding, bit-exact.
SCALING = int(Interpolation.BICUBIC) | 0x2000 | 0x40000 | 0x80000


def picture(frame: av.VideoFrame, aspect: float, size: int) -> np.ndarray:
  """A decoded frame as it looks on screen.

  Args:
    frame: as decoded.
    aspect: of its pixels, width by height.
    size: its shorter side, in pixels; a smaller one stays as it is.

  Returns:
    uint8 [H, W, 3].
  """
  width, height = frame.width, frame.height
  if 1 <= aspect < 4:  # pixels wider than high; others are damage
    height = height / aspect
  elif 1 / 4 < aspect < 1:
    width = width * aspect
  scale = min(1.0, size / min(width, height))
  array = frame.reformat(
      max(1, round(width * scale)), max(1, round(height * scale)), "rgb24",
      interpolation=SCALING).to_ndarray()
  return np.rot90(array, round(frame.rotation / 90))
