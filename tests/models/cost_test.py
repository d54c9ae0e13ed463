"""Costs against the models themselves, and against figures worked by hand."""
import functools
import math

import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from configs import common
from vatt import seeds
from vatt.models import cost
from vatt.models.vatt import FLAVOURS, VARIANTS, VATT, Classifier, model_fields

# Sizes of which no two are equal, so that none stands in for another.
CAPTIONS, WORDS = 3, 5
SHAPES = {
    "waveform": dict(video=(4, 6, 8, 3), audio=(22, 1), text=(WORDS,)),
    "spectrogram": dict(video=(4, 6, 8, 3), audio=(6, 7, 1), text=(WORDS,))}
PATCH = {"waveform": (4,), "spectrogram": (3, 4)}
ENCODERS = dict(
    video=dict(depth=2, width=24, mlp_dim=52, num_heads=3),
    audio=dict(depth=3, width=20, mlp_dim=44, num_heads=2, head_dim=7),
    text=dict(depth=1, width=18, mlp_dim=34, num_heads=2),
    shared=dict(depth=2, width=28, mlp_dim=60, num_heads=4, head_dim=5))


def tiny(variant="mbs", flavour="paper", audio="waveform", **fields):
  """The `model` of a config: that of a variant and a flavour, made small."""
  model = model_fields(variant, flavour)
  for part, encoder in model["encoders"].items():
    encoder.update(ENCODERS[part])
  if model["word_dim"]:
    model["word_dim"] = 11
  if model["post_projection"]:
    model["post_projection"] = 31
  return ConfigDict(dict(dict(
      model, video_patch=(2, 3, 4), audio_patch=PATCH[audio], drop_rate=0.4,
      dropout=0.1, remat=False, classifier_dropout=0.5, dim_va=10, dim_vt=9,
      vocab_size=13), **fields))


def build(model, shapes, num_classes=0):
  if num_classes:
    (modality, shape), = shapes.items()
    return Classifier(model, modality, shape, num_classes)
  return VATT(model, shapes["video"], shapes["audio"], *shapes["text"])


# A setting, a flavour and a front end each; the other pairs are no news.
CASES = [("mbs", "paper", "waveform"), ("mbs", "released", "spectrogram"),
         ("ma", "paper", "spectrogram"), ("ma", "released", "waveform")]


@functools.cache
def built(setting, flavour, audio):
  """With a graph of its own: Keras forbids models of the usual kind once one
  is built in a graph, as those of full size are here."""
  config, shapes = tiny(setting, flavour, audio), SHAPES[audio]
  with tf.Graph().as_default() as graph:
    return config, shapes, build(config, shapes), graph


def count(layer, trainable_only=False):
  variables = layer.trainable_variables if trainable_only else layer.variables
  return sum(math.prod(v.shape) for v in variables)


def parts_of(model, trainable_only=False):
  """Parameters of a built model by the names of `cost`."""
  heads = getattr(model, "heads", None)
  towers = model.towers if heads else {model.tower.modality: model.tower}
  parts = {}
  for modality, tower in towers.items():
    name = tower.encoder.name.replace("_", " ")
    parts[name] = count(tower.encoder, trainable_only)
    parts[f"{modality} tokenizer"] = count(tower.tokenizer, trainable_only)
    if tower.post_projection:
      parts[f"{modality} post-projection"] = count(tower.post_projection)
  if heads:
    parts["heads"] = sum(
        count(head, trainable_only) for head in heads.values())
  else:
    parts["classifier"] = count(model.classifier)
  assert sum(parts.values()) == count(model, trainable_only)
  return parts


# ---- Parameters ------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_parameters_are_those_of_the_model(case):
  config, shapes, model, _ = built(*case)
  for trainable_only in (False, True):
    assert cost.parameters(
        config, shapes, trainable_only=trainable_only) == parts_of(
            model, trainable_only)


# Of one more block; SPEC's table and section 3.
BLOCKS = {"small": 12 * 512 ** 2 + 13 * 512, "base": 12 * 768 ** 2 + 13 * 768,
          "medium": 12 * 1024 ** 2 + 13 * 1024}
BLOCKS["large"] = BLOCKS["medium"]
RELEASED_TEXT_BLOCK = 12 * 512 ** 2 + 3 * 512  # no biases, three vectors


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_of_every_variant_and_flavour(variant, flavour):
  """At full width, with a block an encoder; the others are like it. Those of
  the released models at full depth: golden_cost_test.py."""
  model = common.pretraining(variant, flavour).model
  shapes = dict(video=(32, 224, 224, 3), audio=(153_600, 1), text=(16,))
  full = cost.parameters(model, shapes)
  blocks = {}
  for part, size in VARIANTS[variant].items():
    block = BLOCKS[size]
    if part == "text" and flavour == "released":
      block = RELEASED_TEXT_BLOCK
    blocks[f"{part} encoder"] = (model.encoders[part].depth - 1) * block
    model.encoders[part].depth = 1
  with tf.Graph().as_default():
    built = parts_of(build(model, shapes))
  assert cost.parameters(model, shapes) == built
  assert full == {
      part: n + blocks.get(part, 0) for part, n in built.items()}


