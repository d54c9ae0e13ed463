
import numpy as np
import pytest
import tensorflow as tf

from configs import common
from tests.tiny import (
    AUDIO,
    BATCH,
    CAPTIONS,
    DIM_VA,
    DIM_VT,
    WIDTHS,
    WORDS,
    make_batch,
    make_model,
)
from vatt import seeds
from vatt.models import cost
from vatt.models.vatt import SIZES, VARIANTS

# ---- Parameters ------------------------------------------------------------

# A block of width d: norms 2·2d, QKV 3d² + 3d, output d² + d, MLP 4d² + 4d and
# 4d² + d, in all 12d² + 13d. Encoder: its blocks and a norm of 2d.
ENCODERS = {
    "small": 6 * (12 * 512 ** 2 + 13 * 512) + 2 * 512,  # 18,915,328
    "base": 12 * (12 * 768 ** 2 + 13 * 768) + 2 * 768,  # 85,056,000
    "medium": 12 * (12 * 1024 ** 2 + 13 * 1024) + 2 * 1024,  # 151,156,736
    "large": 24 * (12 * 1024 ** 2 + 13 * 1024) + 2 * 1024,  # 302,311,424
}
# Patch 4·16·16·3 = 3072 with bias, positions 8 + 14 + 14, AGG.
VIDEO_ROWS = 3072 + 1 + 8 + 14 + 14 + 1
# Patch 128 with bias, 1200 positions, AGG.
AUDIO_ROWS = 128 + 1 + 1200 + 1
# 2^16 words and AGG; relative bias 32 buckets · 8 heads, or 16 positions.
TEXT_ROWS = 65_536 + 1
RELATIVE, TEXT_POSITIONS = 32 * 8, 16


def heads(video, audio, text):
  """Kernels, and four vectors of a batch norm each; widths d of encoders."""
  return (video * 512 + 4 * 512 + 512 * 512 + 4 * 512  # video -> S_va
          + audio * 512 + 4 * 512  # audio -> S_va
          + 512 * 256 + 4 * 256  # S_va -> S_vt
          + text * 256 + 4 * 256)  # text -> S_vt


PARAMETERS = {  # of each part, worked out by hand from SPEC sections 2 to 4
    "bbs": dict(video=ENCODERS["base"] + VIDEO_ROWS * 768,
                audio=ENCODERS["base"] + AUDIO_ROWS * 768,
                text=ENCODERS["small"] + RELATIVE + TEXT_ROWS * 512,
                heads=heads(768, 768, 512)),
    "mbs": dict(video=ENCODERS["medium"] + VIDEO_ROWS * 1024,
                audio=ENCODERS["base"] + AUDIO_ROWS * 768,
                text=ENCODERS["small"] + RELATIVE + TEXT_ROWS * 512,
                heads=heads(1024, 768, 512)),
    "lbs": dict(video=ENCODERS["large"] + VIDEO_ROWS * 1024,
                audio=ENCODERS["base"] + AUDIO_ROWS * 768,
                text=ENCODERS["small"] + RELATIVE + TEXT_ROWS * 512,
                heads=heads(1024, 768, 512)),
    "ma": dict(shared=ENCODERS["medium"], video=VIDEO_ROWS * 1024,
               audio=AUDIO_ROWS * 1024,
               text=(TEXT_ROWS + TEXT_POSITIONS) * 1024,
               heads=heads(1024, 1024, 1024)),
}
TOTALS = {"bbs": 227_311_360, "mbs": 294_339_328, "lbs": 445_494_016,
          "ma": 224_541_696}


SHAPES = dict(video=(32, 224, 224, 3), audio=(153_600, 1), text=(16,))


def parts_of(variant, trainable_only=False):
  """Parameters of each part as `cost` counts them, which cost_test.py compares
  with the models themselves."""
  counts = cost.parameters(
      common.pretraining(variant).model, SHAPES, trainable_only=trainable_only)
  parts = {}
  for name, count in counts.items():  # such as "video encoder" and "heads"
    part = name.split()[0]
    parts[part] = parts.get(part, 0) + count
  return parts


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_of_every_variant(variant):
  assert variant in PARAMETERS, "a variant without a count worked out by hand"
  parts = parts_of(variant)
  assert parts == PARAMETERS[variant]
  assert sum(parts.values()) == TOTALS[variant]
  # All but the moving statistics of the five batch norms.
  assert sum(parts_of(variant, trainable_only=True).values()) == (
      TOTALS[variant] - 2 * (512 * 3 + 256 * 2))


