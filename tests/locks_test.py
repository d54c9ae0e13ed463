"""One owner of a folder: races, deaths, other hosts; real processes."""
import contextlib
import errno
import json
import logging
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import tensorflow as tf

from vatt import locks, restore, transfer
from vatt.errors import UserError
from vatt.workdir import read_config

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


def owner_of(folder):
  return json.loads((folder / "owner.json").read_text())


def change(folder, **fields):
  (folder / "owner.json").write_text(json.dumps(owner_of(folder) | fields))


@pytest.fixture
def left(tmp_path):
  """A folder with the file that a killed owner leaves: of a process that ran
  here, and whose number nobody has."""
  gone = subprocess.Popen([sys.executable, "-c", ""])
  gone.wait()
  with locks.own(str(tmp_path), "a training run"):
    text = (tmp_path / "owner.json").read_text()
  (tmp_path / "owner.json").write_text(text)
  change(tmp_path, pid=gone.pid, since="2020-02-20 20:20:20+00:00")
  return tmp_path


@pytest.mark.parametrize("error", [None, ValueError, SystemExit])
def test_an_owner_is_named_until_it_ends(tmp_path, error):
  before = time.time()
  try:
    with locks.own(str(tmp_path), "a training run"):
      owner = owner_of(tmp_path)
      if error:
        raise error
  except (ValueError, SystemExit):
    pass
  assert owner["what"] == "a training run" and owner["pid"] == os.getpid()
  assert owner["host"] == os.uname().nodename
  # Seconds from the start of the system to that of this process.
  with open("/proc/uptime", encoding="ascii") as file:
    uptime = float(file.read().split()[0])
  with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
    boot, ticks = owner["start"].split()
    assert boot == file.read().strip()
  age = float(subprocess.run(
      ["ps", "-o", "etimes=", "-p", str(os.getpid())],
      capture_output=True, text=True).stdout or "nan")
  if age == age:  # where there is a `ps`
    assert abs(int(ticks) / os.sysconf("SC_CLK_TCK") - (uptime - age)) < 5
  since = time.mktime(time.strptime(owner["since"][:19], "%Y-%m-%d %H:%M:%S"))
  assert before - 2 < since < time.time() + 1
  assert not os.listdir(tmp_path)


def test_a_folder_that_is_made_goes_if_it_stays_empty(tmp_path):
  for name in (None, "result"):
    with locks.own(str(tmp_path / "new" / "run"), "a run"):
      assert owner_of(tmp_path / "new" / "run")
      if name:
        (tmp_path / "new" / "run" / name).touch()
    assert (tmp_path / "new" / "run").exists() == bool(name)
    assert (tmp_path / "new").exists() == bool(name)
  with locks.own(str(tmp_path / "new"), "a run"):
    pass
  assert os.listdir(tmp_path / "new" / "run") == ["result"]


def test_a_live_owner_is_refused_in_the_same_process_too(tmp_path):
  with locks.own(str(tmp_path), "a training run"):
    with pytest.raises(UserError) as refused:
      with locks.own(str(tmp_path), "a conversion"):
        pass
    said = str(refused.value)
    owner = owner_of(tmp_path)  # as it was
    assert owner["what"] == "a training run"
  assert said.startswith(f"{tmp_path}: in use by a training run, process "
                         f"{os.getpid()} of this host ({owner['host']}) since "
                         f"{owner['since']}; expected a folder")
  assert "wait for its end, stop it, or choose another folder" in said
  assert "\n" not in said


def test_a_dead_owner_is_taken_over_and_told(left, caplog):
  with caplog.at_level(logging.WARNING):
    with locks.own(str(left), "a conversion"):
      owner = owner_of(left)
      assert (owner["what"], owner["pid"]) == ("a conversion", os.getpid())
  assert re.search(r"taken over from a training run \(process \d+, since 2020-"
                   r"02-20 20:20:20\+00:00\), which has died", caplog.text)
  assert not os.listdir(left)


