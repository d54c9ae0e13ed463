"""Exported models: with plain TensorFlow, and loaded as workdirs are."""
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

import vatt
from tests import tiny
from vatt import exports, inference, restore, transfer, workdir, xla
from vatt.config import replace
from vatt.errors import UserError
from vatt.tasks import make_task

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
ROWS = (1, 3, 5)
# Nothing but TensorFlow: what else this project brings cannot be imported.
PLAIN = """
import sys
for name in ("vatt", "configs", "tensorflow_addons", "tensorflow_io", "keras",
             "ml_collections", "safetensors"):
  sys.modules[name] = None
import numpy as np
import tensorflow as tf
inputs, outputs = np.load("inputs.npz"), {}
for path in sys.argv[1:]:
  loaded = tf.saved_model.load(path)
  for name, function in loaded.signatures.items():
    signal = inputs[f"{path} {name}"]
    for rows in (1, 3, 5):
      found = function(**{name: tf.constant(signal[:rows])})
      for key, value in getattr(loaded, name)(signal[:rows]).items():
        np.testing.assert_array_equal(value, found[key])
        outputs[f"{path} {name} {rows} {key}"] = value.numpy()
# Its gradient is there too, though ours are not.
kernel = next(loaded.weights[name] for name in loaded.weights
              if name.endswith("video/encoder/blocks/0/attention/qkv/kernel"))
with tf.GradientTape() as tape:
  loss = tf.reduce_sum(loaded.video(inputs[f"{path} video"])["video_va"])
gradient = tape.gradient(loss, kernel)
assert np.abs(gradient).max() > 1e-3
np.savez("outputs.npz", **outputs)
"""


@pytest.fixture(scope="module")
def models():
  """The models of the fixtures, each loaded once."""
  class Models(dict):
    def __missing__(self, name):
      self[name] = vatt.load(FIXTURES / name)
      return self[name]
  return Models()


def run(python, *arguments, fork=True):
  """The command."""
  return python.run("-m", "vatt.export", *arguments, fork=fork)


@pytest.fixture(scope="module")
def by_command(python, tmp_path_factory):
  """The folder of a SavedModel, and how the command ended that wrote it."""
  folder = tmp_path_factory.mktemp("by_command") / "out"
  return folder, run(python, f"--workdir={FIXTURES}/specific",
                     "--to=saved_model", f"--out={folder}/", fork=False)


@pytest.fixture(scope="module")
def exported(models, by_command, tmp_path_factory):
  """A function (name of a fixture, kind) -> folder, each written once."""
  top, found = tmp_path_factory.mktemp("exported"), {
      ("specific", "saved_model"): by_command[0]}

  def export(name, kind):
    if (name, kind) not in found:
      model = models[name]
      found[name, kind] = top / f"{name}_{kind}"
      exports.write(str(found[name, kind]), kind, model.task, model.model,
                    model.step)
    return found[name, kind]

  return export


def assert_close(found, wanted, message):
  """Equal to 1e-6 of the length of each vector."""
  assert found.shape == wanted.shape and found.dtype == np.float32, message
  length = np.linalg.norm(wanted, axis=1).max()
  np.testing.assert_allclose(
      found / length, wanted / length, rtol=0, atol=1e-6, err_msg=message)


def inputs_of(model):
  """Random signals of a model, a batch of 5 by modality, and sentences."""
  data, chance = model.config.data, np.random.default_rng(0)
  words, found = model.task.words, {}
  if "video" in model.modalities:
    found["video"] = chance.integers(
        0, 256, (5, data.frames, data.size, data.size, 3)).astype(np.uint8)
  if "audio" in model.modalities:
    found["audio"] = chance.integers(
        -9000, 9000, (5, data.audio_samples, 1)).astype(np.int16)
  if "text" in model.modalities:
    # By hand: the words of the first lines are 2, 3, …, unknown ones 1.
    found["sentences"] = np.array([
        words[0], f"{words[2].upper()}, {words[1]}!", f"zyzzyva {words[3]}",
        " ".join(words[:2] * data.words), words[4]])
    found["text"] = np.zeros([5, data.words], np.int32)
    for row, ids in enumerate(([2], [4, 3], [1, 5], [2, 3] * data.words, [6])):
      found["text"][row, :len(ids)] = ids[:data.words]
  return found