def test_parameters_beside_those_of_the_paper():
  """Its Base, Medium and Large are video encoders with a linear classifier of
  600 classes; its variants are sums of that table, in which "small" stands
  apart: no count of a Small encoder gives 20.9 (with 600 classes 20.8)."""
  million = {}
  for size, variant in (("base", "bbs"), ("medium", "mbs"), ("large", "lbs")):
    width = SIZES[size]["width"]
    million[size] = (
        parts_of(variant)["video"] + 600 * width + 600) / 1e6
  assert {k: round(v, 1) for k, v in million.items()} == {
      "base": 87.9, "medium": 155.0, "large": 306.1}
  small = ENCODERS["small"] + VIDEO_ROWS * 512 + 600 * 512 + 600
  assert small / 1e6 == pytest.approx(20.9, rel=0.005)
  for size, paper in (("base", 197), ("medium", 264), ("large", 415)):
    assert round(million[size] + million["base"] + 20.9) == paper


# ---- Forward ---------------------------------------------------------------


@pytest.mark.parametrize("setting", WIDTHS)
@pytest.mark.parametrize("audio", AUDIO)
def test_shapes_of_embeddings_and_intermediates(setting, audio):
  model, batch = make_model(setting, audio), make_batch(audio)
  tokens = dict(video=8, audio=6 if audio == "waveform" else 4, text=WORDS)
  for training in (False, True):
    embeddings, out = model(batch, training=training, seed=seeds.root(0))
    expected = dict(video_va=(BATCH, DIM_VA), audio_va=(BATCH, DIM_VA),
                    video_vt=(BATCH, DIM_VT), text_vt=(BATCH, CAPTIONS, DIM_VT))
    if not training:
      expected["audio_vt"] = (BATCH, DIM_VT)
    assert {k: tuple(v.shape) for k, v in embeddings.items()} == expected
    for modality, steps in out.items():
      rows = BATCH * (CAPTIONS if modality == "text" else 1)
      n = tokens[modality]
      if training and modality != "text":
        n //= 2  # DropToken
      shape = (rows, 1 + n, WIDTHS[setting][modality])
      assert steps["tokens"].shape == steps["outputs"].shape == shape
      assert steps["pooled"].shape == (rows, WIDTHS[setting][modality])
      np.testing.assert_array_equal(steps["pooled"], steps["outputs"][:, 0])
      assert [b.shape for b in steps["blocks"]] == [shape] * 2
      assert [m.shape for m in steps["mlps"]] == [shape] * 2
      assert "attention" not in steps
  _, out = model(batch, return_attention=True)
  assert all(len(steps["attention"]) == 2 for steps in out.values())


def test_heads_are_fed_as_in_the_paper():
  model, batch = make_model(), make_batch()
  embeddings, out = model(batch)
  everywhere = tf.ones([BATCH], tf.bool)
  pooled = {m: out[m]["pooled"] for m in out}
  np.testing.assert_array_equal(
      embeddings["video_va"],
      model.heads["video_va"](pooled["video"], everywhere, False))
  np.testing.assert_array_equal(
      embeddings["audio_va"],
      model.heads["audio_va"](pooled["audio"], everywhere, False))
  # z_v,vt = g(z_v,va), of which the audio's is the same in evaluation.
  for modality in ("video", "audio"):
    np.testing.assert_array_equal(
        embeddings[f"{modality}_vt"], model.heads["video_vt"](
            embeddings[f"{modality}_va"], everywhere, False))
  text = model.heads["text_vt"](
      pooled["text"], tf.ones([BATCH * CAPTIONS], tf.bool), False)
  np.testing.assert_array_equal(
      tf.reshape(embeddings["text_vt"], [-1, DIM_VT]), text)
  widths = {name: [linear.units for linear in head.linears]
            for name, head in model.heads.items()}
  assert widths == dict(
      video_va=[DIM_VA, DIM_VA], audio_va=[DIM_VA], video_vt=[DIM_VT],
      text_vt=[DIM_VT])


@pytest.mark.parametrize("setting", WIDTHS)
def test_modalities_one_by_one(setting):
  model, batch = make_model(setting), make_batch()
  together, _ = model(batch)
  alone = {}
  alone.update(model({"video": batch["video"]})[0])
  alone.update(model({"audio": batch["audio"]})[0])
  alone.update(model({"text": batch["text"],
                      "word_mask": batch["word_mask"]})[0])
  # Padding has the id 0, so the mask of words follows from the ids.
  alone_text = model({"text": batch["text"]})[0]["text_vt"]
  assert set(alone) == set(together)
  for name, value in together.items():
    np.testing.assert_allclose(alone[name], value, atol=1e-6, err_msg=name)
  np.testing.assert_allclose(alone_text, together["text_vt"], atol=1e-6)


