"""Finds the media files of clips that are listed, by their names."""
import collections
import os
from collections.abc import Sequence

from vatt.data.ingest import clip_sources, media, tables
from vatt.data.ingest.annotations import Listed
from vatt.errors import UserError

TRIED = 20  # files


def find(clips: Sequence[Listed], manual_dir: str, trimmed: bool = False
         ) -> tuple[list[tuple[str, Listed]], list[Listed]]:
  """Finds the media files of clips, by their names without the suffixes.

  Args:
    clips: as listed.
    manual_dir: folder of the media, and of folders of them.
    trimmed: whether every file is no more than its clip.

  Returns:
    (path in manual_dir, clip) of those found, the clip's times None where the
    file is the clip; and the clips whose files are missing.

  Raises:
    UserError: two files have the name of one, or there is none at all.
  """
  files = collections.defaultdict(list)
  for path in clip_sources.find_media(manual_dir):
    if (path == path.encode(errors="ignore").decode()
        and not tables.LINE_BREAK.search(path)):  # or no list can have it
      files[os.path.splitext(os.path.basename(path))[0]].append(path)

  def file_of(name):
    same = files.get(os.path.basename(name), [])
    if len(same) > 1:
      same = [path for path in same if os.path.splitext(f"/{path}")[0].endswith(
          f"/{name}")] or same
    if len(same) > 1:
      raise UserError(f"--manual_dir={manual_dir}: both {same[0]} and "
                      f"{same[1]} have the name of {name}, expected one file")
    return same[0] if same else None

  found, missing = [], []
  for clip in clips:
    path = file_of(clip.own_file)
    whole = path or trimmed
    path = path or file_of(clip.file)
    if path:
      found.append((path, clip._replace(start=None, end=None) if whole
                    else clip))
    else:
      missing.append(clip)
  if not found:
    raise UserError(f"--manual_dir={manual_dir}: no file of the {len(clips)} "
                    "clips that are listed"
                    + "".join(f", such as {c.file}.*" for c in clips[:1]))
  return found, missing


def check_times(found: Sequence[tuple[str, Listed]], manual_dir: str,
                trimmed: bool) -> None:
  """Validates on some files that they are what their clips are cut out of.

  Args:
    found: (path in manual_dir, clip) of each clip.
    manual_dir: folder of the media.
    trimmed: whether every file is no more than its clip.

  Raises:
    UserError: none of the files reaches its clip, or one is that of several.
  """
  if trimmed:
    paths = collections.Counter(path for path, _ in found)
    (path, count), = paths.most_common(1)
    if count > 1:
      raise UserError(f"--trimmed: {path} is the file of {count} clips, "
                      "expected a file for each")
  short = []
  for path, clip in [(p, clip) for p, clip in found if clip.start][:TRIED]:
    try:
      length = media.length(os.path.join(manual_dir, path))
    except media.MediaError:
      continue  # the build will tell
    if length > clip.start:
      return
    short.append((path, length, clip.start))
  for path, length, start in short[:1]:
    raise UserError(
        f"{os.path.join(manual_dir, path)}: {length:.1f} s long, but its clip "
        f"starts at {start} s, and so with all of {len(short)} files tried; if "
        "files are no more than their clips, give --trimmed")
