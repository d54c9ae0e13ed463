"""What is made of a record: a window of it, decoded, as a row of a batch."""
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from vatt.data import audio as audio_lib
from vatt.data import text
from vatt.data import video as video_lib
from vatt.data.sources import Source

CAPTIONS = ("captions/text", "captions/start", "captions/end")


def span(data: ConfigDict) -> float:
  """The length of a window in seconds."""
  return (data.frames / data.fps if data.frames
          else data.audio_samples / data.audio_rate)


def read_window(data: ConfigDict, source: Source, raw: tf.Tensor,
                choose: Callable[[tf.Tensor], tf.Tensor],
                crop: tf.Tensor | None = None, num_crops: int = 1
                ) -> dict[str, tf.Tensor]:
  """Parses a record and decodes the frames of a window.

  All that can fail in a record fails here.

  Args:
    data: config.data.
    source: the split that the record is of.
    raw: string [], the record.
    choose: float64 [] S -> float64 [], a whole number in 0 … S: the window can
      start at the stored frames (of a clip without: at the samples) 0 … S.
    crop: float32 video.CROP_DRAW, uniform in [0, 1), to draw a random crop by;
      None for the square crops of evaluation.
    num_crops: M, square crops along the frame's longer side; 1 with `crop`.

  Returns:
    dict: video uint8 [M, T, H, W, 3], has_video bool [], start float64 [] in
    seconds, corrupt bool [], and of the whole clip audio int16 [S], audio_rate,
    label, captions/text, captions/start and captions/end.
  """
  example = source.parse(raw)
  stored, fps = example["frames"], tf.cast(example["fps"], tf.float64)
  sound = audio_lib.samples(example["audio"], source.flac)
  has_video = tf.size(stored) > 0
  count = tf.where(has_video, tf.size(stored), tf.size(sound))
  rate = tf.where(has_video, fps, tf.cast(example["audio_rate"], tf.float64))
  # 1e-6: lengths are products of rounded fractions.
  steps = tf.floor(tf.cast(count, tf.float64) - span(data) * rate + 1e-6)
  start = tf.math.divide_no_nan(choose(tf.maximum(steps, 0.0)), rate)

  def frames():
    taken = tf.gather(stored, video_lib.sample_indices(
        tf.size(stored), fps, start, data.frames, data.fps))
    if crop is None:
      return video_lib.decode_crops(taken, data.size, num_crops)
    return video_lib.decode_frames(
        taken, data.size, data.crop_area, data.crop_aspect, crop)[None]

  def nothing():
    return empty_window(data, corrupt=False, num_crops=num_crops)

  window = nothing()
  if data.frames:
    window["video"] = tf.cond(has_video, frames, lambda: nothing()["video"])
  return window | {"has_video": has_video, "start": start, "audio": sound} | {
      key: example[key] for key in ("audio_rate", "label", *CAPTIONS)}


def make_cutter(data: ConfigDict, kinds: Sequence[str], num_crops: int
                ) -> Callable[..., dict[str, tf.Tensor]]:
  """Makes a function that cuts windows of clips which are decoded, as
  `read_window` and `make_row` cut them of records.

  Args:
    data: config.data.
    kinds: video, audio or both: what to cut.
    num_crops: M, square crops along the frame's longer side.

  Returns:
    A function of the frames, uint8 [F, H, W, 3] (F may be 0), how many there
    are a second, the sound, int16 [S] (S may be 0), its samples a second, and
    the window's start in seconds. It returns a dict: of the kinds video uint8
    [M, T, H, W, 3], audio int16 [S, 1]; video_mask and audio_mask bool [].
  """
  @tf.function(autograph=False, input_signature=[
      tf.TensorSpec([data.frames, None, None, 3], tf.uint8),
      tf.TensorSpec([None], tf.int16), tf.TensorSpec([], tf.int32),
      tf.TensorSpec([], tf.float64)])
  def cut(frames, sound, rate, start):
    row = {}
    if "video" in kinds:
      row["video"] = video_lib.crop_frames(frames, data.size, num_crops)
    if "audio" in kinds:
      row["audio"] = audio_lib.cut_audio(
          sound, rate, start, data.audio_samples, data.audio_rate)
    return row

  def cut_window(frames, fps, sound, rate, start):
    if len(frames):
      taken = frames[video_lib.sample_indices(
          len(frames), fps, start, data.frames, data.fps)]
    else:
      taken = np.zeros([data.frames, data.size, data.size, 3], np.uint8)
    return cut(taken, sound, rate, start) | {
        # Not behind the end of either.
        "video_mask": tf.constant(
            "video" in kinds and bool(start * fps < len(frames))),
        "audio_mask": tf.constant(
            "audio" in kinds and bool(start * rate < len(sound)))}

  return cut_window


