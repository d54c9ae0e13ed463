"""The script that starts several workers: a small program stands for Python,
and a shell for ssh; slow, the real training."""
import contextlib
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys

import pytest

from tests.scripts.waiting import wait_until

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/launch_multi_worker.sh"
# Notes what it was started with; ends as --end=INDEX:CODE says, or waits for
# SIGTERM, which --deaf=INDEX does not hear and --told=INDEX:CODE ends by, or
# for SIGUSR1, which has it be done, or end by --itself=INDEX:CODE.
PYTHON = """#!/usr/bin/env bash
if [[ $1 == -c ]]; then exec "$REAL" "$@"; fi
index=${TF_CONFIG##*: }
index=${index%%\\}*}
sleep 60 >/dev/null 2>&1 &  # which may outlive it, and holds no output
trap 'kill $! 2>/dev/null; echo "worker $index got TERM"; exit 143' TERM
trap 'echo "worker $index got INT"' INT
trap 'kill $! 2>/dev/null; exit ${itself:-0}' USR1
for flag; do
  case $flag in
    --end=$index:*) kill $! 2>/dev/null; echo "error: ${flag##*:} of $index" >&2
                    exit "${flag##*:}" ;;
    --deaf=$index) trap '' TERM; sleep 60 >/dev/null 2>&1 & ;;
    --told=$index:*)
      told=${flag##*:}
      trap 'kill $! 2>/dev/null; exit $told' TERM ;;
    --itself=$index:*) itself=${flag##*:} ;;
  esac
done
echo $$ >"$NOTES/$index.pid"
printf '%s\\n' "$PWD" "$TF_CONFIG" "${CUDA_VISIBLE_DEVICES-none}" "$@" \\
    >"$NOTES/$index.tmp"
mv "$NOTES/$index.tmp" "$NOTES/$index"
while kill -0 $! 2>/dev/null; do wait $!; done
"""
# Ends by signals that it does not ignore, as ssh does; the other side is a
# session of its own, and goes on.
SSH = f"""#!{sys.executable} -SE
import os, signal, subprocess, sys
if sys.argv[1] != "-q":
  sys.exit(255)
with open(os.environ["NOTES"] + "/hosts", "a") as file:
  file.write(sys.argv[2] + "\\n")
def other_side():
  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
code = subprocess.run(["sh", "-c", " ".join(sys.argv[3:])], cwd="/",
                      start_new_session=True, preexec_fn=other_side).returncode
sys.exit(code if code >= 0 else 128 - code)
"""


@pytest.fixture
def notes(tmp_path):
  folder = tmp_path / "no tes"
  folder.mkdir()
  return folder


@pytest.fixture
def start(tmp_path, notes):
  """A function (*arguments) -> Popen."""
  for name, text in (("my python", PYTHON), ("ssh", SSH)):
    (tmp_path / name).write_text(text)
    (tmp_path / name).chmod(0o755)
  env = dict(os.environ, PYTHON=str(tmp_path / "my python"), NOTES=str(notes),
             REAL=sys.executable)
  env.pop("CUDA_VISIBLE_DEVICES", None)

  def start(*arguments, **more):  # more of the environment
    return subprocess.Popen(
        ["bash", SCRIPT, *arguments], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=env | more,
        start_new_session=True)

  return start


@pytest.fixture
def wait_for(notes, tmp_path):
  """A function (*indices) that waits until those workers have started."""
  def logs():
    return "\n".join(f"{path}:\n{path.read_text()}"
                     for path in tmp_path.glob("*logs/*"))

  return lambda *indices: wait_until(
      lambda: all((notes / str(i)).exists() for i in indices), logs)


@pytest.fixture(params=["local", "hosts"])
def where(request, tmp_path):
  """Three workers here, or on hosts."""
  return {"local": ["--local=3"],
          "hosts": ["--hosts=a,me@b,a", f"--ssh={tmp_path}/ssh -q",
                    f"--dir={tmp_path}/no tes"]}[request.param]


FLAGS = ["--workdir=a dir", "--config.data.datasets=('it''s', \"$HOME\")"]


