"""Media, recordings and digits that the tests make for themselves."""
import io
import pathlib
import subprocess
import zipfile
from fractions import Fraction

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import sklearn.datasets
from scipy.io import wavfile


def spoken(digit, speaker, take, rate=8000):
  """A vowel-like sound: pulses at the speaker's pitch through two resonances
  of the digit's; int16 [S]."""
  chance = np.random.default_rng([digit, len(speaker), take])
  samples = int(rate * chance.uniform(0.2, 0.35))
  pitch = 90 + 25 * len(speaker) + 2 * take
  pulses = (np.arange(samples) % (rate // pitch) == 0).astype(float)
  for formant in (300 + 60 * digit, 2400 - 150 * digit):
    b, a = scipy.signal.iirpeak(formant, Q=8, fs=rate)
    pulses = pulses + 3 * scipy.signal.lfilter(b, a, pulses)
  pulses += 0.01 * chance.normal(size=samples)
  return np.int16(20000 * pulses / np.abs(pulses).max())


def wav(samples, rate=8000):
  """The bytes of a WAV file."""
  buffer = io.BytesIO()
  wavfile.write(buffer, rate, samples)
  return buffer.getvalue()


def handwritten(digits, each, side):
  """Real handwritten digits from scikit-learn, enlarged from 8x8.

  Returns:
    uint8 [N, side, side] and uint8 [N], the digits in turn.
  """
  data = sklearn.datasets.load_digits()
  chosen = np.stack([np.flatnonzero(data.target == d)[:each] for d in digits],
                    axis=1).ravel()
  images = [scipy.ndimage.zoom(image, side / 8, order=1).clip(0, 16) * 15.9
            for image in data.images[chosen]]
  return np.uint8(images), np.uint8(data.target[chosen])


def write_sources(folder, *, speakers=("ann", "bo_b"), digits=(0, 3, 8),
                  takes=range(7), each=40, side=16, rate=8000, extra=None,
                  zipped=True):
  """Writes a manual_dir of spoken_digits: real WAV files and real digits.

  Args:
    folder: where to.
    speakers, digits, takes: of the recordings, all their combinations.
    each: images of each digit.
    side: size of an image.
    rate: of the recordings.
    extra: file name to bytes of further files among the recordings.
    zipped: recordings.zip, or else a folder of files.

  Returns:
    The folder as a string, and dict of file name to the samples in it.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  sounds = {f"{d}_{s}_{t}.wav": spoken(d, s, t, rate)
            for d in digits for s in speakers for t in takes}
  files = {name: wav(samples, rate) for name, samples in sounds.items()}
  files |= extra or {}
  if zipped:
    with zipfile.ZipFile(folder / "recordings.zip", "w") as archive:
      for name, data in files.items():
        archive.writestr(name, data)
  else:
    (folder / "recordings").mkdir(exist_ok=True)
    for name, data in files.items():
      (folder / "recordings" / name).write_bytes(data)
  images, labels = handwritten(digits, each, side)
  np.savez(folder / "images.npz", image=images, label=labels)
  return str(folder), sounds


def numbered(i, width=160, height=48):
  """A picture that tells its number, whatever becomes of it: 8 bars, a bit
  each; uint8 [H, W, 3]."""
  bits = [255 * (i >> b & 1) for b in range(8)]
  row = np.repeat(bits, np.diff(np.linspace(0, width, 9).astype(int)))
  return np.uint8(np.broadcast_to(row[None, :, None], (height, width, 3)))


def number_of(picture):
  """The number in a picture of `numbered`."""
  height, width, _ = picture.shape
  return sum(int(picture[height // 2, int((b + 0.5) * width / 8), 1] > 127) << b
             for b in range(8))


def clicks(times, seconds, rate=48000):
  """Silence with a click of 2 ms at each time; float32 [1, S]."""
  sound = np.zeros((1, int(seconds * rate)), np.float32)
  for time in times:
    sound[0, int(time * rate):int((time + 0.002) * rate)] = 0.9
  return sound


def write_media(path, pictures=(), sound=None, *, rate=25, times=None,
                video="libx264", audio="aac", audio_rate=48000, layout="mono",
                sound_start=0.0, aspect=None, gop=12, b_frames=0):
  """Encodes a media file.

  Args:
    path: its suffix tells the container.
    pictures: list of uint8 [H, W, 3].
    sound: None or float32 [C, S] in -1 ... 1.
    rate: pictures a second, where `times` does not have each one's seconds.
    video, audio: encoders.
    layout: of the C channels.
    sound_start: seconds.
    aspect: of a pixel, width by height.
    gop: pictures from a key frame to the next.
    b_frames: of libx264, at most, between two others.

  Returns:
    The path as a string.
  """
  import av
  with av.open(str(path), "w") as container:
    packets = []
    if len(pictures):
      stream = container.add_stream(
          video, rate=rate, options={
              "preset": "ultrafast", "bf": str(b_frames)} if (
                  video == "libx264") else {})
      stream.height, stream.width, _ = pictures[0].shape
      odd = stream.height % 2 or stream.width % 2
      stream.pix_fmt = {"png": "rgb24"}.get(
          video, "yuv444p" if odd else "yuv420p")
      stream.codec_context.gop_size = gop
      if aspect:
        stream.codec_context.sample_aspect_ratio = aspect
      if times is not None:
        stream.codec_context.time_base = Fraction(1, 1000)
    if sound is not None:
      track = container.add_stream(audio, rate=audio_rate, layout=layout)
    for i, picture in enumerate(pictures):
      frame = av.VideoFrame.from_ndarray(picture, "rgb24")
      frame.pts = i if times is None else round(times[i] * 1000)
      frame.time_base = (Fraction(1, rate) if times is None
                         else Fraction(1, 1000))
      packets += stream.encode(frame)
    if sound is not None:
      frame = av.AudioFrame.from_ndarray(sound, "fltp", layout)
      frame.sample_rate = audio_rate
      frame.time_base = Fraction(1, audio_rate)
      frame.pts = round(sound_start * audio_rate)
      resampler = av.AudioResampler(
          track.format, layout, audio_rate,
          frame_size=track.codec_context.frame_size or 1024)
      for part in resampler.resample(frame) + resampler.resample(None):
        packets += track.encode(part)
      packets += track.encode(None)
    if len(pictures):
      packets += stream.encode(None)
    for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
      container.mux(packet)
  return str(path)


@pytest.fixture(scope="session")
def media():
  """The functions of this file: `media.write_sources(...)`."""
  import types
  return types.SimpleNamespace(
      spoken=spoken, wav=wav, handwritten=handwritten,
      write_sources=write_sources, numbered=numbered, number_of=number_of,
      clicks=clicks, write_media=write_media)


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory, python):
  """data_dir of spoken_digits/official with its vocabulary, built by the
  scripts: 3 digits, 2 speakers, 105 clips to train and 30 to test."""
  folder = tmp_path_factory.mktemp("digits")
  manual_dir, _ = write_sources(folder / "manual")
  for script, flags in (("prepare_dataset", [f"--manual_dir={manual_dir}"]),
                        ("build_vocabulary", [])):
    python.run(
        f"scripts/{script}.py", "--dataset=spoken_digits/official",
        f"--data_dir={folder}/data", *flags).check_returncode()
  return f"{folder}/data"


@pytest.fixture(scope="session")
def run_main(digits_dir, python, python_env):
  """A function (workdir, *flags, wait=True, fork=True, **env) that trains a
  tiny model of the shipped config on `digits_dir`, in a process of its own.

  Returns:
    Its exit code and what it said; or else the Process, if not to be waited
    for. See tests/forkserver.py for that and for `fork`.
  """
  tiny = {
      "total_steps": 20, "batch_size": 6, "steps_per_loop": 5, "log_every": 5,
      "checkpoint_every": 10, "eval_every": 20, "optimizer.warmup_steps": 5,
      "data.size": 24, "model.video_patch": "(4,8,8)", "model.dim_va": 16,
      "model.dim_vt": 8, "eval.batch_size": 8, "data.data_dir": digits_dir,
      "model.dropout": 0.1, "model.drop_rate": 0.25}
  for part in ("video", "audio", "text"):
    tiny |= {f"model.encoders.{part}.{size}": value for size, value in (
        ("depth", 1), ("width", 16), ("mlp_dim", 32), ("num_heads", 2))}

  def run(workdir, *flags, wait=True, fork=True, **env):
    # A later flag takes the place of an earlier one, but adds to a tuple.
    values = {"--config": "configs/spoken_digits.py", "--workdir": workdir}
    values |= {f"--config.{name}": value for name, value in tiny.items()}
    values |= dict(flag.split("=", 1) for flag in flags)
    command = ["-m", "vatt.main",
               *(f"{name}={value}" for name, value in values.items())]
    env = dict(python_env, **env)
    if not wait:
      return python.start(*command, stderr=subprocess.STDOUT, env=env)
    done = python.run(*command, stderr=subprocess.STDOUT, fork=fork, env=env)
    return done.returncode, done.stdout

  return run


@pytest.fixture(scope="session")
def films(tmp_path_factory):
  """A film of 5.25 s with sound, one of 10 s without."""
  folder = tmp_path_factory.mktemp("films")
  chance = np.random.default_rng(0)
  sound = scipy.ndimage.gaussian_filter1d(
      chance.normal(size=[1, 252_000]), 20).astype(np.float32)
  noise = scipy.ndimage.gaussian_filter(
      chance.normal(size=[80, 48, 64, 3]), [4, 4, 4, 0])
  pictures = list(np.uint8(127 + 100 * noise / np.abs(noise).max()))
  return [write_media(folder / "sound.mkv", pictures[:42], sound, rate=8,
                            audio="flac"),
          write_media(folder / "mute.mp4", pictures, rate=8)]
