"""The one timeline of a media file: seconds that all of its streams share.

Timestamps of most files need a zero and nothing else. In others the clock
starts anew, such as in recordings that were joined end to end and in chained
Ogg, or some timestamps are damaged. Their packets are counted: each section
follows the one before, and is shifted as a whole, so that picture and sound
stay together.
"""
import collections
import math
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import av
import numpy as np
from av.container import Flags, InputContainer

from vatt.data.ingest.media_tracks import HOLD, Late, MediaError, frame_rate
from vatt.data.ingest.sections import Row, Table, find_sections

# Their headers do not have the length: it is a guess by the bit rate.
GUESSED = ("aac", "mp3")
# Their clocks may leap ahead, too; those of the first two have 33 bits, and a
# file that starts shortly before they wrap starts at a negative time.
LEAPING = ("mpeg", "mpegts", "ogg")
WRAPPING = LEAPING[:2]
# There is nothing behind their last packet, but an index.
WHOLE = ("flv", "matroska,webm")
NEAR = 0.1  # seconds by which packets and a header may differ
# Seconds without anything that are no pause; a slide without sound may stay.
LEAP, LEAP_MUTE = 10.0, 3600.0
HOLE = 1024  # bytes of Matroska that are in no packet
TRIED = 50  # frames, to find out whether decoding reorders them


class Clock(NamedTuple):
  """How the timestamps of a stream are set right.

  Attributes:
    firsts: int [R], numbers of the packets that begin a section.
    shifts: float [R], seconds to add in it.
    wrong: numbers of packets whose timestamps are damaged.
    keys: int [K], numbers of packets at which decoding can begin.
    times: float [K], seconds at which they are due.
  """
  firsts: np.ndarray
  shifts: np.ndarray
  wrong: frozenset[int]
  keys: np.ndarray
  times: np.ndarray


class Timeline(NamedTuple):
  """The timeline of a file.

  Attributes:
    length: seconds.
    zero: the timestamp in seconds that is time 0.
    spans: by "video" and "audio", for those that it has, the (begin, end) of
      each section in seconds; an end may be inf if no one says.
    clocks: likewise; empty if timestamps are right as they are.
    delay: None, or else timestamps of video are in the order of decoding: a
      frame is due as many seconds before the decoder yields it.
  """
  length: float
  zero: float
  spans: dict[str, list[tuple[float, float]]]
  clocks: dict[str, Clock]
  delay: float | None

  def packets(self, container: InputContainer,
              streams: Sequence[av.stream.Stream], start: float
              ) -> Iterator[tuple[av.Packet, bool]]:
    """Yields packets in the file's order, with timestamps that are right.

    Args:
      container: of the file, open and at its start.
      streams: those to yield packets of.
      start: seconds; decoding shall yield what is due from then on. All packets
        if it is not after 0.

    Yields:
      Each, and whether it is damaged or follows some that were lost.

    Raises:
      Late: the container cannot seek.
      av.error.FFmpegError: it is damaged.
    """
    if not self.clocks:
      if start > 0:
        try:
          container.seek(int((start + self.zero) * av.time_base))
        except av.error.FFmpegError as error:
          raise Late from error
      yield from _demux(container, streams)
      return
    _search_no_times(container)
    # Sections may have the same timestamps: there is no seeking by them. To
    # read packets takes little, to decode them would be much.
    number = dict.fromkeys(self.clocks, -1)
    begin = {kind: clock.keys[clock.times <= start].max(initial=0)
             for kind, clock in self.clocks.items()}
    for packet, lost in _demux(container, streams):
      if _is_last(packet):
        yield packet, lost
        continue
      kind = packet.stream.type
      number[kind] += 1
      if number[kind] < begin[kind]:
        continue
      clock = self.clocks[kind]
      section = np.searchsorted(clock.firsts, number[kind], "right") - 1
      if begin[kind] < number[kind] == clock.firsts[section]:
        # All frames of the last section, which those of this do not refer to.
        yield _end_of(packet.stream), not packet.is_keyframe
        packet.stream.codec_context.flush_buffers()
      if number[kind] in clock.wrong:
        packet.pts = packet.dts = None
      else:
        shift = round(clock.shifts[section] / packet.time_base)
        if packet.pts is not None:
          packet.pts += shift
        if packet.dts is not None:
          packet.dts += shift
      yield packet, lost