def test_each_worker_gets_its_place_and_all_the_flags(
    start, wait_for, where, notes, tmp_path):
  process = start(*where, *FLAGS)
  wait_for(0, 1, 2)
  configs = []
  for i in range(3):
    folder, config, gpus, *arguments = (
        notes / str(i)).read_text().splitlines()
    assert folder == str(notes if len(where) > 1 else tmp_path)
    assert arguments == ["-m", "vatt.main", *FLAGS,
                         "--config.strategy.name=multi_worker"]
    assert gpus == "none"
    configs.append(json.loads(config))
    assert configs[i]["task"] == {"type": "worker", "index": i}
  workers = configs[0]["cluster"]["worker"]
  assert all(c["cluster"] == {"worker": workers} for c in configs)
  if len(where) > 1:
    # A host that comes twice needs two ports; ssh has the user.
    assert workers == ["a:2222", "b:2222", "a:2223"]
    assert sorted((notes / "hosts").read_text().split()) == ["a", "a", "me@b"]
  else:
    assert len(set(workers)) == 3
    assert all(worker.startswith("localhost:") for worker in workers)
  # It is asked to stop, and so are they.
  process.send_signal(signal.SIGTERM)
  said, errors = process.communicate(timeout=30)
  assert process.returncode == 143
  assert "Stopped by a signal" in errors
  assert said == "worker 0 got TERM\n"
  assert (tmp_path / "logs/worker-0.log").read_text() == said
  for i in (1, 2):
    assert f"worker {i} got TERM\n" in (
        tmp_path / f"logs/worker-{i}.log").read_text()


@pytest.mark.parametrize("supervised", [[], ["--supervise"]])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_is_a_request_to_save(
    start, wait_for, where, tmp_path, number, supervised):
  """As Ctrl-C in a terminal and a scheduler's SIGTERM reach the group."""
  process = start(*where, *supervised, *FLAGS)
  wait_for(0, 1, 2)
  os.killpg(process.pid, number)
  said, errors = process.communicate(timeout=30)
  assert process.returncode == 143 and "Stopped by a signal" in errors
  # SIGTERM comes twice, from the group and from the script: a shell that is
  # told again while it says so says it again.
  assert set(said.splitlines()) == {"worker 0 got TERM"}
  for i in (1, 2):  # it has waited for them
    assert f"worker {i} got TERM\n" in (
        tmp_path / f"logs/worker-{i}.log").read_text()


def test_who_is_done_in_spite_of_a_signal_is_done(start, wait_for, where):
  process = start(*where, *FLAGS, *(f"--told={i}:0" for i in range(3)))
  wait_for(0, 1, 2)
  os.killpg(process.pid, signal.SIGTERM)
  process.communicate(timeout=30)
  assert process.returncode == 0


def test_an_error_of_who_was_asked_to_stop_counts(start, wait_for, where):
  """As of one that cannot save."""
  process = start(*where, *FLAGS, "--told=1:1")
  wait_for(0, 1, 2)
  os.killpg(process.pid, signal.SIGTERM)
  _, errors = process.communicate(timeout=30)
  assert process.returncode == 1 and "Worker 1 of 3 ended" in errors


@pytest.mark.parametrize("asked, code", [(False, 137), (True, 143)])
def test_workers_whose_end_is_not_known_are_not_done(
    start, wait_for, where, notes, asked, code):
  """What runs worker 2 is killed, and cannot say how it ends."""
  process = start(*where, *FLAGS)
  wait_for(0, 1, 2)
  os.kill(max(children(process.pid)), signal.SIGKILL)  # the last that came
  if asked:
    process.terminate()
  else:
    end_itself(notes, 0)
    end_itself(notes, 1)
  _, errors = process.communicate(timeout=30)
  assert process.returncode == code
  if not asked:
    assert errors == ("How 1 of 3 workers ended is not known: something killed "
                      "a process of this script.\n")


def end_itself(notes, index):
  os.kill(int((notes / f"{index}.pid").read_text()), signal.SIGUSR1)


def children(parent):
  """The ids of the processes that a process has started."""
  found = []
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    with contextlib.suppress(OSError):  # it has ended
      if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
        found.append(int(path.parent.name))
  return found


@pytest.mark.parametrize("ends, code, index", [
    # 75 is what the end of another leads to, 143 what ours does.
    (["--itself=0:75", "--told=1:1"], 1, 1),
    (["--itself=0:75", "--told=1:75"], 75, 0),
    # Somebody else had worker 0 stop, a preemption.
    (["--itself=0:143", "--told=1:1", "--told=2:75"], 143, 0),
])
def test_the_cause_is_told_from_what_follows(
    start, wait_for, where, notes, ends, code, index):
  process = start(*where, *FLAGS, *ends)
  wait_for(0, 1, 2)
  end_itself(notes, 0)
  _, errors = process.communicate(timeout=30)
  assert process.returncode == code
  assert f"Worker {index} of 3 ended with code {code}," in errors