def wanted_of(model, inputs):
  """What `vatt.load` makes of them, by signature and name."""
  rates = {"video": {}, "audio": dict(rate=model.config.data.audio_rate)}
  found = {}
  for modality in model.signals:
    embed = getattr(model, f"embed_{modality}")
    spaces = (["va", "vt", "features"] if model.config.task == "pretrain"
              else ["features"])
    found[modality] = {f"{modality}_{space}": embed(
        list(inputs[modality]), space, windows=1, normalize=False,
        **rates[modality]) for space in spaces}
  if model.config.task == "finetune":
    found["video"]["logits"], _ = model.model(inputs["video"] / 127.5 - 1)
  if "text" in model.modalities:
    vectors = model.embed_text(list(inputs["sentences"]), normalize=False)
    found["text"] = found["sentences"] = {"text_vt": vectors}
  return found


@pytest.mark.parametrize("names", [
    ["specific"],
    pytest.param(["tuned", "agnostic", "converted"], marks=pytest.mark.slow)])
def test_a_saved_model_runs_with_tensorflow_alone(
    names, models, exported, tmp_path):
  paths = {name: str(exported(name, "saved_model")) for name in names}
  inputs = {name: inputs_of(models[name]) for name in names}
  np.savez(tmp_path / "inputs.npz", **{
      f"{paths[name]} {kind}": value for name in names
      for kind, value in inputs[name].items()})
  environment = {key: value for key, value in os.environ.items()
                 if key != "PYTHONPATH"}
  done = subprocess.run(
      [sys.executable, "-c", PLAIN, *paths.values()], cwd=tmp_path,
      env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert "gradient" not in done.stderr  # that it might lack those of functions
  found = dict(np.load(tmp_path / "outputs.npz"))
  for name in names:
    for signature, values in wanted_of(models[name], inputs[name]).items():
      for key, value in values.items():
        for rows in ROWS:
          label = f"{paths[name]} {signature} {rows} {key}"
          assert_close(found.pop(label), np.asarray(value)[:rows], label)
  assert not found  # and nothing else


@pytest.mark.parametrize("kind", exports.KINDS)
def test_what_is_loaded_is_what_the_workdir_has(
    models, exported, kind, tmp_path):
  name = "specific" if kind == "saved_model" else "tuned"
  model, folder = models[name], tmp_path / "moved [1]"
  shutil.copytree(exported(name, kind), folder)
  loaded = vatt.load(folder)
  assert (loaded.step, loaded.task.words) == (model.step, model.task.words)
  assert len(loaded.model.variables) == len(model.model.variables)
  for ours, theirs in zip(loaded.model.variables, model.model.variables):
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
  frames = inputs_of(model)["video"][0]
  np.testing.assert_array_equal(
      loaded.embed_video(frames), model.embed_video(frames))
  # It stays a model, and is no workdir to train in.
  workdir.check_model(str(folder), model.config)
  with pytest.raises(UserError, match="moved .1.: an exported model, expected "
                     "another --workdir, and --config.init=.*moved"):
    workdir.check_run(str(folder), loaded.config)
  if kind == "saved_model":
    return
  # What starts from it has its weights.
  task = make_task(replace(model.config, {"seed": 5}), model.task.words)
  fresh = task.build_model()
  assert transfer.start_from(str(folder), task, fresh) == model.step
  np.testing.assert_array_equal(
      fresh.tower.variables[0].numpy(), model.model.tower.variables[0].numpy())


@pytest.mark.parametrize("name", [
    "specific", "agnostic", "tuned",
    pytest.param("converted", marks=pytest.mark.slow)])
def test_safetensors_are_those_of_the_checkpoint(
    name, models, exported, tmp_path):
  folder = exported(name, "safetensors")
  saved = tf.train.load_checkpoint(tf.train.latest_checkpoint(
      str(FIXTURES / name / "checkpoints")))
  start, end = "model/", "/.ATTRIBUTES/VARIABLE_VALUE"
  keys = [key for key in saved.get_variable_to_shape_map()
          if key.startswith(start) and ".OPTIMIZER_SLOT" not in key]
  found = safetensors.numpy.load_file(folder / "model.safetensors")
  assert {start + key + end for key in found} == {*keys}
  for key, value in found.items():
    assert value.dtype == np.float32
    np.testing.assert_array_equal(value, saved.get_tensor(start + key + end))
  about = json.loads((folder / "export.json").read_text())
  assert about["weights"] == {
      key: list(value.shape) for key, value in found.items()}
  # The same bytes again, that anybody may read as far as the umask lets them.
  model = models[name]
  exports.write(str(tmp_path / "again"), "safetensors", model.task, model.model,
                model.step)
  for path in sorted(folder.iterdir()):
    again = tmp_path / "again" / path.name
    assert again.read_bytes() == path.read_bytes()
    assert again.stat().st_mode == (folder / "config.json").stat().st_mode


@pytest.mark.slow
def test_words_that_are_not_known_are_asked_for(models, exported, tmp_path):
  model = models["agnostic"]
  task = make_task(model.config)
  exports.write(str(tmp_path / "out"), "safetensors", task, model.model, 0)
  loaded = vatt.load(tmp_path / "out")
  assert loaded.embed_video(inputs_of(model)["video"][0]).shape == (8,)
  with pytest.raises(UserError, match="out: has no vocabulary.txt, expected"):
    loaded.embed_text("one")
  vocabulary = str(FIXTURES / "agnostic" / "vocabulary.txt")
  word = model.task.words[0]
  np.testing.assert_array_equal(
      vatt.load(tmp_path / "out", vocabulary).embed_text(word),
      model.embed_text(word))


@pytest.mark.parametrize("dtype", [
    "mixed_bfloat16", pytest.param("float64", marks=pytest.mark.slow)])
def test_other_precisions_and_parts_that_are_compiled(
    dtype, models, tmp_path, monkeypatch):
  """Of a model all of whose parts of known sizes XLA would compile."""
  monkeypatch.setattr(xla, "COMPILED_SIZE", 1)
  task = make_task(replace(workdir.read_config(str(FIXTURES / "tuned")), {
      "dtype": dtype, "model.normalize_positions": True, "model.remat": True}))
  before = tf.keras.mixed_precision.global_policy()
  try:
    model = task.build_model()
    exports.write(str(tmp_path / "out"), "saved_model", task, model, 7)
    monkeypatch.undo()
    loaded = restore.load_model(str(tmp_path / "out"))
    frames = inputs_of(models["tuned"])["video"][:2]
    wanted = task.infer(model, {"video": tf.constant(frames)})
  finally:
    tf.keras.mixed_precision.set_global_policy(before)
  assert loaded.step == 7
  for ours, theirs in zip(loaded.model.variables, model.variables):
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
  functions = tf.saved_model.load(str(tmp_path / "out"))
  found = functions.video(frames)
  # A unit in the last place of bfloat16 is 2⁻⁷ of a value from 1 to 2.
  close = {"mixed_bfloat16": 2 ** -5, "float64": 1e-12}[dtype]
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name], value, rtol=0, atol=close)
  graph = functions.signatures["video"].graph.as_graph_def()
  assert len(graph.library.function) >= 1
  for function in graph.library.function:
    assert not function.attr["_XlaMustCompile"].b
    for node in function.node_def:
      assert "_gradient_op_type" not in node.attr


