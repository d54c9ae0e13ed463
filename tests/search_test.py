"""`python -m vatt.search`, from the command line to the page."""
import os
import re
import shutil
import signal
import urllib.request

import pytest

from tests.searching import FIXTURES
from vatt import queries

WORKDIR = f"--workdir={FIXTURES / 'specific'}"


def error_of(done):
  assert done.returncode == 1, done.stderr
  line, = [line for line in done.stderr.splitlines()
           if line.startswith("error: ")]
  assert "Traceback" not in done.stderr
  return line.removeprefix("error: ")


@pytest.mark.parametrize("arguments, said", [
    ([], "no folder, expected one with media"),
    (["{}/none"], "{}/none: no folder, expected one with media"),
    (["{}/film.mkv"], "{}/film.mkv: no folder, expected"),
    (["{}", "{}/b"], "--index is missing, expected a folder to keep the index "
     "of 2 folders"),
    (["{}", "--query=a", "--audio=b"], "--query and --audio are given, expected"
     " one of"),
    (["{}", "--query=a", "--serve"], "--query and --serve are given, expected"),
    (["{}", "--video={}/none.mp4"], "--video={}/none.mp4: not found, expected"),
    (["{}", "--page={}/a.html"], "--page={}/a.html: expected a query, and a"),
    (["{}", "--query=a", "--page={}/a.txt"], "--page={}/a.txt: expected a"),
    (["{}", "--query=a", "--page={}/none/a.html"], "--page={}/none/a.html: e"),
    (["{}", "--windows=0"], "--windows=0: expected a number from 1, or all"),
    (["{}", "--top=0"], "command line: flag --top=0"),
])
def test_errors_of_the_command_line(python, indexed, arguments, said):
  filled = [word.replace("{}", str(indexed.folder)) for word in arguments]
  line = error_of(python.run("-m", "vatt.search", WORKDIR, *filled))
  assert line.startswith(said.replace("{}", str(indexed.folder)))


def test_a_search_in_a_process_of_its_own(python, indexed, tmp_path):
  """Finds what a searcher finds; a name with a line break is one line."""
  word = indexed.model.task.words[0]
  hits = queries.Searcher(
      indexed.model, indexed.index, [str(indexed.folder)]).find(
          queries.of_text(indexed.model, word))
  wanted = [(f"{hit.score:.3f}", hit.name.replace("film", "fi\nlm"))
            for hit in hits]
  folder = shutil.copytree(indexed.folder, tmp_path / "films")
  (folder / "film.mkv").rename(folder / "fi\nlm.mkv")
  done = python.run(
      "-m", "vatt.search", str(folder), WORKDIR, f"--query={word}",
      f"--page={tmp_path}/page.html", fork=False)
  assert not done.returncode, done.stderr
  first, *lines, last = done.stdout.splitlines()
  assert first == (f"{os.path.realpath(folder)}/.vatt-index: 1 new files, "
                   "1 gone, 3 as before, 1 that cannot be used")
  assert last == f"{tmp_path}/page.html"
  line = re.compile(r" *(-?[\d.]+)  [\d:.]+ - [\d:.]+  (.*)")
  assert [line.fullmatch(each).groups() for each in lines] == [
      (score, name.replace("\n", "\\n")) for score, name in wanted]
  assert "broken.mp4: cannot be used: no readable media" in done.stderr
  page = (tmp_path / "page.html").read_text()
  places = [page.index(f">{i}. {name}<")
            for i, (_, name) in enumerate(wanted, 1)]
  assert places == sorted(places)


def test_errors_of_a_search(python, indexed, tmp_path):
  """Nothing is ranked, nothing is written."""
  for folder, flags, said in (
      (indexed.folder, ["--query=zyzzyva"],
       "sentence 'zyzzyva': of its words, zyzzyva, the vocabulary has none"),
      (tmp_path, [], f"{tmp_path}: no media file in it, expected some")):
    done = python.run("-m", "vatt.search", str(folder), WORKDIR, *flags)
    assert error_of(done).startswith(said)
    assert not done.stdout
  assert os.listdir(tmp_path) == []


def test_the_server_ends_by_ctrl_c(python, indexed):
  process = python.start("-m", "vatt.search", str(indexed.folder), WORKDIR,
                         "--serve", "--noupdate")
  said = ""
  while not (found := re.search(r"(http://127.0.0.1:\d+/\?token=\S+) searc"
                                "hes 3 files", said)):
    assert process.poll() is None, process.stderr.read()
    said += process.stdout.readline()
  browser = urllib.request.build_opener(
      urllib.request.HTTPCookieProcessor())
  with browser.open(found[1]) as answer:
    assert b"Search in 3 files" in answer.read()
  process.send_signal(signal.SIGINT)
  assert process.wait(60) == 0
  assert process.stdout.read() == "ended\n"
  assert "Traceback" not in process.stderr.read()
