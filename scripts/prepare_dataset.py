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

With --runner, shards are built by Apache Beam, here or on other machines, which
see the media and --data_dir by the same paths:

  python scripts/prepare_dataset.py --dataset=clips/talks --manual_dir=VIDEOS \
      --data_dir=DATA --runner=direct --beam_options=direct_num_workers=2 \
      --beam_options=direct_running_mode=multi_processing

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
flags.DEFINE_string("manual_dir", None, "Folder of the raw media, also "
                    "at s3:// or gs://.")
flags.DEFINE_string("data_dir", None, "Folder for built datasets.")
flags.DEFINE_string("annotations", None, "Folder of the official lists of a "
                    "dataset as they are published, or one file of them.")
flags.DEFINE_bool("trimmed", None, TRIMMED)
cli.require("dataset")
cli.require("data_dir")
flags.DEFINE_bool("repair", False, "Check each record of a finished dataset, "
                  "and build the damaged shards anew.")
flags.DEFINE_string("runner", None, "Builds shards by a runner of Apache Beam: "
                    "direct, PortableRunner or another; which have been run, "
                    "vatt/data/README.md says. Without it, the cores of this "
                    "machine do.")
flags.DEFINE_multi_string("beam_options", [], "An option of Beam or of its "
                          "runner, NAME=VALUE; once for each of them.")


def engine():
  """What builds shards in place of this machine's cores, or None."""
  if not FLAGS.runner:
    if FLAGS.beam_options:
      raise UserError("--runner is missing: the one of the --beam_options")
    return None
  if FLAGS.repair:
    raise UserError("--runner: expected none with --repair, which builds on "
                    "this machine")
  try:
    from vatt.data.ingest import beam_engine
  except ModuleNotFoundError as error:
    raise UserError(f"--runner={FLAGS.runner}: needs Apache Beam ({error}): "
                    "pip install 'vatt[beam]'") from None
  return beam_engine.Engine(FLAGS.runner, FLAGS.beam_options)


def folder(path, shared):
  """A folder as it is passed on: by its whole path where others see it, too."""
  path = path and os.path.expanduser(path)
  if path and "://" in path:
    return path.rstrip("/")  # "//" is another folder there
  if not path or not shared:
    return path
  return os.path.abspath(path)


def build_by_tfds(name):
  """Has tensorflow-datasets build one of its own."""
  import tensorflow_datasets as tfds
  if (FLAGS.repair or FLAGS.annotations or FLAGS.runner
      or FLAGS.trimmed is not None):
    raise UserError(f"--dataset: tfds:{name} is built by tensorflow-datasets, "
                    "expected none of --annotations, --trimmed, --runner and "
                    "--repair")
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
  lists, shared = {}, engine()
  if issubclass(builder_class, Official):
    lists = {"annotations": folder(FLAGS.annotations, shared),
             "trimmed": FLAGS.trimmed}
  elif FLAGS.annotations or FLAGS.trimmed is not None:
    raise UserError(f"--{'annotations' if FLAGS.annotations else 'trimmed'}: "
                    f"{name} has no official lists")
  stopping.check()
  builder = builder_class(
      config=config,
      data_dir=folder(FLAGS.data_dir, shared),
      manual_dir=folder(FLAGS.manual_dir, shared),
      engine=shared,
      **lists)
  try:
    builder.download_and_prepare(repair=FLAGS.repair)
  except UserError:
    if shared:  # whose threads may wait for what has ended
      stopping.end_at_once()
    raise
  stopping.end_at_once()  # for nothing is left to be stopped


if __name__ == "__main__":
  logging.set_verbosity(logging.ERROR)  # tfds warns of every config of its own
  with stopping.in_a_line("stopped; what is finished is kept, run the same "
                          "command to go on"):
    cli.run(main)
