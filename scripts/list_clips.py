"""Lists the official splits of a dataset, for those who want to edit them.

  python scripts/list_clips.py --dataset=ucf101 --annotations=DIR_OR_FILE \
      --manual_dir=VIDEOS [--output=LISTS]
  python scripts/prepare_dataset.py --dataset=ucf101 --manual_dir=VIDEOS \
      --data_dir=DATA

The first writes into VIDEOS, or LISTS: clips.csv, each clip whose file is there
with all of its splits; classes.txt, the classes in the order of their numbers;
missing.csv, what is not there and why; coverage.csv, how many clips of each
split and label are. The second builds what clips.csv lists by then
(--manual_dir=LISTS where that has it). Which files of annotations are read, and
what splits come out, is in vatt/data/README.md.
"""
import os

from vatt import cli
from vatt.data import datasets
from vatt.data.datasets.official import TRIMMED
from vatt.data.ingest import annotations, clip_lists
from vatt.errors import UserError

from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "dataset", None, "Whose annotations they are.", required=True)
flags.DEFINE_string("annotations", None, "Folder of the annotations as they "
                    "are published, or one file of them.", required=True)
flags.DEFINE_string("manual_dir", None, "Folder of the media.", required=True)
flags.DEFINE_string("output", None, "Folder to write into, such as where that "
                    "of the media is read-only; paths are absolute there.")
flags.DEFINE_bool("trimmed", None, TRIMMED)
flags.DEFINE_bool("overwrite", False, "Replace a clips.csv that is there.")


def main():
  """Lists."""
  builder = datasets.find(FLAGS.dataset)
  if not getattr(builder, "FORMAT", None):
    raise UserError(f"--dataset: no official lists of {FLAGS.dataset!r}, "
                    "expected one of " + ", ".join(
                        name for name in datasets.names()
                        if getattr(datasets.find(name), "FORMAT", None)))
  listing = annotations.read(FLAGS.dataset, builder.FORMAT,
                             os.path.expanduser(FLAGS.annotations))
  clip_lists.write_clips(
      listing, builder.FORMAT, os.path.expanduser(FLAGS.manual_dir),
      FLAGS.trimmed, FLAGS.overwrite,
      FLAGS.output and os.path.expanduser(FLAGS.output))


if __name__ == "__main__":
  cli.run(main)
