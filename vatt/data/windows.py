"""What is made of a record: a window of it, decoded, as a row of a batch."""
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from vatt import seeds
from vatt.data import audio as audio_lib
from vatt.data import text
from vatt.data import video as video_lib
from vatt.data.sources import Source

CAPTIONS = ("captions/text", "captions/start", "captions/end")
# Times are to the millisecond, but floats: half of one is none.
HALF = 0.0005


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
    dict: video uint8 [M, T, H, W, 3], video_part int32 [2] (height and width of
    what `video.enlarge` is left to enlarge; all, but for a random crop with
    data.enlarge_on_device), has_video bool [], start float64 [] in seconds,
    corrupt bool [], and of the whole clip length float64 [] in seconds, audio
    int16 [S], audio_rate, label, captions/text, captions/start and
    captions/end.
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
      return (video_lib.decode_crops(taken, data.size, num_crops),
              window["video_part"])
    how = taken, data.size, data.crop_area, data.crop_aspect, crop
    if data.enlarge_on_device:
      video, part = video_lib.decode_unenlarged(*how)
      return video[None], part
    return video_lib.decode_frames(*how)[None], window["video_part"]

  def nothing():
    empty = empty_window(data, corrupt=False, num_crops=num_crops)
    return empty["video"], empty["video_part"]

  window = empty_window(data, corrupt=False, num_crops=num_crops)
  if data.frames:
    window["video"], window["video_part"] = tf.cond(has_video, frames, nothing)
  return window | {
      "has_video": has_video, "start": start, "audio": sound,
      "length": clip_length(example, sound)} | {
          key: example[key] for key in ("audio_rate", "label", *CAPTIONS)}


def clip_length(example: dict[str, tf.Tensor], sound: tf.Tensor) -> tf.Tensor:
  """The seconds, float64 [], of a record's frames or sound: the longer ones.

  Args:
    example: the parsed record.
    sound: int16 [S], its samples.
  """
  return tf.reduce_max([
      tf.math.divide_no_nan(tf.cast(tf.size(signal), tf.float64),
                            tf.cast(example[rate], tf.float64))
      for signal, rate in ((example["frames"], "fps"), (sound, "audio_rate"))])


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
      "video_part": tf.constant([data.size, data.size]),
      "has_video": tf.constant(False),
      "start": tf.constant(0.0, tf.float64),
      "length": tf.constant(0.0, tf.float64),
      "corrupt": tf.constant(corrupt),
      "audio": tf.zeros([0], tf.int16),
      "audio_rate": tf.constant(data.audio_rate),
      "label": tf.zeros([0], tf.int64),
      "captions/text": tf.zeros([0], tf.string),
      "captions/start": tf.zeros([0]),
      "captions/end": tf.zeros([0]),
  }


def make_row(data: ConfigDict, table: tf.lookup.StaticHashTable | None,
             window: dict[str, tf.Tensor], ties: tf.Tensor | None = None
             ) -> dict[str, tf.Tensor]:
  """Makes a row of a batch of a window: cuts its audio, encodes its captions.

  Args:
    data: config.data; with `classes` over 0 the row has `labels`, bool
      [classes].
    table: the lookup table word -> id; None if `data.captions` is 0.
    window: the dict of `read_window`.
    ties: seed of `nearest_captions`, which are those of training; None for the
      first of `own_captions`, which are the same in all windows of a clip.

  Returns:
    A row of the dict of `input_pipeline.train_dataset`, without index; the
    video is the first crop. Of training it has video_part, if asked for by
    `data.enlarge_on_device`.
  """
  if data.captions:
    captions = (own_captions(window)[:data.captions] if ties is None
                else nearest_captions(data, window, ties))
    captions = tf.pad(captions, [[0, data.captions - tf.size(captions)]])
    captions = tf.ensure_shape(captions, [data.captions])
    text_ids, word_mask = text.encode(table, captions, data.words)
  else:
    text_ids = tf.zeros([0, data.words], tf.int32)
    word_mask = tf.zeros([0, data.words], tf.bool)
  audio = audio_lib.cut_audio(
      window["audio"], window["audio_rate"], window["start"],
      data.audio_samples, data.audio_rate)
  some = {}  # that not every row has
  if ties is not None and data.enlarge_on_device:
    some["video_part"] = window["video_part"]
  if data.classes:
    some["labels"] = tf.reduce_any(tf.equal(  # [N, 1] and [C] -> [C]
        window["label"][:, None], tf.range(data.classes, dtype=tf.int64)), 0)
  return some | {
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


def own_captions(window: dict[str, tf.Tensor]) -> tf.Tensor:
  """The captions of a clip itself, without those around it: string [K].

  Args:
    window: the dict of `read_window`; of it are read the clip's length and its
      captions with their times.
  """
  start, end = (tf.cast(window[f"captions/{edge}"], tf.float64)
                for edge in ("start", "end"))
  before = (start < 0) & (end < HALF)
  behind = (window["length"] > HALF) & (start > window["length"] - HALF)
  return tf.boolean_mask(window["captions/text"], ~(before | behind))


def nearest_captions(data: ConfigDict, window: dict[str, tf.Tensor],
                     ties: tf.Tensor) -> tf.Tensor:
  """Chooses the captions whose intervals are nearest to the window's middle.

  Of as near ones, where not all of them have room, any are as likely.

  Args:
    data: config.data.
    window: the dict of `read_window`.
    ties: seed of that draw, uint32 [2].

  Returns:
    string [K], at most `data.captions`, nearest first; as near ones are in
    their order.
  """
  middle = tf.cast(window["start"] + span(data) / 2, tf.float32)
  distance = tf.maximum(0.0, tf.maximum(window["captions/start"] - middle,
                                        middle - window["captions/end"]))

  def by_distance(order):
    return tf.gather(order, tf.argsort(tf.gather(distance, order), stable=True))

  shuffled = tf.argsort(
      seeds.bits_rows(tf.size(distance), [], ties, first_row=0), stable=True)
  chosen = tf.sort(by_distance(shuffled)[:data.captions])
  return tf.gather(window["captions/text"], by_distance(chosen))
