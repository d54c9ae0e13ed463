"""Sound: decoding and resampling a window; augmentation and mel spectrograms.
"""
import math

import tensorflow as tf
from ml_collections import ConfigDict

from vatt import seeds
from vatt.data import levels

FLAC = b"fLaC"  # how it begins
# Taps to each side of the resampling filter, in periods of the lower rate.
RESAMPLING_ZEROS = 16
# A filter has a phase per output sample of the least common period.
MAX_RESAMPLING_FILTER = 4_000_000
EQUALIZER_WAVES = 4


# -----------------------------------------------------------------------------
# On the host, one clip.
# -----------------------------------------------------------------------------
def samples(stored: tf.Tensor, flac: bool = False) -> tf.Tensor:
  """The samples of a clip's sound, in the form that a source keeps it.

  Args:
    stored: string [], int16 little-endian PCM, or FLAC; or the samples, int16
      [N].
    flac: whether it may be FLAC; its channels are averaged.

  Returns:
    int16 [N].

  Raises:
    tf.errors.InvalidArgumentError: it cannot be decoded.
  """
  if stored.dtype == tf.int16:
    return stored
  is_flac = tf.equal(tf.strings.substr(stored, 0, 4), FLAC)

  def decode_pcm():
    return tf.io.decode_raw(stored, tf.int16, little_endian=True)

  if not flac:
    # It would be noise.
    with tf.control_dependencies([tf.debugging.Assert(
        ~is_flac, ["sound is FLAC, and was not in the first record"])]):
      return decode_pcm()
  # Imported where it is used: it is slow to load and unknown to TPU workers.
  import tensorflow_io as tfio

  def decode_flac():
    channels = tfio.audio.decode_flac(stored, dtype=tf.int16)
    mono = tf.reduce_mean(tf.cast(channels, tf.float32), 1)
    return tf.cast(tf.round(mono), tf.int16)

  return tf.cond(is_flac, decode_flac, decode_pcm)


def from_floats(waveform: tf.Tensor) -> tf.Tensor:
  """The samples of sound that is kept as floats, in [-1, 1].

  A little too loud ones, up to levels.LOUDEST, are clipped. What is not finite
  becomes silence, up to the share levels.SILENCED.

  Args:
    waveform: float32 [N].

  Returns:
    int16 [N].

  Raises:
    tf.errors.InvalidArgumentError: it is no sound of this scale.
  """
  finite = tf.math.is_finite(waveform)
  waveform = tf.where(finite, waveform, 0.0)
  low, high = (f(tf.concat([waveform, [0.0]], 0))
               for f in (tf.reduce_min, tf.reduce_max))
  lost = tf.math.count_nonzero(~finite, dtype=tf.int32)
  good = (tf.maximum(-low, high) <= levels.LOUDEST) & (
      tf.cast(lost, tf.float32)
      <= levels.SILENCED * tf.cast(tf.size(waveform), tf.float32))
  found = tf.strings.join([
      tf.strings.as_string(value, shortest=True) for value in (low, high)],
      " to ")
  with tf.control_dependencies([tf.debugging.Assert(good, [tf.strings.join([
      "samples from ", found, ", ", tf.strings.as_string(lost), " of ",
      tf.strings.as_string(tf.size(waveform)), " not finite, ",
      levels.EXPECTED])])]):
    return tf.cast(tf.clip_by_value(
        tf.round(waveform * 32768.0), -32768, 32767), tf.int16)


def cut_audio(waveform: tf.Tensor, stored_rate: tf.Tensor, start: tf.Tensor,
              num_samples: int, rate: int) -> tf.Tensor:
  """Cuts a window out of a clip's sound, and resamples it if need be.

  Args:
    waveform: int16 [N].
    stored_rate: int32 [], its samples a second.
    start: float64 [], seconds, of the window.
    num_samples: S.
    rate: wanted samples a second.

  Returns:
    int16 [S, 1]; zeros behind the end.

  Raises:
    tf.errors.InvalidArgumentError: the rates have no common period short enough
      to resample between them.
  """

  # Outside of the part that is cut out, a margin for the filter.
  same = tf.equal(stored_rate, rate) | tf.equal(tf.size(waveform), 0)
  ratio = tf.where(same, tf.constant(1.0, tf.float64),
                   tf.cast(stored_rate, tf.float64) / rate)
  margin = tf.where(same, 0, tf.cast(
      tf.math.ceil(RESAMPLING_ZEROS * tf.maximum(ratio, 1.0)), tf.int32))
  first = tf.cast(tf.round(start * ratio * rate), tf.int32)
  count = tf.cast(tf.math.ceil(num_samples * ratio), tf.int32)
  part = _slice(waveform, first - margin, count + 2 * margin)
  part = tf.cond(
      same, lambda: part,
      lambda: resample(part, stored_rate, rate, margin, num_samples))
  return tf.ensure_shape(part[:, None], [num_samples, 1])