def test_the_first_that_fails_ends_all_with_its_code(
    start, where, notes, tmp_path):
  process = start(*where, "--logs=my logs", *FLAGS, "--end=1:70")
  _, errors = process.communicate(timeout=30)
  assert process.returncode == 70
  assert "Worker 1 of 3 ended with code 70, the last of" in errors
  assert errors.endswith("error: 70 of 1\n")
  assert "got TERM" in (tmp_path / "my logs/worker-2.log").read_text() or not (
      notes / "2").exists()


def test_all_done(start, where):
  process = start(*where, *FLAGS, "--end=0:0", "--end=1:0", "--end=2:0")
  said, errors = process.communicate(timeout=30)
  assert process.returncode == 0 and said == "error: 0 of 0\n"


def test_who_does_not_stop_is_killed(start, wait_for, where):
  process = start(*where, "--grace=0", *FLAGS, "--deaf=2")
  wait_for(0, 1, 2)
  os.killpg(process.pid, signal.SIGTERM)
  process.communicate(timeout=30)
  assert process.returncode == 137


def test_workers_do_not_outlive_it(start, wait_for, where, tmp_path):
  process = start(*where, *FLAGS)
  wait_for(0, 1, 2)
  process.kill()
  process.wait()
  log = tmp_path / "logs/worker-2.log"
  wait_until(lambda: "worker 2 got TERM" in log.read_text(), log.read_text)


def test_supervised(start, where, tmp_path, notes):
  process = start(*where, "--supervise", *FLAGS, "--end=1:1", "--end=2:1")
  _, errors = process.communicate(timeout=30)
  assert process.returncode == 1
  assert re.search(r"supervise: ended with code 1, which another start cannot "
                   r"mend: error: 1 of [12]\n$", errors)


def dry_run(start, *arguments, **env):
  """The words of the lines that it says it would run."""
  process = start(*arguments, "--dry_run", *FLAGS, **env)
  said, errors = process.communicate(timeout=30)
  assert process.returncode == 0 and not errors, errors
  return [shlex.split(line) for line in said.splitlines()]


def test_dry_run(start, tmp_path, notes):
  def config(worker, workers):
    return "TF_CONFIG=" + json.dumps(
        {"cluster": {"worker": workers},
         "task": {"type": "worker", "index": worker}})

  python = [str(tmp_path / "my python"), "-m", "vatt.main", *FLAGS,
            "--config.strategy.name=multi_worker"]
  workers = ["localhost:4000", "localhost:4001"]
  assert dry_run(start, "--local=2", "--port=4000",
                 CUDA_VISIBLE_DEVICES="4,5,6,7") == [
      ["env", config(i, workers), f"CUDA_VISIBLE_DEVICES={gpus}", *python]
      for i, gpus in enumerate(("4,5", "6,7"))]
  assert not os.listdir(notes) and not (tmp_path / "logs").exists()

  workers = ["n1:7", "n2:7"]
  lines = dry_run(start, "--hosts=n1,u@n2", "--port=7", "--dir=/a b",
                  CUDA_VISIBLE_DEVICES="0")
  ssh = ["ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=30"]
  assert [line[:-1] for line in lines] == [[*ssh, "n1"], [*ssh, "u@n2"]]
  assert [shlex.split(line[-1]) for line in lines] == [
      ["cd", "/a b", "&&", "env", config(i, workers), *python]
      for i in range(2)]


