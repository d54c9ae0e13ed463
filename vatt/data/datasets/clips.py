"""Clips of any media files: those listed in `clips.csv`, or all in a folder.

In the manual_dir, `clips.csv` has the columns `video_path`, `start`, `end` and,
as one likes, `label`, `caption`, `split`: a clip a row, or several rows for a
clip with several captions or labels. Paths are relative to the manual_dir or
absolute; times are seconds, an empty end is that of the file; `split` is train
or test. Without that list, every media file in the manual_dir or a folder in it
is cut into clips of one length.

Where no caption is listed for a clip, those of a subtitle file beside it are
taken: for `talk.mp4` that is `talk.vtt` or `talk.srt`.
"""
import csv
import hashlib
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import tensorflow_datasets as tfds

from vatt.data import media, subtitles
from vatt.data.datasets import base
from vatt.data.workers import Workers
from vatt.errors import UserError

COLUMNS = ("video_path", "start", "end", "label", "caption", "split")
NEEDED = COLUMNS[:3]
SPLITS = ("train", "test")
TEST_SHARE = 10  # one file in so many
FEW = 20  # files
SHARDS = 16  # of a split, or more:
CLIPS_A_SHARD = 64
SUFFIXES = frozenset(
    ".3gp .aac .aif .aiff .avi .f4v .flac .flv .m2ts .m4a .m4v .mka .mkv .mov "
    ".mp3 .mp4 .mpeg .mpg .mts .mxf .oga .ogg .ogv .opus .ts .vob .wav .webm "
    ".wma .wmv".split())
LIMIT = 120  # seconds of processor time for a clip
LONGEST_FILE = 24 * 3600  # seconds; damaged headers say any length


class Options(NamedTuple):
  """What a configuration can change."""
  fps: float = 10.0  # frames a second
  size: int = 256  # the frames' shorter side
  audio_rate: int = 48000  # samples a second
  length: float = 10.0  # seconds of a clip, where there is no clips.csv


class Span(NamedTuple):
  """A clip as it was found."""
  file: str
  start: float
  end: float | None  # None for the file's end
  row: int = 0  # in clips.csv, from 1
  split: str = ""
  labels: tuple[str, ...] = ()
  captions: tuple[str, ...] = ()

  @property
  def id(self):
    end = "" if self.end is None else f"{self.end:.3f}"
    return f"{self.file}:{self.start:.3f}-{end}"


class Clips(base.ClipsBuilder, skip_registration=True):
  """Configurations `[NAME][,FIELD=VALUE...]` with the fields of Options, such
  as `talks,fps=5,size=128`: the name tells several sets of clips apart.
  """

  VERSION = tfds.core.Version("1.0.0")
  DEFAULT_CONFIG = "default"
  DEFAULTS = Options()

  def make_plan(self, manual_dir):
    options = parse_config(self.builder_config.name, self.DEFAULTS)
    if not manual_dir:
      raise UserError("--manual_dir is missing: the folder with clips.csv, or "
                      "with media files")
    if not os.path.isdir(manual_dir):
      raise UserError(f"--manual_dir={manual_dir}: no such folder")
    workers = Workers()
    if os.path.exists(f"{manual_dir}/clips.csv"):
      spans, rejected = read_list(f"{manual_dir}/clips.csv")
      what = "usable row in clips.csv"
    else:
      spans, rejected = cut_files(manual_dir, options.length, workers)
      what = "usable media file in the folder"
    if not spans:
      first = [f"; the first: {file}: {why}" for _, file, why in rejected[:1]]
      raise UserError(f"--manual_dir={manual_dir}: no {what}" + "".join(first))
    names = sorted({label for span in spans for label in span.labels})
    cues = {file: read_cues(manual_dir, file)
            for file in {span.file for span in spans}}
    clips = [base.Clip(span.id, span.file, (
        span.start, span.end, span.row,
        [names.index(label) for label in span.labels],
        span.captions or cues_within(cues[span.file], span.start, span.end),
        os.path.getsize(os.path.join(manual_dir, span.file))))
        for span in spans]
    read = ClipReader(manual_dir, options, workers)
    if spans[0].split:
      sides = [span.split for span in spans]
    else:
      sides = choose_splits(manual_dir, clips, read)
    splits = {split: [clip for clip, side in zip(clips, sides) if side == split]
              for split in SPLITS if split in sides}
    return base.Plan(
        splits=splits,
        shards={split: max(SHARDS, math.ceil(len(clips) / CLIPS_A_SHARD))
                for split, clips in splits.items()},
        read=read,
        label_names=tuple(names),
        sources=options,
        rejected=tuple(rejected),
        threads=num_threads())


def num_threads():
  """The number of cores that this process may use."""
  return len(os.sched_getaffinity(0))


