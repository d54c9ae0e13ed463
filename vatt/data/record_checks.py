"""Reads every record of a data set back, and says what is wrong with which.

Where records lie is found without trust in what they say: a header that is
broken costs its record alone. What is in them goes through the decoders that
training uses, in TensorFlow's threads; only of what fails there the reason is
looked for, in Python.
"""
import collections
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vatt import files as files_lib
from vatt.data import (
  audio,
  caption_files,
  dmvr,
  extents,
  record_index,
  sources,
)
from vatt.data.record_files import FOOTER, HEADER
from vatt.errors import UserError, one_line

UNREADABLE = "?"  # of a record that failed; why, is looked for then
WRONG_CRC = "its CRC is not that of its content"
JPEG = b"\xff\xd8\xff"
LARGEST = 1 << 28  # bytes of a record whose id is looked for


class Bad(NamedTuple):
  """What is wrong: with a record, or with a file.

  Attributes:
    file: its path.
    record: number of the record in the file, from 0; None for all of the file.
    offset: the byte where its header starts, or None.
    id: of the clip, as far as it can be read.
    reason: in a line.
    written_so: the record is what was written, by its CRC.
  """
  file: str
  record: int | None
  offset: int | None
  id: str
  reason: str
  written_so: bool = False

  def __str__(self) -> str:
    place = "" if self.record is None else (
        f"record {self.record} at byte {self.offset}: ")
    return f"{self.file}: {place}" + (
        f"{self.id}: " if self.id else "") + self.reason


class Check:
  """A check of a data set.

  Attributes:
    found: its files.
    num_records: that lie in them, good and bad.
  """

  def __init__(self, name: str, data_dir: str, split: str | None = None):
    """Finds the files.

    Args:
      name, data_dir, split: as of `sources.find`.

    Raises:
      UserError: there is no such data set or split.
    """
    self.found = sources.find(name, data_dir, split)
    self.num_records = 0
    self._name, self._bad_files, self._layouts = name, [], []
    missing = self.found.missing or _gaps(self.found.files)
    for path, what in (
        *((path, f"{which} is missing") for path, which in missing.items()),
        *self.found.damaged.items(), *_damaged_captions(self.found.counts)):
      self._bad_files.append(Bad(path, None, None, "", what))

  def lay_out(self, progress: Callable[[int], object] = lambda count: None
              ) -> Iterator[Bad]:
    """Finds the records by their headers; yields what is wrong there.

    Args:
      progress: called with 1 for each file.
    """
    yield from self._bad_files
    for path in self.found.files:
      try:
        layout = extents.lay_out(
            path, self.found.counts.get(path), self.found.sizes.get(path))
      except files_lib.REFUSED as error:
        layout = extents.NOTHING._replace(problem=one_line(error))
      self._layouts.append(layout)
      self.num_records += len(layout.starts)
      if layout.problem:
        yield Bad(path, None, None, "", layout.problem)
      for number, reason in layout.reasons.items():
        yield self._bad(path, layout, number, reason)
      progress(1)

  def read(self, progress: Callable[[int], object] = lambda count: None
           ) -> Iterator[Bad]:
    """Reads the records that `lay_out` found; yields what is wrong in them.

    Args:
      progress: called with the number of records done.

    Raises:
      UserError: a file went away meanwhile.
    """
    numbers = [np.setdiff1d(np.arange(len(layout.starts)), list(layout.reasons))
               for layout in self._layouts]
    counts = [len(layout.starts) for layout in self._layouts]
    index = record_index.from_sizes(
        self.found.files, counts, np.concatenate([np.zeros([0], int), *(
            layout.sizes for layout in self._layouts)]))
    index = index.take(np.concatenate([np.zeros([0], int), *(
        first + mine for first, mine in zip(index.edges, numbers))]))
    numbers = np.concatenate([np.zeros([0], int), *numbers])
    progress(self.num_records - len(index))  # known to be bad
    if not len(index):
      return
    tensors = record_index.file_tensors(index)
    judge = Judge(self.found.parse, self.found.label_names,
                  self._has_flac(tensors, len(index)))
    results = record_index.process_records(
        tensors, len(index), lambda raw, i: judge.problem(raw),
        tf.constant(UNREADABLE))
    try:
      for i, reason in results.as_numpy_iterator():
        if reason:
          said = reason.decode()
          if said == UNREADABLE:
            said = self._why(tensors, i, judge)
          f = np.searchsorted(index.edges, i, side="right") - 1
          yield self._bad(self.found.files[f], self._layouts[f],
                          int(numbers[i]), said, said != WRONG_CRC)
        progress(1)
    except tf.errors.InvalidArgumentError as error:
      said = sources.failed_assertion(error)
      if not said:
        raise
      raise UserError(said) from None

  def _bad(self, path, layout, number, reason, written_so=False):
    start, end = layout.place(number)
    return Bad(path, number, start, id_at(path, start, end), reason, written_so)

  def _has_flac(self, tensors, count):
    """Whether sound may be FLAC, as `open_source` finds it."""
    for i in range(min(count, 100)):
      try:
        example = self.found.parse(
            record_index.read_record(tensors, tf.constant(i, tf.int64)))
      except tf.errors.OpError:
        continue
      sound = example["audio"]
      return sources.says_flac(self._name) or (
          sound.dtype == tf.string
          and sound.numpy().startswith(audio.FLAC))
    return sources.says_flac(self._name)

  def _why(self, tensors, i, judge):
    """Why a record failed, in a line."""
    try:
      raw = record_index.read_record(tensors, tf.constant(i, tf.int64))
    except tf.errors.DataLossError:
      return WRONG_CRC
    except tf.errors.OpError as error:
      return f"cannot be read: {_said(error)}"
    return judge.say(raw) or "failed once, and then did not"


