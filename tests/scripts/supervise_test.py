"""What starts a training again; a small program stands for the training."""
import os
import pathlib
import signal
import subprocess
import time

import pytest

from tests.scripts.waiting import wait_until

SCRIPT = pathlib.Path(__file__).parents[2] / "scripts/supervise.sh"
# Its start number N does what its argument number N says: CODE, or CODE+STEP to
# leave a checkpoint before. Where it waits, the file `ready` tells.
PROGRAM = """#!/usr/bin/env bash
set -u
workdir=${1#--workdir=}
shift
echo >>"$workdir/starts"
does=${*:$(wc -l <"$workdir/starts"):1}
if [[ $does == *+* ]]; then
  mkdir -p "$workdir/checkpoints"
  touch "$workdir/checkpoints/ckpt-${does#*+}.manifest.json"
  touch "$workdir/checkpoints/ckpt-999.index"
fi
case $does in
  sleep)
    sleep 60 2>/dev/null &
    trap 'echo "got TERM" >>"$workdir/said"; kill $! 2>/dev/null; exit 143' TERM
    touch "$workdir/ready"
    wait $!; exit 3 ;;
  finish)
    sleep 60 2>/dev/null &
    trap 'sleep 0.2; echo finished >&2; kill $! 2>/dev/null; exit 0' TERM
    touch "$workdir/ready"
    wait $!; wait ;;
  killed) kill -KILL $$ ;;
esac
printf 'train: 1/2\\rerror: reason %s\\nnot that\\n' "$does" >&2
exit "${does%+*}"
"""


@pytest.fixture
def workdir(tmp_path):
  folder = tmp_path / "a work'dir"
  folder.mkdir()
  return folder


@pytest.fixture
def command(tmp_path, workdir):
  program = tmp_path / "my program"
  program.write_text(PROGRAM)
  program.chmod(0o755)
  return [program, f"--workdir={workdir}"]


def supervise(*arguments, env=None):
  """(code, what it said without times, lines of the program left out)."""
  done = subprocess.run(["bash", SCRIPT, *arguments], capture_output=True,
                        text=True, timeout=60, env=env)
  return done.returncode, [line.split(" supervise: ")[1] for line in
                           done.stderr.splitlines() if " supervise: " in line]


def starts(workdir):
  return len((workdir / "starts").read_text().splitlines())


@pytest.mark.parametrize("does, code, number", [
    (["0"], 0, 1),
    (["75", "137", "0"], 0, 3),
    (["killed", "143", "70", "255", "0"], 0, 5),
    (["75", "1", "0"], 1, 2),  # which no start mends
    (["2", "0"], 2, 1),
    # Three without progress, in a row; and not.
    (["75", "75", "70", "0"], 70, 3),
    (["75", "75+10", "75", "134", "75+20", "75", "75", "0"], 0, 8),
    # Neither the same checkpoint nor an older one is progress.
    (["75+10", "75+10", "75+9", "139+8", "0"], 139, 4),
    # 100 is after 20.
    (["75+20", "75", "75+100", "75", "75", "0"], 0, 6),
])
def test_codes(command, workdir, does, code, number):
  got, said = supervise("--pause=0", "--failures=5"
                        if len(does) == 5 and code == 0 else "--failures=3",
                        *command, *does)
  assert (got, starts(workdir)) == (code, number), said


def test_what_it_says(command):
  code, said = supervise("--pause=0", "--failures=2", "--", *command, "75+40",
                         "75", "139", "0")
  assert code == 139
  assert [line.partition(": /")[0] for line in said] == [
      "starting at step 0", "ended with code 75: error: reason 75+40",
      "starting again in 0 seconds",
      "starting at step 40", "ended with code 75: error: reason 75",
      "no checkpoint after step 40: failure 1 of 2",
      "starting again in 0 seconds",
      "starting at step 40", "ended with code 139: error: reason 139",
      "no checkpoint after step 40: failure 2 of 2",
      "giving up after 2 failures without progress, the last with code 139: "
      "error: reason 139"]


def test_what_cannot_be_mended_is_said(command):
  code, said = supervise(*command, "1")
  assert code == 1
  assert said[-1] == ("ended with code 1, which another start cannot mend: "
                      "error: reason 1")
  code, said = supervise("./no ne", "--workdir=x")
  assert code == 127 and "./no ne: No such file" in said[-1]


