"""Labels of files, by a fine-tuned model.

  python -m vatt.classify FILE... --workdir=DIR [--top=5] [--out=labels.csv]
      [--windows=4 | --windows=all]

FILE is any file that the model can see or hear, or a folder, of which all media
files are taken. DIR is the workdir of a fine-tuning run. Prints the classes of
each file with their probabilities, the highest first; those of several labels a
clip are each one's own. --out writes them as a table, with the columns file,
rank, label and score. For `vatt-classify` read `python -m vatt.classify`.

A file is seen in `--windows`, evenly spread, or in all, end to end; its logits
are averaged over them. Files that cannot be used are left out and listed.
"""
import csv
import io
import os

from absl import flags

from vatt import cli
from vatt.errors import UserError, one_line, visible

cli.define_workdir("Of a fine-tuned model.")
TOP = flags.DEFINE_integer("top", 5, "Classes of a file.", 1)
OUT = flags.DEFINE_string("out", "", "File to write, .csv.")
cli.define_windows()


def main(arguments: list[str]) -> None:
  """Classifies the files; prints, writes."""
  out = os.path.expanduser(OUT.value)
  if out and not (out.endswith(".csv") and os.path.isdir(
      os.path.dirname(out) or ".")):
    raise UserError(f"--out={OUT.value}: expected a file of a folder that is "
                    "there, whose name ends in .csv")
  paths, windows = cli.media_files(arguments), cli.windows()

  from vatt import files, host, inference

  host.hold_memory()
  model = inference.Model(cli.workdir())
  results = model.classify(paths, TOP.value, windows=windows)
  content = io.StringIO()
  rows = csv.writer(content, lineterminator="\n")
  rows.writerow(("file", "rank", "label", "score"))
  for path, scores in zip(paths, results):
    if scores:
      print(visible(path))
    for rank, (label, score) in enumerate(scores, 1):
      print(f"{score:8.3f}  {label}")
      rows.writerow((path, rank, label, f"{score:.6f}"))
  if out:
    try:
      # As the file system has the names, which may be of any bytes.
      files.write_whole(out, content.getvalue().encode(
          errors="surrogateescape"))
    except files.REFUSED as error:
      raise UserError(f"--out={OUT.value}: cannot be written "
                      f"({one_line(error)}), expected a file that can be"
                      ) from None


if __name__ == "__main__":
  cli.run(main, arguments=True)
