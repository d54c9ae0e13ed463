"""Finds the media files of clips that are listed, by their names."""
import collections
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tqdm import tqdm

from vatt.data.ingest import clip_sources, tables
from vatt.data.ingest.annotations import Format, Listed
from vatt.data.ingest.measured import Measured
from vatt.data.ingest.workers import Workers
from vatt.errors import UserError

TRIED = 20  # files, to learn whether all are what is said of them
# Seconds that a file may be longer than the clip that it is: cut at key frames.
LONGER = 5.0
ROUNDED = 1.0  # seconds by which a video may end before a clip of it
REPLACEMENT = "replacement"  # how folders begin whose files are the good ones
# Of files that have sound alone.
SOUND = frozenset((
    ".aac .ac3 .aif .aifc .aiff .amr .au .caf .dts .eac3 .flac .m4a .m4b .mka "
    ".mp2 .mp3 .mpa .oga .ogg .opus .ra .spx .tta .w64 .wav .weba .wma"
).split())
# Folders of such files, where suffixes do not tell: of .mp4 and .webm, say.
SOUND_FOLDERS = frozenset(("audio", "audios", "sound", "sounds"))


class Match(NamedTuple):
  """A clip whose file is there.

  Attributes:
    clip: as it is listed.
    path: of its file, in the folder of the media.
    start, end: seconds in that; None for all of it.
    sound: path of the file that has its sound, if its file has none.
  """
  clip: Listed
  path: str
  start: float | None
  end: float | None
  sound: str = ""


class Matches(NamedTuple):
  """The clips whose files are there, and (clip, reason) of the others."""
  found: list[Match]
  missing: list[tuple[Listed, str]]


def find(clips: Sequence[Listed], form: Format, manual_dir: str,
         trimmed: bool | None = None, known: Measured | None = None
         ) -> Matches:
  """Finds the media files of clips, by their names without the suffixes.

  A file called like the video of a clip may be that clip alone: the lengths of
  such files tell. Prints what was decided.

  Args:
    clips: as listed.
    form: of the annotations, which knows the names.
    manual_dir: folder of the media, and of folders of them.
    trimmed: whether files called like a video are clips alone; None to measure
      them.
    known: lengths that were measured before; gets the others.

  Raises:
    UserError: a clip has several files, there are none at all, or they are not
      what `trimmed` says.
  """
  files = _Files(manual_dir, clips)
  found, missing = [], []
  unsure = []  # numbers of those found whose files are called like videos
  for clip in tqdm(clips, "matching", unit="clip", delay=2, mininterval=1):
    if not clip.splits:
      missing.append((clip, "in no split"))
      continue
    own, own_sound = files.of(clip, form.own_names(clip))
    path = sound = ""
    if not own or is_sound(own):
      path, sound = files.of(clip, form.names(clip))
    if own and (not path or is_sound(path)):
      found.append(Match(clip, own, None, None, own_sound))
    elif path:  # also where the clip alone has a file of sound alone
      if trimmed is not False:
        sound = sound or own
      unsure.append(len(found))
      found.append(Match(clip, path, clip.start, clip.end, sound))
    else:
      missing.append((clip, files.why_missing(clip)))
  files.check()
  if not found:
    first = next((clip for clip in clips if clip.splits), None)
    names = [f"{name}.*" for name in (
        *form.names(first), *form.own_names(first))][:3] if first else ["none"]
    raise UserError(f"--manual_dir={manual_dir}: no file of the {len(clips)} "
                    f"clips that are listed, such as {' or '.join(names)}")
  videos = [found[i] for i in unsure]
  if trimmed is None:
    videos, mixed = _decide(videos, manual_dir, known)
    missing += mixed
  else:
    check_times(videos, manual_dir, trimmed)
    if trimmed:
      videos = [match._replace(start=None, end=None) for match in videos]
  for i, match in zip(unsure, videos):
    found[i] = match
  found = [match for match in found if match]
  # Such as one that is called by whole seconds.
  alone = collections.Counter(m.path for m in found if m.start is None)
  missing += [(m.clip, f"{m.path} has the names of {alone[m.path]} clips")
              for m in found if alone[m.path] > 1]
  found = [m for m in found if alone[m.path] < 2]
  if not found:
    raise UserError(f"--manual_dir={manual_dir}: no file that is a clip's for "
                    f"certain; the first: {missing[-1][0].file}: "
                    f"{missing[-1][1]}")
  pairs = {m.path: m.sound for m in found if m.sound}
  for path, sound in list(pairs.items())[:1]:
    print(f"{manual_dir}: {len(pairs)} pairs of files, such as {path} and "
          f"{sound}: where the first has no sound of its own, that of the "
          "second is taken")
  files.tell_unused({*pairs.values(), *(m.path for m in found)})
  return Matches(found, missing)


