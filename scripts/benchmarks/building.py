"""What a build by processes costs the one that waits for them."""
import itertools
import os
import pathlib
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from vatt.data.datasets.clips import Clips
from vatt.data.ingest import engines, plans, shards
from vatt.host import num_cores

import numpy as np
from tqdm import tqdm

from benchmarks import timing
from benchmarks.input import make_films

COPIES = 8  # of each film, that it takes longer than processes to start
SLEEPERS = (2, 32)  # processes
SHARDS, A_SHARD = 2, 30  # of each process, and clips of a shard
SECONDS = 0.3  # that a decoder takes for a clip
# Small ones: it is not the disk that is measured.
FRAMES, FRAME_BYTES, SOUND_BYTES = 10, 1_000, 20_000
LOOK = 0.1  # seconds between two looks at how long processes ran
MEMORY = 40  # looks between two at their memory


class Sleeper:
  """Makes clips of 10 s in the time that a decoder takes, and no work."""

  def __call__(self, clips: Sequence[plans.Clip]) -> Iterator[dict[str, Any]]:
    """Yields the example of each clip."""
    chance = np.random.default_rng(0)
    frames = [chance.bytes(FRAME_BYTES) for _ in range(FRAMES)]
    sound = chance.bytes(SOUND_BYTES)
    for clip in clips:
      time.sleep(SECONDS)
      yield {"id": clip.id, "start": 0.0, "frames": frames, "fps": 10.0,
             "audio": sound, "audio_rate": 48000, "captions": [], "label": []}


class Watch:
  """Looks at the processes below this one, in a thread."""

  def __init__(self):
    self.memory = {}  # MB of each kind of process: [its own share of all, all]
    self._times = {}  # of each process: seconds that it ran, that it waited to
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._look)

  def __enter__(self):
    self._thread.start()
    return self

  def __exit__(self, *_):
    self._ended.set()
    self._thread.join()

  def _look(self):
    for number in itertools.count():
      if self._ended.wait(LOOK):
        return
      for process, kind in processes_below(os.getpid()).items():
        folder = pathlib.Path(f"/proc/{process}")
        try:
          self._times[kind, process] = [
              int(each) / 1e9 for each in
              (folder / "schedstat").read_text().split()[:2]]
          if not number % MEMORY:
            lines = (folder / "smaps_rollup").read_text().splitlines()
            size = {line.split()[0]: int(line.split()[1]) / 1e3
                    for line in lines if line.endswith("kB")}
            self.memory[kind] = [size["Pss:"], size["Rss:"]]
        except (OSError, IndexError):
          continue

  def ran(self, kind: str) -> float:
    """Seconds that processes of a kind ran, together."""
    return sum(ran for (other, _), (ran, _) in self._times.items()
               if other == kind)

  def wanted(self, kind: str) -> float:
    """Seconds that they ran or waited for a processor."""
    return sum(sum(times) for (other, _), times in self._times.items()
               if other == kind)


def processes_below(process: int) -> dict[int, str]:
  """{process below a process: server, fork or decoder}."""
  parents, words = {}, {}
  for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
      rest = (folder / "stat").read_text().rpartition(")")[2].split()
      parents[int(folder.name)] = int(rest[1])
      words[int(folder.name)] = (folder / "cmdline").read_text()
    except OSError:
      continue
  found = {}
  for other, parent in parents.items():
    if "ingest.workers" in words.get(other, ""):
      kind = "decoder"
    elif "ingest.forks" in words.get(other, ""):
      kind = "server" if parent == process else "fork"
    else:
      continue
    while parent not in (process, 0, 1):
      parent = parents.get(parent, 0)
    if parent == process:
      found[other] = kind
  return found


def measure_build(folder: str, repeats: int) -> dict[str, Any]:
  """Builds clips of films by one process and by one for each core, in turns;
  and, once, clips that take time alone by SLEEPERS.

  Args:
    folder: for films, which are made if there are none.
    repeats: turns.

  Returns:
    Figures by name; those of films with their spread.
  """
  films, copies = f"{folder}/films", f"{folder}/copies"
  make_films(films)
  os.makedirs(copies, exist_ok=True)
  for film, i in itertools.product(
      pathlib.Path(films).glob("*.mp4"), range(COPIES)):
    if not os.path.exists(copy := f"{copies}/{film.stem}_{i}.mp4"):
      os.link(film, copy)
  plan = lambda: Clips(data_dir=folder, config="default").make_plan(copies)
  counts = sorted({1, num_cores()})
  turns = {count: [] for count in counts}
  for _ in tqdm(range(repeats), "build", unit="turn"):
    for count in counts:
      turns[count].append(_measure(plan(), count, "films"))
  found = {name: timing.spread([turn[name] for turn in turns[count]])
           for count in counts for name in turns[count][0]}
  for count in counts[1:]:
    found[f"{count} films: clips/s, over 1"] = timing.spread(
        [turn[f"{count} films: clips/s"] / one["1 films: clips/s"]
         for turn, one in zip(turns[count], turns[1])])
  for count in SLEEPERS:
    number = count * SHARDS * A_SHARD
    found |= _measure(plans.Plan(
        clips=(("train", plans.Clip(f"{i}", "", (i,))) for i in range(number)),
        read=Sleeper(), least={"train": count * SHARDS}), count, "sleepers")
  return found


def _measure(plan, count, name):
  done = []  # (seconds, clips)
  with tempfile.TemporaryDirectory() as folder:
    stored = plans.store(plan, f"{folder}/plan", "clips", "")
    job = shards.Job(folder, f"{folder}/plan", "", plan.read, plan.label_names)
    with Watch() as watch:
      parent = time.thread_time()
      engines.run(job, stored, count, True, lambda number: done.append(
          (time.monotonic(), number)))
      parent = time.thread_time() - parent
  seconds = done[-1][0] - done[0][0]  # without the start of the server
  clips = sum(number for _, number in done)
  found = {
      "clips/s": clips / seconds, "parent, s": parent,
      "parent, % of a core": 100 * parent / seconds,
      "that for each process": 100 * parent / seconds / count,
      **{f"{kind}, s a clip": watch.ran(kind) / clips
         for kind in ("fork", "decoder")},
      # Where others take the cores, too, it is this that tells what there is
      # to gain by another process.
      "decoder could run, % of the time":
          100 * watch.wanted("decoder") / seconds / count,
      **{f"{kind}, MB{what}": size
         for kind, sizes in watch.memory.items()
         for what, size in zip((" of its own", " with what it shares"), sizes)}}
  return {f"{count} {name}: {what}": value for what, value in found.items()}
