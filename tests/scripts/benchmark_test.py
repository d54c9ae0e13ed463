"""The script on small models; what it says of times is not tested."""
import json
import subprocess
import sys

import pytest

TINY = ("--config=configs/spoken_digits.py:specific,spectrogram",
        "--config.batch_size=2", "--config.model.vocab_size=50",
        "--config.model.dropout=0.1", "--config.model.encoders.video.depth=1",
        "--config.model.encoders.audio.depth=1", "--repeats=1")


def run(env, *flags):
  return subprocess.run([sys.executable, "scripts/benchmark.py", *flags],
                        env=env, capture_output=True, text=True)


def test_step_and_export(python_env, tmp_path):
  figures = tmp_path / "step.json"
  result = run(python_env, "--what=step", "--parts", *TINY,
               f"--json={figures}", f"--export={tmp_path}/hlo")
  assert result.returncode == 0, result.stderr
  found = json.loads(figures.read_text())
  for name in ("seconds", "clips/s", "share of it", "tokenizers, s",
               "encoders, s", "heads and loss, s", "optimizer, s"):
    assert 0 < found[name]["least"] <= found[name]["median"]
    assert name in result.stdout
  # Three times the way forward, which paper_tables counts for this config.
  assert found["GFLOP"] == pytest.approx(found["flops"] / 1e9)
  assert 0 < found["weights, GiB"] < found["peak memory, GiB"]
  with open(found["hlo"], "rb") as file:
    assert len(file.read()) > 100_000
  # Weights, and two moments of Adam for those that are trained.
  assert found["state_bytes"] > 2.5 * found["weights, GiB"] * 2 ** 30


def test_forward_of_a_classifier(python_env):
  result = run(
      python_env, "--what=forward", "--config=configs/finetune_digits.py:video",
      "--config.batch_size=1", "--config.data.classes=10", "--repeats=1")
  assert result.returncode == 0, result.stderr
  assert "share of it" in result.stdout


def test_errors(python_env):
  for flags, error in (((), "--what is missing"),
                       (("--what=input",), "--folder is missing")):
    result = run(python_env, *flags)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].endswith(error)
