"""Clips in the form of a record: frames as JPEG, sound as PCM or FLAC."""
import functools
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np

from vatt.data.ingest import media
from vatt.data.ingest.pictures import FULL, Screen

AUDIO = ("pcm", "flac")  # how a record keeps sound
# How coarse JPEG may be, as FFmpeg's -q:v counts: the finest is about the
# quality 90 of libjpeg.
BEST, WORST = 2, 31


class Encoded(NamedTuple):
  """A clip in the form of a record.

  Attributes:
    frames: JPEG files; [] if it has none.
    audio: int16 little-endian PCM or FLAC; b"" if it has none.
    length: seconds.
    damage: what of it is damaged, or "".
  """
  frames: list[bytes]
  audio: bytes
  length: float
  damage: str


def read_encoded(path: str, start: float, end: float | None, *args: Any,
                 **kwargs: Any) -> Encoded:
  """Reads a clip in the form of a record: see `read_clips`, which has the
  other arguments.

  Raises:
    MediaError: it cannot be read.
  """
  clip, = read_clips(path, [(start, end)], *args, **kwargs)
  if isinstance(clip, media.MediaError):
    raise clip
  return clip


def read_clips(path: str, spans: Sequence[tuple[float, float | None]],
               fps: float, size: int, audio_rate: int, audio: str = "pcm",
               sound_path: str = "", jpeg: int = BEST
               ) -> Iterator[Encoded | media.MediaError]:
  """Reads clips of a file in the form of records, in one pass.

  Args:
    path, spans, fps, size, audio_rate: those of `media.read_clips`.
    audio: one of AUDIO.
    sound_path: of a file of the same clock that has the sound, if that of
      `path` has none.
    jpeg: how coarse frames are, BEST to WORST.

  Yields:
    For each span its clip, or why it cannot be read: what is wrong with the
    file itself, for each of them.
  """
  read = functools.partial(
      media.read_clips, fps=fps, size=size, audio_rate=audio_rate)
  other = iter(())  # clips of sound_path, from the first that was needed
  for number, clip in enumerate(_each(
      spans, read(path, spans, convert=JpegEncoder(jpeg)))):
    sound = next(other, None)
    if isinstance(clip, media.MediaError):
      yield clip
      continue
    samples, damage = clip.audio, _damage(clip)
    if sound_path and (samples is None or not len(samples)):
      if sound is None:
        length, left = media.length(path), spans[number:]
        other = _each(left, read(sound_path, [
            (start, length if end is None else min(end, length))
            for start, end in left], kinds=("audio",)))
        sound = next(other)
      samples, lost = getattr(sound, "audio", None), _damage(sound)
      if lost:
        damage += "; " * bool(damage) + (
            f"{os.path.basename(sound_path)}: {lost}")
    data = b""
    if samples is not None and len(samples):
      data = (encode_flac(samples, audio_rate) if audio == "flac"
              else samples.astype("<i2").tobytes())
    yield Encoded(clip.frames or [], data, clip.end - clip.start, damage)


def _each(spans, clips):
  """The clip of each span; the error that ends them, for those behind it."""
  left = len(spans)
  try:
    for clip in clips:
      left -= 1
      yield clip
  except media.MediaError as error:
    yield from itertools.repeat(error, left)


def _damage(clip):
  """What of a clip is damaged, or ""."""
  if isinstance(clip, media.MediaError):
    return str(clip)
  return f"{clip.damaged} packets are damaged" if clip.damaged else ""


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
  """Encodes frames as JPEG.

  Args:
    quantizer: BEST to WORST.
  """

  def __init__(self, quantizer: int = BEST):
    self._context, self._quantizer = None, str(quantizer)

  def __call__(self, screen: Screen, frame: av.VideoFrame) -> bytes:
    """Encodes a frame as it looks on a screen."""
    return self.encode(screen.show_ycbcr(frame))

  def encode(self, frame: av.VideoFrame) -> bytes:
    """Encodes a frame of `pictures.ycbcr`."""
    context = self._context
    if not context or (context.height, context.width) != (
        frame.height, frame.width):
      context = self._context = av.CodecContext.create("mjpeg", "w")
      context.height, context.width = frame.height, frame.width
      context.pix_fmt, context.color_range = "yuv420p", FULL
      context.time_base = Fraction(1)
      context.thread_count = 1
      # qscale: no search for what a bit rate could be kept by.
      context.options = {"qmin": self._quantizer, "qmax": self._quantizer,
                         "flags": "+bitexact+qscale"}
    # Else they would have to ascend, in seconds.
    frame.pts, frame.time_base = None, context.time_base
    packet, = context.encode(frame)
    return bytes(packet)
