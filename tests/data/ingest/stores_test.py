"""Media in an object store: built as from a disk, by copies that go.

tensorflow-io's client aborts at the end of a process that had to do with S3, so
it is in one of its own.
"""
import collections
import csv
import gzip
import json
import os
import pathlib
import shutil

import pytest

from tests.object_store import Store

CONFIG = "there+fps=2+size=32+audio_rate=8000+length=2"
SUBTITLES = "1\n00:00:00,500 --> 00:00:01,500\na man speaks\n"
PROGRAM = """
import json, os, sys, urllib.request

from vatt import stopping
from vatt.data.datasets.clips import Clips, ClipReader, Options
from vatt.data.ingest import clips_csv, plans, stores
from vatt.errors import UserError

address, config, local, folder = sys.argv[1:]
said = {}
stores.PAUSES = 0.01, 0.01


def ask(what):
  with urllib.request.urlopen(f"{address}/?{what}") as answer:
    return answer.read()


def log():
  return json.loads(ask("log"))


def error(function, *args):
  try:
    return repr(function(*args))
  except Exception as error:
    return f"{type(error).__name__}: {error}"


def build(manual_dir, data_dir):
  Clips(data_dir=f"{folder}/{data_dir}", config=config,
        manual_dir=manual_dir).download_and_prepare()


build(local, "local")
log()
build("s3://bucket/media", "store")
said["build"] = log()
for where in "s3://bucket/nothing", "s3://nobody/media", address + "/bucket":
  said[where] = error(build, where, "none")
found = clips_csv.read("s3://bucket/listed/clips.csv")
said["listed"] = [span.file for span in found.spans()], found.rejected
said["web"] = error(clips_csv.read, "s3://bucket/listed/web.csv")
read = ClipReader("s3://bucket/media", Options(fps=2.0, size=32))
clip = plans.Clip("a", "more/man.mp4", (0.0, 2.0, [], [], 1))
for count in 2, 99:
  log(), ask(f"refuse={count}")
  said[f"refused {count}"] = error(lambda: [
      len(each["frames"]) for each in read([clip])]), log()
ask("refuse=0")
gone = plans.Clip("b", "more/gone.mp4", (0.0, 2.0, [], [], 1))
said["gone"] = error(lambda: list(read([gone])))
with stores.local("s3://bucket/media/more/man.mp4") as copy:
  facts = os.stat(copy)
  said["copy"] = copy, facts.st_size, facts.st_nlink, os.listdir(
      os.environ["TMPDIR"])
said["left"] = os.listdir(os.environ["TMPDIR"])
print(json.dumps(said))
stopping.leave(0)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, test_data):
  """What is in the bucket: a video of four seconds with subtitles, a file that
  is no media, and lists."""
  folder = tmp_path_factory.mktemp("media_store")
  more = folder / "bucket/media/more"
  more.mkdir(parents=True)
  shutil.copy(test_data / "media/carphone_pristine.mp4", more / "man.mp4")
  (more / "man.srt").write_text(SUBTITLES)
  (more.parent / "damaged.mp4").write_text("nothing")
  listed = folder / "bucket/listed"
  listed.mkdir()
  (listed / "clip.mp4").write_text("is not looked at")
  for name, paths in (("clips", (
      "clip.mp4", "s3://bucket/listed/clip.mp4", "missing.mp4",
      "s3://bucket/media/more/man.mp4", "s3://bucket/media/missing.mp4")),
                      ("web", ["https://host/a.mp4"])):
    (listed / f"{name}.csv").write_text("video_path,start,end\n" + "".join(
        f"{path},0,2\n" for path in paths))
  return folder


@pytest.fixture(scope="module")
def said(folder, python, python_env, tmp_path_factory):
  """What the program says, and the folder that it builds in."""
  store, built = Store(folder), tmp_path_factory.mktemp("built")
  (built / "tmp").mkdir()
  try:
    done = python.run(
        "-c", PROGRAM, store.address, CONFIG, str(folder / "bucket/media"),
        str(built), env=python_env | store.environment() | {
            "TMPDIR": str(built / "tmp")})
  finally:
    store.close()
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1]), built


def contents(folder):
  return {str(path.relative_to(folder)): path.read_bytes()
          for path in folder.rglob("*")
          if path.is_file() and path.name != "lengths.csv"}


def copied(requests):
  """The files that are read by ranges, but for the one whose name is tried to
  learn whether the store answers."""
  return [path.rpartition("/")[2] for method, path, wanted, _ in requests
          if method == "GET" and wanted and not path.endswith("/nothing")]


def test_the_same_bytes_as_of_media_on_a_disk(said):
  _, built = said
  found = contents(built / "store")
  assert found == contents(built / "local")
  rows = [row for name, text in found.items() if name.endswith("rejected.csv")
          for row in csv.reader(text.decode().splitlines())]
  assert rows[1][0] == "damaged.mp4"
  assert any(b"a man speaks" in gzip.decompress(data)
             for name, data in found.items() if name.endswith(".gz"))


def test_what_is_copied(said, folder):
  """Each file to be measured, to be tried, and once by each shard with clips of
  it. What was measured is kept with the store's time of it."""
  said, built = said
  found = collections.Counter(copied(said["build"]))
  assert found.keys() == {"damaged.mp4", "man.mp4", "man.srt"}
  assert found["man.mp4"] >= 4  # the client may read what is short twice
  lengths, = (built / "store").rglob("lengths.csv")
  facts = (folder / "bucket/media/more/man.mp4").stat()
  assert lengths.read_text() == (
      f"more/man.mp4,{facts.st_size},{int(facts.st_mtime)}000000000,4.004\n")


