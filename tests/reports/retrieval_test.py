"""The report of a retrieval, of files that are written here."""
import json

import numpy as np
import pytest
import tensorflow as tf

from vatt.reports import retrieval

RESULTS = [["text_to_video/R@1", 0.25], ["text_to_video/MedR", 3.5],
           ["audio_to_video/R@1", 1.0], ["audio_to_text/accuracy", 0.125]]


@pytest.fixture
def folder(tmp_path):
  frame = np.zeros([20, 30, 3], np.uint8)
  frame[5:10, 5:25] = (250, 40, 30)
  (tmp_path / "a.jpg").write_bytes(tf.io.encode_jpeg(frame).numpy())
  report = {
      "title": "a run: step 7",
      "results": RESULTS,
      "clips": [
          {"id": "one", "frames": ["a.jpg", "a.jpg"], "rank": 2, "sentences": [
              ["A wrong sentence.", 0.9, False], ["The right one.", 0.8, True],
              ["From $20, 10% less, to $18: no formula.", 0.7, False],
          ]},
          {"id": "two", "frames": ["a.jpg"], "rank": 9, "sentences": [
              ["Something that is far too long to stand beside the frames of a "
               "clip in a line of its own.", -0.25, False]]},
      ],
  }
  (tmp_path / "retrieval.json").write_text(json.dumps(report))
  return tmp_path


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


def test_text_and_picture(folder):
  text, picture = retrieval.write(str(folder))
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


def test_no_clips(folder):
  report = json.loads((folder / "retrieval.json").read_text())
  (folder / "retrieval.json").write_text(json.dumps(report | {"clips": []}))
  for path in retrieval.write(str(folder)):
    assert tf.io.gfile.stat(path).length > 0
