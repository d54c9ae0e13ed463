"""Forks are like processes of their own."""
import os
import signal
import subprocess

import pytest

ENDS = {
    "code": ("import sys; sys.exit(3)", 3),
    "message": ("raise SystemExit('error: bad')", 1),
    "error": ("1 / 0", 1),
    "interrupt": ("raise KeyboardInterrupt", -signal.SIGINT),
    "signal": ("import os; os.abort()", -signal.SIGABRT),
    "exit": ("import atexit; atexit.register(print, 'at the end')", 0)}


@pytest.mark.parametrize("how", ENDS)
def test_ends_as_a_process_does(python, how):
  code, expected = ENDS[how]
  fork, process = (python.run("-c", code, fork=fork) for fork in (True, False))
  assert fork.returncode == process.returncode == expected
  assert fork.stdout == process.stdout
  assert fork.stderr.splitlines()[-1:] == process.stderr.splitlines()[-1:]


def test_arguments_folder_environment_and_paths(python, python_env, tmp_path):
  show = ("import os, sys; "
          "print(sys.argv, os.getcwd(), os.getenv('X'), sys.path)")
  (tmp_path / "show.py").write_text(f"{show}; print(__name__, __file__)")
  for command in (["-c", show], [tmp_path / "show.py"], ["-m", "show"]):
    fork, process = (python.run(
        *command, "--a=b c", cwd=tmp_path, env=dict(python_env, X="y"),
        fork=fork) for fork in (True, False))
    assert fork.stdout == process.stdout and "b c" in fork.stdout
    assert fork.returncode == process.returncode == 0


def test_runs_tensorflow_and_does_not_share_flags(python):
  code = ("import tensorflow as tf; from absl import flags; "
          "flags.DEFINE_string('workdir', None, ''); "
          "print(int(tf.function(tf.reduce_sum)(tf.ones([5]))))")
  for _ in range(2):
    done = python.run("-c", code)
    assert (done.returncode, done.stdout) == (0, "5\n"), done.stderr


def test_is_killed_and_cut_short(python):
  code = "import time; print('there', flush=True); time.sleep(100)"
  process = python.start("-c", code, stderr=subprocess.STDOUT)
  while "there" not in process.stdout.read():
    assert process.poll() is None
  process.kill()
  assert process.wait() == process.poll() == -signal.SIGKILL
  with pytest.raises(subprocess.TimeoutExpired) as error:
    python.run("-c", code, timeout=2)
  assert error.value.output == "there\n"


def test_what_is_read_at_load_is_refused(python, python_env):
  with pytest.raises(ValueError, match="OMP_NUM_THREADS is read as libraries"):
    python.run("-c", "", env=dict(python_env, OMP_NUM_THREADS="1"))


def test_a_dead_server_is_told(python_env):
  from tests.forkserver import ForkServer
  server = ForkServer(python_env)
  process = server.start("-c", "import time; time.sleep(100)")
  os.kill(server._server.pid, signal.SIGKILL)
  with pytest.raises(RuntimeError, match="the fork server died"):
    process.wait(20)
  os.kill(process.pid, signal.SIGKILL)
  with pytest.raises(RuntimeError, match="the fork server"):
    server.run("-c", "")
  server.close()