def check_times(videos: Sequence[Match], manual_dir: str, trimmed: bool
                ) -> None:
  """Validates on some files that they are what they are said to be.

  Args:
    videos: clips and files that are called like their videos.
    manual_dir: folder of the media.
    trimmed: whether every file is no more than its clip.

  Raises:
    UserError: one of the files is that of several clips; or all that are tried
      are too long or too short for it.
  """
  if trimmed and videos:
    (path, count), = collections.Counter(
        match.path for match in videos).most_common(1)
    if count > 1:
      raise UserError(f"--trimmed: {path} is the file of {count} clips, "
                      "expected a file for each")
  wrong = []
  tried = [match for match in videos if match.start or (
      trimmed and match.end is not None)]
  lengths, _ = clip_sources.measure(
      manual_dir, [match.path for match in tried[:TRIED]], Workers())
  for match in tried[:TRIED]:
    length = lengths.get(match.path)
    if length is None:
      continue  # the build will tell
    if (length <= match.end - match.start + LONGER if trimmed
        else length > match.start):
      return
    wrong.append((match, length))
  for match, length in wrong[:1]:
    path = os.path.join(manual_dir, match.path)
    if trimmed:
      raise UserError(
          f"--trimmed: {path} is {length:.1f} s long, its clip "
          f"{match.end - match.start:.1f} s, and so with all of {len(wrong)} "
          "files tried; without --trimmed, clips are cut out of them")
    raise UserError(
        f"{path}: {length:.1f} s long, but its clip starts at {match.start} s, "
        f"and so with all of {len(wrong)} files tried; without --notrimmed, "
        "their lengths tell what they are")


def _decide(videos, manual_dir, known):
  """Decides by their lengths which of the files are no more than a clip.

  Returns:
    The matches, None for those whose file could be another's; and (clip,
    reason) of these.
  """
  # From 0 on, both are the same.
  lengths, _ = clip_sources.measure(manual_dir, list(dict.fromkeys(
      path for match in videos if match.start
      for path in (match.path, match.sound) if path)), Workers(), known)
  count = collections.Counter(match.path for match in videos)

  def kind(match, path):
    """Whether a file is the clip alone; None if its length does not tell."""
    length = lengths.get(path)
    if not match.start or match.end is None or length is None:
      return False
    listed = match.end - match.start
    is_clip = listed / 2 <= length <= listed + LONGER
    is_video = length >= match.end - ROUNDED
    return None if is_clip and is_video else is_clip

  kinds = [kind(match, match.path) for match in videos]
  others = {match.path for match, is_clip in zip(videos, kinds)
            if is_clip and count[match.path] > 1}
  alike = collections.Counter(
      found for match, found in zip(videos, kinds) if match.start)
  found, mixed, told, apart = [], [], {}, []
  for match, is_clip in zip(videos, kinds):
    path = match.path
    if path in others:
      mixed.append((match.clip, f"{path} is {lengths[path]:.1f} s long, no more"
                    f" than one of the {count[path]} clips that are listed of "
                    "it"))
      found.append(None)
      continue
    if is_clip is None:  # as most
      is_clip = alike[True] > alike[False] and count[path] == 1
    if match.sound:
      other = kind(match, match.sound)
      if other not in (None, is_clip):
        apart.append(match.sound)
        match = match._replace(sound="")
    if match.start:
      what = ("cannot be read" if path not in lengths else
              "clips alone" if is_clip else "whole")
      told.setdefault(what, {})[path] = None
    found.append(match._replace(start=None, end=None) if is_clip else match)
  if told:
    print(f"{manual_dir}: by the lengths of files whose names do not tell: "
          + "; ".join(f"{len(paths)} {what}, such as {next(iter(paths))}"
                      for what, paths in sorted(told.items(), reverse=True)))
  if apart:
    print(f"{manual_dir}: {len(apart)} files of sound are left out, such as "
          f"{apart[0]}: one is a clip alone and its pictures are whole, or the "
          "other way round")
  return found, mixed


