"""Our towers against the ViT and the T5 of `transformers`, random weights."""
import json
import os
import re

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from ml_collections import ConfigDict

from vatt.errors import UserError
from vatt.models import vatt
from vatt.models.convert import kinds, standard, standard_config
from vatt.models.vatt import FLAVOURS

# Of values around 1, in float32; 1e-4 is what is asked for.
TOLERANCE = 2e-5
SIZE = dict(depth=2, width=8, mlp_dim=20, num_heads=2)
PATCH = (4, 3, 4)
IMAGE = 12  # 4 rows of 3 patches
WORDS, VOCABULARY = 150, 11  # farther than T5 tells distances apart


@pytest.fixture(scope="module")
def transformers():
  before = dict(os.environ)
  os.environ["USE_TORCH"] = "0"
  yield pytest.importorskip(
      "transformers", reason="transformers is not installed: pip install "
      "-e .[dev]")
  # It asks for a Keras that is not there, and later processes would hear it.
  os.environ.clear()
  os.environ.update(before)


def randomize(variables, seed=0):
  """Values such as no initializer gives; gains, too, are not all positive."""
  rng = np.random.default_rng(seed)
  for variable in variables:
    variable.assign(rng.normal(
        1.0 if re.search("scale|gamma|norm/weight", variable.name) else 0.0,
        0.4, variable.shape))


def make_towers(shapes, seed=0, **fields):
  """Towers with random weights, of `shapes`; `fields` of the model's config."""
  config = ConfigDict(dict({
      **FLAVOURS["paper"], "video_patch": PATCH, "audio_patch": (4,),
      "drop_rate": 0.5, "dropout": 0.0, "remat": False,
      "vocab_size": VOCABULARY, **fields}))
  towers = vatt.make_towers(config, shapes)
  for modality, tower in towers.items():
    tower(tf.zeros([1, *shapes[modality]],
                   tf.int32 if modality == "text" else tf.float32))
    randomize(tower.variables, seed)
  return towers


def make_tower(modality, frames=PATCH[0], seed=0, model=None, **fields):
  """A tower of the kind that fits.

  Args:
    modality: video or text.
    frames: of a clip.
    seed: of the weights.
    model: fields of the model, in place of the paper's.
    **fields: of the encoder, in place of a ViT's or T5's.
  """
  kind = standard.VIT if modality == "video" else standard.T5
  shape = (frames, IMAGE, IMAGE, 3) if modality == "video" else (WORDS,)
  encoders = {modality: dict(SIZE, **{**kind, **fields})}
  return make_towers(
      {modality: shape}, seed, encoders=encoders, **(model or {}))[modality]


def make_faint(variables):
  """Has the blocks see variances of 1e-6, as small as epsilons are."""
  for variable in variables:
    if re.search("embeddings|shared", variable.name):
      variable.assign(variable * 2e-3)


def make_vit(transformers, epsilon):
  model = transformers.TFViTModel(transformers.ViTConfig(
      hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
      intermediate_size=20, image_size=IMAGE, patch_size=PATCH[1:],
      layer_norm_eps=epsilon))
  model(tf.zeros([1, 3, IMAGE, IMAGE]))
  randomize(model.weights)
  # A table that rows and columns can add up to, but for the entry of CLS.
  rng = np.random.default_rng(1)
  separable = rng.normal(size=(4, 1, 8)) + rng.normal(size=(3, 8))
  table = model.vit.embeddings.position_embeddings
  table.assign(np.concatenate([table[:, :1], separable.reshape(1, 12, 8)], 1))
  make_faint(model.weights)
  return model


def make_t5(transformers, activation, epsilon):
  model = transformers.TFT5EncoderModel(transformers.T5Config(
      vocab_size=VOCABULARY, d_model=8, d_kv=4, d_ff=20, num_layers=2,
      num_heads=2, feed_forward_proj=activation, layer_norm_epsilon=epsilon))
  model(tf.zeros([1, 2], tf.int32))
  randomize(model.weights)
  make_faint(model.weights)
  return model


