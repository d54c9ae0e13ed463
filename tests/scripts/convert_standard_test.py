"""The script as its users call it: in, a model to start from, and out."""
import json
import pathlib
import re
import shlex

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from vatt import files
from vatt import workdir as workdir_lib

WIDTH, HIDDEN = 8, 12
FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
FOLDER = "a [1] #%*ü"  # of which nothing is a pattern


def make_vit():
  """A ViT of timm of one block, of 2·2 patches of 4·4 pixels."""
  rng = np.random.default_rng(0)
  shapes = {
      "cls_token": [1, 1, WIDTH], "pos_embed": [1, 5, WIDTH],
      "patch_embed.proj.weight": [WIDTH, 3, 4, 4],
      "patch_embed.proj.bias": [WIDTH], "head.weight": [3, WIDTH]}
  for layer, sizes in {
      "blocks.0.norm1": [WIDTH], "blocks.0.norm2": [WIDTH], "norm": [WIDTH],
      "blocks.0.attn.qkv": [3 * WIDTH, WIDTH],
      "blocks.0.attn.proj": [WIDTH, WIDTH],
      "blocks.0.mlp.fc1": [HIDDEN, WIDTH], "blocks.0.mlp.fc2": [WIDTH, HIDDEN],
  }.items():
    shapes |= {f"{layer}.weight": sizes, f"{layer}.bias": sizes[:1]}
  return {name: rng.normal(size=shape).astype(np.float32)
          for name, shape in shapes.items()}


def make_t5():
  rng = np.random.default_rng(1)
  block = "encoder.block.0.layer"
  attention = f"{block}.0.SelfAttention"
  shapes = {
      "shared": [20, WIDTH], "encoder.final_layer_norm": [WIDTH],
      **{f"{attention}.{part}": [WIDTH, WIDTH] for part in "qkvo"},
      f"{attention}.relative_attention_bias": [32, 2],
      f"{block}.0.layer_norm": [WIDTH], f"{block}.1.layer_norm": [WIDTH],
      f"{block}.1.DenseReluDense.wi": [HIDDEN, WIDTH],
      f"{block}.1.DenseReluDense.wo": [WIDTH, HIDDEN]}
  return {f"{name}.weight": rng.normal(size=shape).astype(np.float32)
          for name, shape in shapes.items()}


@pytest.fixture
def run(python, python_env, tmp_path):
  """A function (*flags, fork=True) -> code, stdout, stderr; there are a ViT and
  a T5, and one with a config.json. ~ is tmp_path."""
  safetensors.numpy.save_file(make_vit(), tmp_path / "vit.safetensors")
  safetensors.numpy.save_file(make_t5(), tmp_path / "t5.safetensors")
  t5 = tmp_path / FOLDER / "t5"
  t5.mkdir(parents=True)
  safetensors.numpy.save_file(make_t5(), t5 / "model.safetensors")
  (t5 / "config.json").write_text(json.dumps(dict(
      model_type="t5", d_kv=4, num_heads=2, layer_norm_epsilon=1e-3)))
  (tmp_path / "words.txt").write_text("a\nred\ncircle\n")
  # The script finds the configs by itself.
  env = {k: v for k, v in python_env.items() if k != "PYTHONPATH"}
  env["HOME"] = str(tmp_path)

  def call(*flags, fork=True):
    done = python.run(
        "scripts/convert_standard.py", *flags, env=env, fork=fork)
    return done.returncode, done.stdout, done.stderr

  return call


def config_flags(folder):
  fields = {
      "dtype": "float32", "data.vocabulary": folder / "words.txt",
      "data.frames": 4, "data.size": 8, "data.audio_samples": 19_200,
      "model.video_patch": "(4,4,4)", "model.vocab_size": 0}
  for part in ("video", "audio", "text"):
    fields |= {f"model.encoders.{part}.{size}": value for size, value in (
        ("depth", 1), ("width", WIDTH), ("mlp_dim", HIDDEN), ("num_heads", 2))}
  return ["--config=configs/pretrain.py:mbs,t5",
          *(f"--config.{name}={value}" for name, value in fields.items())]


