import functools
import types

import numpy as np
import pytest
import scipy.signal
import tensorflow as tf

from tests.data.conftest import check_rows_are_changed_alike
from vatt import seeds
from vatt.data import audio

OFF = dict(gain=(1.0, 1.0), speed=(1.0, 1.0), shift=0.0, equalizer=0.0,
           noise=0.0, time_masks=0, time_mask_width=0, freq_masks=0,
           freq_mask_width=0, freq_warp=(1.0, 1.0))


def augmentation(**changes):
  return types.SimpleNamespace(**(OFF | changes))


def cut(waveform, stored_rate, start, num_samples, rate):
  return audio.cut_audio(
      tf.constant(waveform, tf.int16), tf.constant(stored_rate),
      tf.constant(start, tf.float64), num_samples, rate)


# -----------------------------------------------------------------------------
# On the host.
# -----------------------------------------------------------------------------
def test_samples_of_pcm(records):
  pcm = np.array([0, 1, -1, 32767, -32768], "<i2").tobytes()
  for got in audio.samples(tf.constant(pcm)), records.in_dataset(
      audio.samples, tf.constant(pcm)):
    assert got.dtype == tf.int16
    assert got.numpy().tolist() == [0, 1, -1, 32767, -32768]
  assert audio.samples(tf.constant("")).shape == [0]
  with pytest.raises(tf.errors.InvalidArgumentError):
    audio.samples(tf.constant("odd"))


def test_floats(records):
  stored = np.float32([0, 0.5, -0.25, 1, -1, 1.5, -2, 1e-5, 0.3, 0.7])
  lost = np.where(np.arange(10) == 3, np.nan, stored)
  # 32768 times that, to the nearest and clipped.
  want = np.array([0, 16384, -8192, 32767, -32768, 32767, -32768, 0, 9830,
                   22938])
  for floats, expected in (
      (stored, want), (lost, np.where(np.isnan(lost), 0, want)), ([], [])):
    floats = tf.constant(floats, tf.float32)
    for got in audio.from_floats(floats), records.in_dataset(
        audio.from_floats, floats):
      assert got.dtype == tf.int16
      np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("floats, found", [
    ([0.1, 2.5, -0.5], "-0.5 to 2.5, 0 of 3"),
    ([0.1, -32768.0, 0.5], "-32768 to 0.5, 0 of 3"),
    ([0.1] * 8 + [np.nan, -np.inf], "0 to 0.1, 2 of 10")])
def test_floats_that_are_no_sound(floats, found):
  with pytest.raises(tf.errors.InvalidArgumentError, match=(
      f"samples from {found} not finite, expected finite .* f32le")):
    tf.function(audio.from_floats)(tf.constant(floats))


@pytest.mark.parametrize("channels", [1, 2])
def test_samples_of_flac(records, channels):
  sound = np.stack([records.tone(i, 0.2) for i in range(channels)], 1)
  stored = tf.constant(records.flac(sound, 8000))
  def decode(stored):
    return audio.samples(stored, flac=True)
  for got in decode(stored), records.in_dataset(decode, stored):
    np.testing.assert_allclose(got, sound.mean(1), atol=0.51)
  assert decode(tf.constant("")).shape == [0]
  # Of the same source, from another writer.
  assert decode(tf.constant(b"\1\0\2\0")).numpy().tolist() == [1, 2]


def test_flac_that_was_not_expected_is_no_noise(records):
  stored = tf.constant(records.flac(records.tone(0, 0.2)[:, None], 8000))
  for run in audio.samples, functools.partial(records.in_dataset,
                                              audio.samples):
    with pytest.raises(tf.errors.InvalidArgumentError, match="sound is FLAC"):
      run(stored)


def test_cut_audio_at_its_own_rate(records):
  waveform = np.arange(1, 11)
  cases = [(0.0, 4, [1, 2, 3, 4]), (3.0, 4, [4, 5, 6, 7]),
           (8.0, 4, [9, 10, 0, 0]), (20.0, 2, [0, 0]), (0.0, 0, [])]
  for start, n, expected in cases:
    got = cut(waveform, 1, start, n, 1)
    assert got.shape == [n, 1] and got.dtype == tf.int16
    assert got[:, 0].numpy().tolist() == expected
  inside = records.in_dataset(
      lambda w, r, s: audio.cut_audio(w, r, s, 4, 1),
      tf.constant(waveform, tf.int16), tf.constant(1),
      tf.constant(8.0, tf.float64))
  assert inside[:, 0].numpy().tolist() == [9, 10, 0, 0]


def test_no_audio_gives_zeros_whatever_its_rate():
  assert not cut([], 0, 0.0, 5, 8000).numpy().any()


def sine(hertz, rate, seconds, start=0.0):
  t = start + np.arange(round(seconds * rate)) / rate
  return 10000 * np.sin(2 * np.pi * hertz * t)