def write_as_torch_would(model, folder, prefix="", **changes):
  """Writes a TF model of `transformers` with the names and orders of its
  PyTorch twin, as `transformers` itself translates them."""
  from transformers import modeling_tf_pytorch_utils as translate
  tensors = {}
  for weight in model.weights:
    name, transpose = translate.convert_tf_weight_name_to_pt_weight_name(
        weight.name, tf_weight_shape=weight.shape)
    value = weight.numpy()
    if transpose == translate.TransposeType.SIMPLE:
      value = value.T
    elif transpose == translate.TransposeType.CONV2D:
      value = value.transpose(3, 2, 0, 1)
    tensors[prefix + name.removeprefix("vit.")] = np.ascontiguousarray(value)
  return write(folder, {**tensors, **changes}, model.config.to_dict())


def write(folder, tensors, config=None):
  folder.mkdir(exist_ok=True)
  path = folder / "model.safetensors"
  safetensors.numpy.save_file(
      {k: v for k, v in tensors.items() if v is not None}, path)
  if config:
    (folder / "config.json").write_text(json.dumps(config))
  return str(path)


def read(folder):
  return safetensors.numpy.load_file(folder / "model.safetensors")


def still_clips(rng, frames=PATCH[0]):
  """Images [B, H, W, 3], and clips that show nothing else."""
  images = rng.uniform(-1, 1, (3, IMAGE, IMAGE, 3)).astype(np.float32)
  return images, np.repeat(images[:, None], frames, axis=1)


def equal(ours, theirs, atol=TOLERANCE):
  assert np.std(theirs) > 0.1  # else anything would be equal
  np.testing.assert_allclose(ours, theirs, atol=atol, rtol=0)
  assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


# ---- ViT --------------------------------------------------------------------


@pytest.mark.parametrize("prefix,epsilon", [("", 1e-12), ("vit.", 1e-3)])
def test_loaded_vit_computes_what_it_did(
    transformers, tmp_path, prefix, epsilon):
  model = make_vit(transformers, epsilon)
  path = write_as_torch_would(
      model, tmp_path, prefix, **{"classifier.weight": np.zeros([5, 8])})
  with pytest.raises(UserError, match=f"eps is {epsilon}, expected 1e-06"):
    standard.load(path, make_tower("video"))
  tower = make_tower("video", epsilon=standard.read_epsilon(path))
  notes = standard.load(path, tower)
  assert notes[:2] == [
      "left out: classifier.weight; pooler.dense.bias; pooler.dense.weight",
      "on trust, as no file beside it tells: pixels in [-1, 1]"]
  assert re.fullmatch(
      r"positions: rows plus columns leave \d.\de-06% of .*", notes[2])
  images, clips = still_clips(np.random.default_rng(2))
  theirs = model(images.transpose(0, 3, 1, 2)).last_hidden_state
  pooled, out = tower(clips)
  equal(out["outputs"], theirs)
  equal(pooled, theirs[:, 0])


@pytest.mark.parametrize("frames,epsilon", [(4, None), (12, 0.1)])
def test_saved_vit_computes_what_we_do(
    transformers, tmp_path, frames, epsilon):
  tower = make_tower("video", frames, epsilon=epsilon)
  notes = standard.save(str(tmp_path / "vit"), tower)
  assert notes == ([] if frames == 4 else ["positions: the mean of 3 in time"])
  model, info = transformers.TFViTModel.from_pretrained(
      tmp_path / "vit", add_pooling_layer=False, output_loading_info=True)
  assert not any(info.values()), info
  # Patches of a clip in several parts: a ViT of its image is one part.
  if frames > PATCH[0]:
    tokenizer, one = tower.tokenizer, make_tower("video", epsilon=epsilon)
    for variable, value in zip(one.variables, tower.variables):
      if variable is one.tokenizer.position.tables["temporal"]:
        value = tf.reduce_mean(value, axis=0, keepdims=True)
      variable.assign(value)
    assert tokenizer.num_tokens == 3 * one.tokenizer.num_tokens
    tower = one
  images, clips = still_clips(np.random.default_rng(2))
  equal(tower(clips)[1]["outputs"],
        model(images.transpose(0, 3, 1, 2)).last_hidden_state)


