"""One file with the captions of all clips of a built split, for whoever needs
no pictures.

`<base>-<split>.captions.jsonl.gz` lies beside the shards: of each record, in
their order, a line with a JSON list of the clip's own captions. Those are what
a vocabulary counts; see `windows.own_captions`.
"""
import gzip
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from vatt import files as files_lib
from vatt.data import audio, windows
from vatt.data.record_index import RecordIndex
from vatt.errors import UserError

SUFFIX = ".captions.jsonl.gz"
SHARD = re.compile(r"(.+)\.tfrecord-\d{5,}-of-\d{5,}")
TOTAL = slice(18, 26)  # bytes of a FLAC file, whose lower 36 bits count samples


def file_name(base: str, split: str) -> str:
  """The name of the file, in the folder of the dataset."""
  return f"{base}-{split}{SUFFIX}"


def path_beside(shard: str) -> str | None:
  """The path that the file of a shard's split has; None if it is no shard."""
  found = SHARD.fullmatch(shard)
  return found and found[1] + SUFFIX


def parts(index: RecordIndex) -> Iterator[tuple[str | None, RecordIndex]]:
  """The built splits that an index of whole files is of, one by one: the path
  of the file with the captions of its records, None if there is none, and
  these records."""
  for path, group in itertools.groupby(
      range(len(index.files)), lambda number: path_beside(index.files[number])):
    numbers = list(group)
    yield (path if path and tf.io.gfile.exists(path) else None), index.take(
        np.arange(index.edges[numbers[0]], index.edges[numbers[-1] + 1]))


def own_captions(example: tf.train.Example) -> list[str]:
  """The captions of a clip itself, without those around it.

  These are those of `windows.own_captions`, for whoever builds: that would take
  as long as all else about a record.

  Args:
    example: the record, as it is built here.
  """
  def values(key, kind="bytes_list"):
    return getattr(example.features.feature[key], kind).value

  fps, rate = sum(values("fps", "float_list")), sum(
      values("audio_rate", "int64_list"))
  length = max(
      len(values("frames")) / fps if fps else 0.0,
      _num_samples(b"".join(values("audio"))) / rate if rate else 0.0)
  half = windows.HALF
  return [text.decode(errors="replace") for text, start, end in zip(
      values("captions/text"), values("captions/start", "float_list"),
      values("captions/end", "float_list"))
          if not (start < 0 and end < half
                  or length > half and start > length - half)]


def _num_samples(sound):
  """The samples of a clip's sound, PCM or FLAC, in bytes."""
  if sound.startswith(audio.FLAC):
    return int.from_bytes(sound[TOTAL], "big") % (1 << 36)
  return len(sound) // 2


def write(folder: str, base: str, split: str,
          captions: Iterable[Sequence[str]]) -> None:
  """Writes the file of a split.

  Args:
    folder: of the dataset.
    base: what the names of its shards begin with.
    split: name of the built split.
    captions: of each record, in order. One is held at a time.

  Raises:
    One of files.REFUSED.
  """
  def to(path):
    # No time and name in it: the same captions are the same bytes.
    with tf.io.gfile.GFile(path, "wb") as file, gzip.GzipFile(
        "", "wb", fileobj=file, mtime=0) as zipped:
      for own in captions:
        zipped.write(json.dumps(own, ensure_ascii=False).encode() + b"\n")

  files_lib.write_whole_by(os.path.join(folder, file_name(base, split)), to)


def read(path: str, count: int) -> Iterator[list[str]]:
  """Reads the captions of each record of a split.

  Args:
    path: of the file.
    count: of the records.

  Raises:
    UserError: it cannot be read, or is of other records.
  """
  found = 0
  try:
    with tf.io.gfile.GFile(path, "rb") as file, gzip.GzipFile(
        fileobj=file) as zipped:
      for line in zipped:
        found += 1
        yield json.loads(line)
  except (EOFError, ValueError, gzip.zlib.error, *files_lib.REFUSED):
    found = 0
  if found != count:
    raise UserError(f"{path}: damaged, or of other records than the {count} "
                    "that are there; expected what the build wrote; "
                    "scripts/prepare_dataset.py --repair writes it anew")