@pytest.mark.slow
@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_of_every_variant_at_full_size(variant, flavour):
  model = common.pretraining(variant, flavour).model
  shapes = dict(video=(32, 224, 224, 3), audio=(153_600, 1), text=(16,))
  with tf.Graph().as_default():
    assert cost.parameters(model, shapes) == parts_of(build(model, shapes))


# ---- Floating-point operations ---------------------------------------------


def profiled(model, training, specs):
  """Operations of a model's matrix products, as TensorFlow counts them."""
  forward = tf.function(
      lambda x: model(x, training=training, seed=seeds.root(0))[0],
      autograph=False)
  graph = forward.get_concrete_function(specs).graph
  options = tf.compat.v1.profiler.ProfileOptionBuilder(
      tf.compat.v1.profiler.ProfileOptionBuilder.float_operation())
  todo = [tf.compat.v1.profiler.profile(
      graph, cmd="op", options=options.with_empty_output().build())]
  found = {}
  while todo:  # children are nested
    node = todo.pop()
    found[node.name] = node.float_ops
    todo.extend(node.children)
  products = {op.type for op in graph.get_operations() if "MatMul" in op.type}
  assert products == {"MatMul", "BatchMatMulV2"}, products
  assert not any("Einsum" in op.type for op in graph.get_operations())
  return found["MatMul"] + found["BatchMatMulV2"]


def specs_of(shapes, rows):
  return {modality: tf.TensorSpec([rows, CAPTIONS, *shape], tf.int32)
          if modality == "text" else tf.TensorSpec([rows, *shape])
          for modality, shape in shapes.items()}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_flops_are_those_of_the_graph(case, training):
  (config, shapes, model, graph), rows = built(*case), 2
  with graph.as_default():
    found = profiled(model, training, specs_of(shapes, rows))
  parts = cost.flops(config, shapes, CAPTIONS, training=training)
  assert rows * cost.total(parts) == found


@pytest.mark.parametrize("setting, flavour, modality", [
    ("mbs", "paper", "video"), ("ma", "released", "audio")])
def test_classifiers(setting, flavour, modality):
  config = tiny(setting, flavour)
  if setting == "mbs":
    config.encoders = {modality: config.encoders[modality]}
  shapes = {modality: SHAPES["waveform"][modality]}
  model = build(config, shapes, 6)
  assert cost.parameters(config, shapes, 6) == parts_of(model)
  for training in (False, True):
    found = profiled(model, training, tf.TensorSpec([1, *shapes[modality]]))
    parts = cost.flops(config, shapes, num_classes=6, training=training)
    assert cost.total(parts) == found


def test_flops_worked_by_hand():
  """A video of 2·2·2 patches of 2·3·4·3 = 72 numbers, of which 5 stay, and AGG;
  width 24, MLP 52, 3 heads of 8, two blocks, 6 classes."""
  config = tiny(drop_rate=0.4)
  config.encoders = {"video": config.encoders.video}
  shapes = {"video": SHAPES["waveform"]["video"]}

  def encoder(n, products, scores):
    linear = 24 * 3 * 24 + 24 * 24 + 2 * 24 * 52
    return 2 * (2 * (n * linear + products * n * n * 24) + scores * n * n * 3)

  assert cost.flops(config, shapes, num_classes=6, training=True) == {
      "video tokenizer": 2 * 5 * 72 * 24, "video encoder": encoder(6, 2, 0),
      "classifier": 2 * 24 * 6}
  assert cost.flops(config, shapes, num_classes=6) == {
      "video tokenizer": 2 * 8 * 72 * 24, "video encoder": encoder(9, 2, 0),
      "classifier": 2 * 24 * 6}
  # The paper's way: all are projected, one product, 7 on each score.
  assert cost.flops(
      config, shapes, num_classes=6, training=True, paper=True) == {
          "video tokenizer": 2 * 8 * 72 * 24,
          "video encoder": encoder(6, 1, 7), "classifier": 2 * 24 * 6}


# ---- Activations -----------------------------------------------------------


# Another shape of the same bytes.
VIEWS = {"IdentityN", "Reshape", "Identity", "Squeeze", "ExpandDims"}


def walk(ops, following):
  """The ops, and all that follow."""
  found, todo = set(), list(ops)
  while todo:
    op = todo.pop()
    if op not in found:
      found.add(op)
      todo += following(op)
  return found


