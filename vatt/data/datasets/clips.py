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
import contextlib
import functools
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from vatt.data.ingest import (
    builder,
    class_names,
    clip_sources,
    clips_csv,
    encoding,
    matching,
    media,
    plans,
    shards,
    sidecars,
    splits,
    stores,
)
from vatt.data.ingest.cues import Cues
from vatt.data.ingest.measured import Measured
from vatt.data.ingest.workers import Lost, Workers
from vatt.errors import UserError

KNOWN = 1024  # files whose sizes are not asked for again
LENGTHS = "lengths.csv"
LONG = 1e9  # bytes of records, from which on processes build; see Plan.is_long
# What records hold, as measured: for a pixel of the finest JPEG 0.15 ... 0.4
# bytes, which coarseness divides by itself to some power; and FLAC by PCM
# 0.2 ... 0.35.
PIXEL_BYTES, POWER, FLAC_SHARE = 0.25, 0.67, 0.3
GAP = 60.0  # seconds from a keyframe on that a shard may have to decode before
CHOICES = {"audio": encoding.AUDIO, "around": ("cues",)}
# Seconds of processor time for a clip, and for each second that may have to be
# decoded to get it; clips in a row that take longer, and end their file.
LIMIT, LIMIT_PER_SECOND, LATE = 120, 2, 3


class Options(NamedTuple):
  """What a configuration can change."""
  fps: float = 10.0  # frames a second
  size: int = 256  # the frames' shorter side
  audio_rate: int = 48000  # samples a second
  length: float = 10.0  # seconds of a clip, where there is no clips.csv
  audio: str = "pcm"  # or flac: smaller, lossless; not for TPUs
  language: str = ""  # of subtitles that are taken; any if empty
  stride: float = 0.0  # seconds from clip to clip; 0: length. As length
  jpeg: int = encoding.BEST  # how coarse frames are, to encoding.WORST
  around: str = ""  # cues: a clip around each, and not one each stride

  def bytes(self, file: str, start: float, end: float | None) -> int:
    """How large the record of a clip will be, about."""
    frame = PIXEL_BYTES * self.size * self.size * 16 / 9 * (
        encoding.BEST / self.jpeg) ** POWER
    if matching.is_sound(file):
      frame = 0
    sound = 2 * self.audio_rate * (FLAC_SHARE if self.audio == "flac" else 1)
    # A guess where it ends with its file.
    seconds = self.length if end is None else end - start
    return 1 + round(seconds * (self.fps * frame + sound))

  def place(self, clip: plans.Clip) -> plans.Place:
    """The Place of a clip: beside the others of its file."""
    start, end, *_ = clip.data
    return plans.Place(clip.file, start, self.bytes(clip.file, start, end))


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
    if not stores.is_folder(manual_dir):
      raise UserError(f"--manual_dir={manual_dir}: no such folder")
    workers = Workers()
    found = self.find(manual_dir, options, workers)
    number = {name: i for i, name in enumerate(found.classes)}
    captions_of = self.captions_of(manual_dir, found, options)

    sizes = stores.sizes(manual_dir, found.files)

    @functools.lru_cache(KNOWN)
    def size_of(file):
      return sizes.get(file) or stores.facts(stores.join(manual_dir, file))[0]

    def clip_of(span):
      sound = [span.sound, size_of(span.sound)] if span.sound else []
      return plans.Clip(span.id, span.file, (
          span.start, span.end, list(map(number.get, span.labels)),
          captions_of(span), size_of(span.file), *sound), self.where(span))

    read = self.reader(manual_dir, options, workers)
    split_of = lambda span: span.split
    if not next(iter(found.spans())).split:
      split_of = splits.choose(
          manual_dir, found, lambda span: read.can(clip_of(span)),
          self.TEST_SHARE)
    return plans.Plan(
        clips=((split_of(span), clip_of(span)) for span in found.spans()),
        read=read,
        label_names=tuple(found.classes),
        sources={  # what came later, and is not used, changes nothing
            field: value for field, value in options._asdict().items()
            if value != getattr(Options(), field)},
        rejected=found.rejected,
        tables=found.tables,
        place=options.place,
        can_cut=functools.partial(can_cut, manual_dir, workers),
        end=workers.close,
        is_long=any(sum_ > LONG for sum_ in itertools.accumulate(
            options.bytes(span.file, span.start, span.end)
            for span in found.spans())))

  def find(self, manual_dir: str, options: Options, workers: Workers
           ) -> clip_sources.Found:
    """Finds what to build.

    Raises:
      UserError: there is nothing that can be built.
    """
    classes = None
    if stores.exists(f"{manual_dir}/{clips_csv.LIST}"):
      if stores.exists(f"{manual_dir}/{clips_csv.CLASSES}"):
        classes = class_names.read(f"{manual_dir}/{clips_csv.CLASSES}")
      found = clips_csv.read(f"{manual_dir}/{clips_csv.LIST}", classes)
      what = "usable row in clips.csv"
    else:
      found = clip_sources.cut_files(
          manual_dir, options.length, options.stride, workers,
          self.lengths() if "://" in manual_dir else None)
      what = "usable media file in the folder"
    if not found.files:
      first = [f"; the first: {file}: {why}"
               for _, file, why in found.rejected[:1]]
      raise UserError(f"--manual_dir={manual_dir}: no {what}" + "".join(first))
    return found

  def captions_of(self, manual_dir: str, found: clip_sources.Found,
                  options: Options) -> Callable[[clip_sources.Span], Any]:
    """Finds the captions of clips.

    Returns:
      A function of a clip: what its data has of them, JSON values that change
      when they do, and that the reader makes them of.
    """
    beside = sidecars.read_cues(manual_dir, found.silent, clip_sources.SUFFIXES,
                                options.language)
    # Those of a file come together.
    cues = functools.lru_cache(1)(lambda file: Cues(beside[file]))
    return lambda span: span.captions or cues(span.file).of_clip(
        span.start, span.end)

  def where(self, span: clip_sources.Span) -> tuple:
    """What the reader needs to know of a clip besides, that changes nothing in
    its record: JSON values."""
    return ()

  def lengths(self) -> Measured:
    """What is known of the lengths of files: kept beside the versions."""
    return Measured(os.path.join(os.path.dirname(str(self.data_path)), LENGTHS))

  def reader(self, manual_dir: str, options: Options,
             workers: Workers | None = None) -> "ClipReader":
    """What makes the examples, in processes of its own or in those."""
    return ClipReader(manual_dir, options, workers)


