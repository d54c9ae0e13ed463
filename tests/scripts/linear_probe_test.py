"""The script on a workdir of the real program, and the shipped configs."""
import json

import ml_collections
import pytest

from configs import linear_probe
from vatt.evaluators.linear_probe import KNN, LRC, SVM


@pytest.fixture(scope="module")
def workdir(run_main, tmp_path_factory):
  folder = tmp_path_factory.mktemp("workdir")
  code, output = run_main(
      folder, "--mode=train", *(f"--config.{field}=5" for field in (
          "total_steps", "eval_every", "log_every", "checkpoint_every")))
  assert code == 0, output
  (folder / "vocabulary.txt").unlink()  # as of a released model
  return folder


def run(python, workdir, *flags, fork=True):
  return python.run(
      "scripts/linear_probe.py", f"--workdir={workdir}",
      "--config=configs/linear_probe.py:digits_audio", *flags, fork=fork)


def test_table_and_files(workdir, python):
  """Of two splits, here the same one under two names."""
  result = run(python, workdir, "--config.lrc.steps=200",
               "--config.probe.splits=('','')",
               "--config.probe.train_windows=2", fork=False)
  assert result.returncode == 0, result.stderr
  lines = result.stdout.splitlines()
  assert lines[0] == (
      f"{workdir}: step 5, audio of spoken_digits/official, 16 features, 102 "
      "clips to train, 30 to test")
  path = workdir / "report/linear_probe_spoken_digits_official_audio"
  assert lines[-2:] == [f"{path}.txt", f"{path}.json"]
  assert (path.parent / f"{path.name}.txt").read_text().splitlines() == (
      lines[:-2])
  report = json.loads((path.parent / f"{path.name}.json").read_text())
  results = dict(map(tuple, report["results"]))
  assert list(results) == [
      f"{row}/{probe} top-1" for row in ("split", "mean")
      for probe in ("lrc", "svm", "knn")]
  for probe in ("lrc", "svm", "knn"):
    assert results[f"mean/{probe} top-1"] == pytest.approx(
        results[f"split/{probe} top-1"])
    assert f"{results[f'mean/{probe} top-1']:.1%}" in lines[-3]
  assert report["config"]["lrc"]["steps"] == 200
  assert "held-out top-1" in result.stderr and "step/s" in result.stderr


@pytest.mark.parametrize("flags, expected", [
    (["--config.probe.probes=('lda',)"], "probe.probes has 'lda', expected"),
    (["--config.probe.splits=('9',)"], "no split 'train9'"),
    (["--config.lrc.stpes=3"], "stpes"),
    (["--workdir=/nowhere"], "/nowhere/config.json: not found"),
    (["--config.strategy.name=tpu", "--config.probe.dataset=clips/a+audio=flac"
      ], "tpu', whose workers cannot decode the sound of clips/a+audio=flac"),
])
def test_bad_input(workdir, python, flags, expected):
  result = run(python, workdir, *flags)
  assert result.returncode == 1
  assert result.stderr.splitlines()[-1].startswith("error: ")
  assert expected in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("arg", linear_probe.DATASETS)
def test_shipped_configs(arg):
  """Their probes can be made, and their data are as the paper has them."""
  config = ml_collections.ConfigDict(linear_probe.get_config(arg)).lock()
  probes = {kind.name: kind for kind in (LRC, SVM, KNN)}
  for name in config.probe.probes:
    probes[name](**config[name].to_dict())
  modality = "audio" if arg in ("esc50", "digits_audio") else "video"
  assert config.probe.modality == modality
  splits = {"ucf101": 3, "hmdb51": 3, "esc50": 5}.get(arg, 1)
  assert len(config.probe.splits) == splits
  assert config.lrc.to_dict() == dict(
      components=128, kept=13, lr=5e-4, batch_size=64, steps=50_000)
  assert config.knn.k == 20
