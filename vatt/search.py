"""Search in media: the moments of files that a sentence, a film or a sound is
about.

  python -m vatt.search FOLDER... --workdir=DIR --query="a dog barks"
      [--top=10] [--by=video|audio|both] [--kind=video|audio] [--name='*.mp4']
      [--each] [--page=results.html]
  python -m vatt.search FOLDER... --workdir=DIR --video=FILE | --audio=FILE
  python -m vatt.search FOLDER... --workdir=DIR --serve [--port=8000]

FOLDER is a folder of media, DIR the workdir of a pre-trained model. For
`vatt-search` read `python -m vatt.search`.

The first run indexes the files: the vectors of all their windows are kept in
FOLDER/.vatt-index (or in --index, which several folders need). A later one
takes in what is new or has changed, and drops what is gone; a run that is
killed goes on where it was. What cannot be used is remembered and listed; it is
tried again where the reason may have passed, and all of it with --retry.
Without a query that is all that is done.

Prints a line a file, the best first: the cosine, and the times of its best
window; with --each a line a window. Sentences are compared with the pictures of
a window, and with the sound of one that has none; so is --video=FILE, whose
pictures are the query. --audio=FILE, whose sound is, is compared with sound
first. --by says otherwise.

--page writes the result as a page with pictures, on which a click plays the
file at that moment. --serve shows such a page for any query, in a browser on
this machine, at the address that it prints, whose token keeps out other users.
For a browser elsewhere tunnel the same port: ssh -L 8000:localhost:8000 HOST.
"""
import os
import signal
import sys

from absl import flags, logging

from vatt import cli
from vatt.errors import UserError, visible

cli.define_workdir("Of a pre-trained model.")
QUERY = flags.DEFINE_string("query", None, "A sentence to look for.")
VIDEO = flags.DEFINE_string("video", None, "A film to look for the like of.")
AUDIO = flags.DEFINE_string("audio", None, "A sound to look for the like of.")
TOP = flags.DEFINE_integer("top", 10, "Files, or windows, to show.", 1)
BY = flags.DEFINE_enum("by", None, ["video", "audio", "both"],
                       "What of a window is compared.")
KIND = flags.DEFINE_enum("kind", None, ["video", "audio"], "Files with pictures"
                         " (video), or with sound alone.")
NAME = flags.DEFINE_string("name", "", "A part of files' paths, or a pattern "
                           "with * and ?.")
EACH = flags.DEFINE_boolean("each", False, "Every window, not the best of a "
                            "file.")
PAGE = flags.DEFINE_string("page", None, "File to write, .html.")
SERVE = flags.DEFINE_boolean("serve", False, "Show a page to search on, in a "
                             "browser.")
PORT = flags.DEFINE_integer("port", 0, "Of --serve; default one that is free.",
                            0, 65535)
INDEX = flags.DEFINE_string("index", None, "Folder of the index.")
UPDATE = flags.DEFINE_boolean("update", True, "Look for new files first.")
RETRY = flags.DEFINE_boolean("retry", False, "Try again what could not be "
                             "used.")
FAISS = flags.DEFINE_boolean("faiss", False, "Compare with faiss, faster for "
                             "millions of windows and then not exact.")
cli.define_windows()
SHOWN = 10  # files that cannot be used


def main(arguments: list[str]) -> None:
  """Indexes, searches; prints, writes or serves."""
  folders, index_folder = _folders(arguments)
  asked = {name: flag.value for name, flag in (
      ("query", QUERY), ("video", VIDEO), ("audio", AUDIO))
      if flag.value is not None}
  if len(asked) + SERVE.value > 1:
    given = [*asked, "serve"] if SERVE.value else list(asked)
    raise UserError(f"{' and '.join(f'--{name}' for name in given)} are given, "
                    "expected one of --query, --video, --audio and --serve")
  for name in asked.keys() & {"video", "audio"}:
    asked[name] = os.path.expanduser(asked[name])
    if not os.path.isfile(asked[name]):
      raise UserError(f"--{name}={asked[name]}: not found, expected a file")
  page = PAGE.value and os.path.expanduser(PAGE.value)
  if page is not None and not (asked and page.endswith(".html")
                               and os.path.isdir(os.path.dirname(page) or ".")):
    raise UserError(f"--page={PAGE.value}: expected a query, and a file of a "
                    "folder that is there, whose name ends in .html")
  windows = cli.windows() or "all"

  # What takes seconds comes after the command line's errors.
  from vatt import host, inference, queries, serve
  from vatt import index as index_lib
  from vatt.reports import search as page_lib

  host.hold_memory()
  model = inference.Model(cli.workdir())
  query = None
  for kind, value in asked.items():  # before the index, which may take long
    query = (queries.of_text(model, value) if kind == "query"
             else queries.of_file(model, value, kind))
  index = index_lib.Index(index_folder, model, windows)
  if UPDATE.value:
    try:
      print(f"{index.folder}: {_told(index.update(folders, RETRY.value))}")
    except KeyboardInterrupt:
      print(f"{index.folder}: stopped; the next run goes on")
      sys.exit(128 + signal.SIGINT)
  searcher = queries.Searcher(model, index, folders, FAISS.value)
  _tell_unusable(searcher.unusable, SHOWN if asked or SERVE.value else None)
  if SERVE.value:
    serve.run(searcher, PORT.value)
    return
  if query is None:
    print(f"{searcher.num_windows} windows of {len(searcher.files)} files")
    return
  hits = searcher.find(query, TOP.value, BY.value or "", KIND.value or "",
                       NAME.value, EACH.value)
  if not hits:
    raise UserError("no file of that --kind, --name and --by, expected some")
  for hit in hits:
    print(f"{hit.score:6.3f}  {page_lib.clock(hit.start)} - "
          f"{page_lib.clock(hit.end)}  {visible(hit.name)}")
  if page is not None:
    page_lib.write(page, *asked.values(), query.note, hits)
    print(page)


def _folders(arguments):
  """The folders, and that of their index; UserError unless they are some."""
  folders = [os.path.expanduser(argument) for argument in arguments]
  if not folders:
    raise UserError("no folder, expected one with media")
  for folder in folders:
    if not os.path.isdir(folder):
      raise UserError(f"{folder}: no folder, expected one with media")
  if INDEX.value:
    return folders, os.path.expanduser(INDEX.value)
  if len(folders) > 1:
    raise UserError(f"--index is missing, expected a folder to keep the index "
                    f"of {len(folders)} folders")
  return folders, os.path.join(folders[0], ".vatt-index")


def _told(changes):
  """What an update did, in a line."""
  names = {"changed or tried again": changes.changed, "gone": changes.dropped,
           "as before": changes.kept, "that cannot be used": changes.unusable}
  return ", ".join([f"{changes.added} new files"] + [
      f"{count} {name}" for name, count in names.items() if count])


def _tell_unusable(unusable, most):
  """Lists files that cannot be used."""
  for file in unusable[:most]:
    logging.warning("%s: cannot be used: %s", visible(file.path), file.problem)
  if most is not None and len(unusable) > most:
    logging.warning("%d more files cannot be used; without a query all are "
                    "listed", len(unusable) - most)


if __name__ == "__main__":
  cli.run(main, arguments=True)
