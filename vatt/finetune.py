"""The fine-tuning task: classes of videos, sounds or images (section 4.2)."""
import io
import math
import os

import numpy as np
import tensorflow as tf

from vatt import distribute, files, inference, losses, pretrain, seeds
from vatt.data import input_pipeline, sources, windows
from vatt.errors import UserError
from vatt.evaluators import classification
from vatt.models.tokenizers import resize_positions
from vatt.models.vatt import Classifier

METRICS = ("accuracy",)  # of `loss_and_metrics`
WORDS = "labels.txt"  # in a workdir, what `resolve` returns
MODALITIES = ("video", "audio")  # an image is a video that stands still

train_dataset = pretrain.train_dataset


def open_sources(config, split):
  """Opens the datasets of a config: a list of Source; to train, with as many
  clips as `finetune.labels_per_class` says."""
  found = pretrain.open_sources(config, split)
  count = config.finetune.labels_per_class
  if not count or split != config.data.train_split:
    return found
  seed = seeds.fold(seeds.root(config.seed), "labels")
  return [sources.few_labels(source, count, seed) for source in found]


def resolve(config, data_sources, workdir=None):
  """Completes a config by what only the data tell; returns the classes.

  Sets `data.classes`, if it is 0, to the number of the datasets' classes.

  Raises:
    UserError: no classes, or not the same ones in all datasets; fields that do
      not fit each other.
  """
  options = config.finetune
  for field, known in (("modality", MODALITIES),
                       ("positions", ("bicubic", "spline"))):
    if options[field] not in known:
      raise UserError(f"finetune.{field} is {options[field]!r}, expected one "
                      f"of {', '.join(known)}")
  if not 0 <= options.label_smoothing < 1 or options.mixup < 0:
    raise UserError(f"finetune: label_smoothing is {options.label_smoothing}, "
                    f"mixup {options.mixup}; expected 0 to 1, and 0 or more")
  windows.check_windows(config.data)
  windows.check_views(config)
  input_pipeline.mixture(config.data, config.batch_size)
  names = list(data_sources[0].label_names)
  for source in data_sources:
    if list(source.label_names) != names:
      raise UserError(f"{source.directory}: {len(source.label_names)} classes, "
                      f"expected the {len(names)} of {data_sources[0].name}")
  if not names:
    raise UserError(f"{data_sources[0].directory}: has no classes, expected "
                    "labelled clips")
  path = os.path.join(workdir or "", WORDS)
  if workdir and tf.io.gfile.exists(path):  # as the model was trained
    with tf.io.gfile.GFile(path) as file:
      trained = file.read().splitlines()
    if len(trained) != len(names):
      raise UserError(f"{data_sources[0].directory}: {len(names)} classes, "
                      f"expected the {len(trained)} of {path}")
    for i, (name, other) in enumerate(zip(names, trained)):
      if name != other:
        raise UserError(f"{data_sources[0].directory}: class {i} is {name!r}, "
                        f"expected {other!r} as in {path}")
  if config.data.classes not in (0, len(names)):
    raise UserError(f"{data_sources[0].directory}: {len(names)} classes, "
                    f"expected data.classes ({config.data.classes})")
  config.data.classes = len(names)
  return names


def input_shapes(config):
  """The shape of what the tokenizer sees, by the modality."""
  modality = config.finetune.modality
  if modality == "audio":
    return {modality: pretrain.audio_shape(config)}
  data = config.data
  return {modality: (data.frames, data.size, data.size, 3)}


def build_model(config, _classes):
  """The Classifier of a resolved config, its variables initialized."""
  tf.keras.mixed_precision.set_global_policy(config.dtype)
  tf.keras.utils.set_random_seed(config.seed)
  (modality, shape), = input_shapes(config).items()
  model = Classifier(config.model, modality, shape, config.data.classes)
  if config.finetune.rare_classes:
    # Every class starts at a chance of 1 / C, as few of them are there.
    bias = model.classifier.bias
    bias.assign(tf.fill(bias.shape, -math.log(max(config.data.classes - 1, 1))))
  freeze(model, config.finetune.freeze)
  return model


def freeze(model, what):
  """Keeps a part of a Classifier as it is.

  Args:
    model: Classifier.
    what: nothing (""), its "tokenizer", that and the first N blocks of the
      encoder ("blocks_N"), or all but the last layer ("tower").

  Raises:
    UserError: another word, or more blocks than there are.
  """
  blocks = model.tower.encoder.blocks
  names = ["", "tokenizer", "tower",
           *(f"blocks_{i + 1}" for i in range(len(blocks)))]
  if what not in names:
    raise UserError(f"finetune.freeze is {what!r}, expected one of "
                    f"'', tokenizer, tower, blocks_1 to {names[-1]}")
  if what == "tower":
    model.tower.trainable = False
  elif what:
    frozen = int(what.partition("_")[2] or 0)
    for layer in (model.tower.tokenizer, *blocks[:frozen]):
      layer.trainable = False