def measure(container: InputContainer, streams: Sequence[av.stream.Stream],
            delay: float | None = None) -> Timeline:
  """Finds the timeline of a file.

  Args:
    container: of the file, open and at its start; it is read to its end where
      that is needed.
    streams: its video and its audio stream, or the one that it has.
    delay: what `decoding_delay` says.

  Raises:
    MediaError: it has no packets, its streams do not share a timeline, or
      FFmpeg would read a part of it alone.
  """
  if _is_joined(container):
    raise MediaError("files that were joined, of which the first alone would "
                     "be read")
  zero, said = _zero(container), _duration(container)
  spans = {s.type: [_bounds(container, s, zero, said)] for s in streams}
  if said < math.inf and _is_sure(container, streams):
    return Timeline(said, zero, spans, {}, delay)
  tables = _read_tables(container, streams)
  leap = LEAP if "audio" in spans else LEAP_MUTE
  sections = find_sections(
      tables, leap if container.format.name in LEAPING else math.inf)
  if len(sections) == 1 and not any(t.wrong for t in tables):
    return _plain(container, tables, zero, said, spans, delay)
  return _rebuilt(tables, sections, zero, delay)


def decoding_delay(container: InputContainer, stream: av.VideoStream
                   ) -> float | None:
  """How long a decoder keeps a picture, in seconds, to put it in order.

  Args:
    container: open and at its start; some of it is read.
    stream: its video stream.

  Returns:
    The delay if timestamps are in the order of decoding though pictures are
    not; else None.
  """
  if not stream.codec_context.has_b_frames:
    return None
  packets, last = [], -math.inf
  try:
    for packet in _packets(container, stream):
      if packet.size and (packet.pts is None or packet.pts < last):
        return None  # there are none, or they have the pictures' order
      packets.append(packet)
      last = packet.pts
      if len(packets) == TRIED or not packet.size:
        break
    frames = [frame for packet in packets for frame in packet.decode()]
  except av.error.FFmpegError:
    return None
  times = [frame.pts for frame in frames]
  # AVI has no others, though FFmpeg makes some up.
  if not frames or None in (*times, frames[0].dts, packets[0].dts) or (
      times == sorted(times) and container.format.name != "avi"):
    return None
  return float((frames[0].dts - packets[0].dts) * stream.time_base)


# -----------------------------------------------------------------------------
# What the header says.
# -----------------------------------------------------------------------------
def _zero(container):
  start = (container.start_time or 0) / av.time_base
  # What others have before time 0 is cut: it is for the decoder alone.
  return start if container.format.name in WRAPPING else max(0.0, start)


def _duration(container):
  """Seconds by the header; inf if it does not say."""
  if container.format.name in GUESSED or not container.duration:
    return math.inf
  duration = container.duration / av.time_base
  if "matroska" in container.format.name:  # it says the end's timestamp
    duration -= _zero(container)
  return duration


def _bounds(container, stream, zero, said):
  """Where a stream begins and ends, in seconds; inf if it does not say."""
  first = 0.0
  if stream.start_time is not None:
    first = float(stream.start_time * stream.time_base) - zero
  begin = max(first, 0.0)
  if container.format.name in GUESSED:
    return begin, math.inf
  end = said
  if stream.duration:
    end = first + float(stream.duration * stream.time_base)
  try:  # as Matroska has it: the stream's end
    h, m, s = stream.metadata["DURATION"].split(":")
    stated = int(h) * 3600 + int(m) * 60 + float(s) - zero
  except (KeyError, ValueError):
    return begin, end
  # Else FFmpeg may have filled in the length of the file.
  return begin, end if stream.duration and end <= stated + HOLD else stated


def _is_sure(container, streams):
  """Whether the container has one clock, so that its packets need no look."""
  name = container.format.name
  if name.startswith("mov"):  # not in fragments, each with a time of its own
    return all(stream.frames for stream in streams)
  if "matroska" in name:
    return _is_one_segment(container.name)
  return name in ("avi", "wav")