class Judge:
  """Says what is wrong with records of one kind."""

  def __init__(self, parse: Callable[[tf.Tensor], dict[str, tf.Tensor]],
               label_names: tuple[str, ...], flac: bool):
    """Prepares for that; the arguments are those of a `sources.Source`."""
    self._parse, self._label_names, self._flac = parse, label_names, flac
    # In graphs, where an Assert says what it was told to.
    self._parse_in_graph = tf.function(
        parse, [tf.TensorSpec([], tf.string)], autograph=False)
    self._samples = tf.function(
        lambda stored: audio.samples(stored, flac), autograph=False,
        reduce_retracing=True)

  def problem(self, raw: tf.Tensor) -> tf.Tensor:
    """What is wrong with a record: string [], or ""; also within tf.data.

    Raises:
      tf.errors.OpError: it is no example, or does not decode.
    """
    return problem_of(self._parse(raw), self._label_names, self._flac)

  def say(self, raw: tf.Tensor) -> str:
    """What is wrong with a record, whatever it is, in a line; or ""."""
    try:
      example = self._parse_in_graph(raw)
    except tf.errors.OpError as error:
      return f"is no example of this kind: {_said(error)}"
    frames = example["frames"].numpy()
    for number, frame in enumerate(frames):
      try:
        decode(tf.constant(frame))
      except tf.errors.OpError as error:
        return (f"frame {number} of {len(frames)} does not decode: "
                + _said(error))
    try:
      self._samples(example["audio"])
    except tf.errors.OpError as error:
      return f"its sound does not decode: {_said(error)}"
    try:
      return problem_of(
          example, self._label_names, self._flac).numpy().decode()
    except tf.errors.OpError as error:
      return _said(error)


def _said(error):
  """What an operation said, without its name."""
  return sources.failed_assertion(error) or (
      one_line(error).partition(" [Op:")[0])


def _damaged_captions(counts):
  """Yields those files with the captions of a split that are damaged, and what
  is wrong, by the numbers of records of its shards."""
  totals = collections.Counter()
  for shard, count in counts.items():
    totals[caption_files.path_beside(shard)] += count
  for path, count in totals.items():
    if path and tf.io.gfile.exists(path):
      try:
        collections.deque(caption_files.read(path, count), 0)
      except UserError as error:
        yield path, str(error).removeprefix(f"{path}: ")


def _gaps(files):
  """The files that are missing between those of names as "x-00001-of-00008",
  and which of how many each is."""
  there = {}
  for file in files:
    found = re.fullmatch(r"(.+)-\d{5}-of-(\d{5})", file)
    if found:
      there.setdefault(found.groups(), set()).add(file)
  return {file: f"file {i} of the {int(count)}"
          for (base, count), some in sorted(there.items())
          for i in range(int(count))
          if (file := f"{base}-{i:05d}-of-{count}") not in some}


