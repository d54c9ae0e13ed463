"""Sections of a media file, in each of which the clock goes on.

They are found by the timestamps of all packets, in the file's order. A few that
do not fit are damaged, and no section; nor is a pause of one stream alone.
"""
import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from av.stream import Stream

from vatt.data.ingest.media_tracks import MediaError

NEAR = 0.1  # seconds by which clocks may be inexact
JITTER = 1.0  # seconds that one stream's clock may go back by itself
NOISE = 1.0  # seconds of wrong timestamps between right ones
SCRAPS = 10  # runs at most of such timestamps, one after the other
INTERLEAVED = 5.0  # seconds by which streams may be apart in a file
WAITING = 20.0  # seconds that a picture may wait for the time it is due
MOST_HELD = 16  # pictures that decoders put in order


class Row(NamedTuple):
  """A packet; times in units of its stream, None if unknown.

  Attributes:
    order: its number among the packets of all streams.
    pts, dts, duration: of presentation, of decoding.
    is_key: whether decoding can begin here.
    is_cut: whether it is not to be shown.
  """
  order: int
  pts: int | None
  dts: int | None
  duration: int
  is_key: bool
  is_cut: bool


class Table:
  """The packets of a stream, in the file's order.

  Attributes:
    stream: it.
    count: number of packets, P.
    order: int [P], their numbers among those of all streams.
    due: float [P], seconds of decoding, or of presentation without; nan if
      unknown, as of wrong ones.
    begins: float [P], seconds of presentation; nan likewise.
    lengths: float [P], seconds.
    keys: bool [P], whether decoding can begin there.
    wrong: numbers of packets whose timestamps are damaged.
    runs: slices of packets, in each of which the clock goes on.
  """

  def __init__(self, stream: Stream, rows: Sequence[Row], has_dts: bool):
    """Takes the rows of a stream.

    Args:
      stream: it.
      rows: of its packets.
      has_dts: whether the container has times of decoding.
    """
    self.stream, self.count = stream, len(rows)
    self.wrong, self.runs = set(), []
    order, pts, dts, duration, keys, cut = (
        zip(*rows) if rows else [()] * 6)
    self.order, self.keys = np.array(order, int), np.array(keys, bool)
    unit = float(stream.time_base)
    pts, dts = (np.array([math.nan if t is None else t for t in times]) * unit
                for times in (pts, dts))
    self.has_dts = has_dts and not np.isnan(dts).all()
    self.due = dts if self.has_dts else pts
    # A picture waits for others, but not for more than a decoder holds.
    ahead, held = pts - dts, np.full(self.count, math.inf)
    held[:-MOST_HELD] = dts[MOST_HELD:]
    bad = (ahead < -NEAR) | (ahead > WAITING) & (pts > held + WAITING)
    self.wrong.update(np.flatnonzero(bad).tolist())
    pts[bad] = math.nan
    ahead = ahead[~(bad | np.isnan(ahead))]
    self.begins = np.where(
        np.isnan(pts), dts + (np.median(ahead) if len(ahead) else 0.0), pts)
    self.begins[np.array(cut, bool)] = math.nan  # not to be shown
    self.lengths = np.array(duration, float) * unit

  def between(self, first: int, stop: int) -> float:
    """Seconds of what lies between two packets."""
    return float(self.lengths[min(first, stop):max(first, stop)].sum())

  def until(self, order: int) -> int:
    """Number of packets before a place in the file."""
    return np.searchsorted(self.order, order)

  def span(self, run: slice) -> tuple[float, float] | None:
    """The (begin, end) of packets in seconds; None if unknown."""
    begins = self.begins[run]
    if np.isnan(begins).all():
      return None
    return (float(np.nanmin(begins)),
            float(np.nanmax(begins + self.lengths[run])))


def find_sections(tables: Sequence[Table], leap: float
                  ) -> list[dict[int, slice]]:
  """Finds the sections of a file, and notes what is wrong in the tables.

  Args:
    tables: of its streams.
    leap: seconds without anything that are no pause.

  Returns:
    Of each section, in the file's order: by the number of a table, which of its
    packets it has.

  Raises:
    MediaError: one stream's clock starts anew, and that of the other does not.
  """
  ends = [(np.nanmin(table.due, initial=math.inf),
           np.nanmax(table.due, initial=-math.inf)) for table in tables]
  for i, table in enumerate(tables):
    others = ends[:i] + ends[i + 1:] or [(math.inf, -math.inf)]
    table.runs = _runs(table, leap, (min(first for first, _ in others),
                                     max(last for _, last in others)))
  if all(len(table.runs) < 2 for table in tables):
    return [{i: run for i, table in enumerate(tables) for run in table.runs}]
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


def _runs(table, leap, others):
  """The runs of a stream; notes which of its timestamps are noise. Those of
  other streams are between the two of `others`."""
  known = np.flatnonzero(~np.isnan(table.due))
  if not len(known):
    return [slice(0, table.count)] if table.count else []
  due, lengths = table.due[known], table.lengths[known]
  ends = due + lengths
  # Without times of decoding: pictures may follow others that come later.
  back = NEAR if table.has_dts else max(
      1.0, MOST_HELD * float(np.median(lengths)))

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
  if any(stop - first > 1 for first, stop in runs):
    kept = []
    for k, (first, stop) in enumerate(runs):
      # A picture between pauses lies between its neighbours.
      before = due[first - 1] if k else others[0] - INTERLEAVED
      after = due[stop] if stop < len(known) else others[1] + INTERLEAVED
      if stop - first > 1 or before <= due[first] <= after:
        kept.append((first, stop))
      else:
        wrong.add(int(known[first]))
    runs = go_on(kept)
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
    # The clock of another may go on over this place, and not start anew.
    there = [other.due[run] for other in others
             for run in _runs_over(other, last, place)]
    if before - JITTER <= after and any(
        np.nanmin(due) - INTERLEAVED <= min(before, after)
        and np.nanmax(due) + INTERLEAVED >= max(before, after)
        for due in there if not np.isnan(due).all()):
      run = slice(joined.pop().start, run.stop)
    joined.append(run)
  return joined


def _runs_over(table, last, place):
  """The runs of a stream that go on over a place between two packets of the
  file, if none starts near it."""
  starts = [run.start for run in table.runs]
  number = table.until(place)
  k = bisect.bisect_left(starts, number)
  if any(table.between(start, number) <= INTERLEAVED
         for start in starts[max(1, k - 1):k + 1]):
    return []
  # All but the last one before the place have ended there. Behind the last one
  # of all the clock has not started anew: a muxer may write pictures there.
  return [run for run in table.runs[max(0, k - 1):k + 1]
          if table.order[run.start] <= place
          and (table.order[run.stop - 1] >= last or run == table.runs[-1])]


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