def parse_config(config, options):
  """Parses the name of a configuration.

  Args:
    config: such as "talks,fps=5".
    options: Options that it changes.

  Returns:
    Options.

  Raises:
    UserError: on anything that is not a name, then fields and their values.
  """
  expected = ("expected [NAME][,FIELD=VALUE...] with the fields "
              + ", ".join(options._fields))
  seen = {}
  for i, part in enumerate(config.split(",")):
    field, equals, value = part.partition("=")
    if i == 0 and not equals and re.fullmatch(r"\w[\w.-]*", field):
      continue
    if field not in options._fields or field in seen:
      raise UserError(f"configuration {config!r}: {part!r} "
                      f"{'is there twice' if field in seen else 'is unknown'}, "
                      + expected)
    kind = type(getattr(options, field))
    try:
      seen[field] = kind(value)
    except ValueError:
      seen[field] = 0
    if not 0 < seen[field] < 1e6:
      raise UserError(f"configuration {config!r}: {field} is {value!r}, "
                      f"expected {kind.__name__} > 0")
  options = options._replace(**seen)
  if options.length > media.LONGEST:
    raise UserError(f"configuration {config!r}: length is {options.length}, "
                    f"expected at most {media.LONGEST:.0f} seconds")
  return options


# ---- what there is


def read_list(path):
  """Reads `clips.csv`.

  Args:
    path: of the file.

  Returns:
    list of Span, in the order of their first rows, and a list of (id, file,
    reason) of the clips that cannot be.

  Raises:
    UserError: it is no such list; names the row, counted from 1, the header's.
  """
  spans, rejected = {}, {}
  folder = os.path.dirname(path)
  for row, cells in _rows(path):
    start, end = (_seconds(path, row, column, cells[column])
                  for column in ("start", "end"))
    file = os.path.normpath(cells["video_path"])
    span = Span(file, start or 0.0, end, row, cells.get("split", ""))
    known = spans.get(span.id)
    if "split" in cells and span.split not in SPLITS:
      raise UserError(f"{path}: row {row}, column split: {span.split!r}, "
                      f"expected {' or '.join(SPLITS)}")
    if known and known.split != span.split:
      raise UserError(f"{path}: row {row}, column split: {span.split!r}, but "
                      f"the same clip is in {known.split!r} in row {known.row}")
    why = None
    if not os.path.isfile(os.path.join(folder, file)):
      why = "no such file"
    elif span.start < 0:
      why = f"starts at {span.start} s"
    elif end is not None and not 0 < end - span.start <= media.LONGEST:
      why = (f"from {span.start} to {end} s, expected more than 0 and at most "
             f"{media.LONGEST:.0f} s")
    if why:
      rejected.setdefault(span.id, (span.id, file, f"row {row}: {why}"))
      continue
    known = known or span
    added = {
        field: getattr(known, field) + (cells[column],)
        for field, column in (("labels", "label"), ("captions", "caption"))
        if cells.get(column) and cells[column] not in getattr(known, field)}
    spans[span.id] = known._replace(**added)
  return list(spans.values()), list(rejected.values())


def _rows(path):
  """(row, dict of column to text) of a CSV file, without empty rows."""
  try:
    with open(path, encoding="utf-8-sig", newline="") as file:
      reader = csv.reader(file, strict=True)
      header = [name.strip() for name in next(reader, [])]
      rows = [(reader.line_num, cells) for cells in reader if any(cells)]
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{path}: cannot be read as CSV in UTF-8: "
                    f"{base.one_line(error)}") from error
  missing = [name for name in NEEDED if name not in header]
  unknown = [name for name in header if name not in COLUMNS]
  if missing or unknown or len(set(header)) < len(header):
    wrong = (f"column {missing[0]!r} is missing" if missing else
             f"unknown column {unknown[0]!r}" if unknown else
             "a column is there twice")
    raise UserError(f"{path}: row 1: {wrong}, expected {', '.join(NEEDED)} and "
                    f"of {', '.join(COLUMNS[len(NEEDED):])} what there is")
  for row, cells in rows:
    if len(cells) != len(header):
      raise UserError(f"{path}: row {row}: {len(cells)} cells, expected "
                      f"{len(header)} as in the first row")
    yield row, dict(zip(header, (cell.strip() for cell in cells)))


def _seconds(path, row, column, cell):
  """A time to the millisecond; None for an empty cell."""
  try:
    value = float(cell or 0)
    if not math.isfinite(value):
      raise ValueError
  except ValueError:
    raise UserError(f"{path}: row {row}, column {column}: {cell!r}, expected "
                    "seconds") from None
  return round(value, 3) if cell else None