@pytest.mark.parametrize("stored_rate,rate", [
    (8000, 16000), (16000, 8000), (44100, 48000), (48000, 44100),
    (44100, 8000), (11025, 16000), (8000, 48000)])
@pytest.mark.parametrize("start", [0.0, 0.25])
def test_resampling_keeps_tones_in_time(records, stored_rate, rate, start):
  seconds = 0.5
  for hertz in (110.0, 0.4 * min(stored_rate, rate)):
    stored = np.int16(np.round(sine(hertz, stored_rate, 1.0)))
    got = cut(stored, stored_rate, start, round(seconds * rate), rate)[:, 0]
    first = round(start * stored_rate) / stored_rate  # Starts at a sample.
    expected = sine(hertz, rate, seconds, first)
    inner = slice(200, -200) if start == 0.0 else slice(None)
    assert np.abs(got.numpy() - expected)[inner].max() < 40  # Of 10,000.


def test_resampling_removes_what_the_lower_rate_cannot_hold():
  stored = np.int16(np.round(sine(6500, 16000, 1.0)))
  got = cut(stored, 16000, 0.25, 4000, 8000).numpy()
  assert np.abs(got).max() < 30  # Of 10,000.


def test_resampling_is_close_to_scipy(records):
  rng = np.random.default_rng(0)
  noise = scipy.signal.lfilter(*scipy.signal.butter(6, 0.5), rng.normal(
      size=4410)) * 5000
  got = cut(np.int16(noise), 44100, 0.0, 4800, 48000).numpy()[:, 0]
  expected = scipy.signal.resample_poly(np.int16(noise), 160, 147)
  error = (got - expected)[300:-300]
  assert error.std() < 0.005 * expected.std()


def test_resampling_in_tf_data(records):
  stored = np.int16(sine(440, 8000, 1.0))
  inside = records.in_dataset(
      lambda w, r, s: audio.cut_audio(w, r, s, 2400, 48000),
      tf.constant(stored), tf.constant(8000), tf.constant(0.125, tf.float64))
  np.testing.assert_array_equal(inside, cut(stored, 8000, 0.125, 2400, 48000))


def test_rates_without_a_short_common_period_are_an_error():
  with pytest.raises(tf.errors.InvalidArgumentError, match="(?s)47999.*48000"):
    cut(np.zeros(100), 47999, 0.0, 50, 48000)


# -----------------------------------------------------------------------------
# On the device.
# -----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def batch(records):
  # With noise: a pure tone's log spectrum shows how the FFT rounds.
  tones = np.stack([records.tone(10 * i, 0.1) for i in range(6)])
  noise = np.random.default_rng(0).normal(0, 300, tones.shape)
  return tf.constant(np.int16(tones + noise)[..., None])


def test_normalize_audio():
  x = audio.normalize_audio(tf.constant([[-32768], [0], [16384]], tf.int16))
  assert x.numpy()[:, 0].tolist() == [-1.0, 0.0, 0.5]


def test_scale_loudness():
  x = np.float32([[0.3, -0.4, 0, 0], [0, 0, 0, 0], [2, 2, -2, 2]])[..., None]
  got = audio.scale_loudness(tf.constant(x), 0.5)
  np.testing.assert_allclose(got[..., 0], [
      [0.6, -0.8, 0, 0], [0, 0, 0, 0], [0.5, 0.5, -0.5, 0.5]], rtol=1e-6)


def test_augment_audio_without_augmentation_normalizes(batch):
  got = audio.augment_audio(batch, seeds.root(0), augmentation())
  np.testing.assert_array_equal(got, batch.numpy() / 32768)


def test_noise_has_the_deviation_asked_for_and_is_clipped():
  """A share of each sound's largest magnitude: none in silence."""
  largest = np.array([0, 4096, 8192, -16384])
  sounds = np.zeros([4, 20000, 1], np.int16)
  sounds[:, 0, 0] = largest
  got = audio.augment_audio(
      tf.constant(sounds), seeds.root(1), augmentation(noise=0.01)).numpy()
  assert not got[0].any()
  noise = (got[..., 0] - sounds[..., 0] / 32768)[1:]
  noise /= np.abs(largest[1:, None]) / 32768
  np.testing.assert_allclose(noise.std(axis=1), 0.01, rtol=0.02)
  assert np.abs(noise.mean(axis=1)).max() < 3e-4
  assert np.abs(np.corrcoef(noise) - np.eye(3)).max() < 0.03  # each its own
  loud = tf.fill([2, 500, 1], tf.constant(32767, tf.int16))
  assert np.abs(audio.augment_audio(
      loud, seeds.root(1), augmentation(noise=0.5))).max() <= 1.0


