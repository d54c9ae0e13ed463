"""Reads frames and sound out of media files, whatever their container.

Times are seconds of the file's timeline: 0 is where players start it, and what
a stream has before that is cut. A stream that starts later than another keeps
its distance to it.
"""
import collections
import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import av
import numpy as np
from av.stream import Disposition

from vatt.data.ingest import pictures
from vatt.data.ingest.media_tracks import (
    AudioTrack,
    Late,
    MediaError,
    VideoTrack,
    frame_rate,
)

KINDS = ("video", "audio")
LONGEST = 600.0  # seconds of a clip: it is one record, and held in memory
LEAST = 0.1  # of a clip that a stream must have to be in it
NEAR = 10.0  # seconds between clips that are decoded rather than sought past
MAX_PIXELS = 8192 * 8192  # of a frame; damaged headers ask for any size
# Their headers do not have the length: it is a guess by the bit rate.
GUESSED = ("aac", "mp3")
LISTS = ("concat", "dash", "hls")  # what FFmpeg opens other files for
PICTURE = Disposition.attached_pic | Disposition.timed_thumbnails


class Media(NamedTuple):
  """A clip.

  Attributes:
    frames: uint8 [F, H, W, 3], or what `convert` made of each; frame i is on
      screen i / fps seconds after the clip's start. None without video.
    audio: int16 [S], mono. None without sound.
    start, end: seconds.
    damaged: number of packets that could not be decoded, or whose sound was not
      finite numbers: it is silence.
  """
  frames: np.ndarray | list[Any] | None
  audio: np.ndarray | None
  start: float
  end: float
  damaged: int


def length(path: str) -> float:
  """How long a local file is, in seconds.

  Raises:
    MediaError: it is no media, or has neither video nor sound.
  """
  return examine(path)[0]


def examine(path: str) -> tuple[float, dict[str, float]]:
  """How long a local file is, in seconds, and when what it has of KINDS ends.

  Raises:
    MediaError: it is no media, or has neither video nor sound.
  """
  with _open(path) as container:
    streams, length = _streams(container), _length(container)
    return length, {
        kind: min(length, _bounds(container, stream)[1])
        for kind, stream in zip(KINDS, streams) if stream}


def read(path: str, start: float = 0.0, end: float | None = None, *,
         fps: float = 10.0, size: int = 256, audio_rate: int = 48000,
         convert: Callable[[np.ndarray], Any] | None = None) -> Media:
  """Reads a clip of a file.

  Frames are as on screen: rotated, with square pixels. Sound before its
  stream's start is silence; a stream that ends within the clip is shorter than
  it; one that has less than LEAST of the clip is None.

  Args:
    path: of a local file.
    start: seconds.
    end: seconds, or None for the file's end. An end past that is moved to it,
      if the file has at least half of the clip.
    fps: frames a second of the clip.
    size: the frames' shorter side, in pixels; smaller ones stay as they are.
    audio_rate: samples a second of the clip.
    convert: None, or a function of a frame, uint8 [H, W, 3].

  Raises:
    MediaError: the file or clip cannot be read, or less than ENOUGH of it.
  """
  with _open(path) as container:
    duration = _duration(container)
    guessed = container.format.name in GUESSED
  if guessed or end is None:
    facts = os.stat(path)
    duration = _length_of(path, facts.st_size, facts.st_mtime_ns)
  end = duration if end is None else end
  if (end - duration) * 2 > end - start:
    raise MediaError(f"the file ends at {duration:.3f} s")
  end = min(end, duration)
  if not 0 < end - start <= LONGEST:
    raise MediaError(f"{end - start:.3f} s long, expected more than 0 and at "
                     f"most {LONGEST:.0f} s")
  clip, = read_clips(path, [(start, end)], fps=fps, size=size,
                     audio_rate=audio_rate, convert=convert)
  if isinstance(clip, MediaError):
    raise clip
  return clip


def read_clips(path: str, spans: Sequence[tuple[float, float]], *,
               fps: float = 10.0, size: int = 256, audio_rate: int = 48000,
               convert: Callable[[np.ndarray], Any] | None = None,
               kinds: Sequence[str] = KINDS) -> Iterator[Media | MediaError]:
  """Reads clips of a file, those that lie near each other in one pass.

  Args:
    path: of a local file.
    spans: (start, end) of each clip in seconds, within the file, in the order
      of their starts; they may overlap.
    fps, size, audio_rate, convert: those of `read`.
    kinds: of KINDS, what to read.

  Yields:
    Each clip as `read` returns it, or why it cannot be read.

  Raises:
    MediaError: the file cannot be read, or has nothing of these kinds.
  """
  first = 0
  while first < len(spans):
    last = first + 1
    while last < len(spans) and spans[last][0] - spans[last - 1][1] < NEAR:
      last += 1
    for back in (1.0, 10.0, 60.0, math.inf):
      try:
        with _open(path) as container:
          for clip in _read(container, spans[first:last], fps, size, audio_rate,
                            convert, kinds, spans[first][0] - back):
            first += 1
            yield clip
        break
      except Late:
        continue  # not where reading began at the file's start
      except av.error.FFmpegError as error:
        raise MediaError(_reason(error)) from error


