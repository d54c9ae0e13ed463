"""A trained model, ready to use, from its workdir."""
import argparse
import json
import os

import tensorflow as tf
from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from vatt import checkpoints, pretrain
from vatt.data import text
from vatt.errors import UserError

# Fields that workdirs of older code lack, as their runs were.
ADDED = {
    "eval": dict(crops=1, average="embedding", captions=1),
    "finetune": dict(freeze="", labels_per_class=0, rare_classes=False),
    "model": dict(remat=False),
    "optimizer": dict(clip_part=""),
}


def read_json(path):
  """The content of a JSON file.

  Raises:
    UserError: it is missing or not JSON.
  """
  if not tf.io.gfile.exists(path):
    raise UserError(f"{path}: not found, expected the workdir of a run")
  try:
    with tf.io.gfile.GFile(path) as file:
      return json.load(file)
  except ValueError as error:
    raise UserError(f"{path}: not valid JSON ({error})") from None


def read_config(workdir):
  """The config that a workdir was trained with."""
  def tuples(value):  # as configs have them, where JSON has lists
    if isinstance(value, dict):
      return {name: tuples(item) for name, item in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value

  config = tuples(read_json(os.path.join(workdir, "config.json")))
  for part, fields in ADDED.items():
    if part in config:
      config[part] = fields | config[part]
  return ConfigDict(config).lock()


def define_config_flag(argv):
  """Defines --config as the config of --workdir, for --config.FIELD=VALUE.

  With --config=FILE.py:ARGUMENT, the fields of that config replace the
  workdir's.

  Returns:
    The command line without it, to be parsed.
  """
  parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  parser.add_argument("--workdir", "-workdir")
  parser.add_argument("--config", "-config")
  given, rest = parser.parse_known_args(argv[1:])
  workdir = os.path.expanduser(given.workdir or "")
  if not workdir and not {"--help", "--helpfull"} & set(argv):
    raise UserError("--workdir is missing, expected the workdir of a run")
  config = read_config(workdir) if workdir else ConfigDict()
  if given.config:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", given.config, flag_values=values, sys_argv=argv[:1])
    values(argv[:1])
    config.update(values.config)
  argv = [argv[0], f"--workdir={workdir}", *rest]
  config_flags.DEFINE_config_dict("config", config, sys_argv=argv)
  return argv


class Embedder:
  """The model of a workdir: its config, words and weights.

  Args:
    workdir: of a training run.
    config: the workdir's, or that with other fields of data and eval. It may
      read nothing of a modality (`data.frames` or `data.audio_samples` of 0).
    strategy: of `distribute.make_strategy`; None for one device.

  Raises:
    UserError: no checkpoint, or one of another model; inputs of another size.
  """

  def __init__(self, workdir, config=None, strategy=None):
    self.config = config or read_config(workdir)
    self.strategy = strategy or tf.distribute.get_strategy()
    # The words are the model's own, wherever the data lie now.
    self.config.data.vocabulary = ""
    self.words = pretrain.resolve(self.config, [], workdir)
    # The model is built as it was trained, whatever the data lack now.
    built = self.config.copy_and_resolve_references()
    trained = read_config(workdir).data
    for field in ("frames", "size", "audio_samples", "words"):
      if built.data[field] not in (0, trained[field]):
        raise UserError(
            f"data.{field} is {built.data[field]}, expected "
            f"{trained[field]}, which the model was trained with")
      built.data[field] = trained[field]
    with self.strategy.scope():
      self.model = pretrain.build_model(built, self.words)
    self.step = checkpoints.restore_model(
        os.path.join(workdir, "checkpoints"), self.model)

  def embed_text(self, sentences):
    """Embeds sentences in S_vt: float32 [n, 256], not normalized.

    Words that the vocabulary does not have are named in the log: to the model
    they are all the same.
    """
    for sentence in sentences:
      unknown = text.unknown_words(self.words, sentence)
      if unknown:
        logging.warning("%r: not in the vocabulary: %s", sentence,
                        ", ".join(unknown))
    return pretrain.embed_sentences(
        self.config, self.model, self.strategy, self.words, sentences)