def test_an_agnostic_model_shares_its_encoder_alone():
  model = make_model("agnostic")
  assert len({id(t.encoder) for t in model.towers.values()}) == 1
  assert not model.towers["text"].encoder.biased_blocks
  tables = model.towers["text"].tokenizer.position.tables
  assert [t.shape for t in tables.values()] == [(WORDS, 8)]
  specific = make_model("specific")
  assert len({id(t.encoder) for t in specific.towers.values()}) == 3
  assert {m: t.encoder.biased_blocks for m, t in specific.towers.items()} == (
      dict(video=0, audio=0, text=1))
  assert not specific.towers["text"].tokenizer.position


@pytest.mark.parametrize("setting", WIDTHS)
def test_padding_of_a_caption_does_not_change_its_embedding(setting):
  model, batch = make_model(setting), make_batch()
  embeddings, _ = model(batch)
  other = tf.where(batch["word_mask"], batch["text"], 7)
  changed, _ = model(dict(batch, text=other))
  np.testing.assert_array_equal(changed["text_vt"], embeddings["text_vt"])
  # A word that counts does change it.
  changed, _ = model(dict(batch, text=tf.where(batch["word_mask"], 7, 0)))
  assert np.abs(changed["text_vt"] - embeddings["text_vt"])[3].max() > 1e-3
  # AGG is attended by all; in a caption without words it is alone.
  _, out = model(batch, return_attention=True)
  for maps in out["text"]["attention"]:
    assert (maps.numpy()[..., 0] > 0).all()
    np.testing.assert_allclose(maps[0, :, :, 0], 1, rtol=1e-6)
    np.testing.assert_allclose(tf.reduce_sum(maps, -1), 1, rtol=1e-6)


# ---- DropToken, dropout, evaluation ----------------------------------------


def test_droptoken_in_training_by_the_seed():
  model, batch = make_model(), make_batch()
  (plain, out), (same, _) = model(batch), model(batch, seed=seeds.root(7))
  for name in plain:  # evaluation knows no seed
    np.testing.assert_array_equal(plain[name], same[name])
  everything = {m: out[m]["tokens"].numpy() for m in out}

  def kept_of(seed):
    """Which of all tokens the encoder saw, by comparing them."""
    _, out = model(batch, training=True, seed=seeds.root(seed))
    np.testing.assert_array_equal(out["text"]["tokens"], everything["text"])
    kept = {}
    for m in ("video", "audio"):
      tokens = out[m]["tokens"].numpy()
      np.testing.assert_array_equal(tokens[:, 0], everything[m][:, 0])  # AGG
      distance = np.abs(
          tokens[:, 1:, None] - everything[m][:, None, 1:]).max(axis=-1)
      assert distance.min(axis=-1).max() < 1e-5
      kept[m] = [tuple(sorted(row)) for row in distance.argmin(axis=-1)]
      assert all(len(set(row)) == len(row) for row in kept[m])
    return kept

  first, again, other = kept_of(1), kept_of(1), kept_of(2)
  assert first == again and first != other
  assert len(set(first["video"])) > 1  # samples differ
  assert first["video"] != first["audio"]


def matmul_flops(model, modality, inputs):
  """Floating-point operations of the matrix products of a forward pass."""
  forward = tf.function(
      lambda x: model.towers[modality](x, training=True, seed=seeds.root(0))[0],
      autograph=False)
  graph = forward.get_concrete_function(inputs).graph
  options = tf.compat.v1.profiler.ProfileOptionBuilder(
      tf.compat.v1.profiler.ProfileOptionBuilder.float_operation())
  options = options.with_empty_output().order_by("float_ops").build()
  profile = tf.compat.v1.profiler.profile(graph, cmd="op", options=options)
  flops = {child.name: child.float_ops for child in profile.children}
  nodes, todo = {}, [profile]  # children are nested
  while todo:
    node = todo.pop()
    nodes[node.name] = node.float_ops
    todo.extend(node.children)
  assert flops
  return nodes["MatMul"] + nodes["BatchMatMulV2"]