def test_layouts_hold_the_same(tmp_path):
  tower = make_tower("video", epsilon=1e-3)
  loaded = {}
  for layout in ("hf", "timm"):
    notes = standard.save(str(tmp_path / layout), tower, layout)
    assert notes == ([] if layout == "hf" else [
        "epsilon of the norms is 0.001, timm's 1e-06: make the model with "
        "norm_layer=partial(LayerNorm, eps=0.001)"])
    loaded[layout] = make_tower("video", seed=1, epsilon=1e-3)
    notes = standard.load(
        str(tmp_path / layout / "model.safetensors"), loaded[layout])
    trusted = [note for note in notes if "on trust" in note]
    assert trusted == ([] if layout == "hf" else [
        "on trust, as no file beside it tells: block_fn Block, hidden_act "
        "gelu, layer_norm_eps 0.001, num_attention_heads 2, pixels in "
        "[-1, 1]"])
  assert not (tmp_path / "timm" / "config.json").exists()
  for one, other in zip(loaded["hf"].variables, loaded["timm"].variables):
    np.testing.assert_array_equal(one, other)
  hf, timm = read(tmp_path / "hf"), read(tmp_path / "timm")
  assert "layernorm.weight" in hf and "norm.weight" in timm
  assert (sum(v.size for v in hf.values())
          == sum(v.size for v in timm.values()))
  # timm's: query, key and value of a layer one below the other.
  parts = [hf[f"encoder.layer.1.attention.attention.{part}.weight"]
           for part in ("query", "key", "value")]
  np.testing.assert_array_equal(
      timm["blocks.1.attn.qkv.weight"], np.concatenate(parts))
  assert timm["patch_embed.proj.weight"].shape == (8, 3, 3, 4)


@pytest.mark.parametrize("layout", ["hf", "timm"])
def test_vit_round_trip_is_exact(tmp_path, layout):
  """Also where eight eighths, rounded as they add up, are not the whole.
  Positions are of few bits, for means and sums without rounding."""
  rng = np.random.default_rng(3)
  patch = dict(video_patch=(8, 3, 4))
  standard.save(
      str(tmp_path / "a"), make_tower("video", 8, model=patch), layout)
  first = read(tmp_path / "a")
  names = standard.LAYOUTS[layout]
  grid = rng.integers(-99, 99, (4, 1, 8)) + 3 * rng.integers(-99, 99, (3, 8))
  first[names["positions"]] = np.pad(
      grid.reshape(1, 12, 8) / 64, [[0, 0], [1, 0], [0, 0]]).astype(np.float32)
  tower = make_tower("video", 8, 1, patch)
  standard.load(write(tmp_path / "b", first), tower)
  standard.save(str(tmp_path / "c"), tower, layout)
  second = read(tmp_path / "c")
  assert set(first) == set(second)
  for key, value in first.items():
    np.testing.assert_array_equal(value, second[key], err_msg=key)
  # And ours: what of it a ViT can hold.
  again = make_tower("video", 8, 2, patch)
  standard.load(str(tmp_path / "c" / "model.safetensors"), again)
  for one, other in zip(tower.variables, again.variables):
    np.testing.assert_array_equal(one, other, err_msg=one.name)


def test_positions_that_do_not_add_up(tmp_path):
  """The fit is that of least squares, and its residual is told."""
  tower = make_tower("video")
  standard.save(str(tmp_path / "a"), tower, "timm")
  tensors = read(tmp_path / "a")
  rng = np.random.default_rng(4)
  table = rng.normal(size=(1, 13, 8)).astype(np.float32)
  tensors["pos_embed"] = table
  agg = tensors["cls_token"][0, 0]
  notes = standard.load(write(tmp_path / "b", tensors), tower)
  # [H·W, H + W]: the entry of row i and column j is a_i + b_j.
  design = np.array([[float(i == k) for k in range(4)]
                     + [float(j == k) for k in range(3)]
                     for i in range(4) for j in range(3)])
  best = design @ np.linalg.lstsq(design, table[0, 1:], rcond=None)[0]
  np.testing.assert_allclose(tower.tokenizer.position(None), best, atol=1e-6)
  np.testing.assert_allclose(tower.tokenizer.agg, agg + table[0, 0])
  rest = table[0, 1:] - best
  share = np.linalg.norm(rest) / np.linalg.norm(
      table[0, 1:] - table[0, 1:].mean(0))
  assert share > 0.5
  assert notes[-1] == (
      f"positions: rows plus columns leave {100 * share:.2g}% of their "
      f"deviation out, {np.abs(rest).max():.2g} at most")


