"""Builds by Apache Beam against those without it: of real media, by decoders,
on the runner in this process, in processes of its own and behind a job server.
"""
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from apache_beam.options.pipeline_options import DebugOptions

from tests.object_store import Store
from vatt.data.datasets.clips import Clips
from vatt.data.ingest import beam_engine
from vatt.errors import UserError

ROOT = pathlib.Path(__file__).parents[3]
CONFIG = "beam+fps=5+size=48+audio_rate=8000+length=2"
DATASET = f"clips/{CONFIG}"
PROCESSES = ("--runner=direct", "--beam_options=direct_num_workers=2",
             "--beam_options=direct_running_mode=multi_processing")


def contents(data_dir):
  """{path below it: bytes} of all files."""
  return {str(path.relative_to(data_dir)): path.read_bytes()
          for path in pathlib.Path(data_dir).rglob("*")
          if path.is_file() and path.suffix != ".json.lock"}


def build(data_dir, manual_dir, engine=None):
  """Builds, and returns the contents of the dataset."""
  Clips(data_dir=str(data_dir), manual_dir=str(manual_dir), config=CONFIG,
        engine=engine).download_and_prepare()
  return contents(data_dir)


CLIPS = ([f"band_audio.mp3,{i},{i + 2},train" for i in range(10)]
         + [f"carphone_pristine.mp4,{i},{i + 2},test train" for i in range(3)])
REJECTED = "band_audio.mp3,100,102,train"  # there is no such second


def list_clips(folder, rows):
  (folder / "clips.csv").write_text(
      "\n".join(["video_path,start,end,split", *rows]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, test_data):
  """Clips of a real recording, and of a real video."""
  folder = tmp_path_factory.mktemp("beam_media")
  for name in ("band_audio.mp3", "carphone_pristine.mp4"):
    shutil.copy(test_data / "media" / name, folder)
  list_clips(folder, [*CLIPS, REJECTED])
  return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory, folder):
  """What a build without Beam writes."""
  return build(tmp_path_factory.mktemp("plain"), folder)


def test_same_bytes_as_without(tmp_path, folder, plain, capsys):
  """First with a shard that cannot be written, then from what is there, a shard
  of it damaged."""
  names = sorted(name.removesuffix(".index.json") for name in plain
                 if "-train" in name and name.endswith(".index.json"))
  bad = tmp_path / names[2]
  bad.mkdir(parents=True)
  counts = []

  def counted(job, shards, progress):
    beam_engine.Engine("direct")(
        job, shards, lambda count: (counts.append(count), progress(count)))
    assert sum(counts) == sum(shard.count for shard in shards)

  with pytest.raises(UserError) as error:
    build(tmp_path, folder, counted)
  assert re.fullmatch(rf"{bad.name}: {re.escape(str(bad))}\S*; "
                      "Is a directory", str(error.value))
  bad.rmdir()
  there = sorted(tmp_path.rglob("*.index.json"))[0]
  damaged = there.with_name(there.name.removesuffix(".index.json"))
  data = damaged.read_bytes()
  damaged.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
  counts.clear()
  assert build(tmp_path, folder, counted) == plain
  assert len(names) > 4 and len(counts) > 1
  assert "rejected 1 " in capsys.readouterr().out.splitlines()[-1]


def test_goes_on_with_more_clips(tmp_path, folder, plain):
  """What is the same of a former plan is taken from it, also by Beam."""
  other = shutil.copytree(folder, tmp_path / "media")
  list_clips(other, CLIPS[1:])
  data_dir = tmp_path / "data"
  build(data_dir, other)
  list_clips(other, [*CLIPS, REJECTED])
  next(data_dir.rglob("dataset_info.json")).unlink()

  def engine(job, shards, progress):
    assert job.known is not None
    beam_engine.Engine("direct")(
        job._replace(read=Noted(job.read, tmp_path / "read")), shards, progress)

  assert build(data_dir, other, engine) == plain
  read = (tmp_path / "read").read_text().splitlines()
  assert sorted(read) == ["0.0", "100.0"]


class Noted:
  """A reader that notes the starts of the clips that it reads."""

  def __init__(self, read, path):
    self._read, self._path = read, path

  def __call__(self, clips):
    with open(self._path, "a") as file:
      file.writelines(f"{clip.data[0]}\n" for clip in clips)
    return self._read(clips)