def _slice(waveform, first, count):
  """Samples first … first + count - 1, zeros where there are none."""
  begin = tf.clip_by_value(first, 0, tf.size(waveform))
  end = tf.clip_by_value(first + count, 0, tf.size(waveform))
  before = tf.clip_by_value(-first, 0, count)
  return tf.pad(waveform[begin:end],
                [[before, count - before - (end - begin)]])


def resample(waveform: tf.Tensor, from_rate: tf.Tensor, to_rate: int,
             first: tf.Tensor, num_samples: int) -> tf.Tensor:
  """Resamples by a windowed sinc, band-limited to the lower of the rates.

  Args:
    waveform: int16 [N].
    from_rate: int32 [], samples a second.
    to_rate: wanted samples a second.
    first: int32 [], index in `waveform` of the first output sample; the filter
      needs 1 + 16 periods of the lower rate to each side.
    num_samples: S.

  Returns:
    int16 [S].

  Raises:
    tf.errors.InvalidArgumentError: the filter would be too large.
  """
  common, _ = tf.while_loop(
      lambda a, b: b > 0, lambda a, b: (b, tf.math.floormod(a, b)),
      [from_rate, tf.constant(to_rate)])
  # Every `step` input samples come `phases` output samples.
  step, phases = from_rate // common, to_rate // common
  ratio = tf.cast(step, tf.float64) / tf.cast(phases, tf.float64)
  scale = tf.minimum(tf.ones_like(ratio), 1.0 / ratio)
  half = tf.cast(tf.math.ceil(RESAMPLING_ZEROS / scale), tf.int32)
  taps = step + 2 * half + 1
  small = tf.debugging.Assert(
      tf.cast(taps, tf.int64) * tf.cast(phases, tf.int64)
      <= MAX_RESAMPLING_FILTER,
      ["cannot resample audio from", from_rate, "to", to_rate])
  with tf.control_dependencies([small]):
    # Time of a tap, in input samples, relative to the output sample.
    time = tf.range(taps, dtype=tf.int32) - half
    phase = tf.cast(tf.range(phases), tf.float64) * ratio
  time = tf.cast(time, tf.float64)[:, None] - phase  # [taps, phases]
  window = tf.where(
      tf.abs(time) <= tf.cast(half, tf.float64),
      tf.cos(time * (math.pi / 2) / tf.cast(half, tf.float64)) ** 2, 0.0)
  angle = math.pi * scale * time
  sinc = tf.where(tf.abs(angle) < 1e-9, tf.ones_like(angle),
                  tf.math.divide_no_nan(tf.sin(angle), angle))
  kernel = tf.cast(scale * sinc * window, tf.float32)  # [taps, phases]
  # A row of input samples for each block of output, `step` apart.
  blocks = (num_samples + phases - 1) // phases
  begin = first - half
  needed = (blocks - 1) * step + taps
  padded = tf.pad(waveform[tf.maximum(begin, 0):],
                  [[tf.maximum(-begin, 0), needed]])
  rows = tf.gather(tf.cast(padded, tf.float32),
                   tf.range(blocks)[:, None] * step + tf.range(taps))
  out = tf.reshape(tf.matmul(rows, kernel), [-1])[:num_samples]
  return tf.cast(tf.clip_by_value(tf.round(out), -32768, 32767), tf.int16)


