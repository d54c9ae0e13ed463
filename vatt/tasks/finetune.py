"""Fine-tuning: classes of videos, sounds or images (section 4.2)."""
import io
import math
import os

import numpy as np
import tensorflow as tf

from vatt import distribute, files, losses, preprocess, replicas, seeds
from vatt.config import Fact
from vatt.data import input_pipeline, sources
from vatt.errors import UserError, one_line
from vatt.evaluators import classification
from vatt.models.tokenizers import resize_positions
from vatt.models.vatt import Classifier, Tower
from vatt.predict import Views, predict
from vatt.similarity import TIE
from vatt.tasks import Task, features_of


class Finetune(Task):
  """Softmax of one class a clip, or sigmoids of many; see `Task`.

  The modality is that of `finetune.modality`; an image is a video that stands
  still.
  """

  METRICS = ("accuracy",)
  WORDS_FILE = "labels.txt"

  def open_sources(self, split):
    """As of Task; to train, with as many clips as `finetune.labels_per_class`
    says."""
    found = super().open_sources(split)
    num_clips = self.config.finetune.labels_per_class
    if not num_clips or split != self.config.data.train_split:
      return found
    seed = seeds.fold(seeds.root(self.config.seed), "labels")
    return [sources.few_labels(source, num_clips, seed) for source in found]

  def read_words(self, data_sources, workdir):
    """The classes of the data; where these do not say any, as many numbers as
    `data.classes` says.

    Raises:
      UserError: no classes, or not the same ones in all datasets.
    """
    first = data_sources[0]
    names = list(first.label_names)
    for source in data_sources:
      if list(source.label_names) != names:
        raise UserError(
            f"{source.directory}: {len(source.label_names)} classes, expected "
            f"the {len(names)} of {first.name}")
    names = names or list(map(str, range(self.config.data.classes)))
    if not names:
      raise UserError(f"{first.directory}: has no classes, expected " + (
          "their names, a line each, in a file that the name of the data set "
          "says, ?labels=FILE, or data.classes, how many there are"
          if first.name.startswith("dmvr:") else "labelled clips"))
    return names, {"data.classes": Fact(
        len(names), f"{first.directory}: {len(names)} classes")}

  def input_shapes(self):
    modality = self.config.finetune.modality
    return {modality: preprocess.input_shapes(self.config)[modality]}

  def _build_model(self):
    config = self.config
    (modality, shape), = self.input_shapes().items()
    model = Classifier(config.model, modality, shape, config.data.classes)
    if config.finetune.rare_classes:
      # Every class starts at a chance of 1 / C, as few of them are there.
      bias = model.classifier.bias
      bias.assign(tf.fill(
          bias.shape, -math.log(max(config.data.classes - 1, 1))))
    freeze(model, config.finetune.freeze)
    return model

  def start_from(self, donor, model, name):
    """Fills the tower of a Classifier; its last layer stays as it was drawn.

    Tables of positions are resized where the inputs are of another size, as
    `resize_positions` does by `finetune.positions` (section 4.2: bicubic).
    """
    options = self.config.finetune
    if options.modality not in donor.towers:
      raise UserError(f"{name}: has towers of {', '.join(donor.towers)}, "
                      f"expected {options.modality}")
    donor.trainable = model.trainable = True  # Keras lists what is frozen last
    copy_tower(donor.towers[options.modality], model.tower, options.positions,
               name)
    freeze(model, options.freeze)

  def loss_and_metrics(self, model, batch, seed):
    """As of Task. A row without the signal, as of a corrupt record, has no
    term; nor has one without a label, where a sample has one. `accuracy` is
    top-1 as `evaluate` counts it, of what the model sees, mixed samples among
    them."""
    config, options = self.config, self.config.finetune
    modality = options.modality
    inputs = preprocess.model_inputs(
        preprocess.signal_of(batch, modality), config, training=True,
        seed=seed)[modality]
    labels = tf.cast(batch["labels"], model.classifier.variable_dtype)
    mask = batch[f"{modality}_mask"]
    if options.mixup:
      inputs, labels = mixup(
          inputs, labels, options.mixup, seeds.fold(seed, "mixup"))
      mask &= next_rows(mask)
    logits, _ = model(inputs, training=True, seed=seeds.fold(seed, "model"))
    if options.multi_label:
      loss = losses.balanced_sigmoid_cross_entropy(logits, labels, mask)
    else:
      labelled = tf.reduce_sum(labels, axis=1) > 0
      loss = losses.cross_entropy(
          logits, smooth(labels, options.label_smoothing), mask & labelled)
    return loss, {"accuracy": accuracy(logits, batch["labels"], mask)}

  def evaluate(self, model, strategy, source, progress=None, workdir=None):
    """Measures of a split, logits averaged over views (section 4.2).

    In a workdir it writes `predictions.npz`: arrays in the order of the
    records, `id`, `logits` [N, C], `labels` bool [N, C] and `has_video` or
    `has_audio`, false for what could not be read; and the names, `classes` [C].

    Returns:
      (name, value)s: top-1 and top-5 of the clips with a label or, of a
      multi-label task, mAP, AUC and d-prime.

    Raises:
      UserError: no clip has a label, no class has clips with and without it, or
        a label is no class.
    """
    modality = self.config.finetune.modality

    def classify(batch):
      inputs = preprocess.model_inputs(
          {modality: batch[modality]}, self.config)
      logits, _ = model(inputs[modality])
      return Views(means=dict(logits=logits), first=dict(
          labels=batch["labels"], mask=batch[f"{modality}_mask"]))

    table = predict(self.config, classify, strategy, source, progress)
    mask, labels, logits = table["mask"], table["labels"], table["logits"]
    if workdir and distribute.is_chief(strategy):
      content = io.BytesIO()  # a GFile cannot seek
      np.savez(content, id=input_pipeline.record_ids(source), logits=logits,
               labels=labels, classes=self.words, **{f"has_{modality}": mask})
      path = os.path.join(workdir, "predictions.npz")
      try:
        files.write_whole(path, content.getvalue())
      except files.REFUSED as error:
        raise UserError(f"{path}: cannot be written ({one_line(error)}), "
                        "expected a workdir with room") from None
    try:
      if self.config.finetune.multi_label:
        return list(classification.multi_label(logits[mask], labels[mask]))
      mask = mask & labels.any(axis=1)
      return list(classification.top_k(logits[mask], labels[mask]))
    except UserError as error:
      raise UserError(f"{source.directory}: split '{source.split}', {modality}:"
                      f" {error}") from None

  def infer(self, model, batch):
    modality = self.config.finetune.modality
    inputs = preprocess.model_inputs(
        {modality: batch[modality]}, self.config)
    logits, out = model(inputs[modality])
    return {"logits": logits} | features_of({modality: out})


