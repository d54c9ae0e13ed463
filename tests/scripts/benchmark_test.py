"""The script on small models; what it says of times is not tested."""
import json
import subprocess
import sys

import pytest

from configs import spoken_digits
from vatt.benchmarks import encoder

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


def test_growth(python_env, tmp_path, monkeypatch):
  """In this process, with fewer and smaller sizes."""
  monkeypatch.setattr(encoder, "BATCHES", (1, 2))
  monkeypatch.setattr(encoder, "LENGTHS", (5, 10))
  config = spoken_digits.get_config("specific,spectrogram")
  config.update(dict(batch_size=2, dtype="float32"))
  config.model.vocab_size = 50
  for sizes in config.model.encoders.values():
    sizes.depth = 1
  step = encoder.EncoderStep(config)
  # Forward: 2·N·(4·D² + 2·D·F) of the weights, 4·N²·D of attention.
  n, d, f = 7, step.encoder.width, config.model.encoders.video.mlp_dim
  assert step.flops(3, n) == 3 * 3 * (
      2 * n * (4 * d * d + 2 * d * f) + 4 * n * n * d)
  found = encoder.measure_growth(config, 1)
  for name, first in (("clip", f"batch 1 of {step.length} tokens"),
                      ("FLOP of tokens", "5 tokens"),
                      ("FLOP of kept tokens", "whole step, DropToken 0%")):
    assert found[f"{first}, by {name}"]["median"] == 1
  for name in (f"batch 2 of {step.length} tokens", "10 tokens",
               "whole step, DropToken 75%"):
    assert found[f"{name}, s"]["least"] > 0


def test_errors(python_env):
  for flags, error in (((), "--what is missing"),
                       (("--what=input",), "--folder is missing")):
    result = run(python_env, *flags)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].endswith(error)
