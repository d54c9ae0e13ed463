"""SequenceExamples in the form of DMVR, as data sets of MMV and scenic are.

A record is a clip. Of its keys are read, in the context or as lists of
features, as writers differ in that:

  image/encoded               frames, encoded images
  image/timestamp             their times in microseconds
  image/frame_rate            frames a second
  WAVEFORM/feature/floats     sound, samples in [-1, 1], of one channel
  WAVEFORM/feature/sample_rate  samples a second
  caption/string              captions, without times
  clip/label/index            numbers of classes
  clip/label/text             names of classes
  clip/data_path, clip/key or video/filename   what the clip is called
  clip/start/timestamp        where it starts in its file, in microseconds

DMVR itself knows no rates, and its script writes none (of frames it makes 10
a second, of samples 48,000): then the name of the data set says them.
"""
import os

import tensorflow as tf
from absl import logging
from google.protobuf.message import DecodeError

from vatt import files as files_lib
from vatt.data import audio, names, record_index
from vatt.errors import UserError, one_line

FIELDS = {"fps": float, "audio_rate": int, "labels": str}
FRAMES, TIMES, FRAME_RATE = (
    "image/encoded", "image/timestamp", "image/frame_rate")
SOUND, SAMPLE_RATE, CHANNELS = (
    f"WAVEFORM/feature/{key}" for key in (
        "floats", "sample_rate", "num_channels"))
CAPTIONS = "caption/string"
LABEL, LABEL_TEXT = "clip/label/index", "clip/label/text"
IDS = ("clip/data_path", "clip/key", "video/filename")  # the first that is
START = "clip/start/timestamp"
STRINGS = (FRAMES, CAPTIONS, LABEL_TEXT, *IDS)
INTEGERS = (TIMES, LABEL, START)
OTHERS = (".json", ".txt")  # what lies beside records and is none
LIST = ".txt"  # how the name of a list of files ends
LOOKED_AT = 10  # records, for what they have
SAME_RATE = 0.01  # by how much two rates of the same frames may differ
FASTEST = 1000  # frames a second, of which times of another unit make more
MICROSECONDS = 2e-6  # that two times of whole ones may be off


def open_files(name: str, rest: str, split: str) -> record_index.Opened:
  """Opens files of SequenceExamples.

  Args:
    name: of the data set.
    rest: "GLOB?fps=10&audio_rate=48000&labels=FILE", its name without the kind.
      A GLOB that ends in ".txt" is a file with the paths or addresses of the
      files, a line each. "{split}" in it becomes the split. The fields say what
      records do not: frames a second; samples a second, where 0 leaves the
      sound out; the names of the classes, a line each. A rate that records have
      is theirs if the name says none.
    split: its name, or several as "fold1+fold2".

  Returns:
    RecordIndex; the parser of `sources.Source`; the names of the classes, or
    (); the folder of the files. Where classes have names, a record's number and
    name of a class must agree; a name alone is turned into its number.

  Raises:
    UserError: there is no such file, or the name of the data set is not as it
      should be.
  """
  pattern, _, query = rest.partition("?")
  options = names.read_query(name, query, FIELDS)
  if options.get("fps") == 0:
    raise UserError(f"{name}: fps is 0, expected frames a second")
  classes = _read_labels(options["labels"]) if "labels" in options else ()
  files = set()
  for part in split.split("+"):
    path = os.path.expanduser(pattern.replace("{split}", part))
    files |= set(_find(name, path))
  index = record_index.load(sorted(files))
  rates = [key for field, key in (("fps", FRAME_RATE),
                                  ("audio_rate", SAMPLE_RATE))
           if field not in options]
  examples = list(_first_examples(
      index, rates, with_sound=options.get("audio_rate") != 0))
  _tell_what_does_not_fit(name, examples, options)
  parse = _parser(options.get("fps", 0.0), options.get("audio_rate", -1),
                  classes, _types(examples, rates))
  return index, parse, classes, os.path.dirname(path) or "."


def _find(name, path):
  """The files that a path is, matches or lists."""
  if path.endswith(LIST):
    return _read_list(path)
  if not files_lib.is_listed(path):
    if set(path) & set("*[]"):
      raise UserError(f"{name}: {path} is on the web, where nothing can be "
                      f"looked for; expected a list of files, FILE{LIST}")
    return [path]
  try:
    # A file of that name comes first: it may have brackets.
    found = [path] if tf.io.gfile.exists(path) else [
        f for f in tf.io.gfile.glob(path) if not f.endswith(OTHERS)]
  except tf.errors.OpError as error:  # of a remote file system
    raise UserError(f"{name}: {path} cannot be looked for "
                    f"({one_line(error)})") from None
  if not found:
    why = files_lib.failure(os.path.dirname(path))
    raise UserError(f"{name}: no file matches {path}{why and f' ({why})'}")
  return found