def test_noise_is_a_share_of_the_sound_as_it_is_changed(batch):
  soft, loud = (audio.augment_audio(batch, seeds.root(1), augmentation(
      noise=0.1, gain=(gain, gain))) for gain in (0.25, 0.5))
  np.testing.assert_allclose(2 * soft, loud, rtol=1e-5, atol=1e-7)


def test_a_sound_is_changed_alike_in_any_batch_and_on_any_replica(batch):
  """To the last bit, but for the equalizer's transforms."""
  augment = augmentation(
      gain=(0.5, 1.5), speed=(0.9, 1.1), shift=0.1, noise=0.1)
  check_rows_are_changed_alike(
      lambda batch: audio.augment_audio(batch, seeds.root(1), augment), batch)


def test_gain(batch):
  got = audio.augment_audio(batch, seeds.root(2), augmentation(gain=(0.2, 0.9)))
  plain = batch.numpy() / 32768
  factors = (got.numpy() * plain).sum((1, 2)) / (plain ** 2).sum((1, 2))
  np.testing.assert_allclose(got, plain * factors[:, None, None], atol=1e-6)
  assert (0.2 < factors).all() and (factors < 0.9).all()
  assert len(set(factors.round(4))) == 6


def test_equalizer_raises_and_lowers_tones_by_its_cosines():
  rate, hertz = 8_000, np.array([100, 440, 1_000, 3_999])
  tones = np.stack([0.1 * np.sin(2 * np.pi * f * np.arange(rate) / rate + 0.3)
                    for f in hertz]).astype(np.float32)
  decibels = np.float32([[6, -3, 2], [0, 0, 0], [-4, 5, 1], [3, 3, -3]])
  mel = np.log(1 + 10 * hertz / 4_000) / np.log(11)
  want = [10 ** (sum(d * np.cos(np.pi * (k + 1) * m)
                     for k, d in enumerate(row)) / 20)
          for row, m in zip(decibels, mel)]
  got = audio.equalize(tf.constant(tones[..., None]), tf.constant(decibels))
  np.testing.assert_allclose(
      got[..., 0], tones * np.array(want)[:, None], atol=1e-5)


def test_equalizer_is_drawn_for_each_sound(batch):
  got = audio.augment_audio(batch, seeds.root(4), augmentation(equalizer=6.0))
  spectra = np.abs(np.fft.rfft(np.stack([batch[..., 0] / 32768, got[..., 0]])))
  gains = 20 * np.log10(spectra[1] / spectra[0])[:, 1:-1:40]  # [B, K]
  assert np.abs(gains).max() <= 4 * 6.0 + 0.1
  assert (np.ptp(gains, axis=0) > 1.0).all()  # from sound to sound
  assert (np.ptp(gains, axis=1) > 1.0).all()  # from frequency to frequency


def test_shift_moves_and_fills_with_zeros(batch):
  got = audio.augment_audio(batch, seeds.root(3), augmentation(shift=0.25))
  shifts = []
  for sample, before in zip(got.numpy()[..., 0], batch.numpy()[..., 0] / 32768):
    for shift in range(-200, 201):
      moved = np.zeros(800)
      moved[max(shift, 0):800 + min(shift, 0)] = before[
          max(-shift, 0):800 - max(shift, 0)]
      if np.array_equal(np.float32(moved), sample):
        shifts.append(shift)
        break
  assert len(shifts) == 6 and len(set(shifts)) > 3
  assert min(shifts) < 0 < max(shifts)


def test_speed_raises_the_pitch_about_the_middle(records):
  waveform = tf.constant(records.tone(10, 1.0))[None, :, None]  # 400 Hz.
  got = audio.augment_audio(waveform, seeds.root(0), augmentation(
      speed=(1.25, 1.25))).numpy()[0, :, 0]
  middle = (8000 - 1) / 2
  t = ((np.arange(8000) - middle) * 1.25 + middle) / 8000
  expected = 12000 / 32768 * np.sin(2 * np.pi * 400 * t)
  expected[(t < 0) | (t > 7999 / 8000)] = 0
  # Linear between samples: (2πf/rate)²/8 of the amplitude at most.
  assert np.abs(got - expected)[900:7100].max() < 0.37 * 0.0124 + 1e-3
  assert not got[:790].any() and not got[-790:].any()


def test_mel_frames():
  assert audio.mel_frames(153600, 48000) == 150  # As SPEC's patches need.
  assert audio.mel_frames(9600, 48000) == 10
  assert audio.mel_frames(8000, 8000) == audio.log_mel(
      tf.zeros([1, 8000, 1]), 8000).shape[1] == 47