# -----------------------------------------------------------------------------
# What is in a record.
# -----------------------------------------------------------------------------
def problem_of(example: dict[str, tf.Tensor], label_names: tuple[str, ...],
               flac: bool) -> tf.Tensor:
  """What is wrong with an example: string [], or "".

  Args:
    example: parsed, as of `sources.Source.parse`.
    label_names: of the classes; () if they are not known.
    flac: whether sound may be FLAC.

  Raises:
    tf.errors.OpError: a frame or the sound does not decode.
  """
  frames, _ = tf.unique(example["frames"])
  shapes = tf.map_fn(lambda frame: tf.shape(decode(frame)), frames,
                     fn_output_signature=tf.TensorSpec([3], tf.int32))
  is_jpeg = tf.equal(tf.strings.substr(frames, 0, len(JPEG)), JPEG)
  sound = audio.samples(example["audio"], flac)
  times = [example[f"captions/{edge}"] for edge in ("start", "end")]
  texts, label = example["captions/text"], example["label"]
  num_texts = tf.size(texts)
  known = len(label_names) or np.iinfo(np.int64).max
  wrong = tf.boolean_mask(label, (label < -1) | (label >= known))
  other = tf.boolean_mask(shapes, tf.reduce_any(shapes != shapes[:1], 1))
  fps, rate, start = (example[name] for name in ("fps", "audio_rate", "start"))
  pairs = tf.reduce_min([tf.size(edge) for edge in times])
  problems = (
      (tf.size(other) > 0, [
          "frames of several sizes, ", _size(shapes), " and ", _size(other)]),
      (tf.reduce_any(is_jpeg != is_jpeg[:1]), ["frames of several formats"]),
      ((tf.size(frames) > 0) & ~((fps > 0) & tf.math.is_finite(fps)), [
          "fps is ", tf.as_string(fps), ", expected more than 0"]),
      ((tf.strings.length(example["audio"]) > 0
        if example["audio"].dtype == tf.string else tf.constant(False))
       & (tf.size(sound) == 0), ["its sound has no sample"]),
      ((tf.size(sound) > 0) & (rate <= 0), [
          "audio_rate is ", tf.as_string(rate), ", expected more than 0"]),
      (tf.size(wrong) > 0, [
          "label is ", tf.strings.reduce_join(tf.as_string(wrong[:1])),
          f", expected 0 to {known - 1}" if label_names
          else ", expected 0 or more"]),
      (tf.reduce_any([tf.size(edge) != num_texts for edge in times]), [
          tf.as_string(num_texts), " captions, with ",
          tf.as_string(tf.size(times[0])), " starts and ",
          tf.as_string(tf.size(times[1])), " ends"]),
      (~tf.reduce_all(tf.math.is_finite(tf.concat([*times, [start]], 0))), [
          "a time is not finite"]),
      (tf.reduce_any(times[0][:pairs] > times[1][:pairs]), [
          "a caption ends before it starts"]),
      (tf.reduce_any(_not_utf8(texts)), ["a caption is not UTF-8"]),
      (_not_utf8(example["id"]), ["its id is not UTF-8"]),
  )
  reason = tf.constant("")
  for is_so, parts in reversed(problems):  # the first one is told
    reason = tf.where(is_so, tf.strings.join(parts), reason)
  return reason


def decode(frame: tf.Tensor) -> tf.Tensor:
  """Decodes a frame, string [], to uint8 [H, W, 3]."""
  return tf.io.decode_image(frame, channels=3, expand_animations=False)


def _size(shapes):
  """Width x height of the first of shapes, int32 [N, 3], as a string []."""
  return tf.strings.reduce_join(
      tf.as_string(tf.reverse(shapes[:1, :2], [1])), separator=" x ")


def _not_utf8(texts):
  """Which strings are no UTF-8."""
  return tf.strings.unicode_transcode(
      texts, "UTF-8", "UTF-8", errors="replace") != texts


def id_at(path: str, start: int, end: int) -> str:
  """The id that the record at bytes [start, end) says, whatever else is wrong
  with it; or "". A file of another kind is one record, of any size."""
  if end - start > LARGEST:
    return ""
  try:
    with tf.io.gfile.GFile(path, "rb") as file:
      file.seek(start + HEADER)
      raw = file.read(end - start - HEADER - FOOTER)
    for kind, part, fields in (
        (tf.train.Example, "features", ("id",)),
        (tf.train.SequenceExample, "context", dmvr.IDS)):
      found = getattr(kind.FromString(raw), part).feature
      for field in fields:
        if field in found:
          (said, *_) = found[field].bytes_list.value
          return said.decode()
  except Exception:  # of nearly any kind, as it is damaged
    pass
  return ""
