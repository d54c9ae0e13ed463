"""What decoders do that crash, hang or are killed; imported by each of them."""
import os
import signal

from vatt.data.ingest import encoding


def disturbed(path, spans, *args):
  """As `encoding.read_clips`, but at some clips of some files this process
  ends or hangs."""
  name = os.path.basename(path)
  for (start, _), clip in zip(spans, encoding.read_clips(path, spans, *args)):
    if name == "crash.mp4" and start == 2:
      os.abort()
    if name == "hang.mp4" and start == 3 or name == "slow.mp4" and start >= 1:
      sum(range(10 ** 13))
    if name == "kill.mp4" and start == 2:
      try:
        os.remove(f"{path}.once")
      except FileNotFoundError:
        pass
      else:
        os.kill(os.getpid(), signal.SIGKILL)
    yield clip
