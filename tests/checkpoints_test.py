import hashlib
import json
import logging
import os
import resource

import numpy as np
import pytest
import tensorflow as tf

from vatt import checkpoints
from vatt.checkpoints import Checkpoints
from vatt.errors import UserError


def state(step=0, size=1000):
  """Two variables, whose values follow from the step."""
  return {"a": tf.Variable(np.full(size, step, np.float32)),
          "b": tf.Variable(np.arange(size) * step)}


def put(variables, step):
  variables["a"].assign(np.full(variables["a"].shape, step))
  variables["b"].assign(np.arange(variables["b"].shape[0]) * step)


def assert_is(variables, step):
  size = variables["a"].shape[0]
  np.testing.assert_array_equal(variables["a"], np.full(size, step))
  np.testing.assert_array_equal(variables["b"], np.arange(size) * step)


def save_steps(directory, steps, keep=3, size=1000):
  variables = state(size=size)
  run = Checkpoints(str(directory), keep, **variables)
  for step in steps:
    put(variables, step)
    run.save(step)
  return run


def restored(directory, size=1000):
  variables = state(size=size)
  run = Checkpoints(str(directory), **variables)
  step = run.restore_latest()
  assert_is(variables, step or 0)
  return step


def files_of(step):
  return [f"ckpt-{step}{end}" for end in (
      ".data-00000-of-00001", ".index", ".manifest.json")]


def test_save_keeps_the_newest_and_restore_gives_the_last(tmp_path):
  assert restored(tmp_path) is None
  run = save_steps(tmp_path, [5, 10, 15, 100])
  assert sorted(os.listdir(tmp_path)) == sorted(
      ["checkpoint", *files_of(10), *files_of(15), *files_of(100)])
  assert tf.train.latest_checkpoint(tmp_path) == str(tmp_path / "ckpt-100")
  assert restored(tmp_path) == 100
  before = os.stat(tmp_path / "ckpt-100.index").st_mtime_ns
  run.save(100)  # Is there already.
  assert os.stat(tmp_path / "ckpt-100.index").st_mtime_ns == before


def test_manifest_holds_sizes_and_hashes(tmp_path):
  save_steps(tmp_path, [7])
  manifest = json.loads((tmp_path / "ckpt-7.manifest.json").read_text())
  data = {name: (tmp_path / name).read_bytes() for name in files_of(7)[:2]}
  assert manifest == {"step": 7, "files": {
      name: {"bytes": len(content),
             "sha256": hashlib.sha256(content).hexdigest()}
      for name, content in data.items()}}


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def cut(path):
  with open(path, "r+b") as file:
    file.truncate(path.stat().st_size - 1)


@pytest.mark.parametrize("damage, said", [
    (flip, "SHA-256"), (cut, "bytes, expected"),
    (lambda path: path.unlink(), "missing")])
@pytest.mark.parametrize("name", files_of(20)[:2])
def test_damage_is_told_and_the_one_before_taken(
    tmp_path, caplog, damage, said, name):
  save_steps(tmp_path, [10, 20])
  damage(tmp_path / name)
  with caplog.at_level(logging.WARNING):
    assert restored(tmp_path) == 10
  assert name in caplog.text and said in caplog.text
  assert "going back to the checkpoint of step 10" in caplog.text
  assert tf.train.latest_checkpoint(tmp_path) == str(tmp_path / "ckpt-10")

  # Going on replaces the damaged one, at its step or at another.
  variables = state()
  run = Checkpoints(str(tmp_path), **variables)
  run.restore_latest()
  put(variables, 15)
  run.save(15)
  assert restored(tmp_path) == 15
  assert not any(n.startswith("ckpt-20") for n in os.listdir(tmp_path))
  put(variables, 20)
  run.save(20)
  assert restored(tmp_path) == 20


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"files": {"x": 1}}'])
def test_damaged_manifest(tmp_path, caplog, content):
  save_steps(tmp_path, [10, 20])
  (tmp_path / "ckpt-20.manifest.json").write_text(content)
  with caplog.at_level(logging.WARNING):
    assert restored(tmp_path) == 10
  assert "ckpt-20.manifest.json" in caplog.text


def test_all_damaged_is_an_error_that_names_them(tmp_path):
  save_steps(tmp_path, [10, 20])
  cut(tmp_path / files_of(10)[0])
  flip(tmp_path / files_of(20)[0])
  with pytest.raises(UserError, match="ckpt-20.*SHA.*ckpt-10.*bytes"):
    restored(tmp_path)