def freeze(model: Classifier, what: str) -> None:
  """Keeps a part of a Classifier as it is.

  Args:
    model: Classifier.
    what: nothing (""), its "tokenizer", that and the first N blocks of the
      encoder ("blocks_N"), or all but the last layer ("tower").
  """
  if what == "tower":
    model.tower.trainable = False
  elif what:
    frozen = int(what.partition("_")[2] or 0)
    blocks = model.tower.encoder.blocks[:frozen]
    for layer in (model.tower.tokenizer, *blocks):
      layer.trainable = False


def copy_tower(source: Tower, target: Tower, positions: str, name: str
               ) -> None:
  """Fills a tower with another's weights, tables of positions resized.

  Args:
    source, target: towers.
    positions: how to resize them, bicubic or spline.
    name: of the source, for errors.

  Raises:
    UserError: they are of another modality or other sizes.
  """
  tables = {
      table.ref() for table in target.tokenizer.position.tables.values()}
  ours, theirs = target.variables, source.variables
  if source.modality != target.modality or len(ours) != len(theirs):
    raise UserError(
        f"{name}: its {source.modality} tower has {len(theirs)} variables, "
        f"expected the {len(ours)} of model.encoders for {target.modality}")
  for variable, value in zip(ours, theirs):
    value = value.numpy()
    if variable.ref() in tables:
      value = resize_positions(value, variable.shape[0], positions)
    if variable.shape != value.shape:
      raise UserError(f"{name}: {variable.name} is {value.shape}, expected "
                      f"{tuple(variable.shape)} by this config")
    variable.assign(value)


def accuracy(logits: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor
             ) -> tf.Tensor:
  """Top-1 as `classification.top_k` counts it, this replica's part.

  A row is right if one of its classes is above all others; ties count against,
  and what is no finite number is never right.

  Args:
    logits: [b, C].
    labels: bool [b, C].
    mask: bool [b], the rows that have the signal.

  Returns:
    [], the share of right ones in the rows of the global batch that have the
    signal and a label: SUM over replicas is the accuracy.
  """
  low = tf.constant(-math.inf, logits.dtype)
  own = tf.reduce_max(tf.where(labels, logits, low), axis=1, keepdims=True)
  least = own - TIE * tf.maximum(tf.abs(own), 1.0)  # as `similarity.bar`
  # A comparison with what is no number does not hold.
  before = ~tf.where(labels, logits <= own, logits < least)
  right = ~tf.reduce_any(before, axis=1)
  counted = mask & tf.reduce_any(labels, axis=1)
  right, counted = (
      tf.reduce_sum(tf.cast(x, logits.dtype))
      for x in (right & counted, counted))
  return right / tf.maximum(replicas.all_sum(counted), 1.0)


def mixup(inputs: tf.Tensor, labels: tf.Tensor, a: int, seed: tf.Tensor
          ) -> tuple[tf.Tensor, tf.Tensor]:
  """Mixes each sample with the one after it, and so their labels.

  x = αx₁ + (1 − α)x₂ and y alike, with α of Beta(a, a) for each pair (appendix
  A.2.3): the distribution of the middle one of 2a − 1 uniform numbers. Pairs
  are made in the global batch, whose rows are in random order.

  Args:
    inputs: [b, …].
    labels: [b, C].
    a: an int; 5 in the paper.
    seed: int32 [2].
  """
  rows = inputs.shape[0]
  draw = tf.sort(seeds.uniform_rows(rows, [2 * a - 1], seed), axis=1)
  alpha = draw[:, a - 1]

  def mix(x):
    # [b] -> [b, 1, …]
    share = tf.cast(tf.reshape(alpha, [rows] + [1] * (len(x.shape) - 1)),
                    x.dtype)
    return share * x + (1 - share) * next_rows(x)

  return mix(inputs), mix(labels)


def next_rows(x: tf.Tensor) -> tf.Tensor:
  """The row after each one in the global batch; the first follows the last.

  Args:
    x: [b, …], rows of this replica. Of the others, only first rows are sent.
  """
  if replicas.count() == 1:
    return tf.roll(x, -1, axis=0)
  firsts = replicas.gather(x[:1])
  after = (replicas.rank() + 1) % replicas.count()
  return tf.concat([x[1:], firsts[after][None]], axis=0)


def smooth(labels: tf.Tensor, smoothing: float) -> tf.Tensor:
  """Distributions of classes: a share `smoothing` goes to all of them alike.

  Args:
    labels: [b, C], not negative; those of a row share the rest.
    smoothing: in 0 … 1.
  """
  labels = tf.math.divide_no_nan(
      labels, tf.reduce_sum(labels, axis=1, keepdims=True))
  return (1 - smoothing) * labels + smoothing / labels.shape[1]
