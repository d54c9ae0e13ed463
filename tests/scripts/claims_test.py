"""The script with the real program, on few clips."""
import json

import pytest


@pytest.mark.slow
def test_few_labels(digits_dir, tmp_path, python):
  done = python.run(
      "-m", "vatt.main", f"--workdir={tmp_path}/pretrained",
      "--config=configs/spoken_digits.py:specific,spectrogram",
      f"--config.data.data_dir={digits_dir}", "--config.total_steps=20",
      "--config.batch_size=8", "--config.optimizer.warmup_steps=10",
      *(f"--config.{field}=20" for field in (
          "log_every", "checkpoint_every", "eval_every")))
  assert done.returncode == 0, done.stderr
  claim = ["scripts/claims.py", "--claim=few_labels", "--seeds=1",
           f"--data_dir={digits_dir}", f"--folder={tmp_path}/claims"]
  done = python.run(*claim, f"--pretrained={tmp_path}/pretrained", fork=False)
  assert done.returncode == 0, done.stderr
  rows = json.loads((tmp_path / "claims/few_labels.json").read_text())["rows"]
  assert [row["name"] for row in rows] == [
      f"{modality}, {start}" for modality in ("video", "audio")
      for start in ("pre-trained", "from scratch")]
  for row in rows:
    workdir = tmp_path / "claims/runs" / (
        row["name"].replace(", ", "_").replace(" ", "_") + "_0")
    last = [json.loads(line) for line in
            (workdir / "metrics.jsonl").read_text().splitlines()][-1]
    assert row["scores"]["top-1"] == [last["eval/top-1"]]
    init = json.loads((workdir / "config.json").read_text())["init"]
    assert init == (f"{tmp_path}/pretrained" if "pre-t" in row["name"] else "")
  assert (tmp_path / "claims/few_labels.png").exists()
  # The second time, all is trained.
  stamp = (workdir / "metrics.jsonl").stat().st_mtime
  done = python.run(*claim, f"--pretrained={tmp_path}/pretrained")
  assert done.returncode == 0, done.stderr
  assert (workdir / "metrics.jsonl").stat().st_mtime == stamp


def test_a_probe_is_found_in_a_folder_of_any_name(tmp_path, python):
  folder = tmp_path / "lr[0.1] *#%é?" / "report"
  folder.mkdir(parents=True)
  for modality in ("video", "audio"):
    (folder / f"linear_probe_digits_{modality}.json").write_text(
        json.dumps({"results": [["split/svm top-1", 0.5], [modality, 1.0]]}))
  done = python.run(
      "-c", "import sys; sys.path.append('scripts'); import claims; "
      "print(claims.read_probe(sys.argv[1], 'audio'))", str(folder.parent))
  assert done.stdout == "{'split/svm top-1': 0.5, 'audio': 1.0}\n", done.stderr


@pytest.mark.parametrize("flags, expected", [
    (["--claim=few_labels", "--folder=/tmp/nowhere"], "--data_dir is missing"),
    (["--claim=other"], "few_labels|droptoken|resolution|agnostic"),
])
def test_bad_input(python, flags, expected):
  done = python.run("scripts/claims.py", *flags, fork=len(flags) == 1)
  assert done.returncode == 1 and expected in done.stderr.splitlines()[-1]