def test_what_cannot_be_run_is_refused_in_a_line():
  for arguments, said in (
      (["nix"], "--runner=nix: Unexpected pipeline runner: nix. Valid values "),
      (["dataflow"], "--runner=dataflow: "),  # needs a project, and a package
      (["direct", ["direct_num_worker=2"]],
       "--beam_options: direct_num_worker is no option of Beam"),
      (["direct", ["direct_running_mode=fast"]],
       "--beam_options: argument --direct_running_mode: invalid choice: 'fast'")
  ):
    with pytest.raises(UserError) as error:
      beam_engine.Engine(*arguments)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_a_process_of_a_worker_builds_a_shard_at_a_time():
  options = ["job_endpoint=localhost:1"]
  for given, threads in ((), 1), (("number_of_worker_harness_threads=3",), 3):
    engine = beam_engine.Engine("PortableRunner", [*options, *given])
    assert engine._pipeline.options.view_as(
        DebugOptions).number_of_worker_harness_threads == threads


def test_without_beam(tmp_path, folder, python, python_env):
  (tmp_path / "apache_beam.py").write_text(
      "raise ModuleNotFoundError(\"No module named 'apache_beam'\")")
  env = dict(python_env, PYTHONPATH=os.pathsep.join(
      [str(tmp_path), python_env["PYTHONPATH"]]))
  done = python.run(*command(tmp_path, folder), "--runner=direct", env=env)
  assert done.returncode == 1
  assert done.stderr == ("error: --runner=direct: needs Apache Beam (No module "
                         "named 'apache_beam'): pip install 'vatt[beam]'\n")


@pytest.mark.parametrize("flags, said", [
    (["--runner=direct", "--repair"], "--runner: expected none with --repair"),
    (["--beam_options=region=x"], "--runner is missing"),
    (["--runner=direct", "--dataset=tfds:mnist"],
     "--dataset: tfds:mnist is built by tensorflow-datasets, expected none of "
     "--annotations, --trimmed, --runner and --repair"),
])
def test_flags_that_do_not_go_together(tmp_path, folder, python, flags, said):
  done = python.run(*command(tmp_path, folder), *flags)
  assert done.returncode == 1
  assert done.stderr.startswith(f"error: {said}")
  assert len(done.stderr.splitlines()) == 1


def command(data_dir, manual_dir):
  return ["scripts/prepare_dataset.py", f"--dataset={DATASET}",
          f"--manual_dir={manual_dir}", f"--data_dir={data_dir}"]


# ---- In processes ------------------------------------------------------------
def start(data_dir, manual_dir, python_env, flags=PROCESSES):
  """Starts a build in a process group of its own."""
  return subprocess.Popen(
      [sys.executable, *command(data_dir, manual_dir), *flags], cwd=ROOT,
      env=python_env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
      text=True, start_new_session=True)


def workers_of(group):
  """Processes of Beam's workers in a group, by their numbers."""
  found = subprocess.run(["ps", "-wweo", "pid,pgid,args"], text=True,
                         check=True, stdout=subprocess.PIPE).stdout
  return [int(pid) for pid, theirs, program, *rest in
          (line.split() for line in found.splitlines()[1:])
          if theirs == str(group) and "python" in program
          and rest[-1:] == ["apache_beam.runners.worker.sdk_worker_main"]]


def group_ends(group, seconds=20):
  """Whether no process of a group is left, within some seconds."""
  for _ in range(10 * seconds):
    try:
      os.killpg(group, 0)
    except ProcessLookupError:
      return True
    time.sleep(0.1)
  return False


def wait_for(condition, process, seconds=120):
  for _ in range(20 * seconds):
    if condition():
      return
    assert process.poll() is None, process.stdout.read()
    time.sleep(0.05)
  raise AssertionError("it does not come")


@pytest.mark.slow
def test_same_bytes_from_two_processes(tmp_path, folder, plain, python_env):
  process = start(tmp_path, folder, python_env)
  said, _ = process.communicate(timeout=300)
  assert process.returncode == 0, said
  assert contents(tmp_path) == plain
  assert group_ends(process.pid)


def shards_in(data_dir):
  return len([*pathlib.Path(data_dir).rglob("*.index.json")])


@pytest.fixture(scope="module")
def films(tmp_path_factory, test_data):
  """A folder of media that take some time, and what a build without Beam
  writes of them."""
  folder = tmp_path_factory.mktemp("beam_films")
  rows = []
  for i in range(12):
    shutil.copy(test_data / "media/bigbuckbunny.mp4", folder / f"{i}.mp4")
    rows += [f"{i}.mp4,0,2.5,train", f"{i}.mp4,2.5,5,train"]
  list_clips(folder, rows)
  return folder, build(tmp_path_factory.mktemp("plain_films"), folder)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["driver", "group", "worker"])
