"""Each of the paper's datasets, from lists and media to what its config does,
by the commands that the configs show."""
import json
import re

import pytest

from tests import miniatures

TINY = {"batch_size": 2, "total_steps": 1, "steps_per_loop": 1, "log_every": 1,
        "checkpoint_every": 1, "eval_every": 1, "optimizer.warmup_steps": 0,
        "dtype": "float32", "data.size": 32, "data.frames": 8,
        "eval.batch_size": 8}
SIZES = {"depth": 1, "width": 16, "mlp_dim": 32, "num_heads": 2}


@pytest.fixture(scope="module")
def build(tmp_path_factory, test_data, python):
  """A function (name) -> data_dir in which that dataset is built."""
  folder = tmp_path_factory.mktemp("official")

  def run(name):
    if not (folder / name).exists():
      annotations, manual = miniatures.make(name, folder / name, test_data)
      done = python.run(
          "scripts/prepare_dataset.py", f"--dataset={name}",
          f"--annotations={annotations}", f"--manual_dir={manual}",
          f"--data_dir={folder}/data")
      assert done.returncode == 0, done.stderr
      (folder / name / "said").write_text(done.stdout)
    return folder / "data"

  return run


@pytest.fixture(scope="module")
def run(python):
  """A function (program, config, flags, overrides) -> what it printed."""
  def run(program, config, *flags, **fields):
    done = python.run(*program.split(), f"--config=configs/{config}", *flags, *(
        f"--config.{name}={value}" for name, value in fields.items()))
    assert done.returncode == 0, done.stderr
    return done.stdout

  return run


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, build, run, python):
  """Workdir of pre-training on both datasets, a step, at tiny size."""
  folder = tmp_path_factory.mktemp("pretrained")
  for name in "howto100m", "audioset":
    data = build(name)
  done = python.run("scripts/build_vocabulary.py", "--dataset=howto100m",
                    f"--data_dir={data}")
  assert done.returncode == 0, done.stderr
  sizes = {f"model.encoders.{part}.{size}": value for size, value in
           SIZES.items() for part in ("video", "audio", "text")}
  said = run("-m vatt.main", "pretrain.py:bbs", f"--workdir={folder}", **TINY,
             **sizes, **{"data.data_dir": data, "model.dim_va": 16,
                         "model.dim_vt": 8, "data.audio_samples": 38_400})
  assert "text_to_video/R@1" in said
  return folder


@pytest.mark.slow
def test_pretrain(pretrained):
  assert (pretrained / "checkpoints").is_dir()


FINETUNE = [name for name in miniatures.NAMES
            if name[:4] in ("kine", "mome", "audi")]


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] * (name != "moments"))
    for name in FINETUNE])
def test_finetune(name, build, run, tmp_path):
  size = {f"model.encoders.{'audio' if name == 'audioset' else 'video'}."
          f"{size}": value for size, value in SIZES.items()}
  fields = TINY | size | {"data.data_dir": build(name), "eval.crops": 1}
  if name == "audioset":
    fields |= {"data.audio_samples": 4800, "data.frames": 0}
  said = run("-m vatt.main", f"finetune.py:{name},base",
             f"--workdir={tmp_path}", **fields)
  assert ("mAP" if name == "audioset" else "top-1") in said
  config = json.loads((tmp_path / "config.json").read_text())
  assert config["data"]["classes"] == {"audioset": 527, "moments": 3}.get(
      name, int(re.sub(r"\D", "", name) or 0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["esc50", "ucf101", "hmdb51"])
def test_linear_probe(name, build, run, pretrained):
  said = run("scripts/linear_probe.py", f"linear_probe.py:{name}",
             f"--workdir={pretrained}", **{
                 "data.data_dir": build(name), "lrc.steps": 10,
                 "probe.train_windows": 1, "probe.test_windows": 1})
  splits = 5 if name == "esc50" else 3
  assert len(re.findall(r"^ *split \d", said, re.M)) == splits, said


@pytest.mark.slow
@pytest.mark.parametrize("name, clips", [("msrvtt", 5), ("youcook2", 7)])
def test_retrieval(name, clips, build, run, pretrained):
  said = run("scripts/zero_shot_retrieval.py", f"retrieval.py:{name}",
             f"--workdir={pretrained}", **{
                 "data.data_dir": build(name), "eval.batch_size": 4})
  assert f"{clips} clips" in said
