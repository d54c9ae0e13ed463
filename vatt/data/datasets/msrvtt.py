"""MSR-VTT.

`--annotations`: the test set 1k-A, such as MSRVTT_JSFUSION_test.csv, with the
columns video_id, sentence and others.
`--manual_dir`: video9770.mp4, ... in any folders.
"""
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds

from vatt.data.datasets.clips import Options
from vatt.data.datasets.official import Official
from vatt.data.ingest import annotations, tables
from vatt.data.ingest.annotations import Listed


def read(path: str, match: re.Match) -> Iterator[Listed]:
  """Reads a file of the annotations: as of `annotations.Format`."""
  for _, cells in tables.read_table(
      path, ("video_id", "sentence"), others=True, sentences=("sentence",)):
    yield Listed(cells["video_id"], ("test",), captions=(cells["sentence"],))


class Msrvtt(Official, skip_registration=True):
  """Videos and sentences: the split test."""

  VERSION = tfds.core.Version("1.0.0")
  DEFAULTS = Options(fps=12.5, size=224)
  FORMAT = annotations.Format(
      read, r".*test.*\.csv",
      "a .csv with 'test' in its name")
