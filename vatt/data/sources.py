"""Opens a data set, of whatever kind, as numbered records of one form."""
import codecs
import collections
import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from vatt import files
from vatt.data import audio, built, dmvr, record_files, record_index
from vatt.errors import UserError, one_line, visible


@dataclasses.dataclass(frozen=True)
class Source:
  """One split of a data set.

  Attributes:
    name: as in the config, e.g. "spoken_digits/official".
    split: e.g. "train".
    index: where its records lie.
    parse: raw record, string [] -> example dict: frames string [F] (encoded
      images), fps float32 [], audio string [] (PCM or FLAC) or int16 [S],
      audio_rate int32 [], captions/text string [K], captions/start and
      captions/end float32 [K] in seconds, label int64 [L], id string [], start
      float32 [] in seconds. What a record does not have is empty.
    label_names: names of the classes, or ().
    directory: where its files lie.
    flac: whether audio may be FLAC: by `says_flac` or the first record.
    fps: frames a second of the first record; 0 if it has none.
  """
  name: str
  split: str
  index: record_index.RecordIndex
  parse: Callable[[tf.Tensor], dict[str, tf.Tensor]]
  label_names: tuple[str, ...]
  directory: str
  flac: bool = False
  fps: float = 0.0


@dataclasses.dataclass(frozen=True)
class Found:
  """The files of a split, before any record is read.

  Attributes:
    files: paths, in the order in which their records are numbered.
    missing: by path, those that are said to be there and are not, and which of
      how many each is.
    counts: by path, how many records a file is said to have.
    sizes: by path, the sizes that its records are said to have, as of a
      RecordIndex.
    damaged: by path, what is wrong with files that say so.
    parse, label_names, directory: of the Source.
  """
  files: list[str]
  missing: dict[str, str]
  counts: dict[str, int]
  sizes: dict[str, np.ndarray]
  damaged: dict[str, str]
  parse: Callable[[tf.Tensor], dict[str, tf.Tensor]]
  label_names: tuple[str, ...]
  directory: str


def open_source(name: str, data_dir: str, split: str) -> Source:
  """Opens one split of a data set.

  Args:
    name: "NAME[/CONFIG][:VERSION]", built by scripts/prepare_dataset.py, whose
      configuration is "default" if none is given;
      "tfds:NAME[/CONFIG][:VERSION]", what tensorflow-datasets has prepared, see
      vatt/data/tfds_features.py; "dmvr:GLOB?fps=10&audio_rate=48000", files of
      SequenceExamples in DMVR's form, see vatt/data/dmvr.py.
    data_dir: where built data sets lie; for tfds "" means its own default.
    split: name of the split, or several as "fold1+fold2". Of a data set built
      here "train1" is every built split with that part, such as
      "train1_test2": clips in both are stored once.

  Returns:
    Source; the order of its records does not depend on that of the names.

  Raises:
    UserError: there is no such data set, split or record.
  """
  kind, path, folder = _place(name, data_dir)
  with _told(name):
    found = (dmvr.open_files(name, path, split) if kind == "dmvr" else
             built.open_built(name, path, folder, split))
  source = Source(name, split, *found)
  if not len(source.index):
    raise UserError(f"{source.directory}: split '{split}' of {name} has no "
                    "records, expected at least one")
  return _with_first_record(source)


def find(name: str, data_dir: str, split: str | None) -> Found:
  """Finds the files of a split, whatever is in them.

  Args:
    name, data_dir, split: as of `open_source`; None for all splits.

  Raises:
    UserError: there is no such data set or split.
  """
  kind, path, folder = _place(name, data_dir)
  with _told(name):
    if kind != "dmvr":
      return Found(*built.find_built(name, path, folder, split))
    index, *others = dmvr.open_files(
        name, path, "*" if split is None else split)
  return Found(index.files, {}, {}, {}, {}, *others)


def split_names(name: str, data_dir: str) -> list[str]:
  """The splits of a data set that have a name of their own: of one built here
  "train1" and "test2" of "train1_test2". Those to train come first.

  Raises:
    UserError: there is no such data set, or it does not say its splits, as
      files of SequenceExamples do not.
  """
  kind, path, folder = _place(name, data_dir)
  if kind == "dmvr":
    raise UserError(f"{name}: files do not say what splits they have, expected "
                    "--split=NAME[,NAME...]")
  with _told(name):
    return built.split_names(name, path, folder)


@contextlib.contextmanager
def _told(name):
  """Raises what a file system says, as that of the web, as a UserError."""
  try:
    yield
  except tf.errors.OpError as error:
    raise UserError(f"{name}: cannot be opened ({one_line(error)}), expected "
                    "files that can be read") from None


def _place(name, data_dir):
  """The kind of a data set, its path, and the folder that this is in."""
  kind, _, rest = name.partition(":")
  folder = os.path.expanduser(data_dir)
  if kind == "tfds":
    folder = folder or os.path.expanduser("~/tensorflow_datasets")
  files.know(f"{name} {folder}")
  return kind, rest if kind in ("dmvr", "tfds") else name, folder


