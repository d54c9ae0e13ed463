"""What there is of official lists, and what is missing."""
import collections

from vatt.data.ingest import plans
from vatt.data.ingest.annotations import Listing
from vatt.data.ingest.matching import Matches
from vatt.data.ingest.rejected import COVERAGE, HEADERS, MISSING, table

SHOWN = 3  # names in a line
BETWEEN = "; "  # labels in a cell, which have commas


def tables(listing: Listing, matches: Matches) -> dict[str, bytes]:
  """Files that say what is missing, by their names.

  Args:
    listing: what is listed.
    matches: what of it is there.

  Returns:
    MISSING with each clip that is not, its splits with blanks between and its
    labels with BETWEEN; COVERAGE with the clips of each split and label, in the
    order of the classes' numbers.
  """
  listed, there = (
      collections.Counter(
          (split, label) for clip in clips
          for split in clip.splits or [""] for label in clip.labels or [""])
      for clips in (listing.clips, [match.clip for match in matches.found]))
  number = {name: i for i, name in enumerate(listing.classes)}

  def place(row):
    return plans.split_order(row[0]), number.get(row[1], -1)

  return {
      MISSING: table((
          (_id(clip), why, _joined(clip.splits), BETWEEN.join(clip.labels))
          for clip, why in matches.missing), HEADERS[MISSING]),
      COVERAGE: table((
          (*row, str(listed[row]), str(there[row]))
          for row in sorted(listed, key=place)), HEADERS[COVERAGE])}


def _joined(splits):
  return " ".join(sorted(splits, key=plans.split_order))


def _id(clip):
  if clip.start is None:
    return clip.file
  return f"{clip.file}:{clip.start:.3f}-" + (
      "" if clip.end is None else f"{clip.end:.3f}")


def line(listing: Listing, matches: Matches) -> str:
  """How much of each split there is, and of how many classes nothing."""
  listed, there = (
      collections.Counter(split for clip in clips for split in clip.splits)
      for clips in (listing.clips, [match.clip for match in matches.found]))
  each = ", ".join(f"{split} {there[split]:,} of {listed[split]:,}"
                   for split in sorted(listed, key=plans.split_order))
  left = sum(not clip.splits for clip, _ in matches.missing)
  text = (f"{len(matches.found):,} clips ({each}), missing "
          f"{len(matches.missing) - left:,}, in no split {left:,}")
  if listing.classes:
    having = {label for match in matches.found for label in match.clip.labels}
    without = [name for name in listing.classes if name not in having]
    text += f"; {len(listing.classes):,} classes"
    if without:
      text += (f", {len(without):,} of them without any clip: "
               + BETWEEN.join(without[:SHOWN])
               + (f"{BETWEEN}..." if len(without) > SHOWN else ""))
  return text
