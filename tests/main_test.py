"""Bad input: one clear line, code 1, nothing written."""
import pytest

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
    "vocabulary": (["--config.model.vocab_size=999"], "vocabulary.txt"),
    "word vectors": (["--config.model.word_vectors=/nowhere.txt"],
                     "/nowhere.txt"),
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
