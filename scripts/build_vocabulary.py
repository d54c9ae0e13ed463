"""Makes the vocabulary of a dataset from its training captions.

python scripts/build_vocabulary.py --dataset=NAME[,NAME…] --data_dir=DIR
"""
import os

from vatt import cli, files
from vatt.data import (
  audio,
  caption_files,
  record_index,
  sources,
  text,
  windows,
)
from vatt.errors import UserError, one_line

import tensorflow as tf
from absl import flags
from tqdm import tqdm

FLAGS = flags.FLAGS
flags.DEFINE_list("dataset", None, "datasets, as in config.data.datasets")
cli.require("dataset")
flags.DEFINE_string("data_dir", "", "directory of the built datasets")
flags.DEFINE_string("split", "train", "the split whose captions are counted")
flags.DEFINE_integer("size", 2**16, "the most ids, as model.vocab_size counts: "
                     "padding, unknown, and the most frequent words",
                     lower_bound=text.FIRST_WORD + 1)
flags.DEFINE_string("output", "", "file to write; default vocabulary.txt in "
                    "the directory of the first dataset, where training looks")


def captions(source):
  """The captions of a source, str by str; unreadable records have none. Those
  around a clip do not count: others have them, and silence many times."""
  with tqdm(None, source.name, len(source.index), unit="clip") as bar:
    for path, index in caption_files.parts(source.index):
      for own in (caption_files.read(path, len(index)) if path
                  else from_records(source, index)):
        bar.update()
        yield from own


def from_records(source, index):
  """The captions of each record of an index, all of which are read."""
  def read(raw, i):
    example = source.parse(raw)
    sound = audio.samples(example["audio"], source.flac)
    return windows.own_captions(
        example | {"length": windows.clip_length(example, sound)})

  records = record_index.process_records(
      record_index.file_tensors(index), len(index), read,
      tf.zeros([0], tf.string))
  for _, sentences in records.as_numpy_iterator():
    yield [sentence.decode(errors="replace") for sentence in sentences]


def main():
  """Counts, ranks, writes."""
  opened = [sources.open_source(name, FLAGS.data_dir, FLAGS.split)
            for name in FLAGS.dataset]
  vocabulary = text.build_vocabulary(
      (sentence for source in opened for sentence in captions(source)),
      FLAGS.size - text.FIRST_WORD)
  if not vocabulary:
    raise UserError(
        f"--dataset={','.join(FLAGS.dataset)}: split '{FLAGS.split}' has no "
        "captions, expected some; to train on sound and pictures alone, give "
        "the training another vocabulary (--config.data.vocabulary=FILE) or a "
        "model that has one (--config.init=WORKDIR)")
  output = os.path.expanduser(FLAGS.output) or os.path.join(
      opened[0].directory, "vocabulary.txt")
  try:
    files.write_whole(output, "".join(word + "\n" for word in vocabulary))
  except files.REFUSED as error:
    raise UserError(
        f"{output}: cannot be written ({one_line(error)}), expected a file "
        "that can be, and room on its disk") from None
  print(f"{output}: {len(vocabulary)} words; the first: "
        f"{' '.join(vocabulary[:5])}")


if __name__ == "__main__":
  cli.run(main)
