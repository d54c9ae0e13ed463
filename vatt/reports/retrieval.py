"""What finds what: a table, a text and a picture of ranked sentences.

scripts/zero_shot_retrieval.py has it written to a workdir's `report`:
`retrieval.json`, which all is made of, and which is there if the others are
whole.
"""
import io
import json
import os
import re
import textwrap
from collections.abc import Sequence
from typing import Any

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


def write(folder: str, report: dict[str, Any], frames: dict[str, bytes]
          ) -> list[str]:
  """Writes a report, in place of one that is there: `retrieval.txt`,
  `retrieval.png`, `retrieval.json` and the frames.

  Args:
    folder: of the report.
    report: what becomes retrieval.json: `title`; `results`, pairs of name and
      value; and `clips`, each with `id`, `frames` (names), `rank` (of its own
      sentence) and `sentences` (text, similarity, whether it is right), best
      first.
    frames: encoded images, by their names in `folder`, such as frames/0_7.jpg.

  Returns:
    The paths of text and picture.

  Raises:
    UserError: the folder cannot be written.
  """
  names = [f"{NAME}.{kind}" for kind in ("txt", "png")]
  old = [os.path.join("frames", name) for name in files.names(
      os.path.join(folder, "frames"), r"\d+_\d+\.jpg")]
  files.write_together(
      folder, f"{NAME}.json", json.dumps(report, indent=1),
      {names[0]: "\n".join(_text(report)) + "\n",
       names[1]: _draw(report, frames), **frames},
      old=old + files.names(folder, rf"{NAME}\.(txt|png|json)"))
  return [os.path.join(folder, name) for name in names]


def _text(report):
  yield report["title"]
  yield from format_table(report["results"])
  for clip in report["clips"]:
    yield ""
    yield f"{clip['id']}: its own sentence ranks {clip['rank']}"
    for text, similarity, right in clip["sentences"]:
      yield f"{'->' if right else '  '} {similarity:6.3f}  {text}"


def _draw(report, frames):
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
      axes.imshow(tf.io.decode_image(frames[name], channels=3).numpy())
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
