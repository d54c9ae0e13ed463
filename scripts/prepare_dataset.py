"""Builds a dataset of vatt/data/datasets from raw media.

  python scripts/prepare_dataset.py --dataset=spoken_digits/official \
      --manual_dir=DIR --data_dir=DIR
  python scripts/prepare_dataset.py --dataset=kinetics400 --annotations=LISTS \
      --manual_dir=VIDEOS --data_dir=DIR
  python scripts/prepare_dataset.py --dataset=clips/NAME+fps=10+size=256 \
      --manual_dir=DIR_OF_ANY_MEDIA --data_dir=DIR

A build that was stopped goes on when the same command is run again. With
--repair all of a finished dataset is read, and what is damaged is built anew.
"""
import os

from vatt import cli, stopping
from vatt.data import datasets
from vatt.data.datasets.official import Official
from vatt.errors import UserError

from absl import flags, logging

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", None, "NAME or NAME/CONFIG.")
flags.DEFINE_string("manual_dir", None, "Folder of the raw media.")
flags.DEFINE_string("data_dir", None, "Folder for built datasets.")
flags.DEFINE_string("annotations", None, "Folder of the official lists of a "
                    "dataset as they are published, or one file of them.")
flags.DEFINE_bool("trimmed", False, "Each file is no more than its clip, so "
                  "that the times in the annotations are not times in it.")
cli.require("dataset")
cli.require("data_dir")
flags.DEFINE_bool("repair", False, "Check each record of a finished dataset, "
                  "and build the damaged shards anew.")


def main():
  """Builds what the flags say."""
  name, _, config = FLAGS.dataset.partition("/")
  builder_class = datasets.find(name)
  if not builder_class:
    raise UserError(f"--dataset: no dataset {name!r}, expected one of "
                    + ", ".join(datasets.names()))
  lists = {}
  if issubclass(builder_class, Official):
    lists = {"annotations": FLAGS.annotations and os.path.expanduser(
        FLAGS.annotations), "trimmed": FLAGS.trimmed}
  elif FLAGS.annotations:
    raise UserError(f"--annotations: {name} has no official lists")
  stopping.check()
  builder_class(
      config=config,
      data_dir=os.path.expanduser(FLAGS.data_dir),
      manual_dir=FLAGS.manual_dir and os.path.expanduser(FLAGS.manual_dir),
      **lists,
  ).download_and_prepare(repair=FLAGS.repair)
  stopping.end_at_once()  # for nothing is left to be stopped


if __name__ == "__main__":
  logging.set_verbosity(logging.ERROR)  # tfds warns of every config of its own
  with stopping.in_a_line("stopped; what is finished is kept, run the same "
                          "command to go on"):
    cli.run(main)
