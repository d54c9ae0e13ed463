"""Makes a `clips.csv` of official lists."""
import csv
import io
import itertools
import os

from vatt.data.ingest import clips_csv, coverage, matching
from vatt.data.ingest.annotations import Format, Listing
from vatt.data.ingest.rejected import FORMULA, HEADERS, MISSING
from vatt.errors import UserError, one_line
from vatt.files import REFUSED, write_whole


def write_clips(listing: Listing, form: Format, manual_dir: str,
                trimmed: bool | None = None, overwrite: bool = False,
                output: str | None = None) -> None:
  """Writes `clips.csv`, `classes.txt` and what says what is missing, and prints
  a line of that.

  Args:
    listing: what is listed.
    form: of the annotations.
    manual_dir: folder of the media.
    trimmed: whether files called like a video are clips alone; None to measure
      them.
    overwrite: whether to replace a `clips.csv`.
    output: folder to write into, made if need be; None for that of the media.
      In any other, paths are absolute.

  Raises:
    UserError: of the annotations or the media; nothing is written then. Or the
      files cannot be written.
  """
  folder = output or manual_dir
  if not os.path.isdir(manual_dir):
    raise UserError(f"--manual_dir={manual_dir}: no such folder")
  base = ""  # of paths
  if output and not os.path.samefile(manual_dir, _made(output)):
    base = os.path.abspath(manual_dir)
  for name in (clips_csv.LIST, clips_csv.CLASSES, *HEADERS):
    if os.path.exists(f"{folder}/{name}") and not overwrite:
      raise UserError(
          f"{folder}/{name}: is there already; --overwrite replaces it")
  matches = matching.find(listing.clips, form, manual_dir, trimmed)
  # The list comes last: where it is, the rest is.
  contents = coverage.tables(listing, matches) | {
      clips_csv.CLASSES: "".join(
          f"{name}\n" for name in listing.classes).encode(),
      clips_csv.LIST: _table(matches, base)}
  for name, content in contents.items():
    target = f"{folder}/{name}"
    try:
      if content or os.path.exists(target):
        write_whole(target, content)
    except REFUSED as error:
      raise UserError(f"{target}: cannot be written: {one_line(error)}"
                      + ("" if output else "; --output=FOLDER writes elsewhere")
                      ) from None
  print(f"{folder}/{clips_csv.LIST}: {coverage.line(listing, matches)} "
        f"(see {folder}/{MISSING})")


def _made(folder):
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError as error:
    raise UserError(f"--output={folder}: {one_line(error)}") from None
  return folder


def _table(matches, base):
  """The bytes of the list, its paths below `base`."""
  file = io.StringIO()
  write = csv.writer(file, lineterminator="\n").writerow
  columns = [*clips_csv.COLUMNS, clips_csv.SOUND]
  if not any(match.sound for match in matches.found):
    columns.pop()
  write(columns)
  for match in matches.found:
    clip = match.clip
    times = ["" if time is None else round(time, 3)
             for time in (match.start, match.end)]
    paths = [path and os.path.join(base, path)
             for path in (match.path, match.sound)]
    # What begins like a formula is lost in a spreadsheet.
    paths = [f"./{path}" if path.startswith(FORMULA) else path
             for path in paths]
    for label, caption in itertools.zip_longest(
        clip.labels or [""], clip.captions, fillvalue=""):
      write([paths[0], *times, label, caption, " ".join(clip.splits), paths[1]
             ][:len(columns)])
  return file.getvalue().encode()
