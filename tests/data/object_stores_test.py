"""Data and files in an object store and on the web, by what is asked of it.

tensorflow-io's own client talks to a store in a process of its own. It aborts
at the end of a process that had to do with S3, so it is in one of its own, too.
"""
import hashlib
import json
import re

import numpy as np
import pytest

from tests.data import conftest as records
from tests.data.dmvr_test import sequence_example
from tests.object_store import Store
from vatt.data import split_index

PROGRAM = """
import functools, hashlib, http.server, json, os, sys, threading
import urllib.request

from vatt import files, locks, stopping, workdir
from vatt.checkpoints import Checkpoints
from vatt.data import record_index, sources
from vatt.errors import UserError

address, list_file, folder = sys.argv[1:]
said = {}


class Handler(http.server.SimpleHTTPRequestHandler):
  # Python's own knows no ranges.
  def log_message(self, *args):
    pass


def log():
  with urllib.request.urlopen(address + "/?log") as answer:
    return json.load(answer)


def read(name, data_dir, split="train"):
  log()
  index = sources.open_source(name, data_dir, split).index
  opening, asked, hashes = log(), [], []
  for i in range(len(index)):
    raw = record_index.read_one(index, i).numpy()
    hashes.append(hashlib.sha256(raw).hexdigest())
    asked.append([wanted[2] for wanted in log()])
  return dict(opening=opening, asked=asked, hashes=hashes)


def error(function, *args):
  try:
    function(*args)
  except (UserError, OSError, ValueError) as error:
    return str(error)


said["s3"] = read("clips/a", "s3://bucket/data")
web = address + "/bucket/data"
said["web"] = read("clips/a:1.0.0", web)
said["no version"] = error(read, "clips/a", web)
dmvr = "?fps=8&audio_rate=8000"
said["list"] = [read("dmvr:" + list_file + dmvr, "") for _ in range(2)]
for each in "xy":
  with open(folder + "/bucket/data/" + each, "wb") as file:
    file.write(b"other" * 1000)
said["changed"] = error(read, "dmvr:" + list_file + dmvr, "")
said["malformed"] = error(read, "clips/a b:1.0.0", web)
said["pattern"] = error(read, "dmvr:" + web + "/*" + dmvr, "")
handler = functools.partial(Handler, directory=folder)
with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
  threading.Thread(target=server.serve_forever, daemon=True).start()
  plain = "http://127.0.0.1:%d/bucket/data" % server.server_port
  said["no ranges"] = error(read, "clips/a:1.0.0", plain)
  said["no file"] = error(
      read, "dmvr:" + plain + "/nothing.tfrecord" + dmvr, "")
  server.shutdown()
said["scheme"] = error(files.know, "--tpu=grpc://10.0.0.2:8470")


def fail(path):
  with open(path, "w") as file:
    file.write("half of it")
  raise ValueError("failed")


path = "s3://bucket/w/a.json"
files.write_whole(path, "1")
said["whole"] = log()
said["failed"] = error(files.write_whole_by, path, fail), log()
files.write_together("s3://bucket/w", "mark", "2", {"b": "3", "c": b"4"})
said["together"] = log()
files.write_together("s3://bucket/w", "mark", "2", {"b": "5"}, old=["b", "c"])
said["again"] = log()
with files.whole_folder("s3://bucket/folder", "mark") as folder:
  for name in "mark", "other", "z/inside":
    files.tf.io.gfile.makedirs(os.path.dirname(folder + "/" + name))
    files.write_whole(folder + "/" + name, name)
said["folder"] = log()


def twice():
  with files.whole_folder("s3://bucket/folder", "mark") as folder:
    files.write_whole(folder + "/more", "6")


def both():
  with locks.own("s3://bucket/run", "one"), locks.own("s3://bucket/run", "two"):
    pass


said["twice"] = error(twice)
said["both"] = error(both)
def start(folder):
  with locks.own(folder, "a run"):
    Checkpoints(folder + "/checkpoints", v=files.tf.Variable(1)).save(1)


said["refused"] = {}
for bucket in "nowhere", "unlisted":
  said["refused"][bucket] = [
      error(sources.open_source, "clips/a", f"s3://{bucket}/data", "train"),
      error(sources.open_source, f"dmvr:s3://{bucket}/*" + dmvr, "", "train"),
      error(workdir.read_config, f"s3://{bucket}/run"),
      error(workdir.has_checkpoint, f"s3://{bucket}/run"),
      error(start, f"s3://{bucket}/run"),
      error(Checkpoints(f"s3://{bucket}/run", v=files.tf.Variable(1)).save, 1)]
log()
said["sha256"] = files.sha256("s3://bucket/data/large"), log()
print(json.dumps(said))
stopping.leave(0)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
  """A store, and its folder with the objects of `bucket`."""
  folder = tmp_path_factory.mktemp("store")
  for bucket in "bucket", "unlisted":
    (folder / bucket).mkdir()
  store = Store(folder)
  yield store, folder / "bucket"
  store.close()


@pytest.fixture(scope="module")
def built(store):
  """The records of a dataset of three shards in the store, and its folder."""
  raw = [records.serialize(records.clip(i, 1 + i)) for i in range(7)]
  folder = records.write_built(
      store[1] / "data", "clips/a", {"train": raw}, sidecars=False)
  sizes = [[len(each) + 16 for each in part] for part in (
      raw[:2], raw[2:4], raw[4:])]
  split_index.write(str(folder), "clips", "train", [
      {"offsets": np.cumsum([0, *part[:-1]]), "bytes": sum(part)}
      for part in sizes])
  (folder / "dataset_info.json").write_text(json.dumps({
      "name": "clips", "splits": [
          {"name": "train", "shardLengths": ["2", "2", "3"]}]}))
  return raw, sizes


@pytest.fixture(scope="module")
def said(store, built, python, python_env, tmp_path_factory):
  """What the program says."""
  store, bucket = store
  for name, count in ("x", 2), ("y", 1):
    records.write_records(bucket / "data" / name, [
        sequence_example(records) for _ in range(count)])
  (bucket / "data/large").write_bytes(bytes(range(251)) * 70_001)  # 17.6 MB
  home = tmp_path_factory.mktemp("home")
  (home / "list.txt").write_text("".join(
      f"{store.address}/bucket/data/{name}\n" for name in "yx"))
  done = python.run(
      "-c", PROGRAM, store.address, str(home / "list.txt"), str(bucket.parent),
      env=python_env | store.environment() | {"HOME": str(home)})
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.mark.parametrize("where", ["s3", "web"])
def test_a_record_is_read_by_its_range(said, built, where):
  raw, sizes = built
  found = said[where]
  assert found["hashes"] == [hashlib.sha256(each).hexdigest() for each in raw]
  offsets = np.concatenate([np.cumsum([0, *part[:-1]]) for part in sizes])
  for offset, size, asked in zip(
      offsets.tolist(), np.concatenate(sizes).tolist(), found["asked"]):
    # TensorFlow looks for the byte before, to see that the file is so long.
    before = [f"bytes={offset - 1}-{offset - 1}"] if offset else []
    assert asked == [*before, f"bytes={offset}-{offset + size - 1}"]


@pytest.mark.parametrize("where", ["s3", "web"])
def test_opening_asks_for_no_shard(said, built, where):
  """But for the first record; there are none of the sidecars."""
  _, sizes = built
  asked = [request for request in said[where]["opening"]
           if ".tfrecord-" in request[1] and "list-type" not in request[1]]
  assert asked == [[
      "GET", "/bucket/data/clips/a/1.0.0/clips-train.tfrecord-00000-of-00003",
      f"bytes=0-{sizes[0][0] - 1}", 206]]
  listed = [request for request in said[where]["opening"]
            if "delimiter" in request[1]]
  assert len(listed) == {"s3": 2, "web": 0}[where]  # versions, and shards


def test_a_list_of_files_on_the_web(said):
  """Each is read once to see where its records are, and never again."""
  first, again = said["list"]
  assert first["hashes"] == again["hashes"] and len(first["hashes"]) == 3
  assert len(set(first["hashes"])) == 1
  sidecars = [f"/bucket/data/{name}.index.json" for name in "xy"]
  for found in first, again:
    ranges = [request[2] for request in found["opening"]
              if request[1] not in sidecars]
    whole = [wanted for wanted in ranges
             if int(wanted.partition("-")[2]) > 1 << 20]
    assert len(whole) == (2 if found is first else 0)
    assert "" not in ranges


def test_what_the_web_cannot_tell(said):
  assert said["no version"].endswith(
      "is on the web, where nothing can be looked for; expected a version: "
      "clips/a:1.0.0")
  assert said["pattern"].endswith(
      "/bucket/data/* is on the web, where nothing can be looked for; expected "
      "a list of files, FILE.txt")
  assert "tfrecord-00000-of-00003: cannot be read (" in said["no ranges"]
  assert said["no ranges"].endswith("a server that knows ranges of bytes")
  assert "/data/x: cannot be read (" in said["changed"]
  assert re.search(r"; if the file has changed, remove .*/\.cache/vatt/\w+"
                   r"\.index\.json$", said["changed"])
  assert said["malformed"].startswith("clips/a b:1.0.0: cannot be opened (")
  assert "/nothing.tfrecord: cannot be read as TFRecords (" in said["no file"]
  assert said["scheme"] is None


def changes(requests):
  return [(method, path.removeprefix("/bucket/"))
          for method, path, *_ in requests if method not in ("GET", "HEAD")]


def test_files_get_their_names_at_once(said, store):
  _, bucket = store
  assert changes(said["whole"]) == [("PUT", "w/a.json")]
  assert said["failed"] == ["failed", []]
  assert (bucket / "w/a.json").read_text() == "1"
  assert changes(said["together"]) == [
      ("PUT", "w/b"), ("PUT", "w/c"), ("PUT", "w/mark")]
  # Nothing is vouched for while files change.
  assert changes(said["again"]) == [
      ("DELETE", "w/mark"), ("DELETE", "w/c"), ("PUT", "w/b"),
      ("PUT", "w/mark")]
  assert changes(said["folder"]) == [
      ("PUT", "folder/other"), ("PUT", "folder/z/inside"),
      ("PUT", "folder/mark")]
  assert "File exists" in said["twice"]
  assert {path.name: path.read_text() for path in (bucket / "w").iterdir()} == {
      "a.json": "1", "b": "5", "mark": "2"}
  assert not (bucket / "folder/more").exists()


def test_one_owner_of_a_folder(said, store):
  assert said["both"].startswith("s3://bucket/run: in use by one, process ")
  assert not (store[1] / "run/owner.json").exists()


def test_a_store_that_refuses_is_no_empty_one(said, store):
  """Whose client takes what fails for what is not there: a run would start
  anew each time, and what is built be looked for in vain."""
  for bucket, why in ("nowhere", "NoSuchBucket"), ("unlisted", "AccessDenied"):
    found = said["refused"][bucket]
    assert not [line for line in found if not (line and f"({why}: No)" in line)]
    data, dmvr, config, has, *_ = found
    assert data.startswith(f"s3://{bucket}/data/clips/a: cannot be looked into")
    assert f"no file matches s3://{bucket}/*" in dmvr
    assert config.startswith(f"s3://{bucket}/run/config.json: not found (")
    assert has.startswith(f"s3://{bucket}/run/checkpoints: cannot be looked in")
  # What was written of a checkpoint may be there, and its manifest is not.
  assert not list((store[1].parent / "unlisted").rglob("*.json"))


def test_sha256_of_a_large_object(said, store):
  content = (store[1] / "data/large").read_bytes()
  assert len(content) > 1 << 24  # more than is read at once
  assert len(content) % 2
  digest, asked = said["sha256"]
  assert digest == hashlib.sha256(content).hexdigest()
  # Each byte once, but for the one before the last.
  found = [tuple(map(int, wanted.removeprefix("bytes=").split("-")))
           for *_, wanted, _ in asked if wanted]
  assert sum(min(end + 1, len(content)) - start for start, end in found) == (
      len(content) + 1)


@pytest.mark.slow
def test_a_dataset_is_built_there_as_on_a_disk(
    store, media, python, python_env, tmp_path):
  """Built, found finished, damaged and mended; byte for byte."""
  store, bucket = store
  manual_dir, _ = media.write_sources(tmp_path / "manual")
  env = python_env | store.environment()

  def build(data_dir, *flags):
    return python.run(
        "scripts/prepare_dataset.py", "--dataset=spoken_digits/official",
        f"--data_dir={data_dir}", f"--manual_dir={manual_dir}", *flags, env=env)

  assert build(tmp_path / "data").returncode == 0
  store.log()
  done = build("s3://bucket/built")
  assert done.returncode == 0, done.stderr
  put = [path.rpartition("/")[2] for method, path in changes(store.log())
         if method == "PUT" and not path.endswith("owner.json")]
  assert put[-1] == "dataset_info.json" and len(put) == len(set(put))
  assert not [name for name in put if ".tmp" in name]
  local = {path.name: path.read_bytes() for path in (
      tmp_path / "data/spoken_digits/official").glob("*/*")}
  folder, = (bucket / "built/spoken_digits/official").iterdir()
  found = {path.name: path.read_bytes() for path in folder.iterdir()}
  assert found == local and set(put) - {"plan.jsonl"} == set(local)
  assert "already built" in build("s3://bucket/built").stdout
  shard, *_ = folder.glob("*.tfrecord-*-of-*[0-9]")
  shard.unlink()
  assert f"damaged, or not built by this program ({shard.name})" in build(
      "s3://bucket/built").stderr
  assert build("s3://bucket/built", "--repair").returncode == 0
  assert shard.read_bytes() == local[shard.name]