@pytest.mark.parametrize("arguments, said", [
    (["--local=2"], "no flags of vatt.main, expected them behind the options"),
    (["--workdir=x"], "--local is '', expected a number of workers, or "
     "--hosts"),
    (["--local=two", "--workdir=x"], "--local is 'two', expected a number of "
     "workers, or --hosts"),
    (["--local=2", "--hosts=a", "--workdir=x"],
     "--hosts and --local: expected one"),
    (["--hosts=a,,b", "--workdir=x"],
     "--hosts is 'a,,b', expected names with commas between"),
    (["--hosts=a,-oProxyCommand=x", "--workdir=x"], "--hosts is "
     "'a,-oProxyCommand=x', expected names with commas between"),
    (["--local=3", "--workdir=x"],
     "--local is 3, expected a number that divides the 4 GPUs: 0 1 2 3"),
    (["--local=2", "--port=x", "--workdir=x"],
     "--port is 'x', expected a number"),
    (["--local=2", "--grace=x", "--workdir=x"],
     "--grace is 'x', expected seconds"),
    (["--local=2", "--workdir=x", "--dry_run"],
     "--dry_run: expected before the flags, or behind --"),
    (["--local=2", "--workdir=x", "-port=3"],
     "-port=3: expected before the flags, or behind --"),
    (["--local=2", "--workdir=x", "--help", "--", "--port=3"],
     "--help: expected before the flags, or behind --"),
    (["--local", "2", "--workdir=x"], "--local: expected --local=VALUE"),
    (["--local=2", "--dry_run=no", "--workdir=x"],
     "--dry_run=no: expected --dry_run"),
])
def test_bad_arguments(start, arguments, said):
  process = start(*arguments, CUDA_VISIBLE_DEVICES="0,1,2,3")
  assert process.communicate(timeout=30) == ("", f"error: {said}\n")
  assert process.returncode == 2


def test_options_behind_dashes_are_flags(start):
  """Whose name may be one of this script's."""
  lines = {}
  for flags in (["--", *FLAGS, "--port=3"], [*FLAGS, "--", "--port=3"]):
    process = start("--local=1", "--port=4000", "--dry_run", *flags)
    lines[len(lines)] = shlex.split(process.communicate(timeout=30)[0])[2:]
  assert lines == {
      0: lines[1][:3] + [*FLAGS, "--port=3", lines[1][-1]],
      1: lines[0][:3] + [*FLAGS, "--", "--port=3", lines[0][-1]]}


def test_help(start):
  process = start("--help")
  said, errors = process.communicate(timeout=30)
  assert process.returncode == 0 and not errors
  assert said.startswith("Starts a training of several workers")
  assert "\n  --grace=60 " in said and "set -" not in said


# ---- The real training ------------------------------------------------------
TINY = ["--config=configs/spoken_digits.py", "--mode=train"] + [
    f"--config.{name}={value}" for name, value in (
        ("total_steps", 40), ("batch_size", 6), ("steps_per_loop", 5),
        ("log_every", 5), ("checkpoint_every", 10), ("eval_every", 40),
        ("optimizer.warmup_steps", 5), ("data.size", 24), ("model.dim_va", 16),
        ("model.video_patch", "(4,8,8)"), ("model.dim_vt", 8),
        *((f"model.encoders.{part}.{size}", number)
          for part in ("video", "audio", "text") for size, number in (
              ("depth", 1), ("width", 16), ("mlp_dim", 32), ("num_heads", 2))))]


def worker_of(workdir, index):
  """The id of the process that is that worker of a run."""
  for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
      command = (folder / "cmdline").read_bytes().split(b"\0")
      environment = (folder / "environ").read_bytes()
    except OSError:
      continue
    if f"--workdir={workdir}".encode() in command and (
        command[1] == b"-m" and f'"index": {index}'.encode() in environment):
      return int(folder.name)
  raise AssertionError(f"no worker {index} of {workdir}")


@pytest.mark.slow  # two trainings of two workers: minutes
def test_a_killed_worker_costs_nothing_but_time(
    digits_dir, python_env, tmp_path):
  def start(workdir):
    return subprocess.Popen(
        ["bash", SCRIPT, "--local=2", "--supervise", f"--logs={workdir}-logs",
         f"--workdir={workdir}", *TINY, f"--config.data.data_dir={digits_dir}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=dict(python_env, PYTHON=sys.executable))

  hashes = []
  for name in ("undisturbed", "killed"):
    workdir = tmp_path / name
    process = start(workdir)
    if name == "killed":
      wait_until(
          lambda workdir=workdir, process=process: process.poll() is not None
          or list(workdir.glob("checkpoints/ckpt-*.manifest.json")),
          seconds=600)
      assert process.poll() is None, process.stderr.read()
      os.kill(worker_of(workdir, 1), signal.SIGKILL)
    said, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert errors.count("starting again") == (name == "killed")
    hashes += re.findall(r"step 40: weights have SHA-256 (\w{64})", said)
  assert len(hashes) == 2 and hashes[0] == hashes[1]
