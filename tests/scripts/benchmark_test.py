"""The script on small models; what it says of times is not tested."""
import json
import math
import os
import subprocess

import pytest
from benchmarks import encoder
from tensorflow.compiler.xla import xla_data_pb2
from tensorflow.compiler.xla.service import hlo_pb2

from configs import spoken_digits

TINY = ("--config=configs/spoken_digits.py:specific,spectrogram",
        "--config.batch_size=2", "--config.model.vocab_size=50",
        "--config.model.dropout=0.1", "--config.model.encoders.video.depth=1",
        "--config.model.encoders.audio.depth=1", "--repeats=1")
SIZES = {"F32": 4, "S32": 4, "S64": 8, "U8": 1, "S16": 2, "PRED": 1}  # bytes


SCRIPT = "scripts/benchmark.py"


@pytest.mark.slow  # and says no more than that it runs
def test_step(python, tmp_path):
  figures = tmp_path / "step.json"
  result = python.run(SCRIPT, "--what=step", "--parts", *TINY,
                      f"--json={figures}", fork=False)
  assert result.returncode == 0, result.stderr
  found = json.loads(figures.read_text())
  for name in ("seconds", "clips/s", "share of it", "tokenizers, s",
               "encoders, s", "heads and loss, s", "optimizer, s"):
    assert 0 < found[name]["least"] <= found[name]["median"]
    assert name in result.stdout
  assert 0 < found["weights, GiB"] < found["peak memory, GiB"]


@pytest.fixture(scope="module")
def exported(python, tmp_path_factory):
  folder = tmp_path_factory.mktemp("hlo")
  result = python.run(SCRIPT, "--what=step", *TINY, f"--export={folder}",
                      fork=False)
  assert result.returncode == 0, result.stderr
  return folder


def test_export(exported):
  notes = json.loads((exported / "step.json").read_text())
  module = hlo_pb2.HloModuleProto.FromString(
      (exported / "step.hlo.pb").read_bytes())
  # Its arguments are what was counted, and a seed.
  size = sum(SIZES[xla_data_pb2.PrimitiveType.Name(x.element_type)]
             * math.prod(x.dimensions)
             for x in module.host_program_shape.parameters)
  assert notes["state_bytes"] <= size <= notes["state_bytes"] + 64
  # Products in the program: three times the forward pass, but for gradients to
  # the batch, which nobody asks for, and with attention's scores made again.
  products, opcodes = 0, set()
  for computation in module.computations:
    shapes = {i.id: i.shape.dimensions for i in computation.instructions}
    for i in computation.instructions:
      opcodes.add(i.opcode)
      if i.opcode == "dot":
        left = shapes[i.operand_ids[0]]
        products += 2 * math.prod(i.shape.dimensions) * math.prod(
            left[k] for k in i.dot_dimension_numbers.lhs_contracting_dimensions)
  assert notes["flops"] == pytest.approx(products, rel=0.1)
  assert "copy" not in opcodes


@pytest.mark.skipif("VATT_TEST_JAX" not in os.environ, reason="VATT_TEST_JAX "
                    "does not name a Python that has JAX")
def test_time_hlo(exported, tmp_path):
  figures = tmp_path / "figures.json"
  result = subprocess.run(
      [os.environ["VATT_TEST_JAX"], "scripts/time_hlo.py", exported,
       "--repeats=1", f"--json={figures}"], capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  found = json.loads(figures.read_text())
  assert 0 < found["step, s"]["median"] and "share of matmul" in result.stdout
  notes = json.loads((exported / "step.json").read_text())
  assert found["state and batch, GiB"] * 2 ** 30 == pytest.approx(
      notes["state_bytes"], abs=64)


def test_time_hlo_says_what_is_missing(python, tmp_path):
  """JAX here; there, the folder."""
  result = python.run("scripts/time_hlo.py", tmp_path, fork=False)
  assert result.returncode == 1
  line, = result.stderr.strip().splitlines()
  assert "expected JAX" in line or "expected step.hlo.pb and" in line


@pytest.mark.slow
def test_forward_of_a_classifier(python):
  result = python.run(
      SCRIPT, "--what=forward", "--config=configs/finetune_digits.py:video",
      "--config.batch_size=1", "--config.data.classes=10", "--repeats=1")
  assert result.returncode == 0, result.stderr
  assert "share of it" in result.stdout


@pytest.fixture
def config():
  config = spoken_digits.get_config("specific,spectrogram")
  config.update(dict(batch_size=2, dtype="float32"))
  config.model.vocab_size = 50
  for sizes in config.model.encoders.values():
    sizes.depth = 1
  return config


def test_operations_of_the_encoders_step(config):
  step = encoder.EncoderStep(config)
  # Forward: 2·N·(4·D² + 2·D·F) of the weights, 4·N²·D of attention.
  n, d, f = 7, step.encoder.width, config.model.encoders.video.mlp_dim
  assert step.flops(3, n) == 3 * 3 * (
      2 * n * (4 * d * d + 2 * d * f) + 4 * n * n * d)


@pytest.mark.slow
def test_growth(config, monkeypatch):
  """In this process, with fewer and smaller sizes."""
  monkeypatch.setattr(encoder, "BATCHES", (1, 2))
  monkeypatch.setattr(encoder, "LENGTHS", (5, 10))
  step = encoder.EncoderStep(config)
  found = encoder.measure_growth(config, 1)
  for name, first in (("clip", f"batch 1 of {step.length} tokens"),
                      ("FLOP of tokens", "5 tokens"),
                      ("FLOP of kept tokens", "whole step, DropToken 0%")):
    assert found[f"{first}, by {name}"]["median"] == 1
  for name in (f"batch 2 of {step.length} tokens", "10 tokens",
               "whole step, DropToken 75%"):
    assert found[f"{name}, s"]["least"] > 0


def test_errors(python):
  for flags, error in (((), "--what is missing"),
                       (("--what=forward", "--export=x"),
                        "expected --what=step without --vs and --parts"),
                       (("--what=input",), "--folder is missing")):
    result = python.run(SCRIPT, *flags)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].endswith(error)