def test_what_is_not_there(said):
  said, _ = said
  nothing, nobody, web = (text for where, text in said.items() if "/" in where)
  assert nothing == (
      "UserError: --manual_dir=s3://bucket/nothing: no such folder")
  assert web.startswith("UserError: --manual_dir=http://")
  assert web.endswith("/bucket: no such folder")
  assert nobody.startswith("UserError: ")
  assert "s3://nobody/media/: cannot be read (" in nobody


def test_lists_name_what_is_in_stores(said):
  said, _ = said
  files, rejected = said["listed"]
  assert files == ["clip.mp4", "s3://bucket/media/more/man.mp4"]
  assert [(file, why.partition(": ")[2]) for _, file, why in rejected] == [
      ("missing.mp4", "no such file"),
      ("s3://bucket/media/missing.mp4", "no such file")]
  assert said["web"].endswith(
      "/web.csv: row 2, column video_path: 'https://host/a.mp4', expected a "
      "path, s3:// or gs://")


def test_a_store_that_fails_is_no_fault_of_a_file(said):
  """It is asked three times; then the shard ends, and rejects nothing."""
  said, _ = said
  found, requests = said["refused 2"]
  assert found == "[4]"
  # The client may read what is short twice.
  assert [status for *_, wanted, status in requests if wanted][:3] == [
      403, 403, 206]
  found, _ = said["refused 99"]
  assert found.startswith("UnavailableError: s3://bucket/media/more/man.mp4: "
                          "cannot be read (")
  assert said["gone"].startswith("UnavailableError: s3://bucket/media/more/"
                                 "gone.mp4: cannot be read (")


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs Linux")
def test_a_copy_goes_with_its_process(said, folder):
  """It has room in no folder, and its own name."""
  said, _ = said
  path, size, links, names = said["copy"]
  assert pathlib.Path(path).name == "man.mp4" and len(names) == 1
  assert (size, links) == (
      (folder / "bucket/media/more/man.mp4").stat().st_size, 0)
  assert said["left"] == []


@pytest.mark.slow
@pytest.mark.parametrize("runner", [
    "", "--runner=direct --beam_options=direct_num_workers=2 "
    "--beam_options=direct_running_mode=multi_processing"])
def test_by_processes_from_a_distance(runner, said, folder, python, python_env,
                                      tmp_path):
  """Of this machine and of Beam, each answer after 20 ms."""
  _, built = said
  store = Store(folder, 0.02)
  program = f"""
import runpy, sys
from vatt.data.datasets import clips
clips.LONG = 0
sys.argv = ["prepare_dataset", "--dataset=clips/{CONFIG}",
            "--manual_dir=s3://bucket/media/", "--data_dir={tmp_path}/data",
            *"{runner}".split()]
runpy.run_path("scripts/prepare_dataset.py", run_name="__main__")
"""
  (tmp_path / "tmp").mkdir()
  try:
    done = python.run("-c", program, fork=False, env=python_env
                      | store.environment() | {"TMPDIR": str(tmp_path / "tmp")})
    asked = store.log()
  finally:
    store.close()
  assert done.returncode == 0, done.stderr
  assert set(copied(asked)) == {"damaged.mp4", "man.mp4", "man.srt"}
  assert contents(tmp_path / "data") == contents(built / "local")
  left = list((tmp_path / "tmp").rglob("*.mp4"))
  assert not any(map(os.path.exists, left))  # links that lead nowhere


HOWTO100M = """
import sys
from vatt import stopping
from vatt.data.datasets.howto100m import Howto100m

config, local, folder = sys.argv[1:]
for where, data_dir in (local, "local"), ("s3://bucket", "store"):
  for lists in "captions", "captions/caption.json", "one":
    Howto100m(data_dir=f"{folder}/{data_dir}/{lists}", config=config,
              manual_dir=f"{where}/media", annotations=f"{where}/{lists}"
              ).download_and_prepare()
stopping.leave(0)
"""


@pytest.mark.slow
def test_captions_in_a_store(test_data, python, python_env, tmp_path):
  """Of one file of all videos, or of one a video: workers read them there."""
  bucket = tmp_path / "bucket"
  for name in "media", "captions", "one":
    (bucket / name).mkdir(parents=True)
  shutil.copy(test_data / "media/carphone_pristine.mp4",
              bucket / "media/video_id-01.mp4")
  cues = [[0.5, 2.5], [1.5, 3.5], ["a man speaks", "he looks out"]]
  (bucket / "captions/caption.json").write_text(json.dumps(
      {"video_id-01": dict(zip(("start", "end", "text"), cues))}))
  (bucket / "one/video_id-01.csv").write_text("start,end,text\n" + "".join(
      f"{start},{end},{text}\n" for start, end, text in zip(*cues)))
  store = Store(tmp_path)
  try:
    done = python.run("-c", HOWTO100M, CONFIG, str(bucket), str(tmp_path),
                      env=python_env | store.environment())
  finally:
    store.close()
  assert done.returncode == 0, done.stderr
  found = contents(tmp_path / "store")
  assert found == contents(tmp_path / "local")
  said = [gzip.decompress(data) for name, data in found.items()
          if name.endswith("-train.captions.jsonl.gz")]
  assert len(said) == 3 and all(b"a man speaks" in each for each in said)