# -----------------------------------------------------------------------------
# On the device, a batch.
# -----------------------------------------------------------------------------
def normalize_audio(audio: tf.Tensor) -> tf.Tensor:
  """Scales int16 sound to float32 in [-1, 1]."""
  return tf.cast(audio, tf.float32) / 32768.0


def augment_audio(audio: tf.Tensor, seed: tf.Tensor, augment: ConfigDict
                  ) -> tf.Tensor:
  """Changes loudness and speed of sounds, shifts them and adds noise.

  Args:
    audio: int16 [B, S, 1].
    seed: int32 [2], of the step.
    augment: has gain (least, most) factor; speed (least, most) of playback,
      about the middle of the window; shift, the most of the window; equalizer,
      the most decibels of a cosine of the gain; noise, standard deviation, as
      a share of the sound's largest magnitude.

  Returns:
    float32 [B, S, 1] in [-1, 1]; zeros are moved in from outside the window.
  """
  x = normalize_audio(audio)
  batch, samples = x.shape[:2]

  def draw(site, least, most):  # [B, 1]
    uniform = seeds.uniform_rows(batch, [1], seeds.fold(seed, site))
    return least + uniform * (most - least)

  if tuple(augment.gain) != (1.0, 1.0):
    x *= draw("gain", *augment.gain)[..., None]
  if tuple(augment.speed) != (1.0, 1.0) or augment.shift:
    middle = (samples - 1) / 2
    shift = tf.round(draw("shift", -augment.shift, augment.shift) * samples)
    source = (tf.range(samples, dtype=tf.float32) - shift - middle) * draw(
        "speed", *augment.speed) + middle
    x = _at(x[..., 0], source)[..., None]
  if augment.equalizer:
    uniform = seeds.uniform_rows(
        batch, [EQUALIZER_WAVES], seeds.fold(seed, "equalizer"))
    x = equalize(x, augment.equalizer * (2.0 * uniform - 1.0))
  if augment.noise:
    largest = tf.reduce_max(tf.abs(x), 1, keepdims=True)  # [B, 1, 1]
    x += augment.noise * largest * seeds.normal_rows(
        batch, [samples, 1], seeds.fold(seed, "noise"))
  return tf.clip_by_value(x, -1.0, 1.0)


