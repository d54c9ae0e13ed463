"""Bad input: one clear line, code 1, nothing written."""
import pytest

from tests.config_test import wrong_configs

BAD = {
    "unknown field": (["--config.data.siez=3"], "siez"),
    "unknown argument": (
        ["--config=configs/spoken_digits.py:video"], "'video' is unknown"),
    "missing config": (["--config=configs/nobody.py"], "configs/nobody.py"),
    "missing dataset": (
        ["--config.data.datasets=('spoken_digits/nobody',)"],
        "spoken_digits/nobody"),
    "no data_dir": (["--config.data.data_dir="], "data_dir"),
    "missing split": (["--config.data.train_split=train2"], "train2"),
    "large patch": (["--config.model.video_patch=(4,32,8)"],
                    "model.video_patch is (4, 32, 8)"),
    "replicas": (["--config.strategy.name=mirrored",
                  "--config.strategy.devices=4"], "batch_size is 6"),
    "vocabulary": (["--config.model.vocab_size=9"], "vocabulary.txt"),
    "word vectors": (["--config.model.word_vectors=/nowhere.txt"],
                     "/nowhere.txt"),
    "missing words": (
        ["--config.data.vocabulary=/nowhere.txt"], "/nowhere.txt"),
    "batch of evaluation": (
        ["--mode=train_and_eval", "--config.strategy.name=mirrored",
         "--config.strategy.devices=2", "--config.eval.batch_size=7"],
        "eval.batch_size is 7, expected a multiple of the 2 replicas"),
    "no field in a sentence": (
        ["--config.eval.templates=('a {{}}',)"], "eval.templates is ('a {{}}'"),
    "two fields in a sentence": (
        ["--config.eval.templates=('{} and {}',)"],
        "eval.templates is ('{} and {}',), expected a tuple of sentences"),
    "another task": (
        ["--config.task=finetune"], "task is finetune and finetune is missing"),
    "a name behind what is read": (
        ["--config.eval.templates=('a b c d e f g h i j k l {}',)"],
        "has 12 words before the name of the class, expected fewer than data."),
    "half precision": (["--config.dtype=mixed_float16"], "expected one of flo"),
    "workdir in a file": (
        ["--workdir=setup.py/run"], "setup.py/run: cannot be written"),
    "init": (["--config.init=/nowhere"], "/nowhere/config.json: not found"),
    "loop": (["--config.log_every=7"], "log_every is 7"),
    "loss": (["--config.loss.form=nce"], "loss.form is 'nce'"),
    "strategy": (["--config.strategy.name=gpus"], "strategy.name is 'gpus'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(run_main, tmp_path, name):
  flags, expected = BAD[name]
  workdir = tmp_path / "workdir"
  code, output = run_main(workdir, "--mode=train", *flags)
  lines = output.splitlines()
  assert code == 1, output
  assert lines[-1].startswith("error: ") and expected in lines[-1], output
  assert "Traceback" not in output
  assert not workdir.exists() or not list(workdir.rglob("*.*"))


def test_workdir_of_another_config(run_main, tmp_path):
  (tmp_path / "config.json").write_text('{"seed": 7}')
  code, output = run_main(tmp_path, "--mode=train")
  assert code == 1
  assert "config.json" in output.splitlines()[-1]
  assert "expected the same config" in output.splitlines()[-1]


def test_a_full_disk_is_told_before_the_first_step(run_main, small_disk):
  disk = small_disk("16k")
  with open(disk / "rest", "wb") as file:
    try:
      file.write(b"0" * 2 ** 20)
      file.flush()
    except OSError:
      pass
  code, output = run_main(disk / "run", "--mode=train")
  assert code == 1, output
  assert output.splitlines()[-1].startswith("error: ") and (
      "No space left" in output.splitlines()[-1])
  assert "Traceback" not in output and "step/s" not in output


WRONG = """
from configs import {module}
nan, inf = float("nan"), float("inf")
def get_config(arg=None):
  config = {module}.get_config(arg)
  with config.unlocked():
    part = config{path}
    del part["{name}"]
    part["{name}"] = {value!r}
  return config
"""


@pytest.mark.slow
def test_no_wrong_value_of_a_field_starts_a_run(python, tmp_path):
  """All shipped configs, a field of each wrong: a line that says which."""
  for i, (config, field, value) in enumerate(wrong_configs(300)):
    module, arg = config.split(":")
    *path, name = field.split(".")
    file = tmp_path / f"config_{i}.py"
    file.write_text(WRONG.format(
        module=module, name=name, value=value,
        path="".join(f"[{step!r}]" for step in path)))
    done = python.run("-m", "vatt.main", f"--config={file}:{arg}",
                      f"--workdir={tmp_path}/workdir")
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and "Traceback" not in done.stderr, (
        config, field, value, done.stderr)
    assert lines[-1].startswith("error: ") and field in lines[-1], lines[-1]
    assert "expected" in lines[-1], lines[-1]
    assert not (tmp_path / "workdir").exists()
