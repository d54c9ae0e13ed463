"""Clips of any media files: those listed in `clips.csv`, or all in a folder.

In the manual_dir, `clips.csv` has the columns `video_path`, `start`, `end` and,
as one likes, `label`, `caption`, `split`: a clip a row, or several rows for a
clip with several captions or labels. Paths are relative to the manual_dir or
absolute; times are seconds, an empty end is that of the file; `split` is train,
test or any other name, or several with spaces between: the clip is stored once,
in a built split that bears all of them. A `sound_path` names another file,
whose sound is taken where the first has none. A `classes.txt` beside the list
has a class a line, in the order of their numbers; without it, that is the order
of the names. Without a list, every media file in the manual_dir or a folder in
it is cut into clips of one length.

Where no caption is listed for a clip, those of a subtitle file beside it are
taken: for `talk.mp4` that is `talk.vtt`, `talk.en.srt` or the like, see
`sidecars.read_cues`. They are those of the clip and, after them, those around
it that are among the nearest to a window.
"""
import collections
import functools
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from vatt.data.ingest import (
    builder,
    class_names,
    clip_sources,
    encoding,
    media,
    plans,
    shards,
    sidecars,
)
from vatt.data.ingest.clip_sources import SPLITS
from vatt.data.ingest.cues import Cues
from vatt.data.ingest.workers import Workers
from vatt.errors import UserError
from vatt.host import num_cores

FEW = 20  # files
LONG = 300.0  # seconds of clips, from which on processes build
# What records hold, about: bytes for a pixel of a JPEG, and of FLAC by PCM.
PIXEL_BYTES, FLAC_SHARE = 0.25, 0.5
CHOICES = {"audio": encoding.AUDIO, "around": ("cues",)}
# Seconds of processor time for a clip, and for each second of it.
LIMIT, LIMIT_PER_SECOND = 120, 2


class Options(NamedTuple):
  """What a configuration can change."""
  fps: float = 10.0  # frames a second
  size: int = 256  # the frames' shorter side
  audio_rate: int = 48000  # samples a second
  length: float = 10.0  # seconds of a clip, where there is no clips.csv
  audio: str = "pcm"  # or flac: smaller, lossless; not for TPUs
  language: str = ""  # of subtitles that are taken; any if empty
  stride: float = 0.0  # seconds from clip to clip; 0: length. As length
  around: str = ""  # cues: a clip around each, and not one each stride

  def seconds(self, clip: plans.Clip) -> float:
    """The length of a clip; a guess where it ends with its file."""
    start, end, *_ = clip.data
    return self.length if end is None else end - start

  def place(self, clip: plans.Clip) -> plans.Place:
    """The Place of a clip: beside the others of its file."""
    frame = PIXEL_BYTES * self.size * self.size * 16 / 9
    sound = 2 * self.audio_rate * (FLAC_SHARE if self.audio == "flac" else 1)
    return plans.Place(clip.file, clip.data[0], 1 + round(
        self.seconds(clip) * (self.fps * frame + sound)))


