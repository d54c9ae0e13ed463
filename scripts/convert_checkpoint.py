"""Turns a released VATT checkpoint into a workdir of ours, and back.

  python scripts/convert_checkpoint.py --checkpoint=PREFIX --workdir=DIR
      [--vocabulary=FILE] [--size=PIXELS]
  python scripts/convert_checkpoint.py --workdir=DIR --export=PREFIX

PREFIX is the path of the checkpoint, with or without .index, or the folder of
one. Its sizes are read from it; every variable of it is used, or is one that
only training needs. The workdir is like one that training leaves: of a
pre-trained model, scripts/zero_shot_retrieval.py evaluates it; of one
fine-tuned, python -m vatt.main --mode=eval does; --config.init=DIR starts from
either. Models fine-tuned on video were trained at 320 pixels with positions for
224, which the release resizes as it runs: give --size=320.

To understand sentences, the released models need the words that they were
trained with: the vocabulary of word2vec that belongs to their embedding of
65,536 rows, as FILE with a word a line in the order of its rows, without the
first two (padding and unknown). It does not come with the checkpoints.
"""
import os
import re

from vatt import cli, recipes, restore, transfer
from vatt import config as config_lib
from vatt.data import text
from vatt.errors import UserError
from vatt.models.convert import released
from vatt.models.vatt import FLAVOURS
from vatt.tasks import make_task

import tensorflow as tf
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("checkpoint", None, "Released checkpoint, or its "
                    "folder.")
cli.define_workdir("Directory of our model.")
flags.DEFINE_string("vocabulary", None, "Words of the released model, a line "
                    "each, without padding and unknown.")
flags.DEFINE_string("export", None, "Checkpoint to write in the released form, "
                    "without .index.")
flags.DEFINE_integer("size", 0, "Side of the frames of a model fine-tuned on "
                     "video; 0: that of its positions.", 0)
flags.DEFINE_integer("head_dim", 64, "Width of an attention head.", 1)


def convert(path, workdir, vocabulary, size, head_dim):
  """Writes a workdir with the weights of a released checkpoint.

  Args:
    path: prefix of the checkpoint.
    workdir: for a new model.
    vocabulary: file of the words, or "".
    size: side of the frames of a fine-tuned model; 0 for that of its positions.
    head_dim: width of an attention head.

  Raises:
    UserError: no released checkpoint, words of another number, a workdir that
      has a model.
  """
  transfer.check_new(workdir)
  shapes = released.read_shapes(path)
  facts = released.describe(shapes, path, head_dim)
  tuned = "modality" in facts
  if (vocabulary and tuned) or (size and facts.get("modality") != "video"):
    raise UserError(f"{path}: --vocabulary is for pre-trained models, --size "
                    "for those fine-tuned on video; this is neither")
  config = (recipes.finetuning(facts["modality"], "base", "released") if tuned
            else recipes.pretraining("mbs", "released"))
  fields = {f"{part}.{name}": value for part in ("model", "data")
            for name, value in facts[part].items()}
  if tuned:
    audio = facts["modality"] == "audio"
    fields |= {"data.classes": facts["num_classes"],
               "finetune.multi_label": audio}
    if audio:
      fields["finetune.label_smoothing"] = 0.0
    fields |= ({"data.frames": 0, "data.audio_rate": 24_000} if audio else
               {"data.audio_samples": 0, "data.fps": 12.5})
    if "spectrogram" in facts:
      frames, bins = facts["spectrogram"]
      fields |= {"model.audio_input": "spectrogram",
                 "data.spectrogram.bins": bins,
                 "data.audio_samples": frames * round(
                     fields["data.audio_rate"]
                     * config.data.spectrogram.step_s)}
    if size:
      fields["data.size"] = size
  config = config_lib.replace(config, fields)
  words = []
  if vocabulary:
    rows = config.model.vocab_size
    words = text.load_vocabulary(vocabulary)
    if len(words) + text.FIRST_WORD != rows:
      raise UserError(f"{vocabulary}: {len(words)} words, expected the "
                      f"{rows - text.FIRST_WORD} of the checkpoint's embedding")
  config_lib.check_model(config)
  task = make_task(config, words)
  model = task.build_model()
  released.load(path, model, resize=bool(size))
  transfer.create(workdir, task, model)
  count = sum(variable.shape.num_elements() for variable in model.variables)
  print(f"{workdir}: {len(model.variables)} variables, {count:,} parameters: "
        + ", ".join(f"{part} {size['depth']} x {size['width']}"
                    for part, size in config.model.encoders.items()))
  left = released.ignored(shapes)
  print(f"left out, of training alone: {len(left)} variables, such as "
        f"{', '.join(left[:3])}")
  if not words and not tuned:
    print(f"{workdir}: has no vocabulary.txt, without which it understands no "
          "sentence: see --vocabulary")


def export(workdir, path):
  """Writes the model of a workdir as a checkpoint of the released form.

  Raises:
    UserError: its fields are not those of the released weights.
  """
  task, model, step = restore.load_model(workdir)
  config = task.config
  if config.model.heads != "released":
    raise UserError(f"{workdir}: not of the released flavour: model.heads is "
                    f"{config.model.heads}, expected released")
  shapes = {key: entry.shape for entry in released.entries(model)
            for key in entry.keys}
  tower = next(iter(model.towers.values()))
  facts = released.describe(
      shapes, path, tower.encoder.blocks[0].attention.head_dim)["model"]
  differ = [f"model.{field} is {config.model[field]}, expected {value}"
            for field, value in facts.items()
            if field in FLAVOURS["released"] and config.model[field] != value]
  if differ or released.homeless(model):
    raise UserError(
        f"{workdir}: not of the released flavour: "
        + "; ".join([*differ, *released.homeless(model)][:5]))
  if tf.io.gfile.exists(f"{path}.index"):
    raise UserError(f"--export={path}: is there, expected a new checkpoint")
  released.save(path, model)
  print(f"{path}: step {step}, {len(model.variables)} variables")


def main():
  """Converts in the direction that the flags say."""
  if bool(FLAGS.checkpoint) == bool(FLAGS.export):
    raise UserError("expected --workdir, and one of --checkpoint and --export")
  workdir = cli.workdir()
  if FLAGS.export:
    export(workdir, re.sub(
        r"\.index$", "", os.path.expanduser(FLAGS.export)))
  else:
    convert(released.find(os.path.expanduser(FLAGS.checkpoint)), workdir,
            os.path.expanduser(FLAGS.vocabulary or ""), FLAGS.size,
            FLAGS.head_dim)


if __name__ == "__main__":
  cli.run(main)