def has_index(container: InputContainer, stream: av.VideoStream) -> bool:
  """Whether the container names the keyframes of its video stream, so that
  `stream.index_entries` has them then."""
  name = container.format.name
  if name.startswith("mov"):
    return 0 < stream.frames <= len(stream.index_entries)
  if "matroska" in name:
    try:
      container.seek(0)  # it is at the end, and read when it is needed
    except av.error.FFmpegError:
      return False
  elif name != "avi":
    return False
  return len(stream.index_entries) > 0


def _is_joined(container):
  """Whether a whole second file follows in a file of such as FFmpeg reads up to
  its own end."""
  name, place, found = container.format.name, 0, 0
  boxes = name.startswith("mov")
  if not boxes and name not in ("avi", "wav"):
    return False
  with open(container.name, "rb") as file:
    while len(head := file.read(16)) == 16 and found < 2:
      if boxes:  # size, kind; of long ones the size comes third
        size = int.from_bytes(head[:4], "big")
        size = int.from_bytes(head[8:], "big") if size == 1 else size
        found += head[4:8] == b"moov"
      else:  # RIFF, size, form; the next ones of a long AVI are of form AVIX
        if head[:4] != b"RIFF":
          break
        size = 8 + int.from_bytes(head[4:8], "little")
        size += size % 2
        found += head[8:12] in (b"WAVE", b"AVI ")
      if size < 8:  # 0: up to the end
        break
      place += size
      file.seek(place)
  return found > 1


def _is_one_segment(path):
  """Whether a Matroska file has one segment, and nothing after it."""
  with open(path, "rb") as file:
    for _ in range(2):  # the EBML header, the segment
      head = file.read(12)
      if len(head) < 12 or not head[4]:
        return False
      width = 9 - head[4].bit_length()  # of the size: leading zeros tell
      value = int.from_bytes(head[4:4 + width], "big") - (1 << 7 * width)
      if value == (1 << 7 * width) - 1:
        return False  # unknown, as of a live stream
      file.seek(4 + width + value - len(head), os.SEEK_CUR)
    return file.tell() >= os.fstat(file.fileno()).st_size


# -----------------------------------------------------------------------------
# What the packets say.
# -----------------------------------------------------------------------------
def _demux(container, streams):
  """Yields the packets of streams, and whether each is damaged or follows some
  that were lost."""
  if "matroska" not in container.format.name:
    for packet in _packets(container, streams):
      yield packet, packet.is_corrupt
    return
  # Where it is damaged, FFmpeg goes on in silence at what it knows again.
  numbers = {stream.index for stream in streams}
  lost, place, end = set(), None, math.inf
  for packet in _packets(container, list(container.streams)):
    if packet.pos is not None:
      if packet.pos > end + HOLE:
        lost = set(numbers)
      end = packet.size + (end if packet.pos == place else packet.pos)
      place = packet.pos
    if packet.stream.index in numbers:
      yield packet, packet.is_corrupt or packet.stream.index in lost
      lost.discard(packet.stream.index)


def _packets(container, streams):
  packets = container.demux(streams)
  while True:
    try:
      packet = next(packets, None)
    except IndexError:  # PyAV at the end, of streams that came on the way
      return
    if packet is None:
      return
    yield packet


def _search_no_times(container):
  """For timestamps that are missing, PyAV makes FFmpeg search the packets that
  follow: all of them, if the clock starts anew."""
  container.flags &= ~Flags.gen_pts.value


def _is_last(packet):
  """Whether it is none, but makes a decoder yield its last frames."""
  return not packet.size and packet.pts is None and packet.dts is None


def _end_of(stream):
  packet = av.Packet()
  packet.stream, packet.time_base = stream, stream.time_base
  return packet


