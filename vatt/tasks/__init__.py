"""What is trained and measured: the contract of a task, and tasks by name.

`config.task` names a module of this folder; its class bears the same name.
"""
import importlib
import os
import pkgutil
from collections.abc import Callable, Sequence

import tensorflow as tf
from ml_collections import ConfigDict

from vatt import config as config_lib
from vatt import workdir as workdir_lib
from vatt.data import input_pipeline, sources
from vatt.data.sources import Source
from vatt.errors import UserError


class Task:
  """What training, evaluation and tools ask of a task, and all that they ask.

  A task is made of a config as it was given; `open_sources` opens its data, and
  `resolve` returns the task whose config and words are complete. Only that one
  has a model. Tasks have no state: a step is a pure function of the weights,
  the batch and a seed.

  Class attributes, of each task:
    METRICS: names of what `loss_and_metrics` returns beside the loss.
    WORDS_FILE: file of a workdir that keeps `words`.

  Attributes:
    config: ConfigDict.
    words: list of str, the vocabulary or the names of the classes; empty until
      `resolve`, and of a model whose words are not known.
  """
  METRICS: tuple[str, ...] = ()
  WORDS_FILE = ""

  def __init__(self, config: ConfigDict, words: Sequence[str] = ()):
    self.config, self.words = config, list(words)

  # ---- Data -----------------------------------------------------------------
  def open_sources(self, split: str) -> list[Source]:
    """Opens a split of each of the config's datasets."""
    return [sources.open_source(name, self.config.data.data_dir, split)
            for name in self.config.data.datasets]

  def read_words(self, data_sources: list[Source], workdir: str | None
                 ) -> tuple[list[str], dict[str, config_lib.Fact]]:
    """What only the data tell.

    Args:
      data_sources: of `open_sources`.
      workdir: of the run, whose own words come first; None for none.

    Returns:
      The words, and what they say of the config's fields, as of
      `config.resolve`.

    Raises:
      UserError: there are none, or not the same in all of the data.
    """
    raise NotImplementedError

  def own_words(self, workdir: str) -> list[str]:
    """The words that a workdir keeps; none if it keeps none."""
    return workdir_lib.read_words(workdir, self.WORDS_FILE)

  def resolve(self, data_sources: list[Source], workdir: str | None = None
              ) -> "Task":
    """The task whose config is complete and whose words are known.

    Raises:
      UserError: as of `read_words`; the words are not those of the workdir.
    """
    words, facts = self.read_words(data_sources, workdir)
    if workdir:
      workdir_lib.check_words(
          self.own_words(workdir), words,
          os.path.join(workdir, self.WORDS_FILE),
          next(iter(facts.values())).found)
    return type(self)(config_lib.resolve(self.config, facts), words)

  def train_dataset(self, data_sources: list[Source], start_step: int
                    ) -> Callable[[int, int, int], tf.data.Dataset]:
    """A function (input_id, num_inputs, rows_per_batch) -> Dataset of batches,
    as of `input_pipeline.train_dataset`."""
    def make(input_id, num_inputs, rows_per_batch):
      return input_pipeline.train_dataset(
          self.config.data, data_sources, self.config.batch_size,
          self.config.seed, start_step, input_id, num_inputs, rows_per_batch)
    return make

  # ---- Model ----------------------------------------------------------------
  def input_shapes(self) -> dict[str, tuple[int, ...]]:
    """Shapes of what the model's tokenizers see, by modality."""
    raise NotImplementedError

  def build_model(self) -> tf.keras.Model:
    """The model of a resolved config, its variables drawn by `config.seed`. It
    has `towers`, {modality: Tower}. Sets Keras' global policy."""
    tf.keras.mixed_precision.set_global_policy(self.config.dtype)
    tf.keras.utils.set_random_seed(self.config.seed)
    return self._build_model()

  def _build_model(self) -> tf.keras.Model:
    raise NotImplementedError

  def start_from(self, donor: tf.keras.Model, model: tf.keras.Model,
                 name: str) -> None:
    """Fills a model with the weights of a trained one.

    Args:
      donor: the trained model, of any task; may be changed.
      model: of `build_model`.
      name: of the donor, for errors.

    Raises:
      UserError: the donor has other weights.
    """
    raise NotImplementedError

  # ---- Step -----------------------------------------------------------------
  def loss_and_metrics(self, model: tf.keras.Model,
                       batch: dict[str, tf.Tensor], seed: tf.Tensor
                       ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """The loss of a batch, in a replica.

    Args:
      model: of `build_model`.
      batch: this replica's rows of a batch dict.
      seed: int32 [2], of the step.

    Returns:
      This replica's part of the loss, float [], and of METRICS by name. Each
      sums over the replicas.
    """
    raise NotImplementedError

  # ---- Evaluation -----------------------------------------------------------
  def evaluate(self, model: tf.keras.Model, strategy: tf.distribute.Strategy,
               source: Source,
               progress: Callable[[int], object] | None = None,
               workdir: str | None = None) -> list[tuple[str, float]]:
    """Measures a model on a split.

    Args:
      model: of `build_model`, in the strategy's scope.
      strategy: of `distribute.make_strategy`.
      source: of `open_sources`.
      progress: called with the number of clips done.
      workdir: where to keep what the measures are of; None for nowhere.

    Returns:
      (name, value)s.
    """
    raise NotImplementedError

  # ---- Use ------------------------------------------------------------------
  def infer(self, model: tf.keras.Model, batch: dict[str, tf.Tensor]
            ) -> dict[str, tf.Tensor]:
    """What a trained model makes of raw signals.

    Args:
      model: of `build_model`.
      batch: any of `video` uint8 [B, T, H, W, 3], `audio` int16 [B, S, 1].

    Returns:
      float32 by name: `video_features` and `audio_features` [B, D], those of
      the AGG token; embeddings as `video_va` [B, E], or `logits` [B, C]. None
      is normalized.
    """
    raise NotImplementedError


def make_task(config: ConfigDict, words: Sequence[str] = ()) -> Task:
  """The task that a config names.

  Args:
    config: of a run.
    words: as of Task, with a config that is resolved.

  Raises:
    UserError: there is no such task.
  """
  known = sorted(module.name for module in pkgutil.iter_modules(__path__))
  if config.task not in known:
    raise UserError(f"task is {config.task!r}, expected one of {known}")
  module = importlib.import_module(f"{__name__}.{config.task}")
  return getattr(module, config.task.title().replace("_", ""))(config, words)


def features_of(out: dict[str, dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
  """The features of towers by name, such as `video_features`, float32 [B, D].

  Args:
    out: intermediates of `Tower`s by modality.
  """
  return {f"{modality}_features": tf.cast(tower["pooled"], tf.float32)
          for modality, tower in out.items()}
