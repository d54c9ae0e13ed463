"""Embeddings that are kept: whole or not at all, of one model and protocol."""
import json
import os
import shutil
import signal
import sys

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict, FrozenConfigDict

from vatt import config as config_lib
from vatt import files, pools
from vatt.data.sources import Source
from vatt.errors import UserError

STRIDE = 7  # calls between moments to be killed at; 1 takes longer
FOLDER = "lr[0.1] *#%é?"  # of which a pattern would make another
CONFIG = FrozenConfigDict(ConfigDict(dict(
    seed=0, data=dict(
        data_dir="d", datasets=("clips/a", "b"), eval_split="test", frames=4,
        fps=12.5, spectrogram=dict(bins=80), captions=2, cache=False),
    eval=dict(windows=1, crops=1, average="embedding", batch_size=8,
              match="pair", captions=1, templates=("{}",)),
    model=dict(encoders=dict(shared=dict(num_heads=2)), remat=False))))


def source(split="test", labels=("cat", "dog")):
  return Source("clips/a", split, None, None, labels, "")


def model(seed):
  layer = tf.keras.layers.Dense(3, kernel_initializer=(
      tf.keras.initializers.GlorotUniform(seed)))
  layer.build([None, 2])
  return layer


def arrays(count, seed=0, audio=True):
  """As of `Pretrain.embed_split`, of so many clips."""
  rng = np.random.default_rng(seed)
  names = ("video_va", "video_vt", *("audio_va", "audio_vt")[:2 * audio])
  return {name: rng.normal(size=(count, 5)).astype(np.float32)
          for name in names} | {
              "text_vt": rng.normal(size=(count, 2, 3)).astype(np.float32),
              "has_video": rng.random(count) < 0.5,
              "has_caption": rng.random([count, 2]) < 0.5,
              "label": rng.integers(-1, 2, count)}


def write(folder, clips, split="test", facts=None):
  count = len(clips["label"])
  pools.write(str(folder), facts or pools.describe(CONFIG, model(0), 3),
              source(split), clips,
              [f"{split}-{i}\ta sentence" for i in range(count)])


def write_older(folder, clips, step=3):
  """As before pools said what they are of."""
  folder.mkdir(parents=True, exist_ok=True)
  for name, array in clips.items():
    np.save(folder / f"{name}.npy", array)
  (folder / "clips.tsv").write_text("x\ty\n" * len(clips["label"]))
  (folder / "pool.json").write_text(json.dumps({"step": step}))


def assert_holds(pool, clips):
  assert pool.clips.keys() == clips.keys()
  for name, array in clips.items():
    assert pool.clips[name].dtype == array.dtype
    np.testing.assert_array_equal(pool.clips[name], array)


def files_of(folder):
  return {path.name for path in folder.iterdir()}


def test_a_pool_is_what_was_written(tmp_path):
  folder, clips = tmp_path / "new" / FOLDER, arrays(6)
  write(folder, clips)
  pool = pools.read(str(folder))
  assert_holds(pool, clips)
  assert list(pool.label_names) == ["cat", "dog"]
  assert pool.lines(np.array([4, 0])) == [
      "test-4\ta sentence", "test-0\ta sentence"]
  assert pool.facts["dataset"] == "clips/a" and pool.facts["split"] == "test"
  assert files_of(folder) == {
      f"{name}.npy" for name in clips} | {"clips.tsv", "pool.json"}