def hand_mel(waveform, rate, window, step, fft, bins, low, high):
  """Log-mel in NumPy: magnitudes, triangles on the HTK mel scale."""
  frames = -(-len(waveform) // step)
  padded = np.pad(waveform, [0, frames * step + window])
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
  magnitude = np.abs(np.stack([
      np.fft.rfft(padded[f * step:f * step + window] * hann, fft)
      for f in range(frames)]))
  to_mel = lambda hertz: 1127 * np.log(1 + np.asarray(hertz) / 700)
  edges = np.linspace(to_mel(low), to_mel(high), bins + 2)
  mels = to_mel(np.arange(1, fft // 2 + 1) * rate / fft)[:, None]
  rising = (mels - edges[:-2]) / (edges[1:-1] - edges[:-2])
  falling = (edges[2:] - mels) / (edges[2:] - edges[1:-1])
  weights = np.maximum(0, np.minimum(rising, falling))
  mel = np.log(1 + 1e4 * magnitude[:, 1:] @ weights)
  return (mel - mel.min()) / (mel.max() - mel.min())


def test_log_mel_at_another_rate_by_hand(batch, records):
  waveform = audio.normalize_audio(batch)
  got = audio.log_mel(waveform, 8000, 0.032, 0.01, bins=20, high=9999.0)
  assert got.shape == [6, 10, 20, 1]
  for sample, sound in zip(got.numpy()[..., 0], waveform.numpy()[..., 0]):
    np.testing.assert_allclose(
        sample, hand_mel(sound, 8000, 256, 80, 256, 20, 80, 4000), atol=5e-4)
  def compute(waveform):
    return audio.log_mel(tf.ensure_shape(waveform, [6, 800, 1]), 8000)
  expected = compute(waveform)
  for other in (records.in_dataset(compute, waveform),
                tf.function(compute, jit_compile=True)(waveform)):
    np.testing.assert_allclose(other, expected, atol=1e-4)


def test_log_mel_of_silence_is_finite():
  assert not audio.log_mel(tf.zeros([2, 8000, 1]), 8000).numpy().any()


def test_masks_of_spectrograms():
  mel = tf.ones([300, 20, 16, 1])
  got = audio.augment_spectrogram(mel, seeds.root(0), augmentation(
      time_masks=1, time_mask_width=6)).numpy()[..., 0]
  assert ((got == 0) | (got == 1)).all()
  assert (got == got[:, :, :1]).all()  # All bins of a frame alike.
  blank = 1 - got[:, :, 0]  # [300, 20]
  widths = blank.sum(1)
  assert set(widths) == set(range(7))
  assert (np.abs(np.diff(blank, axis=1)).sum(1) <= 2).all()  # One stripe.
  assert blank.any(0).all()  # Anywhere.
  got = audio.augment_spectrogram(mel, seeds.root(0), augmentation(
      freq_masks=2, freq_mask_width=99)).numpy()[..., 0]
  assert (got == got[:, :1]).all()
  assert (got.min((1, 2)) == 0).mean() > 0.9


def test_frequency_warp_is_a_stretch_of_the_mel_axis():
  # A line at bin 6 is at bin 6·factor afterwards.
  mel = np.zeros([1, 5, 30, 1], np.float32)
  mel[:, :, 6] = 1.0
  got = audio.augment_spectrogram(
      tf.constant(mel), seeds.root(0), augmentation(freq_warp=(1.5, 1.5)))
  assert got.numpy()[0, 0, :, 0].argmax() == 9
  # A ramp of bins, shrunk: at bin m is m / factor, the last one at the top.
  ramp = np.broadcast_to(
      np.arange(30, dtype=np.float32)[:, None], [1, 5, 30, 1])
  got = audio.augment_spectrogram(
      tf.constant(ramp), seeds.root(0), augmentation(freq_warp=(0.8, 0.8)))
  expected = np.minimum(np.arange(30) / 0.8, 29)
  np.testing.assert_allclose(got[0, 2, :, 0], expected, atol=1e-4)


def test_augmentation_by_seed_in_tf_data_and_compiled(batch, records):
  every = augmentation(
      gain=(0.5, 1.5), speed=(0.9, 1.1), shift=0.1, equalizer=3.0, noise=0.01,
      time_masks=2, time_mask_width=2, freq_masks=2, freq_mask_width=5,
      freq_warp=(0.9, 1.1))
  def change(batch, seed):
    x = audio.augment_audio(tf.ensure_shape(batch, [6, 800, 1]), seed, every)
    return audio.augment_spectrogram(audio.log_mel(x, 8000), seed, every)
  seed = seeds.root(3)
  expected = change(batch, seed)
  np.testing.assert_array_equal(expected, change(batch, seed))
  assert np.abs(expected - change(batch, seeds.root(4))).max() > 0.1
  np.testing.assert_allclose(
      records.in_dataset(change, batch, seed), expected, atol=1e-4)
  np.testing.assert_allclose(
      tf.function(change, jit_compile=True)(batch, seed), expected, atol=1e-3)
