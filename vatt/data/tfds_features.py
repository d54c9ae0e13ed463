"""What tensorflow-datasets says of its features: which of them are read.

Of a data set that it has prepared, features.json names the type of every
feature. A clip is made of the only Video (or sequence of Images) there is, else
of the only Image, which stands still; of the only Audio; and of the only
ClassLabel. Of several it is the one that is called so, as "image" or "label";
else the name of the data set says which: "tfds:NAME?video=front". A Text may be
anything, a file's name even: it is a caption only where "?caption=text" says
so.
"""
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from vatt.data import audio
from vatt.errors import UserError

FIELDS = {"fps": float, "audio_rate": int, "video": str, "image": str,
          "audio": str, "label": str, "caption": str}
STRINGS = tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True)
INTEGERS = tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)
FLOATS = tf.io.FixedLenSequenceFeature([], tf.float32, allow_missing=True)


class Feature(NamedTuple):
  """A feature of a data set.

  Attributes:
    key: such as "captions/text".
    kind: a key of FIELDS: video, image, audio, label or caption.
    content: what features.json says of it.
  """
  key: str
  kind: str
  content: Mapping[str, Any]


def flatten(features: Mapping[str, Any], prefix: str = "", listed: bool = False
            ) -> Iterator[Feature]:
  """The features that a clip can be made of, of those of features.json.

  Args:
    features: by their names, in a dict or in a sequence of such.
    prefix: of their keys.
    listed: whether a record has a list of each.
  """
  for name, value in features.items():
    key = prefix + name
    one, many = value, listed
    if "sequence" in one and not many:
      one, many = one["sequence"]["feature"], True
    if "featuresDict" in one:
      yield from flatten(one["featuresDict"]["features"], f"{key}/", many)
    elif "video" in one and not many:
      yield Feature(key, "video", one["video"])
    elif "image" in one and _is_picture(one["image"]):
      yield Feature(key, "video" if many else "image", one["image"])
    elif "audio" in one and not many:
      yield Feature(key, "audio", one["audio"])
    elif "classLabel" in one:
      yield Feature(key, "label", one["classLabel"])
    elif "text" in one:
      yield Feature(key, "caption", one["text"])


def _is_picture(content):
  """Whether an Image is one to look at: not labels of pixels, nor float32 such
  as depths, whose bytes are kept as those of four channels."""
  return "label" not in content and not tf.as_dtype(
      content.get("dtype") or "uint8").is_floating


def choose(name: str, features: list[Feature], options: Mapping[str, Any]
           ) -> dict[str, Feature]:
  """The features that are read, by their kinds.

  Args:
    name: of the data set.
    features: it has.
    options: fields of its name.

  Raises:
    UserError: one that the name says is not there, it does not say which of
      several, or there is nothing to see or to hear.
  """
  chosen = {}
  for kind in ("video", "image", "audio", "label", "caption"):
    these = {each.key: each for each in features if each.kind == kind}
    if kind in options:
      these = {key: each for key, each in these.items()
               if key == options[kind]}
      if not these:
        raise UserError(f"{name}: no {kind} '{options[kind]}', expected one of "
                        + _listing(features, kind))
    elif kind == "caption" or kind == "image" and "video" in chosen or (
        kind == "video" and "image" in options):
      continue
    elif kind in these:  # which is its name, too
      these = {kind: these[kind]}
    if len(these) > 1:
      raise UserError(f"{name}: several features are {kind}, expected which in "
                      f"the name: ?{kind}= one of {_listing(features, kind)}")
    chosen |= zip([kind], these.values())
  if not chosen.keys() & {"video", "image", "audio"}:
    raise UserError(f"{name}: no feature is a Video, an Audio or an Image, "
                    "expected one at least")
  return chosen


def _listing(features, kind):
  return ", ".join(
      f.key for f in features if f.kind == kind) or "none, as there is none"


def classes(chosen: Mapping[str, Feature]) -> tuple[str, int]:
  """Which file has the names of the classes, and how many these are.

  Args:
    chosen: what `choose` returns.

  Returns:
    The name of the file up to ".labels.txt"; the number, or 0.
  """
  if "label" not in chosen:
    return "", 0
  key, _, content = chosen["label"]
  return key.replace("/", "-"), int(content.get("numClasses", 0))


