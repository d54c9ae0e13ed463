"""Lists the official splits of a dataset for scripts/prepare_dataset.py.

  python scripts/list_clips.py --dataset=ucf101 --annotations=DIR_OR_FILE \
      --manual_dir=VIDEOS
  python scripts/prepare_dataset.py --dataset=ucf101 --manual_dir=VIDEOS \
      --data_dir=DATA

The first writes VIDEOS/clips.csv: each clip whose file is there, with all of
its splits. Which files of annotations are read, and what splits come out, is in
vatt/data/README.md.
"""
import os

from vatt import cli
from vatt.data import datasets
from vatt.data.ingest import annotations, clip_lists
from vatt.errors import UserError

from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "dataset", None, "Whose annotations they are.", required=True)
flags.DEFINE_string("annotations", None, "Folder of the annotations as they "
                    "are published, or one file of them.", required=True)
flags.DEFINE_string("manual_dir", None, "Folder of the media.", required=True)
flags.DEFINE_bool("trimmed", False, "Each file is no more than its clip, so "
                  "that the times in the annotations are not times in it.")
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
  clip_lists.write_clips(listing, os.path.expanduser(FLAGS.manual_dir),
                         FLAGS.trimmed, FLAGS.overwrite)


if __name__ == "__main__":
  cli.run(main)