def cut_files(manual_dir, length, workers):
  """Finds media files and cuts them into clips.

  Args:
    manual_dir: folder.
    length: seconds of a clip. A file's last one may be shorter, by half at
      most but for the file's only one.
    workers: Workers.

  Returns:
    list of Span, and a list of (id, file, reason) of the files of no use.

  Raises:
    UserError: there is no media file.
  """
  files = sorted(
      os.path.relpath(os.path.join(parent, name), manual_dir)
      for parent, _, names in os.walk(manual_dir, followlinks=True)
      for name in names if os.path.splitext(name)[1].lower() in SUFFIXES)
  if not files:
    raise UserError(f"--manual_dir={manual_dir}: neither clips.csv nor a media "
                    f"file ({' '.join(sorted(SUFFIXES))}) in it")

  def probe(file):
    try:
      return workers.call(60, media.probe, os.path.join(manual_dir, file))
    except media.MediaError as error:
      return error

  spans, rejected = [], []
  with ThreadPoolExecutor(num_threads()) as pool:
    for file, facts in zip(files, pool.map(probe, files)):
      if isinstance(facts, media.MediaError):
        rejected.append((file, file, str(facts)))
      elif not 0 < facts.duration <= LONGEST_FILE:
        rejected.append((file, file, f"{facts.duration:.3f} s long by its "
                         f"header, expected at most {LONGEST_FILE} s"))
      else:
        count = max(1, math.floor(facts.duration / length + 0.5))
        edges = [round(i * length, 3) for i in range(count)]
        last = min(count * length, facts.duration)
        spans += [Span(file, *edge) for edge in zip(
            edges, [*edges[1:], round(last, 3)])]
  return spans, rejected


def choose_splits(manual_dir, clips, read):
  """Chooses the split of each clip by a hash of its file's name.

  All clips of a file are on one side; about one file in TEST_SHARE is for
  testing. Of up to FEW files each is tried, so that both sides have one that
  can be read; if there is only one such, its last clips are for testing.

  Args:
    manual_dir: folder, for errors.
    clips: list of base.Clip.
    read: ClipReader.

  Returns:
    list of str.

  Raises:
    UserError: there is only one clip.
  """
  first = {}
  for clip in clips:
    first.setdefault(clip.file, clip)
  files = sorted(first, key=lambda file: (
      hashlib.sha256(f"split\0{file}".encode()).digest()))
  if len(files) <= FEW:
    with ThreadPoolExecutor(num_threads()) as pool:
      files = [file for file, good in zip(
          files, pool.map(read.can, map(first.get, files))) if good] or files
  if len(files) > 1:
    test = {f for f in files if not base.draw(TEST_SHARE, "split", f)}
    test = test or {files[0]}
    if len(test) == len(files):
      test.remove(files[-1])
    return [SPLITS[clip.file in test] for clip in clips]
  own = sorted((clip for clip in clips if clip.file == files[0]),
               key=lambda clip: clip.data[0])
  if len(own) == 1:
    raise UserError(f"--manual_dir={manual_dir}: {own[0].file} is the only clip"
                    ", expected one to train and one to test at least")
  test = {clip.id for clip in own[-math.ceil(len(own) / TEST_SHARE):]}
  return [SPLITS[clip.id in test] for clip in clips]


# ---- a clip


def read_cues(manual_dir, file):
  """The cues of the subtitle file beside a media file; [] without one."""
  for suffix in (".vtt", ".srt"):
    path = os.path.join(manual_dir, os.path.splitext(file)[0] + suffix)
    if os.path.exists(path):
      with open(path, "rb") as stream:
        return subtitles.parse(stream.read())
  return []


def cues_within(cues, start, end):
  """Those of `subtitles.parse` that overlap a clip, with the clip's times."""
  return [(text, round(begin - start, 3), round(stop - start, 3))
          for text, begin, stop in cues
          if stop > start and (end is None or begin < end)]


class ClipReader:
  """Makes the example of a clip."""

  def __init__(self, manual_dir, options, workers):
    self._manual_dir, self._options = manual_dir, options
    self._workers = workers

  def can(self, clip):
    """Whether a clip can be read."""
    try:
      return bool(self(clip))
    except base.Rejected:
      return False

  def __call__(self, clip):
    start, end, row, labels, captions, _ = clip.data
    options = self._options
    try:
      frames, audio, length = self._workers.call(
          LIMIT, media.read_encoded, os.path.join(self._manual_dir, clip.file),
          start, end, options.fps, options.size, options.audio_rate)
    except media.MediaError as error:
      raise base.Rejected(f"row {row}: {error}" if row else str(error)
                          ) from error
    return {
        "id": clip.id,
        "start": start,
        "frames": frames,
        "fps": options.fps,
        "audio": audio,
        "audio_rate": options.audio_rate,
        "captions": [
            dict(zip(("text", "start", "end"),
                     (caption, 0.0, length) if isinstance(caption, str)
                     else caption)) for caption in captions],
        "label": labels,
    }