def test_half_precision_files(tmp_path):
  tower = make_tower("video")
  standard.save(str(tmp_path / "a"), tower, "timm")
  for dtype in (np.float16, tf.bfloat16.as_numpy_dtype):
    halves = {k: v.astype(dtype) for k, v in read(tmp_path / "a").items()}
    standard.load(write(tmp_path / "b", halves), tower)
    np.testing.assert_array_equal(
        tower.encoder.blocks[0].mlp_in.kernel,
        halves["blocks.0.mlp.fc1.weight"].T.astype(np.float32))


# ---- T5 ---------------------------------------------------------------------


def masked_ids(rng):
  ids = rng.integers(1, VOCABULARY, (3, WORDS))
  mask = np.arange(WORDS) < np.array([[WORDS], [90], [1]])
  return np.where(mask, ids, 0).astype(np.int32), mask


@pytest.mark.parametrize("activation,epsilon", [
    ("relu", 1e-12), ("gelu", 1e-3)])
def test_loaded_t5_computes_what_it_did(
    transformers, tmp_path, activation, epsilon):
  model = make_t5(transformers, activation, epsilon)
  path = write_as_torch_would(
      model, tmp_path, **{"lm_head.weight": np.zeros([11, 8]),
                          "decoder.final_layer_norm.weight": np.zeros([8])})
  with pytest.raises(UserError, match=f"ilon is {epsilon}, expected 1e-06"):
    standard.load(path, make_tower("text", activation=activation))
  tower = make_tower(
      "text", activation=activation, epsilon=standard.read_epsilon(path))
  words, agg = tower.tokenizer.embedding.numpy(), tower.tokenizer.agg.numpy()
  assert standard.load(path, tower) == [
      "left out: decoder.final_layer_norm.weight; lm_head.weight; "
      "shared.weight", "words and AGG: as they were"]
  np.testing.assert_array_equal(tower.tokenizer.embedding, words)
  np.testing.assert_array_equal(tower.tokenizer.agg, agg)
  ids, mask = masked_ids(np.random.default_rng(5))
  tokens = model.get_input_embeddings()(ids)
  for this, given in ((None, {}), (tf.constant(mask), dict(
      attention_mask=mask.astype(np.int32)))):
    theirs = model(input_ids=ids, **given).last_hidden_state.numpy()
    ours = tower.encoder(tokens, mask=this)[0].numpy()
    equal(ours[mask], theirs[mask])


def test_saved_t5_computes_what_we_do(transformers, tmp_path):
  """With its words, of which AGG is the last."""
  tower = make_tower("text", max_distance=64, epsilon=0.1)
  assert standard.save(str(tmp_path / "t5"), tower) == []
  model, info = transformers.TFT5EncoderModel.from_pretrained(
      tmp_path / "t5", output_loading_info=True)
  assert not any(info.values()), info
  ids, mask = masked_ids(np.random.default_rng(5))
  pooled, out = tower(ids, tf.constant(mask))
  ids = np.pad(ids, [[0, 0], [1, 0]], constant_values=VOCABULARY)
  mask = np.pad(mask, [[0, 0], [1, 0]], constant_values=True)
  theirs = model(input_ids=ids, attention_mask=mask.astype(np.int32)
                 ).last_hidden_state.numpy()
  equal(out["outputs"].numpy()[mask], theirs[mask])
  equal(pooled, theirs[:, 0])


