"""The input on the host: clips a second by stage, beside the naive way."""
import csv
import dataclasses
import io
import platform
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

from vatt import files, seeds
from vatt.config import replace
from vatt.data import (
  input_pipeline,
  record_index,
  sources,
  text,
  video,
  windows,
)
from vatt.data.datasets.clips import Clips
from vatt.data.datasets.demo import captions as demo_captions
from vatt.data.datasets.demo import media as demo_media
from vatt.data.datasets.demo import scenes as demo_scenes
from vatt.data.datasets.demo import sounds as demo_sounds
from vatt.host import num_cores

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from benchmarks import timing

DATASET = "clips/benchmark"  # with the defaults of `clips`
SMALLER = 192, 160  # pixels of the frames' shorter side, in place of 256
SECONDS = 10
WALL = 3, 5  # scenes below and beside each other: 288 x 480 pixels


# -----------------------------------------------------------------------------
# The films.
# -----------------------------------------------------------------------------
def make_films(folder: str, count: int = 12) -> None:
  """Renders films of 10 seconds, each a wall of the demo's scenes with the
  sound of one, and lists them with 5 captions each in `clips.csv`."""
  if tf.io.gfile.exists(f"{folder}/clips.csv"):
    return
  tf.io.gfile.makedirs(folder)
  down, beside = WALL
  # Back and forth, until it is long enough.
  order = np.arange(SECONDS * demo_scenes.FPS)
  last = demo_scenes.FRAMES - 1
  order = last - np.abs(last - order % (2 * last))
  rows = []
  for i in range(count):
    first = i * down * beside
    scenes = [demo_scenes.scene("train", first + j)
              for j in range(down * beside)]
    frames = np.stack([demo_scenes.draw_frames(scene)[order]
                       for scene in scenes])
    frames = frames.reshape(down, beside, *frames.shape[1:])
    wall = frames.transpose(2, 0, 3, 1, 4, 5)  # [T, down, H, beside, W, 3]
    wall = wall.reshape(len(order), down * demo_scenes.SIDE, -1, 3)
    sound = np.resize(demo_sounds.synthesize(scenes[0]),
                      SECONDS * demo_sounds.RATE)
    files.write_whole(f"{folder}/{i:03d}.mp4", demo_media.encode(wall, sound))
    rows += [(f"{i:03d}.mp4", 0, SECONDS, sentence, "train")
             for sentence in demo_captions.narrate(scenes[0])]
  table = io.StringIO()
  csv.writer(table).writerows(
      [("video_path", "start", "end", "caption", "split"), *rows])
  files.write_whole(f"{folder}/clips.csv", table.getvalue())


def make_records(folder: str, films: str | None = None, count: int = 12,
                 choice: str = "") -> sources.Source:
  """Builds a dataset of films by the project's own path, unless it is there.

  Args:
    folder: where to; kept for the next time.
    films: folder of media that the `clips` dataset reads; None renders some.
    count: how many to render.
    choice: fields of `clips` and their values, such as "+size=160".

  Returns:
    The records; under one name, so that crops of all choices are the same.
  """
  if not films:
    films = f"{folder}/films"
    make_films(films, count)
  builder = Clips(config=DATASET.partition("/")[2] + choice, data_dir=folder,
                  manual_dir=films)
  builder.download_and_prepare()
  source = dataclasses.replace(
      sources.open_source(DATASET + choice, folder, "train"), name=DATASET)
  vocabulary = f"{source.directory}/vocabulary.txt"
  if not tf.io.gfile.exists(vocabulary):
    captions = record_index.process_records(
        record_index.file_tensors(source.index), len(source.index),
        lambda raw, i: source.parse(raw)["captions/text"],
        tf.zeros([0], tf.string))
    said = [sentence.decode() for _, sentences in captions.as_numpy_iterator()
            for sentence in sentences]
    words = text.build_vocabulary(said, 2 ** 16) or ["nothing"]
    files.write_whole(vocabulary, "".join(f"{word}\n" for word in words))
  return source


# -----------------------------------------------------------------------------
# The pipeline.
# -----------------------------------------------------------------------------
def naive_frames(encoded: tf.Tensor, size: int, area: tuple[float, float],
                 aspect: tuple[float, float], draw: tf.Tensor) -> tf.Tensor:
  """`video.decode_frames` as one would write it first: all of each frame is
  decoded; what comes of it is cropped and resized by tf.image."""
  frames = tf.map_fn(
      lambda frame: tf.io.decode_jpeg(
          frame, channels=3, dct_method="INTEGER_ACCURATE"), encoded,
      fn_output_signature=tf.TensorSpec([None, None, 3], tf.uint8))
  shape = tf.shape(frames)[1:3]
  top, left, height, width = tf.unstack(
      video.crop_box(shape[0], shape[1], area, aspect, draw))
  frames = frames[:, top:top + height, left:left + width]
  filtered = tf.maximum(height, width) > 2 * size
  resized = tf.cond(
      filtered, lambda: tf.image.resize(frames, [size, size], antialias=True),
      lambda: tf.image.resize(frames, [size, size]))
  return tf.ensure_shape(tf.cast(resized + 0.5, tf.uint8),
                         [encoded.shape[0], size, size, 3])


def train_batches(data: ConfigDict, source: sources.Source, batch_size: int,
                  naive: bool = False) -> tf.data.Dataset:
  """The batches of training, by `naive_frames` if asked for."""
  decode = naive_frames if naive else video.decode_frames
  with mock.patch.object(video, "decode_frames", decode):
    return input_pipeline.train_dataset(
        data, [source], batch_size, seed=0, start_step=0)


def data_of(config: ConfigDict, source: sources.Source) -> ConfigDict:
  """The `data` of a run's config, for these records."""
  return replace(config, {
      "data.datasets": (source.name,), "data.shares": (), "data.vocabulary":
      config.data.vocabulary or f"{source.directory}/vocabulary.txt"}).data


