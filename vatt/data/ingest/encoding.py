"""Clips in the form of a record: frames as JPEG, sound as PCM or FLAC."""
import io
import os
from fractions import Fraction

import av
import numpy as np

from vatt.data.ingest import media
from vatt.data.ingest.pictures import Scaler

AUDIO = ("pcm", "flac")  # how a record keeps sound


def read_encoded(path: str, start: float, end: float | None, fps: float,
                 size: int, audio_rate: int, audio: str = "pcm",
                 sound_path: str = "") -> tuple[list[bytes], bytes, float, str]:
  """Reads a clip in the form of a record.

  Args:
    path, start, end, fps, size, audio_rate: those of `media.read`.
    audio: one of AUDIO.
    sound_path: of a file of the same clock that has the sound, if that of
      `path` has none.

  Returns:
    The frames as JPEG; the sound as int16 little-endian PCM or as FLAC, either
    empty if the clip has it not; the clip's length in seconds; and what of it
    is damaged, or "".
  """
  clip = media.read(path, start, end, fps=fps, size=size,
                    audio_rate=audio_rate, convert=JpegEncoder())
  samples, sound = clip.audio, b""
  damage = f"{clip.damaged} packets are damaged" if clip.damaged else ""
  if sound_path and (samples is None or not len(samples)):
    try:
      other = media.read(sound_path, clip.start, clip.end, fps=fps, size=size,
                         audio_rate=audio_rate)
      samples = other.audio
      lost = other.damaged and f"{other.damaged} packets are damaged"
    except media.MediaError as error:
      lost = str(error)
    if lost:
      damage += "; " * bool(damage) + f"{os.path.basename(sound_path)}: {lost}"
  if samples is not None and len(samples):
    sound = (encode_flac(samples, audio_rate) if audio == "flac"
             else samples.astype("<i2").tobytes())
  return clip.frames or [], sound, clip.end - clip.start, damage


def encode_flac(samples: np.ndarray, rate: int) -> bytes:
  """A FLAC file of sound: lossless.

  Args:
    samples: int16 [S], at least one.
    rate: samples a second.
  """
  file = io.BytesIO()
  # No padding, of 8 kB, and no name of who wrote it.
  with av.open(file, "w", format="flac", options={
      "metadata_header_padding": "0", "fflags": "+bitexact"}) as container:
    stream = container.add_stream(
        "flac", rate=rate, layout="mono", format="s16",
        options={"flags": "+bitexact"})
    stream.codec_context.open()  # chooses the size of its blocks
    block = stream.codec_context.frame_size
    for first in range(0, len(samples), block):
      frame = av.AudioFrame.from_ndarray(
          np.ascontiguousarray(samples[None, first:first + block]), "s16",
          "mono")
      frame.sample_rate, frame.pts = rate, first
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return file.getvalue()


class JpegEncoder:
  """Encodes frames as JPEG with about the quality 90 of libjpeg."""

  def __init__(self):
    self._context, self._scaler = None, Scaler()

  def __call__(self, frame: np.ndarray) -> bytes:
    """Encodes a frame, uint8 [H, W, 3]."""
    height, width, _ = frame.shape
    context = self._context
    if not context or (context.height, context.width) != (height, width):
      context = self._context = av.CodecContext.create("mjpeg", "w")
      context.height, context.width = height, width
      context.pix_fmt, context.time_base = "yuvj420p", Fraction(1)
      context.thread_count = 1
      context.options = {"qmin": "2", "qmax": "2", "flags": "+bitexact"}
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
    packet, = context.encode(self._scaler(
        frame, "yuvj420p", dst_colorspace="ITU601", dst_color_range="JPEG"))
    return bytes(packet)