class Clips(builder.ClipsBuilder, skip_registration=True):
  """Configurations `[NAME][+FIELD=VALUE...]` with the fields of Options, such
  as `talks+fps=5+size=128`: the name tells several sets of clips apart.

  A dataset that makes its own media subclasses it: `make_plan` writes them into
  a folder, and passes that on.
  """

  # 1.2.0: clips of a file are in one shard; colours are converted once.
  # 1.1.0: subtitles around a clip, as windows take the nearest ones, and not
  # those alone that overlap it; HD that does not say its colours is BT.709;
  # mirrors; joined files whole.
  VERSION = tfds.core.Version("1.2.0")
  DEFAULT_CONFIG = "default"
  DEFAULTS = Options()
  FIELDS = Options._fields[:-1]  # that its configurations can have
  TEST_SHARE = 10  # one file in so many, where no splits are listed

  def make_plan(self, manual_dir: str | None) -> plans.Plan:
    options = parse_config(
        self.builder_config.name, self.DEFAULTS, self.FIELDS)
    if not manual_dir:
      raise UserError("--manual_dir is missing: the folder of the media files, "
                      "or of a clips.csv")
    if not os.path.isdir(manual_dir):
      raise UserError(f"--manual_dir={manual_dir}: no such folder")
    spans, rejected, names, tables = self.find(manual_dir, options, Workers())
    if names is None:
      names = sorted({label for span in spans for label in span.labels})
    number = {name: i for i, name in enumerate(names)}
    captions_of = self.captions_of(manual_dir, spans, options)

    def clip_of(span):
      size, *sound = (
          os.path.getsize(os.path.join(manual_dir, file))
          for file in (span.file, span.sound) if file)
      return plans.Clip(span.id, span.file, (
          span.start, span.end, list(map(number.get, span.labels)),
          captions_of(span), size, *([span.sound, *sound] if sound else [])))

    read = self.reader(manual_dir, options)
    clips = list(map(clip_of, spans))
    if spans[0].split:
      sides = [span.split for span in spans]
    else:
      sides = choose_splits(manual_dir, clips, read, self.TEST_SHARE)
    return plans.Plan(
        clips=zip(sides, clips),
        read=read,
        label_names=tuple(names),
        sources={  # what came later, and is not used, changes nothing
            field: value for field, value in options._asdict().items()
            if value != getattr(Options(), field)},
        rejected=tuple(rejected),
        tables=tables,
        place=options.place,
        can_cut=functools.partial(_can_cut, manual_dir),
        is_long=sum(map(options.seconds, clips)) > LONG)

  def find(self, manual_dir: str, options: Options, workers: Workers
           ) -> clip_sources.Found:
    """Finds what to build.

    Raises:
      UserError: there is nothing that can be built.
    """
    classes = None
    if os.path.exists(f"{manual_dir}/clips.csv"):
      if os.path.exists(f"{manual_dir}/{clip_sources.CLASSES}"):
        classes = class_names.read(f"{manual_dir}/{clip_sources.CLASSES}")
      spans, rejected = clip_sources.read_list(
          f"{manual_dir}/clips.csv", classes)
      what = "usable row in clips.csv"
    else:
      spans, rejected = clip_sources.cut_files(
          manual_dir, options.length, options.stride, workers)
      what = "usable media file in the folder"
    if not spans:
      first = [f"; the first: {file}: {why}" for _, file, why in rejected[:1]]
      raise UserError(f"--manual_dir={manual_dir}: no {what}" + "".join(first))
    return clip_sources.Found(spans, rejected, classes)

  def captions_of(self, manual_dir: str, spans: Sequence[clip_sources.Span],
                  options: Options) -> Callable[[clip_sources.Span], Any]:
    """Finds the captions of clips.

    Returns:
      A function of a clip: what its data has of them, JSON values that change
      when they do, and that the reader makes them of.
    """
    cues = sidecars.read_cues(
        manual_dir, {span.file for span in spans if not span.captions},
        clip_sources.SUFFIXES, options.language)
    cues = {file: Cues(found) for file, found in cues.items()}
    return lambda span: span.captions or cues[span.file].of_clip(
        span.start, span.end)

  def reader(self, manual_dir: str, options: Options) -> "ClipReader":
    """What makes the examples."""
    return ClipReader(manual_dir, options)


def _can_cut(manual_dir, clip):
  """Whether clips of a file can be read from other places than its start."""
  return True


def parse_config(config: str, options: Options,
                 fields: Sequence[str] = Options._fields) -> Options:
  """Parses the name of a configuration.

  Args:
    config: such as "talks+fps=5"; not with commas, as lists of datasets are.
    options: the defaults.
    fields: those that it may change.

  Returns:
    The options, with what the name changes.

  Raises:
    UserError: on anything that is not a name, then fields and their values.
  """
  expected = ("expected [NAME][+FIELD=VALUE...] with the fields "
              + ", ".join(fields))
  seen = {}
  for i, part in enumerate(config.split("+")):
    field, equals, value = part.partition("=")
    if i == 0 and not equals and re.fullmatch(r"\w[\w.-]*", field):
      continue
    if field not in fields or field in seen:
      raise UserError(f"configuration {config!r}: {part!r} "
                      f"{'is there twice' if field in seen else 'is unknown'}, "
                      + expected)
    kind, wanted = type(getattr(options, field)), ""
    if kind is str:
      seen[field] = value
      if field == "language":
        seen[field] = sidecars.language_of(value)
        wanted = "" if seen[field] else "a language, such as en"
      elif value not in CHOICES[field]:
        wanted = " or ".join(CHOICES[field])
    else:
      try:
        seen[field] = kind(value)
      except ValueError:
        seen[field] = 0
      if not 0 < seen[field] < 1e6:
        wanted = f"{kind.__name__} > 0"
    if wanted:
      raise UserError(f"configuration {config!r}: {field} is {value!r}, "
                      f"expected {wanted}")
  if {"around", "stride"} <= seen.keys():
    raise UserError(f"configuration {config!r}: around and stride, expected "
                    "one of them")
  options = options._replace(**seen)
  if options.length > media.LONGEST:
    raise UserError(f"configuration {config!r}: length is {options.length}, "
                    f"expected at most {media.LONGEST:.0f} seconds")
  return options