@pytest.mark.parametrize("drop_rate", [0.0, 0.25, 0.5, 0.75])
def test_flops_fall_with_the_dropped_tokens(drop_rate, monkeypatch):
  """Of projection (only what is kept), encoder and attention, to the last."""
  model, batch = make_model(), make_batch()
  for modality, patches, content, d, mlp in (
      ("video", 8, 2 * 3 * 4 * 3, 8, 16), ("audio", 6, 4, 12, 16)):
    kept = patches - round(patches * drop_rate)
    if modality == "audio" and drop_rate in (0.25, 0.75):
      kept = {0.25: 4, 0.75: 2}[drop_rate]  # 4.5 and 1.5, to the even one
    n = 1 + kept
    block = n * d * 3 * d + 2 * n * n * d + n * d * d + 2 * n * d * mlp
    expected = 2 * BATCH * (kept * content * d + 2 * block)
    monkeypatch.setattr(model.towers[modality], "drop_rate", drop_rate)
    assert matmul_flops(model, modality, batch[modality]) == expected


def test_training_changes_moving_statistics_and_evaluation_does_not():
  model, batch = make_model(), make_batch()
  statistics = [v for v in model.non_trainable_variables]
  assert len(statistics) == 2 * 5
  before = [v.numpy() for v in statistics]
  model(batch)
  for variable, value in zip(statistics, before):
    np.testing.assert_array_equal(variable, value)
  model(batch, training=True, seed=seeds.root(0))
  for variable, value in zip(statistics, before):
    assert (variable.numpy() != value).all()


@pytest.mark.parametrize("mask", ["video_mask", "audio_mask", "caption_mask"])
def test_rows_without_a_modality_stay_out_of_its_batch_statistics(mask):
  """Whatever such a row holds, what the others get is the same."""
  model, batch = make_model(drop_rate=0.0), make_batch()
  there = tf.constant([1, 0, 1, 1, 0, 1]) > 0
  batch.update(video_mask=tf.ones_like(there), audio_mask=tf.ones_like(there),
               caption_mask=tf.ones([BATCH, CAPTIONS], tf.bool))
  batch["word_mask"] = tf.ones_like(batch["word_mask"])
  batch[mask] = tf.repeat(there[:, None], CAPTIONS, axis=1) if (
      mask == "caption_mask") else there
  name = {"caption_mask": "text"}.get(mask, mask[:-5])
  shape = [-1] + [1] * (batch[name].shape.rank - 1)
  garbage = tf.ones_like(batch[name]) * (3 if name == "text" else 100)
  other = dict(batch, **{
      name: tf.where(tf.reshape(there, shape), batch[name], garbage)})
  first, _ = model(batch, training=True, seed=seeds.root(0))
  moved = [v.numpy() for v in model.non_trainable_variables]
  model_again = make_model(drop_rate=0.0)
  second, _ = model_again(other, training=True, seed=seeds.root(0))
  for key, value in first.items():
    np.testing.assert_allclose(
        second[key][there], value[there], atol=1e-5, err_msg=key)
  for variable, value in zip(model_again.non_trainable_variables, moved):
    np.testing.assert_allclose(variable, value, atol=1e-6)


def test_dropout_in_training_only():
  model, batch = make_model(dropout=0.1, drop_rate=0.0), make_batch()
  plain, _ = model(batch)
  again, _ = model(batch, seed=seeds.root(3))
  a, _ = model(batch, training=True, seed=seeds.root(1))
  b, _ = model(batch, training=True, seed=seeds.root(1))
  c, _ = model(batch, training=True, seed=seeds.root(2))
  for name in a:
    np.testing.assert_array_equal(plain[name], again[name])
    np.testing.assert_array_equal(a[name], b[name])
    assert np.abs(a[name] - c[name]).max() > 1e-3


@pytest.mark.parametrize("setting", WIDTHS)
def test_no_two_draws_of_a_step_share_a_seed(setting, monkeypatch):
  """Of DropToken and dropout: modalities that share an encoder included."""
  model, batch = make_model(setting, dropout=0.1), make_batch()
  draws = []

  def record(rows, shape, seed, *first_row):
    draws.append(tuple(seed.numpy()))
    return bits_rows(rows, shape, seed, *first_row)

  bits_rows = seeds.bits_rows
  monkeypatch.setattr(seeds, "bits_rows", record)
  model(batch, training=True, seed=seeds.root(0))
  assert len(draws) == 2 + 3 * (2 + 2 * 4)
  assert len(set(draws)) == len(draws)
