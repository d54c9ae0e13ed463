"""The script as its users call it, and what it says when a count is off."""
import pathlib
import re
import types

import pytest

from configs import demo, pretrain
from scripts import paper_tables
from vatt.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
PATH = ROOT / "scripts/paper_tables.py"


@pytest.fixture
def run(python, python_env):
  """A function of a folder and arguments, with no path to the project but the
  script's own."""
  env = {k: v for k, v in python_env.items() if k != "PYTHONPATH"}
  return lambda folder, *arguments, fork=True: python.run(
      PATH, *arguments, cwd=folder, env=env, fork=fork)


def test_all_of_the_papers_costs_are_met(run, tmp_path):
  result = run(tmp_path, fork=False)
  assert result.returncode == 0, result.stderr
  lines = result.stdout.splitlines()
  assert lines[-1] == "All within tolerance."
  # Parameters as SPEC has them: the paper's rounded, and counted as it did.
  numbers = {line[:41].strip(): re.findall(r"[-+]?\d[\d.]*", line[41:])
             for line in lines}
  for size, paper, counted in (("Base", "87.9", "87.907"),
                               ("Medium", "155.0", "154.958"),
                               ("Large", "306.1", "306.113")):
    # The name comes again, for the 12 views.
    line = next(line for line in lines if line.split()[:1] == [size])
    assert line.split()[1:3] == [paper, counted]
  # Totals worked out by hand in tests/models/vatt_test.py.
  assert numbers["BBS"][:3] == ["197", "196.7", "227.311"]
  assert numbers["MBS"][:3] == ["264", "263.8", "294.339"]
  assert numbers["LBS"][:3] == ["415", "414.9", "445.494"]
  assert "20.9 is no exact count" in result.stdout
  # 6 views, 3 times 12, 4 rates of DropToken; and 3 sizes.
  assert result.stdout.count(" %") == 2 * (6 + 3 + 4 + 3)


@pytest.mark.parametrize("constant, value, words", [
    ("PARAMETERS_TOLERANCE", 0.02, "Medium is -0.03 % off"),
    ("FLOPS_TOLERANCE", 0.3, "MBS, 75% dropped is +0.43 % off"),
    ("PARAMETERS", {"small": 20.9, "base": 87.85, "medium": 155.0,
                    "large": 306.1}, "Base is 87.907, expected what rounds"),
    ("SUMS", {"mbs": 265}, "MBS: the sum is 263.8, expected what rounds"),
])
def test_what_is_off_ends_it_with_code_1(
    monkeypatch, capsys, constant, value, words):
  monkeypatch.setattr(paper_tables, constant, value)
  monkeypatch.setattr(
      paper_tables.flags, "FLAGS",
      types.SimpleNamespace(config=None, hours_on=None))
  assert paper_tables.main() == 1
  output = capsys.readouterr().out
  assert words in output and "All within" not in output


def test_cost_of_a_config(run):
  result = run(ROOT, "--config=configs/pretrain.py:mbs",
               "--config.batch_size=64", "--config.model.drop_rate=0.0",
               "--hours_on=v3-32", "--shares=0.25", "--shares=1", "--price=40")
  assert result.returncode == 0, result.stderr
  table = {line[:23].strip(): line[23:].split()
           for line in result.stdout.splitlines()}
  assert table["total"][0] == "294.339"  # by hand in tests/models/vatt_test.py
  # Without DropToken, training costs what evaluation does, but for a head. A
  # block of 1569 tokens: 2·1569·12·1024² + 4·1569²·1024.
  assert table["video encoder"][1] == table["video encoder"][2] == "594.823"
  assert len(table["audio tokenizer"]) == 5
  assert "A batch of 64 clips" in result.stdout
  # 865.34 GFLOPs of a clip forward, three times for a step of 64: 166.145
  # TFLOPs, on 16 chips of 123 TFLOP/s. A quarter of that is 492: 0.3377 s, and
  # half a million steps 46.9 hours.
  assert [line.split() for line in result.stdout.splitlines()[-2:]] == [
      ["0.25", "0.338", "190", "46.9", "1,876"],
      ["1", "0.084", "758", "11.7", "469"]]
  # 294 million times 16 bytes are 4.4 of 16 GiB; a clip keeps 0.5.
  assert "takes 8 of these clips: the batch, 8 cores or more" in result.stdout


