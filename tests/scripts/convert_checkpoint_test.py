"""Released checkpoints become workdirs, and workdirs such checkpoints."""
import functools
import pathlib
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from configs import common
from vatt import inference, restore, transfer, workdir
from vatt.config import replace
from vatt.errors import UserError
from vatt.models.convert import released
from vatt.tasks import make_task


@pytest.fixture
def convert(python):
  """A function of flags that runs the command."""
  return functools.partial(python.run, "scripts/convert_checkpoint.py")


def test_golden_there_and_back(golden, tmp_path, convert):
  expected, path = golden.npz("ma_forward"), golden.checkpoint("ma")
  words = tmp_path / "words"
  rows = golden.sizes["vocabulary"]
  words.write_text("".join(f"word{i}\n" for i in range(2, rows)))
  # A checkpoint's folder stands for it.
  done = convert(f"--checkpoint={pathlib.Path(path).parent}/",
                 f"--workdir={tmp_path}/ma", f"--vocabulary={words}",
                 f"--head_dim={golden.sizes['head_width']}", fork=False)
  assert done.returncode == 0, done.stderr
  assert "left out, of training alone: 6 variables" in done.stdout
  # The workdir is one of ours: it embeds the sentences of the fixture.
  sentences = [" ".join(f"word{i}" for i in ids if i)
               for ids in expected["text"]]
  config = workdir.read_config(f"{tmp_path}/ma")
  # Its sound is shorter than its video at the rates that were released.
  config = replace(config, {"data.audio_rate": round(
      config.data.audio_samples * config.data.fps / config.data.frames)})
  embedder = inference.Model(f"{tmp_path}/ma", config=config)
  embedded = embedder.task.embed_sentences(  # one is empty
      embedder.model, embedder.strategy, sentences)
  np.testing.assert_allclose(
      embedded, expected["head_text_tovid"], atol=1e-5)
  known = [i for i, sentence in enumerate(sentences) if sentence]
  np.testing.assert_allclose(
      embedder.embed_text([sentences[i] for i in known], normalize=False),
      embedded[known],
      atol=1e-5)

  # Fine-tuning starts from it.
  tuned = golden.npz("ft_vit_from_ma")
  model = golden.classifier("vit_from_ma", tuned["input"].shape[1:])
  for variable in model.tower.variables:
    variable.assign(tf.zeros_like(variable))
  _, facts = golden.describe("vit_from_ma")
  task = make_task(replace(common.finetuning("video", "ma", "released"), {
      f"model.{field}": value for field, value in facts["model"].items()}))
  transfer.start_from(f"{tmp_path}/ma", task, model)
  np.testing.assert_allclose(
      model(tuned["input"])[0], tuned["logits"], atol=1e-5)

  back = tmp_path / "back [1] #%*ü"  # of which nothing is a pattern
  done = convert(f"--workdir={tmp_path}/ma", f"--export={back}/ckpt.index")
  assert done.returncode == 0, done.stderr
  assert sorted(file.name for file in back.iterdir()) == [
      "ckpt.data-00000-of-00001", "ckpt.index"]
  back = back.rename(tmp_path / "back")
  theirs = tf.train.load_checkpoint(path)
  ours = tf.train.load_checkpoint(f"{back}/ckpt")
  keys, expected = (
      {key for key in reader.get_variable_to_shape_map()
       if not released.IGNORED.fullmatch(key)} for reader in (ours, theirs))
  assert keys == expected
  for key in keys:
    np.testing.assert_array_equal(
        theirs.get_tensor(key), ours.get_tensor(key), key)

  # A second conversion finds the place taken.
  done = convert(f"--checkpoint={back}", f"--workdir={tmp_path}/ma")
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1] == (
      f"error: --workdir={tmp_path}/ma: has a model, expected a new one")


def test_golden_fine_tuned_there_and_back(golden, tmp_path, convert):
  """Also at another size, where the release resizes positions as it runs."""
  expected = golden.npz("ft_vit_interp_in_model")
  path = golden.checkpoint("vit_interp_in_model")
  size = expected["input"].shape[2]
  done = convert(f"--checkpoint={path}", f"--workdir={tmp_path}/vit",
                 f"--head_dim={golden.sizes['head_width']}", f"--size={size}")
  assert done.returncode == 0, done.stderr
  task = make_task(workdir.read_config(f"{tmp_path}/vit"))
  assert task.config.data.size == size > golden.sizes["video"][1]
  model = task.build_model()
  transfer.start_from(f"{tmp_path}/vit", task, model)
  vertical = model.tower.tokenizer.position.tables["vertical"]
  assert vertical.shape[0] == size // golden.sizes["video_patch"][1]

  for name in ("wat", "spt"):  # of waveforms, of spectrograms
    path = golden.checkpoint(name)
    done = convert(f"--checkpoint={path}.index", f"--workdir={tmp_path}/{name}",
                   f"--head_dim={golden.sizes['head_width']}")
    assert done.returncode == 0, done.stderr
    task, model, _ = restore.load_model(f"{tmp_path}/{name}")
    expected = golden.npz(f"ft_{name}")
    assert list(task.input_shapes().values()) == [expected["input"].shape[1:]]
    np.testing.assert_allclose(
        model(expected["input"])[0], expected["logits"], atol=1e-5)
  done = convert(f"--checkpoint={path}", f"--workdir={tmp_path}/other",
                 f"--head_dim={golden.sizes['head_width']}", "--size=320")
  assert done.returncode == 1 and "this is neither" in done.stderr


