"""One owner of a folder: who writes there says so, and others keep out.

FOLDER/owner.json names the process that writes in a folder. On a local disk,
and on one that hosts share by NFS, that process also holds a lock (flock) of
the file, which the system lets go however the process ends. Both count:

- the lock is held: the folder is refused;
- it is free, and the file names a process of this host: that has died, and the
  folder is taken over, unless the process is found running. Its start tells it
  from a later one that has its number;
- it is free, and the file names another host, whose lock may not show here: the
  folder is refused, until somebody who knows removes the file;
- it is free, and nobody is named: who wrote was killed in the midst of it.

The file is written and removed by the holder of its lock alone, and a lock
counts only while its file is the one of that name. So of any number that come
at once, to a new folder or to that of a dead owner, one gets it.
"""
import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator

import tensorflow as tf
from absl import logging

from vatt import files
from vatt.errors import UserError, one_line

OWNER = "owner.json"
FIELDS = {"what": str, "host": str, "pid": int, "start": str, "since": str}
PATIENCE = 5.0  # seconds, for one that has the lock to write who it is
SETTLED = 1.0  # seconds, after which writes without a lock are seen by others
# What a file system without locks says.
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)

_held = set()  # descriptors of files whose lock this process has


@contextlib.contextmanager
def own(folder: str, what: str, expected: str = "a folder with room"
        ) -> Iterator[None]:
  """Owns a folder as long as the context lasts; reading one needs none of this.

  A fork of the process owns nothing. One process cannot own a folder twice.
  Other than local file systems (gs://, s3://), and local ones without locks,
  cannot decide who was first: there the file is written and, a second later,
  read again. Two that start within that second are told apart, as a rule and
  not for certain.

  Args:
    folder: made if need be, with those above; what was made goes again if it is
      empty at the end.
    what: the one that owns it, for others to read: "a training run".
    expected: in place of a folder that cannot be written, for the error.

  Raises:
    UserError: another process owns it, or it cannot be written.
  """
  me = {"what": what, "host": socket.gethostname(), "pid": os.getpid(),
        "start": _start_of(os.getpid()) or "",
        "since": datetime.datetime.now().astimezone().isoformat(
            " ", "seconds")}
  local, made = "://" not in folder, []
  above = folder if local else ""
  while above and not os.path.isdir(above):
    made.append(above)
    above = os.path.dirname(above)
  try:
    try:
      release = _lock(folder, me) if local else _write_and_see(folder, me)
    except files.REFUSED as error:
      raise UserError(f"{folder}: cannot be written ({one_line(error)}), "
                      f"expected {expected}") from None
    try:
      yield
    finally:
      if os.getpid() == me["pid"]:
        release()
  finally:
    if os.getpid() == me["pid"]:
      with contextlib.suppress(OSError):  # not empty, as it should be
        for path in made:
          os.rmdir(path)


# -----------------------------------------------------------------------------
# With a lock.
# -----------------------------------------------------------------------------
def _lock(folder, me):
  """Becomes the owner by a lock; returns a function that ends it."""
  path, deadline = os.path.join(folder, OWNER), time.monotonic() + PATIENCE
  while True:
    late = time.monotonic() > deadline
    try:
      os.makedirs(folder, exist_ok=True)
      file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:  # whoever made the folder has just removed it
      if late:
        raise
      continue
    try:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
      except BlockingIOError:
        free = False
      except OSError as error:
        if error.errno not in NO_LOCKS:
          raise
        return _write_and_see(folder, me)
      there = _is_at(file, path)
      owner = _parse(os.pread(file, 1 << 16, 0))
      if free and there:
        _take_over(path, owner, me)
        _write(file, path, me)
        _held.add(file)
        return lambda: _unlock(file, path)
      # Whoever has the lock may be about to write its name, or to go.
      if there and owner and not _is_dead(owner, me):
        raise _refused(path, owner, me)
      if late:
        raise UserError(
            f"{folder}: in use by a process that {path} does not name; "
            "expected a folder that no other process writes: end that one, or "
            "choose another folder")
    finally:
      if file not in _held:
        os.close(file)
    time.sleep(0.01)


def _is_at(file, path):
  """Whether an open file is still the one of that name."""
  try:
    return os.path.samestat(os.fstat(file), os.stat(path))
  except FileNotFoundError:
    return False


