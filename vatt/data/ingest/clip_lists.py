"""Makes a `clips.csv` of official lists."""
import collections
import csv
import io
import itertools
import os

from vatt.data.ingest import clip_sources, matching
from vatt.data.ingest.annotations import Listing
from vatt.errors import UserError, one_line
from vatt.files import REFUSED, write_whole


def write_clips(listing: Listing, manual_dir: str,
                trimmed: bool = False, overwrite: bool = False) -> None:
  """Writes `clips.csv` into the folder of the media, and says what is in it.

  Args:
    listing: what is listed.
    manual_dir: folder of the media.
    trimmed: whether every file is no more than its clip.
    overwrite: whether to replace a `clips.csv`.

  Raises:
    UserError: of the annotations or the media; nothing is written then.
  """
  output = os.path.join(manual_dir, "clips.csv")
  if not os.path.isdir(manual_dir):
    raise UserError(f"--manual_dir={manual_dir}: no such folder")
  if os.path.exists(output) and not overwrite:
    raise UserError(f"{output}: is there already; --overwrite replaces it")
  listed = listing.clips
  used = [clip for clip in listed if clip.splits]
  found, missing = matching.find(used, manual_dir, trimmed)
  matching.check_times(found, manual_dir, trimmed)

  table = io.StringIO()
  write = csv.writer(table, lineterminator="\n").writerow
  write(clip_sources.COLUMNS)
  splits, labels = collections.Counter(), set()
  for path, clip in found:
    splits.update(clip.splits)
    labels.update(clip.labels)
    for label, caption in itertools.zip_longest(
        clip.labels or [""], clip.captions, fillvalue=""):
      write([path, *("" if time is None else round(time, 3)
                     for time in (clip.start, clip.end)),
             label, caption, " ".join(clip.splits)])
  try:
    write_whole(output, table.getvalue())
  except REFUSED as error:
    raise UserError(
        f"{output}: cannot be written: {one_line(error)}") from None
  each = ", ".join(f"{split} {splits[split]}" for split in sorted(
      splits, key=clip_sources.split_order))
  print(f"{output}: {len(found)} clips ({each}), {len(labels)} classes; left "
        f"out: {len(listed) - len(used)} in no split, {len(missing)} that are "
        "not there" + "".join(f", such as {c.file}.*" for c in missing[:1]))
