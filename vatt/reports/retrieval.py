"""What finds what: a table, a text and a picture of ranked sentences.

All is made of `retrieval.json`, which scripts/zero_shot_retrieval.py leaves in
a workdir's `report`, and the frames beside it.
"""
import io
import json
import os
import re
import textwrap
from collections.abc import Sequence

import tensorflow as tf

from vatt import files

NAME = "retrieval"
RIGHT, WRONG = "#1a7f37", "#57606a"
BESIDE = 5  # sentences beside the frames
LINE = 60  # characters of one


def format_table(results: Sequence[tuple[str, float]]) -> list[str]:
  """Lines of a table: a row a direction, a column a measure.

  Args:
    results: (name, value)s with names such as "text_to_video/R@1". Shares (R@K,
      top-K and accuracy) are shown in per cent.
  """
  rows = {}
  for name, value in results:
    row, column = name.split("/")
    rows.setdefault(row.replace("_", " "), {})[column] = value
  columns = list(dict.fromkeys(c for row in rows.values() for c in row))
  widths = [max(10, len(column) + 2) for column in columns]
  lines = [" " * 16 + "".join(
      f"{column:>{width}}" for column, width in zip(columns, widths))]
  for row, values in rows.items():
    lines.append(f"{row:16}" + "".join(
        f"{_cell(column, values.get(column)):>{width}}"
        for column, width in zip(columns, widths)))
  return lines


def _cell(measure, value):
  """How a measure is shown."""
  if value is None:
    return ""
  if re.search(r"R@|top-|accuracy", measure):
    return f"{value:.1%}"
  return f"{value:.1f}" if measure == "MedR" else f"{value:.4g}"


def write(folder: str) -> list[str]:
  """Writes `retrieval.txt` and `retrieval.png` of `retrieval.json`.

  Args:
    folder: of the report. Its retrieval.json has `title`; `results`, pairs of
      name and value; and `clips`, each with `id`, `frames` (files in the
      folder), `rank` (of its own sentence) and `sentences` (text, similarity,
      whether it is right), best first.

  Returns:
    The paths of the two files.
  """
  with tf.io.gfile.GFile(os.path.join(folder, f"{NAME}.json")) as file:
    report = json.load(file)
  paths = [os.path.join(folder, f"{NAME}.{kind}") for kind in ("txt", "png")]
  files.write_whole(paths[0], "\n".join(_text(report)) + "\n")
  files.write_whole(paths[1], _draw(report, folder))
  return paths


def _text(report):
  yield report["title"]
  yield from format_table(report["results"])
  for clip in report["clips"]:
    yield ""
    yield f"{clip['id']}: its own sentence ranks {clip['rank']}"
    for text, similarity, right in clip["sentences"]:
      yield f"{'->' if right else '  '} {similarity:6.3f}  {text}"


def _draw(report, folder):
  """The picture: bytes of a PNG file."""
  # Imported where it is used: it is slow to load.
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  clips = report["clips"]
  columns = max((len(clip["frames"]) for clip in clips), default=1)
  figure = Figure(figsize=(1.3 * columns + 6, 1.35 * len(clips) + 0.5))
  FigureCanvasAgg(figure)
  grid = figure.add_gridspec(
      max(len(clips), 1), columns + 1, width_ratios=[1.0] * columns + [4.6],
      left=0.01, right=0.99, bottom=0.01, top=1 - 0.4 / figure.get_figheight(),
      wspace=0.04, hspace=0.08)
  figure.suptitle(report["title"], x=0.01, ha="left", fontsize=10,
                  parse_math=False)  # names and sentences may have a $
  for row, clip in enumerate(clips):
    for column, name in enumerate(clip["frames"]):
      axes = figure.add_subplot(grid[row, column])
      with tf.io.gfile.GFile(os.path.join(folder, name), "rb") as frame:
        axes.imshow(tf.io.decode_image(frame.read(), channels=3).numpy())
      axes.set_axis_off()
    axes = figure.add_subplot(grid[row, columns])
    axes.set_axis_off()
    sentences = clip["sentences"][:BESIDE]
    for i, (text, similarity, right) in enumerate(sentences):
      axes.text(0.02, 1 - (i + 0.5) / len(sentences),
                f"{similarity:.2f}  {textwrap.shorten(text, LINE)}",
                va="center", fontsize=9, parse_math=False,
                color=RIGHT if right else WRONG,
                weight="bold" if right else "normal")
  picture = io.BytesIO()
  figure.savefig(picture, format="png", dpi=110)
  return picture.getvalue()