def equalize(waveform: tf.Tensor, decibels: tf.Tensor) -> tf.Tensor:
  """Filters sounds as other rooms and microphones do: smoothly in frequency.

  Args:
    waveform: float32 [B, S, 1].
    decibels: float32 [B, n], of the n cosines that the gain is made of; over
      the mel axis the first has half a period, the second a whole one, ….

  Returns:
    float32 [B, S, 1], no longer held to [-1, 1].
  """
  samples, waves = waveform.shape[1], decibels.shape[1]
  # Half the rate is 1. Where mel is bent depends on the rate, but little.
  frequency = tf.linspace(0.0, 1.0, samples // 2 + 1)
  mel = tf.math.log1p(10.0 * frequency) / math.log1p(10.0)
  basis = tf.cos(math.pi * tf.range(1.0, waves + 1.0)[:, None] * mel)  # [n, K]
  gain = 10.0 ** (tf.matmul(decibels, basis) / 20.0)  # [B, K]
  spectrum = tf.signal.rfft(waveform[..., 0]) * tf.cast(gain, tf.complex64)
  return tf.signal.irfft(spectrum, [samples])[..., None]


def scale_loudness(waveform: tf.Tensor, rms: float) -> tf.Tensor:
  """Scales each window to a root mean square; a silent one stays silent.

  Args:
    waveform: float32 [B, S, 1].
    rms: of the result, over the whole window.

  Returns:
    float32 [B, S, 1], no longer held to [-1, 1].
  """
  found = tf.sqrt(tf.reduce_mean(tf.square(waveform), 1, keepdims=True))
  return waveform * tf.math.divide_no_nan(rms, found)


def _at(x, source):
  """Values of x [B, S] at positions [B, S]: linear between samples, 0 outside.
  """
  samples = x.shape[1]
  below = tf.floor(source)
  share = source - below
  below = tf.cast(below, tf.int32)

  def value(index):
    inside = (index >= 0) & (index < samples)
    index = tf.clip_by_value(index, 0, samples - 1)
    return tf.where(inside, tf.gather(x, index, batch_dims=1), 0.0)

  return value(below) * (1.0 - share) + value(below + 1) * share


def mel_frames(num_samples: int, rate: int, step_s: float = 1024 / 48000
               ) -> int:
  """The number of frames F that `log_mel` makes of a window."""
  return -(-num_samples // round(rate * step_s))


def log_mel(waveform: tf.Tensor, rate: int, window_s: float = 2048 / 48000,
            step_s: float = 1024 / 48000, bins: int = 80, low: float = 80.0,
            high: float = 7600.0) -> tf.Tensor:
  """Mel spectrograms: log(1 + 10⁴·magnitude), each clip scaled to [0, 1].

  The defaults are the released model's: windows of 42.7 ms a step of 21.3 ms
  (the paper's 42 and 21).

  Args:
    waveform: float32 [B, S, 1] in [-1, 1].
    rate: samples a second.
    window_s, step_s: seconds.
    bins: M, number of mel bins.
    low, high: Hz, the outer edges of the bins; never above half the rate.

  Returns:
    float32 [B, F, M, 1], F = ceil(S / step), the last frames padded with zeros;
    zeros for a silent clip.
  """
  window, step = round(rate * window_s), round(rate * step_s)
  fft = 2 ** math.ceil(math.log2(window))
  spectrum = tf.abs(tf.signal.stft(
      tf.cast(waveform[..., 0], tf.float32), window, step, fft, pad_end=True))
  to_mel = tf.signal.linear_to_mel_weight_matrix(
      bins, fft // 2 + 1, rate, low, min(high, rate / 2))
  mel = tf.math.log(1.0 + 1e4 * tf.matmul(spectrum, to_mel))
  least = tf.reduce_min(mel, [1, 2], keepdims=True)
  most = tf.reduce_max(mel, [1, 2], keepdims=True)
  return tf.math.divide_no_nan(mel - least, most - least)[..., None]


def augment_spectrogram(mel: tf.Tensor, seed: tf.Tensor, augment: ConfigDict
                        ) -> tf.Tensor:
  """Warps the frequency axis and masks frames and bins of spectrograms.

  Args:
    mel: float32 [B, F, M, 1] in [0, 1].
    seed: int32 [2], of the step.
    augment: has freq_warp (least, most) factor of the mel axis; time_masks,
      freq_masks, how many; time_mask_width, freq_mask_width, their largest
      widths in frames and bins.

  Returns:
    float32 [B, F, M, 1], 0 where masked.
  """
  batch, frames, bins, _ = mel.shape
  if tuple(augment.freq_warp) != (1.0, 1.0):
    least, most = augment.freq_warp
    factor = least + (most - least) * seeds.uniform_rows(
        batch, [1, 1], seeds.fold(seed, "freq_warp"))
    bin_ = tf.range(bins, dtype=tf.float32)
    # Bin m is taken at m / factor: weights of the two bins next to that.
    source = tf.minimum(bin_ / factor, bins - 1.0)  # [B, 1, M]
    weights = tf.nn.relu(1.0 - tf.abs(bin_[:, None] - source))  # [B, M, M]
    mel = tf.matmul(mel[..., 0], weights)[..., None]
  if augment.time_masks:
    keep = _mask_spans(
        batch, frames, augment.time_masks, augment.time_mask_width,
        seeds.fold(seed, "time_masks"))
    mel *= keep[:, :, None, None]
  if augment.freq_masks:
    keep = _mask_spans(
        batch, bins, augment.freq_masks, augment.freq_mask_width,
        seeds.fold(seed, "freq_masks"))
    mel *= keep[:, None, :, None]
  return mel


def _mask_spans(batch, length, count, width, seed):
  """float32 [B, length], 0 within `count` spans of 0 … width, else 1."""
  draw = seeds.uniform_rows(batch, [count, 2, 1], seed)
  widths = tf.floor(draw[:, :, 0] * (min(width, length) + 1))  # [B, count, 1]
  first = tf.floor(draw[:, :, 1] * (length - widths + 1))
  index = tf.range(length, dtype=tf.float32)
  inside = (index >= first) & (index < first + widths)
  return tf.cast(~tf.reduce_any(inside, 1), tf.float32)
