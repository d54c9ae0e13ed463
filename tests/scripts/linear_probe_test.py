"""The script on a workdir of the real program, and the shipped configs."""
import json

import pytest

from configs import linear_probe
from vatt.config import check_probe


@pytest.fixture(scope="module")
def workdir(run_main, tmp_path_factory):
  folder = tmp_path_factory.mktemp("workdir")
  code, output = run_main(
      folder, "--mode=train", *(f"--config.{field}=5" for field in (
          "total_steps", "eval_every", "log_every", "checkpoint_every")))
  assert code == 0, output
  (folder / "vocabulary.txt").unlink()  # as of a released model
  return folder


def run(python, workdir, *flags, arg="digits_audio", fork=True):
  return python.run(
      "scripts/linear_probe.py", f"--workdir={workdir}",
      f"--config=configs/linear_probe.py:{arg}", *flags, fork=fork)


def test_table_and_files(workdir, python):
  """Of two splits, here the same one under two names."""
  result = run(python, workdir, "--config.lrc.steps=200",
               "--config.probe.splits=('','')",
               "--config.probe.train_windows=2", fork=False)
  assert result.returncode == 0, result.stderr
  lines = result.stdout.splitlines()
  assert lines[0] == (
      f"{workdir}: step 5, audio of spoken_digits/official, 16 features, 102 + "
      "102 clips to train, 30 + 30 to test")
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
  assert "of 21 held-out clips" in result.stderr and "step/s" in result.stderr


@pytest.fixture(scope="module")
def few_clips(test_data, tmp_path_factory, python):
  """data_dir of tiny datasets of the same videos: `svm`, as its list has them;
  `alone` with one class to train on; `new` with another one to test on."""
  folder = tmp_path_factory.mktemp("few")
  cases = test_data / "cases"
  rows = (cases / "svm/clips.csv").read_text()
  for name, text in (("svm", rows), ("alone", rows.replace("rare", "common")),
                     ("new", rows.replace("v7.mp4,0,,rare", "v7.mp4,0,,new"))):
    manual = folder / name
    manual.mkdir()
    for path in (cases / "base").glob("*.mp4"):
      (manual / path.name).symlink_to(path)
    (manual / "clips.csv").write_text(text)
    python.run(
        "scripts/prepare_dataset.py", f"--manual_dir={manual}",
        f"--dataset=clips/{name}+fps=8+size=24+audio_rate=8000",
        f"--data_dir={folder}/data").check_returncode()
  return folder / "data"


def run_few(python, workdir, data_dir, name, *flags):
  return run(
      python, workdir, f"--config.data.data_dir={data_dir}",
      f"--config.probe.dataset=clips/{name}+fps=8+size=24+audio_rate=8000",
      "--config.lrc.steps=20", "--config.probe.train_windows=2", *flags,
      arg="digits_video")


@pytest.mark.slow
def test_a_class_with_one_training_clip(workdir, python, few_clips):
  result = run_few(python, workdir, few_clips, "svm")
  assert result.returncode == 0, result.stderr
  title, columns, values, *_ = result.stdout.splitlines()
  assert title.endswith("clips/svm+fps=8+size=24+audio_rate=8000 at 8 fps, 16 "
                        "features, 6 clips to train, 2 to test")
  assert columns.split() == ["lrc", "top-1", "svm", "top-1", "knn", "top-1"]
  assert {float(value[:-1]) for value in values.split()[1:]} <= {0, 50, 100}
  assert "k is 20, all 6 training clips vote" in result.stderr


@pytest.mark.parametrize("name, expected", [
    ("alone", "and 'test': the training clips have 1 class, expected at least"),
    ("new", "and 'test': test clips have classes [1], expected those of the"),
])
def test_clips_that_cannot_be_probed(
    workdir, python, few_clips, name, expected):
  """Said in a line, before any features are made."""
  result = run_few(python, workdir, few_clips, name)
  assert result.returncode == 1
  assert expected in result.stderr.splitlines()[-1]
  assert "window/s" not in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("flags, expected", [
    (["--config.probe.probes=('lda',)"], "probe.probes is ('lda',), expected"),
    (["--config.probe.test_crops=0"],
     "probe.test_crops is 0, expected a whole number from 1"),
    (["--config.probe.modality=video", "--config.probe.fps=100.0"],
     "frames a second, expected probe.fps (100)"),
    (["--config.svm.cs=(0.0,)"], "svm.cs is (0.0,), expected"),
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
  """They are valid, and their data are as the paper has them."""
  config = linear_probe.get_config(arg)
  check_probe(config)
  modality = "audio" if arg in ("esc50", "digits_audio") else "video"
  assert config.probe.modality == modality
  splits = {"ucf101": 3, "hmdb51": 3, "esc50": 5}.get(arg, 1)
  assert len(config.probe.splits) == splits
  # A stride of 2 at 25 frames a second (appendix B.1).
  assert config.probe.fps == (12.5 if arg in ("ucf101", "hmdb51") else 0)
  assert config.lrc.to_dict() == dict(
      components=128, kept=13, lr=5e-4, batch_size=64, steps=50_000)
  assert config.knn.k == 20