def test_leftovers_of_an_interrupted_save_are_removed(tmp_path, caplog):
  save_steps(tmp_path, [10])
  (tmp_path / "ckpt-20_temp").mkdir()
  for name in ("ckpt-20_temp/part-00000-of-00001.data-00000-of-00001",
               "ckpt-20.data-00000-of-00001", "ckpt-30.index.tempstate123",
               "ckpt-20.manifest.json.tmp", "checkpoint.tmp", "notes.txt"):
    (tmp_path / name).write_text("half")
  (tmp_path / "checkpoint").write_text('model_checkpoint_path: "ckpt-20"')
  with caplog.at_level(logging.WARNING):
    assert restored(tmp_path) == 10
  assert "ckpt-20" in caplog.text and "ckpt-30" in caplog.text
  assert sorted(os.listdir(tmp_path)) == sorted(
      ["checkpoint", "notes.txt", *files_of(10)])
  assert tf.train.latest_checkpoint(tmp_path) == str(tmp_path / "ckpt-10")


def forget_hashes(directory, step):
  """Leaves a manifest as a save has it that is killed before the hashes."""
  path = directory / f"ckpt-{step}.manifest.json"
  manifest = json.loads(path.read_text())
  for facts in manifest["files"].values():
    del facts["sha256"]
  path.write_text(json.dumps(manifest))


def test_a_save_without_hashes_is_restored_and_gets_them(tmp_path, caplog):
  save_steps(tmp_path, [10, 20])
  path = tmp_path / "ckpt-20.manifest.json"
  manifest = json.loads(path.read_text())
  forget_hashes(tmp_path, 20)
  content = path.read_text()
  variables = state()
  with caplog.at_level(logging.WARNING):
    # Whoever does not own the directory leaves it as it is.
    other = Checkpoints(str(tmp_path), is_chief=False, **variables)
    assert other.restore_latest() == 20
    other.restore(20)
  assert_is(variables, 20)
  assert "ckpt-20 has no SHA-256s, as its save was cut" in caplog.text
  assert path.read_text() == content
  assert restored(tmp_path) == 20
  assert json.loads(path.read_text()) == manifest
  caplog.clear()
  with caplog.at_level(logging.WARNING):
    assert restored(tmp_path) == 20
  assert not caplog.text
  flip(tmp_path / files_of(20)[0])
  assert restored(tmp_path) == 10


@pytest.mark.parametrize("damage, said", [
    (flip, "ckpt-20 cannot be read"), (cut, "bytes, expected")])
@pytest.mark.parametrize("name", files_of(20)[:2])
def test_damage_is_told_without_hashes_too(
    tmp_path, caplog, damage, said, name):
  save_steps(tmp_path, [10, 20])
  forget_hashes(tmp_path, 20)
  damage(tmp_path / name)
  with caplog.at_level(logging.WARNING):
    assert restored(tmp_path) == 10
  assert said in caplog.text


# Forks children that save without end, and kills each in mid-save: every other
# one as soon as there is a manifest without hashes. A process of its own, as
# TensorFlow may be imported, not used, before a fork.
KILLER = """
import os, random, signal, sys, time
import tensorflow as tf
sys.path.insert(0, sys.argv[2])
from checkpoints_test import Checkpoints, assert_is, put, state

SIZE = 200_000

def child(directory, pipe):
  variables = state(size=SIZE)
  run = Checkpoints(directory, 2, **variables)
  step = run.restore_latest() or 0
  assert_is(variables, step)
  os.write(pipe, b"restored %d\\n" % step)
  while True:
    step += 1
    put(variables, step)
    run.save(step)
    os.write(pipe, b"saved %d\\n" % step)

def unhashed():
  # Whether a save has come to its manifest, and not to its hashes.
  for name in os.listdir(directory):
    if name.endswith(".manifest.json"):
      try:
        with open(os.path.join(directory, name)) as file:
          if "sha256" not in file.read():
            return True
      except FileNotFoundError:
        pass
  return False

directory, random = sys.argv[1], random.Random(0)
saved = torn = early = kills = 0
# At least twice it must have been in each part of a save.
while kills < 6 or torn < 2 or early < 2:
  kills += 1
  assert kills < 60, "no kill met a save"
  here, there = os.pipe()
  pid = os.fork()
  if not pid:
    try:
      child(directory, there)
    except BaseException as error:
      os.write(there, b"failed %r\\n" % error)
      os._exit(1)
  os.close(there)
  text = b""
  while b"restored" not in text and b"failed" not in text:
    text += os.read(here, 1000)
  start = time.monotonic()
  while b"saved" not in text and b"failed" not in text:
    text += os.read(here, 1000)
  if kills % 2:
    time.sleep(random.uniform(0, time.monotonic() - start))
  else:
    while not unhashed():
      assert not os.waitpid(pid, os.WNOHANG)[0]
  os.kill(pid, signal.SIGKILL)
  os.waitpid(pid, 0)
  while more := os.read(here, 1000):
    text += more
  os.close(here)
  lines = [line.split() for line in text.decode().splitlines()]
  assert lines[0][0] == "restored", lines
  assert saved <= int(lines[0][1]) <= saved + 1, (saved, lines)
  saved = int(lines[-1][1])
  manifests = {n.split(".")[0] for n in os.listdir(directory)
               if n.endswith(".manifest.json")}
  early += unhashed()
  torn += any(n.startswith("ckpt") and n.split(".")[0] not in manifests
              for n in os.listdir(directory))
print("saved", saved)
"""