def test_t5_round_trip_is_exact(tmp_path):
  tower, again = make_tower("text"), make_tower("text", seed=1)
  standard.save(str(tmp_path / "a"), tower)
  assert standard.load(
      str(tmp_path / "a" / "model.safetensors"), again, words=True) == []
  for one, other in zip(tower.variables, again.variables):
    np.testing.assert_array_equal(one, other, err_msg=one.name)
  standard.save(str(tmp_path / "b"), again)
  first, second = read(tmp_path / "a"), read(tmp_path / "b")
  assert set(first) == set(second)
  for key, value in first.items():
    np.testing.assert_array_equal(value, second[key], err_msg=key)


# ---- What does not fit ------------------------------------------------------

FLOAT8 = tf.dtypes.experimental.float8_e4m3fn.as_numpy_dtype
WRONG = {  # modality, tensors of the file that are others, what the error says
    "shape": ("video", {"layernorm.bias": np.zeros([9])},
              r"layernorm.bias is \(9,\), expected \(8,\)"),
    "missing": ("video", {"layernorm.bias": None}, "layernorm.bias is missing"),
    "positions": ("video", {"embeddings.position_embeddings":
                            np.zeros([1, 10, 8])},
                  r"position_embeddings is \(1, 10, 8\), expected \(1, 13, 8"),
    "depth": ("video", {"encoder.layer.2.output.dense.bias": np.zeros([8])},
              "encoder.layer.2.output.dense.bias has no place in the video"),
    "layout": ("video", {"embeddings.patch_embeddings.projection.weight": None},
               "of no layout known for video, it seems to be a ViT, expected em"
               "beddings.patch_embeddings.projection.weight or patch_embed"),
    "int8": ("video", {"layernorm.bias": np.zeros([8], np.int8)},
             "layernorm.bias is of type I8, expected F64, F32, F16, BF16"),
    "float8": ("video", {"layernorm.bias": np.zeros([8], FLOAT8)},
               "layernorm.bias is of type F8_E4M3, expected F64"),
    "nan": ("video", {"layernorm.bias": np.array([np.nan] + 7 * [0.0])},
            "layernorm.bias has 1 of 8 values that are NaN or infinite"),
    "infinite": ("text", {"encoder.final_layer_norm.weight": np.full(8, 1e39)},
                 "final_layer_norm.weight has 8 of 8 values that are NaN or i"),
    "gated": ("text", {"encoder.block.0.layer.1.DenseReluDense.wi_0.weight":
                       np.zeros([20, 8])},
              "seems to be a T5 1.1, Flan-T5 or mT5: its MLPs are gated: "),
    "unknown": ("text", {"encoder.more": np.zeros([2])},
                "encoder.more has no place in the text tower"),
    "words": ("text", {"shared.weight": np.zeros([11, 8])},
              r"shared.weight is \(11, 8\), expected \(12, 8\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_do_not_fit(tmp_path, name):
  modality, changes, message = WRONG[name]
  tower = make_tower(modality)
  standard.save(str(tmp_path / "a"), tower)
  path = write(tmp_path / "b", {**read(tmp_path / "a"), **changes})
  before = [variable.numpy() for variable in tower.variables]
  with pytest.raises(UserError, match=message) as error:
    standard.load(path, tower, words=True)
  assert str(error.value).startswith(path) and "\n" not in str(error.value)
  for variable, value in zip(tower.variables, before):
    np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("modality,field,value,message", [
    ("video", "num_attention_heads", 4, "num_attention_heads is 4, expected 2"),
    ("video", "hidden_act", "relu", "hidden_act is relu, expected gelu"),
    ("text", "feed_forward_proj", "gelu", "feed_forward_proj is gelu, expecte"),
    ("text", "relative_attention_max_distance", None, "distance is 128, expec"),
])
def test_config_that_does_not_fit(tmp_path, modality, field, value, message):
  """What no tensor tells; as for T5, also where it is not said."""
  tower = make_tower(modality, **(
      dict(max_distance=64) if modality == "text" else {}))
  standard.save(str(tmp_path), tower)
  config = json.loads((tmp_path / "config.json").read_text())
  config = {k: v for k, v in {**config, field: value}.items() if v is not None}
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(UserError, match=message):
    standard.load(str(tmp_path / "model.safetensors"), tower)


def test_files_that_cannot_be_read(tmp_path):
  tower = make_tower("text")
  standard.save(str(tmp_path / "a"), tower)
  path = tmp_path / "a" / "model.safetensors"
  content = path.read_bytes()
  for damaged in (content[:-1], content[:20], b"", b"PK" + content):
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="not a safetensors file"):
      standard.load(str(path), tower)
  path.write_bytes(content)
  for config, why in (("{", "not JSON: "), ("[2]", "a list, expected a JSON")):
    (tmp_path / "a" / "config.json").write_text(config)
    with pytest.raises(UserError, match=f"config.json: {why}"):
      standard.load(str(path), tower)
  for wrong, why in (
      (tmp_path / "nobody", "not found, expected a safetensors file"),
      (tmp_path, "a folder with a, expected model.safetensors or model.safe")):
    with pytest.raises(UserError, match=f"{wrong}: {why}"):
      standard.load(str(wrong), tower)


def test_shards(tmp_path):
  """An index, or its folder, of whatever name, stands for its files."""
  tower, again = make_tower("text"), make_tower("text", seed=1)
  standard.save(str(tmp_path / "a"), tower)
  tensors = read(tmp_path / "a")
  folder = tmp_path / "t5 [1] #%*ü"
  folder.mkdir()
  names = [f"model-0000{i + 1}-of-00002.safetensors" for i in range(2)]
  index = {key: names[i % 2] for i, key in enumerate(tensors)}

  def write_shards():
    for name in names:
      safetensors.numpy.save_file(
          {key: tensors[key] for key in tensors if index[key] == name},
          folder / name)

  def write_index(index):
    (folder / "model.safetensors.index.json").write_text(
        json.dumps(dict(metadata=dict(total_size=1), weight_map=index)))

  write_shards()
  write_index(index)
  for path in (f"{folder}/model.safetensors.index.json", f"{folder}/",
               str(folder)):
    standard.load(path, again, words=True)
    for one, other in zip(tower.variables, again.variables):
      np.testing.assert_array_equal(one, other, err_msg=one.name)
      other.assign(tf.zeros_like(other))

  key, other = list(tensors)[:2]
  for wrong, why in (
      ({**index, key: index[other]}, f"{key} is (not )?in it, expected "),
      ({**index, "more": names[0]}, "more is not in it, expected model-00001"),
      ({k: v for k, v in index.items() if k != key},
       f"{key} is in it, expected it nowhere"),
      ({**index, key: "model-00003-of-00002.safetensors"},
       "model-00003-of-00002.safetensors is missing, one of its 3 shards"),
      ({}, "no index, expected a weight_map")):
    write_index(wrong)
    with pytest.raises(UserError, match=why):
      standard.load(str(folder), again, words=True)
  with pytest.raises(UserError, match="one of several shards, expected their"):
    standard.load(str(folder / names[0]), again)


# Of models that are none of ours, a few of the names of their tensors.
OTHERS = {
    "T5 1.1": "encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
    "CLIP": "vision_model.encoder.layers.0.self_attn.q_proj.weight",
    "Swin": "layers.0.blocks.0.attn.relative_position_bias_table",
    "VideoMAE": "encoder.layer.0.attention.attention.q_bias",
    "DINOv2": "encoder.layer.0.layer_scale1.lambda1",
    "DeiT III": "blocks.0.ls1.gamma",
    "BEiT": "encoder.layer.0.lambda_1",
    "registers": "reg_token",
    "distilled DeiT": "embeddings.distillation_token",
    "queries and keys": "blocks.0.attn.q_norm.weight",
    "averages": "fc_norm.weight",
    "GPT-2": "h.0.attn.c_attn.weight",
    "Llama": "model.layers.0.self_attn.q_proj.weight",
    "BERT": "bert.encoder.layer.0.attention.self.query.weight",
    "UMT5": "encoder.block.1.layer.0.SelfAttention.relative_attention_bias."
            "weight",
    "convolutional": "layer4.0.conv1.weight",
    "LoRA": "base_model.model.encoder.layer.0.lora_A.weight",
    "this project": "model/towers/video/encoder/norm/scale",
    "another model of Keras": "layer_with_weights-0/kernel",
    "optimizer alone": "optimizer/_variables/1",
    "TensorFlow 1": "global_step",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_kinds_of_other_models(kind):
  assert kind in kinds.seems(["head.weight", OTHERS[kind]])


# ---- config.json ------------------------------------------------------------

SEEN = {  # layout, config.json, what is wrong or None, what is on trust
    "nothing": ("timm", {}, None, ["block_fn Block", "hidden_act gelu",
                "layer_norm_eps 1e-06", "num_attention_heads 2"]),
    "plain": ("timm", dict(architecture="vit_tiny_patch16_224", model_args=dict(
        num_heads=2, embed_dim=8, norm_layer=None)), None, []),
    "heads": ("timm", dict(architecture="deit_small_patch16_224.fb_in1k"),
              "num_attention_heads is 6, expected 2", []),
    "post norm": ("timm", dict(architecture="vit_base_patch16_rpn_224"),
                  "not known to be a plain ViT", []),
    "blocks": ("timm", dict(
        architecture="vit_tiny_patch16_224", model_args=dict(
            num_heads=2, block_fn="ResPostBlock")), "block_fn ResPostBlock",
               []),
    "activation": ("timm", dict(
        architecture="vit_tiny_patch16_224", model_args=dict(
            num_heads=2, act_layer="quick_gelu")), "act_layer quick_gelu", []),
    "norm": ("timm", dict(architecture="vit_tiny_patch16_224", model_args=dict(
        num_heads=2, norm_layer="layernorm2d")), "norm_layer layernorm2d", []),
    "timm's": ("hf", dict(architecture="vit_tiny_patch16_224"),
               "architecture is vit_tiny_patch16_224, expected a config.json "
               "with model_type", []),
    "not timm's": ("timm", dict(model_type="vit"), "model_type is vit, expecte",
                   []),
    "defaults": ("hf", dict(model_type="vit", num_attention_heads=2,
                 image_size=[12, 12], patch_size=[3, 4]),
                 "layer_norm_eps is 1e-12, expected 1e-06", []),
    "msn": ("hf", dict(model_type="vit_msn", num_attention_heads=2,
            image_size=12, patch_size=[3, 4]), None, []),
    "image": ("hf", dict(model_type="vit_msn", num_attention_heads=2,
              image_size=24, patch_size=[3, 4]), "image_size is 24, exp", []),
    "no bias": ("hf", dict(qkv_bias=False), "qkv_bias is False", None),
    "deit": ("hf", dict(model_type="deit"), "model_type is deit, expec", []),
    "mt5": ("t5", dict(model_type="mt5", num_heads=2, d_kv=4),
            "feed_forward_proj is gated-gelu, expected relu", []),
    "umt5": ("t5", dict(model_type="umt5"), "model_type is umt5, expected", []),
    "tanh": ("t5", dict(model_type="t5", num_heads=2, d_kv=4,
             dense_act_fn="gelu_new"), "dense_act_fn is gelu_new, expe", []),
    "words": ("t5", dict(model_type="t5", num_heads=2, d_kv=4, vocab_size=7),
              None, []),
}


@pytest.fixture(scope="module")
def towers():
  return {modality: make_tower(modality) for modality in ("video", "text")}


@pytest.mark.parametrize("name", SEEN)
def test_what_a_config_tells(towers, name):
  layout, config, wrong, trusted = SEEN[name]
  tower = towers["text" if layout == "t5" else "video"]
  problems, trust = standard_config.compare(config, tower, layout, False)
  if wrong is None:
    assert problems == []
  else:
    problem, = problems
    assert wrong in problem
  assert trusted is None or trust == trusted


def test_pixels(towers, tmp_path):
  """A ViT sees what it saw: ours, as it had them normalized."""
  standard.save(str(tmp_path / "a"), towers["video"])
  path = str(tmp_path / "a" / "model.safetensors")
  images, clips = still_clips(np.random.default_rng(2))
  mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
  expected = towers["video"](
      (((clips + 1) / 2 - mean) / std).astype(np.float32))[0]
  beside = tmp_path / "a" / "preprocessor_config.json"
  for name, tells in (
      ("hf", dict(image_mean=list(mean), image_std=list(std))),
      ("timm", dict(mean=list(mean), std=list(std)))):
    tower = make_tower("video", seed=1)
    if name == "hf":
      beside.write_text(json.dumps(tells))
    else:
      beside.unlink()
      (tmp_path / "a" / "config.json").write_text(
          json.dumps(dict(pretrained_cfg=tells)))
    assert standard.load(path, tower)[-1].startswith("pixels: the patches' ker")
    equal(tower(clips)[0].numpy(), expected.numpy())

  for tells, expected in (
      (dict(image_mean=[0.5] * 3, image_std=[0.5] * 3), (1, 0)),
      (dict(do_normalize=False), (0.5, 0.5)),
      (dict(do_normalize=False, do_rescale=False), (127.5, 127.5)),
      (dict(do_rescale=True), None)):
    found = standard_config.pixels({}, tells)
    assert (found and (*found[0], *found[1])) == (
        expected and (*[expected[0]] * 3, *[expected[1]] * 3))
  with pytest.raises(UserError, match="expected three numbers each"):
    standard_config.pixels({}, dict(image_mean=[0.5], image_std=[0, 1, 2]))


@pytest.mark.parametrize("modality,fields,message", [
    ("text", dict(relative_bias="first"),
     "text tower is no T5: relative_bias is 'first', expected 'all'"),
    ("text", dict(norm="layer"), "norm is 'layer', expected 'rms'"),
    ("text", dict(mlp_norm="layer"), "mlp_norm is 'layer', expected 'rms'"),
    ("text", dict(bias=True), "bias is True, expected False"),
    ("text", dict(scaled=True), "scaled is True, expected False"),
    ("text", dict(activation="tanh"), "activation is 'tanh', expected 'relu'"),
    ("video", dict(norm="rms"), "tower is no ViT: norm is 'rms', expected 'la"),
    ("video", dict(activation="relu"), "activation is 'relu', expected 'gelu'"),
    ("video", dict(head_dim=3), "heads are not as wide as width / num_heads"),
])
def test_towers_that_are_no_standard_ones(tmp_path, modality, fields, message):
  tower = make_tower(modality, **fields)
  with pytest.raises(UserError, match=message):
    standard.save(str(tmp_path / "a"), tower)
  with pytest.raises(UserError, match=message):
    standard.load("nowhere", tower)
  assert not list(tmp_path.iterdir())


def test_towers_with_more_than_standard_ones(tmp_path):
  for modality, field, value in (
      ("video", "normalize_positions", True), ("video", "pre_projection", True),
      ("video", "post_projection", 6), ("text", "word_dim", 6)):
    tower = make_tower(modality, model={field: value})
    with pytest.raises(UserError, match="no (ViT|T5): .* has no place there"):
      standard.save(str(tmp_path / "a"), tower)
  towers = make_towers(
      dict(video=(4, IMAGE, IMAGE, 3), audio=(8, 1), text=(5,)),
      encoders=dict(shared=SIZE))
  standard.save(str(tmp_path / "shared"), towers["video"])
  with pytest.raises(UserError, match="text tower is no T5: relative_bias"):
    standard.save(str(tmp_path / "a"), towers["text"])
  with pytest.raises(UserError, match="modality is audio, expected video or"):
    standard.save(str(tmp_path / "a"), towers["audio"])


def test_bad_targets(tmp_path):
  tower = make_tower("text")
  with pytest.raises(UserError, match="layout is timm, expected t5"):
    standard.save(str(tmp_path / "a"), tower, "timm")
  standard.save(str(tmp_path / "a"), tower)
  with pytest.raises(UserError, match="has a model, expected a new folder"):
    standard.save(str(tmp_path / "a"), tower)
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot be written"):
    standard.save(str(tmp_path / "file" / "b"), tower)