class _Files:
  """The media files of a folder, by their names without the suffixes."""

  def __init__(self, manual_dir: str, clips: Sequence[Listed]):
    self._manual_dir = manual_dir
    self._first, self._more = {}, {}  # path, and paths beside it, by name
    self._count, self._clashes = 0, {}
    self._replaced, self._same = set(), set()
    # One name in several folders: where they are not the listed ones, nobody
    # knows whose the file is.
    names = collections.Counter(
        os.path.basename(clip.file) for clip in clips if "/" in clip.file)
    self._shared = {name for name, count in names.items() if count > 1}
    for path in clip_sources.find_media(manual_dir, all_names=True):
      if (path != path.encode(errors="ignore").decode()
          or tables.LINE_BREAK.search(path)):
        continue  # no list can have it
      self._count += 1
      name = os.path.splitext(os.path.basename(path))[0]
      if self._first.setdefault(name, path) is not path:
        self._more.setdefault(name, []).append(path)

  def of(self, clip: Listed, names: Iterable[str]) -> tuple[str, str]:
    """The file of a clip that may have these names, and that of its sound if it
    is another; "" for none."""
    paths = {}
    for name in names:
      base = name.rpartition("/")[2]
      if base in self._first:
        paths |= dict.fromkeys(self._called(name, base))
    if len(paths) < 2:
      return (*paths, "", "")[:2]
    return self._choose(clip, list(paths))

  def _called(self, name, base):
    paths = [self._first[base], *self._more.get(base, ())]
    if base == name or len(paths) == 1 and base not in self._shared:
      return paths
    same = [path for path in paths if os.path.splitext(f"/{path}")[0].endswith(
        f"/{name}")]
    return same or ([] if base in self._shared else paths)

  def _choose(self, clip, paths):
    """Of several files the one of the pictures, and the one of the sound."""
    good = [path for path in paths if any(
        part.startswith(REPLACEMENT) for part in _parts(path))]
    if good and len(good) < len(paths):
      self._replaced.update(set(paths).difference(good))
      paths = good
    same = {}
    for path in paths:
      if same.setdefault(self._identity(path), path) is not path:
        self._same.add(path)
    pictures, sound = [], []
    for path in same.values():
      (sound if is_sound(path) else pictures).append(path)
    apart = [path for path in pictures if _parts(path) & SOUND_FOLDERS]
    if not sound and 0 < len(apart) < len(pictures):
      sound = apart
      pictures = [path for path in pictures if path not in apart]
    for several in pictures, sound:
      if len(several) > 1:
        self._clashes.setdefault(tuple(several[:2]), clip)
    return (*pictures[:1], *sound[:1], "")[:2]

  def _identity(self, path):
    try:
      facts = os.stat(os.path.join(self._manual_dir, path))
    except OSError:
      return path
    return facts.st_dev, facts.st_ino

  def why_missing(self, clip: Listed) -> str:
    """Why a clip has no file."""
    name = os.path.basename(clip.file)
    return (f"{self._first[name]} may be another clip's, expected it in a "
            f"folder {os.path.dirname(clip.file)}" if name in self._first
            else "no file of its name")

  def check(self) -> None:
    """Prints what was decided.

    Raises:
      UserError: a clip has several files.
    """
    for (path, other), clip in self._clashes.items():
      more = (f", and so with {len(self._clashes) - 1} others"
              if len(self._clashes) > 1 else "")
      raise UserError(
          f"--manual_dir={self._manual_dir}: both {path} and {other} have the "
          f"name of {clip.file}, expected one file{more}")
    if self._replaced:
      print(f"{self._manual_dir}: {len(self._replaced)} files are not used, "
            f"such as {min(self._replaced)}: those of folders called "
            f"{REPLACEMENT}... take their places")

  def tell_unused(self, used: set[str]) -> None:
    """Prints how many files are of no clip, but for those that are others by
    another name, and those that others replace: they are told of already."""
    known = used | self._replaced | self._same
    if self._count > len(known):
      first = next(
          path for paths in (self._first.values(), *self._more.values())
          for path in paths if path not in known)
      print(f"{self._manual_dir}: {self._count - len(known)} media files have "
            f"the name of no clip that is used, such as {first}")


def is_sound(path: str) -> bool:
  """Whether a file has sound alone, by its suffix."""
  return os.path.splitext(path)[1].lower() in SOUND


def _parts(path):
  """The folders of a path, in small letters."""
  return {part.lower() for part in path.split("/")[:-1]}
