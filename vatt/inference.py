"""A trained model, ready to use, from its workdir."""
import argparse
import json
import os

import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict, config_flags

from vatt import checkpoints, pretrain
from vatt.data import text
from vatt.errors import UserError


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
  return ConfigDict(config).lock()


def define_config_flag(argv):
  """Defines --config as the config of --workdir, for --config.FIELD=VALUE."""
  parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  parser.add_argument("--workdir", "-workdir")
  workdir = os.path.expanduser(
      parser.parse_known_args(argv[1:])[0].workdir or "")
  if not workdir and not {"--help", "--helpfull"} & set(argv):
    raise UserError("--workdir is missing, expected the workdir of a run")
  config_flags.DEFINE_config_dict(
      "config", read_config(workdir) if workdir else ConfigDict())


class Embedder:
  """The model of a workdir: its config, words and weights.

  Args:
    workdir: of a training run.
    config: the workdir's, or that with other fields of data and eval.
    strategy: of `distribute.make_strategy`; None for one device.

  Raises:
    UserError: no checkpoint, or one of another model.
  """

  def __init__(self, workdir, config=None, strategy=None):
    self.config = config or read_config(workdir)
    self.strategy = strategy or tf.distribute.get_strategy()
    # The words are the model's own, wherever the data lie now.
    self.config.data.vocabulary = ""
    self.words = pretrain.resolve(self.config, [], workdir)
    with self.strategy.scope():
      self.model = pretrain.build_model(self.config, self.words)
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
