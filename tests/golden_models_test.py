"""Our models against the release's, stage by stage, with the same weights."""
import json
import math
import re

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from tests.golden import FOLDER, NO_DROPOUT, fine_tuned, layouts, rounding
from vatt import seeds
from vatt.models import tokenizers
from vatt.models.convert import released
from vatt.models.encoder import relative_buckets
from vatt.models.vatt import VATT, Classifier
from vatt.tasks import finetune

# The release expands tables of positions in float32 by another formula.
RESIZED = 1e-3
HEADS = {"video_va": "head_video_toaud", "video_vt": "head_video_totxt",
         "audio_va": "head_audio_tovid", "text_vt": "head_text_tovid"}


@pytest.fixture(autouse=True)
def float32_afterwards():
  yield
  tf.keras.mixed_precision.set_global_policy("float32")


def compare(golden, expected, run, modality=None, atol=0.0, rounded="$nothing"):
  """Compares what a model computes with what a file has, to what rounding may
  change on the way there.

  Args:
    golden: the fixture.
    expected: arrays of the file.
    run: a function of a Keras policy -> {name in the file: value}.
    modality: of the values whose names do not tell it.
    atol: absolute difference that is allowed beside rounding.
    rounded: pattern of the names of values that divide by what may be next to
      nothing. For these the release's own rounding is allowed for: its distance
      from our model in float64, of at most 10 times the bound.

  Returns:
    The names of what was compared.
  """
  found, exact = run("float32"), None
  assert found
  for name, value in found.items():
    wanted = expected[name]
    # Such as [B, N, D] to [B, T, H, W, D]
    error = np.abs(np.asarray(value).reshape(wanted.shape) - wanted)
    of = next((m for m in ("video", "audio", "text") if m in name), modality)
    bound = atol + np.abs(wanted).max() * rounding(
        "float32", golden.terms(of))
    if re.search(rounded, name):
      exact = exact or run("float64")
      slack = np.abs(wanted - np.asarray(exact[name]).reshape(wanted.shape))
      assert slack.max() < 10 * bound, (name, slack.max())
      error -= slack
    assert error.max() <= bound, (name, error.max(), bound)
  return set(found)


def before_the_encoder(tower, inputs):
  """(name, value) of the stages of video or audio."""
  tokenizer = tower.tokenizer
  embedded = tokenizer.projection(
      tokenizers.patchify(inputs, tokenizer.patch))
  yield "patch_embed", embedded
  if tokenizer.pre_projection:
    embedded = tokenizer.pre_projection(embedded)
  yield "patch_embed_after_pre_proj", embedded
  yield "tokens", embedded + tf.cast(tokenizer.position(None), embedded.dtype)
  yield "tx_inputs", tokenizer(inputs)


def after_the_encoder(out):
  """(name, value) of the intermediates of a tower."""
  yield "tx_outputs", out["outputs"]
  for i, (block, attention) in enumerate(zip(out["blocks"], out["attention"])):
    yield f"block_{i}", block
    yield f"attn_{i}", attention
  yield "features_pooled", out["pooled"]
  yield "features", out["features"][:, 1:]


def at(policy, inputs):
  """Inputs in the precision of a policy."""
  return {name: tf.cast(x, policy) if x.dtype == np.float32 else tf.constant(x)
          for name, x in inputs.items()}


@pytest.mark.parametrize("name", ["ms", "ma"])
def test_forward(golden, name):
  expected = golden.npz(f"{name}_forward")

  def run(policy):
    model = golden.vatt(name, policy)
    batch = at(policy, golden.batch(expected))
    embeddings, out = model(batch, return_attention=True)
    found = {theirs: embeddings[ours] for ours, theirs in HEADS.items()}
    for modality, steps in out.items():
      stages = list(after_the_encoder(steps))
      if modality != "text":
        stages += before_the_encoder(model.towers[modality], batch[modality])
      found |= {f"{modality}_{stage}": value for stage, value in stages}
    ids, tower = tf.constant(expected["text"]), model.towers["text"]
    words = tf.gather(tower.tokenizer.embedding, ids)
    tokens = tower.tokenizer(ids)
    if name == "ms":
      found |= {"text_word_embedding": words, "text_tokens": tokens,
                "text_relative_bias": tower.encoder.relative_bias(tokens)}
    else:
      projected = tower.tokenizer.pre_projection(words)
      position = tower.tokenizer.position(None)
      found |= {"text_patch_embed": words, "text_tx_inputs": tokens,
                "text_patch_embed_after_pre_proj": projected,
                "text_tokens": projected + position}
    # Blocks and their like are there for some.
    return {key: value for key, value in found.items() if key in expected}

  compared = compare(golden, expected, run)
  inputs = {"video", "audio", "text", "text_mask", "text_mask_ext",
            "t5_bucket_of_relpos_i_j_64"}
  assert set(expected.files) == compared | (inputs & set(expected.files))


