"""Runs commands of this project without their imports: `python.run(...)`.

A command takes seconds to import TensorFlow before it does anything. Here one
process, the server, imports what commands have in common and runs nothing of
it; each command is a fork of the server, which goes on as Python would. It has
a process of its own with arguments, folder, environment, output, signals and
exit code, and can be killed.

What it cannot have is another environment for what is read as libraries load
(`READ_AT_LOAD`), and a fault in the imports of a program does not show. So each
program has a test of a real process too: `fork=False`.
"""
import json
import os
import pathlib
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Beginnings of the names of variables that libraries read as they load.
READ_AT_LOAD = ("TF_CPP_", "TF_ENABLE_ONEDNN", "CUDA_", "GCS_", "OMP_",
                "OPENBLAS_", "MKL_", "GLIBC_", "LD_", "PYTHONHASHSEED",
                "PYTHONIOENCODING", "PYTHONUTF8", "PYTHONUNBUFFERED",
                "PYTHONWARNINGS")
NUMBER = struct.Struct("i")  # what the server answers: an id, an exit code
LARGEST = 1 << 17  # bytes of a request: arguments and environment


# ---- For the tests ----------------------------------------------------------


class Process:
  """A command that runs, as a `subprocess.Popen` with text for its output.

  Attributes:
    args: the command.
    pid: its process's id.
    returncode: None as far as is known, exit code, or a signal below zero.
    stdout, stderr: text files of what it has said so far; stderr is None where
      it goes to stdout.
  """

  def __init__(self, args, server, request, stderr, folder):
    self.args, self.returncode = args, None
    self._server = server
    outputs = [tempfile.NamedTemporaryFile(dir=folder)
               for _ in range(1 if stderr == subprocess.STDOUT else 2)]
    self.stdout, self.stderr, *_ = [
        open(file.name, encoding="utf-8", errors="replace")
        for file in outputs] + [None]
    self._answers, theirs = os.pipe()
    try:
      server.send(request, [outputs[0].fileno(), outputs[-1].fileno(), theirs])
    finally:
      os.close(theirs)
      for file in outputs:
        file.close()
    self.pid = self._read()

  def _read(self):
    data = os.read(self._answers, NUMBER.size)
    if len(data) < NUMBER.size:
      raise RuntimeError(
          f"the fork server died while it ran {self.args}: "
          + self._server.log())
    return NUMBER.unpack(data)[0]

  def wait(self, timeout=None):
    """Waits for its end.

    Args:
      timeout: seconds, or None.

    Returns:
      `returncode`.

    Raises:
      subprocess.TimeoutExpired: it still runs.
    """
    if self.returncode is None:
      poll = select.poll()
      poll.register(self._answers, select.POLLIN)
      if not poll.poll(None if timeout is None else 1000 * timeout):
        raise subprocess.TimeoutExpired(self.args, timeout)
      self.returncode = self._read()
      os.close(self._answers)
    return self.returncode

  def poll(self):
    """Returns `returncode`, at once."""
    try:
      return self.wait(0)
    except subprocess.TimeoutExpired:
      return None

  def communicate(self, timeout=None):
    """Waits for its end; returns what was not yet read of stdout and stderr."""
    self.wait(timeout)
    files = [file for file in (self.stdout, self.stderr) if file]
    output, *errors = [file.read() for file in files]
    for file in files:
      file.close()
    return output, errors[0] if errors else None

  def send_signal(self, number):
    if self.poll() is None:
      os.kill(self.pid, number)

  def terminate(self):
    self.send_signal(signal.SIGTERM)

  def kill(self):
    self.send_signal(signal.SIGKILL)


class ForkServer:
  """Runs commands as `subprocess` does; its process starts with the first.

  Args:
    env: dict; the environment of the server, and of commands without another.
  """

  def __init__(self, env):
    self._env, self._server = env, None

  def _start(self):
    self._folder = tempfile.TemporaryDirectory(prefix="forkserver")
    self._socket, theirs = socket.socketpair(
        socket.AF_UNIX, socket.SOCK_SEQPACKET)
    env = {k: v for k, v in self._env.items() if k != "PYTHONPATH"}
    with theirs, open(f"{self._folder.name}/log", "wb") as log:
      self._server = subprocess.Popen(
          [sys.executable, __file__, str(theirs.fileno())], cwd=ROOT, env=env,
          stdin=subprocess.DEVNULL, stdout=log, stderr=log,
          pass_fds=[theirs.fileno()])

  def log(self):
    """What the server itself has said, if only at its end."""
    return pathlib.Path(self._folder.name, "log").read_text(errors="replace")

  def send(self, request, files):
    """Sends a request with file descriptors; see `serve`."""
    message = json.dumps(request).encode()
    assert len(message) <= LARGEST, "too long a command or environment"
    try:
      socket.send_fds(self._socket, [message], files)
    except OSError as error:
      raise RuntimeError(f"the fork server is dead: {self.log()}") from error

  def start(self, *command, cwd=ROOT, env=None, stderr=subprocess.PIPE,
            start_new_session=False):
    """Starts a command; the arguments are those of `subprocess.Popen`.

    Args:
      *command: what would follow `python` in a shell: a path, "-m" and a module
        or "-c" and code, then arguments.
      cwd: folder.
      env: dict; the server's if None.
      stderr: subprocess.PIPE, or STDOUT for one stream of both.
      start_new_session: whether its processes are a group of their own.

    Returns:
      A Process.
    """
    command, env = [os.fspath(word) for word in command], env or self._env
    for name in sorted({*env, *self._env}):
      if name.startswith(READ_AT_LOAD) and env.get(name) != self._env.get(name):
        raise ValueError(
            f"{name} is read as libraries load, which they have done in the "
            "fork server; expected a real process: fork=False")
    if self._server is None:
      self._start()
    request = dict(command=command, cwd=os.fspath(cwd), env=env,
                   new_session=start_new_session)
    return Process(command, self, request, stderr, self._folder.name)

  def run(self, *command, cwd=ROOT, env=None, stderr=subprocess.PIPE,
          timeout=300, fork=True):
    """Runs a command to its end; see `start`.

    Args:
      timeout: seconds after which it is killed.
      fork: or else as a real process, with all of its imports.

    Returns:
      A subprocess.CompletedProcess.

    Raises:
      subprocess.TimeoutExpired: it was killed.
    """
    if not fork:
      return subprocess.run(
          [sys.executable, *command], cwd=cwd, env=env or self._env, text=True,
          stdout=subprocess.PIPE, stderr=stderr, timeout=timeout)
    process = self.start(*command, cwd=cwd, env=env, stderr=stderr)
    try:
      output = process.communicate(timeout)
    except BaseException as error:
      process.kill()
      if isinstance(error, subprocess.TimeoutExpired):
        error.output, error.stderr = process.communicate()
      raise
    return subprocess.CompletedProcess(
        process.args, process.returncode, *output)

  def close(self):
    """Ends the server, and what it still runs."""
    if self._server is not None:
      self._socket.close()
      self._server.wait()
      self._folder.cleanup()


