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

from vatt.data.ingest.media_tracks import (
    HOLD,
    Late,
    MediaError,
    frame_rate,
)

# Their headers do not have the length: it is a guess by the bit rate.
GUESSED = ("aac", "mp3")
# Their clocks may leap ahead, too; those of the first two have 33 bits, and a
# file that starts shortly before they wrap starts at a negative time.
LEAPING = ("mpeg", "mpegts", "ogg")
WRAPPING = LEAPING[:2]
# There is nothing behind their last packet, but an index.
WHOLE = ("flv", "matroska,webm")
NEAR = 0.1  # seconds by which packets and a header may differ
# Seconds without anything that are no pause: of sound, and of pictures alone,
# for a slide may stay.
LEAP, LEAP_MUTE = 10.0, 60.0
JITTER = 1.0  # seconds that one stream's clock may go back by itself
NOISE = 1.0  # seconds of wrong timestamps between right ones
SCRAPS = 10  # runs at most of such timestamps, one after the other
INTERLEAVED = 5.0  # seconds by which streams may be apart in a file
REORDERED = 20.0  # seconds at most from a picture's decoding to its time
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
    spans: by the index of a stream, the (begin, end) of what it has in each
      section, in seconds; an end may be inf if no one says.
    clocks: by the index of a stream; empty if timestamps are right as they are.
    delay: None, or else timestamps of video are in the order of decoding: a
      frame is due as many seconds before the decoder yields it.
  """
  length: float
  zero: float
  spans: dict[int, list[tuple[float, float]]]
  clocks: dict[int, Clock]
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
    begin = {index: clock.keys[clock.times <= start].max(initial=0)
             for index, clock in self.clocks.items()}
    for packet, lost in _demux(container, streams):
      index = packet.stream.index
      number[index] += 1
      if number[index] < begin[index] and not _is_last(packet):
        continue
      clock = self.clocks[index]
      section = np.searchsorted(clock.firsts, number[index], "right") - 1
      if number[index] == clock.firsts[section] and (
          number[index] > begin[index]):
        # All frames of the last section, which those of this do not refer to.
        yield _end_of(packet.stream), not packet.is_keyframe
        packet.stream.codec_context.flush_buffers()
      if number[index] in clock.wrong:
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
    MediaError: it has no packets, or its streams do not share a timeline.
  """
  zero, said = _zero(container), _duration(container)
  spans = {s.index: [_bounds(container, s, zero, said)] for s in streams}
  if said < math.inf and _is_sure(container, streams):
    return Timeline(said, zero, spans, {}, delay)
  tables = _read_tables(container, streams)
  leaping = container.format.name in LEAPING
  mute = all(stream.type == "video" for stream in streams)
  leap = math.inf if not leaping else LEAP_MUTE if mute else LEAP
  sections = _sections(tables, leap)
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
    for packet in container.demux(stream):
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
class _Table:
  """The packets of a stream, in the file's order.

  Attributes (a number each, of P packets):
    order: among the packets of all streams.
    due: seconds of decoding, or of presentation without; nan if unknown.
    begins: seconds of presentation; nan if unknown.
    lengths: seconds.
    keys: whether decoding can begin there.
    wrong: set of the numbers of packets with wrong timestamps.
    runs: slices of packets, in each of which the clock goes on.
  """

  def __init__(self, stream, rows, has_dts):
    self.stream, self.count = stream, len(rows)
    self.wrong, self.runs = set(), []
    order, pts, dts, duration, keys, cut = (
        zip(*rows) if rows else ((),) * 6)
    self.order, self.keys = np.array(order, int), np.array(keys, bool)
    unit = float(stream.time_base)
    pts, dts = (np.array([math.nan if t is None else t for t in times]) * unit
                for times in (pts, dts))
    # Matroska has none of decoding, and FFmpeg makes up some that jump.
    self.has_dts = has_dts and not np.isnan(dts).all()
    self.due = dts if self.has_dts else pts
    # Damaged, unless a picture waits that long for others.
    ahead = pts - dts
    bad = (ahead < -NEAR) | (ahead > REORDERED)
    self.wrong.update(np.flatnonzero(bad).tolist())
    pts[bad] = math.nan
    ahead = ahead[~(bad | np.isnan(ahead))]
    self.begins = np.where(
        np.isnan(pts), dts + (np.median(ahead) if len(ahead) else 0.0), pts)
    self.begins[np.array(cut, bool)] = math.nan  # not to be shown
    self.lengths = np.array(duration, float) * unit

  @property
  def first_and_last(self):
    """Seconds at which it begins and ends; (None, None) if unknown."""
    if not np.isnan(self.begins).all():
      return self.span(slice(0, self.count))
    if self.stream.type != "video" or not self.count:
      return None, None
    return 0.0, self.count / frame_rate(self.stream)  # a bare stream

  def between(self, first, stop):
    """Seconds of what lies between two packets."""
    return float(self.lengths[min(first, stop):max(first, stop)].sum())

  def clock(self, firsts, shifts):
    """Its Clock, with a section from each of `firsts` on."""
    times = self.begins + shifts[
        np.searchsorted(firsts, np.arange(self.count), "right") - 1]
    keys = np.flatnonzero(self.keys & ~np.isnan(times))
    return Clock(firsts, shifts, frozenset(self.wrong), keys, times[keys])

  def until(self, order):
    """Number of packets before a place in the file."""
    return np.searchsorted(self.order, order)

  def span(self, run):
    """The (begin, end) of a run in seconds; None if unknown."""
    begins = self.begins[run]
    if np.isnan(begins).all():
      return None
    return (float(np.nanmin(begins)),
            float(np.nanmax(begins + self.lengths[run])))


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
  """The _Table of each stream.

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
        rows[index].append((
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
  has_dts = "matroska" not in container.format.name
  return [_Table(stream, rows[stream.index], has_dts) for stream in streams]


# -----------------------------------------------------------------------------
# Sections.
# -----------------------------------------------------------------------------
def _sections(tables, leap):
  """The sections of a file, in its order: {number of a table: slice of its
  packets} each. Notes packets with wrong timestamps in the tables.

  Raises:
    MediaError: one stream's clock starts anew, and that of the other does not.
  """
  for table in tables:
    table.runs = _runs(table, leap)
  joined = [_join_pauses(table, [t for t in tables if t is not table])
            for table in tables]
  sections = []
  for _, i, run in sorted(
      ((tables[i].order[run.start], i, run)
       for i, runs in enumerate(joined) for run in runs),
      key=lambda item: item[:2]):
    if sections and i not in sections[-1] and _share(
        tables, i, run, sections[-1]):
      sections[-1][i] = run
    else:
      sections.append({i: run})
  _check(tables, sections)
  return sections


def _runs(table, leap):
  """The runs of a stream; notes which of its timestamps are noise."""
  known = np.flatnonzero(~np.isnan(table.due))
  if not len(known):
    return [slice(0, table.count)] if table.count else []
  due, lengths = table.due[known], table.lengths[known]
  ends = due + lengths
  # Without times of decoding: pictures may follow others that come later.
  back = NEAR if table.has_dts else max(1.0, 16 * float(np.median(lengths)))

  def go_on(runs):
    """Runs [first, stop), of `known`, with those in one that go on in another.
    """
    joined = runs[:1]
    for first, stop in runs[1:]:
      last = joined[-1][1] - 1
      if due[last] - back <= due[first] <= ends[last] + leap:
        first = joined.pop()[0]
      joined.append((first, stop))
    return joined

  breaks = (np.flatnonzero((due[1:] < due[:-1] - back) | (
      due[1:] > ends[:-1] + min(leap, NOISE))) + 1).tolist()
  runs, wrong = [], set()
  for first, stop in zip([0, *breaks], [*breaks, len(known)]):
    # One may go on where an earlier one ended, with noise between them.
    for k in reversed(range(max(0, len(runs) - SCRAPS), len(runs) - 1)):
      end = runs[k][1]
      content = lengths[end:first].sum()
      if content > NOISE:
        break
      between = due[end:first]
      if -back <= due[first] - ends[end - 1] <= content + NOISE and (
          between.min() < due[end - 1] - back
          or between.max() > due[first] + back):
        wrong.update(known[end:first].tolist())
        first = runs[k][0]
        del runs[k:]
        break
    runs.append((first, stop))
  runs = go_on(runs)
  if longer := [run for run in runs if run[1] - run[0] > 1]:
    wrong.update(
        int(known[first]) for first, stop in runs if stop - first == 1)
    runs = go_on(longer)
  table.due[list(wrong)] = table.begins[list(wrong)] = math.nan
  table.wrong |= wrong
  firsts = [int(known[first]) for first, _ in runs[1:]]
  return [slice(*ends) for ends in zip([0, *firsts], [*firsts, table.count])]


def _join_pauses(table, others):
  """The runs of a stream, together where its clock leaps by itself, as it does
  in a pause, or goes back a little, as some do."""
  joined = table.runs[:1]
  for run in table.runs[1:]:
    place, last = table.order[run.start], table.order[run.start - 1]
    before = np.nanmax(table.due[joined[-1]])
    after = np.nanmin(table.due[run])
    # The clock of another may go on over this place.
    there = [other.due[there] for other in others for there in other.runs
             if other.order[there.start] <= place
             and other.order[there.stop - 1] >= last]
    if before - JITTER <= after and any(
        np.nanmin(due) - INTERLEAVED <= min(before, after)
        and np.nanmax(due) + INTERLEAVED >= max(before, after)
        for due in there if not np.isnan(due).all()):
      run = slice(joined.pop().start, run.stop)
    joined.append(run)
  return joined


def _share(tables, i, run, section):
  """Whether a run lies where a section does in the file."""
  def places(i, run):
    return tables[i].order[run.start], tables[i].order[run.stop - 1] + 1
  begin, end = places(i, run)
  begins, ends = zip(*(places(*item) for item in section.items()))
  first, last = min(begins), max(ends)
  return 2 * (min(end, last) - max(begin, first)) > min(
      end - begin, last - first)


def _check(tables, sections):
  """Raises MediaError if the streams of a section do not share a clock, or one
  of them goes on in the next."""
  for before, section in zip(sections, sections[1:]):
    place = min(tables[i].order[run.start] for i, run in section.items())
    spans = [tables[i].span(run) for i, run in section.items()]
    apart = len(spans) > 1 and None not in spans and (
        max(begin for begin, _ in spans) - min(end for _, end in spans))
    for i, run in before.items():
      over = tables[i].between(tables[i].until(place), run.stop)
      if over > INTERLEAVED or apart > INTERLEAVED:
        raise MediaError("the clocks of its video and its sound start anew at "
                         "different times: they cannot be kept together")


def _plain(container, tables, zero, said, spans, delay):
  """The timeline of a file whose timestamps are right."""
  leaping = container.format.name in LEAPING

  def choose(said, counted, near=NEAR):
    # A header may say it better, without what an encoder padded; and it tells
    # what a file has lost. Where it has no length, FFmpeg guesses.
    if leaping and said - counted >= near:
      return counted
    return said if said > counted - NEAR else counted

  found = {table.stream.index: table.first_and_last for table in tables}
  ends = [last - zero for _, last in found.values() if last is not None]
  if not ends:
    raise MediaError("no packet of video or sound")
  guess = (container.duration or 0) / av.time_base
  if said < math.inf:
    length = choose(said, max(ends))
  else:
    length = guess if abs(guess - max(ends)) < NEAR else max(ends)
  for index, (first, last) in found.items():
    if last is None:
      continue
    begin, end = spans[index][0]
    counted = max(first - zero, 0.0)
    spans[index] = [(begin if abs(begin - counted) < NEAR else counted,
                     choose(end, last - zero, HOLD))]
  return Timeline(length, zero, spans, {}, delay)


def _rebuilt(tables, sections, zero, delay):
  """The timeline of a file with sections, or with wrong timestamps."""
  length = 0.0
  spans = {table.stream.index: [] for table in tables}
  shifts = [[] for _ in tables]  # (number of the first packet, seconds)
  for section in sections:
    found = {i: span for i, run in section.items()
             if (span := tables[i].span(run))}
    begin = min((begin for begin, _ in found.values()), default=0.0)
    if section is sections[0] and abs(begin - zero) < NEAR:
      begin = zero
    shift = length - begin
    for i, run in section.items():
      shifts[i].append((run.start, shift))
    for i, (first, last) in found.items():
      spans[tables[i].stream.index].append(
          (max(0.0, round(first + shift, 6)), round(last + shift, 6)))
    length = max([length, *(last + shift for _, last in found.values())])
  clocks = {}
  for table, pairs in zip(tables, shifts):
    if pairs:
      clocks[table.stream.index] = table.clock(*map(np.array, zip(*pairs)))
  return Timeline(length, 0.0, spans, clocks, delay)