def test_masks_and_buckets(golden):
  expected = golden.npz("ms_forward")
  np.testing.assert_array_equal(
      expected["text"] > 0, expected["text_mask"] > 0)
  np.testing.assert_array_equal(  # AGG is always attended
      np.pad(expected["text"] > 0, [[0, 0], [1, 0]], constant_values=True),
      expected["text_mask_ext"] > 0)
  buckets = expected["t5_bucket_of_relpos_i_j_64"]
  np.testing.assert_array_equal(
      relative_buckets(len(buckets), golden.sizes["relative_buckets"],
                       golden.sizes["relative_max_distance"]), buckets)


def test_drop_token(golden, monkeypatch):
  """In training, with the release's permutation for its shuffle; batch norm by
  the batch's statistics, and what it leaves of them."""
  expected = golden.npz("ms_droptoken")

  def draw(rows, num_tokens, drop_rate, seed):
    kept = expected[f"perm_{num_tokens}"][
        :tokenizers.num_kept(num_tokens, drop_rate)]
    return tf.tile(tf.constant(kept, tf.int32)[None], [rows, 1])

  def run(policy):
    model = golden.vatt("ms", policy, drop_rate=0.5)
    batch = at(policy, golden.batch(expected))
    # A function is traced anew: the draw is another one.
    embeddings, out = tf.function(
        lambda: model(batch, training=True, seed=seeds.root(0)),
        autograph=False)()
    found = {theirs: embeddings[ours] for ours, theirs in HEADS.items()}
    for modality, steps in out.items():
      found[f"{modality}_features_pooled"] = steps["pooled"]
      found[f"{modality}_features"] = steps["features"][:, 1:]
    for entry in released.entries(model):
      for key in entry.keys:
        key = "after/" + key.removesuffix(released.VALUE)
        if key in expected:
          found[key] = entry.variable
    return found

  monkeypatch.setattr(tokenizers, "draw_kept_tokens", draw)
  # Batch norm of two rows divides by what may be next to nothing.
  compared = compare(golden, expected, run, "video",
                     rounded=r"^head_video|^after/")
  assert {key for key in expected.files if key not in compared} == {
      "video", "audio", "text", *(
          key for key in expected.files if key.startswith("perm_"))}


@pytest.mark.parametrize("name", fine_tuned())
def test_fine_tuned_models(golden, name):
  expected = golden.npz(f"ft_{name}")
  info = json.loads(bytes(expected["info_json"]))
  views = info["num_test_samples"]

  def run(policy):
    inputs = tf.cast(expected["input"], policy)
    model = golden.classifier(name, inputs.shape[1:], policy)
    logits, _ = model(inputs)
    _, out = model.tower(inputs, return_attention=True)
    found = dict([*before_the_encoder(model.tower, inputs),
                  *after_the_encoder(out)])
    # [B·V, C] -> [B, V, C]: the logits of a clip's views are averaged
    logits = tf.reduce_mean(
        tf.reshape(logits, [-1, views, logits.shape[-1]]), axis=1)
    activation = tf.nn.softmax if model.tower.modality == "video" else (
        tf.nn.sigmoid)
    found |= {"logits": logits, "probabilities": activation(logits)}
    return {key: value for key, value in found.items() if key in expected}

  modality = golden.describe(name)[1]["modality"]
  compared = compare(golden, expected, run, modality,
                     RESIZED if "wat_interp_" in name else 0.0)
  assert {key for key in expected.files if "/" not in key} - compared == {
      "input", "labels", "info_json"}


def info_of(name):
  with np.load(FOLDER / f"ft_{name}.npz") as arrays:
    return json.loads(bytes(arrays["info_json"]))


@pytest.mark.parametrize("name", [
    name for name in fine_tuned() if info_of(name)["restore_from"]])
