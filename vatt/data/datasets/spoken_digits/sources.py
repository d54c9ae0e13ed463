"""Reads what spoken_digits is built from: recordings and images of digits."""
import functools
import io
import re
import urllib.request
import warnings
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from scipy.io import wavfile

from vatt import stopping
from vatt.data import levels
from vatt.data.ingest.shards import Rejected
from vatt.errors import UserError, one_line
from vatt.files import write_whole

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight",
         "nine")
# A file that tfds downloads for each of the two.
TFDS_FILES = {
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist/"
             "train-labels-idx1-ubyte.gz",
    "spoken_digit": "https://github.com/Jakobovski/free-spoken-digit-dataset/"
                    "archive/v1.0.9.tar.gz",
}


class Recording(NamedTuple):
  """A recording of one person saying one digit."""
  file: str  # relative to the manual_dir
  digit: int
  speaker: str
  take: int
  crc: int

  @property
  def name(self) -> str:
    return f"{self.digit}_{self.speaker}_{self.take}"


def list_recordings(manual_dir: str
                    ) -> tuple[list[Recording], list[tuple[str, str, str]]]:
  """Finds the recordings and reads each once, to know that it can be read.

  Args:
    manual_dir: folder with `recordings.zip` or `recordings/`.

  Returns:
    The recordings, and (id, file, reason) of those of no use.

  Raises:
    UserError: if there are none, or they cannot be read.
  """
  archive = f"{manual_dir}/recordings.zip"
  folder = f"{manual_dir}/recordings"
  try:
    if tf.io.gfile.exists(archive):
      files = [f"recordings.zip/{name}"
               for name in _open_zip(archive).namelist()
               if not name.endswith("/")]
    elif tf.io.gfile.isdir(folder):
      files = [f"{parent}/{name}"[len(manual_dir) + 1:]
               for parent, _, names in tf.io.gfile.walk(folder)
               for name in names]
    else:
      raise UserError(
          f"--manual_dir={manual_dir}: no recordings.zip and no folder "
          "recordings in it; expected {digit}_{speaker}_{take}.wav in either")
  except (zipfile.BadZipFile, OSError, tf.errors.OpError) as error:
    raise UserError(f"--manual_dir={manual_dir}: its recordings cannot be "
                    f"listed: {one_line(error)}") from error
  recordings, rejected, seen = [], [], {}
  for file in sorted(files):
    stopping.check()
    name = file.rsplit("/", 1)[-1]
    if not name.lower().endswith(".wav"):
      continue  # a licence, a readme
    try:
      match = re.fullmatch(r"(\d+)_(.+)_(\d+)\.wav", name, re.IGNORECASE)
      if not match:
        raise Rejected("the name is not {digit}_{speaker}_{take}.wav")
      digit, take = int(match[1]), int(match[3])
      if digit >= len(WORDS):
        raise Rejected(f"the digit is {digit}, expected 0 to 9")
      data = read_file(manual_dir, file)
      recording = Recording(file, digit, match[2], take, zlib.crc32(data))
      if recording.name in seen:
        raise Rejected(f"the same name as {seen[recording.name]}")
      read_wav(data)
    except (Rejected, OSError, tf.errors.OpError) as reason:
      rejected.append((name.rsplit(".", 1)[0], file, one_line(reason)))
    else:
      seen[recording.name] = file
      recordings.append(recording)
  if not recordings:
    first = [f"; the first: {file}: {reason}" for _, file, reason in rejected]
    raise UserError(f"--manual_dir={manual_dir}: no usable recording among "
                    f"{len(rejected)} wav files" + "".join(first[:1]))
  return recordings, rejected


@functools.lru_cache(maxsize=1)
def _open_zip(path):
  return zipfile.ZipFile(tf.io.gfile.GFile(path, "rb"))


def read_file(manual_dir: str, file: str) -> bytes:
  """Reads a recording's file.

  Args:
    manual_dir: folder of the sources.
    file: its path, relative to the manual_dir or in `recordings.zip`.

  Raises:
    Rejected: if the archive has it damaged.
  """
  container, _, name = file.partition("/")
  if container.endswith(".zip"):
    try:
      return _open_zip(f"{manual_dir}/{container}").read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError,
            NotImplementedError) as error:  # damaged, encrypted, unknown method
      raise Rejected(f"damaged in the archive: {one_line(error)}") from error
  with tf.io.gfile.GFile(f"{manual_dir}/{file}", "rb") as stream:
    return stream.read()


