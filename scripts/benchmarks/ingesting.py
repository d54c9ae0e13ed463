"""What it takes to make records of videos: processor time, and bytes."""
import itertools
import os
import pathlib
import tempfile
import time
from fractions import Fraction
from typing import Any

from vatt import files
from vatt.data.datasets.clips import Clips
from vatt.data.ingest import clip_sources, engines, plans, shards
from vatt.errors import UserError
from vatt.host import num_cores

import av
import numpy as np
import tensorflow as tf

from benchmarks import timing
from benchmarks.building import processes_below
from benchmarks.input import make_films

# Seconds from one caption of HowTo100M to the next: clips around captions are
# those, as far as it takes to read them.
BETWEEN_CUES = 3.56
STRIDE = 10.0  # seconds, of the default
CHOICES = {  # seconds from clip to clip
    "": STRIDE, "+audio=flac": STRIDE, "+size=224+audio=flac": STRIDE,
    "+fps=5+audio=flac": STRIDE, "+stride=20": 20.0,
    f"+stride={BETWEEN_CUES}": BETWEEN_CUES}
# A film like those of HowTo100M: pixels, frames a second, frames from keyframe
# to keyframe, x264's quality, bits of sound a second, seconds.
WIDTH, HEIGHT, FPS, GOP, CRF, BIT_RATE = 640, 360, 30, 150, 27, 96_000
SECONDS, RATE = 390, 44_100


def join(videos: str, path: str, seconds: float) -> None:
  """Makes a film of one size and rate: of each video, one after the other and
  again, until it is long enough.

  Args:
    videos: folder of them.
    path: of the film.
    seconds: how long it will be.
  """
  found = [f"{videos}/{name}" for name in clip_sources.find_media(videos)]

  def decoded(kind):
    """Yields the frames of all that have some, for ever; sound resampled."""
    for path in itertools.cycle([each for each in found if _has(each, kind)]):
      resampler = av.AudioResampler("fltp", "stereo", RATE)
      with av.open(path) as container:
        for frame in container.decode(**{kind: 0}):
          frame.pts = None
          yield from [frame] if kind == "video" else resampler.resample(frame)

  def write(temporary):
    with av.open(temporary, "w", format="mp4") as film:
      video, sound = film.add_stream("libx264", FPS), film.add_stream(
          "aac", RATE, layout="stereo")
      video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
      video.options = {"crf": f"{CRF}", "g": f"{GOP}", "preset": "veryfast"}
      sound.bit_rate = BIT_RATE
      sounds, at = decoded("audio"), 0
      for number, frame in enumerate(itertools.islice(
          decoded("video"), round(seconds * FPS))):
        frame = frame.reformat(WIDTH, HEIGHT, "yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, FPS)
        frame.pict_type = 0
        film.mux(video.encode(frame))
        while at * FPS < (number + 1) * RATE and (heard := next(sounds, None)):
          heard.pts, heard.time_base = at, Fraction(1, RATE)
          film.mux(sound.encode(heard))
          at += heard.samples
      film.mux(video.encode(None))
      film.mux(sound.encode(None))

  files.write_whole_by(path, write)


def _has(path, kind):
  with av.open(path) as container:
    return bool(getattr(container.streams, kind))


def measure_ingest(folder: str, videos: str | None, joined: bool, hours: float,
                   repeats: int) -> dict[str, Any]:
  """Builds records of videos in all CHOICES, in turns.

  Args:
    folder: for films that are made, and kept.
    videos: folder of one's own; None for rendered ones, which are joined.
    joined: whether those are joined to one film, too.
    hours: of video that totals are worked out for; 0 for none.
    repeats: turns.

  Returns:
    Figures by name.
  """
  if videos and not os.path.isdir(videos):
    raise UserError(f"--videos={videos}: no such folder")
  tf.io.gfile.makedirs(folder)
  films = videos
  if joined or not videos:
    films = f"{folder}/joined"
    tf.io.gfile.makedirs(films)
    if not tf.io.gfile.exists(f"{films}/film.mp4"):
      if not videos:
        make_films(f"{folder}/films")
      join(videos or f"{folder}/films", f"{films}/film.mp4", SECONDS)
  found, costs = {}, {}

  def run(choice):
    with tempfile.TemporaryDirectory(dir=folder) as made:
      plan = Clips(data_dir=made, config=f"ingest{choice}").make_plan(films)
      seconds, costs[choice] = _build(plan, made), _sizes(made)
    return timing.Seconds(seconds)

  seconds = timing.interleave(
      {choice: lambda choice=choice: run(choice) for choice in CHOICES},
      repeats, "ingest", warm_up=0)
  for choice, stride in CHOICES.items():
    name, took = choice or "the default", seconds[choice]
    clips, frames, sound = costs[choice]
    figures = {"clips": clips, "frames, MB a clip": frames / 1e6,
               "sound, MB a clip": sound / 1e6,
               "processor seconds a clip": timing.spread(took)}
    if hours:
      figures |= totals(hours, stride, frames + sound, float(np.median(took)))
    found |= {f"{name}: {what}": value for what, value in figures.items()}
  return found


def totals(hours: float, stride: float, size: float, seconds: float
           ) -> dict[str, float]:
  """What it takes to make records of so much video.

  Args:
    hours: of video.
    stride: seconds from clip to clip.
    size: bytes of a clip.
    seconds: of a processor, for one.
  """
  clips = hours * 3600 / stride
  return {"millions of clips": clips / 1e6, "TB": clips * size / 1e12,
          "core hours": clips * seconds / 3600}


def _build(plan, folder):
  """Builds the shards of a plan by a process for each core.

  Returns:
    Processor seconds of all processes together, for each clip but for those up
    to the first that was told of: without what it takes to start.
  """
  # As many shards as where there is much of it: a film is in one.
  plan = plan._replace(least={"train": 1, "test": 1})
  stored = plans.store(plan, f"{folder}/{plans.NAME}", "clips", "")
  job = shards.Job(folder, f"{folder}/{plans.NAME}", "", plan.read,
                   plan.label_names)
  marks, done, took = [], 0, {}  # (clips, seconds); seconds of each process

  def note(number):
    nonlocal done
    done += number
    if number:
      took.update({process: _processor_seconds(process)
                   for process in processes_below(os.getpid())})
      marks.append((done, time.process_time() + sum(took.values())))

  engines.run(job, stored, num_cores(), True, note)
  (first, before), (last, after) = marks[0], marks[-1]
  if first == last:
    raise UserError(f"{done} clips are too few to be measured, expected a "
                    "minute of video at least")
  return (after - before) / (last - first)


def _processor_seconds(process):
  """Of all threads of a process; 0 if it has ended."""
  try:
    text = pathlib.Path(f"/proc/{process}/stat").read_text()
  except OSError:
    return 0.0
  user, system = text.rpartition(")")[2].split()[11:13]
  return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _sizes(folder):
  """The number of clips in a folder of records, and the mean bytes of their
  frames and of their sound."""
  sizes = []
  for raw in tf.data.TFRecordDataset(tf.io.gfile.glob(
      f"{folder}/*.tfrecord-*[0-9]")).as_numpy_iterator():
    values = tf.train.Example.FromString(raw).features.feature
    sizes.append([sum(map(len, values[field].bytes_list.value))
                  for field in ("frames", "audio")])
  return len(sizes), *np.mean(sizes, axis=0).tolist()
