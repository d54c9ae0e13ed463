"""The script on a workdir of the real program."""
import json
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def workdir(run_main, tmp_path_factory):
  folder = tmp_path_factory.mktemp("workdir")
  code, output = run_main(
      folder, *(f"--config.{field}=5" for field in (
          "total_steps", "eval_every", "log_every", "checkpoint_every")))
  assert code == 0, output
  return folder


def run(env, *flags):
  return subprocess.run(
      [sys.executable, "scripts/zero_shot_retrieval.py", *flags], env=env,
      capture_output=True, text=True)


def test_table_has_the_measures_of_the_run(workdir, python_env):
  lines = run(python_env, f"--workdir={workdir}").stdout.splitlines()
  assert "step 5, 30 clips of spoken_digits/official test" in lines[0]
  columns = lines[1].split()
  table = {line[:16].strip(): dict(zip(columns, line[16:].split()))
           for line in lines[2:] if "R@" in lines[1]}
  rows = [json.loads(line) for line in
          (workdir / "metrics.jsonl").read_text().splitlines()]
  measures = {name: value for row in rows for name, value in row.items()}
  for direction in ("text_to_video", "audio_to_text"):
    shown = table[direction.replace("_", " ")]
    assert shown["R@5"] == f"{measures[f'eval/{direction}/R@5']:.1%}"
    assert shown["MedR"] == f"{measures[f'eval/{direction}/MedR']:.1f}"


def test_query_ranks_clips_and_reports_unknown_words(workdir, python_env):
  result = run(python_env, f"--workdir={workdir}", "--top=3",
               "--query=somebody writes a zero with a zeppelin")
  assert result.returncode == 0, result.stderr
  lines = result.stdout.splitlines()[1:]
  assert len(lines) == 3
  scores = [float(line.split()[0]) for line in lines]
  assert scores == sorted(scores, reverse=True)
  assert "not in the vocabulary: " in result.stderr
  assert "zeppelin" in result.stderr.split("not in the vocabulary: ")[1]


def test_report(workdir, python_env):
  result = run(python_env, f"--workdir={workdir}", "--report", "--top=30")
  assert result.returncode == 0, result.stderr
  report = json.loads((workdir / "report/retrieval.json").read_text())
  table = result.stdout.splitlines()
  assert (workdir / "report/retrieval.txt").read_text().splitlines()[
      :8] == table[:8]
  assert len(report["clips"]) == 8
  for clip in report["clips"]:
    scores = [similarity for _, similarity, _ in clip["sentences"]]
    assert len(scores) == 30 and scores == sorted(scores, reverse=True)
    own, = (score for _, score, right in clip["sentences"] if right)
    assert clip["rank"] == sum(score >= own for score in scores)
    digit = clip["id"][0]  # of {digit}_{speaker}_{take}: its word is in there
    word = {"0": "zero", "3": "three", "8": "eight"}[digit]
    assert all(word in text for text, _, right in clip["sentences"] if right)


@pytest.mark.parametrize("flags, expected", [
    (["--workdir=/nowhere"], "/nowhere/config.json"),
    ([], "--workdir is missing"),
    (["--config.eval.windos=2"], "windos"),
    (["--config.seed=0", "--report", "--query=a"], "--report and --query"),
])
def test_bad_input(workdir, python_env, flags, expected):
  if flags and "config" in flags[0]:
    flags = [f"--workdir={workdir}", *flags]
  result = run(python_env, *flags)
  assert result.returncode == 1
  assert result.stderr.splitlines()[-1].startswith("error: ")
  assert expected in result.stderr.splitlines()[-1]