def test_cost_of_a_config_whose_words_are_the_datas(capsys):
  paper_tables.cost_of_config(demo.get_config("agnostic").lock())
  output = capsys.readouterr().out
  assert "each is 128 parameters more" in output
  assert "shared encoder" in output


def test_sizes_have_a_unit_that_fits(capsys):
  """27 MiB were 0.0 GiB."""
  for size, shown in ((0, "0 B"), (1023, "1,023 B"), (1024, "1 KiB"),
                      (27 * 2 ** 20, "27 MiB"), (2 ** 30 - 1, "1,024 MiB"),
                      (1.5 * 2 ** 30, "1.5 GiB"), (2 ** 60, "1,048,576 TiB")):
    assert paper_tables.size(size) == shown
  config = demo.get_config("agnostic")
  config.batch_size = 8
  paper_tables.cost_of_config(config.lock())
  output = capsys.readouterr().out
  kept = float(re.search(r"total.* ([\d.]+)\n", output)[1])  # MiB of a clip
  assert (f"A batch of 8 clips: {8 * kept:.3g} MiB of activations kept for the "
          "backward pass") in " ".join(output.split())
  assert "18.9 MiB on each device" in output


def test_a_missing_config_is_one_line(run, tmp_path):
  result = run(tmp_path, "--config=none.py")
  assert result.returncode == 1
  errors = [line for line in result.stderr.splitlines()
            if line.startswith("error: ")]
  assert len(errors) == 1 and "No such file" in errors[0]
  assert "Traceback" not in result.stderr


@pytest.mark.parametrize("fields, words", [
    ({"model.video_patch": (64, 16, 16)}, "model.video_patch is (64, 16, 16)"),
    ({"model.encoders.text.num_heads": 7}, "a multiple of num_heads (7)"),
    ({"model.audio_input": "mel"}, "model.audio_input is 'mel'"),
    ({"task": "other"}, "task is 'other'"),
    ({"dtype": "half"}, "dtype is 'half'"),
    ({"batch_size": -3}, "batch_size is -3"),
])
def test_sizes_of_no_model_are_refused(fields, words):
  config = pretrain.get_config("bbs")
  config.update_from_flattened_dict(fields)
  with pytest.raises(UserError) as error:
    paper_tables.cost_of_config(config.lock())
  assert words in str(error.value)


@pytest.mark.parametrize("machine, shares, words", [
    ("v3", [0.3], "--hours_on is 'v3', expected one of v3, v4, a100, h100, - "),
    ("v9-8", [0.3], "--hours_on is 'v9-8'"),
    ("v3-0", [0.3], "--hours_on is 'v3-0'"),
    ("v3-8", [0.3, 30.0], "--shares has 30, expected more than 0, at most 1"),
    ("v3-8", [0.0], "--shares has 0"),
])
def test_hours_on_no_machine(machine, shares, words):
  with pytest.raises(UserError) as error:
    paper_tables.hours_of_training(
        1e12, pretrain.get_config("bbs"), machine, shares, 0.0)
  assert words in str(error.value)


def test_hours_by_hand(capsys):
  """1e15 FLOPs a step, 16 GPUs of 312 TFLOP/s at half of that: 0.4006 s a
  step, and 500,000 of them 55.64 hours."""
  paper_tables.hours_of_training(
      1e15, pretrain.get_config("bbs"), "a100-16", [0.5], 0.0)
  *_, head, row = capsys.readouterr().out.splitlines()
  assert head.split() == ["share", "seconds", "a", "step", "clips/s", "hours"]
  assert row.split() == ["0.5", "0.401", "5,112", "55.6"]
