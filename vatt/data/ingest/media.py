"""Reads frames and sound out of media files, whatever their container.

Times are seconds of the file's `timeline`: 0 is where players start it, and
what a stream has before that is cut. A stream that starts later than another
keeps its distance to it; joined recordings follow each other.
"""
import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from vatt.data.ingest.media_pass import Media, read_pass
from vatt.data.ingest.media_tracks import Late, MediaError, reason
from vatt.data.ingest.pictures import Screen
from vatt.data.ingest.timeline import decoding_delay, has_index, measure

KINDS = ("video", "audio")
LONGEST = 600.0  # seconds of a clip: it is one record, and held in memory
# Seconds between clips that are decoded, in which seeking would cost as much.
NEAR = 5.0
# Seconds before a clip that are sought, one after the other, until decoding
# begins before its start.
BACK = (1.0, 10.0, 60.0, math.inf)
MAX_PIXELS = 8192 * 8192  # of a frame; damaged headers ask for any size
LISTS = ("concat", "dash", "hls")  # what FFmpeg opens other files for
PICTURE = Disposition.attached_pic | Disposition.timed_thumbnails


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


def keyframes_before(path: str, times: Sequence[float]) -> np.ndarray | None:
  """From where on a file is decoded to be read from given times.

  No packet is read: the container's index says it.

  Args:
    path: of a local file.
    times: seconds.

  Returns:
    float [len(times)], seconds: of the keyframe at each time or before it; 0
    before the first one. None without video, or if the container has no index.

  Raises:
    MediaError: it is no media, or has neither video nor sound.
  """
  zero = _timeline(path).zero
  with _open(path) as container:
    video, _ = _streams(container)
    if video is None or not has_index(container, video):
      return None
    entries, unit, found = video.index_entries, float(video.time_base), []
    # Those of MP4 are times of decoding.
    zero -= ((video.start_time or 0) - entries[0].timestamp) * unit
    for time in times:
      # 0.5: times are rounded to units.
      number = entries.search_timestamp(int((time + zero) / unit + 0.5))
      found.append(0.0 if number < 0 else max(
          0.0, entries[number].timestamp * unit - zero))
  return np.array(found)


def read(path: str, start: float = 0.0, end: float | None = None, **kwargs: Any
         ) -> Media:
  """Reads a clip of a file: see `read_clips`, whose arguments it takes.

  Raises:
    MediaError: the file or clip cannot be read, or less than ENOUGH of it.
  """
  clip, = read_clips(path, [(start, end)], **kwargs)
  if isinstance(clip, MediaError):
    raise clip
  return clip


def read_clips(path: str, spans: Sequence[tuple[float, float | None]], *,
               fps: float = 10.0, size: int = 256, audio_rate: int = 48000,
               convert: Callable[[Screen, av.VideoFrame], Any] = Screen.show,
               kinds: Sequence[str] = KINDS) -> Iterator[Media | MediaError]:
  """Reads clips of a file in one pass, which leaves out what it can.

  Frames are as on screen: rotated, with square pixels. Sound before its
  stream's start is silence; a stream that ends within the clip is shorter than
  it; one that has less than LEAST of the clip is None.

  Of a file that is whole, a clip is the same whichever others are read with it.

  Args:
    path: of a local file.
    spans: (start, end) of each clip in seconds, in the order of their starts;
      they may overlap. An end that is None is the file's; one past that is
      moved to it, if the file has at least half of the clip.
    fps: frames a second of the clips.
    size: the frames' shorter side, in pixels; smaller ones stay as they are.
    audio_rate: samples a second of the clips.
    convert: a function of a clip's Screen and a frame that it shows: what is
      kept of the frame.
    kinds: of KINDS, what to read.

  Yields:
    Each clip, or why it cannot be read, such as that there is less than ENOUGH
    of it.

  Raises:
    MediaError: the file cannot be read, or has nothing of these kinds.
  """
  timeline = _timeline(path)
  whole = [_within(timeline.length, *span) for span in spans]
  clips = _read_passes(
      path, timeline, [span for span in whole if isinstance(span, tuple)],
      fps, size, audio_rate, convert, kinds)
  for span in whole:
    yield next(clips) if isinstance(span, tuple) else span


def _within(length, start, end):
  """A span within a file, or the MediaError that says why there is none."""
  end = length if end is None else end
  if (end - length) * 2 > end - start:
    return MediaError(f"the file ends at {length:.3f} s")
  end = min(end, length)
  if not 0 < end - start <= LONGEST:
    return MediaError(f"{end - start:.3f} s long, expected more than 0 and at "
                      f"most {LONGEST:.0f} s")
  return start, end


def _read_passes(path, timeline, spans, fps, size, audio_rate, convert, kinds):
  """`read_clips` of spans within the file."""
  first = 0
  while first < len(spans):
    last, end = first + 1, spans[first][1]
    while last < len(spans) and not _is_nearer(
        path, timeline, kinds, end, spans[last][0]):
      end = max(end, spans[last][1])
      last += 1
    for back in BACK:
      try:
        with _open(path) as container:
          for clip in read_pass(
              container, _chosen(container, kinds), timeline,
              spans[first:last], fps, size, audio_rate, convert,
              spans[first][0] - back):
            first += 1
            yield clip
        break
      except Late:
        continue  # not where reading began at the file's start
      except av.error.FFmpegError as error:
        raise MediaError(reason(error)) from error


def _is_nearer(path, timeline, kinds, end, start):
  """Whether what lies between two clips is better sought past than decoded: if
  there is video, whether a keyframe is in between."""
  if start - end < NEAR:
    return False
  if "video" not in kinds or "video" not in timeline.spans:
    return True
  if clock := timeline.clocks.get("video"):
    return clock.times[clock.times <= start - BACK[0]].max(initial=0.0) > end
  with _open(path) as container:
    video, _ = _streams(container)
    unit = float(video.time_base)
    for back in BACK:
      if start - back <= end:
        return False
      try:
        container.seek(int((start - back + timeline.zero) * av.time_base))
        for packet in container.demux(video):
          time = packet.dts if packet.pts is None else packet.pts
          time = math.inf if time is None else time * unit - timeline.zero
          if time > start:
            break
          if packet.is_keyframe:
            return time > end
      except av.error.FFmpegError:
        return False
  return False


# -----------------------------------------------------------------------------
# The file.
# -----------------------------------------------------------------------------
def _open(path):
  try:
    # Absolute: FFmpeg takes what is before a colon for a protocol.
    container = av.open(os.path.abspath(path), metadata_errors="replace",
                        options={"max_pixels": str(MAX_PIXELS)})
  except (av.error.FFmpegError, OSError, ValueError) as error:
    raise MediaError(f"no readable media: {reason(error)}") from error
  if container.format.name in LISTS:
    container.close()
    raise MediaError("a list of other files, which are not read")
  return container


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


def _chosen(container, kinds):
  """Its streams of some of KINDS."""
  found = [stream for kind, stream in zip(KINDS, _streams(container))
           if stream and kind in kinds]
  if not found:
    raise MediaError(f"has no {' and no '.join(kinds)}")
  return found


def _timeline(path):
  """The Timeline of a file, found once for all of its clips as long as it is
  the same: its packets may have to be counted."""
  try:
    facts = os.stat(path)
  except (OSError, ValueError) as error:
    raise MediaError(f"no readable media: {reason(error)}") from error
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