def _with_first_record(source):
  """Checks what the first readable record says, and notes its audio format."""
  for i in range(min(len(source.index), 100)):
    try:
      example = source.parse(record_index.read_one(source.index, i))
    except (tf.errors.InvalidArgumentError, tf.errors.DataLossError):
      continue
    except tf.errors.OpError as error:  # of its file, not of what is in it
      file, _ = source.index.place(i)
      ranges = ("" if files.is_listed(file) else
                ", and a server that knows ranges of bytes")
      raise UserError(f"{file}: cannot be read ({one_line(error)}), expected "
                      f"TFRecords{ranges}{_if_changed(file)}") from None
    break
  else:
    problem, file = why_unreadable(source, i), source.index.files[0]
    raise UserError(f"{file}: none of the first {i + 1} records can be read as "
                    f"an example of {source.name}"
                    + (problem and f": {problem}") + _if_changed(file))
  for data, rate in ("frames", "fps"), ("audio", "audio_rate"):
    stored = example[data]
    empty = not (tf.strings.length(stored) if stored.shape.rank == 0
                 else tf.size(stored))
    if not empty and example[rate] <= 0:
      raise UserError(f"{source.name}: records have {data} but no {rate}, "
                      f"expected it in the name: ?{rate}=NUMBER")
  frames = tf.size(example["frames"]) > 0
  # The first record may have no sound.
  flac = says_flac(source.name) or (
      example["audio"].dtype == tf.string
      and example["audio"].numpy().startswith(audio.FLAC))
  return dataclasses.replace(
      source, flac=flac, fps=float(example["fps"]) if frames else 0.0)


def _if_changed(file):
  """What to do about a file that is not what it was; on the web, which does not
  tell that."""
  cache = record_files.cache_of(file)
  if files.is_listed(file) or not os.path.exists(cache):
    return ""
  return f"; if the file has changed, remove {cache}"


def why_unreadable(source: Source, i: int) -> str:
  """Why a record cannot be parsed, in a line; "" where nobody said so.

  Args:
    source: the split.
    i: number of the record.
  """
  try:
    _traced(source.parse)(record_index.read_one(source.index, i))
  except tf.errors.OpError as error:
    return failed_assertion(error)
  return ""


@functools.lru_cache(maxsize=8)
def _traced(parse):
  """`parse` in a graph, where an Assert says what it was told to."""
  return tf.function(
      parse, [tf.TensorSpec([], tf.string)], autograph=False)


def failed_assertion(error: tf.errors.OpError) -> str:
  """What an Assert in a graph said; "" if the error is another."""
  found = re.search(r"assertion failed: \[(.+)\]", error.message)
  if not found:
    return ""
  said = found[1].replace("] [", " ")
  # As C has it, quotes and the like are escaped.
  said, _ = codecs.escape_decode(said.encode())
  return visible(said.decode(errors="replace"))


def says_flac(name: str) -> bool:
  """Whether the name of a data set says that its audio is FLAC, as that of
  clips with the field audio=flac."""
  _, _, config = name.partition(":")[0].partition("/")
  return "audio=flac" in config.split("+")


def warn_of_unreadable(source: Source, numbers: Sequence[int]) -> None:
  """Counts records that cannot be read in the log, and names the first.

  Args:
    source: the split.
    numbers: of those records; none is not worth a line.
  """
  if len(numbers):
    why = why_unreadable(source, numbers[0])
    logging.warning(
        "%d of %d clips of split '%s' cannot be read, left out; the first: %s "
        "at byte %d%s", len(numbers), len(source.index), source.split,
        *source.index.place(numbers[0]), why and f": {why}")


def read_labels(source: Source) -> list[list[int]]:
  """The labels of each record of a split; all of it is read. A record that
  cannot be read has none, which the log tells."""
  found = list(record_index.process_records(
      record_index.file_tensors(source.index), len(source.index),
      lambda raw, i: (source.parse(raw)["label"], True),
      (tf.zeros([0], tf.int64), False)).as_numpy_iterator())
  warn_of_unreadable(
      source, [i for i, (_, readable) in found if not readable])
  return [label.tolist() for _, (label, _) in found]


def few_labels(source: Source, count: int, seed: tf.Tensor) -> Source:
  """A split with few labels: as many clips of each class as `count` says.

  Args:
    source: the split; all of it is read.
    count: clips of a class. One with several labels is taken for any of them
      that still lacks clips.
    seed: int32 [2]; another one chooses other clips.

  Returns:
    Source of the chosen records, in their order.

  Raises:
    UserError: there is no label.
  """
  labels = read_labels(source)
  taken, chosen = collections.Counter(), []
  for i in record_index.epoch_order(len(labels), seed, 0).numpy():
    if any(taken[label] < count for label in labels[i]):
      taken.update(labels[i])
      chosen.append(i)
  if not chosen:
    raise UserError(f"{source.directory}: split '{source.split}' has no "
                    "labels, expected labelled clips")
  return dataclasses.replace(source, index=source.index.take(sorted(chosen)))
