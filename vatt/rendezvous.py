"""Workers find each other before TensorFlow does.

TensorFlow's start of several workers waits for all of them in one call, which
says nothing, ends for no signal and has no time limit that could be told. So
they meet here first: worker 0 listens at its own port, which TensorFlow takes
over from it, and the others report to it; when all are there, all go on.
"""
import contextlib
import json
import select
import socket
import time
from collections.abc import Sequence

from absl import logging

from vatt.errors import Temporary, UserError

GREETING = "vatt"  # how a line starts, so that no other program is believed
TICK = 0.2  # seconds between two looks
REPEAT = 30.0  # seconds after which it is said again who is missing


def meet(addresses: Sequence[str], index: int, minutes: float) -> None:
  """Returns when all workers have called it; says meanwhile who is missing.

  Args:
    addresses: host:port of each worker; of the first, all must reach it.
    index: this worker's.
    minutes: after which it gives up.

  Raises:
    Temporary: somebody is missing after that time; the first worker's port is
      taken.
    UserError: an address is none; two workers have one index, or not the same
      addresses.
  """
  if len(addresses) == 1:
    return
  places = [_place(address) for address in addresses]
  missing = _Missing(addresses, minutes)
  if index:
    _report(places[0], index, missing)
  else:
    _gather(places[0], missing)


class _Missing:
  """Says who is missing, by TF_CONFIG's index, when that changes and every
  REPEAT seconds."""

  def __init__(self, addresses, minutes):
    self.addresses, self.minutes = list(addresses), minutes
    self.start, self.said, self.last = time.monotonic(), None, 0.0

  def tell(self, numbers):
    """Raises Temporary if the time is up."""
    now = time.monotonic()
    names = ", ".join(
        f"{i} of {len(self.addresses)} at {self.addresses[i]}"
        for i in numbers)
    if now - self.start > 60 * self.minutes:
      raise Temporary(
          f"worker {names} did not come within strategy.wait_minutes "
          f"{self.minutes:g}; expected the same command on each of TF_CONFIG's "
          "workers")
    if numbers != self.said or now - self.last > REPEAT:
      logging.warning("waiting for worker %s ...", names)
      self.said, self.last = numbers, now


def _place(address):
  host, _, port = str(address).rpartition(":")
  if not host or not port.isdigit() or not 0 < int(port) < 2 ** 16:
    raise UserError(f"TF_CONFIG: a worker is at {address!r}, expected "
                    "host:port")
  return host.strip("[]"), int(port)


def _line(**content):
  return f"{GREETING} {json.dumps(content)}\n".encode()


class _Peer:
  """A connection that carries lines."""

  def __init__(self, connection):
    self.socket, self.buffer = connection, b""
    connection.setblocking(False)

  def lines(self):
    """The content of whole lines that came; None if the other end is gone, or
    is no worker of ours."""
    try:
      while data := self.socket.recv(4096):
        self.buffer += data
      gone = True
    except BlockingIOError:
      gone = False
    except OSError:
      gone = True
    *whole, self.buffer = self.buffer.split(b"\n")
    found = []
    for line in whole:
      greeting, _, content = line.partition(b" ")
      try:
        if greeting != GREETING.encode():
          raise ValueError
        found.append(json.loads(content))
      except ValueError:
        gone = True
    return None if gone and not found else found

  def send(self, **content):
    """False if the other end is gone."""
    try:
      self.socket.sendall(_line(**content))
      return True
    except OSError:
      return False


def _gather(place, missing):
  """Worker 0: listens until all the others have reported, and lets them go."""
  with _listen(place) as server:
    unnamed, peers = [], {}  # connections; those of workers by their index
    try:
      while True:
        # Those that died meanwhile are waited for again.
        peers = {i: peer for i, peer in peers.items()
                 if peer.lines() is not None}
        wanted = [i for i in range(1, len(missing.addresses)) if i not in peers]
        if not wanted:
          break
        missing.tell(wanted)
        for peer in peers.values():
          peer.send(missing=wanted)
        select.select([server, *(peer.socket for peer in unnamed)], [], [],
                      TICK)
        with contextlib.suppress(OSError):  # nobody came
          unnamed.append(_Peer(server.accept()[0]))
        for peer in list(unnamed):
          lines = peer.lines()
          if lines is None or lines:
            unnamed.remove(peer)
          if lines is None:
            peer.socket.close()
          elif lines:
            index, said = lines[-1]["index"], lines[-1]["addresses"]
            wrong = ""
            if said != missing.addresses:
              wrong = f"worker {index} has the workers {said}"
            elif index in peers:
              wrong = f"two say that they are worker {index}"
            if wrong:
              error = (f"TF_CONFIG: {wrong}, expected {missing.addresses}, and "
                       "an index of its own for each")
              for other in (peer, *peers.values()):
                other.send(error=error)
              peer.socket.close()
              raise UserError(error)
            peers[index] = peer
      for peer in peers.values():
        peer.send(go=True)
    finally:
      for peer in (*unnamed, *peers.values()):
        peer.socket.close()


def _listen(place):
  server = socket.socket(
      socket.AF_INET6 if ":" in place[0] else socket.AF_INET)
  # The port is free again at once, for TensorFlow.
  server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    server.bind(("", place[1]))
  except OSError as error:
    server.close()
    raise Temporary(
        f"TF_CONFIG: port {place[1]} of worker 0 cannot be had here "
        f"({error.strerror}); expected a free one, and no other run of this "
        "worker") from None
  server.listen(4096)
  server.setblocking(False)
  return server


def _report(place, index, missing):
  """Another worker: reports to worker 0 until that lets it go."""
  peer = None
  wanted = [0]
  try:
    while True:
      missing.tell(wanted)
      if peer is None:
        wanted = [0]
        try:
          peer = _Peer(socket.create_connection(place, timeout=5.0))
          peer.send(index=index, addresses=missing.addresses)
        except OSError:
          time.sleep(TICK)
          continue
      select.select([peer.socket], [], [], TICK)
      lines = peer.lines()
      if lines is None:  # worker 0 ended; or what answers is an older run
        peer.socket.close()
        peer = None
        time.sleep(TICK)
        continue
      for line in lines:
        if "go" in line:
          return
        if "error" in line:
          raise UserError(line["error"])
        wanted = line["missing"]
  finally:
    if peer:
      peer.socket.close()