def start_from(workdir, config, model):
  """Fills the tower of a Classifier with that of a trained model.

  Tables of positions are resized where the inputs are of another size, as
  `resize_positions` does by `finetune.positions` (section 4.2: bicubic).

  Args:
    workdir: of pre-training, or of fine-tuning.
    config: of the run.
    model: Classifier; its last layer stays as it was drawn.

  Returns:
    The step of the trained model.

  Raises:
    UserError: there is none, or its tower is another one.
  """
  donor_config = inference.read_config(workdir)
  modality = config.finetune.modality
  if donor_config.task == "finetune":
    donor = build_model(donor_config, [])
    tower = donor.tower
  else:
    donor_config.model.word_vectors = ""  # the checkpoint has them
    donor = pretrain.build_model(donor_config, [])
    tower = donor.towers[modality]
  tf.keras.mixed_precision.set_global_policy(config.dtype)
  step = pretrain.start_from(workdir, donor_config, donor)
  donor.trainable = model.trainable = True  # Keras lists what is frozen last
  copy_tower(tower, model.tower, config.finetune.positions, workdir)
  freeze(model, config.finetune.freeze)
  return step


def copy_tower(source, target, positions, name):
  """Fills a tower with another's weights, tables of positions resized.

  Args:
    source, target: Tower.
    positions: how to resize, as of `resize_positions`.
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


def loss_and_metrics(model, batch, config, seed):
  """The loss of a batch; a pure function of (weights, batch, seed).

  A row without the signal, as of a corrupt record, has no term; nor has one
  without a label, where a sample has one. `accuracy` is that of what the model
  sees, mixed samples among them.

  Returns:
    This replica's part of the loss, and of the metrics by name. Each sums over
    replicas.
  """
  options = config.finetune
  modality = options.modality
  inputs = pretrain.model_inputs(
      {modality: batch[modality]}, config, training=True, seed=seed)[modality]
  labels = tf.cast(batch["labels"], tf.float32)
  there = batch[f"{modality}_mask"]
  if options.mixup:
    inputs, labels = mixup(
        inputs, labels, options.mixup, seeds.fold(seed, "mixup"))
    there &= next_rows(there)
  logits, _ = model(inputs, training=True, seed=seeds.fold(seed, "model"))
  if options.multi_label:
    loss = losses.balanced_sigmoid_cross_entropy(logits, labels, there)
  else:
    carries = tf.reduce_sum(labels, axis=1) > 0
    loss = losses.cross_entropy(
        logits, smooth(labels, options.label_smoothing), there & carries)
  best = tf.one_hot(tf.argmax(logits, axis=1), config.data.classes)
  right = tf.reduce_sum(best * tf.cast(batch["labels"], tf.float32), axis=1)
  return loss, {"accuracy": tf.reduce_sum(right) / config.batch_size}


def mixup(inputs, labels, a, seed):
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


def next_rows(x):
  """The row after each one in the global batch; the first follows the last.

  Args:
    x: [b, …], rows of this replica. Of the others, only first rows are sent.
  """
  context = tf.distribute.get_replica_context()
  replicas = context.num_replicas_in_sync
  if replicas == 1:
    return tf.roll(x, -1, axis=0)
  if x.dtype == tf.bool:  # collectives know numbers only
    return next_rows(tf.cast(x, tf.int32)) > 0
  firsts = context.all_gather(x[:1], axis=0)
  after = (context.replica_id_in_sync_group + 1) % replicas
  return tf.concat([x[1:], firsts[after][None]], axis=0)


def smooth(labels, smoothing):
  """Distributions of classes: a share `smoothing` goes to all of them alike.

  Args:
    labels: [b, C], not negative; those of a row share the rest.
    smoothing: in 0 … 1.
  """
  labels = tf.math.divide_no_nan(
      labels, tf.reduce_sum(labels, axis=1, keepdims=True))
  return (1 - smoothing) * labels + smoothing / labels.shape[1]


def evaluate(config, model, strategy, source, classes, progress=None,
             workdir=None):
  """Measures of a split, logits averaged over views (section 4.2).

  Args:
    config, model, strategy: of the run.
    source: of `open_sources`.
    classes: their names.
    progress: called with the number of clips done.
    workdir: where `predictions.npz` is written, None for nowhere: arrays in the
      order of the records, `id`, `logits` [N, C], `labels` bool [N, C] and
      `has_video` or `has_audio`, false for what could not be read; and the
      names, `classes` [C].

  Returns:
    A list of (name, value): top-1 and top-5 of the clips with a label or, of a
    multi-label task, mAP, AUC and d-prime.

  Raises:
    UserError: no clip has a label, no class has clips with and without it, or a
      label is no class.
  """
  modality = config.finetune.modality

  def run(batch):
    inputs = pretrain.model_inputs({modality: batch[modality]}, config)
    logits, _ = model(inputs[modality])
    return dict(logits=logits, labels=batch["labels"], label=batch["label"],
                there=batch[f"{modality}_mask"])

  table = pretrain.run_split(config, run, strategy, source, progress)
  there, labels = table["there"], table["labels"]
  logits = table["logits"] / np.float32(
      config.eval.windows * config.eval.crops)
  if workdir and distribute.is_chief(strategy):
    content = io.BytesIO()  # a GFile cannot seek
    np.savez(content, id=input_pipeline.record_ids(source), logits=logits,
             labels=labels, classes=classes, **{f"has_{modality}": there})
    files.write_whole(
        os.path.join(workdir, "predictions.npz"), content.getvalue())
  try:
    if config.finetune.multi_label:
      return list(classification.multi_label(logits[there], labels[there]))
    there = there & labels.any(axis=1)
    return list(classification.top_k(
        logits[there], table["label"][there].astype(np.int64)))
  except UserError as error:
    raise UserError(f"{source.directory}: split '{source.split}', {modality}: "
                    f"{error}") from None
