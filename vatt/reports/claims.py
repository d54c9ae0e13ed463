"""Tables and pictures of settings that were tried with several seeds."""
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from vatt import files


def format_table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
  """Yields a table's lines: a row a setting; of each score the mean over the
  seeds and, if there are several, the worst and the best.

  Args:
    rows: dicts with `name`, `scores` (name to shares, one a seed) and, where
      there are such, `columns` (name to number).
  """
  columns = list(rows[0].get("columns", {}))
  scores = list(rows[0]["scores"])
  width = max(len(row["name"]) for row in rows)
  yield " " * width + "".join(f"{name:>17}" for name in columns) + "".join(
      f"{name:>26}" for name in scores)
  for row in rows:
    cells = [f"{row['columns'][name]:17.3g}" for name in columns]
    for name in scores:
      values = [100 * value for value in row["scores"][name]]
      spread = (f" ({min(values):.1f} - {max(values):.1f})"
                if len(values) > 1 else "")
      cells.append(f"{sum(values) / len(values):.1f} %{spread}".rjust(26))
    yield f"{row['name']:{width}}" + "".join(cells)


def write(folder: str, name: str, content: dict[str, Any]) -> list[str]:
  """Writes `NAME.txt`, `NAME.png` and, of what they are made, `NAME.json`.

  Args:
    folder: of the report.
    name: of the files.
    content: `title` and `rows`, see `format_table`.

  Returns:
    The paths of text and picture.

  Raises:
    UserError: the folder cannot be written.
  """
  names = [f"{name}.{kind}" for kind in ("txt", "png")]
  lines = [content["title"], *format_table(content["rows"])]
  files.write_together(
      folder, f"{name}.json", json.dumps(content, indent=1),
      {names[0]: "\n".join(lines) + "\n", names[1]: _draw(content)},
      old=files.names(folder, rf"{re.escape(name)}\.(txt|png|json)"))
  return [os.path.join(folder, name) for name in names]


def _draw(content):
  """The picture: bytes of a PNG file. A bar a score, a dot a seed."""
  # Imported where it is used: it is slow to load.
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  rows = content["rows"]
  scores = list(rows[0]["scores"])
  figure = Figure(figsize=(2 + 1.1 * len(rows) * len(scores) ** 0.5, 4))
  FigureCanvasAgg(figure)
  axes = figure.add_subplot()
  width = 0.8 / len(scores)
  for k, score in enumerate(scores):
    places = [i + (k + 0.5) * width - 0.4 for i in range(len(rows))]
    values = [[100 * v for v in row["scores"][score]] for row in rows]
    axes.bar(places, [sum(v) / len(v) for v in values], 0.9 * width,
             label=score, alpha=0.6)
    for place, seeds in zip(places, values):
      axes.plot([place] * len(seeds), seeds, "k.", markersize=4)
  axes.set_xticks(range(len(rows)), [
      row["name"].replace(", ", "\n") for row in rows], fontsize=8)
  axes.set_ylabel("%")
  axes.set_title(content["title"], fontsize=10)
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(fontsize=8, loc="lower right")
  figure.tight_layout()
  picture = io.BytesIO()
  figure.savefig(picture, format="png", dpi=110)
  return picture.getvalue()
