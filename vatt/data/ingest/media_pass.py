"""Reads clips of an open media file in one pass over its packets."""
import bisect
import collections
import gc
import io
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer

from vatt.data.ingest import pictures
from vatt.data.ingest.media_tracks import (
    AudioTrack,
    MediaError,
    VideoTrack,
    frame_rate,
    reason,
)
from vatt.data.ingest.timeline import Timeline

LATEST = 60.0  # seconds that sound may be behind the picture in a file
LEAST = 0.1  # of a clip that a stream must have to be in it
# Seconds that a decoder of sound has before a clip: of some codecs what it
# yields depends on what it was given before.
RUN_UP = 0.5
# Decoders that can leave out frames to which no other refers, and how many
# packets are looked at before one is decoded: more than these put in order.
LEAVING_OUT = ("h264",)
AHEAD = 20


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


class _Clip:
  """A clip that is being read: a track of each stream that it has enough of."""

  def __init__(self, span, tracks):
    self.span, self.tracks = span, tracks  # tracks by the index of the stream
    self.left = set(tracks)  # those that are not done
    self.damaged, self.problem = 0, ""
    self._failure = None  # a MediaError

  def add(self, index, frame, time):
    """Goes on to a frame of a stream, at a time in seconds or None."""
    if index not in self.left:
      return
    track = self.tracks[index]
    try:
      track.add(frame, time)
      if track.done:
        self.left.remove(index)
    except (MediaError, av.error.FFmpegError) as error:
      self._failure = MediaError(reason(error))
      self.left.clear()

  def damage(self, error, index=None):
    """Notes an error of a packet of a stream, or of the container."""
    self.damaged += 1
    if index is not None:
      self.tracks[index].damaged = True
    if not isinstance(error, PermissionError):  # a decoder's bare -1
      self.problem = reason(error)

  def finish(self):
    """The Media, or the MediaError that says why there is none."""
    if self._failure:
      return self._failure
    start, end = self.span
    if not self.tracks:
      return MediaError(f"nothing between {start:.3f} and {end:.3f} s")
    try:
      spoiled = sum(track.spoiled for track in self.tracks.values()
                    if isinstance(track, AudioTrack))
      damaged, problem = self.damaged + spoiled, ""
      if spoiled:
        self.problem = "samples that are not finite"
      if damaged:
        problem = f"; {damaged} packets are damaged" + (
            self.problem and f": {self.problem}")
      taken = {type(track): track.finish(problem)
               for track in self.tracks.values()}
    except (MediaError, av.error.FFmpegError) as error:
      return MediaError(reason(error))
    return Media(taken.get(VideoTrack), taken.get(AudioTrack), start, end,
                 damaged)


class _Pictures:
  """Decodes the video, and hands its frames to the clips, each from a second
  before its start; and, as it may still be on screen, the frame before that.

  Frames that no clip can take, and to which no other refers, are left out: the
  other ones are the same.
  """

  def __init__(self, stream, timeline, clips, losses):
    self.index, self._losses = stream.index, losses
    self._begin, _ = next(iter(timeline.spans["video"]), (0.0, 0.0))
    self._zero, self._delay = timeline.zero, timeline.delay
    self._unit = float(stream.time_base)
    self._length = 1 / frame_rate(stream)
    self._waiting = collections.deque(
        clip for clip in clips if self.index in clip.tracks)
    # The first clip knows what to do with the first frames after a seek.
    self._joined = [self._waiting.popleft()] if self._waiting else []
    self._last = self._next = None  # (frame, time); when the next one is due
    self.time = -math.inf  # up to which it has packets
    self._context = stream.codec_context
    self._ahead, self._most = collections.deque(), 0  # packets not yet decoded
    # Where pictures come in their order, there is hardly one to which no other
    # refers: to look ahead would cost, and save nothing.
    if (self._context.name in LEAVING_OUT and self._delay is None
        and self._context.has_b_frames):
      self._most = AHEAD
    self._due = []  # ascending, when they and a few before are shown

  def take(self, packet, lost):
    """Goes on to a packet, which may be damaged or follow some that were lost.
    """
    if packet.dts is not None:
      self.time = packet.dts * self._unit - self._zero
    self._ahead.append((packet, lost))
    if self._most and packet.pts is not None:
      bisect.insort(self._due, packet.pts * self._unit - self._zero)
    while len(self._ahead) > self._most or self._ahead and not packet.size:
      self._decode(*self._ahead.popleft())

  def _decode(self, packet, lost):
    self._joined = _those_left(self._joined, self.index)
    if not (self._joined or self._waiting):
      return
    if self._most:
      self._context.skip_frame = (
          "DEFAULT" if lost or self._is_shown(packet) else "NONREF")
    try:
      frames = pictures.decode(packet)
    except av.error.FFmpegError as error:
      for clip in self._joined or [self._waiting[0]]:
        clip.damage(error, self.index)
      frames, lost = [], True
    if lost:
      time = packet.dts if packet.pts is None else packet.pts
      self._losses.append(
          None if time is None else time * self._unit - self._zero)
    for frame in frames:
      if self._delay is None:
        time = frame.time
      else:
        time = None if frame.dts is None else (
            float(frame.dts * frame.time_base) - self._delay)
      self._add(frame, self._next if time is None else time - self._zero)
    if lost and not packet.size:  # the start of what follows is missing
      for clip in self._joined:
        clip.tracks[self.index].damaged = True

  def _is_shown(self, packet):
    """Whether a clip may take its frame."""
    if packet.pts is None:
      return True
    time = packet.pts * self._unit - self._zero
    number = bisect.bisect_left(self._due, time)
    before = self._due[max(0, number - 1)]
    after = bisect.bisect_right(self._due, time)
    if number == 0 or after == len(self._due):
      return True
    after = self._due[after]
    del self._due[:max(0, number - AHEAD)]
    waiting = itertools.takewhile(
        lambda clip: clip.span[0] - 1.0 <= after, self._waiting)
    return any(clip.tracks[self.index].may_take(before, time, after)
               for clip in (*self._joined, *waiting))

  def end(self):
    """Has the last picture stay for as long as it says."""
    while self._ahead:
      self._decode(*self._ahead.popleft())
    while self._waiting and self._last is not None:
      self._waiting.popleft().add(self.index, *self._last)

  def _add(self, frame, time):
    for clip in self._joined:
      clip.add(self.index, frame, time)
    time = self._begin if time is None else time
    while self._waiting and self._waiting[0].span[0] - 1.0 <= time and (
        self._last is not None):
      clip = self._waiting.popleft()
      self._joined.append(clip)
      for seen in self._last, (frame, time):
        clip.add(self.index, *seen)
    if not self._joined or self._joined[0].tracks[self.index].started:
      self._next = time + self._length
      if not frame.is_corrupt:
        self._last = frame, time


