"""Builds a dataset of vatt/data/datasets from raw media.

  python scripts/prepare_dataset.py --dataset=spoken_digits/official \
      --manual_dir=DIR --data_dir=DIR
  python scripts/prepare_dataset.py --dataset=kinetics400 --annotations=LISTS \
      --manual_dir=VIDEOS --data_dir=DIR
  python scripts/prepare_dataset.py --dataset=clips/NAME+fps=10+size=256 \
      --manual_dir=DIR_OF_ANY_MEDIA --data_dir=DIR
  python scripts/prepare_dataset.py --dataset=tfds:imagenet2012 \
      --manual_dir=DIR --data_dir=DIR

The last is built by tensorflow-datasets, as any that it knows: what it cannot
download is in --manual_dir, as it says.

A build that was stopped goes on when the same command is run again. With
--repair all of a finished dataset is read, and what is damaged is built anew.
"""
import os

from vatt import cli, stopping
from vatt.data import datasets
from vatt.data.datasets.official import TRIMMED, Official
from vatt.errors import UserError, one_line

from absl import flags, logging

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", None, "NAME or NAME/CONFIG.")
flags.DEFINE_string("manual_dir", None, "Folder of the raw media.")
flags.DEFINE_string("data_dir", None, "Folder for built datasets.")
flags.DEFINE_string("annotations", None, "Folder of the official lists of a "
                    "dataset as they are published, or one file of them.")
flags.DEFINE_bool("trimmed", None, TRIMMED)
cli.require("dataset")
cli.require("data_dir")
flags.DEFINE_bool("repair", False, "Check each record of a finished dataset, "
                  "and build the damaged shards anew.")


def build_by_tfds(name):
  """Has tensorflow-datasets build one of its own."""
  import tensorflow_datasets as tfds
  if FLAGS.repair or FLAGS.annotations or FLAGS.trimmed is not None:
    raise UserError(f"--dataset: tfds:{name} is built by tensorflow-datasets, "
                    "expected neither --annotations, --trimmed nor --repair")
  try:
    builder = tfds.builder(name, data_dir=os.path.expanduser(FLAGS.data_dir))
    manual = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    if manual and not FLAGS.manual_dir:
      raise UserError("--manual_dir is missing: " + " ".join(manual.split()))
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(
        manual_dir=FLAGS.manual_dir and os.path.expanduser(FLAGS.manual_dir)))
  except UserError:
    raise
  except Exception as error:  # of any kind, as its builders raise any
    raise UserError(f"--dataset: tensorflow-datasets cannot build {name}: "
                    + one_line(error)) from error


def main():
  """Builds what the flags say."""
  kind, _, rest = FLAGS.dataset.partition(":")
  if kind == "tfds":
    return build_by_tfds(rest.partition("?")[0])
  name, _, config = FLAGS.dataset.partition("/")
  builder_class = datasets.find(name)
  if not builder_class:
    raise UserError(f"--dataset: no dataset {name!r}, expected one of "
                    + ", ".join(datasets.names()))
  lists = {}
  if issubclass(builder_class, Official):
    lists = {"annotations": FLAGS.annotations and os.path.expanduser(
        FLAGS.annotations), "trimmed": FLAGS.trimmed}
  elif FLAGS.annotations or FLAGS.trimmed is not None:
    raise UserError(f"--{'annotations' if FLAGS.annotations else 'trimmed'}: "
                    f"{name} has no official lists")
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