@pytest.mark.slow
def test_a_classifier_of_sounds_with_several_labels(tmp_path):
  config = tiny.make_config("audio")
  config.finetune.label_smoothing = 0.0
  classes = [f"class {i}" for i in range(tiny.CLASSES)]
  task = make_task(config, classes)
  model = task.build_model()
  for kind in exports.KINDS:
    exports.write(str(tmp_path / kind), kind, task, model, 3)
  sounds = inputs_of(loaded := vatt.load(tmp_path / "safetensors"))["audio"]
  functions = tf.saved_model.load(str(tmp_path / "saved_model"))
  assert list(functions.signatures) == ["audio"]
  found = functions.audio(sounds)
  for name, value in task.infer(model, {"audio": tf.constant(sounds)}).items():
    assert_close(found[name].numpy(), value.numpy(), name)
  scores = dict(loaded.classify(
      sounds[0], top=None, rate=config.data.audio_rate))
  for name, logit in zip(classes, found["logits"][0].numpy()):
    assert scores[name] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)


def test_replicas_hold_it(exported, models):
  strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
  loaded = inference.Model(
      exported("tuned", "safetensors"), strategy=strategy)
  for ours, theirs in zip(loaded.model.variables,
                          models["tuned"].model.variables):
    for replica in strategy.experimental_local_results(ours):
      np.testing.assert_array_equal(replica.numpy(), theirs.numpy())


