"""What a clip takes of the frames and the sound that a decoder yields."""
import bisect
import math
from collections.abc import Callable, Sequence
from typing import Any

import av
import numpy as np

from vatt.data.ingest import pictures
from vatt.data.ingest import samples as samples_lib

ENOUGH = 0.9  # of the frames, or samples, that a clip should hold
# Seconds that a frame may stay on screen without saying so: the last one, and
# one after which packets were lost. Another stays until the next one, however
# long: slides and screens are recorded frame by change.
HOLD = 1.0
HOLD_TO_NEXT = 30.0
TOGETHER = 32  # frames of sound that are resampled at once, which takes less
ROUNDED = 1e-3  # seconds by which times may differ that are worked out twice
GAP = 0.02  # seconds by which a timestamp may differ from the samples' count


class MediaError(Exception):
  """A file or clip that cannot be read; the message is the reason."""


class Late(Exception):
  """A seek ended behind where the clip starts."""


def reason(error: Exception) -> str:
  """What an error of FFmpeg or of the system says, in one line."""
  return " ".join(str(getattr(error, "strerror", None) or error).split())


def frame_rate(stream: av.VideoStream) -> float:
  """Frames a second of a video stream; a guess where it does not say."""
  return float(stream.average_rate or stream.guessed_rate or 25)


class VideoTrack:
  """Takes the frames that are on screen at the sampling times of a clip."""

  def __init__(self, stream: av.VideoStream, begin: float,
               span: tuple[float, float], fps: float, size: int,
               convert: Callable[[pictures.Screen, av.VideoFrame], Any],
               sought: bool,
               losses: Sequence[float | None] = ()):
    """Begins a clip.

    Args:
      stream: the video stream that is decoded.
      begin: seconds at which the stream begins.
      span: seconds at which the clip starts and ends.
      fps: frames a second of the clip.
      size: the frames' shorter side, in pixels; smaller ones stay as they are.
      convert: a function of the clip's screen and a frame, such as
        `Screen.show`: what is kept of the frame.
      sought: whether decoding began elsewhere than at the file's start.
      losses: seconds at which packets are damaged or after some that were lost,
        None if unknown; it grows as the file is read.
    """
    start, end = span
    count = max(1, math.floor((end - start) * fps + 0.5))
    self._times = [start + i / fps for i in range(count)]
    self._begin, self._sought = begin, sought
    self._screen = pictures.Screen(stream, size)
    self._convert = convert
    self._length = 1 / frame_rate(stream)
    self._early = 0.5 / fps  # by which a frame may be taken before its time
    self._frame = self._time = None  # the last one decoded
    self._taken, self._missing, self._skipped = [], 0, False
    self._added = self._out_of_order = 0  # frames
    self._losses = losses
    self.damaged = False  # since the last frame

  @property
  def started(self) -> bool:
    """Whether it has a frame that can be shown."""
    return self._frame is not None

  @property
  def done(self) -> bool:
    return len(self._taken) == len(self._times)

  def may_take(self, before: float, time: float, after: float) -> bool:
    """Whether it may take a frame at a time between those of its neighbours,
    in seconds."""
    first, last = (max((one + next_one) / 2, next_one - self._early)
                   for one, next_one in ((before, time), (time, after)))
    number = bisect.bisect_left(self._times, first - ROUNDED)
    return number < len(self._times) and self._times[number] < last + ROUNDED

  def add(self, frame: av.VideoFrame, time: float | None) -> None:
    """Goes on to a frame, at a time in seconds or None."""
    if self._frame is None and self._sought:
      if not frame.key_frame:
        self._skipped = True
        return  # its references are missing
      if time is None or self._begin <= self._times[0] < time:
        raise Late
    if frame.is_corrupt:
      self.damaged = True
      return
    if time is None:
      time = (self._begin if self._frame is None
              else self._time + self._length)
    self._added += 1
    if self._frame is not None:
      if time <= self._time:
        self._out_of_order += 1
        return
      lost = time - self._time > HOLD_TO_NEXT and any(
          loss is None or self._time < loss < time + HOLD
          for loss in self._losses)
      # The nearest one, but not long before it comes on screen.
      self._take(max((self._time + time) / 2, time - self._early),
                 HOLD_TO_NEXT if lost else math.inf)
    self._frame, self._time, self.damaged = frame, time, False

  def _take(self, until, hold):
    """Takes the current frame for the sampling times that are left by then; it
    may stay for `hold` seconds."""
    converted = None
    # Of two frames as near, rounding shall not choose.
    while not self.done and self._times[len(self._taken)] < until + 1e-6:
      time = self._times[len(self._taken)]
      if converted is None:
        stated = float((self._frame.duration or 0) * self._frame.time_base)
        reach = 1.5 * (stated or self._length)
        if not self.damaged:
          reach = max(reach, hold)
        try:
          converted = self._convert(self._screen, self._frame)
        except pictures.PictureError as error:
          raise MediaError(str(error)) from error
      self._taken.append(converted)
      self._missing += (time > self._time + reach
                        or self._begin <= time < self._time - self._early)

  def finish(self, problem: str) -> np.ndarray | list[Any]:
    """The frames, uint8 [F, H, W, 3] or what `convert` made of each.

    Raises:
      MediaError: there are too few; the message ends with `problem`.
    """
    count = len(self._times)
    if self._frame is None:
      if self._skipped:
        raise Late
      self._missing = count
    else:
      self._take(math.inf, HOLD)
    if count - self._missing < ENOUGH * count:
      raise MediaError(
          f"{count - self._missing} of {count} frames are there{problem}")
    if self._out_of_order > (1 - ENOUGH) * self._added:
      raise MediaError(f"{self._out_of_order} of {self._added} frames come "
                       f"after later ones{problem}")
    late = self._begin - self._times[0]
    if late * 2 > self._times[-1] - self._times[0] + self._length:
      raise MediaError(f"its video starts {late:.3f} s after it")
    return (np.stack(self._taken) if isinstance(self._taken[0], np.ndarray)
            else self._taken)


