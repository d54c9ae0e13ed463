"""HowTo100M: https://www.di.ens.fr/willow/research/howto100m

`--annotations`: what is said in the videos, in one of two forms:
  - {video_id}.csv, ... in any folders, of the columns start, end, text;
  - one of caption.json, raw_caption.json and raw_caption_superclean.json:
    {video_id: {start: [...], end: [...], text: [...]}}. It is read as a stream,
    and no captions stay in memory.
Beside them, as one likes, HowTo100M_v1.csv with the column video_id: then
those videos alone are used, also without captions.
`--manual_dir`: {video_id}.mp4, .webm, .mkv, ... in any folders.

Each video is cut into clips of `length` seconds, from `stride` to `stride`; or,
with `around=cues`, into one around the middle of each caption. Of the first
kind, those in which nothing is said are kept: their pictures and sound train
the loss between these two, and their captions are the nearest ones, as those of
every clip. A caption is left out if it is empty, of impossible times or not
understood; captions that overlap are kept, for in HowTo100M most do. All that
is counted and printed.
"""
import collections
import math
import os
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from tqdm import tqdm

from vatt import stopping
from vatt.data.datasets import clips
from vatt.data.datasets.official import Official
from vatt.data.ingest import (
    clip_sources,
    json_stream,
    plans,
    sidecars,
    spoken,
    stores,
    tables,
)
from vatt.data.ingest.cues import Cues
from vatt.data.ingest.rejected import HEADERS, MISSING, table
from vatt.data.ingest.workers import Workers
from vatt.errors import UserError, one_line

# The name of a file of captions, of a list of videos: eleven characters are the
# id of a video.
CAPTIONS_CSV = re.compile(r"([\w-]{11})\.csv", re.A)
CAPTIONS_JSON = re.compile(r"(raw_)?caption.*\.json")
VIDEO_LIST = re.compile(r"HowTo100M.*\.csv")
EXPECTED = "{video_id}.csv, ..., or caption.json, raw_caption.json"
BETTER = (".mp4", ".webm", ".mkv")  # of several files of a video


class Lists(NamedTuple):
  """The files of the annotations.

  Attributes:
    name: what --annotations names.
    csvs: of captions, by their videos.
    jsons: of captions.
    videos: lists of videos.
  """
  name: str
  csvs: dict[str, str]
  jsons: list[str]
  videos: list[str]


class Place(NamedTuple):
  """Where the captions of a video are.

  Attributes:
    path: of the file.
    offset, size: bytes in it; None for all of it.
    digest: of the captions.
    first: seconds at which the first one starts.
    last: seconds at which the last one does.
  """
  path: str
  offset: int | None
  size: int | None
  digest: str
  first: float
  last: float


NOWHERE = Place("", None, None, "", math.inf, -math.inf)


