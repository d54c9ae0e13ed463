"""Renders the media of `demo`: mp4 files, subtitles and a manifest.

As in collected media, some clips have no captions or no sound, and three files
are broken.
"""
import csv
import io
from collections.abc import Sequence

import av
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from vatt import locks, stopping
from vatt.data.datasets.demo import captions, sounds
from vatt.data.datasets.demo import scenes as scenes_lib
from vatt.data.datasets.demo.scenes import Scene
from vatt.data.ingest import forks
from vatt.data.ingest.plans import draw
from vatt.errors import UserError, one_line
from vatt.files import TEMPORARY, write_whole
from vatt.host import num_cores

COLUMNS = ("video_path", "start", "end", "label", "caption", "split")
BROKEN = ("train/cut_off.mp4", "train/garbage.mp4", "train/empty.mp4")
# Of every so many training clips, in an order by hash, one lacks ...
WITHOUT_CAPTIONS = 5
WITHOUT_SOUND = 40
MANY = 100  # clips, for which it is worth while to start processes


def render(folder: str, num_train: int, num_test: int) -> None:
  """Writes the media, or what is missing of them, and last `clips.csv`.

  Each file is written whole or not at all, and a function of its name: a
  stopped rendering goes on where it was. Many are rendered by processes, one
  for each core. Who renders owns the folder; where nothing is missing, nothing
  is written.

  Args:
    folder: where the media are written.
    num_train: number of training clips, besides the broken ones.
    num_test: number of test clips, 200 at most.

  Raises:
    UserError: on too many test clips, a folder that has another clips.csv, one
      that cannot be written, or in which another process renders.
  """
  if not 0 < num_test <= scenes_lib.TEST_COMBINATIONS or num_train < 1:
    raise UserError(
        f"demo: {num_train} training and {num_test} test clips, expected at "
        f"least 1 each and at most {scenes_lib.TEST_COMBINATIONS} test clips: "
        "each has a combination of its own")
  scenes = [scenes_lib.scene(split, number)
            for split, count in (("train", num_train), ("test", num_test))
            for number in range(count)]
  table = manifest(scenes)
  try:
    if tf.io.gfile.exists(f"{folder}/clips.csv"):
      with tf.io.gfile.GFile(f"{folder}/clips.csv", "rb") as file:
        if file.read() != table:
          raise UserError(
              f"{folder}/clips.csv: lists other clips than these {num_train} + "
              f"{num_test}; expected an empty folder, or one rendered before")
    tf.io.gfile.makedirs(folder)
    names = ["clips.csv", *BROKEN, *(
        name for scene in scenes for name in names_of(scene))]
    if all(tf.io.gfile.exists(f"{folder}/{name}") for name in names):
      return
    with locks.own(folder, "a rendering of demo"):
      _render(folder, scenes)
      # The last file: it says that the folder is complete.
      write_whole(f"{folder}/clips.csv", table)
  except (OSError, tf.errors.OpError) as error:
    raise UserError(
        f"{folder}: the rendering stopped: {one_line(error)}; what is "
        "finished is kept, run the same command to go on") from error


def _render(folder, scenes):
  """Writes all but `clips.csv`."""
  for split in ("train", "test"):
    tf.io.gfile.makedirs(f"{folder}/{split}")
    for name in tf.io.gfile.listdir(f"{folder}/{split}"):
      if name.endswith(TEMPORARY):  # left by a kill
        tf.io.gfile.remove(f"{folder}/{split}/{name}")
  with tqdm(total=len(scenes), unit="clip", desc=f"rendering {folder}",
            mininterval=1) as bar:
    if len(scenes) < MANY:
      for scene in scenes:
        stopping.check()
        _render_item(folder, scene, bar.update)
    else:
      forks.run(_render_item, folder, scenes, num_cores(), bar.update)
  _write_broken(folder, scenes[0])


def _render_item(folder, scene, report):
  render_clip(folder, scene)
  report(1)


def names_of(scene: Scene) -> list[str]:
  """The files of a clip: `<id>.mp4`, of most training clips `<id>.vtt`."""
  spoken = scene.id.startswith("train/") and has_captions(scene)
  return [f"{scene.id}.vtt"] * spoken + [f"{scene.id}.mp4"]