def _read_list(path):
  """The files of a list, by their paths or addresses, a line each; from the
  list's folder, if they are not whole ones."""
  try:
    lines = tf.io.read_file(path).numpy().decode("utf-8-sig").splitlines()
  except (UnicodeDecodeError, tf.errors.OpError) as error:
    raise UserError(f"{path}: cannot be read ({one_line(error)}), expected the "
                    "path or the address of a file in each line") from None
  found = [os.path.expanduser(line.strip()) for line in lines if line.strip()]
  if not found:
    raise UserError(f"{path}: empty, expected the path or the address of a file"
                    " in each line")
  files_lib.know(" ".join(found))
  return [line if "://" in line else os.path.join(os.path.dirname(path), line)
          for line in found]


def _read_labels(path):
  path = os.path.expanduser(path)
  classes = names.read_classes(path)
  first = {}
  for i, each in enumerate(classes):
    if first.setdefault(each, i) != i:
      raise UserError(f"{path}: line {i + 1} is '{each}' as line "
                      f"{first[each] + 1}, expected another class in each")
  return classes


def _first_examples(index, rates, with_sound):
  """Of the first records those that can be read, as (place, example), without
  their frames and sound, which may be large; up to one that has had what is
  looked for: each of the rates, and sound if so."""
  for i in range(min(len(index), LOOKED_AT)):
    try:
      example = tf.train.SequenceExample.FromString(
          record_index.read_one(index, i).numpy())
    except (tf.errors.OpError, DecodeError):  # damaged; no example
      continue
    has_sound = any(len(part.float_list.value) for part in _parts(
        example, SOUND))
    for key in (FRAMES, SOUND):
      example.context.feature.pop(key, None)
      example.feature_lists.feature_list.pop(key, None)
    yield "{} at byte {}".format(*index.place(i)), example
    if (has_sound or not with_sound) and all(
        _numbers(example, key) for key in rates):
      break


def _numbers(example, key):
  """What a SequenceExample has of a key, whichever numbers they are."""
  return [value for part in _parts(example, key)
          for kind in ("int64_list", "float_list")
          for value in getattr(part, kind).value]


def _parts(example, key):
  return [example.context.feature[key],
          *example.feature_lists.feature_list[key].feature]


def _tell_what_does_not_fit(name, examples, options):
  """Compares examples with what the name of their data set says.

  Raises:
    UserError: the sound of one has several channels.
  """
  for place, example in examples:  # the first may be without sound
    channels = _numbers(example, CHANNELS)
    if options.get("audio_rate") != 0 and channels and channels[0] != 1:
      raise UserError(f"{place}: {CHANNELS} is {channels[0]:g}, expected 1; "
                      "?audio_rate=0 leaves the sound out")
  if not examples:
    return
  place, example = examples[0]
  if (LABEL_TEXT in example.context.feature and "labels" not in options
      and not _numbers(example, LABEL)):
    logging.warning("%s: %s has %s, but no %s: there are labels only with the "
                    "names of all classes, a line each, by ?labels=FILE", name,
                    place, LABEL_TEXT, LABEL)
  found = {"fps": _numbers(example, FRAME_RATE),
           "audio_rate": _numbers(example, SAMPLE_RATE)}
  times = _numbers(example, TIMES)
  if len(times) > 1 and times[-1] > times[0]:
    found["fps"] = [(len(times) - 1) * 1e6 / (times[-1] - times[0])]
    if "fps" not in options and found["fps"][0] > FASTEST:
      logging.warning(
          "%s: by %s, %s has %.4g frames a second, expected microseconds, or "
          "?fps=NUMBER", name, TIMES, place, found["fps"][0])
  for field, rates in found.items():
    said = options.get(field)
    if said and rates and abs(rates[0] / said - 1) > SAME_RATE:
      logging.warning("%s: %s=%g is taken, but %s has %.4g", name, field, said,
                      place, rates[0])


def _types(examples, keys):
  """The type that records have each of some numbers in, as writers differ:
  tf.int64 or tf.float32."""
  types = dict.fromkeys(keys)
  for _, example in examples:
    for key in keys:
      for value in _numbers(example, key)[:1]:
        types[key] = tf.int64 if isinstance(value, int) else tf.float32
  return {key: each or tf.float32 for key, each in types.items()}