def read_wav(data: bytes) -> tuple[np.ndarray, int]:
  """Decodes a WAV file of any width and number of channels to 16-bit mono.

  Args:
    data: the file.

  Returns:
    int16 [S], and the sample rate in Hz. 16-bit mono comes out as it went in.

  Raises:
    Rejected: if it is no whole WAV file with sound in it, or float samples are
      far outside [-1, 1].
  """
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
      rate, samples = wavfile.read(io.BytesIO(data))
    except Exception as error:  # damaged files raise nearly anything
      raise Rejected(f"not a readable WAV file: {one_line(error)}") from error
  if any("Reached EOF" in str(warning.message) for warning in caught):
    raise Rejected("cut off: shorter than its header says")
  if not samples.size or rate <= 0:
    raise Rejected(f"no sound: {samples.shape[0]} samples at {rate} Hz")
  if samples.dtype != np.int16 or samples.ndim > 1:
    if not np.isfinite(samples).all():
      raise Rejected("samples that are not finite")
    if samples.dtype == np.uint8:
      scaled = (samples.astype(np.float64) - 128) * 2 ** 8
    elif samples.dtype.kind == "f":
      if np.abs(samples).max() > levels.LOUDEST:
        raise Rejected(levels.refusal(samples.min(), samples.max()))
      scaled = samples.astype(np.float64) * 2 ** 15
    else:  # wavfile sets narrow samples at the upper end of their integers
      scaled = samples / 2.0 ** (8 * samples.dtype.itemsize - 16)
    scaled = scaled.reshape(len(scaled), -1).mean(axis=1)
    samples = np.clip(np.rint(scaled), -2 ** 15, 2 ** 15 - 1)
  return samples.astype(np.int16), int(rate)


def load_images(manual_dir: str) -> tuple[np.ndarray, np.ndarray]:
  """Reads `images.npz`.

  Args:
    manual_dir: folder of the sources.

  Returns:
    The images, uint8 [N, H, W], and their labels, int64 [N].

  Raises:
    UserError: if it is missing or of another form.
  """
  path = f"{manual_dir}/images.npz"
  try:
    with tf.io.gfile.GFile(path, "rb") as file:
      arrays = np.load(io.BytesIO(file.read()), allow_pickle=False)
    images, labels = arrays["image"], arrays["label"]
  except tf.errors.OpError as error:
    raise UserError(f"{path}: cannot be read: expected `image` uint8 [N,H,W] "
                    "and `label` [N] there") from error
  except Exception as error:  # a damaged archive raises nearly anything
    raise UserError(f"{path}: not a readable npz file with `image` and "
                    f"`label`: {one_line(error)}") from error
  if images.dtype != np.uint8 or images.ndim != 3 or not images.size:
    raise UserError(f"{path}: field image is {images.dtype} "
                    f"{list(images.shape)}, expected uint8 [N,H,W]")
  if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
    raise UserError(f"{path}: field label is {labels.dtype} "
                    f"{list(labels.shape)}, expected integers "
                    f"[{len(images)}], one for each image")
  labels = labels.astype(np.int64)
  if labels.min() < 0 or labels.max() >= len(WORDS):
    raise UserError(f"{path}: field label has values from {labels.min()} to "
                    f"{labels.max()}, expected 0 to 9")
  return images, labels


def export_tfds(data_dir: str) -> str:
  """Writes tfds' `mnist` and `spoken_digit` in the form of a manual_dir.

  All recordings and the first 8000 training images. The downloading has not
  been run where this was written, for want of a connection; the rest has.

  Args:
    data_dir: folder of the built datasets; tfds' two are taken from it or from
      tfds' own folder, or downloaded to it.

  Returns:
    The folder: `<data_dir>/downloads/spoken_digits_sources`.

  Raises:
    UserError: if tfds cannot reach them.
  """
  folder = f"{data_dir}/downloads/spoken_digits_sources"
  if tf.io.gfile.exists(f"{folder}/images.npz"):
    return folder
  try:
    digits = _prepared("mnist", data_dir).as_dataset(split="train")
    voices = _prepared("spoken_digit", data_dir).as_dataset(split="train")
  except Exception as error:  # of many kinds: requests, TensorFlow, tfds
    raise UserError(
        "tfds' mnist and spoken_digit are neither prepared nor can they be "
        f"downloaded ({type(error).__name__}); give --manual_dir=DIR with "
        "recordings.zip and images.npz") from error
  tf.io.gfile.makedirs(f"{folder}/recordings")
  for voice in voices.as_numpy_iterator():
    stopping.check()
    buffer = io.BytesIO()
    wavfile.write(buffer, 8000, voice["audio"].astype(np.int16))
    name = voice["audio/filename"].decode()
    write_whole(f"{folder}/recordings/{name}", buffer.getvalue())
  images, labels = zip(*((digit["image"][..., 0], digit["label"])
                         for digit in digits.take(8000).as_numpy_iterator()))
  buffer = io.BytesIO()
  np.savez_compressed(buffer, image=np.stack(images), label=np.array(labels))
  # The last file: it says that the folder is complete.
  write_whole(f"{folder}/images.npz", buffer.getvalue())
  return folder


def _prepared(name, data_dir):
  """A dataset of tfds, from the folders where it may be or downloaded."""
  for place in (data_dir, None):
    builder = tfds.builder(name, data_dir=place)
    if builder.data_path.exists():
      return builder
  # tfds would try for minutes to reach a host that cannot be reached.
  request = urllib.request.Request(TFDS_FILES[name], method="HEAD")
  urllib.request.urlopen(request, timeout=20).close()
  builder = tfds.builder(name, data_dir=data_dir)
  builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(try_download_gcs=False))
  return builder