def has_captions(scene: Scene) -> bool:
  """Whether a clip has captions: all test clips and 4/5 of the others."""
  return scene.id.startswith("test/") or bool(
      draw(WITHOUT_CAPTIONS, scene.id, "captions"))


def has_sound(scene: Scene) -> bool:
  """Whether a clip has sound: all test clips and 39/40 of the others."""
  return scene.id.startswith("test/") or bool(
      draw(WITHOUT_SOUND, scene.id, "sound"))


def render_clip(folder: str, scene: Scene) -> None:
  """Writes a clip, `<id>.mp4`, and the subtitles of a training clip,
  `<id>.vtt`, unless they exist."""
  *spoken, film = names_of(scene)
  for name in spoken:
    _write_new(f"{folder}/{name}", lambda: subtitles(captions.narrate(scene)))
  _write_new(f"{folder}/{film}", lambda: encode(
      scenes_lib.draw_frames(scene),
      sounds.synthesize(scene) if has_sound(scene) else None))


def _write_new(path, make):
  if not tf.io.gfile.exists(path):
    write_whole(path, make())


def subtitles(sentences: Sequence[str]) -> bytes:
  """WebVTT of sentences that follow each other over a clip, as bytes."""
  stamp = lambda share: f"00:00:{share * scenes_lib.SECONDS:06.3f}"
  count = len(sentences)
  cues = [f"{stamp(i / count)} --> {stamp((i + 1) / count)}\n{text}\n"
          for i, text in enumerate(sentences)]
  return "\n".join(["WEBVTT\n", *cues]).encode()


def encode(frames: np.ndarray, samples: np.ndarray | None = None) -> bytes:
  """Encodes a clip as H.264 and AAC in mp4.

  Args:
    frames: uint8 [T, H, W, 3], at scenes_lib.FPS.
    samples: int16 [S] at sounds.RATE, or None for no sound.

  Returns:
    The bytes of the file, which depend on the arguments only.
  """
  file = io.BytesIO()
  with av.open(file, "w", format="mp4",
               # No names of versions, no dates.
               container_options={"fflags": "+bitexact"}) as container:
    # One thread: the number of threads decides what x264 writes.
    video = container.add_stream("libx264", rate=scenes_lib.FPS, options={
        "preset": "ultrafast", "crf": "25", "threads": "1"})
    video.height, video.width = frames.shape[1:3]
    video.pix_fmt = "yuv420p"
    if samples is not None:
      audio = container.add_stream("aac", rate=sounds.RATE, layout="mono")
      audio.bit_rate = 32_000
    for frame in frames:
      container.mux(video.encode(
          av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(video.encode())
    if samples is not None:
      sound = av.AudioFrame.from_ndarray(
          samples[None], format="s16", layout="mono")
      sound.sample_rate = sounds.RATE
      # Without it, what the encoder puts before the sound would count as sound.
      sound.pts = 0
      container.mux(audio.encode(sound))
      container.mux(audio.encode())
  return file.getvalue()


def _write_broken(folder, scene):
  """Three files that are no media: one cut off, one of noise, one empty."""
  def cut_off():
    with tf.io.gfile.GFile(f"{folder}/{scene.id}.mp4", "rb") as file:
      data = file.read()
    return data[:len(data) // 2]

  noise = lambda: bytes(draw(256, "garbage", i) for i in range(5000))
  for name, make in zip(BROKEN, (cut_off, noise, bytes)):
    _write_new(f"{folder}/{name}", make)


def manifest(scenes: Sequence[Scene]) -> bytes:
  """The table of all files, the broken ones too, as the bytes of a CSV file."""
  table = io.StringIO()
  writer = csv.writer(table, lineterminator="\n")
  writer.writerow(COLUMNS)
  end = scenes_lib.SECONDS
  for name in BROKEN:
    writer.writerow((name, 0, end, scenes[0].shape, "", "train"))
  for scene in scenes:
    split = scene.id.partition("/")[0]
    # What is said during a training clip is in its subtitles; a test clip has
    # one sentence of somebody who saw it.
    caption = captions.describe(scene) if split == "test" else ""
    writer.writerow((f"{scene.id}.mp4", 0, end, scene.shape, caption, split))
  return table.getvalue().encode()