def _parser(fps, audio_rate, classes, types):
  """As `open_files` says.

  Args:
    fps, audio_rate: of the name; 0 and -1 if it does not say them.
    classes: their names.
    types: of those rates that records say.
  """
  kinds = types | dict.fromkeys(STRINGS, tf.string) | dict.fromkeys(
      INTEGERS, tf.int64) | {SOUND: tf.float32}
  if fps:
    del kinds[TIMES]  # of whatever form
  features = {key: tf.io.VarLenFeature(kind) for key, kind in kinds.items()}

  def parse(raw):
    context, lists = tf.io.parse_single_sequence_example(
        raw, features, features)
    # One of them is empty.
    stored = {key: tf.concat([context[key].values, lists[key].values], 0)
              for key in features}

    def number(key):
      """The first one, or 0: float32 []."""
      return tf.reduce_sum(tf.cast(stored[key][:1], tf.float32))

    frames, rate = stored[FRAMES], tf.constant(fps, tf.float32)
    if not fps:
      frames, rate = _at_even_times(frames, stored[TIMES], number(FRAME_RATE))
    sound, sample_rate = stored[SOUND], tf.constant(audio_rate, tf.int32)
    if not audio_rate:
      sound = sound[:0]
    elif audio_rate < 0:
      sample_rate = tf.cast(tf.round(number(SAMPLE_RATE)), tf.int32)
    captions = stored[CAPTIONS]
    with tf.control_dependencies([
        tf.debugging.Assert((tf.size(signal) == 0) | (known > 0), [
            f"it has {what}, but no {keys}, expected that or ?{field}=NUMBER"])
        for signal, known, what, keys, field in (
            (frames, rate, "frames", f"{TIMES} or {FRAME_RATE}", "fps"),
            (sound, sample_rate, "sound", SAMPLE_RATE, "audio_rate"))]):
      return {
          "frames": tf.identity(frames),
          "fps": rate,
          "audio": audio.from_floats(sound),
          "audio_rate": sample_rate,
          "captions/text": captions,
          "captions/start": tf.zeros_like(captions, tf.float32),
          "captions/end": tf.zeros_like(captions, tf.float32),
          "label": _labels(stored[LABEL], stored[LABEL_TEXT], classes),
          "id": tf.strings.reduce_join(
              tf.concat([stored[key][:1] for key in IDS], 0)[:1]),
          "start": number(START) * 1e-6,
      }

  return parse


def _at_even_times(frames, times, rate):
  """The frames nearest to even times, as many as there are.

  Args:
    frames: string [F].
    times: int64 [F], microseconds; or none.
    rate: float32 [], frames a second that are told otherwise, or 0: taken
      without times, and for a frame alone.

  Returns:
    Frames, string [F], and how many there are a second, float32 []; 0 if
    nothing tells it.
  """
  count = tf.size(frames)
  with tf.control_dependencies([
      tf.debugging.Assert(
          tf.size(times) == tf.where(tf.size(times) > 0, count, 0),
          [tf.strings.join([
              TIMES, " has ", tf.as_string(tf.size(times)), " times of ",
              tf.as_string(count), " frames"])]),
      tf.debugging.Assert(
          tf.reduce_all(times[1:] > times[:-1]),
          [f"{TIMES} does not increase, expected microseconds or ?fps=NUMBER"])
  ]):
    seconds = tf.cast(times - tf.concat([times, [0]], 0)[0], tf.float64) * 1e-6

  def nearest():
    steps = tf.cast(count - 1, tf.float64)
    fps = steps / seconds[-1]
    whole = tf.round(fps)  # if it is one, as near as microseconds tell
    fps = tf.where(
        tf.abs(steps / whole - seconds[-1]) < MICROSECONDS, whole, fps)
    wanted = tf.range(count, dtype=tf.float64) / fps
    # Of two as near ones the later one: 1e-9 for rounding.
    taken = tf.searchsorted(
        (seconds[1:] + seconds[:-1]) / 2, wanted + 1e-9)
    return tf.gather(frames, taken), tf.cast(fps, tf.float32)

  one = tf.where((count == 1) & (rate == 0), 1.0, rate)  # stands still
  return tf.cond(tf.size(times) > 1, nearest, lambda: (frames, one))


def _labels(numbers, texts, classes):
  """The numbers of a record's classes, int64 [L].

  Args:
    numbers: int64 [L], or none.
    texts: string [L], or none.
    classes: names in the order of their numbers; without them texts say
      nothing.

  Raises:
    tf.errors.InvalidArgumentError: a text is no name, or not that of the
      number.
  """
  if not classes:
    return numbers
  # [L, 1] and [C] -> [L, C]
  same = tf.equal(texts[:, None], tf.constant([c.encode() for c in classes]))
  named = tf.argmax(same, 1)
  unknown = tf.boolean_mask(texts, ~tf.reduce_any(same, 1))
  # As many of both may be there, or of one alone.
  both = (tf.size(numbers) > 0) & (tf.size(texts) > 0)
  fits = ~both | (tf.size(numbers) == tf.size(texts)) & tf.reduce_all(
      tf.equal(numbers[:tf.size(texts)], named[:tf.size(numbers)]))
  with tf.control_dependencies([
      tf.debugging.Assert(tf.size(unknown) == 0, [tf.strings.join([
          LABEL_TEXT, " is '", tf.strings.reduce_join(unknown[:1]),
          f"', expected one of the {len(classes)} classes of ?labels="])]),
      tf.debugging.Assert(fits, [tf.strings.join([
          LABEL, " is ", tf.strings.reduce_join(
              tf.as_string(numbers), separator=","),
          " and ", LABEL_TEXT, " '", tf.strings.reduce_join(
              texts, separator="','"),
          "', which by ?labels= is ", tf.strings.reduce_join(
              tf.as_string(named), separator=",")])])]):
    return tf.cond(tf.size(numbers) > 0, lambda: numbers, lambda: named)