def test_golden_damage_is_named(golden, tmp_path):
  path = pathlib.Path(golden.checkpoint("ms"))
  copy = tmp_path / "copy [1] #%*ü"  # a pattern, to TensorFlow's readers
  copy.mkdir()
  for file in path.parent.glob("*"):
    shutil.copyfile(file, copy / file.name)
  there = str(copy / path.name)
  data, = copy.glob("*.data-*")
  whole = data.read_bytes()
  model = golden.vatt("ms")
  values = [variable.numpy() for variable in model.variables]
  for variable in model.variables:
    variable.assign(tf.zeros_like(variable))
  released.load(there, model)
  for variable, value in zip(model.variables, values):
    np.testing.assert_array_equal(variable, value)
  for damaged, why in ((whole[:1000], "cannot read"), (
      bytes(byte ^ (i % 64 == 0) for i, byte in enumerate(whole)),
      "cannot read")):
    data.write_bytes(damaged)
    with pytest.raises(UserError, match=re.escape(f"{there}: {why}")):
      released.load(there, model)
  index, = copy.glob("*.index")
  index.write_bytes(b"no index")
  for missing in (there, str(tmp_path / "nothing")):
    with pytest.raises(UserError, match="not a checkpoint that can be read"):
      released.read_shapes(missing)


def test_what_a_path_of_a_checkpoint_means(tmp_path):
  prefix = str(tmp_path / "a [1] #%*ü" / "model.ckpt-7")
  names = ["model.ckpt-7.index", "model.ckpt-7.data-00000-of-00001"]
  folder = pathlib.Path(prefix).parent
  folder.mkdir()
  with pytest.raises(UserError, match="a folder with 0 checkpoints, expected"):
    released.find(str(folder))
  for name in names:
    (folder / name).touch()
  for path in (prefix, *(f"{folder}/{name}" for name in names), str(folder),
               f"{folder}/"):
    assert released.find(path) == prefix
  (folder / "model.ckpt-12.index").touch()
  with pytest.raises(UserError, match="2 checkpoints: model.ckpt-12, model.ck"):
    released.find(str(folder))
  # Also where they were moved since.
  (folder / "checkpoint").write_text(
      'model_checkpoint_path: "/other/place/model.ckpt-7"\n'
      'all_model_checkpoint_paths: "/other/place/model.ckpt-12"\n')
  assert released.find(str(folder)) == prefix


def test_other_checkpoints_are_named(tmp_path):
  """By what kind of model they seem to hold."""
  layer = tf.keras.layers.Dense(1)
  layer.build([1, 1])
  for name, root, kind in (
      ("ours", {"model": tf.train.Checkpoint(towers=layer)}, "this project"),
      ("keras", {"layer_with_weights-0": layer}, "another model of Keras"),
      ("optimizer", {"optimizer": layer}, "an optimizer alone")):
    path = tf.train.Checkpoint(**root).write(str(tmp_path / name))
    with pytest.raises(UserError, match=f"no released VATT, it .*{kind}") as e:
      released.describe(released.read_shapes(path), path)
    assert "is missing" in str(e.value)


def test_golden_export_that_fails_leaves_nothing(golden, small_disk):
  model = golden.classifier("wat", golden.npz("ft_wat")["input"].shape[1:])
  folder = small_disk("16k")
  with pytest.raises(UserError, match="ckpt: cannot be written: "):
    released.save(str(folder / "ckpt"), model)
  assert not list(folder.iterdir())


def test_golden_export_goes_on_after_a_kill(golden, tmp_path):
  """Between its files: the last, the index, is missing."""
  model = golden.classifier("wat", golden.npz("ft_wat")["input"].shape[1:])
  path = str(tmp_path / "ckpt")
  data = tmp_path / "ckpt.data-00000-of-00001"
  data.write_text("left")
  (tmp_path / "ckpt.tmp").mkdir()
  (tmp_path / "ckpt.tmp" / "notes.txt").write_text("of somebody")
  released.save(path, model)
  assert (tmp_path / "ckpt.tmp" / "notes.txt").exists()
  assert data.stat().st_size > 1000
  assert not released.misfits(released.read_shapes(path), model)


def test_golden_misfits_are_listed(golden):
  path, facts = golden.describe("ms")
  shapes = released.read_shapes(path)
  model = golden.vatt("ms")
  assert not released.misfits(shapes, model)
  key = next(key for key in shapes if key.endswith("wi/bias" + released.VALUE))
  for changed, why in (
      ({k: v for k, v in shapes.items() if k != key}, "wi/bias is missing"),
      (shapes | {key: (3,)}, r"wi/bias is \(3,\), expected"),
      (shapes | {"model/more" + released.VALUE: (1,)},
       "more has no place in this model")):
    problem, = released.misfits(changed, model)
    assert why.replace("\\", "") in problem
  assert len(released.misfits(shapes, golden.vatt("ma"))) > 100
  with pytest.raises(UserError, match="no released VATT"):
    released.describe({"model/x" + released.VALUE: (1,)}, "other")
  with pytest.raises(UserError, match="expected a multiple of head_dim, 77"):
    released.describe(shapes, path, 77)
