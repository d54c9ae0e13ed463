"""The script that trains on a TPU. There is none here: what it would run is
compared with what it should, and what it sends to workers runs in a shell."""
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.scripts.waiting import wait_until

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/launch_tpu_pod.sh"
TPU = ["--name=my-pod", "--zone=europe-west4-a"]
# Where there is a python3, with the packages of this one.
PATH = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
POD = ["--workdir=gs://b/runs/mbs", "--config=configs/pretrain.py:mbs",
       "--config.data.data_dir=gs://b/data"]


def run(*arguments, **env):
  return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True,
                        text=True, timeout=60,
                        env=dict(os.environ, PATH=PATH) | env)


def dry_run(command, *arguments):
  """What it says it would run; the name of a temporary folder is left out."""
  done = run(command, *TPU, "--dry_run", *arguments)
  assert done.returncode == 0, done.stderr
  return re.sub(r"\S+/vatt\.tar\.gz (-C|my-pod)", r"TEMPORARY \1",
                done.stdout).replace(str(ROOT), "ROOT")


RUNNING = '{ kill -0 "$(cat vatt.pid)"; } 2>/dev/null'
REFUSE = (f'if {RUNNING}; then echo "error: a training runs, stop it first" '
          ">&2; exit 1; fi; ")
ZONE = "--zone=europe-west4-a"
WORKER = f"gcloud compute tpus tpu-vm ssh my-pod {ZONE} --worker=0 "
EXPECTED = [
    (["create"], f"""\
gcloud compute tpus tpu-vm create my-pod {ZONE} --accelerator-type=v3-256 \
--version=tpu-vm-tf-2.15.0-pod-pjrt
"""),
    (["create", "--type=v3-8", "--spot", "--project=mine"], f"""\
gcloud compute tpus tpu-vm create my-pod {ZONE} --project=mine \
--accelerator-type=v3-8 --version=tpu-vm-tf-2.15.0-pjrt --spot
"""),
    (["create", "--queued", "--spot", "--valid_until=6h", "--type=v3-32",
      "--version=an image"], f"""\
gcloud compute tpus queued-resources create my-pod {ZONE} --node-id=my-pod \
--accelerator-type=v3-32 '--runtime-version=an image' --spot \
--valid-until-duration=6h
"""),
    (["install"], f"""\
tar -czf TEMPORARY -C ROOT --exclude=__pycache__ vatt configs scripts setup.py \
README.md LICENSE MANIFEST.in
gcloud compute tpus tpu-vm scp TEMPORARY my-pod:vatt.tar.gz {ZONE} --worker=all
gcloud compute tpus tpu-vm ssh my-pod {ZONE} --worker=all '--command=set -eo \
pipefail; {REFUSE}mkdir -p vatt; cd vatt; rm -rf vatt configs scripts; tar \
-xzf ../vatt.tar.gz; scripts/launch_tpu_pod.sh requirements | python3 -m pip \
install -q -r /dev/stdin; python3 -m pip install -q --no-deps .'
"""),
    (["start", *POD], f"""\
{WORKER}'--command={REFUSE}cd vatt && {{ nohup env TPU_NAME=my-pod \
TPU_LOAD_LIBRARY=0 scripts/supervise.sh -- python3 -m vatt.main --tpu=my-pod \
--workdir=gs://b/runs/mbs --config=configs/pretrain.py:mbs \
--config.data.data_dir=gs://b/data </dev/null >>../vatt.log 2>&1 & echo $! \
>../vatt.pid; }}'
"""),
    (["start", "--type=v2-8", "--", "--workdir=it's"], f"""\
{WORKER}'--command={REFUSE}cd vatt && {{ nohup env \
NEXT_PLUGGABLE_DEVICE_USE_C_API=true \
TF_PLUGGABLE_DEVICE_LIBRARY_PATH=/lib/libtpu.so scripts/supervise.sh -- \
python3 -m vatt.main --tpu=local '\\''--workdir=it'\\''\\'\\'''\\''s'\\'' \
</dev/null >>../vatt.log 2>&1 & echo $! >../vatt.pid; }}'
"""),
    (["tail"], f"{WORKER}'--command=tail -n 100 -F vatt.log'\n"),
    (["status"], f"""\
gcloud compute tpus tpu-vm describe my-pod {ZONE} \
'--format=value(state,health)'
{WORKER}'--command=if {RUNNING}; then echo training; else echo not training; \
fi; tail -n 5 vatt.log'
"""),
    (["stop"], f"""\
{WORKER}'--command=if {RUNNING}; then kill -TERM "$(cat vatt.pid)"; while \
{RUNNING}; do sleep 1; done; else echo no training runs; fi; tail -n 5 vatt.log'
"""),
    (["delete"], f"gcloud compute tpus tpu-vm delete my-pod {ZONE}\n"),
    (["delete", "--queued"], "gcloud compute tpus queued-resources delete "
     f"my-pod {ZONE} --force\n"),
]


