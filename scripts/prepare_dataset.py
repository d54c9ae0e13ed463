"""Builds a dataset of vatt/data/datasets from raw media.

  python scripts/prepare_dataset.py --dataset=spoken_digits/official \
      --manual_dir=DIR --data_dir=DIR
  python scripts/prepare_dataset.py --dataset=clips/NAME+fps=10+size=256 \
      --manual_dir=DIR_OF_ANY_MEDIA --data_dir=DIR

A build that was stopped goes on when the same command is run again. With
--repair all of a finished dataset is read, and what is damaged is built anew.
"""
import importlib
import os
import pkgutil

from vatt import cli, stopping
from vatt.data import datasets
from vatt.errors import UserError

from absl import flags, logging

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", None, "NAME or NAME/CONFIG.")
flags.DEFINE_string("manual_dir", None, "Folder of the raw media.")
flags.DEFINE_string("data_dir", None, "Folder for built datasets.")
cli.require("dataset")
cli.require("data_dir")
flags.DEFINE_bool("repair", False, "Check each record of a finished dataset, "
                  "and build the damaged shards anew.")


def find_dataset(name):
  """Finds a dataset's class: the one that bears the name of its module.

  Args:
    name: name of a module in vatt/data/datasets.

  Returns:
    The builder class, or None.
  """
  path = f"{datasets.__name__}.{name}"
  try:
    module = importlib.import_module(path)
  except ModuleNotFoundError as error:
    if not path.startswith(error.name):
      raise  # the module is there and misses something itself
    return None
  return next((value for value in vars(module).values()
               if getattr(value, "name", None) == name), None)


def main():
  """Builds what the flags say."""
  name, _, config = FLAGS.dataset.partition("/")
  builder_class = find_dataset(name)
  if not builder_class:
    names = [module.name for module in pkgutil.iter_modules(datasets.__path__)
             if find_dataset(module.name)]
    raise UserError(
        f"--dataset: no dataset {name!r}, expected one of " + ", ".join(names))
  stopping.check()
  builder_class(
      config=config,
      data_dir=os.path.expanduser(FLAGS.data_dir),
      manual_dir=FLAGS.manual_dir and os.path.expanduser(FLAGS.manual_dir),
  ).download_and_prepare(repair=FLAGS.repair)
  stopping.end_at_once()  # for nothing is left to be stopped


if __name__ == "__main__":
  logging.set_verbosity(logging.ERROR)  # tfds warns of every config of its own
  with stopping.in_a_line("stopped; what is finished is kept, run the same "
                          "command to go on"):
    cli.run(main)
