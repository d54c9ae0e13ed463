"""Reads every record of a dataset back, and names each bad one.

  python scripts/check_records.py --dataset=NAME --data_dir=DIR
      [--split=NAME] [--output=FILE.csv]

CRCs, frames (each decodes, all of a clip to one size), sound, rates, labels,
times and texts of captions. A line for each bad record: its file, number and
byte there, id and reason; also for each shard that is missing, cut or changed,
of which what is left is read. Ends with code 1 if there is any.
"""
import csv
import io
import os
import re
import sys

from vatt import cli, files, stopping
from vatt.data import record_checks
from vatt.errors import UserError, one_line, visible

from absl import flags
from tqdm import tqdm

FLAGS = flags.FLAGS
flags.DEFINE_string("dataset", None, "As in config.data.datasets.")
cli.require("dataset")
flags.DEFINE_string("data_dir", "", "Folder of the built datasets.")
flags.DEFINE_string("split", None, "Name of the split; default all.")
flags.DEFINE_string("output", None, "CSV to write what is bad to.")

COLUMNS = ("file", "record", "offset", "id", "reason")
SHOWN = 5  # names in a line


def main():
  """Checks."""
  stopping.listen()
  name = FLAGS.dataset
  check = record_checks.Check(name, FLAGS.data_dir, FLAGS.split)
  bad, shards, records = [], 0, 0

  def tell(found):
    nonlocal shards, records
    bad.append(found)
    shards += found.record is None
    records += found.record is not None
    tqdm.write(visible(str(found)), file=sys.stdout)

  with tqdm(total=len(check.found.files), desc="headers", unit="file",
            leave=False) as bar:
    for found in check.lay_out(bar.update):
      tell(found)
  with tqdm(total=check.num_records, desc=name, unit="record") as bar:
    for found in check.read(bar.update):
      tell(found)
  if FLAGS.output:
    write(os.path.expanduser(FLAGS.output), bad)
  line = (f"{name}: {check.num_records} records in {len(check.found.files)} "
          f"files: {records or 'none'} bad")
  if shards:
    line += f", {shards} files missing, cut or changed"
  print(line)
  if bad:
    print(how_to_mend(name, bad))
  return 1 if bad else 0


def write(path, bad):
  """Writes the CSV."""
  table = io.StringIO()
  writer = csv.writer(table, lineterminator="\n")
  writer.writerow(COLUMNS)
  for found in bad:
    cells = (getattr(found, column) for column in COLUMNS)
    writer.writerow("" if cell is None else visible(str(cell))
                    for cell in cells)
  try:
    files.write_whole(path, table.getvalue())
  except files.REFUSED as error:
    raise UserError(f"{path}: cannot be written ({one_line(error)}), expected "
                    "a file that can be") from None


def how_to_mend(name, bad):
  """A line."""
  kind, _, rest = name.partition(":")
  if kind == "dmvr":
    return "to mend it: write these files anew, as they were written"
  if kind == "tfds":
    name, *_ = re.split("[:?]", rest)
    where = f" --data_dir={FLAGS.data_dir}" if FLAGS.data_dir else ""
    return f"to mend it: tfds build {name} --overwrite{where}"
  line = ("to mend it: python scripts/prepare_dataset.py --repair --dataset="
          f"{kind} --data_dir={FLAGS.data_dir}, with the --manual_dir that it "
          "was built from, and --annotations if there were any")
  paths = sorted({found.file for found in bad if found.written_so})
  if paths:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    line += (f"; before that, delete what was written so: "
             f"{', '.join(paths[:SHOWN])}{more}")
  return line


if __name__ == "__main__":
  cli.run(main)