def test_kill_in_mid_save(tmp_path, python):
  done = python.run("-c", KILLER, tmp_path, os.path.dirname(__file__))
  assert done.returncode == 0, done.stderr[-3000:]
  saved = done.stdout.split()[-1]
  assert int(saved) >= 6
  assert restored(tmp_path, 200_000) in (int(saved), int(saved) + 1)


def test_a_state_that_was_half_read_is_of_no_step(tmp_path):
  variables = state(1)
  Checkpoints(str(tmp_path), a=variables["a"]).save(1)
  run = Checkpoints(str(tmp_path), **variables)
  run.save(2)
  with pytest.raises(UserError, match="ckpt-1: does not fit this model"):
    run.restore(1)
  assert run.newest is None
  run.restore(2)
  assert_is(variables, 1)


def test_full_disk(small_disk):
  disk = small_disk("400k")
  directory = disk / "run"
  variables = state(1, size=10_000)  # 120 kB
  run = Checkpoints(str(directory), **variables)
  run.save(1)
  free = os.statvfs(disk).f_bavail * 4096
  errors = 0
  for spare in range(36, 27, -1):  # pages, from enough down to too few
    (disk / "filler").write_bytes(bytes(free - spare * 4096))
    put(variables, spare)
    try:
      run.save(spare)
    except UserError as error:
      errors += 1
      assert str(directory) in str(error) and "0.1 MB" in str(error)
      assert "No space left" in str(error) and "intact" in str(error)
      assert sorted(os.listdir(directory)) == sorted(
          ["checkpoint", *files_of(1)])
    else:
      checkpoints._remove(str(directory), spare)
    (disk / "filler").unlink()
  assert 0 < errors < 9  # With a page or two short, the manifest is what fails.
  assert restored(directory, 10_000) == 1


def test_no_room_is_told_before_training(small_disk):
  variables = state(size=10_000)
  disk = small_disk("400k")
  Checkpoints(str(disk), **variables).save(1)
  (disk / "filler").write_bytes(bytes(200 << 10))
  run = Checkpoints(str(disk), **variables)
  assert run.restore_latest() == 1  # which needs none
  with pytest.raises(UserError, match="no room.*0.1 MB, 0.1 MB are free"):
    run.check_room()
  Checkpoints(str(disk), is_chief=False, **variables).check_room()


def test_file_size_limit(tmp_path):
  variables = state()
  run = Checkpoints(str(tmp_path), **variables)
  run.save(1)
  put(variables, 2)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
  try:
    with pytest.raises(UserError, match="step 2.*File too large"):
      run.save(2)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert sorted(os.listdir(tmp_path)) == sorted(["checkpoint", *files_of(1)])
  run.save(2)
  assert restored(tmp_path) == 2


def test_directory_that_cannot_be(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="file/run"):
    restored(tmp_path / "file" / "run")


def test_remote_file_systems():
  directory = "ram://checkpoints/run"
  save_steps(directory, [1, 2, 3, 4])
  assert sorted(tf.io.gfile.listdir(directory)) == sorted(
      ["checkpoint", *files_of(2), *files_of(3), *files_of(4)])
  with tf.io.gfile.GFile(directory + "/ckpt-4.index", "wb") as file:
    file.write(b"x")
  assert restored(directory) == 3


def test_workers_write_and_remove_nothing(tmp_path):
  worker = Checkpoints(str(tmp_path / "new"), is_chief=False, **state(5))
  assert worker.restore_latest() is None and worker.saved_steps() == []
  worker.save(1)
  assert worker.newest == 1 and not (tmp_path / "new").exists()

  save_steps(tmp_path, [1])
  (tmp_path / "ckpt-2.index").touch()  # of a save that the chief is at
  before = {path.name: path.stat() for path in tmp_path.iterdir()}
  folder = tmp_path.stat()
  variables = state(5)
  worker = Checkpoints(str(tmp_path), 1, is_chief=False, **variables)
  assert worker.restore_latest() == 1
  assert_is(variables, 1)
  worker.save(2)
  assert {path.name: path.stat() for path in tmp_path.iterdir()} == before
  assert tmp_path.stat().st_mtime_ns == folder.st_mtime_ns