# -----------------------------------------------------------------------------
# The file.
# -----------------------------------------------------------------------------
def _open(path):
  try:
    # Absolute: FFmpeg takes what is before a colon for a protocol.
    container = av.open(os.path.abspath(path), metadata_errors="replace",
                        options={"max_pixels": str(MAX_PIXELS)})
  except (av.error.FFmpegError, OSError, ValueError) as error:
    raise MediaError(f"no readable media: {_reason(error)}") from error
  if container.format.name in LISTS:
    container.close()
    raise MediaError("a list of other files, which are not read")
  return container


def _reason(error):
  return " ".join(str(getattr(error, "strerror", None) or error).split())


def _streams(container):
  """The video and the audio stream, None for one that is missing."""
  found = []
  for kind in ("video", "audio"):
    streams = [s for s in container.streams
               if s.type == kind and s.codec_context
               and not s.disposition & PICTURE]
    found.append(max(streams, default=None, key=lambda s: bool(
        s.disposition & Disposition.default)))  # the first of them
  if not any(found):
    raise MediaError("neither video nor sound that can be decoded")
  for stream in filter(None, found):
    # With threads, what becomes of damaged frames differs between runs.
    stream.codec_context.thread_count = 1
  return found


def _zero(container):
  """The timestamp in seconds that is time 0."""
  return max(0.0, (container.start_time or 0) / av.time_base)


def _duration(container):
  """Seconds by the header; inf if it does not say."""
  if container.format.name in GUESSED or not container.duration:
    return math.inf
  duration = container.duration / av.time_base
  if "matroska" in container.format.name:  # it says the end's timestamp
    duration -= _zero(container)
  return duration


def _length(container):
  """Seconds by the header or, if it does not say, by the packets."""
  if _duration(container) < math.inf:
    return _duration(container)
  zero, ends = _zero(container), {}
  try:
    for packet in container.demux(list(filter(None, _streams(container)))):
      at = packet.dts if packet.pts is None else packet.pts
      last = ends.get(packet.stream.index, 0.0)
      if packet.size and at is not None:
        end = float((at + (packet.duration or 0)) * packet.time_base) - zero
        ends[packet.stream.index] = max(end, last)
      elif packet.size and packet.stream.type == "video":  # a bare stream
        ends[packet.stream.index] = last + 1 / frame_rate(packet.stream)
  except av.error.FFmpegError:
    pass  # damaged: as if it ended
  if not ends:
    raise MediaError("no packet of video or sound")
  counted, said = max(ends.values()), (container.duration or 0) / av.time_base
  # A header of mp3 can say it better: without what the encoder padded.
  return said if abs(counted - said) < 0.1 else counted


@functools.lru_cache(maxsize=64)
def _length_of(path, _size, _time):
  """`_length` of a file, once for all of its clips as long as it is the same:
  packets may have to be counted."""
  with _open(path) as container:
    return _length(container)


def _bounds(container, stream):
  """Where a stream begins and ends, in seconds; inf if it does not say."""
  zero, first = _zero(container), 0.0
  if stream.start_time is not None:
    first = float(stream.start_time * stream.time_base) - zero
  begin = max(first, 0.0)
  if container.format.name in GUESSED:
    return begin, math.inf
  if stream.duration:
    return begin, first + float(stream.duration * stream.time_base)
  try:  # as Matroska has it: the stream's end
    h, m, s = stream.metadata["DURATION"].split(":")
    return begin, int(h) * 3600 + int(m) * 60 + float(s) - zero
  except (KeyError, ValueError):
    return begin, _duration(container)


