"""A clip of a dataset on a page: all that it has, on one axis of time."""
import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from vatt.data import audio, record_checks, record_index, windows
from vatt.data.sources import Source
from vatt.errors import one_line, visible
from vatt.reports import signals
from vatt.reports.dataset_facts import frame_shape
from vatt.reports.pages import clock, escape, inline

MOST_SOUND = 1 << 20  # bytes of a sound that is in the page
LONGEST = 1e5  # seconds of a clip that is shown
MOST_CAPTIONS = 200  # that are shown

STYLE = """
.clip { border: 1px solid var(--line); border-radius: .5rem; margin: 1rem 0;
  padding: .75rem; background: var(--card); }
.clip h3 { font-size: .95rem; margin: 0; overflow-wrap: anywhere; }
.clip p { font-size: .85rem; margin: .15rem 0; }
.clip p.what { margin-top: .5rem; }
.clip .label { color: var(--ink); font-weight: 600; }
.time { position: relative; overflow: hidden; }
.strip { display: grid; grid-template-columns: repeat(8, 1fr); }
.strip span { min-width: 0; border-left: 1px solid var(--line);
  padding-left: 2px; }
.strip img { display: block; width: 100%; max-height: 6.5rem;
  object-fit: contain; object-position: left top; }
.strip img.small { image-rendering: pixelated; }
.strip small, .ticks { font-size: .72rem; color: var(--faint); }
.sound { height: 4rem; border: 0 solid var(--line); border-width: 1px 0; }
.sound svg, .sound img { display: block; height: 100%; }
.sound svg { color: var(--link); }
.sound.mel { height: 6rem; background: #000004; }
.strip small.problem { color: var(--warn); }
.ticks { position: relative; height: 1.3rem; border-top: 1px solid var(--line);
  margin-top: .25rem; }
.ticks span { position: absolute; padding-left: 3px;
  border-left: 1px solid var(--faint); white-space: nowrap; }
.captions { list-style: none; margin: .25rem 0 0; padding: 0;
  max-height: 17rem; overflow-y: auto; }
.captions li { padding-bottom: .3rem; }
.captions i { display: block; height: .3rem; border-radius: .15rem;
  background: var(--link); min-width: 2px; }
.captions q { display: block; quotes: none; font-size: .9rem;
  overflow-wrap: anywhere; }
.captions small { color: var(--faint); font-size: .75rem; }
.captions .around q { color: var(--faint); }
.time .now { position: absolute; inset: 0 auto 0 0; width: 2px;
  background: var(--warn); pointer-events: none; }
.clip audio { width: 100%; margin-top: .4rem; height: 2.4rem; }
@media (max-width: 40rem) {
  .strip { grid-template-columns: repeat(4, 1fr); }
  .strip span:nth-child(even) { display: none; }
  .strip img { max-height: 5rem; }
  .captions q, .captions small { margin-left: 0 !important; }
  .ticks span:nth-child(even) { color: transparent; }
}
"""

# While a sound plays, a line is where it is; a click moves it.
SCRIPT = """
"use strict";
for (const clip of document.querySelectorAll(".clip")) {
  const sound = clip.querySelector("audio"), time =
    clip.querySelector(".time");
  if (!sound) continue;
  const length = Number(time.dataset.length), line =
    document.createElement("div");
  line.className = "now";
  const move = () => {
    if (!line.isConnected) time.append(line);
    line.style.left = 100 * sound.currentTime / length + "%";
    if (!sound.paused) requestAnimationFrame(move);
  };
  sound.addEventListener("play", () => {
    document.querySelectorAll("audio").forEach(
      other => { if (other !== sound) other.pause(); });
    move();
  });
  sound.addEventListener("seeked", move);
  for (const part of time.querySelectorAll(".strip, .sound, .ticks"))
    part.addEventListener("click", event => {
      const box = time.getBoundingClientRect();
      sound.currentTime = length * (event.clientX - box.left) / box.width;
    });
}
"""


@dataclasses.dataclass(frozen=True)
class Clip:
  """What a record has.

  Attributes:
    id: of the clip, or "".
    start: seconds, in its source.
    length: seconds, of its pictures or sound: the longer ones.
    frames, fps: encoded pictures, and how many a second.
    sound, rate: int16 [S], and how many samples a second.
    captions: (start, end, text, whether it is of the clip itself), by start.
    labels: class numbers.
  """
  id: str
  start: float
  length: float
  frames: Sequence[bytes]
  fps: float
  sound: np.ndarray
  rate: int
  captions: Sequence[tuple[float, float, str, bool]]
  labels: Sequence[int]

  @property
  def can_be_shown(self) -> bool:
    """Whether there is an axis of time, and a rate of all that is there."""
    return (0 < self.length <= LONGEST
            and (not self.frames or 0 < self.fps < math.inf)
            and (not len(self.sound) or self.rate > 0))