class Howto100m(Official, skip_registration=True):
  """How things are done, and what is said of it: splits train, test."""

  VERSION = tfds.core.Version("1.1.0")
  FORMAT = None  # no clips are listed
  FIELDS = tuple(field for field in clips.Options._fields
                 if field != "language")
  TEST_SHARE = 1000  # the paper trains on all

  def find(self, manual_dir: str, options: clips.Options, workers: Workers
           ) -> clip_sources.Found:
    if not self._annotations:
      raise UserError(f"--annotations is missing: the captions of {self.name} "
                      f"({EXPECTED})")
    if self._trimmed:
      raise UserError(f"--trimmed: the videos of {self.name} are whole ones")
    lists = find_lists(self._annotations)
    listed = {cells["video_id"]: None for path in lists.videos for _, cells in
              tables.read_table(path, ("video_id",), others=True)}
    files = files_of_videos(manual_dir)
    self._places, ids = read_captions(
        lists, files.keys() & listed.keys() if listed else files.keys())
    listed = listed or ids
    used = {file: video for video, file in files.items() if video in listed}
    missing = [(video, "no media file") for video in listed
               if video not in files]
    if not used:
      raise UserError(
          f"--manual_dir={manual_dir}: no file of the {len(listed)} videos that"
          " are listed" + "".join(f", such as {v}.mp4" for v, _ in missing[:1]))
    lengths, rejected = clip_sources.measure(
        manual_dir, list(used), workers, self.lengths())
    places = {file: self._place(file) for file in lengths}
    for what, names in (
        (f"of {len(listed)} videos, without a file", [v for v, _ in missing]),
        ("videos without captions", [
            video for video in used.values() if video not in self._places]),
        ("videos whose captions go on behind their end", [
            used[file] for file, seconds in lengths.items()
            if places[file].last >= seconds])):
      sidecars.tell(self._annotations, what, names)
    sidecars.tell(manual_dir, "media files of videos that are not listed",
                  [file for file in files.values() if file not in used])
    if options.around:  # a clip for each caption
      lengths = {file: seconds for file, seconds in lengths.items()
                 if places[file].first < seconds}
    if not lengths:
      first = [f"; the first: {file}: {why}" for _, file, why in rejected[:1]]
      raise UserError(f"--manual_dir={manual_dir}: no clip of any video"
                      + "".join(first))

    def spans():
      for file, seconds in lengths.items():
        stopping.check()
        for part in (
            clip_sources.parts_around(
                read_place(used[file], *places[file][:4]), seconds,
                options.length)
            if options.around else
            clip_sources.parts(seconds, options.length, options.stride)):
          yield clip_sources.Span(file, *part)

    return clip_sources.Found(
        spans, lengths.keys(), lengths.keys(), rejected, tables={MISSING: table(
            ((*row, "", "") for row in missing), HEADERS[MISSING])})

  def captions_of(self, manual_dir: str, found: clip_sources.Found,
                  options: clips.Options
                  ) -> Callable[[clip_sources.Span], Any]:
    return lambda span: self._place(span.file).digest

  def where(self, span: clip_sources.Span) -> tuple:
    return self._place(span.file)[:3]

  def _place(self, file):
    return self._places.get(video_of(file), NOWHERE)

  def reader(self, manual_dir: str, options: clips.Options,
             workers: Workers | None = None) -> clips.ClipReader:
    return Reader(manual_dir, options, workers)


class Reader(clips.ClipReader):
  """Makes the example of a clip, whose captions it reads."""

  _last = None, None  # a video and its place, and what is said in it

  def captions(self, clip: plans.Clip) -> list[tuple[str, float, float]]:
    start, end, _, digest, *_ = clip.data
    if not digest:
      return []
    place = video_of(clip.file), *clip.where, digest
    known = self._last
    if known[0] != place:  # as the clips of a video come together
      known = self._last = place, Cues(read_place(*place))
    return known[1].of_clip(start, end)


def read_place(video: str, path: str, offset: int | None, size: int | None,
               digest: str) -> list[tuple[str, float, float]]:
  """The captions of a video, (text, start, end) with times in seconds.

  Args:
    video: its id.
    path, offset, size, digest: of its Place.

  Raises:
    UserError: they are not what they were.
  """
  found = (spoken.of_csv(path) if offset is None else spoken.of_json(
      json_stream.value_at(path, offset, size), path))
  if found.digest != digest:
    raise UserError(f"{path}: the captions of {video} have changed since "
                    "this command began; run it again")
  return found.cues


def video_of(file: str) -> str:
  """The id of the video that a media file is."""
  return os.path.splitext(os.path.basename(file))[0]


def files_of_videos(manual_dir: str) -> dict[str, str]:
  """{video: media file in a folder}; says what it takes of several."""
  found, several = {}, []
  for file in clip_sources.find_media(manual_dir, all_names=True):
    video = video_of(file)
    if video in found:
      several.append(f"{file} and {found[video]}")
    if video not in found or _rank(file) < _rank(found[video]):
      found[video] = file
  sidecars.tell(manual_dir, "files of one video, of which one is taken ("
        + ", ".join(BETTER) + " before others)", several)
  return found


def _rank(file):
  suffix = os.path.splitext(file)[1].lower()
  return BETTER.index(suffix) if suffix in BETTER else len(BETTER)