def test_a_number_that_a_later_process_has_is_no_owner(left):
  # Ours is a live process; the file's was another of that number.
  start = owner_of(left)["start"]
  boot, ticks = start.split()
  for other in (f"{boot} {int(ticks) - 1}", f"another-{boot} {ticks}", ""):
    change(left, pid=os.getpid(), start=other)
    content = (left / "owner.json").read_text()
    with locks.own(str(left), "a run"):
      assert owner_of(left)["start"] == start
    (left / "owner.json").write_text(content)
  # If all fits it lives, though nobody holds the lock.
  change(left, start=start)
  with pytest.raises(UserError, match=f"process {os.getpid()} of this host"):
    with locks.own(str(left), "a run"):
      pass


def test_an_owner_on_another_host_is_refused_and_told_what_to_do(left):
  change(left, host="elsewhere")
  content = (left / "owner.json").read_text()
  with pytest.raises(UserError) as refused:
    with locks.own(str(left), "a run"):
      pass
  said = str(refused.value)
  assert said.startswith(f"{left}: in use by a training run, process ")
  assert "of host elsewhere since 2020-02-20" in said
  assert f"remove {left}/owner.json" in said and "\n" not in said
  assert (left / "owner.json").read_text() == content
  (left / "owner.json").unlink()
  with locks.own(str(left), "a run"):
    pass


@pytest.mark.parametrize("content", [
    b"", b'{"what": "a tr', b"[1]", b"null", b"\xff\xfe", b'{"pid": "x"}'])
def test_a_file_that_names_nobody_is_taken_over(tmp_path, content):
  (tmp_path / "owner.json").write_bytes(content)
  with locks.own(str(tmp_path), "a run"):
    assert owner_of(tmp_path)["pid"] == os.getpid()
  assert not os.listdir(tmp_path)


def test_what_cannot_be_written(tmp_path, small_disk):
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="file/run: cannot be written.*Not a dir"):
    with locks.own(str(tmp_path / "file" / "run"), "a run"):
      pass
  disk = small_disk("16k")
  with open(disk / "rest", "wb") as file:
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
      file.write(bytes(1 << 20))
      file.flush()
  with pytest.raises(UserError, match="run: cannot be written.*No space left"):
    with locks.own(str(disk / "run"), "a run"):
      pass
  assert os.listdir(disk) == ["rest"]


# Forks children of a process that has imported TensorFlow and not used it.
FORKS = """
import os, signal, sys, time
from vatt import locks
from vatt.errors import UserError

folder, rounds, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def child(function, *args):
  pid = os.fork()
  if not pid:
    try:
      function(*args)
    except BaseException as error:
      os.write(2, f"{error!r}\\n".encode())
      os._exit(1)
    os._exit(0)
  return pid

def end(pid):
  return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

RACE = FORKS + """
def start(go, told, stay):
  os.read(go, 1)
  try:
    with locks.own(folder, "a run"):
      os.write(told, b"1")
      os.read(stay, 1)
  except UserError as error:
    assert "in use by a run, process" in str(error), error
    os.write(told, b"0")

def die():
  with locks.own(folder, "a run"):
    os.kill(os.getpid(), signal.SIGKILL)

for turn in range(rounds):
  if turn % 3 == 1:  # after a death
    assert end(child(die)) == -signal.SIGKILL
  elif turn % 3 == 2:  # after a death in mid-write
    os.makedirs(folder, exist_ok=True)
    open(folder + "/owner.json", "w").close()
  pipes = [os.pipe() for _ in range(3)]
  (go, going), (tell, told), (stay, staying) = pipes
  def one():
    os.close(going)
    os.close(staying)
    start(go, told, stay)
  children = [child(one) for _ in range(count)]
  os.close(going)  # all at once
  answers = b""
  while len(answers) < count:
    answers += os.read(tell, count)
  assert answers.count(b"1") == 1, (turn, answers)
  os.close(staying)
  assert not any(map(end, children))
  for file in (go, tell, told, stay):
    os.close(file)
  assert not os.path.exists(folder + "/owner.json")
print("done")
"""


@pytest.mark.parametrize("rounds", [
    3, pytest.param(100, marks=pytest.mark.slow)])
def test_of_many_at_once_one_owns(tmp_path, python, rounds):
  done = python.run("-c", RACE, tmp_path / "run", str(rounds), "6")
  assert done.stdout == "done\n", done.stderr[-3000:]


STORM = FORKS + """
def again():
  owned = 0
  while owned < rounds:
    try:
      with locks.own(folder, "a run"):
        os.mkdir(folder + "/inside")
        os.rmdir(folder + "/inside")
        owned += 1
        if owned % 5 == 0 and os.getpid() % 2:
          os.kill(os.getpid(), signal.SIGKILL)
    except UserError:
      pass