def parse(source: Source, raw: tf.Tensor) -> Clip:
  """A record as a Clip.

  Raises:
    tf.errors.OpError: it cannot be parsed.
  """
  example = _parser(source.parse, source.flac)(raw)
  own = set(example["own"].numpy().tolist())
  captions = [
      (float(start), float(end), text.decode(errors="replace"), number in own)
      for number, (start, end, text) in enumerate(zip(*(
          example[f"captions/{part}"].numpy()
          for part in ("start", "end", "text"))))]
  return Clip(
      example["id"].numpy().decode(errors="replace"), float(example["start"]),
      float(example["length"]), example["frames"].numpy().tolist(),
      float(example["fps"]),
      example["sound"].numpy(), int(example["audio_rate"]),
      sorted(captions, key=lambda caption: caption[0]),
      example["label"].numpy().tolist())


@functools.lru_cache(maxsize=8)
def _parser(parse, flac):
  """`parse`, with the sound's samples, the length and which captions are of the
  clip itself; in a graph, where all that is wrong is an OpError."""
  def parse_all(raw):
    example = parse(raw)
    sound = audio.samples(example["audio"], flac)
    length = windows.clip_length(example, sound)
    own = windows.own_captions(example | {
        "length": length,
        "captions/text": tf.range(tf.size(example["captions/text"]))})
    return example | {"sound": sound, "length": length, "own": own}

  return tf.function(
      parse_all, [tf.TensorSpec([], tf.string)], autograph=False)


# -----------------------------------------------------------------------------
# The card.
# -----------------------------------------------------------------------------
def card(source: Source, i: int) -> str:
  """Record i of a split, as HTML."""
  path, offset = source.index.place(i)
  place = f"record {i} of {source.split}, at byte {offset} of {path}"
  problem = ""
  try:
    raw = record_index.read_one(source.index, i)
    problem = _judge(source.parse, source.label_names, source.flac).say(raw)
    clip = parse(source, raw)
  except tf.errors.OpError as error:
    return (f'<article class="clip"><h3>{_text(place)}</h3><p class="problem">'
            f"cannot be read: {_text(problem or one_line(error))}</p></article>"
            "\n")
  facts = [f"{_seconds(clip.length)} s"]
  if clip.start:
    at = clock(clip.start) if 0 < clip.start < LONGEST else f"{clip.start:g} s"
    facts.append(f"from {at} of its source")
  labels = ", ".join(_label(source.label_names, label) for label in clip.labels)
  if labels:
    facts.append(f'<span class="label">{labels}</span>')
  title = f"<bdi>{_text(clip.id)}</bdi>" if clip.id else _text(f"record {i}")
  return (f'<article class="clip"><h3>{title}</h3>'
          f'<p>{" · ".join(facts)}</p><p>{_text(place)}</p>'
          + (f'<p class="problem">{_text(problem)}</p>' if problem else "")
          + ("".join(_time(clip)) if clip.can_be_shown else
             "<p>Nothing of it can be shown.</p>") + "</article>\n")


_judge = functools.lru_cache(maxsize=8)(record_checks.Judge)


def _time(clip):
  """Yields the HTML of all that has a place on the axis, and the player."""
  yield f'<div class="time" data-length="{clip.length:.6f}">'
  if clip.frames:
    yield f'<p class="what">{_of_pictures(clip)}</p><div class="strip">'
    for shown in signals.places(
        clip.length, len(clip.frames), clip.fps):
      yield "<span>" + (_picture(clip, *shown) if shown else "") + "</span>"
    yield "</div>"
  else:
    yield '<p class="what">no pictures</p>'
  yield from _sound(clip) if len(clip.sound) else [
      '<p class="what">no sound</p>']
  yield '<div class="ticks">' + "".join(
      f'<span style="left:{100 * time / clip.length:.3f}%">'
      f'{_tick(time, clip.length)}</span>'
      for time in signals.ticks(clip.length)) + "</div>"
  yield from _captions(clip)
  yield "</div>"
  if len(clip.sound):
    if 2 * len(clip.sound) <= MOST_SOUND:
      file = inline("audio/wav", signals.wav(clip.sound, clip.rate))
      yield f'<audio controls preload="none" src="{file}"></audio>'
    else:
      yield "<p>The sound is too long to be in the page.</p>"


