"""Records of media, read back by what reads records."""
import io

import av
import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from vatt.data import audio
from vatt.data.ingest import encoding
from vatt.data.ingest import media as media_lib


def test_encoded_frames_and_samples(tmp_path, media):
  path = media.write_media(
      tmp_path / "a.mp4", [media.numbered(i) for i in range(50)],
      media.clicks([0.5], 2))
  clip = media_lib.read(path, 0.5, 1.5, fps=8, size=40, audio_rate=16000)
  frames, sound, length, damage = encoding.read_encoded(
      path, 0.5, 1.5, 8, 40, 16000)
  assert length == 1 and len(frames) == 8
  for data, frame in zip(frames, clip.frames):
    decoded = tf.io.decode_jpeg(data).numpy()
    assert decoded.shape == frame.shape == (40, 133, 3)
    assert np.abs(decoded.astype(int) - frame).mean() < 4
  np.testing.assert_array_equal(np.frombuffer(sound, "<i2"), clip.audio)
  _, flac, *_ = encoding.read_encoded(path, 0.5, 1.5, 8, 40, 16000, "flac")
  assert flac[:4] == b"fLaC" and len(flac) < len(sound) / 4
  np.testing.assert_array_equal(decode(flac), clip.audio)


def test_jpeg_is_of_high_quality():
  chance = np.random.default_rng(0)
  noise = scipy.ndimage.gaussian_filter(
      chance.normal(size=[96, 128, 1]), [2, 2, 0])
  image = 127 + 60 * noise / np.abs(noise).max()
  image[30:60, 40:90] += 60
  image = np.repeat(np.uint8(image), 3, 2)
  data = encoding.JpegEncoder()(image)
  error = image - tf.io.decode_jpeg(data).numpy().astype(float)
  assert 10 * np.log10(255 ** 2 / np.square(error).mean()) > 38.5  # dB
  # The quantisers, T.81 B.2.4.1: those of quality 90 are 20 % of table K.1,
  # whose mean is 57.6; those of 95 are 10 %.
  tables = data[data.index(b"\xff\xdb") + 4:][1:65]
  assert 0.1 * 57.6 < np.frombuffer(tables, np.uint8).mean() < 0.2 * 57.6


def test_jpeg_keeps_colours():
  """As JFIF has it: BT.601, full range."""
  colours = np.uint8([[230, 40, 20], [30, 200, 60], [20, 60, 240], [0, 0, 0],
                      [255, 255, 255], [128, 128, 128]])
  image = np.repeat(np.repeat(colours[None], 16, 0), 16, 1)
  decoded = tf.io.decode_jpeg(encoding.JpegEncoder()(image)).numpy()
  np.testing.assert_allclose(decoded[8, 8::16].astype(int), colours, atol=3)


def decode(flac):
  """The samples of a FLAC file, by FFmpeg."""
  with av.open(io.BytesIO(flac)) as container:
    return np.concatenate(
        [frame.to_ndarray()[0] for frame in container.decode(audio=0)])


# Blocks have 4608 samples at 48 kHz, and 192 at 2.
@pytest.mark.parametrize("count, rate", [
    (1, 48000), (15, 8000), (193, 2000), (4608, 48000), (9217, 48000),
    (1000, 999_999)])
def test_flac_is_lossless(count, rate):
  noise = np.random.default_rng(count).integers(
      -32768, 32768, count).astype(np.int16)
  flac = encoding.encode_flac(noise, rate)
  np.testing.assert_array_equal(decode(flac), noise)
  np.testing.assert_array_equal(
      audio.samples(tf.constant(flac), flac=True), noise)