def test_in_and_out(run, tmp_path):
  """By paths of any name; epsilon comes from the config.json beside a file."""
  workdir, vit, t5 = (
      tmp_path / name for name in (f"{FOLDER}/workdir", "vit.safetensors",
                                   f"{FOLDER}/t5/model.safetensors"))
  code, output, errors = run(
      f"--workdir=~/{FOLDER}/workdir", "--vit=~/vit.safetensors",
      f"--t5=~/{FOLDER}/t5", *config_flags(tmp_path), fork=False)
  assert code == 0, errors
  assert f"{vit}: left out: head.weight" in output
  assert f"{vit}: positions: rows plus columns leave " in output
  assert f"{t5.parent}: words and AGG: as they were" in output
  assert shlex.join([
      f"--config.init={workdir}",
      "--config.model.encoders.text.epsilon=0.001"]) in output
  encoders = workdir_lib.read_config(str(workdir)).model.encoders
  assert (encoders.text.epsilon, encoders.video.epsilon) == (1e-3, None)

  assert (workdir / "vocabulary.txt").read_text() == "a\nred\ncircle\n"
  with files.checkpoint_path(str(workdir / "checkpoints" / "ckpt-0")) as path:
    saved = tf.train.load_checkpoint(path).get_tensor(
        "model/towers/text/encoder/blocks/0/mlp_in/kernel/"
        ".ATTRIBUTES/VARIABLE_VALUE")
  np.testing.assert_array_equal(
      saved, make_t5()["encoder.block.0.layer.1.DenseReluDense.wi.weight"].T)

  (workdir / "vocabulary.txt").unlink()  # as of a converted model
  out = tmp_path / FOLDER / "timm"
  code, output, errors = run(
      f"--workdir={workdir}", f"--export=~/{FOLDER}/timm", "--layout=timm")
  assert code == 0, errors
  assert output == f"{out}: video tower of step 0\n"
  ours = safetensors.numpy.load_file(out / "model.safetensors")
  theirs = make_vit()
  assert set(ours) == set(theirs) - {"head.weight"}
  for name in set(ours) - {"cls_token", "pos_embed"}:
    np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_the_tower_of_a_fine_tuned_model_goes_out(run, tmp_path):
  code, output, errors = run(
      f"--workdir={FIXTURES / 'tuned'}", f"--export={tmp_path}/out")
  assert code == 0, errors
  weights = tf.train.load_checkpoint(str(FIXTURES / "tuned" / "checkpoints"))
  np.testing.assert_array_equal(
      safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")[
          "encoder.layer.0.intermediate.dense.weight"],
      weights.get_tensor("model/tower/encoder/blocks/0/mlp_in/kernel/"
                         ".ATTRIBUTES/VARIABLE_VALUE").T)


def test_a_full_disk_is_left_as_it_was(run, tmp_path, small_disk):
  disk = small_disk("16k")
  flags = [f"--vit={tmp_path}/vit.safetensors", *config_flags(tmp_path)]
  (disk / "mine").mkdir()
  (disk / "mine" / "notes.txt").write_text("mine")
  before = sorted(disk.rglob("*"))
  for folder in ("new", "mine"):
    code, _, errors = run(f"--workdir={disk}/{folder}", *flags)
    assert code == 1
    assert re.match("error: .* cannot write the checkpoint of step 0",
                    errors.splitlines()[-1])
    assert sorted(disk.rglob("*")) == before


@pytest.mark.parametrize("flags,message", [
    (["--vit={}/t5.safetensors", "config"], "of no layout known for video"),
    (["--vit={}/vit.safetensors"], "--config is missing"),
    (["--vit={}/vit.safetensors", "--workdir={}", "config"], "has a model"),
    (["--t5={}/" + FOLDER + "/t5", "config",
      "--config.model.encoders.text.epsilon=1e-5"],
     "layer_norm_epsilon is 0.001, expected 1e-05"),
    (["--vit={}/vit.safetensors", "--workdir={}/words.txt", "config"],
     "words.txt: a file, expected a new folder"),
])
def test_bad_input_is_one_line(run, tmp_path, flags, message):
  (tmp_path / "config.json").write_text("{}")
  flags = (config_flags(tmp_path) if "config" in flags else []) + [
      flag.format(tmp_path) for flag in flags if flag != "config"]
  before = sorted(tmp_path.rglob("*"))
  code, _, errors = run(f"--workdir={tmp_path}/workdir", *flags)
  assert code == 1
  lines = [line for line in errors.splitlines() if line.startswith("error: ")]
  assert len(lines) == 1 and message in lines[0], errors
  assert "Traceback" not in errors
  assert sorted(tmp_path.rglob("*")) == before