def make_model(widths=(4, 2), seed=0):
  tf.keras.utils.set_random_seed(seed)
  return tf.keras.Sequential([
      tf.keras.layers.Input([3]), tf.keras.layers.BatchNormalization(),
      *[tf.keras.layers.Dense(width) for width in widths]])


def make_optimizer(model):
  optimizer = tf.keras.optimizers.legacy.Adam(0.1)
  optimizer._create_all_weights(model.trainable_variables)
  return optimizer


def train(model, optimizer, steps):
  for _ in range(steps):
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(model(tf.eye(3), training=True) ** 2)
    optimizer.apply_gradients(zip(
        tape.gradient(loss, model.trainable_variables),
        model.trainable_variables))


def test_a_continued_run_has_the_same_weights(tmp_path):
  model = make_model()
  optimizer = make_optimizer(model)
  run = Checkpoints(str(tmp_path), model=model, optimizer=optimizer)
  train(model, optimizer, 3)
  run.save(3)
  train(model, optimizer, 4)
  want = checkpoints.weights_sha256(model.variables)

  model = make_model(seed=1)
  assert checkpoints.weights_sha256(model.variables) != want
  optimizer = make_optimizer(model)
  run = Checkpoints(str(tmp_path), model=model, optimizer=optimizer)
  assert run.restore_latest() == 3
  assert optimizer.iterations.numpy() == 3
  train(model, optimizer, 4)
  assert checkpoints.weights_sha256(model.variables) == want


def test_weights_sha256():
  a, b = tf.Variable([1.0, 2.0]), tf.Variable([[1.0, 2.0]])
  sha256 = checkpoints.weights_sha256
  digest = hashlib.sha256(
      b"float32(2,)" + np.array([1, 2], np.float32).tobytes())
  assert sha256([a]) == digest.hexdigest()
  assert len({sha256(v) for v in ([a], [b], [a, b], [b, a])}) == 4


def test_restores_the_model_alone_and_on_other_replicas(tmp_path):
  strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
  with strategy.scope():
    model = make_model()
    optimizer = make_optimizer(model)
  Checkpoints(str(tmp_path), model=model, optimizer=optimizer).save(4)
  want = checkpoints.weights_sha256(model.variables)

  plain = make_model(seed=1)
  assert checkpoints.restore_model(str(tmp_path), plain) == 4
  assert checkpoints.weights_sha256(plain.variables) == want
  with strategy.scope():
    mirrored = make_model(seed=1)
    assert checkpoints.restore_model(str(tmp_path), mirrored) == 4
  assert checkpoints.weights_sha256(mirrored.variables) == want
  for variable in mirrored.variables:
    first, second = strategy.experimental_local_results(variable)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("widths", [(4,), (4, 3), (4, 2, 2)])
def test_another_model_is_refused(tmp_path, widths):
  model = make_model()
  Checkpoints(str(tmp_path), model=model,
              optimizer=make_optimizer(model)).save(4)
  other = make_model(widths)
  with pytest.raises(UserError, match="ckpt-4"):
    checkpoints.restore_model(str(tmp_path), other)
  with pytest.raises(UserError, match="ckpt-4.*does not fit"):
    Checkpoints(str(tmp_path), model=other,
                optimizer=make_optimizer(other)).restore_latest()


def test_missing_slots_are_no_silent_restore(tmp_path):
  model = make_model()
  Checkpoints(str(tmp_path), model=model,
              optimizer=make_optimizer(model)).save(4)
  with pytest.raises(UserError, match="does not fit"):
    Checkpoints(str(tmp_path), model=model,
                optimizer=tf.keras.optimizers.legacy.Adam()).restore_latest()


def test_no_checkpoint_to_use(tmp_path):
  for directory in (tmp_path, tmp_path / "none"):
    with pytest.raises(UserError, match=f"{directory}: no checkpoint"):
      checkpoints.restore_model(str(directory), make_model())
  save_steps(tmp_path, [1])
  (tmp_path / "ckpt-1.manifest.json").unlink()
  with pytest.raises(UserError, match="no checkpoint.*manifest"):
    checkpoints.restore_model(str(tmp_path), make_model())
  # Whoever only reads removes nothing.
  assert (tmp_path / "ckpt-1.index").exists()


def test_a_remote_name_that_is_a_pattern_is_refused_at_the_start():
  """Training would save there what could never be read."""
  model = tf.keras.Sequential([tf.keras.layers.Dense(1, input_shape=[1])])
  with pytest.raises(UserError, match=r"gs://a/lr\[0.1\]: has one of \* "):
    Checkpoints("gs://a/lr[0.1]", model=model).restore_latest()
