"""What is made of a record: a window of it, decoded, as a row of a batch."""
import tensorflow as tf

from vatt.data import audio as audio_lib
from vatt.data import text
from vatt.data import video as video_lib

CAPTIONS = ("captions/text", "captions/start", "captions/end")


def span(data):
  """Seconds of a window."""
  return (data.frames / data.fps if data.frames
          else data.audio_samples / data.audio_rate)


def read_window(data, source, raw, choose, crop=None, num_crops=1):
  """Parses a record and decodes the frames of a window.

  All that can fail in a record fails here.

  Args:
    data: config.data.
    source: Source.
    raw: string [], the record.
    choose: float64 [] S -> float64 [], a whole number in 0 … S: the window can
      start at the stored frames (of a clip without: at the samples) 0 … S.
    crop: the random numbers for `video.crop_box`; None for evaluation's crops.
    num_crops: M, of `video.square_boxes`; 1 with random numbers.

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


def empty_window(data, corrupt, num_crops=1):
  """What `read_window` makes of a record with nothing in it."""
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


def make_row(data, table, window, nearest=False):
  """Makes a row of a batch of a window: cuts its audio, encodes its captions.

  Args:
    data: config.data. With `captions` of 0 no words are needed; with `classes`
      over 0 the row has `labels`, bool [classes].
    table: of `text.make_table`; None without captions.
    window: dict of `read_window`.
    nearest: whether the captions are those nearest in time, as in training, or
      the record's first, which are the same in each of its windows.

  Returns:
    dict: the batch dict of `input_pipeline.train_dataset`, without index; the
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


def nearest_captions(data, window):
  """The captions, string [N], by their distance from the window's middle.

  That is the distance from the caption's interval, zero within it; as near ones
  stay in their order.
  """
  middle = tf.cast(window["start"] + span(data) / 2, tf.float32)
  distance = tf.maximum(0.0, tf.maximum(window["captions/start"] - middle,
                                        middle - window["captions/end"]))
  return tf.gather(
      window["captions/text"], tf.argsort(distance, stable=True))