def test_a_pool_lies_where_one_is(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  clips = arrays(2)
  write("", clips)
  assert_holds(pools.read(""), clips)
  assert files_of(tmp_path) == {
      f"{name}.npy" for name in clips} | {"clips.tsv", "pool.json"}


@pytest.mark.parametrize("older", [write, write_older])
def test_a_pool_in_place_of_another(tmp_path, older):
  """Its arrays alone are there, and what is no pool's."""
  folder = tmp_path / FOLDER
  older(folder, arrays(9, seed=1))
  np.save(folder / "mine.npy", np.zeros(3))
  (folder / "label.npy.0123abcd.tmp").write_text("left by a kill")
  clips = arrays(4, audio=False)
  write(folder, clips, "train")
  assert_holds(pools.read(str(folder)), clips)
  assert files_of(folder) == {f"{name}.npy" for name in clips} | {
      "clips.tsv", "pool.json", "mine.npy"}


def test_an_older_pool_is_read(tmp_path, caplog):
  folder, clips = tmp_path / FOLDER, arrays(5)
  write_older(folder, clips)
  pool = pools.read(str(folder))
  assert_holds(pool, clips)
  assert not pool.label_names and pool.lines(np.array([1])) == ["x\ty"]
  pool.check(pools.describe(CONFIG, model(1), 3))
  assert "that they are those of the workdir is not checked" in caplog.text
  with pytest.raises(UserError, match="step 3 of a model, expected 4, which "):
    pool.check(pools.describe(CONFIG, model(1), 4))


@pytest.mark.parametrize("fields, expected", [
    ({}, None),
    ({"data.data_dir": "/other", "data.datasets": ("clips/a",), "seed": 1,
      "data.cache": True, "eval.batch_size": 1, "eval.match": "label",
      "eval.captions": 2, "eval.templates": (), "model.remat": True}, None),
    ({"eval.windows": 2}, "embedded with eval.windows 1, not 2; expected the"),
    # Of the same weights, too.
    ({"model.encoders.shared.num_heads": 4}, "shared.num_heads 2, not 4; exp"),
    ({"data.datasets": ("b", "clips/a")}, "data.datasets .*clips/a.*, not .*b"),
    ({"data.spectrogram.bins": 64, "data.fps": 25.0},
     "embedded with data.fps 12.5, not 25.0; data.spectrogram.bins 80, not 64"),
])
def test_the_protocol_is_compared(tmp_path, fields, expected):
  write(tmp_path, arrays(2))
  config = config_lib.replace(CONFIG, fields)
  facts = pools.describe(config, model(0), 3)
  pool = pools.read(str(tmp_path))
  if expected is None:
    pool.check(facts)
  else:
    with pytest.raises(UserError, match=expected):
      pool.check(facts)


def test_the_weights_are_compared(tmp_path):
  write(tmp_path, arrays(2))
  with pytest.raises(UserError, match="embedded by another model .weights of "):
    pools.read(str(tmp_path)).check(pools.describe(CONFIG, model(1), 3))


@pytest.mark.parametrize("name, content, expected", [
    ("pool.json", None, "pool.json: not found, expected what --export writes"),
    ("pool.json", b"{", "pool.json: not valid JSON"),
    ("pool.json", b"[1]", "pool.json: has not all of step, weights_sha256, c"),
    ("pool.json", b'{"step": 1, "arrays": {}}', "pool.json: has not all of st"),
    ("label.npy", None, "label.npy: cannot be read .*, expected what --export"),
    ("label.npy", b"cut", "label.npy: cannot be read"),
    ("label.npy", arrays(6), "label.npy: is int64 .6., expected int64 .5., as"),
    ("clips.tsv", None, "clips.tsv: cannot be read"),
    ("clips.tsv", b"a\tb\n", "clips.tsv: has 4 bytes, expected 90, as .*pool"),
])
def test_a_pool_that_is_not_whole_is_refused(tmp_path, name, content, expected):
  write(tmp_path, arrays(5))
  if content is None:
    (tmp_path / name).unlink()
  elif isinstance(content, dict):
    np.save(tmp_path / name, content[name.removesuffix(".npy")])
  else:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=expected) as error:
    pools.read(str(tmp_path))
  assert "\n" not in str(error.value)


def kill_in_writing(moment, *args):
  """Has a process write a pool and be killed before so many calls of functions
  in the modules that do it; returns whether it was."""
  process = os.fork()
  if not process:
    left = [moment]

    def count(frame, event, arg):
      if event in ("call", "c_call") and frame.f_code.co_filename in (
          files.__file__, pools.__file__):
        left[0] -= 1
        if left[0] < 0:
          os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    write(*args)
    os._exit(0)
  return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def test_a_kill_leaves_one_pool_or_none(tmp_path):
  """Killed anywhere, it is the older one, the new one or a line."""
  old, new = arrays(5, seed=1), arrays(5, seed=2, audio=False)
  facts = pools.describe(
      config_lib.replace(CONFIG, {"eval.windows": 4}), model(0), 7)
  write(tmp_path / "old", old)
  found, killed, moment = [], True, 0
  while killed:
    folder = tmp_path / str(moment)
    shutil.copytree(tmp_path / "old", folder)
    killed = kill_in_writing(moment, folder, new, "train", facts)
    try:
      pool = pools.read(str(folder))
    except UserError as error:
      assert str(error).startswith(f"{folder}/pool.json: not found, expected ")
      found.append("none")
    else:
      is_new = pool.facts["step"] == 7
      found.append("new" if is_new else "old")
      assert_holds(pool, new if is_new else old)
      assert pool.lines(np.array([4])) == [
          f"{'train' if is_new else 'test'}-4\ta sentence"]
      assert pool.facts["config"]["eval"]["windows"] == (4 if is_new else 1)
    moment += STRIDE
  kinds = ["old", "none", "new"]
  assert set(found) == set(kinds) and found == sorted(found, key=kinds.index)
  # The next one leaves nothing of one that was killed.
  folder = tmp_path / str(found.index("none") * STRIDE)
  assert any(name.endswith(".tmp") for name in files_of(folder))
  write(folder, new, "train")
  assert_holds(pools.read(str(folder)), new)
  assert files_of(folder) == {
      f"{name}.npy" for name in new} | {"clips.tsv", "pool.json"}


def test_a_full_disk_leaves_the_older_pool(small_disk):
  folder, old = small_disk("64k") / "pool", arrays(5)
  write(folder, old)
  before = files_of(folder)
  with pytest.raises(UserError, match="pool: cannot be written .*, and room on "
                     "its disk") as error:
    write(folder, arrays(2000), "train")
  assert "\n" not in str(error.value)
  assert files_of(folder) == before
  assert_holds(pools.read(str(folder)), old)
