"""What older versions left opens, goes on and evaluates as it did there.

Workdirs, built datasets and exported pools, small, are in tests/fixtures, and
so is what the version that made them printed of them: see its README.md.
"""
import hashlib
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from vatt.data import record_index, sources

ROOT = pathlib.Path(__file__).parents[1]
FIXTURES = ROOT / "tests/fixtures"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())
RETRIEVAL = "scripts/zero_shot_retrieval.py"


@pytest.fixture
def fixtures(tmp_path):
  """A copy of the fixtures, for programs to write into."""
  return shutil.copytree(FIXTURES, tmp_path / "fixtures")


@pytest.fixture
def run(python):
  """A function of a command's arguments -> lines of its standard output."""
  def run(*command):
    done = python.run(*command, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
  return run


def files_of(folder):
  """The content of every file in a folder, by its path there."""
  return {str(path.relative_to(folder)): path.read_bytes()
          for path in sorted(folder.rglob("*")) if path.is_file()}


def examples_of(source):
  """The examples of all records of a split."""
  tensors = record_index.file_tensors(source.index)
  return [source.parse(record_index.read_record(
      tensors, tf.constant(i, tf.int64))) for i in range(len(source.index))]


# ---- Datasets ---------------------------------------------------------------

@pytest.mark.parametrize("name", EXPECTED["datasets"])
def test_dataset_has_its_records(name):
  expected = EXPECTED["datasets"][name]
  for split, digests in expected["records"].items():
    source = sources.open_source(name, str(FIXTURES / "data"), split)
    assert list(source.label_names) == expected["label_names"]
    found = []
    for example in examples_of(source):
      digest = hashlib.sha256()
      for field in sorted(example):
        digest.update(field.encode())
        digest.update(tf.io.serialize_tensor(example[field]).numpy())
      found.append(digest.hexdigest())
    assert found == digests


@pytest.mark.parametrize("name, version", [
    ("spoken_digits/official", "1.0.1"),
    ("clips/tiny+fps=4+size=16+audio_rate=2000", "1.2.0")])
def test_dataset_is_built_beside_the_old_one(fixtures, run, name, version):
  """Of the same sources the same clips are made; nothing of what was built is
  written, and it is read by its version."""
  expected, data = EXPECTED["datasets"][name], fixtures / "data"
  before = files_of(data)
  line = expected["line"].replace("/1.0.0: already built", f"/{version}: built")
  *_, last = run(
      "scripts/prepare_dataset.py", f"--dataset={name}",
      f"--manual_dir={fixtures}/{expected['sources']}", f"--data_dir={data}")
  # What clips have was not counted by version 1.
  assert re.sub(r"; with [^)]*", "", last) == f"{data}/{line}"
  after = files_of(data)
  new = {path.removeprefix(f"{name}/{version}/"): after.pop(path)
         for path in list(after) if path.startswith(f"{name}/{version}/")}
  assert after == before

  old, made = ({example["id"].numpy(): example for example in examples_of(
      sources.open_source(f"{name}:{each}", str(data), "train"))}
               for each in ("1.0.0", version))
  assert old.keys() == made.keys()
  if name.startswith("spoken_digits"):  # the very records
    shards = {path: content for path, content in before.items()
              if path.startswith(name) and not path.endswith(".json")
              and "tfrecord" in path}
    assert len(shards) == 12
    for path, content in shards.items():
      assert new[path.removeprefix(f"{name}/1.0.0/")] == content
    return
  # Version 1 had those captions alone that overlap the clip.
  four = made[b"four.mp4:0.000-1.000"]
  assert four["captions/text"].numpy().tolist() == [
      b"the first second of video four", b"the last second of video four"]
  for key, example in made.items():
    assert (example["audio"] == old[key]["audio"]).numpy().all()
    assert len(example["frames"]) == len(old[key]["frames"])


# ---- Trained models ---------------------------------------------------------

@pytest.mark.parametrize("name", ["agnostic", "converted"])
def test_model_embeds_as_before(fixtures, run, name):
  expected, pool = EXPECTED["retrieval"][name], fixtures / "exported"
  title, *table = run(
      RETRIEVAL, f"--workdir={fixtures}/{name}", f"--export={pool}",
      f"--config.data.data_dir={fixtures}/data", *expected["flags"])
  assert title == f"{fixtures}/{expected['title']}"
  lines = expected["table"]
  if name == "agnostic":
    # Its vocabulary has neither class's name: to the model they are the same,
    # and version B took the first one for each clip's.
    lines = [f"{line[:-10]}{'0.0%':>10}" if line.endswith("%") else line
             for line in lines]
  assert table == lines
  assert_same_pool(pool, FIXTURES / "pools" / name)


def assert_same_pool(folder, other):
  assert {path.name for path in folder.iterdir()} == {
      path.name for path in other.iterdir()}
  for path in other.iterdir():
    if path.suffix == ".npy":
      found, expected = np.load(folder / path.name), np.load(path)
      assert found.dtype == expected.dtype
      np.testing.assert_allclose(
          found, expected, rtol=0, atol=1e-5, err_msg=path.name)
    elif path.name == "pool.json":  # it says more now
      found, expected = (json.loads(file.read_text()) for file in (
          folder / path.name, path))
      assert {key: found[key] for key in expected} == expected
    else:
      assert (folder / path.name).read_text() == path.read_text()


def test_pool_is_searched_as_before(fixtures, run):
  """With neither the dataset nor its folder of then."""
  expected = EXPECTED["retrieval"]["specific"]
  title, *table = run(
      RETRIEVAL, f"--workdir={fixtures}/specific",
      f"--pool={fixtures}/pools/specific", *expected["flags"])
  assert title == f"{fixtures}/{expected['title']}{fixtures}/pools/specific"
  assert table == expected["table"]


def test_classifier_evaluates_as_before(fixtures, run):
  expected, workdir = EXPECTED["predictions"]["tuned"], fixtures / "tuned"
  assert run(*train_command(fixtures, "tuned"), "--mode=eval") == (
      expected["printed"])
  with np.load(workdir / "predictions.npz") as arrays:
    assert arrays["id"].astype(str).tolist() == expected["id"]
    assert arrays["classes"].tolist() == (
        workdir / "labels.txt").read_text().split()
    np.testing.assert_allclose(
        arrays["logits"], expected["logits"], rtol=0, atol=1e-5)


def train_command(fixtures, name):
  return ["-m", "vatt.main", *EXPECTED["training"][name]["flags"],
          f"--config.data.data_dir={fixtures}/data",
          f"--workdir={fixtures}/{name}"]


def without_draws(workdir):
  """Has a run go on without draws, which older versions made otherwise: its
  config is changed, and the same flags are returned."""
  path, flags = workdir / "config.json", []
  config = json.loads(path.read_text())
  for field, value in EXPECTED["no_draws"].items():
    part, name = field.split(".")
    config[part][name] = value
    flags.append(f"--config.{field}="
                 f"{tuple(value) if isinstance(value, list) else value}")
  path.write_text(json.dumps(config))
  return flags


@pytest.mark.parametrize("name, mode", [
    ("specific", "train"), ("agnostic", "train_and_eval"), ("tuned", "train")])
def test_training_goes_on(fixtures, run, name, mode):
  """From the step where it was stopped to the last, with the losses that an
  older version had in these steps."""
  workdir, expected = fixtures / name, EXPECTED["training"][name]["metrics"]
  run(*train_command(fixtures, name), *without_draws(workdir), f"--mode={mode}",
      "--config.steps_per_loop=5", "--config.log_every=5")
  rows = [json.loads(line) for line in
          (workdir / "metrics.jsonl").read_text().splitlines()]
  if mode == "train":
    expected = [row for row in expected if "train/loss" in row]
  assert [row["step"] for row in rows] == [row["step"] for row in expected]
  for row, then in zip(rows, expected):
    assert row.keys() >= then.keys()
    for field, value in then.items():
      # Rounding moves what has no gradient, such as a bias before batch norm,
      # by whole steps of Adam: not the losses, but what evaluation ranks. The
      # rate was that of the step after.
      if not field.startswith("eval/") and field != "train/lr":
        tolerance = 1e-3 if field == "train/grad_norm" else 1e-4
        assert row[field] == pytest.approx(value, rel=tolerance, abs=1e-7), (
            row["step"], field)
  assert {path.name for path in workdir.glob("checkpoints/*.json")} == {
      "ckpt-10.manifest.json", "ckpt-20.manifest.json"}


@pytest.mark.parametrize("flags, said", [
    (["--mode=eval", "--config.model.encoders.video.num_heads=4"],
     "model.encoders.video.num_heads is 4, expected 2, which the model of"),
    (["--mode=eval", "--config.model.heads=released"], "model.heads is 'relea"),
    (["--mode=eval", "--config.data.vocabulary=WORDS"],
     "number 0 is '{1}', expected '{0}' as in"),
    (["--mode=train", "--config.data.vocabulary=WORDS"],
     "number 0 is '{1}', expected '{0}' as in"),
    (["--mode=eval", "--config.dtype=float64"],
     "ckpt-10: does not fit this model: "),
    (["--mode=train", "--config.model.encoders.video.num_heads=4"],
     "expected the same config or another --workdir")])
def test_a_workdir_stays_with_its_model(
    fixtures, python, tmp_path, flags, said):
  workdir = fixtures / "specific"
  before = files_of(workdir)
  words = (workdir / "vocabulary.txt").read_text().split()
  (tmp_path / "other.txt").write_text("\n".join(
      [words[1], words[0], *words[2:]]))
  flags = [flag.replace("WORDS", str(tmp_path / "other.txt"))
           for flag in flags]
  done = python.run(*train_command(fixtures, "specific"), *flags, cwd=ROOT)
  assert done.returncode == 1
  assert said.format(*words) in done.stderr.splitlines()[-1], done.stderr
  assert files_of(workdir) == before