# -----------------------------------------------------------------------------
# Damage.
# -----------------------------------------------------------------------------
def hash_again(folder):
  """Has export.json vouch for the files as they are."""
  path = folder / "export.json"
  about = json.loads(path.read_text())
  for name, facts in about["files"].items():
    content = (folder / name).read_bytes()
    facts.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
  path.write_text(json.dumps(about))


def edit(change):
  """A damage that changes a dict of weights."""
  def damage(folder, _):
    path = folder / "model.safetensors"
    values = safetensors.numpy.load_file(path)
    change(values)
    path.write_bytes(safetensors.numpy.save(values))
    hash_again(folder)
  return damage


def shorten(folder, name):
  path = folder / name
  content = path.read_bytes()
  path.write_bytes(content[:len(content) // 2])


def shorten_unseen(folder, name):
  shorten(folder, name)
  hash_again(folder)


def flip(folder, name):
  path = folder / name
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)


def empty_list(folder, name):
  (folder / name).write_text('{"kind": "saved_model", "files": 3}')


AGG = "towers/video/tokenizer/agg"
DATA = "variables/variables.data-00000-of-00001"


@pytest.mark.parametrize("kind, name, damage, said", [
    ("safetensors", "model.safetensors", shorten, r"model.safetensors has \d+ "
     r"bytes, expected \d+; expected an exported model as it was written"),
    ("safetensors", "model.safetensors", flip, "has another SHA-256 than when"),
    ("safetensors", "model.safetensors", shorten_unseen, "its weights cannot be"
     r" read \(.*\), expected an exported model"),
    ("safetensors", "vocabulary.txt", flip, "vocabulary.txt has another SHA"),
    ("safetensors", "model.safetensors", lambda folder, name: (
        folder / name).unlink(), "damaged: model.safetensors is missing"),
    ("safetensors", "export.json", empty_list, "export.json: no list of the "),
    ("safetensors", "export.json", shorten, "export.json: not valid JS"),
    ("safetensors", "", edit(lambda values: values.pop(AGG)), f"lacks {AGG}, "
     r"expected the \d+ weights of its config.json"),
    ("safetensors", "", edit(lambda values: values.update(x=values[AGG])),
     r"has x, expected the \d+ weights of its config.json"),
    ("safetensors", "", edit(lambda values: values.update({
        AGG: values[AGG][1:]})), f"{AGG} is float32 .7., expected float32 .8."),
    ("safetensors", "", edit(lambda values: values.update({
        AGG: values[AGG].astype(np.float16)})), f"{AGG} is float16 .8., exp"),
    ("safetensors", "", edit(lambda values: values[AGG].__setitem__(
        slice(2), (np.nan, np.inf))), f"{AGG} has 2 of 8 values that are NaN "),
    ("saved_model", DATA, flip, "00001 has another SHA-256 than when it was"),
    ("saved_model", DATA, shorten_unseen, "its weights cannot be read"),
    ("saved_model", "saved_model.pb", flip, "saved_model.pb has another SHA"),
])
def test_damage_is_a_line(
    kind, name, damage, said, models, exported, tmp_path):
  folder = tmp_path / "out"
  shutil.copytree(exported("specific", kind), folder)
  model = models["specific"].model
  before = [variable.numpy() for variable in model.variables]
  damage(folder, name)
  with pytest.raises(UserError, match=said) as error:
    exports.load(str(folder), model)
  assert str(error.value).startswith(f"{folder}") and "\n" not in str(error)
  for variable, value in zip(model.variables, before):
    np.testing.assert_array_equal(variable.numpy(), value)


def test_another_models_weights_are_refused(exported, tmp_path, models):
  shutil.copytree(exported("specific", "safetensors"), tmp_path / "out")
  shutil.copy(exported("agnostic", "safetensors") / "model.safetensors",
              tmp_path / "out")
  hash_again(tmp_path / "out")
  with pytest.raises(UserError, match=r"out: lacks towers/.*, expected the 8"):
    vatt.load(tmp_path / "out")


def test_weights_without_their_list_are_no_model(exported, tmp_path):
  for kind, name in ("saved_model", "saved_model.pb"), (
      "safetensors", "model.safetensors"):
    folder = shutil.copytree(exported("tuned", kind), tmp_path / kind)
    (folder / "export.json").unlink()
    with pytest.raises(UserError, match=f"{kind}: has {name} and no export.js"):
      vatt.load(folder)
  # A model of others, which `transformers` reads.
  (folder / "config.json").write_text('{"model_type": "vit"}')
  with pytest.raises(UserError, match="config.json: no task, expected the con"):
    vatt.load(folder)


def test_no_model_with_nan_leaves(models, tmp_path):
  model = models["tuned"]
  variable = model.model.variables[1]
  before = variable.numpy()
  variable.assign(np.full_like(before, np.nan))
  try:
    with pytest.raises(UserError, match="the model: .* values that are NaN or"):
      exports.write(str(tmp_path / "out"), "safetensors", *model_of(model))
  finally:
    variable.assign(before)
  assert not os.listdir(tmp_path)


def model_of(model):
  """Of `write`: the model of a `vatt.load`."""
  return model.task, model.model, model.step


@pytest.mark.parametrize("kind, size", [
    ("saved_model", "100k"), ("safetensors", "12k")])
def test_a_full_disk_is_left_as_it_was(kind, size, models, small_disk):
  disk = small_disk(size)
  (disk / "out").mkdir()
  with pytest.raises(UserError, match="--out=.*out: cannot be written .*No spa"
                     "ce left.*, expected a new folder, and room on its disk"):
    exports.write(str(disk / "out"), kind, *model_of(models["tuned"]))
  assert os.listdir(disk) == ["out"] and not os.listdir(disk / "out")


def test_the_first_to_end_has_the_folder(models, tmp_path, monkeypatch):
  """Another export of that name is done between start and end of this."""
  out = tmp_path / "out"

  def last(folder, task, model):
    exports.write(str(out), "safetensors", task, model, 1)
    exports._write_safetensors(folder, task, model)

  monkeypatch.setitem(exports.KINDS, "slow", (last, None))
  with pytest.raises(UserError, match="--out=.*out: has config.json in it, "):
    exports.write(str(out), "slow", *model_of(models["tuned"]))
  assert os.listdir(tmp_path) == ["out"]
  assert json.loads((out / "export.json").read_text())["step"] == 1


# -----------------------------------------------------------------------------
# The command.
# -----------------------------------------------------------------------------
def test_the_command_writes_what_can_be_exported_again(
    python, by_command, models, tmp_path):
  first, done = by_command
  assert done.returncode == 0, done.stderr
  size = sum(path.stat().st_size for path in first.rglob("*")
             if path.is_file())
  assert done.stdout == (f"{first}: step 10, 5,848 weights, {size / 1e6:.3g} MB"
                         " in 7 files\n")
  assert not [line for line in done.stderr.splitlines() if "cuda" not in line]
  # To an empty folder, of what was exported.
  done = run(python, f"--workdir={first}", "--to=safetensors",
             f"--out={tmp_path}")
  assert done.returncode == 0, done.stderr
  found = safetensors.numpy.load_file(tmp_path / "model.safetensors")
  loaded = tf.saved_model.load(str(first))
  assert found.keys() == {*loaded.weights} and len(found) == 81
  for name, value in found.items():
    np.testing.assert_array_equal(value, loaded.weights[name].numpy())
  vocabulary = (tmp_path / "vocabulary.txt").read_text()
  assert vocabulary.split("\n")[:-1] == models["specific"].task.words


@pytest.mark.parametrize("arguments, said", [
    (["--to=onnx", "--out={tmp}/a"], "--to=onnx: value should be one of <saved"
     "_model|safetensors>"),
    (["--to=safetensors"], "--out is missing"),
    (["--out={tmp}/a"], "--to is missing"),
    (["--to=safetensors", "--out={tmp}"], "--out={tmp}: has b in it, expected "
     "a new or an empty folder"),
    (["--to=safetensors", "--out={tmp}/b"], "--out={tmp}/b: a file, expected "),
    (["--to=safetensors", "--out={tmp}/c/d"], "--out={tmp}/c/d: expected a new "
     "folder in one that is there"),
    (["--to=safetensors", "--out={tmp}/a", "--workdir={tmp}"],
     "{tmp}/config.json: not found, expected the workdir of a run"),
])
def test_bad_input_is_one_line(arguments, said, python, tmp_path):
  (tmp_path / "b").touch()
  done = run(python, f"--workdir={FIXTURES}/tuned",
             *(argument.format(tmp=tmp_path) for argument in arguments))
  assert done.returncode == 1 and not done.stdout
  error, = done.stderr.splitlines()
  assert error.startswith("error: ") and said.format(tmp=tmp_path) in error
  assert os.listdir(tmp_path) == ["b"]