@pytest.mark.parametrize("arguments, expected", EXPECTED)
def test_dry_run(arguments, expected):
  assert dry_run(*arguments) == expected


def test_a_queued_one_has_a_state_of_its_own():
  first, rest = dry_run("status", "--queued").split("\n", 1)
  assert first == (f"gcloud compute tpus queued-resources describe my-pod "
                   f"{ZONE} '--format=value(state.state)'")
  assert rest == dry_run("status")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not here")
def test_gcloud_has_these_commands_and_flags():
  lines = {line for arguments, _ in EXPECTED
           for line in dry_run(*arguments).splitlines()
           if line.startswith("gcloud ")}
  for line in sorted(lines | {dry_run("status", "--queued").split("\n")[0]}):
    words = shlex.split(line)
    done = subprocess.run([*words[:5], "--help"], capture_output=True,
                          stdin=subprocess.DEVNULL, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    text = re.sub("\x1b\\[[0-9;]*m|.\b", "", done.stdout) + "--format"
    for word in words[5:]:
      flag = word.partition("=")[0]
      if flag.startswith("--"):
        assert re.search(rf"(?<!\S|-)\[?{flag}\b(?!-)", text), (line, flag)


def test_requirements_are_all_but_tensorflow():
  """By running setup.py, which gives them to pip."""
  done = subprocess.run(
      [sys.executable, "-c", """
import runpy, setuptools
setuptools.setup = lambda **more: print(*more["install_requires"], sep="\\n")
runpy.run_path("setup.py")
"""], cwd=ROOT, capture_output=True, text=True, check=True)
  wanted = done.stdout.splitlines()
  given = run("requirements").stdout.splitlines()
  assert set(wanted) - set(given) == {"tensorflow==2.15.1"}
  assert given == [name for name in wanted if name in given]


@pytest.fixture
def worker(tmp_path):
  """Environment in which gcloud has one worker: a shell in the folder `home`,
  whose Python notes what it is asked for and trains until SIGTERM."""
  home, programs = tmp_path / "home", tmp_path / "bin"
  home.mkdir()
  programs.mkdir()
  for name, text in (("gcloud", """
cd "$HOME"
if [[ $4 == scp ]]; then cp "$5" "${6#*:}"; fi
for word; do
  if [[ $word == --command=* ]]; then exec bash -c "${word#*=}"; fi
done
"""), ("python3", """
if [[ $1 == -c ]]; then PATH=${PATH#*:} exec python3 "$@"; fi
echo "$PWD ${TPU_NAME:-} ${TPU_LOAD_LIBRARY:-}: $*" >>"$HOME/asked"
case "$*" in
  *stdin) cat >"$HOME/required" ;;
  *vatt.main*)
    sleep 60 >/dev/null 2>&1 &
    trap 'kill $!; echo saved >&2; exit 143' TERM
    echo "step 1" >&2
    wait ;;
esac
""")):
    (programs / name).write_text("#!/usr/bin/env bash\nset -eu\n" + text)
    (programs / name).chmod(0o755)
  return home, dict(HOME=str(home), PATH=f"{programs}:{PATH}")


def test_what_workers_are_told(worker):
  home, env = worker
  done = run("install", *TPU, **env)
  assert done.returncode == 0, done.stderr
  assert (home / "required").read_text() == run("requirements").stdout
  assert (home / "vatt/vatt/main.py").exists()
  assert not list((home / "vatt").rglob("__pycache__"))
  (home / "asked").unlink()

  assert run("status", *TPU, **env).stdout.startswith("not training\n")
  flags = ["--workdir=gs://b/w", "--config.data.data_dir=gs://b/d",
           "--config.eval.templates=('it''s a {}', \"$HOME\")"]
  done = run("start", *TPU, *flags, **env)
  assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
  log = home / "vatt.log"
  wait_until(lambda: log.exists() and "step 1" in log.read_text())
  assert (home / "asked").read_text() == (
      f"{home}/vatt my-pod 0: -m vatt.main --tpu=my-pod {' '.join(flags)}\n")
  assert run("status", *TPU, **env).stdout.startswith("training\n")
  for again in (["start", *TPU, *flags], ["install", *TPU]):
    done = run(*again, **env)
    assert (done.returncode, done.stderr) == (
        1, "error: a training runs, stop it first\n")

  done = run("stop", *TPU, **env)
  said = done.stdout.splitlines()
  assert done.returncode == 0 and "saved" in said
  assert said[-1].endswith("stopped by a signal: run the same command to go on")
  assert run("status", *TPU, **env).stdout.startswith("not training\n")
  assert run("stop", *TPU, **env).stdout.startswith("no training runs\n")


@pytest.mark.parametrize("arguments, said", [
    ([], "'': expected create, install, start, tail, status, stop, delete or "
     "requirements, then options"),
    (["create", "--zone=z"], "--name is '', expected lower-case letters, "
     "digits and -, a letter first"),
    (["create", "--name=a b", "--zone=z"], "--name is 'a b', expected "
     "lower-case letters, digits and -, a letter first"),
    (["delete", "--name=a"],
     "--zone is '', expected one such as europe-west4-a"),
    (["create", *TPU, "--type=v5p-8"], "--type is 'v5p-8', expected v2-, v3- "
     "or v4- and a number of cores"),
    (["create", *TPU, "--valid_until=6h"],
     "--valid_until is '6h', expected with --queued"),
    (["stop", *TPU, "--workdir=x"],
     "--workdir=x: expected with start, or an option of this script"),
    (["start", *TPU, "--mode=train"],
     "no --workdir=DIR, expected it in the flags"),
    (["start", *TPU, "--workdir=/data/w"], "--workdir is '/data/w', expected "
     "gs://BUCKET/...: no disk is common to the hosts of v3-256"),
    (["start", *TPU, "--workdir=gs://b/w", "--config.data.data_dir=data"],
     "--config.data.data_dir is 'data', expected gs://BUCKET/...: all hosts of "
     "v3-256 read it"),
    (["start", *TPU, "--workdir=gs://b/w", "--tpu=x"],
     "--tpu=x: expected none, as the TPU is that of --name"),
    (["start", *TPU, "--workdir=gs://b/w", "--dry_run"],
     "--dry_run: expected before the flags, or behind --"),
    (["start", "--name", "a", "--workdir=gs://b/w"],
     "--name: expected --name=VALUE"),
])
def test_bad_arguments(arguments, said):
  done = run(*arguments)
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr == f"error: {said}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["start", "--help"]])
def test_help(arguments):
  done = run(*arguments)
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout.startswith("A training on a Cloud TPU")
  assert "\n  --spot " in done.stdout and "set -" not in done.stdout