def runner(dataset: tf.data.Dataset, warm_up: int
           ) -> Callable[[], timing.Seconds]:
  """A function that runs through a dataset and returns the processor time in
  seconds, all cores' together, after `warm_up` elements that do not count."""
  def run():
    # Of a run's first step most goes into setting functions up.
    elements = iter(dataset)
    for _ in range(warm_up):
      next(elements)
    start = time.process_time()
    for _ in elements:
      pass
    return timing.Seconds(time.process_time() - start)
  return run


def input_stages(config: ConfigDict, source: sources.Source, num_clips: int,
                 batch_size: int = 4
                 ) -> dict[str, Callable[[], timing.Seconds]]:
  """What can be timed of the input.

  Args:
    config: of a run; of it `data`.
    source: records with frames.
    num_clips: that a run counts, a multiple of the batch size.
    batch_size: of the pipelines.

  Returns:
    {name: function that runs it, after as many clips as a batch has that do not
    count, and returns its seconds}: each stage does what those before it do,
    with the same records and crops; "pipeline" makes training batches, "naive
    frames" are decoded whole, "naive pipeline" makes batches of these.
  """
  data = data_of(config, source)
  table = text.make_table(text.load_vocabulary(data.vocabulary))
  tensors = record_index.file_tensors(source.index)
  stream = seeds.fold(seeds.root(0), source.name)
  total = num_clips + batch_size
  records = np.resize(record_index.epoch_order(
      len(source.index), seeds.fold(stream, "order"), 0), total)
  draws = tf.random.stateless_uniform(
      [total, *video.CROP_DRAW], seeds.fold(stream, "crop", 0))

  def taken(raw):
    example = source.parse(raw)
    return tf.gather(example["frames"], video.sample_indices(
        tf.size(example["frames"]), example["fps"],
        tf.constant(0.0, tf.float64), data.frames, data.fps))

  def decode(raw, draw):
    return video.decode_parts(taken(raw), lambda height, width: video.crop_box(
        height, width, data.crop_area, data.crop_aspect, draw)[None],
        lambda boxes: tf.shape, tf.TensorSpec([3], tf.int32))[0]

  def window(raw, draw):
    return windows.read_window(
        data, source, raw, lambda steps: steps * 0.0, draw)

  stages = {
      "read": lambda raw, draw: source.parse(raw),
      "+ decode the crops": decode,
      "+ resize": window,
      "+ audio and captions": lambda raw, draw: windows.make_row(
          data, table, window(raw, draw), tf.zeros([2], tf.uint32)),
      "naive frames": lambda raw, draw: naive_frames(
          taken(raw), data.size, data.crop_area, data.crop_aspect, draw)}
  options = tf.data.Options()
  options.autotune.enabled = False

  def dataset_of(stage):
    return tf.data.Dataset.from_tensor_slices((records, draws)).map(
        lambda record, draw: stage(
            record_index.read_record(tensors, record), draw),
        num_parallel_calls=num_cores()).with_options(options)

  return {name: runner(dataset_of(stage), batch_size)
          for name, stage in stages.items()} | {
              name: runner(train_batches(data, source, batch_size, naive).take(
                  total // batch_size), 1)
              for name, naive in (("pipeline", False),
                                  ("naive pipeline", True))}


def input_choices(folder: str, config: ConfigDict, num_clips: int,
                  batch_size: int = 4
                  ) -> dict[str, Callable[[], timing.Seconds]]:
  """The pipeline by what may be chosen to have it faster.

  Args:
    folder: for films and records.
    config, num_clips, batch_size: those of `input_stages`.

  Returns:
    {name: function that runs it, as of `input_stages`}: crops that the device
    enlarges, of records as they are and of smaller frames, and these alone.
  """
  batches, runs = num_clips // batch_size + 1, {}
  for size in (None, *SMALLER):
    source = make_records(folder, choice=f"+size={size}" if size else "")
    for device in (False, True):
      data = data_of(replace(
          config, {"data.enlarge_on_device": device}), source)
      name = ", ".join([f"frames of {size}"] * bool(size)
                       + ["enlarged on the device"] * device)
      if name:  # else it is the pipeline that all are compared with
        runs[name] = runner(train_batches(
            data, source, batch_size).take(batches), 1)
  return runs


def processor() -> str:
  """What the system calls the processor."""
  try:
    with open("/proc/cpuinfo") as file:  # of Linux
      names = [line.partition(":")[2].strip() for line in file
               if line.startswith("model name")]
  except OSError:
    names = []
  return names[0] if names else platform.processor() or platform.machine()


def measure_input(folder: str, config: ConfigDict, repeats: int,
                  num_clips: int = 24) -> dict[str, Any]:
  """Times the stages of the input, the naive way and faster ones.

  Args:
    folder: for films and records.
    config: of a run; of it `data`.
    repeats: turns.
    num_clips: of a turn.

  Returns:
    Figures by name: the processor, clips a second of its time by each stage,
    and ratios.
  """
  config = replace(config, {"data.enlarge_on_device": False})
  choices = input_choices(folder, config, num_clips)
  runs = input_stages(config, make_records(folder), num_clips) | choices
  seconds = timing.interleave(runs, repeats, "input")
  figures = {f"{name}, clips/s": timing.spread(num_clips / values)
             for name, values in seconds.items()}
  return {"processor": processor()} | figures | {
      f"pipeline over {naive}": timing.spread(
          seconds[naive] / seconds["pipeline"])
      for naive in ("naive pipeline", "naive frames")} | {
          f"{name}, over pipeline": timing.spread(
              seconds["pipeline"] / seconds[name]) for name in choices}
