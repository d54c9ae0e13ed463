"""The report of a retrieval, of files that are written here."""
import json

import numpy as np
import pytest
import tensorflow as tf

from vatt.errors import UserError
from vatt.reports import retrieval

RESULTS = [["text_to_video/R@1", 0.25], ["text_to_video/MedR", 3.5],
           ["audio_to_video/R@1", 1.0], ["audio_to_text/accuracy", 0.125]]


REPORT = {
    "title": "a run: step 7",
    "results": RESULTS,
    "clips": [
        {"id": "one", "frames": ["frames/0_0.jpg", "frames/0_8.jpg"], "rank": 2,
         "sentences": [
             ["A wrong sentence.", 0.9, False], ["The right one.", 0.8, True],
             ["From $20, 10% less, to $18: no formula.", 0.7, False]]},
        {"id": "two", "frames": ["frames/1_0.jpg"], "rank": 9, "sentences": [
            ["Something that is far too long to stand beside the frames of a "
             "clip in a line of its own.", -0.25, False]]},
    ],
}


@pytest.fixture(scope="module")
def frames():
  """The bytes of the frames of REPORT."""
  frame = np.zeros([20, 30, 3], np.uint8)
  frame[5:10, 5:25] = (250, 40, 30)
  data = tf.io.encode_jpeg(frame).numpy()
  return {name: data for clip in REPORT["clips"] for name in clip["frames"]}


def test_table():
  lines = retrieval.format_table(RESULTS)
  assert [line.split() for line in lines] == [
      ["R@1", "MedR", "accuracy"], ["text", "to", "video", "25.0%", "3.5"],
      ["audio", "to", "video", "100.0%"], ["audio", "to", "text", "12.5%"]]

  # Columns are flush right: each value ends where its name does.
  assert lines[3].index("12.5%") + 5 == lines[0].index("accuracy") + 8


def test_table_of_what_is_no_share():
  """A probe's names have spaces; long ones do not run into each other."""
  assert retrieval.format_table([
      ("split 1/svm top-1", 0.5), ("video/long alignment", -2.19912),
      ("video/uniformity", 219.0)]) == [
          f"{'':16}{'svm top-1':>11}{'long alignment':>16}{'uniformity':>12}",
          f"{'split 1':16}{'50.0%':>11}{'':>16}{'':>12}",
          f"{'video':16}{'':>11}{'-2.199':>16}{'219':>12}"]


def test_text_and_picture(tmp_path, frames):
  text, picture = retrieval.write(str(tmp_path), REPORT, frames)
  lines = open(text).read().splitlines()
  assert lines[0] == "a run: step 7"
  assert "one: its own sentence ranks 2" in lines
  assert "->  0.800  The right one." in lines
  assert "    0.900  A wrong sentence." in lines
  drawn = tf.io.decode_png(open(picture, "rb").read(), channels=3).numpy()
  # Three frames of a red bar, whatever the layout: red in both rows.
  red = (drawn[..., 0] > 200) & (drawn[..., 1] < 90)
  half = drawn.shape[0] // 2
  assert red[:half].sum() > 1.5 * red[half:].sum() > 0


def test_a_report_in_place_of_another(tmp_path, frames):
  """Nothing of that stays; one of no clips has a text and a picture, too."""
  folder = tmp_path / "lr[0.1]*"
  retrieval.write(str(folder), REPORT, frames)
  assert json.loads((folder / "retrieval.json").read_text()) == REPORT
  assert {str(path.relative_to(folder)) for path in folder.rglob("*.*")} == {
      "retrieval.json", "retrieval.txt", "retrieval.png", *frames}
  (folder / "linear_probe_x.json").write_text("not of this report")
  for path in retrieval.write(str(folder), REPORT | {"clips": []}, {}):
    assert tf.io.gfile.stat(path).length > 0
  assert {str(path.relative_to(folder)) for path in folder.rglob("*.*")} == {
      "retrieval.json", "retrieval.txt", "retrieval.png", "linear_probe_x.json"}


def test_a_report_that_cannot_be_written(tmp_path, frames):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="/file/report: cannot be written .*, expe"
                     "cted a folder") as error:
    retrieval.write(f"{tmp_path}/file/report", REPORT, frames)
  assert "\n" not in str(error.value)