def _of_pictures(clip):
  count = len(clip.frames)
  try:
    height, width, _ = frame_shape(tf.constant(clip.frames[0])).numpy()
    size = f" of {width} x {height}"
  except tf.errors.OpError:
    size = ""
  return (f"{count} picture{'' if count == 1 else 's'}{size}, {clip.fps:g} a "
          "second")


def _picture(clip, time, number):
  """The HTML of a frame."""
  try:
    data, is_small = signals.thumbnail(clip.frames[number])
  except tf.errors.OpError:
    return f'<small class="problem">{number} does not decode</small>'
  return (f'<img{" class=small" if is_small else ""} alt="picture at '
          f'{time:.2f} s" src="{inline("image/jpeg", data)}">'
          f"<small>{_seconds(time)}</small>")


def _sound(clip):
  """Yields the HTML of waveform and spectrogram."""
  seconds = len(clip.sound) / clip.rate
  peak = int(np.abs(clip.sound.astype(np.int32)).max())
  loud = (f"peak {20 * math.log10(peak / 32768):.1f} dB" if peak else "silent")
  yield (f'<p class="what">sound at {clip.rate} Hz, {_seconds(seconds)} s, '
         f'{loud}</p><div class="sound"><div style="height:100%;width:'
         f'{_share(seconds, clip)}">{signals.waveform(clip.sound)}</div></div>')
  drawn = signals.spectrogram(clip.sound, clip.rate)
  if not drawn:
    yield '<p class="what">no spectrogram at such a rate</p>'
    return
  png, step = drawn
  high = min(7600, clip.rate // 2)
  every = f"{1000 * step:.1f} ms"
  yield (f'<p class="what">log-mel, 80 to {high} Hz, a window every {every}'
         + (f" (a model: every {1000 * signals.STEP:.1f} ms)"
            if step > 1.5 * signals.STEP else "")
         + f'</p><div class="sound mel"><img alt="spectrogram" style="width:'
         f'{_share(_columns(png) * step, clip)}" '
         f'src="{inline("image/png", png)}"></div>')


def _columns(png):
  """The width of a PNG."""
  return int.from_bytes(png[16:20], "big")


def _captions(clip):
  """Yields the HTML of the captions, each a bar and its text below."""
  if not clip.captions:
    yield '<p class="what">no captions</p>'
    return
  own = sum(is_own for *_, is_own in clip.captions)
  around = len(clip.captions) - own
  yield (f'<p class="what">{own} caption{"" if own == 1 else "s"}'
         + (f", {around} around the clip" if around else "")
         + '</p><ol class="captions" tabindex="0">')
  for start, end, text, is_own in clip.captions[:MOST_CAPTIONS]:
    first, last = (min(max(100 * edge / clip.length, 0.0), 100.0)
                   if math.isfinite(edge) else 0.0 for edge in (start, end))
    indent = f'style="margin-left:{min(first, 50.0):.2f}%"'
    when = f"{_seconds(start)} – {_seconds(end)}"
    if start == end == 0:  # it has no time
      yield f'<li><q dir="auto">{_text(text)}</q></li>'
      continue
    bar = (f'<i style="margin-left:{min(first, 99.5):.2f}%;'
           f'width:{max(last - first, 0.0):.2f}%"></i>')
    if not is_own:
      when = f"before: {when}" if start < 0 else f"after: {when}"
      bar, indent = "", "" if start < 0 else indent
    yield (f'<li{"" if is_own else " class=around"}>{bar}'
           f'<q dir="auto" {indent}><small dir="ltr">{when}</small> '
           f"{_text(text)}</q></li>")
  yield "</ol>"
  if len(clip.captions) > MOST_CAPTIONS:
    yield f"<p>and {len(clip.captions) - MOST_CAPTIONS} more</p>"


def _share(seconds, clip):
  return f"{100 * seconds / clip.length:.3f}%"


def _label(names, label):
  return _text(names[label] if 0 <= label < len(names)
               else f"class {label}" + (" (has no name)" if names else ""))


def _text(text):
  """Any text in HTML, in one line."""
  return escape(visible(text))


def _seconds(value):
  """1.25 rather than 1.250, 3 rather than 3.000."""
  return f"{value:.3f}".rstrip("0").rstrip(".") if math.isfinite(value) else (
      str(value))


def _tick(time, length):
  return clock(time).removesuffix(".0") if length >= 60 else (
      f"{_seconds(time)} s")