def _read_tables(container, streams):
  """The Table of each stream.

  Raises:
    MediaError: there is no packet, or other streams take their place.
  """
  rows = {stream.index: [] for stream in streams}
  others = collections.defaultdict(list)  # orders of other streams' packets
  end = 0  # place in the file
  changed = MediaError("its streams change on the way, which cannot be read")
  _search_no_times(container)
  try:
    for order, packet in enumerate(
        _packets(container, list(container.streams))):
      index = packet.stream.index
      if _is_last(packet):
        continue
      end = end if packet.pos is None else packet.pos + packet.size
      if index in rows:
        rows[index].append(Row(
            order, packet.pts, packet.dts, packet.duration or 0,
            packet.is_keyframe, packet.is_discard))
      else:
        others[packet.stream.type, index].append(order)
  except av.error.PatchWelcomeError as error:
    raise changed from error
  except av.error.FFmpegError:
    pass  # damaged: as if it ended
  if not any(rows.values()):
    raise MediaError("no packet of video or sound")
  for stream in streams:
    own = [row[0] for row in rows[stream.index]]
    last = own[len(own) * 9 // 10] if own else math.inf  # some come at the end
    if any(kind == stream.type and orders[0] > last
           and 10 * len(orders) > len(own)
           for (kind, _), orders in others.items()):
      raise changed
  rest = container.size - end
  if container.format.name in WHOLE and 10 * rest > container.size:
    raise MediaError(f"its last {rest} of {container.size} bytes cannot be "
                     "read: several files in one?")
  # Matroska has none, and FFmpeg makes up some that jump.
  has_dts = "matroska" not in container.format.name
  return [Table(stream, rows[stream.index], has_dts) for stream in streams]


def _plain(container, tables, zero, said, spans, delay):
  """The timeline of a file whose timestamps are right."""
  leaping = container.format.name in LEAPING

  def choose(said, counted, near=NEAR):
    # A header may say it better, without what an encoder padded; and it tells
    # what a file has lost. Where it has no length, FFmpeg guesses.
    if leaping and said - counted >= near:
      return counted
    return said if said > counted - NEAR else counted

  found = {}
  for table in tables:
    if span := table.span(slice(0, table.count)):
      found[table.stream.type] = max(0.0, span[0] - zero), span[1] - zero
    elif table.stream.type == "video":  # a bare stream
      found["video"] = 0.0, table.count / frame_rate(table.stream)
  last = max((end for _, end in found.values()), default=0.0)
  if not last:
    raise MediaError("no packet of video or sound")
  if said < math.inf:
    length = choose(said, last)
  else:
    length = container.duration and container.duration / av.time_base
    length = length if length and abs(length - last) < NEAR else last
  for kind, (begin, end) in found.items():
    stated = spans[kind][0]
    spans[kind] = [(stated[0] if abs(stated[0] - begin) < NEAR else begin,
                    choose(stated[1], end, HOLD))]
  return Timeline(length, zero, spans, {}, delay)


def _rebuilt(tables, sections, zero, delay):
  """The timeline of a file with sections, or with wrong timestamps."""
  length = 0.0
  spans = {table.stream.type: [] for table in tables}
  firsts, shifts = ([[] for _ in tables] for _ in range(2))
  for section in sections:
    found = {i: span for i, run in section.items()
             if (span := tables[i].span(run))}
    begin = min((begin for begin, _ in found.values()), default=0.0)
    if section is sections[0] and abs(begin - zero) < NEAR:
      begin = zero
    shift = length - begin
    for i, run in section.items():
      firsts[i].append(run.start)
      shifts[i].append(shift)
    for i, (first, last) in found.items():
      spans[tables[i].stream.type].append(
          (max(0.0, round(first + shift, 6)), round(last + shift, 6)))
    length = max([length, *(last + shift for _, last in found.values())])
  clocks = {}
  for table, *starts in zip(tables, firsts, shifts):
    if table.count:
      clocks[table.stream.type] = _clock(table, *map(np.array, starts))
  return Timeline(length, 0.0, spans, clocks, delay)


def _clock(table, firsts, shifts):
  times = table.begins + shifts[
      np.searchsorted(firsts, np.arange(table.count), "right") - 1]
  keys = np.flatnonzero(table.keys & ~np.isnan(times))
  return Clock(firsts, shifts, frozenset(table.wrong), keys, times[keys])