def empty_window(data: ConfigDict, corrupt: bool, num_crops: int = 1
                 ) -> dict[str, tf.Tensor]:
  """The window of a record with nothing in it: the dict of `read_window`."""
  return {
      "video": tf.zeros(
          [num_crops, data.frames, data.size, data.size, 3], tf.uint8),
      "has_video": tf.constant(False),
      "start": tf.constant(0.0, tf.float64),
      "corrupt": tf.constant(corrupt),
      "audio": tf.zeros([0], tf.int16),
      "audio_rate": tf.constant(data.audio_rate),
      "label": tf.zeros([0], tf.int64),
      "captions/text": tf.zeros([0], tf.string),
      "captions/start": tf.zeros([0]),
      "captions/end": tf.zeros([0]),
  }


def make_row(data: ConfigDict, table: tf.lookup.StaticHashTable | None,
             window: dict[str, tf.Tensor], nearest: bool = False
             ) -> dict[str, tf.Tensor]:
  """Makes a row of a batch of a window: cuts its audio, encodes its captions.

  Args:
    data: config.data; with `classes` over 0 the row has `labels`, bool
      [classes].
    table: the lookup table word -> id; None if `data.captions` is 0.
    window: the dict of `read_window`.
    nearest: whether the captions are those nearest in time, as in training, or
      the record's first, which are the same in each of its windows.

  Returns:
    A row of the dict of `input_pipeline.train_dataset`, without index; the
    video is the first crop.
  """
  if data.captions:
    captions = (nearest_captions(data, window) if nearest
                else window["captions/text"])[:data.captions]
    captions = tf.pad(captions, [[0, data.captions - tf.size(captions)]])
    captions = tf.ensure_shape(captions, [data.captions])
    text_ids, word_mask = text.encode(table, captions, data.words)
  else:
    text_ids = tf.zeros([0, data.words], tf.int32)
    word_mask = tf.zeros([0, data.words], tf.bool)
  audio = audio_lib.cut_audio(
      window["audio"], window["audio_rate"], window["start"],
      data.audio_samples, data.audio_rate)
  labels = {}
  if data.classes:
    labels["labels"] = tf.reduce_any(tf.equal(  # [N, 1] and [C] -> [C]
        window["label"][:, None], tf.range(data.classes, dtype=tf.int64)), 0)
  return labels | {
      "video": window["video"][0],
      "audio": audio,
      "text": text_ids,
      "word_mask": word_mask,
      "video_mask": window["has_video"] & (data.frames > 0),
      "audio_mask": (tf.size(window["audio"]) > 0) & (data.audio_samples > 0),
      "caption_mask": tf.reduce_any(word_mask, -1),
      "label": tf.cast(tf.concat([window["label"], [-1]], 0)[0], tf.int32),
      "corrupt": window["corrupt"],
  }


def nearest_captions(data: ConfigDict, window: dict[str, tf.Tensor]
                     ) -> tf.Tensor:
  """Sorts captions by their intervals' distance from the window's middle.

  Args:
    data: config.data.
    window: the dict of `read_window`.

  Returns:
    string [K], nearest first; as near ones stay in their order.
  """
  middle = tf.cast(window["start"] + span(data) / 2, tf.float32)
  distance = tf.maximum(0.0, tf.maximum(window["captions/start"] - middle,
                                        middle - window["captions/end"]))
  return tf.gather(
      window["captions/text"], tf.argsort(distance, stable=True))
