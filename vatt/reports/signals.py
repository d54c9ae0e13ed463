"""Pictures of a clip's signals, for pages: frames, waveform, spectrogram."""
import io
import math

import numpy as np
import tensorflow as tf
from scipy.io import wavfile

from vatt.data import audio

SLOTS = 8  # places for frames along an axis of time
HEIGHT = 144  # of a frame, pixels, at most
COLUMNS = 1000  # of a waveform or a spectrogram, at most
WAVE = 100  # height of a waveform, in units of its own
STEP = 1024 / 48000  # seconds, of a spectrogram
RATES = (320, 1_000_000)  # samples a second that one is made of
MINUTES = (15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)  # between ticks


def places(length: float, num_frames: int, fps: float
           ) -> list[tuple[float, int] | None]:
  """Which frames are shown along an axis of time.

  Args:
    length: seconds, of the axis.
    num_frames: F.
    fps: frames a second.

  Returns:
    For each of SLOTS equal parts of the axis the frame that is shown in the
    middle of it, as its time in seconds and its number; None where there is
    none, or still the one of the place before.
  """
  found, last = [], None
  for slot in range(SLOTS):
    number = int((slot + 0.5) / SLOTS * length * fps + 1e-6)
    is_new = number < num_frames and number != last
    found.append((number / fps, number) if is_new else None)
    last = number
  return found


def thumbnail(frame: bytes) -> tuple[bytes, bool]:
  """A frame as a JPEG of at most HEIGHT pixels; whether it is that small.

  Raises:
    tf.errors.OpError: it cannot be decoded.
  """
  image = tf.io.decode_image(frame, channels=3, expand_animations=False)
  height, width, _ = image.shape
  if height > HEIGHT:
    size = [HEIGHT, max(1, round(width * HEIGHT / height))]
    image = tf.cast(tf.round(tf.image.resize(image, size, "area")), tf.uint8)
  return tf.io.encode_jpeg(image, quality=85).numpy(), height < HEIGHT // 2


def envelope(sound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The least and the largest of the samples in each of at most COLUMNS equal
  parts of a sound, int16 [S], S > 0."""
  count = min(COLUMNS, len(sound))
  edges = np.arange(count, dtype=np.int64) * len(sound) // count
  return np.minimum.reduceat(sound, edges), np.maximum.reduceat(sound, edges)


def waveform(sound: np.ndarray) -> str:
  """The SVG of a sound, int16 [S], S > 0: what lies between its least and its
  largest samples, the loudest at the upper or lower edge."""
  low, high = (side.astype(float) for side in envelope(sound))
  peak = max(-low.min(), high.max(), 1.0)
  half = WAVE / 2
  edge = [f"{i}.5 {half - half * value / peak:.1f}"
          for i, value in enumerate(high)]
  # At least a line of one unit.
  back = [f"{i}.5 {half - half * value / peak + 1:.1f}"
          for i, value in enumerate(low)]
  return (f'<svg viewBox="0 0 {len(low)} {WAVE}" '
          'preserveAspectRatio="none" width="100%" aria-hidden="true">'
          f'<path fill="currentColor" d="M{"L".join(edge + back[::-1])}Z"/>'
          '</svg>')


def spectrogram(sound: np.ndarray, rate: int) -> tuple[bytes, float] | None:
  """A PNG of the log-mel spectrogram as `audio.log_mel` makes it for models.

  Args:
    sound: int16 [S].
    rate: samples a second.

  Returns:
    The PNG, low frequencies at the bottom, a column a step; and the seconds
    of a step, which in long sounds are more than a model's. None if the rate
    is not one of sound.
  """
  if not RATES[0] <= rate <= RATES[1]:
    return None
  step = max(STEP, len(sound) / rate / COLUMNS)
  mel = audio.log_mel(audio.normalize_audio(sound[None, :, None]), rate,
                      step_s=step)[0, :, :, 0].numpy()  # [F, M]
  # Imported where it is used: it is slow to load.
  from matplotlib import colormaps

  shades = np.uint8(np.round(mel.T[::-1] * 255))  # [M, F]
  table = np.uint8(np.round(255 * colormaps["magma"](range(256))[:, :3]))
  png = tf.io.encode_png(table[shades]).numpy()
  return png, round(rate * step) / rate


def wav(sound: np.ndarray, rate: int) -> bytes:
  """The WAV file of a sound, int16 [S]."""
  file = io.BytesIO()
  wavfile.write(file, rate, sound)
  return file.getvalue()


def ticks(length: float) -> list[float]:
  """Round times along an axis of seconds, from 0; six at most."""
  least = length / 5 * (1 - 1e-9)
  power = 10.0 ** math.floor(math.log10(least))
  steps = [*MINUTES, *(hours * 3600.0 for hours in range(1, 100))] if (
      least > 10) else [factor * power for factor in (1, 2, 5, 10)]
  step = next(step for step in steps if step >= least)
  return [i * step for i in range(int(length / step * 0.999) + 1)]
