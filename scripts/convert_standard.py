"""Starts a model from a ViT or T5, or writes a model's parts as such.

  python scripts/convert_standard.py --workdir=DIR --config=NAME.py:ARG
      [--vit=FILE.safetensors] [--t5=FILE.safetensors [--words]]
      [--config.FIELD=VALUE]
  python scripts/convert_standard.py --workdir=DIR --export=FOLDER
      [--modality=video|text] [--layout=hf|timm]

The first makes a workdir with the config's model: its video tower is filled
from the ViT, its text encoder from T5's, the rest is drawn by chance. Training
with the same config and --config.init=DIR starts from it. Only a text encoder
with T5's settings takes T5's weights: configs/pretrain.py:mbs,t5. Its words are
those of the vocabulary, not T5's, unless --words says so.

The second writes FOLDER/model.safetensors, of the newest checkpoint, and
FOLDER/config.json for transformers. The words of an exported T5 are those of
the model, and AGG the last of them: it stands before each sentence.
"""
import os
import sys

import tensorflow as tf
from absl import flags

# For configs, which lie beside this folder.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from vatt import checkpoints, errors, inference, pretrain
from vatt import main as training
from vatt.errors import UserError
from vatt.models.convert import standard

FLAGS = flags.FLAGS  # beside --config and --workdir of training
flags.DEFINE_string("vit", None, "ViT for the video tower.")
flags.DEFINE_string("t5", None, "T5 for the text encoder.")
flags.DEFINE_boolean("words", False, "The words of --t5 are the model's, and "
                     "AGG the last of them, as --export writes them.")
flags.DEFINE_string("export", None, "New folder, to write to.")
flags.DEFINE_enum("modality", "video", list(standard.OF_MODALITY), "To export.")
flags.DEFINE_string("layout", None, "Of video: hf (the default) or timm.")


def convert(config, workdir, files, words):
  """Writes a workdir with a model that starts from standard Transformers.

  Args:
    config: of the training to come.
    workdir: for a new model.
    files: {modality: path} of what to start from.
    words: as of `standard.load`.

  Raises:
    UserError: as of `standard.load`; a workdir that has a model.
  """
  if tf.io.gfile.exists(os.path.join(workdir, "config.json")):
    raise UserError(f"--workdir={workdir}: has a model, expected a new one")
  # With a vocabulary of its own, a model needs no data yet.
  data_sources = [] if config.data.vocabulary else pretrain.open_sources(
      config, config.data.train_split)
  vocabulary = pretrain.resolve(config, data_sources, workdir)
  model = pretrain.build_model(config, vocabulary)
  for modality, path in files.items():
    for note in standard.load(path, model.towers[modality], words):
      print(f"{path}: {note}")
  checkpoints.Checkpoints(
      os.path.join(workdir, "checkpoints"), model=model).save(0)
  training.claim_workdir(config, pretrain, vocabulary, workdir)
  print(f"{workdir}: starts from {' and '.join(files.values())}; train with "
        f"--config.init={workdir}")


def main(argv):
  """Converts in the direction that the flags say."""
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}, expected flags")
  workdir, config = training.WORKDIR.value, training.CONFIG.value
  files = {modality: path for modality, path in
           (("video", FLAGS.vit), ("text", FLAGS.t5)) if path}
  if not workdir or bool(files) == bool(FLAGS.export):
    raise UserError("expected --workdir, and --vit and --t5 or --export")
  if files:
    if config is None:
      raise UserError("--config is missing")
    convert(config, workdir, files, FLAGS.words)
    return
  embedder = inference.Embedder(workdir)
  for note in standard.save(
      FLAGS.export, embedder.model.towers[FLAGS.modality], FLAGS.layout):
    print(f"{FLAGS.export}: {note}")
  print(f"{FLAGS.export}: {FLAGS.modality} tower of step {embedder.step}")


if __name__ == "__main__":
  errors.run(main)
