"""Turns a released VATT checkpoint into a workdir of ours, and back.

  python scripts/convert_checkpoint.py --checkpoint=PREFIX --workdir=DIR
      [--vocabulary=FILE] [--size=PIXELS]
  python scripts/convert_checkpoint.py --workdir=DIR --export=PREFIX

PREFIX is the path of the checkpoint without .index. Its sizes are read from it;
every variable of it is used, or is one that only training needs. The workdir is
like one that training leaves: of a pre-trained model,
scripts/zero_shot_retrieval.py evaluates it; of one fine-tuned,
python -m vatt.main --mode=eval does; --config.init=DIR starts from either.
Models fine-tuned on video were trained at 320 pixels with positions for 224,
which the release resizes as it runs: give --size=320.

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
from vatt import checkpoints, errors, files, inference
from vatt.data import text
from vatt.errors import UserError
from vatt.models.convert import released
from vatt.models.vatt import FLAVOURS
from vatt.tasks import task_of

FLAGS = flags.FLAGS
flags.DEFINE_string("checkpoint", None, "Released checkpoint, without .index.")
flags.DEFINE_string("workdir", None, "Directory of our model.")
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
    vocabulary: file of the words, or None.
    size: side of the frames of a fine-tuned model; 0 for that of its positions.
    head_dim: as of `released.describe`.

  Raises:
    UserError: no released checkpoint, words of another number, a workdir that
      has a model.
  """
  if tf.io.gfile.exists(os.path.join(workdir, "config.json")):
    raise UserError(f"--workdir={workdir}: has a model, expected a new one")
  shapes = released.read_shapes(path)
  facts = released.describe(shapes, path, head_dim)
  tuned = "modality" in facts
  if (vocabulary and tuned) or (size and facts.get("modality") != "video"):
    raise UserError(f"{path}: --vocabulary is for pre-trained models, --size "
                    "for those fine-tuned on video; this is neither")
  config = (common.finetuning(facts["modality"], "base", "released") if tuned
            else common.pretraining("mbs", "released"))
  del config.model.encoders
  config.model.update(facts["model"])
  config.data.update(facts["data"])
  words = []
  if tuned:
    config.data.classes = facts["num_classes"]
    config.finetune.multi_label = facts["modality"] == "audio"
    if facts["modality"] == "audio":
      config.data.update(dict(frames=0, audio_rate=24_000))
      if "spectrogram" in facts:
        frames, config.data.spectrogram.bins = facts["spectrogram"]
        config.data.audio_samples = frames * round(
            config.data.audio_rate * config.data.spectrogram.step_s)
        config.model.audio_input = "spectrogram"
    else:
      config.data.update(dict(audio_samples=0, fps=12.5))
      config.data.size = size or config.data.size
  if vocabulary:
    rows = config.model.vocab_size
    words = text.load_vocabulary(vocabulary)
    if len(words) + text.FIRST_WORD != rows:
      raise UserError(f"{vocabulary}: {len(words)} words, expected the "
                      f"{rows - text.FIRST_WORD} of the checkpoint's embedding")
  model = task_of(config).build_model(config, words)
  released.load(path, model, resize=bool(size))
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
  if not words and not tuned:
    print(f"{workdir}: has no vocabulary.txt, without which it understands no "
          "sentence: see --vocabulary")


def export(workdir, path):
  """Writes the model of a workdir as a checkpoint of the released form.

  Raises:
    UserError: its fields are not those of the released weights.
  """
  config = inference.read_config(workdir)
  if config.task == "pretrain":
    config.model.word_vectors = ""  # the checkpoint has them
  model = task_of(config).build_model(config, [])
  step = checkpoints.restore_model(
      os.path.join(workdir, "checkpoints"), model)
  shapes = {key: entry.shape for entry in released.entries(model)
            for key in entry.keys}
  tower = model.towers["video"] if config.task == "pretrain" else model.tower
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
  try:
    released.save(path, model)
  except (OSError, tf.errors.OpError) as error:
    raise UserError(f"{path}: cannot be written: "
                    f"{str(error).splitlines()[0]}") from None
  print(f"{path}: step {step}, {len(model.variables)} variables")


def main(argv):
  """Converts in the direction that the flags say."""
  if len(argv) > 1:
    raise UserError(f"unexpected argument {argv[1]!r}, expected flags")
  if not FLAGS.workdir or bool(FLAGS.checkpoint) == bool(FLAGS.export):
    raise UserError("expected --workdir, and one of --checkpoint and --export")
  workdir = os.path.expanduser(FLAGS.workdir)
  if FLAGS.export:
    export(workdir, os.path.expanduser(FLAGS.export))
  else:
    convert(FLAGS.checkpoint, workdir, FLAGS.vocabulary, FLAGS.size,
            FLAGS.head_dim)


if __name__ == "__main__":
  errors.run(main)