codes = [end(pid) for pid in [child(again) for _ in range(count)]]
assert set(codes) <= {0, -signal.SIGKILL}, codes
print("done")
"""


@pytest.mark.parametrize("rounds", [
    20, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_that_come_and_go_and_die_are_never_two(tmp_path, python, rounds):
  done = python.run("-c", STORM, tmp_path / "run", str(rounds), "6")
  assert done.stdout == "done\n", done.stderr[-3000:]


FORKED = FORKS + """
def owner():
  with locks.own(folder, "a run"):
    pid = os.fork()
    if not pid:
      return  # through the context
    assert end(pid) == 0
    assert os.path.exists(folder + "/owner.json")
    try:
      with locks.own(folder, "another"):
        raise AssertionError("owned twice")
    except UserError:
      pass
    print(child(time.sleep, 60), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

dead = child(owner)
os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)  # a zombie it remains
with locks.own(folder, "the next"):
  print("owned")
"""


def test_a_fork_neither_ends_nor_keeps_what_its_parent_owns(tmp_path, python):
  done = python.run("-c", FORKED, tmp_path / "run", "0", "0")
  stays, *owned = done.stdout.split()
  os.kill(int(stays), signal.SIGKILL)
  assert owned == ["owned"], done.stderr
  assert "taken over from a run" in done.stderr


def test_without_locks_the_last_to_write_owns(tmp_path, monkeypatch):
  monkeypatch.setattr(locks, "SETTLED", 0.1)
  folder = "ram://locks/run"
  with locks.own(folder, "a training run"):
    path = f"{folder}/owner.json"
    with tf.io.gfile.GFile(path) as file:
      owner = json.loads(file.read())
    assert owner["pid"] == os.getpid()
    with pytest.raises(UserError, match="in use by a training run, process "
                       f"{os.getpid()} of this host"):
      with locks.own(folder, "another"):
        pass
  assert not tf.io.gfile.exists(path)

  def write(**fields):
    if tf.io.gfile.exists(path):  # over which ram:// does not write anew
      tf.io.gfile.remove(path)
    with tf.io.gfile.GFile(path, "w") as file:
      file.write(json.dumps(owner | fields))

  write(start="of a process that died")
  with locks.own(folder, "a run"):
    write(host="elsewhere")  # it does not remove another's
  with pytest.raises(UserError, match=f"host elsewhere since.*remove {path}"):
    with locks.own(folder, "a run"):
      pass
  with tf.io.gfile.GFile(path, "w") as file:
    file.write("{")
  # Another that starts at the same moment, and writes a little later.
  other = threading.Timer(0.05, write, kwargs=dict(host="elsewhere"))
  other.start()
  with pytest.raises(UserError, match="in use by .* host elsewhere"):
    with locks.own(folder, "a run"):
      pass
  other.join()


def test_a_conversion_has_its_workdir_to_itself(tmp_path):
  config = read_config(str(FIXTURES / "specific"))
  task, model, _ = restore.load_model(str(FIXTURES / "specific"))
  workdir = tmp_path / "run"
  with locks.own(str(workdir), "a training run"):
    with pytest.raises(UserError, match="run: in use by a training run"):
      transfer.create(str(workdir), task, model)
    assert os.listdir(workdir) == ["owner.json"]
  transfer.create(str(workdir), task, model)
  assert read_config(str(workdir)).model == config.model
  assert "owner.json" not in os.listdir(workdir)


def test_the_lock_of_a_file_that_was_removed_is_none(tmp_path, monkeypatch):
  """An owner goes, and another comes, between opening the file and locking."""
  def flock_late(file, operation, flock=locks.fcntl.flock):
    monkeypatch.setattr(locks.fcntl, "flock", flock)
    (tmp_path / "owner.json").unlink()
    stack.enter_context(locks.own(str(tmp_path), "the one that came"))
    flock(file, operation)

  monkeypatch.setattr(locks.fcntl, "flock", flock_late)
  with contextlib.ExitStack() as stack:
    with pytest.raises(UserError, match="in use by the one that came"):
      with locks.own(str(tmp_path), "a run"):
        pass