class AudioTrack:
  """Puts sound where it belongs in a clip, by its timestamps."""

  def __init__(self, begin: float, span: tuple[float, float], rate: int,
               sought: bool):
    """Begins a clip.

    Args:
      begin: seconds at which the stream begins.
      span: seconds at which the clip starts and ends.
      rate: samples a second of the clip.
      sought: whether decoding began elsewhere than at the file's start.
    """
    self._start, end = span
    self._begin, self._rate, self._sought = begin, rate, sought
    self._count = round((end - self._start) * rate)
    # Made when they are needed: a file may have hundreds of clips.
    self._samples = self._mask = None
    self._twice = 0  # samples that were laid over others
    self._late = max(0, round((begin - self._start) * rate))
    self._run = None  # (kind, time, resampler, arrays) of what is gapless
    self._held, self._since = [], None  # frames to be resampled, their time
    self._next = None  # time at which the next frame should start
    self._check = samples_lib.FloatCheck()
    self._bad = []  # [n, 2] in seconds, of what is not finite in the run
    self._spoiled = 0  # frames of the clip with such samples
    self.damaged = False

  @property
  def started(self) -> bool:
    return self._next is not None

  @property
  def done(self) -> bool:
    return (self._next is not None and self._next
            > self._start + self._count / self._rate + 0.1)

  @property
  def spoiled(self) -> int:
    """Number of its frames with samples that are not finite.

    Raises:
      MediaError: the sound cannot be made what a clip has.
    """
    self._resample()
    return self._spoiled

  def add(self, frame: av.AudioFrame, time: float | None) -> None:
    """Adds a frame that starts at a time in seconds, or None."""
    if self._next is None and self._sought and (
        time is None or time > max(self._start, self._begin) + GAP):
      raise Late
    if time is None:
      time = self._begin if self._next is None else self._next
    length = frame.samples / frame.sample_rate
    if self._run is None and time + length < self._start - 0.1:
      self._next = time + length
      return
    kind = frame.sample_rate, frame.format.name, frame.layout.name
    if self._run and (self._run[0] != kind or abs(time - self._next) > GAP):
      self._place()
    if not self._run:
      self._run = (kind, time, av.AudioResampler("s16", "mono", self._rate), [])
      self._next = time
    if not self._held:
      self._since = self._next
    self._held.append(frame)
    self._next += length
    if len(self._held) == TOGETHER:
      self._resample()

  def _resample(self):
    """Resamples the frames that are held."""
    if not self._held:
      return
    time, end = self._since, self._start + self._count / self._rate
    for frame, bad in self._check.mend(self._held):
      if len(bad):
        bad = time + bad / frame.sample_rate
        self._bad.append(bad)
        self._spoiled += bool(
            np.any((bad[:, 1] > self._start) & (bad[:, 0] < end)))
      time += frame.samples / frame.sample_rate
      try:
        self._run[3].extend(self._run[2].resample(frame))
      except av.error.FFmpegError as error:
        raise MediaError(f"sound of {frame.layout.nb_channels} channels cannot "
                         "be mixed to one") from error
    self._held = []

  def _place(self):
    """Ends the run and puts its samples in their place."""
    self._resample()
    self._make()
    _, time, resampler, frames = self._run
    self._run = None
    frames = [f.to_ndarray()[0] for f in frames + resampler.resample(None)]
    samples = np.concatenate(frames) if frames else np.zeros(0, np.int16)
    at = round((time - self._start) * self._rate)
    samples = samples[max(0, -at):]
    at = max(0, at)
    samples = samples[:max(0, self._count - at)]
    self._samples[at:at + len(samples)] = samples
    self._twice += np.count_nonzero(self._mask[at:at + len(samples)])
    self._mask[at:at + len(samples)] = True
    if self._bad:
      bad = samples_lib.inside(
          (np.concatenate(self._bad) - self._start) * self._rate,
          self._count)
      self._samples[bad], self._mask[bad] = 0, False
    self._bad = []

  def _make(self):
    if self._samples is None:
      self._samples = np.zeros(self._count, np.int16)
      self._mask = np.zeros(self._count, bool)

  def finish(self, problem: str) -> np.ndarray:
    """The samples, int16 [S].

    Raises:
      MediaError: there are too few, and the message ends with `problem`; or
        they are too loud to be sound.
    """
    if self._run:
      self._place()
    self._make()
    if self._check.refusal():
      raise MediaError(self._check.refusal())
    count = self._count - self._late
    # Of two sounds at one time, no one knows which is right.
    found = np.count_nonzero(self._mask[self._late:]) - self._twice
    if found + 2 * GAP * self._rate < ENOUGH * count:
      raise MediaError(f"{found} of {count} samples are there{problem}")
    return self._samples