def test_kills(tmp_path, films, python_env, victim):
  """Killed at ten moments: twice before a worker builds, then with each shard
  that is there."""
  (folder, plain), kills, runs = films, 0, 0
  while kills < 10:
    runs += 1
    assert runs <= 30, f"{kills} kills came before a build was done"
    if shards_in(tmp_path) > 7:  # so that there are ten moments
      for path in [*sorted(tmp_path.rglob("*.index.json"))[:5],
                   *tmp_path.rglob("dataset_info.json")]:
        path.unlink()
    process = start(tmp_path, folder, python_env)
    if kills < 2 and victim != "worker":
      time.sleep(2 + 3 * kills)
    else:
      one_more_shard(tmp_path, process)
      time.sleep(0.03 * kills)
    if victim == "group":
      os.killpg(process.pid, signal.SIGKILL)
    elif victim == "driver":
      process.kill()
    elif workers := workers_of(process.pid):
      os.kill(workers[kills % len(workers)], signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert group_ends(process.pid), "a worker outlives its driver"
    if process.returncode == 0:  # it was done before
      continue
    assert process.returncode == (1 if victim == "worker" else -9), said
    if victim == "worker":
      assert said.splitlines()[-1].startswith(
          "error: a worker ended (Worker subprocess exited with return code -9)"
          ", see ")
    kills += 1
  process = start(tmp_path, folder, python_env)
  said, _ = process.communicate(timeout=300)
  assert process.returncode == 0, said
  assert contents(tmp_path) == plain


def one_more_shard(data_dir, process):
  before = shards_in(data_dir)
  wait_for(lambda: shards_in(data_dir) > before or process.poll() == 0, process)


@pytest.mark.slow
@pytest.mark.parametrize("number, to", [
    (signal.SIGTERM, "driver"), (signal.SIGINT, "group")])
def test_stops_in_a_line(tmp_path, folder, plain, python_env, number, to):
  process = start(tmp_path, folder, python_env)
  wait_for(lambda: shards_in(tmp_path) > 1, process)
  if to == "group":  # as a terminal does
    os.killpg(process.pid, number)
  else:
    process.send_signal(number)
  said, _ = process.communicate(timeout=20)
  assert process.returncode == 128 + number, said
  assert said.splitlines()[-1] == (
      "stopped; what is finished is kept, run the same command to go on")
  assert "Traceback" not in said
  assert group_ends(process.pid)
  assert build(tmp_path, folder) == plain


@pytest.mark.slow
def test_behind_a_job_server(tmp_path, folder, plain, python_env):
  """As runners of other machines have it: a server takes the job, and has it
  done by workers that a pool starts."""
  ports = []
  for _ in range(2):
    with socket.socket() as free:
      free.bind(("localhost", 0))
      ports.append(free.getsockname()[1])
  env = dict(python_env, PATH=os.pathsep.join(
      [os.path.dirname(sys.executable), os.environ["PATH"]]))
  servers = [subprocess.Popen([sys.executable, "-m", *words], env=env,
                              stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
             for words in (
      ["apache_beam.runners.portability.local_job_service_main",
       f"--port={ports[0]}"],
      ["apache_beam.runners.worker.worker_pool_main",
       f"--service_port={ports[1]}"])]
  try:
    for port in ports:
      wait_for(lambda port=port: listens(port), servers[0])
    flags = ["--runner=PortableRunner", *(f"--beam_options={option}" for option
             in (f"job_endpoint=localhost:{ports[0]}",
                 "environment_type=EXTERNAL",
                 f"environment_config=localhost:{ports[1]}"))]
    process = start(tmp_path, folder, env, flags)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert contents(tmp_path) == plain
    # What fails there is told here.
    bad = tmp_path / "bad" / next(name for name in plain if "-train" in name
                                  and not name.endswith(".json"))
    bad.mkdir(parents=True)
    process = start(tmp_path / "bad", folder, env, flags)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert re.fullmatch(rf"error: {bad.name}: {re.escape(str(bad))}\S*; "
                        "Is a directory", said.splitlines()[-1])
  finally:
    for server in servers:
      server.terminate()
      server.wait()


@pytest.mark.slow
def test_into_an_object_store(tmp_path, folder, plain, python_env):
  (tmp_path / "bucket").mkdir()
  store = Store(tmp_path)
  try:
    process = start("s3://bucket", folder, python_env | store.environment())
    said, _ = process.communicate(timeout=300)
  finally:
    store.close()
  assert process.returncode == 0, said
  assert contents(tmp_path / "bucket") == plain


def listens(port):
  with socket.socket() as tried:
    return tried.connect_ex(("localhost", port)) == 0
