"""Makes one HTML page of a dataset, to look at it.

  python scripts/show_dataset.py --dataset=NAME --data_dir=DIR
      --output=FILE.html|FOLDER [--split=NAME[,NAME...]] [--clips=6] [--all]

Of each split: how many clips, how long, with what and without, of which
classes; then some clips, drawn evenly: pictures, waveform, spectrogram and
captions on one axis of time, labels, and where the record lies. Numbers are of
1,000 clips of a split unless it is given --all.
"""
import os
import re

from vatt import cli, stopping
from vatt.data import sources
from vatt.errors import UserError, one_line
from vatt.reports import dataset, dataset_clips, dataset_facts

import tensorflow as tf
from absl import flags
from tqdm import tqdm

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", None, "As in config.data.datasets.")
cli.require("dataset")
flags.DEFINE_string("data_dir", "", "Folder of the built datasets.")
flags.DEFINE_string("output", None, "File to write, or a folder for it.")
cli.require("output")
flags.DEFINE_list("split", None, "Names of splits; default all.")
flags.DEFINE_integer("clips", 6, "Clips of a split that are shown.", 0)
flags.DEFINE_integer("sample", 1000, "Clips of a split that are counted.", 1)
flags.DEFINE_bool("all", False, "Count all clips.")
flags.DEFINE_integer("seed", 0, "Another one draws other clips.", 0)


def output():
  """The path to write."""
  path = os.path.expanduser(FLAGS.output)
  if os.path.splitext(path)[1].lower() not in (".html", ".htm"):
    name = re.sub(r"[^\w.=+-]+", "_", FLAGS.dataset).strip("_")
    path = os.path.join(path, f"{name[:150]}.html")
  try:
    tf.io.gfile.makedirs(os.path.dirname(path) or ".")
  except (OSError, tf.errors.OpError) as error:
    raise UserError(f"--output: {one_line(error)}, expected a file or folder "
                    "that can be written") from None
  return path


def look(source):
  """The facts of a split, and HTML of some clips."""
  total = len(source.index)
  numbers = dataset_facts.spread(
      total, total if FLAGS.all else FLAGS.sample, FLAGS.seed, "facts")
  with tqdm(total=len(numbers), desc=source.split, unit="clip") as bar:
    facts = dataset_facts.look(source, numbers, bar.update)
  chosen = dataset_facts.spread(total, FLAGS.clips, FLAGS.seed, source.split)
  with tqdm(chosen, f"{source.split}, drawn", unit="clip", leave=False) as bar:
    return facts, [dataset_clips.card(source, int(i)) for i in bar]


def main():
  """Looks at all, then writes."""
  stopping.listen()
  name = FLAGS.dataset
  splits = FLAGS.split or sources.split_names(name, FLAGS.data_dir)
  opened = [sources.open_source(name, FLAGS.data_dir, split)
            for split in splits]
  path = output()  # told before much is read
  directory = opened[0].directory
  looked = [look(source) for source in opened]
  dataset.write(path, name, directory, dataset_facts.read_lists(directory),
                looked)
  # Not their sum: a clip may be in several.
  counts = ", ".join(f"{facts.split} {facts.records}" for facts, _ in looked)
  print(f"{path}: clips of {counts}; "
        f"{sum(len(cards) for _, cards in looked)} of them shown")


if __name__ == "__main__":
  cli.run(main)