def find_lists(path: str) -> Lists:
  """Finds the files of the annotations in a folder, or beside one of them.

  Raises:
    UserError: there are no captions, or there is a choice of them.
  """
  found = Lists(path, {}, [], [])

  def take(folder, names, captions=True):
    for name in sorted(names):
      file, match = os.path.join(folder, name), CAPTIONS_CSV.fullmatch(name)
      if VIDEO_LIST.fullmatch(name):
        found.videos.append(file)
      elif captions and CAPTIONS_JSON.fullmatch(name):
        found.jsons.append(file)
      elif captions and match and (
          found.csvs.setdefault(match[1], file) != file):
        raise UserError(f"--annotations={path}: both {found.csvs[match[1]]} "
                        f"and {file} have the captions of {match[1]}, expected "
                        "one")

  def refuse(error):
    raise UserError(f"--annotations={path}: {one_line(error)}") from error

  try:
    if stores.is_folder(path):
      seen = set()  # whatever links lead there
      for folder, inner, names in stores.walk(
          path, onerror=refuse, followlinks=True):
        inner.sort()
        real = os.path.realpath(folder)
        if real in seen:
          inner.clear()
        else:
          seen.add(real)
          take(folder, names)
    else:
      folder, name = os.path.split(path)
      stores.facts(path)
      _, _, names = next(stores.walk(folder or ".", onerror=refuse))
      take(folder, names, captions=False)
      if name.lower().endswith(".json"):
        found.jsons.append(path)
      else:
        take(folder, [name])
  except OSError as error:
    refuse(error)
  if not found.csvs and not found.jsons:
    raise UserError(f"--annotations={path}: no captions of howto100m by their "
                    f"names, expected {EXPECTED}")
  if len(found.jsons) + bool(found.csvs) > 1:
    first, second = [*found.jsons, *found.csvs.values()][:2]
    raise UserError(f"--annotations={path}: both {first} and {second} have "
                    "captions, expected one of them, such as "
                    f"--annotations={first}")
  return found


def read_captions(lists: Lists, wanted: Iterable[str]
                  ) -> tuple[dict[str, Place], dict[str, None]]:
  """Reads all captions once, and says what is wrong with them.

  Args:
    lists: the files.
    wanted: the videos of which captions are needed.

  Returns:
    Where those of each video are, and the videos of which there are any.

  Raises:
    UserError: the JSON file is none, or nothing is understood of any video.
  """
  places, ids, counts, wrong = {}, {}, collections.Counter(), []
  wanted = set(wanted)
  read = (_of_json(lists.jsons[0], wanted) if lists.jsons
          else _of_csvs(lists.csvs, wanted))
  for video, found, path, *part in read:
    ids[video] = None
    places.pop(video, None)  # json takes the last one, too
    if not found:
      continue
    counts.update(found.counts, captions=len(found.cues))
    if found.wrong:
      wrong.append(found.wrong)
    if found.cues:
      *_, (_, last, _) = found.cues
      first = min(start for _, start, _ in found.cues)
      places[video] = Place(path, *part, found.digest, first, last)
  if wrong and not places:
    raise UserError(wrong[0])
  sidecars.tell(lists.name, "captions or files of them that are not understood",
                wrong)
  kept = ", ".join(f"{counts[kind]} {kind}" for kind in spoken.KEPT)
  left = ", ".join(f"{counts[kind]} {kind}" for kind in spoken.LEFT_OUT)
  print(f"{lists.name}: {counts['captions']} captions of {len(places)} videos "
        f"({kept}); left out: {left}")
  return places, ids


def _of_json(path, wanted):
  """Yields (video, what is said in it or None, path, offset, size)."""
  with tqdm(total=stores.facts(path)[0], desc="captions", unit="B",
            unit_scale=True, mininterval=1, delay=3) as bar:
    for video, value, offset, size in json_stream.members(path):
      stopping.check()
      bar.update(offset + size - bar.n)
      yield (video, spoken.of_json(value, f"{path}: {video}")
             if video in wanted else None, path, offset, size)


def _of_csvs(csvs, wanted):
  """As `_of_json`, of a file for each video."""
  for video, path in csvs.items():
    if video not in wanted:
      yield video, None, path, None, None
  for video, found in clip_sources.in_threads(
      lambda video: spoken.of_csv(csvs[video]),
      [video for video in csvs if video in wanted], "captions", "video"):
    stopping.check()
    yield video, found, csvs[video], None, None