def choose_splits(manual_dir: str, clips: Sequence[plans.Clip],
                  read: "ClipReader", share: int = Clips.TEST_SHARE
                  ) -> list[str]:
  """Chooses the split of each clip by a hash of its file's name.

  All clips of a file are on one side; about one file in `share` is for
  testing. Of up to FEW files each is tried, so that both sides have one that
  can be read: if none is for testing, the one with the fewest clips is; if
  there is only one such, its last clips are. Of more files, those for testing
  are tried, if they are few, and another one is if none of them can be read.

  Args:
    manual_dir: folder of the media, for errors.
    clips: all of them.
    read: tells which can be read.
    share: one file in so many is for testing.

  Returns:
    The split of each clip.

  Raises:
    UserError: there is only one clip.
  """
  first = {clip.file: clip for clip in reversed(clips)}
  files = sorted(first, key=lambda file: (
      hashlib.sha256(f"split\0{file}".encode()).digest()))
  if len(files) <= FEW:
    with ThreadPoolExecutor(num_cores()) as pool:
      files = [file for file, good in zip(
          files, pool.map(read.can, map(first.get, files))) if good] or files
  if len(files) > 1:
    test = {f for f in files if not plans.draw(share, "split", f)}
    count = collections.Counter(clip.file for clip in clips)
    if len(files) <= FEW:
      test = test or {min(files, key=count.get)}
    elif len(test) <= FEW and not any(read.can(first[f]) for f in test):
      test.add(next((f for f in files if f not in test and read.can(first[f])),
                    files[0]))
    if len(test) == len(files):
      test.remove(files[-1])
    return [SPLITS[clip.file in test] for clip in clips]
  own = sorted((clip for clip in clips if clip.file == files[0]),
               key=lambda clip: clip.data[0])
  if len(own) == 1:
    raise UserError(f"--manual_dir={manual_dir}: {own[0].file} is the only clip"
                    ", expected one to train and one to test at least")
  test = {clip.id for clip in own[-math.ceil(len(own) / share):]}
  return [SPLITS[clip.id in test] for clip in clips]


class ClipReader:
  """Makes the examples of clips; decodes in a process of its own."""

  def __init__(self, manual_dir: str, options: Options):
    self._manual_dir, self._options = manual_dir, options
    self._workers = Workers()

  def __reduce__(self):
    return type(self), (self._manual_dir, self._options)

  def can(self, clip: plans.Clip) -> bool:
    """Whether a clip can be read."""
    example, = self([clip])
    return not isinstance(example, shards.Rejected)

  def captions(self, clip: plans.Clip) -> Sequence[Any]:
    """The captions of a clip: of all of it, or (text, start, end)."""
    return clip.data[3]

  def __call__(self, clips: Sequence[plans.Clip]
               ) -> Iterator[dict[str, Any] | shards.Rejected]:
    """Yields the example of each clip, or why there is none."""
    options = self._options
    for clip in clips:
      start, end, labels, _, _, *sound = clip.data
      longest = (start + media.LONGEST if end is None else end) - start
      try:
        frames, audio, length, damage = self._workers.call(
            LIMIT + LIMIT_PER_SECOND * longest, encoding.read_encoded,
            os.path.join(self._manual_dir, clip.file), start, end, options.fps,
            options.size, options.audio_rate, options.audio,
            *(os.path.join(self._manual_dir, file) for file in sound[:1]))
      except media.MediaError as error:
        yield shards.Rejected(str(error))
        continue
      yield {
          "id": clip.id,
          "start": start,
          "frames": frames,
          "fps": options.fps,
          "audio": audio,
          "audio_rate": options.audio_rate,
          "captions": [
              dict(zip(("text", "start", "end"),
                       (caption, 0.0, length) if isinstance(caption, str)
                       else caption)) for caption in self.captions(clip)],
          "label": labels,
          shards.DAMAGE: damage,
      }