def _write(file, path, me):
  """Writes who we are, in a file that we have the lock of."""
  try:
    os.ftruncate(file, 0)
    os.pwrite(file, _text(me), 0)
    os.fsync(file)
  except OSError:
    os.unlink(path)
    raise


def _unlock(file, path):
  with contextlib.suppress(OSError):  # such as: the folder is gone
    if _is_at(file, path):
      os.unlink(path)
  _held.discard(file)
  os.close(file)


def _forget():
  """Closes the locks in a fork, which would hold them beyond its parent."""
  for file in _held:
    os.close(file)
  _held.clear()


os.register_at_fork(after_in_child=_forget)


# -----------------------------------------------------------------------------
# Without.
# -----------------------------------------------------------------------------
def _write_and_see(folder, me):
  """Becomes the owner where there are no locks, as well as may be; returns a
  function that ends it."""
  path, text = os.path.join(folder, OWNER), _text(me)

  def found():
    if not tf.io.gfile.exists(path):
      return b""
    with tf.io.gfile.GFile(path, "rb") as file:
      return file.read()

  def release():
    with contextlib.suppress(*files.REFUSED):
      if found() == text:
        tf.io.gfile.remove(path)

  tf.io.gfile.makedirs(folder)
  _take_over(path, _parse(found()), me)
  files.write_whole(path, text)
  time.sleep(SETTLED)
  with contextlib.ExitStack() as undo:
    undo.callback(release)
    if OWNER not in files.listdir(folder):  # nor would what earlier runs wrote
      raise OSError("what is written does not show in the folder")
    last = found()
    if last != text:
      raise _refused(path, _parse(last) or me | {"what": "another"}, me)
    undo.pop_all()
  return release


# -----------------------------------------------------------------------------
# Who owns.
# -----------------------------------------------------------------------------
def _text(owner):
  return (json.dumps(owner, indent=1) + "\n").encode()


def _parse(text):
  """The owner that a file names, or None if it is not whole."""
  try:
    owner = json.loads(text)
    known = all(isinstance(owner[name], kind) for name, kind in FIELDS.items())
  except (ValueError, KeyError, TypeError):
    return None
  return owner if known else None


def _take_over(path, owner, me):
  """Raises UserError unless the owner that a file names has died."""
  if owner is None:
    return
  if not _is_dead(owner, me):
    raise _refused(path, owner, me)
  logging.warning(
      "%s: taken over from %s (process %d, since %s), which has died",
      os.path.dirname(path), owner["what"], owner["pid"], owner["since"])


def _is_dead(owner, me):
  """Whether an owner is known to run no more: that of another host never is."""
  return owner["host"] == me["host"] and (
      _start_of(owner["pid"]) != owner["start"])


def _refused(path, owner, me):
  folder = os.path.dirname(path)
  if owner["host"] == me["host"]:
    return UserError(
        f"{folder}: in use by {owner['what']}, process {owner['pid']} of this "
        f"host ({me['host']}) since {owner['since']}; expected a folder that "
        "no other process writes: wait for its end, stop it, or choose another "
        "folder")
  return UserError(
      f"{folder}: in use by {owner['what']}, process {owner['pid']} of host "
      f"{owner['host']} since {owner['since']}; expected a folder that no "
      f"other process writes: if it runs no more, which this host "
      f"({me['host']}) cannot see, remove {path}; or choose another folder")


def _start_of(pid):
  """What tells a process from a later one of its number: when it started, and
  since which start of the system that is counted. None if it does not run."""
  try:
    with open(f"/proc/{pid}/stat", "rb") as file:
      state, *rest = file.read().rpartition(b")")[2].split()
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
      boot = file.read().strip()
    # A zombie has ended: just nobody has asked for its exit code.
    return None if state in b"ZX" else f"{boot} {int(rest[18])}"
  except (FileNotFoundError, ProcessLookupError):
    if os.path.exists("/proc/self/stat"):
      return None
  # Not Linux.
  said = subprocess.run(
      ["ps", "-o", "state=,lstart=", "-p", str(pid)], capture_output=True,
      text=True, env=dict(os.environ, LC_ALL="C", TZ="UTC")).stdout.split()
  return " ".join(said[1:]) if said and said[0][0] not in "ZX" else None