def kept_bytes(model, batch):
  """What the graph of a step has to hold of the forward pass for the backward:
  bytes of the tensors that a gradient needs; weights and the batch apart."""
  losses = []

  @tf.function(autograph=False)
  def step(batch):
    with tf.GradientTape() as tape:
      embeddings, _ = model(batch, training=True, seed=seeds.root(0))
      losses.append(sum(
          tf.reduce_sum(tf.square(x)) for x in embeddings.values()))
    return tape.gradient(losses[-1], model.trainable_variables)

  graph = step.get_concrete_function(batch).graph
  sources = lambda op: [x.op for x in op.inputs]
  consumers = lambda op: [c for x in op.outputs for c in x.consumers()]
  forward = walk([losses[-1].op], sources)
  backward = walk([x.op for x in graph.outputs], sources) - forward
  # A clip's own, by its signals or by what is drawn for it.
  own = walk([op for op in graph.get_operations() if "Random" in op.type or (
      op.type == "Placeholder" and op.outputs[0].dtype != tf.resource)],
             consumers)
  kept = {}
  for op in backward:
    for tensor in op.inputs:
      while tensor.op.type in VIEWS:
        # IdentityN has an input for each output, the others one that counts.
        place = tensor.value_index if tensor.op.type == "IdentityN" else 0
        tensor = tensor.op.inputs[place]
      if tensor.op in forward & own and tensor.op.type != "Placeholder":
        kept[tensor.ref()] = tensor.shape.num_elements() * tensor.dtype.size
  return sum(kept.values())


ROWS = 2
LARGER = dict(video=(8, 12, 16, 3), audio=(202, 1), text=(12,))


@functools.cache
def kept_and_said(setting, flavour, dtype, dropout, remat=False):
  """Bytes that a step's graph keeps, and those that `cost` tells."""
  tf.keras.mixed_precision.set_global_policy(dtype)
  config = tiny(setting, flavour, dropout=dropout, remat=remat)
  kept = kept_bytes(build(config, LARGER), specs_of(LARGER, ROWS))
  return kept, ROWS * cost.total(
      cost.activation_bytes(config, LARGER, CAPTIONS, dtype))


@pytest.mark.parametrize("setting, flavour, dtype, dropout", [
    ("mbs", "paper", "float32", 0.1), ("mbs", "released", "float64", 0.0),
    ("ma", "released", "mixed_bfloat16", 0.1),
    ("ma", "paper", "mixed_bfloat16", 0.0)])
def test_activations_are_what_the_gradients_read(
    setting, flavour, dtype, dropout):
  """But for what is small beside the tokens, such as a number a norm's row."""
  kept, said = kept_and_said(setting, flavour, dtype, dropout)
  assert said == pytest.approx(kept, rel=0.02)


def test_remat_keeps_less_by_as_much_as_is_said():
  """In the difference, what is small beside the tokens is no part."""
  kept, said = zip(*(kept_and_said("mbs", "paper", "float32", 0.1, remat)
                     for remat in (False, True)))
  assert said[0] - said[1] == pytest.approx(kept[0] - kept[1], rel=0.002)
  assert kept[1] < 0.3 * kept[0]


def test_activations_worked_by_hand():
  """As in the FLOPs: 5 patches of 72 stay; 6 tokens with AGG."""
  config = tiny()
  config.encoders = {"video": config.encoders.video}
  shapes = {"video": SHAPES["waveform"]["video"]}
  # A token's numbers in a block: two norms' inputs; queries, keys, values and
  # mixture; GELU's input. Words of three dropouts and of each head's.
  block = 4 * (2 * 24 + 4 * 24 + 52) + 8 * (3 + 3)
  # The last norm's input; words of the tokens' dropout and of the output's.
  assert cost.activation_bytes(config, shapes) == {
      "video tokenizer": 4 * 5 * 72,
      "video encoder": 6 * (2 * block + 4 * 24 + 2 * 8)}


def test_state_and_the_clips_that_fit_beside_it():
  config, shapes = tiny("mbs", "released"), SHAPES["waveform"]
  every, trained = (cost.total(cost.parameters(
      config, shapes, trainable_only=only)) for only in (False, True))
  assert every > trained  # vectors of words are given
  # Weights; gradients and two moments of Adam, or one of SGD.
  assert cost.state_bytes(config, shapes, "adam") == 4 * every + 12 * trained
  assert cost.state_bytes(config, shapes, "sgd") == 4 * every + 8 * trained
  gib = 2 ** 30
  # 1.6 bytes of a peak for each that is kept: (16 - 4) / (1.6 · 0.5) is 15.
  assert cost.clips_that_fit(4 * gib, gib / 2) == 8
  assert cost.clips_that_fit(4 * gib, 0.45 * gib) == 16
  assert cost.clips_that_fit(8 * gib, 5 * gib) == 1
  assert cost.clips_that_fit(8 * gib, 5.1 * gib) == 0
  assert cost.clips_that_fit(17 * gib, 1) == 0
