"""Finds media files, and cuts them into clips."""
import collections
import math
import os
import time
from collections.abc import (
  Callable,
  Collection,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from types import MappingProxyType
from typing import Any, NamedTuple

from tqdm import tqdm

from vatt.data.ingest import media, sidecars, stores, tables, threads
from vatt.data.ingest.measured import Measured
from vatt.data.ingest.workers import Workers
from vatt.errors import UserError, visible
from vatt.host import num_cores

SUFFIXES = frozenset((
    ".3g2 .3gp .aac .ac3 .aif .aifc .aiff .amr .asf .au .avi .caf .divx .dts "
    ".dv .eac3 .f4v .flac .flv .gif .h264 .h265 .hevc .ivf .m1v .m2t .m2ts "
    ".m2v .m4a .m4b .m4v .mj2 .mjpeg .mjpg .mka .mkv .mod .mov .mp2 .mp3 .mp4 "
    ".mpa .mpe .mpeg .mpg .mts .mxf .nsv .nut .oga .ogg .ogm .ogv .ogx .opus "
    ".qt .ra .rm .rmvb .spx .ts .tta .vob .w64 .wav .weba .webm .wma .wmv "
    ".wtv .wv .y4m").split())
SAVED = 60.0  # seconds after which lengths are saved again
LONGEST_FILE = 24 * 3600  # seconds; damaged headers say any length


class Span(NamedTuple):
  """A clip as it was found."""
  file: str
  start: float
  end: float | None  # None for the file's end
  split: str = ""
  labels: tuple[str, ...] = ()
  captions: tuple[str, ...] = ()
  sound: str = ""  # the file that has its sound, if `file` has none

  @property
  def id(self) -> str:
    end = "" if self.end is None else f"{self.end:.3f}"
    return f"{self.file}:{self.start:.3f}-{end}"

  def why_unusable(self) -> str:
    """Why no clip can have such times; "" if one can."""
    if self.start < 0:
      return f"starts at {self.start} s"
    if self.end is not None and not 0 < self.end - self.start <= media.LONGEST:
      return (f"from {self.start} to {self.end} s, expected more than 0 and at "
              f"most {media.LONGEST:.0f} s")
    return ""


class Found(NamedTuple):
  """What a dataset can be built from.

  Attributes:
    spans: gives all clips, those of a file together; each time that it is
      called, as they are not in memory.
    files: those that they are of.
    silent: those of which a clip has no caption.
    rejected: (id, file, reason) of clips that cannot be built.
    classes: in the order of their numbers.
    tables: files that say what official lists have besides, by their names.
  """
  spans: Callable[[], Iterable[Span]]
  files: Collection[str]
  silent: Collection[str]
  rejected: Sequence[tuple[str, str, str]]
  classes: Sequence[str] = ()
  tables: Mapping[str, bytes] = MappingProxyType({})


def cut_files(manual_dir: str, length: float, stride: float, workers: Workers,
              known: Measured | None = None) -> Found:
  """Finds media files and cuts them into clips.

  Args:
    manual_dir: folder of the media.
    length, stride: as of `parts`.
    workers, known: as of `measure`.

  Raises:
    UserError: there is no media file.
  """
  files = find_media(manual_dir)
  if not files:
    raise UserError(f"--manual_dir={manual_dir}: neither clips.csv nor a media "
                    f"file ({' '.join(sorted(SUFFIXES))}) in it")
  lengths, rejected = measure(manual_dir, files, workers, known)
  return Found(
      lambda: (Span(file, *part) for file, seconds in lengths.items()
               for part in parts(seconds, length, stride)),
      lengths.keys(), lengths.keys(), rejected)


def measure(manual_dir: str, files: Sequence[str], workers: Workers,
            known: Measured | None = None
            ) -> tuple[dict[str, float], list[tuple[str, str, str]]]:
  """Measures media files, with a bar if it takes long.

  Args:
    manual_dir: folder of the media.
    files: paths in it.
    workers: processes to read the files in.
    known: those that were measured before; gets the others.

  Returns:
    The seconds of each file, in their order, and (id, file, reason) of those of
    no use.
  """
  known = known or Measured()

  def length(path):
    with stores.local(path) as copy:
      return workers.call(60, media.length, copy)

  def look(file):
    try:
      file.encode()
    except UnicodeEncodeError:
      return media.MediaError("its name is not UTF-8")
    if tables.LINE_BREAK.search(file):
      return media.MediaError("its name has a line break")
    path = os.path.join(manual_dir, file)
    try:
      return known.seconds(file, path, lambda: length(path))
    except media.MediaError as error:
      return error

  lengths, rejected, saved = {}, [], time.monotonic()
  try:
    for file, found in in_threads(look, files, "lengths", "file"):
      if time.monotonic() > saved + SAVED:  # all of them, each time
        known.save()
        saved = time.monotonic()
      if isinstance(found, media.MediaError):
        name = visible(file.encode(errors="backslashreplace").decode())
        rejected.append((name, name, str(found)))
      elif not 0 < found <= LONGEST_FILE:
        rejected.append((file, file, f"{found:.3f} s long, expected "
                         f"at most {LONGEST_FILE} s"))
      else:
        lengths[file] = found
  finally:
    known.save()
  return lengths, rejected


def in_threads(function: Callable[[Any], Any], items: Sequence[Any], what: str,
               unit: str) -> Iterator[tuple[Any, Any]]:
  """Yields (item, what a function returns of it), in order.

  Args:
    function: called by as many threads as there are cores.
    items: any number of them.
    what, unit: of the bar that is shown if it takes some seconds.
  """
  yield from tqdm(threads.in_order(function, items, num_cores()), what,
                  len(items), unit=unit, mininterval=1, delay=3)


def parts(seconds: float, length: float, stride: float = 0.0
          ) -> list[tuple[float, float]]:
  """Cuts a file into clips of one length.

  Args:
    seconds: of the file.
    length: of a clip, seconds. The last one may be shorter, by half at most but
      for the file's only one, if there is something in it that is in no other.
    stride: seconds from the start of a clip to that of the next; 0 for the
      length of one.

  Returns:
    (start, end) of each, seconds.
  """
  stride = stride or length
  count = max(1, min(math.floor(seconds / stride + (1 - length / 2 / stride)),
                     math.ceil((seconds - length) / stride) + 1))
  return [(round(i * stride, 3), round(min(i * stride + length, seconds), 3))
          for i in range(count)]


def parts_around(cues: Iterable[tuple[str, float, float]], seconds: float,
                 length: float) -> list[tuple[float, float]]:
  """Cuts a clip around the middle of each cue of a file.

  Args:
    cues: (text, start, end), seconds.
    seconds: of the file.
    length: of a clip, seconds; a shorter file is one clip.

  Returns:
    (start, end) of each, seconds, within the file. Cues behind its end have
    none, and those of one clip have it once.
  """
  last = max(0.0, seconds - length)
  starts = dict.fromkeys(
      round(min(max(0.0, (start + end - length) / 2), last), 3)
      for _, start, end in cues if start < seconds)
  return [(start, round(min(start + length, seconds), 3)) for start in starts]


def find_media(manual_dir: str, skip: str = "",
               unread: list[str] | None = None, all_names: bool = False
               ) -> list[str]:
  """The media files in a folder and its folders, each once whatever links lead
  to it: by a name without a link if it has one.

  Prints what it leaves out, but for folders that are called `skip`, and what
  git keeps: the files of git-annex have their names outside.

  Args:
    manual_dir: the folder.
    skip: name of folders to leave out.
    unread: gets the folders that cannot be read, relative to `manual_dir`.
    all_names: whether to have a file by each link to it, as where names are
      looked for, and by none that leads nowhere. Folders come once also then.

  Returns:
    Sorted paths, relative to `manual_dir`.
  """
  found, others, seen, nowhere = [], collections.Counter(), set(), []
  bar = tqdm(desc="media files", unit="file", delay=2, mininterval=1)
  # Links come last, so that a new one never renames what is known.
  waiting = collections.deque([manual_dir])

  def tell(error):
    if unread is not None:
      unread.append(os.path.relpath(error.filename, manual_dir))
    print(f"{visible(error.filename)}: left out, cannot be read "
          f"({error.strerror})")

  def take(path, real):
    """Takes a file, by its path relative to `manual_dir`."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES:
      others[suffix or "without a suffix"] += 1
    elif all_names or real not in seen:
      seen.add(real)
      found.append(path)
      bar.update()

  while waiting:
    top = waiting.popleft()
    if all_names and not stores.exists(top):
      nowhere.append(os.path.relpath(top, manual_dir))
      continue
    if not stores.is_folder(top):
      take(os.path.relpath(top, manual_dir), os.path.realpath(top))
      continue
    for parent, folders, names in stores.walk(top, SUFFIXES, tell):
      real = os.path.realpath(parent)
      if real in seen:
        folders.clear()
        continue
      seen.add(real)
      folders[:] = sorted(set(folders) - {skip, ".git"})
      below = os.path.relpath(parent, manual_dir)
      below = "" if below == "." else below
      for name in sorted(names):
        path = os.path.join(parent, name)
        if os.path.islink(path):
          waiting.append(path)
        else:
          take(os.path.join(below, name), os.path.join(real, name))
      waiting += filter(os.path.islink, (
          os.path.join(parent, name) for name in folders))
  bar.close()
  for suffix in sidecars.SUBTITLES:
    others.pop(suffix, None)
  if others:
    print(f"{manual_dir}: no media by their names, left out: "
          + ", ".join(f"{n} {kind}" for kind, n in sorted(others.items())))
  sidecars.tell(manual_dir, "links that lead to no file", sorted(nowhere))
  return sorted(found)


