"""Turns a released VATT checkpoint into a workdir of ours, and back.

  python scripts/convert_checkpoint.py --checkpoint=PREFIX --workdir=DIR
      [--vocabulary=FILE]
  python scripts/convert_checkpoint.py --workdir=DIR --export=PREFIX

PREFIX is the path of the checkpoint without .index. Its sizes are read from it;
every variable of it is used, or is one that only training needs. The workdir is
like one that training leaves: scripts/zero_shot_retrieval.py evaluates it, and
--config.init=DIR starts from it.

To understand sentences, the released models need the words that they were
trained with: the vocabulary of word2vec that belongs to their embedding of
65,536 rows, as FILE with a word a line in the order of its rows, without the
first two (padding and unknown). It does not come with the checkpoints.
"""
import json
import os
import sys

import tensorflow as tf
from absl import flags

# For configs, which lie beside this folder.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from configs import common
from vatt import checkpoints, errors, files, inference, pretrain
from vatt.data import text
from vatt.errors import UserError
from vatt.models import released

FLAGS = flags.FLAGS
flags.DEFINE_string("checkpoint", None, "Released checkpoint, without .index.")
flags.DEFINE_string("workdir", None, "Directory of our model.")
flags.DEFINE_string("vocabulary", None, "Words of the released model, a line "
                    "each, without padding and unknown.")
flags.DEFINE_string("export", None, "Checkpoint to write in the released form, "
                    "without .index.")
flags.DEFINE_integer("head_dim", 64, "Width of an attention head.", 1)


def convert(path, workdir, vocabulary, head_dim):
  """Writes a workdir with the weights of a released checkpoint.

  Args:
    path: prefix of the checkpoint.
    workdir: for a new model.
    vocabulary: file of the words, or None.
    head_dim: as of `released.describe`.

  Raises:
    UserError: no released checkpoint, words of another number, a workdir that
      has a model.
  """
  if tf.io.gfile.exists(os.path.join(workdir, "config.json")):
    raise UserError(f"--workdir={workdir}: has a model, expected a new one")
  shapes = released.read_shapes(path)
  facts = released.describe(shapes, path, head_dim)
  if "modality" in facts:
    raise UserError(
        f"{path}: fine-tuned on {facts['modality']} with "
        f"{facts['num_classes']} classes; only pre-trained models are "
        "converted so far")
  config = common.pretraining("mbs", "released")
  del config.model.encoders
  config.model.update(facts["model"])
  config.data.update(facts["data"])
  rows = config.model.vocab_size
  words = []
  if vocabulary:
    words = text.load_vocabulary(vocabulary)
    if len(words) + text.FIRST_WORD != rows:
      raise UserError(f"{vocabulary}: {len(words)} words, expected the "
                      f"{rows - text.FIRST_WORD} of the checkpoint's embedding")
  model = pretrain.build_model(config, words)
  released.load(path, model)
  checkpoints.Checkpoints(
      os.path.join(workdir, "checkpoints"), model=model).save(0)
  if words:
    files.write_whole(os.path.join(workdir, "vocabulary.txt"),
                      "".join(word + "\n" for word in words))
  files.write_whole(os.path.join(workdir, "config.json"), json.dumps(
      json.loads(config.to_json_best_effort()), indent=2, sort_keys=True))
  count = sum(variable.shape.num_elements() for variable in model.variables)
  print(f"{workdir}: {len(model.variables)} variables, {count:,} parameters: "
        + ", ".join(f"{part} {size['depth']} x {size['width']}"
                    for part, size in config.model.encoders.items()))
  left = released.ignored(shapes)
  print(f"left out, of training alone: {len(left)} variables, such as "
        f"{', '.join(left[:3])}")
  if not words:
    print(f"{workdir}: has no vocabulary.txt, without which it understands no "
          "sentence: see --vocabulary")


def export(workdir, path):
  """Writes the model of a workdir as a checkpoint of the released form.

  Raises:
    UserError: its fields are not those of the released weights.
  """
  config = inference.read_config(workdir)
  model = pretrain.build_model(config, [])
  step = checkpoints.restore_model(
      os.path.join(workdir, "checkpoints"), model)
  missing = released.homeless(model)
  if missing:
    raise UserError(
        f"{workdir}: {', '.join(missing[:5])} and so on have no place in the "
        "released form, expected a model of the released flavour")
  released.save(path, model)
  print(f"{path}: step {step}, {len(model.variables)} variables")


def main(argv):
  """Converts in the direction that the flags say."""
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}, expected flags")
  if not FLAGS.workdir or bool(FLAGS.checkpoint) == bool(FLAGS.export):
    raise UserError("expected --workdir, and one of --checkpoint and --export")
  workdir = os.path.expanduser(FLAGS.workdir)
  if FLAGS.export:
    export(workdir, FLAGS.export)
  else:
    convert(FLAGS.checkpoint, workdir, FLAGS.vocabulary, FLAGS.head_dim)


if __name__ == "__main__":
  errors.run(main)
