"""Records of media, read back by what reads records."""
import gc
import io

import av
import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from vatt.data import audio
from vatt.data.ingest import encoding, pictures
from vatt.data.ingest import media as media_lib
from vatt.data.ingest.media import MediaError


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
    assert decoded.shape == frame.shape == (40, 134, 3)
    assert np.abs(decoded.astype(int) - frame).mean() < 4
  np.testing.assert_array_equal(np.frombuffer(sound, "<i2"), clip.audio)
  _, flac, *_ = encoding.read_encoded(path, 0.5, 1.5, 8, 40, 16000, "flac")
  assert flac[:4] == b"fLaC" and len(flac) < len(sound) / 4
  np.testing.assert_array_equal(decode(flac), clip.audio)


def encode(image, quantizer=encoding.BEST):
  """A picture, uint8 [H, W, 3], as JPEG."""
  return encoding.JpegEncoder(quantizer).encode(pictures.ycbcr(image))


def quantizers(data):
  """Those of a JPEG file for luma, T.81 B.2.4.1: float [64]."""
  return np.frombuffer(
      data[data.index(b"\xff\xdb") + 5:][:64], np.uint8).astype(float)


def test_jpeg_is_of_high_quality():
  chance = np.random.default_rng(0)
  noise = scipy.ndimage.gaussian_filter(
      chance.normal(size=[96, 128, 1]), [2, 2, 0])
  image = 127 + 60 * noise / np.abs(noise).max()
  image[30:60, 40:90] += 60
  image = np.repeat(np.uint8(image), 3, 2)
  data = encode(image)
  error = image - tf.io.decode_jpeg(data).numpy().astype(float)
  assert 10 * np.log10(255 ** 2 / np.square(error).mean()) > 38.5  # dB
  # Those of quality 90 are 20 % of table K.1, whose mean is 57.6; those of 95
  # are 10 %.
  assert 0.1 * 57.6 < quantizers(data).mean() < 0.2 * 57.6
  # Coarser ones are multiples of them, and take less room.
  for quantizer in 3, 4, 8:
    coarse = encode(image, quantizer)
    np.testing.assert_allclose(
        quantizers(coarse)[1:], quantizers(data)[1:] * quantizer / 2,
        atol=quantizer / 2)
    assert len(coarse) < len(data)


def test_jpeg_keeps_colours():
  """As JFIF has it: BT.601, full range."""
  colours = np.uint8([[230, 40, 20], [30, 200, 60], [20, 60, 240], [0, 0, 0],
                      [255, 255, 255], [128, 128, 128]])
  image = np.repeat(np.repeat(colours[None], 16, 0), 16, 1)
  decoded = tf.io.decode_jpeg(encode(image)).numpy()
  np.testing.assert_allclose(decoded[8, 8::16].astype(int), colours, atol=3)


# ---- all clips of a file

SPANS = [(0.0, 2.0), (0.4, 3.0), (2.0, 4.0), (3.5, 6.5), (9.0, None)]


@pytest.fixture(scope="module")
def long_film(tmp_path_factory, media):
  """20 s with B-frames and noise in AAC; one that says its keyframes, one with
  a single one."""
  chance = np.random.default_rng(0)
  pictures = [media.numbered(i % 256) for i in range(200)]
  noise = np.float32(0.1 * chance.normal(size=[1, 20 * 48000]))
  folder = tmp_path_factory.mktemp("films")
  return [media.write_media(
      folder / f"{gop}.{suffix}", pictures, noise, rate=10, gop=gop, b_frames=2)
          for gop, suffix in ((10, "mp4"), (1000, "mkv"))]


def test_clips_of_a_pass_are_those_read_alone(long_film):
  for path in long_film:
    for spans in SPANS, [(0.0, 1.0), (12.0, 13.0), (19.0, 20.0)]:
      clips = list(encoding.read_clips(path, spans, 5, 24, 48000))
      assert clips == [encoding.read_encoded(path, *span, 5, 24, 48000)
                       for span in spans]
      assert len({clip.audio[-9000:] for clip in clips}) == len(spans)


def test_decoders_of_sound_end_with_their_clips(long_film):
  """One of AAC has 1.3 MB, and a file hundreds of clips."""
  gc.collect()
  gc.disable()
  try:
    clips = encoding.read_clips(
        long_film[0], [(float(i), i + 1.0) for i in range(19)], 1, 24, 8000)
    for _ in range(15):
      next(clips)
    assert sum(isinstance(one, av.AudioCodecContext)
               for one in gc.get_objects()) < 5
  finally:
    gc.enable()


def test_a_clip_that_cannot_be_read_costs_itself_alone(
    long_film, monkeypatch):
  path = long_film[0]
  spans = [(0.0, 2.0), (1.0, 1.0), (2.0, 4.0), (4.0, 6.0), (19.0, 23.0)]
  encoder, encoded = encoding.JpegEncoder.encode, []

  def encode(self, frame):
    encoded.append(frame)
    if len(encoded) == 12:
      raise av.error.InvalidDataError(1, "this picture")
    return encoder(self, frame)

  monkeypatch.setattr(encoding.JpegEncoder, "encode", encode)
  clips = list(encoding.read_clips(path, spans, 5, 24, 48000))
  assert [type(clip) for clip in clips] == [
      encoding.Encoded, MediaError, MediaError, encoding.Encoded, MediaError]
  assert str(clips[1]).startswith("0.000 s long, expected")
  assert "this picture" in str(clips[2])
  assert "the file ends at 20.0" in str(clips[4])
  monkeypatch.undo()
  for i in 0, 3:
    assert clips[i] == encoding.read_encoded(path, *spans[i], 5, 24, 48000)


def test_a_file_that_cannot_be_read_is_said_for_each_clip(tmp_path):
  path = tmp_path / "a.mp4"
  path.write_bytes(b"no media")
  clips = list(encoding.read_clips(str(path), SPANS, 5, 24, 48000))
  assert [type(clip) for clip in clips] == len(SPANS) * [MediaError]
  assert str(clips[-1]).startswith("no readable media")


def test_sound_of_another_file_is_read_in_a_pass(
    tmp_path, media, monkeypatch):
  mute = media.write_media(
      tmp_path / "a.mp4", [media.numbered(i) for i in range(60)], rate=10)
  sound = media.write_media(
      tmp_path / "b.m4a", sound=media.clicks(np.arange(0.5, 6), 6))
  spans = [(0.0, 2.0), (1.0, 1.0), (2.0, 3.0), (3.0, None)]
  opened, read = [], media_lib.av.open
  monkeypatch.setattr(media_lib.av, "open", lambda path, *args, **kwargs: (
      opened.append(path), read(path, *args, **kwargs))[1])
  clips = list(encoding.read_clips(
      mute, spans, 5, 24, 8000, "pcm", sound))
  # To know its length, which takes two, and to read it.
  assert opened.count(sound) == 3
  assert isinstance(clips.pop(1), MediaError)
  for clip, (start, length) in zip(clips, ((0, 2), (2, 1), (3, 3))):
    samples = np.abs(np.frombuffer(clip.audio, "<i2").astype(int))
    assert len(samples) == 8000 * length and clip.length == length
    loud = np.flatnonzero(samples > 8000) / 8000 + start
    assert set(np.floor(loud)) == set(range(start, start + length))
    np.testing.assert_allclose(loud % 1, 0.5, atol=0.02)
    assert not clip.damage


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