def test_fine_tuning_starts_from_pretrained_weights(golden, name):
  """The tower from the pre-trained checkpoint, as the release restored it; also
  with positions of another resolution. Its classifier is none of that."""
  expected = golden.npz(f"ft_{name}")
  donor_name = info_of(name)["restore_from"].removeprefix("ckpt_")

  def run(policy):
    model = golden.classifier(name, expected["input"].shape[1:], policy)
    for variable in model.tower.variables:
      variable.assign(tf.zeros_like(variable))
    donor = golden.vatt(donor_name, policy).towers[model.tower.modality]
    finetune.copy_tower(donor, model.tower, "spline", donor_name)
    logits, out = model(tf.cast(expected["input"], policy))
    return {"logits": logits, "features_pooled": out["pooled"],
            "tx_outputs": out["outputs"], "tx_inputs": out["tokens"]}

  modality = golden.describe(name)[1]["modality"]
  compared = compare(golden, expected, run, modality,
                     RESIZED if "wat_interp_" in name else 0.0)
  assert len(compared) == 4


def test_resized_positions(golden):
  expected = golden.npz("pos_interp")
  pairs = [key.removeprefix("src_") for key in expected.files
           if key.startswith("src_")]
  assert pairs
  for pair in pairs:
    source = expected[f"src_{pair}"]
    exact = expected[f"natural_cubic_f64_{pair}"]
    np.testing.assert_allclose(
        tokenizers.resize_positions(source, len(exact), "spline"), exact,
        rtol=0, err_msg=pair, atol=np.abs(exact).max() * rounding(
            "float32", len(source)))


BLOCK = re.compile(r"/layers/(\d+)/")


def without_later_blocks(shapes):
  """The shapes without those of blocks from the third of an encoder on, which
  are there like the second's; and how many values they have."""
  few, blocks = {}, {}
  for key, shape in shapes.items():
    found = BLOCK.search(key)
    if found:
      encoder, number = key[:found.start()], int(found[1])
      block = blocks.setdefault((encoder, number), {})
      block[key[found.end():]] = shape
    if not found or number < 2:
      few[key] = shape
  for (encoder, number), block in blocks.items():
    assert number < 2 or block == blocks[encoder, 1]
  return few, sum(math.prod(shape) for (_, number), block in blocks.items()
                  if number >= 2 for shape in block.values())


@pytest.mark.parametrize("whole", [
    False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", layouts())
def test_released_layout_at_full_size(golden, name, whole):
  """Every variable has its place, of which no value is made: in a graph,
  variables have shapes alone. Of blocks, two are built, or else all."""
  layout = golden.json(f"released/variables_{name}.json")
  shapes = {key: tuple(facts["shape"])
            for key, facts in layout["checkpoint"].items()}
  facts, more = released.describe(shapes, name), 0
  if not whole:
    shapes, more = without_later_blocks(shapes)
    for encoder in facts["model"]["encoders"].values():
      assert encoder["depth"] > 2
      encoder["depth"] = 2
  data = facts["data"]
  config = ConfigDict(facts["model"] | NO_DROPOUT)
  video = (data.get("frames"), data.get("size"), data.get("size"), 3)
  audio = (data.get("audio_samples"), 1)
  with tf.Graph().as_default():
    if "modality" in facts:
      model = Classifier(
          config, facts["modality"],
          video if facts["modality"] == "video" else audio,
          facts["num_classes"])
      assert facts["num_classes"] == layout["info"]["num_classes"]
    else:
      model = VATT(config, video, audio, data.get("words", 16))
    assert not released.misfits(shapes, model)
    # As many values as the release counts, variable by variable.
    ours = more + sum(math.prod(v.shape) for v in model.variables)
    trained = more + sum(math.prod(v.shape) for v in model.trainable_variables)
  theirs = layout["keras_weights_in_order"]
  assert ours == sum(math.prod(v["shape"]) for v in theirs)
  assert trained == sum(math.prod(v["shape"]) for v in theirs if v["trainable"])


@pytest.mark.parametrize("name", ["ms", "ma"])
def test_round_trip_is_exact(golden, tmp_path, name):
  model, path = golden.vatt(name), golden.checkpoint(name)
  released.save(str(tmp_path / "saved"), model)
  theirs = tf.train.load_checkpoint(path)
  ours = tf.train.load_checkpoint(str(tmp_path / "saved"))
  keys = {key for key in theirs.get_variable_to_shape_map()
          if not released.IGNORED.fullmatch(key)}
  assert keys == {key for key in ours.get_variable_to_shape_map()
                  if not released.IGNORED.fullmatch(key)}
  for key in keys:
    np.testing.assert_array_equal(
        theirs.get_tensor(key), ours.get_tensor(key), key)
