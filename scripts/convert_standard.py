"""Starts a model from a ViT or T5, or writes a model's parts as such.

  python scripts/convert_standard.py --workdir=DIR --config=NAME.py:ARG
      [--vit=FILE] [--t5=FILE [--words]] [--config.FIELD=VALUE]
  python scripts/convert_standard.py --workdir=DIR --export=FOLDER
      [--modality=video|text] [--layout=hf|timm]

The first makes a workdir with the config's model: its video tower is filled
from the ViT, its text encoder from T5's, the rest is drawn by chance. Training
with the same config and --config.init=DIR starts from it. Only a text encoder
with T5's settings takes T5's weights: configs/pretrain.py:mbs,t5. Its words are
those of the vocabulary, not T5's, unless --words says so.

FILE is a safetensors file, the index of several (model.safetensors.index.json),
or a folder with either. A config.json beside it, of Hugging Face or timm, tells
epsilon of the norms, unless --config.model.encoders.PART.epsilon does; all else
that no tensor tells must be as it says, or is named as taken on trust.

The second writes FOLDER/model.safetensors, of the newest checkpoint, and
FOLDER/config.json for transformers. The words of an exported T5 are those of
the model, and AGG the last of them: it stands before each sentence.
"""
import os
import shlex

from vatt import cli, restore, transfer
from vatt import config as config_lib
from vatt.errors import UserError
from vatt.models.convert import standard
from vatt.models.encoder import EPSILON
from vatt.tasks import make_task

from absl import flags

FLAGS = flags.FLAGS
cli.define_config("Experiment, such as configs/pretrain.py:bbs,t5.",
                  required=False)
cli.define_workdir("Directory of our model.")
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
    words: whether the words of T5's file are the model's, and AGG the last.

  Raises:
    UserError: a file that cannot be read or does not fit the model; a workdir
      that has a model.
  """
  transfer.check_new(workdir)
  if config.task != "pretrain":
    raise UserError(f"--config: a config of the task {config.task}, expected "
                    "one of pre-training")
  config_lib.check(config)
  fields = {}
  for modality, path in files.items():
    part = "shared" if "shared" in config.model.encoders else modality
    sizes = dict(config.model.encoders.get(part, {}))
    epsilon = standard.read_epsilon(path)
    if (sizes and sizes.get("epsilon") is None
        and epsilon not in (None, EPSILON)):
      fields[f"model.encoders.{part}"] = dict(sizes, epsilon=epsilon)
  config = config_lib.replace(config, fields)
  config_lib.check_model(config)
  task = make_task(config)
  # With a vocabulary of its own, a model needs no data yet.
  task = task.resolve([] if config.data.vocabulary else task.open_sources(
      config.data.train_split), workdir)
  model = task.build_model()
  for modality, path in files.items():
    for note in standard.load(path, model.towers[modality], words):
      print(f"{path}: {note}")
  transfer.create(workdir, task, model)
  flags_of = [f"--config.init={workdir}"] + [
      f"--config.{part}.epsilon={sizes['epsilon']}"
      for part, sizes in fields.items()]
  print(f"{workdir}: starts from {' and '.join(files.values())}; train with "
        f"{shlex.join(flags_of)}")


def main():
  """Converts in the direction that the flags say."""
  workdir = cli.workdir()
  files = {modality: os.path.expanduser(path) for modality, path in
           (("video", FLAGS.vit), ("text", FLAGS.t5)) if path}
  if bool(files) == bool(FLAGS.export):
    raise UserError("expected --workdir, and --vit and --t5 or --export")
  if files:
    if FLAGS.config is None:
      raise UserError("--config is missing")
    convert(cli.config(), workdir, files, FLAGS.words)
    return
  trained = restore.load_model(workdir)
  if FLAGS.modality not in trained.model.towers:
    raise UserError(f"{workdir}: has towers of "
                    f"{', '.join(trained.model.towers)}, expected "
                    f"--modality={FLAGS.modality}")
  folder = os.path.expanduser(FLAGS.export)
  for note in standard.save(
      folder, trained.model.towers[FLAGS.modality], FLAGS.layout):
    print(f"{folder}: {note}")
  print(f"{folder}: {FLAGS.modality} tower of step {trained.step}")


if __name__ == "__main__":
  cli.run(main)