def test_pauses_grow(command, tmp_path):
  """Of 10 s, as `sleep` is told; it is not waited for."""
  (tmp_path / "sleep").write_text(
      f'#!/bin/sh\necho "$1" >>{tmp_path}/slept\n')
  (tmp_path / "sleep").chmod(0o755)
  env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
  does = ["75"] * 3 + ["75+5", "75"] + ["75"] * 8
  code, _ = supervise("--failures=9", *command, *does, env=env)
  assert code == 75
  slept = (tmp_path / "slept").read_text().split()
  # Others than pauses are a listener's.
  assert [s for s in slept if s != "0.1"] == [
      "10", "20", "40", "10", "10", "20", "40", "80", "160", "320", "600",
      "600"]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_program_and_ends_both(command, workdir, sign):
  process = subprocess.Popen(
      ["bash", SCRIPT, "--pause=0", *command, "sleep"], stderr=subprocess.PIPE,
      text=True,  # and whatever the tests run under may ignore it:
      preexec_fn=lambda: signal.signal(sign, signal.SIG_DFL))
  wait_until((workdir / "ready").exists)
  process.send_signal(sign)
  _, said = process.communicate(timeout=30)
  assert process.returncode == 143
  assert (workdir / "said").read_text() == "got TERM\n"
  assert starts(workdir) == 1
  assert said.endswith(
      "stopped by a signal: run the same command to go on\n")


def test_a_signal_to_all_of_them_lets_it_finish(command, workdir):
  """As a scheduler sends it; the end of the program counts, and is shown."""
  process = subprocess.Popen(["bash", SCRIPT, *command, "finish"],
                             stderr=subprocess.PIPE, text=True,
                             start_new_session=True)
  wait_until((workdir / "ready").exists)
  os.killpg(process.pid, signal.SIGTERM)
  _, said = process.communicate(timeout=30)
  assert process.returncode == 0
  assert "finished\n" in said and said.endswith("supervise: done\n")


def test_a_signal_ends_a_pause(command, workdir):
  process = subprocess.Popen(["bash", SCRIPT, "--pause=600", *command, "75"],
                             stderr=subprocess.PIPE, text=True)
  for line in process.stderr:
    if "starting again in 600" in line:
      break
  time.sleep(0.1)
  process.terminate()
  process.communicate(timeout=30)
  assert process.returncode == 143 and starts(workdir) == 1


def test_checkpoints_of_a_bucket(command, workdir, tmp_path):
  """As gcloud lists them."""
  (tmp_path / "gcloud").write_text(
      f"""#!/bin/sh
echo "$@" >>{tmp_path}/asked
for step in 5 $(wc -l <{tmp_path}/asked)0; do
  echo "gs://b/my run/checkpoints/ckpt-$step.manifest.json"
done
""")
  (tmp_path / "gcloud").chmod(0o755)
  code, said = supervise(
      "--pause=0", "--failures=1", "--workdir=gs://b/my run", *command, "75",
      "75", "0", env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
  assert code == 0, said
  assert [line[:19] for line in said if line.startswith("starting at")] == [
      "starting at step 10", "starting at step 20", "starting at step 30"]
  assert set((tmp_path / "asked").read_text().splitlines()) == {
      "storage ls gs://b/my run/checkpoints/ckpt-*.manifest.json"}


@pytest.mark.parametrize("arguments, said", [
    ([], "no command, expected one behind the options"),
    (["--failures=0", "x"], "--failures is '0', expected a number above 0"),
    (["--pause=soon", "x"], "--pause is 'soon', expected whole seconds"),
    (["--none", "x"], "--none: expected --failures=N, --pause=SECONDS, "
     "--workdir=DIR or --, and a command"),
    (["x", "--config.workdir=y"], "no --workdir in the command, expected it "
     "there, or as an option"),
])
def test_bad_arguments(arguments, said):
  done = subprocess.run(["bash", SCRIPT, *arguments], capture_output=True,
                        text=True)
  assert done.returncode == 2 and done.stderr == f"error: {said}\n"


def test_help():
  done = subprocess.run(["bash", SCRIPT, "--help"], capture_output=True,
                        text=True)
  assert done.returncode == 0 and not done.stderr
  assert done.stdout.startswith("Runs a training, and starts it again")
  assert "set -" not in done.stdout


@pytest.mark.parametrize("flags", [
    ["--workdir", "{}"], ["-workdir={}"], ["--workdir=none", "--workdir={}"]])
def test_workdir_as_the_command_has_it(command, workdir, flags):
  """Where its checkpoint is found."""
  (workdir / "checkpoints").mkdir()
  (workdir / "checkpoints/ckpt-30.manifest.json").touch()
  _, said = supervise("true", *(flag.format(workdir) for flag in flags))
  assert said[0].startswith("starting at step 30: true")