def can_cut(manual_dir: str, workers: Workers, first: plans.Clip,
            last: plans.Clip) -> bool:
  """Whether the clips of a file can be read from other places than its start:
  whether a keyframe is near each. Where the file does not say it, they can.

  Args:
    manual_dir: folder of the media.
    workers: processes to read the file in.
    first, last: of the clips.
  """
  path = stores.join(manual_dir, first.file)
  if "://" in path:  # that may take a copy of each long file
    return True
  times = np.arange(first.data[0], last.data[0], GAP / 2)
  try:
    found = workers.call(LIMIT, media.keyframes_before, path, times)
  except media.MediaError:  # the build will tell
    return True
  return found is None or bool(np.all(times - found <= GAP))


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
      least, most = encoding.BEST, encoding.WORST
      if field == "jpeg" and not least <= seen[field] <= most:
        wanted = f"int from {least} (the finest) to {most}"
      elif not 0 < seen[field] < 1e6:
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


class ClipReader:
  """Makes the examples of clips.

  Args:
    manual_dir: folder of the media.
    options: of the configuration.
    workers: processes to decode in; its own without any.
  """

  def __init__(self, manual_dir: str, options: Options,
               workers: Workers | None = None):
    self._manual_dir, self._options = manual_dir, options
    self._workers = workers or Workers()

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
    """Yields the example of each clip, or why there is none.

    Clips that follow each other and are of one file are read in one pass.
    """
    for files, group in itertools.groupby(
        clips, lambda clip: (clip.file, *clip.data[5:6])):
      group = list(group)
      with contextlib.ExitStack() as copies:
        paths = [copies.enter_context(stores.local(
            stores.join(self._manual_dir, file))) for file in files]
        read = self._read(*paths, spans=[clip.data[:2] for clip in group])
        for clip, found in zip(group, read, strict=True):
          refused = isinstance(found, media.MediaError)
          if refused or found.damage:
            self._check_files(clip, paths)
          yield (shards.Rejected(str(found)) if refused
                 else self._example(clip, *found))

  def _check_files(self, clip, paths):
    """Raises OSError or UserError unless the files of a clip, or their copies,
    are those of the plan: what a clip lacks as a disk has gone is no damage of
    it."""
    _, _, _, _, size, *sound = clip.data
    for path, file, planned in zip(paths, (clip.file, *sound[:1]),
                                   (size, *sound[1:])):
      found = os.path.getsize(path)
      if found != planned:
        raise UserError(f"{stores.join(self._manual_dir, file)}: {found} bytes,"
                        f" expected {planned} as when this command began; run "
                        "it again")

  def _example(self, clip, frames, audio, length, damage):
    start, _, labels, *_ = clip.data
    return {
        "id": clip.id,
        "start": start,
        "frames": frames,
        "fps": self._options.fps,
        "audio": audio,
        "audio_rate": self._options.audio_rate,
        "captions": [
            dict(zip(("text", "start", "end"),
                     (caption, 0.0, length) if isinstance(caption, str)
                     else caption)) for caption in self.captions(clip)],
        "label": labels,
        shards.DAMAGE: damage,
    }

  def _read(self, path, sound_path="", *, spans):
    """Yields the `encoding.Encoded` of each span of a file, or a MediaError.

    What ends a pass costs the span that it belongs to and no others: that is
    read alone, and then those behind it. Not if it was the first of the pass
    and takes too long, which it would again.
    """
    first, late = 0, 0
    while first < len(spans):
      begin = first
      try:
        for found in self._pass(path, sound_path, spans[first:]):
          first, late = first + 1, 0
          yield found
        return
      except media.MediaError as error:
        found = error
      is_late = isinstance(found, Lost) and found.late
      if first > begin or not is_late:
        try:
          found, = self._pass(path, sound_path, spans[first:first + 1])
        except media.MediaError as error:
          found = error
          is_late = isinstance(found, Lost) and found.late
      first, late = first + 1, (late + 1) * is_late
      yield found
      if late == LATE:
        for _ in spans[first:]:
          yield media.MediaError(f"{found}, as the clips before it")
        return

  def _pass(self, path, sound_path, spans):
    """Yields of spans of a file what `encoding.read_clips` does."""
    ends = [start + media.LONGEST if end is None else end
            for start, end in spans]
    # To get to a span, all may have to be decoded since the last one.
    seconds = max(end - last for end, last in zip(ends, [0.0, *ends]))
    options = self._options
    return self._workers.stream(
        LIMIT + LIMIT_PER_SECOND * seconds, encoding.read_clips, path, spans,
        options.fps, options.size, options.audio_rate, options.audio,
        sound_path, options.jpeg)
