"""Labels of files by the command line."""
import csv
import os
import pathlib

import pytest

from vatt import inference

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


def classify(python, *arguments, model="tuned", fork=True):
  return python.run("-m", "vatt.classify", f"--workdir={FIXTURES / model}",
                    *arguments, fork=fork)


def test_labels_are_printed_and_written(tmp_path, python, films):
  (tmp_path / "notes.mp4").write_text("no film")
  result = classify(python, *films, str(tmp_path), "--top=1",
                    f"--out={tmp_path}/labels.csv", fork=False)
  assert result.returncode == 0, result.stderr
  assert f"{tmp_path}/notes.mp4: no readable media" in result.stderr
  wanted = inference.Model(FIXTURES / "tuned").classify(films, top=1)
  with open(tmp_path / "labels.csv", newline="") as file:
    rows = [(row["file"], row["rank"], row["label"], float(row["score"]))
            for row in csv.DictReader(file)]
  assert rows == [(film, "1", label, pytest.approx(score, abs=1e-5))
                  for film, [(label, score)] in zip(films, wanted)]
  assert result.stdout.splitlines() == [
      line for film, [(label, score)] in zip(films, wanted)
      for line in (film, f"{score:8.3f}  {label}")]


def test_names_are_of_any_bytes(tmp_path, python, films):
  (tmp_path / "in").mkdir()
  name = os.fsencode(tmp_path / "in") + b"/\xff\n.mp4"
  os.symlink(films[0], name)
  result = classify(python, f"{tmp_path}/in", f"--out={tmp_path}/labels.csv")
  assert result.returncode == 0, result.stderr
  table = (tmp_path / "labels.csv").read_bytes()
  assert table.count(b'\n"' + name + b'",') == 2
  # A line a name.
  assert result.stdout.splitlines()[0].endswith("\\n.mp4")


@pytest.mark.parametrize("model, arguments, said", [
    ("specific", ["{film}"], "a pre-trained model, expected a fine-tuned one"),
    ("tuned", ["{film}", "--out=a.npz"], "ends in .csv"),
    ("tuned", ["{film}", "--top=0"], "command line: "),
    ("tuned", ["/no.mp4", "/none.mp4"],
     "/no.mp4: no readable media: No such file or directory (and 1 more)"),
])
def test_errors_are_one_line(python, films, model, arguments, said):
  result = classify(python, *(each.format(film=films[1])
                              for each in arguments), model=model)
  assert result.returncode == 1 and not result.stdout
  error = result.stderr.splitlines()[-1]
  assert error.startswith("error: ") and said in error