# -----------------------------------------------------------------------------
# A clip of it.
# -----------------------------------------------------------------------------
class _Clip:
  """A clip that is being read: a track of each stream that it has enough of."""

  def __init__(self, span, tracks):
    self.span, self.tracks = span, tracks  # tracks by the index of the stream
    self.damaged, self.problem = 0, ""

  @property
  def done(self):
    return all(track.done for track in self.tracks.values())

  def damage(self, error, index=None):
    """Notes an error of a packet of a stream, or of the container."""
    self.damaged += 1
    if index is not None:
      self.tracks[index].damaged = True
    if not isinstance(error, PermissionError):  # a decoder's bare -1
      self.problem = _reason(error)

  def finish(self):
    """The Media, or the MediaError that says why there is none."""
    start, end = self.span
    if not self.tracks:
      return MediaError(f"nothing between {start:.3f} and {end:.3f} s")
    spoiled = sum(track.spoiled for track in self.tracks.values()
                  if isinstance(track, AudioTrack))
    damaged, problem = self.damaged + spoiled, ""
    if spoiled:
      self.problem = "samples that are not finite"
    if damaged:
      problem = f"; {damaged} packets are damaged" + (
          self.problem and f": {self.problem}")
    try:
      taken = {type(track): track.finish(problem)
               for track in self.tracks.values()}
    except MediaError as error:
      return error
    return Media(taken.get(VideoTrack), taken.get(AudioTrack), start, end,
                 damaged)


class _Feed:
  """Hands the frames of a stream to the clips, each from a second before its
  start; and, as it may still be on screen, the frame before that."""

  def __init__(self, stream, begin, clips):
    self._stream, self._begin = stream, begin
    self._waiting = collections.deque(
        clip for clip in clips if stream.index in clip.tracks)
    # The first clip knows what to do with the first frames after a seek.
    self._joined = [self._waiting.popleft()] if self._waiting else []
    self._last = self._next = None  # (frame, time); when the next one is due

  @property
  def clip(self):
    """The first clip that is not done; None behind the last."""
    self._joined = [clip for clip in self._joined
                    if not clip.tracks[self._stream.index].done]
    return next(iter((*self._joined, *self._waiting)), None)

  def add(self, frame, time):
    """Goes on to a frame, at a time in seconds or None."""
    time = self._next if time is None else time
    for clip in self._joined:
      clip.tracks[self._stream.index].add(frame, time)
    time = self._begin if time is None else time
    while self._waiting and self._waiting[0].span[0] - 1.0 <= time and (
        self._last is not None):
      clip = self._waiting.popleft()
      self._joined.append(clip)
      for seen in self._last, (frame, time):
        clip.tracks[self._stream.index].add(*seen)
    if not self._joined or self._joined[0].tracks[self._stream.index].started:
      self._next = time + (
          1 / frame_rate(self._stream) if self._stream.type == "video"
          else frame.samples / frame.sample_rate)
      if not frame.is_corrupt:
        self._last = frame, time


def _read(container, spans, fps, size, audio_rate, convert, kinds, seek_to):
  """`read_clips`, beginning at `seek_to`, or at the file's start if that is
  < 0."""
  streams = [stream for kind, stream in zip(KINDS, _streams(container))
             if stream and kind in kinds]
  if not streams:
    raise MediaError(f"has no {' and no '.join(kinds)}")
  bounds = {stream.index: _bounds(container, stream) for stream in streams}
  clips = collections.deque()
  for start, end in spans:
    tracks, sought = {}, seek_to > 0 and not clips
    for stream in streams:
      begin, stop = bounds[stream.index]
      span = start, min(end, stop)
      if span[1] - max(start, begin) < LEAST * (end - start):
        continue  # as good as nothing of it
      tracks[stream.index] = (
          VideoTrack(stream, begin, span, fps, size, convert, sought)
          if stream.type == "video" else
          AudioTrack(begin, span, audio_rate, sought))
    clips.append(_Clip((start, end), tracks))
  feeds = {stream.index: _Feed(stream, bounds[stream.index][0], clips)
           for stream in streams}

  zero = _zero(container)
  if seek_to > 0:
    try:
      container.seek(int((seek_to + zero) * av.time_base))
    except av.error.FFmpegError as error:
      raise Late from error
  try:
    for packet in container.demux(streams):
      while clips and clips[0].done:
        yield clips.popleft().finish()
      if not clips:
        return
      index = packet.stream.index
      clip = feeds[index].clip
      if clip is None:
        continue
      try:
        frames = (pictures.decode(packet) if packet.stream.type == "video"
                  else packet.decode())
      except av.error.FFmpegError as error:
        clip.damage(error, index)
        continue
      for frame in frames:
        feeds[index].add(
            frame, None if frame.time is None else frame.time - zero)
  except av.error.FFmpegError as error:  # of the container: as if it ended
    clips[0].damage(error)
  while clips:
    yield clips.popleft().finish()