# ---- The server -------------------------------------------------------------


def preload():
  """Imports what commands have in common; of this project nothing that defines
  flags, which all programs of a process would share."""
  import importlib

  sys.path.insert(0, str(ROOT))
  for name in (
      "vatt", "tensorflow", "absl.app", "ml_collections.config_flags", "tqdm",
      "av", "matplotlib.figure", "scipy.signal", "sklearn.svm",
      "tensorflow_datasets", "vatt.checkpoints", "vatt.distribute",
      "vatt.train", "vatt.optimizers", "vatt.transfer",
      "vatt.data.input_pipeline", "vatt.data.ingest.builder",
      "vatt.models.vatt", "vatt.models.cost"):
    importlib.import_module(name)
  sys.path.remove(str(ROOT))

  import tensorflow as tf
  from absl import flags
  from tensorflow.python.eager import context
  dir(tf.keras)  # which TensorFlow would import at the first use
  assert context.context()._context_handle is None, (
      "an import has run TensorFlow, whose threads a fork does not have")
  ours = [name for name in flags.FLAGS.flags_by_module_dict()
          if name.split(".")[0] in ("vatt", "scripts")]
  assert not ours, f"flags are defined for all programs by {ours}"


def answer(pipe, number):
  """Writes a number, even if nobody waits for it any more."""
  try:
    os.write(pipe, NUMBER.pack(number))
  except BrokenPipeError:
    pass


def serve(control):
  """Answers requests for ever; returns in the children.

  Args:
    control: the socket. A request is JSON with the descriptors of stdout,
      stderr and a pipe, to which go the id of the child and its exit code.

  Returns:
    In a child, its request.
  """
  running = {}  # the pipe by the child's id
  wake, waker = os.pipe()
  os.set_blocking(waker, False)
  signal.set_wakeup_fd(waker)
  signal.signal(signal.SIGCHLD, lambda *_: None)
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for the tests
  while True:
    ready, _, _ = select.select([control, wake], [], [])
    if wake in ready:
      os.read(wake, 1 << 12)
      while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
          break
        pipe = running.pop(pid)
        answer(pipe, os.waitstatus_to_exitcode(status))
        os.close(pipe)
    if control not in ready:
      continue
    message, files, _, _ = socket.recv_fds(control, LARGEST, 3)
    if not message:  # the tests have ended
      for pid in running:
        os.kill(pid, signal.SIGKILL)
      os._exit(0)
    pid = os.fork()
    if pid:
      running[pid] = files[2]
      answer(files[2], pid)
      for file in files[:2]:
        os.close(file)
      continue
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    control.close()
    for file in (wake, waker, files[2], *running.values()):
      os.close(file)
    for file, number in zip(files, (1, 2)):
      os.dup2(file, number)
    for file in set(files[:2]):
      os.close(file)
    return json.loads(message)


def become(command, cwd, env, new_session):
  """Goes on as `python` with that command; raises as that would."""
  if new_session:
    os.setsid()
  os.chdir(cwd)
  os.environ.clear()
  os.environ.update(env)
  where = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
  first, *rest = command
  if first == "-c":
    code, *arguments = rest
    sys.argv, sys.path[:0] = ["-c", *arguments], ["", *where]
    main = sys.modules["__main__"] = type(sys)("__main__")
    exec(compile(code, "<string>", "exec"), main.__dict__)
    return
  import runpy
  if first == "-m":
    module, *arguments = rest
    sys.argv, sys.path[:0] = [module, *arguments], [os.getcwd(), *where]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
  else:
    sys.argv = command
    sys.path[:0] = [str(pathlib.Path(first).resolve().parent), *where]
    runpy.run_path(first, run_name="__main__")


def leave(code):
  """Ends as an interpreter does, but for what that tidies up in memory, which
  takes a quarter of a second.

  Args:
    code: of a SystemExit.
  """
  import atexit
  import threading
  if code is not None and not isinstance(code, int):
    print(code, file=sys.stderr)
    code = 1
  threading._shutdown()  # waits for threads
  atexit._run_exitfuncs()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit((code or 0) & 255)


if __name__ == "__main__":
  with socket.socket(fileno=int(sys.argv[1])) as control:
    del sys.path[0]  # the folder of this file
    preload()
    import gc
    gc.freeze()  # so that forks do not copy what they only look through
    request = serve(control)
  try:
    become(**request)
    leave(0)
  except SystemExit as end:
    leave(end.code)
