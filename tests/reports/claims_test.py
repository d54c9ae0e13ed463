"""The table and the picture of what was tried with several seeds."""
import json

import tensorflow as tf

from vatt.reports import claims

ROWS = [
    dict(name="with", columns={"GFLOPs": 1.25, "ms a step": 210.0},
         scores={"top-1": [0.9, 0.96, 0.93], "other": [0.5]}),
    dict(name="without", columns={"GFLOPs": 2.5, "ms a step": 400.4},
         scores={"top-1": [0.2, 0.3, 0.25], "other": [1.0]})]


def test_table_has_means_and_spreads():
  head, *lines = claims.format_table(ROWS)
  assert head.split() == ["GFLOPs", "ms", "a", "step", "top-1", "other"]
  assert [line.split() for line in lines] == [
      ["with", "1.25", "210", "93.0", "%", "(90.0", "-", "96.0)", "50.0", "%"],
      ["without", "2.5", "400", "25.0", "%", "(20.0", "-", "30.0)", "100.0",
       "%"]]
  assert len({len(line) for line in (head, *lines)}) == 1


def test_files(tmp_path):
  content = dict(title="Few", rows=ROWS)
  text, picture = claims.write(str(tmp_path), "few", content)
  assert json.loads((tmp_path / "few.json").read_text()) == content
  with open(text) as file:
    assert file.read().splitlines() == ["Few", *claims.format_table(ROWS)]
  image = tf.io.decode_png(tf.io.read_file(picture), channels=3).numpy()
  assert image.shape[0] > 100 and len(set(map(tuple, image[::7, ::7].reshape(
      -1, 3).tolist()))) > 3  # bars of two colours, dots, words, paper