def make_parser(name: str, chosen: Mapping[str, Feature],
                options: Mapping[str, Any]
                ) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
  """Makes the parser of `sources.Source`.

  Args:
    name: of the data set.
    chosen: what `choose` returns.
    options: fields of the name: fps, the frames a second, which tensorflow-
      datasets does not know; audio_rate, where it does not know that, or 0 to
      leave the sound out.

  Raises:
    UserError: the sound is kept as nothing that is read here, or its rate is
      another one.
  """
  spec = {kind: {"video": STRINGS, "caption": STRINGS, "label": INTEGERS,
                 "image": tf.io.FixedLenFeature([], tf.string)}.get(kind)
          for kind in chosen}
  rate, channels = options.get("audio_rate"), 1
  if rate == 0:
    spec.pop("audio", None)
  if "audio" in spec:
    spec["audio"], channels, known = _sound(name, chosen["audio"])
    if known and rate not in (None, known):
      raise UserError(f"{name}: audio_rate is {rate}, expected the {known} of "
                      f"its feature {chosen['audio'].key}, or none")
    rate = known or rate
  fps = options.get("fps", 0.0) if "video" in chosen else 1.0

  def parse(raw):
    stored = tf.io.parse_single_example(raw, {
        chosen[kind].key: feature for kind, feature in spec.items()})
    stored = {kind: stored[chosen[kind].key] for kind in spec}
    no_strings = tf.zeros([0], tf.string)
    captions = stored.get("caption", no_strings)
    return {
        "frames": (stored["image"][None] if "image" in stored
                   else stored.get("video", no_strings)),
        "fps": tf.constant(fps),
        "audio": (_samples(stored["audio"], channels) if "audio" in stored
                  else tf.constant("")),
        "audio_rate": tf.constant(rate or 0),
        "captions/text": captions,
        "captions/start": tf.zeros_like(captions, tf.float32),
        "captions/end": tf.zeros_like(captions, tf.float32),
        "label": stored.get("label", tf.zeros([0], tf.int64)),
        "id": tf.constant(""),
        "start": tf.constant(0.0),
    }

  return parse


def _sound(name, feature):
  """How an Audio is stored: its spec, its channels, and its rate or 0."""
  content = feature.content
  shape = content.get("shape", {}).get("dimensions", ["-1"])
  channels = int(shape[1]) if len(shape) > 1 else 1
  dtype = tf.as_dtype(content.get("dtype", "int64"))
  what = ""
  if content.get("lazyDecode"):
    spec = tf.io.FixedLenFeature([], tf.string)
    if content.get("fileFormat") != "flac":
      what = f"in files of {content.get('fileFormat', 'any form')}"
  else:
    spec = INTEGERS if dtype.is_integer else FLOATS
    if content.get("encoding", "NONE").upper() != "NONE":
      what = f"with the encoding {content['encoding']}"
    elif channels < 1:
      what = "with any number of channels"
    elif not (dtype.is_integer or dtype == tf.float32):
      what = f"as {dtype.name}"
  if what:
    raise UserError(
        f"{name}: the sound {feature.key} is kept {what}, expected FLAC, or "
        "samples as integers or float32; ?audio_rate=0 leaves it out")
  return spec, channels, int(content.get("sampleRate", 0))


def _samples(stored, channels):
  """Sound in the form of `sources.Source`.

  Args:
    stored: string [], FLAC; or the samples, [S · channels], float32 in [-1, 1]
      or int64 of 16 bits.
    channels: that are averaged.
  """
  if stored.dtype == tf.string:
    return stored
  if stored.dtype == tf.int64:
    low, high = (f(tf.concat([stored, [0]], 0))
                 for f in (tf.reduce_min, tf.reduce_max))
    with tf.control_dependencies([tf.debugging.Assert(
        (low >= tf.int16.min) & (high <= tf.int16.max), [tf.strings.join([
            "samples from ", tf.as_string(low), " to ", tf.as_string(high),
            ", expected 16 bits"])])]):
      # Exact: 16 bits of the 24 that a float32 has.
      stored = tf.cast(stored, tf.float32) / 32768
  if channels > 1:
    # [S · C] -> [S, C] -> [S]
    stored = tf.reduce_mean(tf.reshape(stored, [-1, channels]), 1)
  return audio.from_floats(stored)
