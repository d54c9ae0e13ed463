"""Reads frames and sound out of media files, whatever their container.

Times are seconds of the file's `timeline`: 0 is where players start it, and
what a stream has before that is cut. A stream that starts later than another
keeps its distance to it; joined recordings follow each other.
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
from vatt.data.ingest.timeline import decoding_delay, measure

KINDS = ("video", "audio")
LONGEST = 600.0  # seconds of a clip: it is one record, and held in memory
LEAST = 0.1  # of a clip that a stream must have to be in it
NEAR = 10.0  # seconds between clips that are decoded rather than sought past
MAX_PIXELS = 8192 * 8192  # of a frame; damaged headers ask for any size
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
  timeline = _timeline(path)
  return timeline.length, {
      kind: min(timeline.length, max((end for _, end in spans), default=0.0))
      for kind, spans in timeline.spans.items()}


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
  duration = _timeline(path).length
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
  timeline, first = _timeline(path), 0
  while first < len(spans):
    last = first + 1
    while last < len(spans) and spans[last][0] - spans[last - 1][1] < NEAR:
      last += 1
    for back in (1.0, 10.0, 60.0, math.inf):
      try:
        with _open(path) as container:
          for clip in _read(container, timeline, spans[first:last], fps, size,
                            audio_rate, convert, kinds,
                            spans[first][0] - back):
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


def _timeline(path):
  """The Timeline of a file, found once for all of its clips as long as it is
  the same: its packets may have to be counted."""
  try:
    facts = os.stat(path)
  except (OSError, ValueError) as error:
    raise MediaError(f"no readable media: {_reason(error)}") from error
  found = _measure(path, facts.st_size, facts.st_mtime_ns)
  if isinstance(found, str):
    raise MediaError(found)
  return found


@functools.lru_cache(maxsize=64)
def _measure(path, _size, _time):
  """The Timeline of a file, or why it has none."""
  try:
    with _open(path) as container:
      video, _ = _streams(container)
      delay = video and decoding_delay(container, video)
    with _open(path) as container:
      return measure(container, [*filter(None, _streams(container))], delay)
  except MediaError as error:
    return str(error)


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

  def end(self):
    """Has the last picture stay for as long as it says."""
    while self._waiting and self._last is not None:
      self._waiting.popleft().tracks[self._stream.index].add(*self._last)

  def cut(self):
    """Notes that frames are missing now."""
    for clip in self._joined:
      clip.tracks[self._stream.index].damaged = True

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


def _read(container, timeline, spans, fps, size, audio_rate, convert, kinds,
          seek_to):
  """`read_clips`, beginning at `seek_to`, or at the file's start if that is
  < 0."""
  streams = [stream for kind, stream in zip(KINDS, _streams(container))
             if stream and kind in kinds]
  if not streams:
    raise MediaError(f"has no {' and no '.join(kinds)}")
  losses = {stream.index: [] for stream in streams}
  clips = collections.deque()
  for start, end in spans:
    tracks, sought = {}, seek_to > 0 and not clips
    for stream in streams:
      parts = [(begin, stop) for begin, stop in timeline.spans[stream.type]
               if begin < end and stop > start]
      if not parts or LEAST * (end - start) > sum(
          min(end, stop) - max(start, begin) for begin, stop in parts):
        continue  # as good as nothing of it
      begin, span = parts[0][0], (start, min(end, parts[-1][1]))
      tracks[stream.index] = (
          VideoTrack(stream, begin, span, fps, size, convert, sought,
                     losses[stream.index])
          if stream.type == "video" else
          AudioTrack(begin, span, audio_rate, sought))
    clips.append(_Clip((start, end), tracks))
  feeds = {}
  for stream in streams:
    begin, _ = next(iter(timeline.spans[stream.type]), (0.0, 0.0))
    feeds[stream.index] = _Feed(stream, begin, clips)

  def seconds(item, time):
    return None if time is None else float(
        time * item.time_base) - timeline.zero

  try:
    for packet, lost in timeline.packets(container, streams, seek_to):
      while clips and clips[0].done:
        yield clips.popleft().finish()
      if not clips:
        return
      stream = packet.stream
      clip = feeds[stream.index].clip
      if clip is None:
        continue
      try:
        frames = (pictures.decode(packet) if packet.stream.type == "video"
                  else packet.decode())
      except av.error.FFmpegError as error:
        clip.damage(error, stream.index)
        frames, lost = [], True
      if lost:
        losses[stream.index].append(seconds(
            packet, packet.dts if packet.pts is None else packet.pts))
      for frame in frames:
        if timeline.delay is None or stream.type == "audio":
          time = None if frame.time is None else frame.time - timeline.zero
        else:
          time = seconds(frame, frame.dts)
          time = None if time is None else time - timeline.delay
        feeds[stream.index].add(frame, time)
      if lost and not packet.size:  # the start of what follows is missing
        feeds[stream.index].cut()
  except av.error.FFmpegError as error:  # of the container: as if it ended
    clips[0].damage(error)
  for stream in streams:
    if stream.type == "video":
      feeds[stream.index].end()
  while clips:
    yield clips.popleft().finish()
