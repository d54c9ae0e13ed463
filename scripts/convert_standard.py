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
from vatt import checkpoints, cli, inference
from vatt import config as config_lib
from vatt import workdir as workdir_lib
from vatt.errors import UserError
from vatt.models.convert import standard
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
  if workdir_lib.has_model(workdir):
    raise UserError(f"--workdir={workdir}: has a model, expected a new one")
  if config.task != "pretrain":
    raise UserError(f"--config: a config of the task {config.task}, expected "
                    "one of pre-training")
  task = make_task(config)
  config_lib.check(config)
  # With a vocabulary of its own, a model needs no data yet.
  task = task.resolve([] if config.data.vocabulary else task.open_sources(
      config.data.train_split), workdir)
  model = task.build_model()
  for modality, path in files.items():
    for note in standard.load(path, model.towers[modality], words):
      print(f"{path}: {note}")
  checkpoints.Checkpoints(
      workdir_lib.checkpoints_of(workdir), model=model).save(0)
  workdir_lib.write(workdir, task.config, task.WORDS_FILE, task.words)
  print(f"{workdir}: starts from {' and '.join(files.values())}; train with "
        f"--config.init={workdir}")


def main():
  """Converts in the direction that the flags say."""
  workdir = cli.workdir()
  files = {modality: path for modality, path in
           (("video", FLAGS.vit), ("text", FLAGS.t5)) if path}
  if bool(files) == bool(FLAGS.export):
    raise UserError("expected --workdir, and --vit and --t5 or --export")
  if files:
    if FLAGS.config is None:
      raise UserError("--config is missing")
    convert(cli.config(), workdir, files, FLAGS.words)
    return
  trained = inference.load_model(workdir)
  if FLAGS.modality not in trained.model.towers:
    raise UserError(f"{workdir}: has towers of "
                    f"{', '.join(trained.model.towers)}, expected "
                    f"--modality={FLAGS.modality}")
  for note in standard.save(
      FLAGS.export, trained.model.towers[FLAGS.modality], FLAGS.layout):
    print(f"{FLAGS.export}: {note}")
  print(f"{FLAGS.export}: {FLAGS.modality} tower of step {trained.step}")


if __name__ == "__main__":
  cli.run(main)