class _Sound:
  """Decodes the sound, of each clip with a decoder of its own.

  That begins at the first packet of RUN_UP before the clip, so that what it
  yields does not depend on other clips: decoders of AAC or AC-3 keep the state
  of their noise, even when they are flushed.
  """

  def __init__(self, stream, timeline, clips):
    self._stream, self._index = stream, stream.index
    self._zero, self._unit = timeline.zero, float(stream.time_base)
    self._waiting = collections.deque(
        clip for clip in clips if self._index in clip.tracks)
    self._running = []  # (decoder, clips that began with a packet)
    self._decoder = stream.codec_context  # for those of the first packet
    self._time = None  # at which the last packet ends

  def take(self, packet, _):
    """Goes on to a packet."""
    if packet.pts is not None:
      self._time = (packet.pts + (packet.duration or 0)
                    ) * self._unit - self._zero
    joined = []
    while self._waiting and (
        self._time is None or self._waiting[0].span[0] - RUN_UP < self._time):
      joined.append(self._waiting.popleft())
    if joined:
      # The stream's own cuts what an encoder put before the first sample; what
      # is made of a template does not know of it.
      self._running.append(
          (self._decoder or _new_decoder(self._stream), joined))
    self._decoder = None
    self._running = [(decoder, left) for decoder, clips in self._running
                     if (left := _those_left(clips, self._index))]
    for decoder, clips in self._running:
      try:
        frames = decoder.decode(packet)
      except av.error.FFmpegError as error:
        for clip in clips:
          if self._time is None or self._time > clip.span[0] - 0.1:
            clip.damage(error, self._index)
        continue
      for frame in frames:
        time = frame.time
        time = None if time is None else time - self._zero
        for clip in clips:
          clip.add(self._index, frame, time)
      if not packet.size:  # a section's end, after which others may come
        decoder.flush_buffers()


def _those_left(clips, index):
  """Those of clips that want more frames of a stream."""
  return [clip for clip in clips if index in clip.left]


def _new_decoder(stream):
  """A decoder of a stream that has decoded nothing."""
  container = av.open(io.BytesIO(), "w", format="null")
  decoder = container.add_stream_from_template(
      stream, opaque=True).codec_context
  decoder.codec_tag = stream.codec_context.codec_tag
  # The container and its stream, which hold the decoder, hold each other.
  del container
  gc.collect(1)
  return decoder


def read_pass(container: InputContainer, streams: Sequence[av.stream.Stream],
              timeline: Timeline, spans: Sequence[tuple[float, float]],
              fps: float, size: int, audio_rate: int,
              convert: Callable[[pictures.Screen, av.VideoFrame], Any],
              seek_to: float) -> Iterator[Media | MediaError]:
  """Reads clips of a file in one pass.

  Args:
    container: of the file, open and at its start.
    streams: its video and its audio stream, or one of them.
    timeline: the file's.
    spans, fps, size, audio_rate, convert: those of `media.read_clips`; the
      spans are within the file.
    seek_to: seconds at which it begins; at the file's start if it is not after
      0.

  Yields:
    Each clip, or why it cannot be read.

  Raises:
    Late: it began after a clip's start.
    av.error.FFmpegError: it cannot begin.
  """
  losses, clips = [], collections.deque()
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
          VideoTrack(stream, begin, span, fps, size, convert, sought, losses)
          if stream.type == "video" else
          AudioTrack(begin, span, audio_rate, sought))
    clips.append(_Clip((start, end), tracks))
  feeds = {stream.index: _Pictures(stream, timeline, clips, losses)
           if stream.type == "video" else _Sound(stream, timeline, clips)
           for stream in streams}
  video = next((feed for feed in feeds.values()
                if isinstance(feed, _Pictures)), None)
  try:
    for packet, lost in timeline.packets(container, streams, seek_to):
      while clips and not clips[0].left:
        yield clips.popleft().finish()
      if not clips:
        return
      feeds[packet.stream.index].take(packet, lost)
      if video and clips[0].span[1] + LATEST < video.time:
        clips[0].left &= {video.index}  # its sound has ended
  except av.error.FFmpegError as error:  # of the container: as if it ended
    clips[0].damage(error)
  if video:
    video.end()
  while clips:
    yield clips.popleft().finish()
