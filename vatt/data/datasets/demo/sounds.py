"""Sounds of the scenes of `demo`: they belong to what moves.

The shape is heard as the timbre, the colour as the pitch, the motion as the
rhythm, the speed as the tempo, and a large thing thumps. Loudness, tuning,
phase and noise are random.
"""
from typing import NamedTuple

import numpy as np

from vatt.data.datasets.demo import scenes
from vatt.data.ingest.plans import draw

RATE = 16_000


class Timbre(NamedTuple):
  """How a shape sounds.

  Attributes:
    partials: (multiple of the pitch, amplitude) of its sines; the first is the
      pitch itself and the loudest.
    vibrato: how far the pitch swings, six times a second, as a share of it.
    tremolo: how many times a second the loudness swings.
    glide: how far above the pitch a note begins, as a share of it.
    hiss: amplitude of noise without low frequencies.
  """
  partials: tuple[tuple[float, float], ...]
  vibrato: float = 0.0
  tremolo: float = 0.0
  glide: float = 0.0
  hiss: float = 0.0


TIMBRES = {
    "square": Timbre(((1, 1), (3, 0.7), (5, 0.5), (7, 0.4), (9, 0.3))),
    "triangle": Timbre(((1, 1),)),
    "star": Timbre(((1, 1), (2.76, 0.7), (5.4, 0.6), (8.93, 0.4))),
    "heart": Timbre(((1, 1), (2, 0.5), (3, 0.3)), vibrato=0.04),
    "moon": Timbre(((1, 1), (2, 0.4)), glide=0.8),
    "cross": Timbre(((1, 1), (2, 0.8), (4, 0.8), (8, 0.7))),
    "hourglass": Timbre(((1, 1),), hiss=0.5),
    "horseshoe": Timbre(((1, 1), (6, 0.6), (7, 0.8), (8, 0.7))),
    "bar": Timbre(tuple((k, k ** -0.3) for k in range(1, 16))),
    "mushroom": Timbre(((1, 1), (1.5, 0.8)), tremolo=14.0),
}
# Hz: steps of three semitones over two octaves, from C4.
PITCHES = {colour: 261.63 * 2 ** (i / 4)
           for i, colour in enumerate(scenes.COLOURS)}
# The eight steps of a bar: x begins a note, - holds it.
RHYTHMS = {
    "right": "x-------",
    "left": "xxxxxxxx",
    "up": "x-x-....",
    "down": "xxx.....",
    "circles": "x--x--x-",
    "spins": "xxxxxx..",
    "grows": "x.......",
    "blinks": "x---....",
}
THUMP = 90.0  # Hz


def _notes(scene, times):
  """Seconds since the note of each moment began, and until it ends.

  Returns:
    float64 [S] each; 0 where there is silence.
  """
  rhythm = RHYTHMS[scene.motion]
  steps = len(rhythm)
  begins, ends = np.arange(steps), np.arange(steps)
  for step, sign in enumerate(rhythm):
    if sign != ".":
      begins[step] = rhythm.rindex("x", 0, step + 1)
      ends[step] = next((i for i in range(step + 1, steps) if rhythm[i] != "-"),
                        steps)
  position = scenes.bars(scene, times) % 1 * steps
  step = np.minimum(position.astype(int), steps - 1)
  step_s = scenes.SPEEDS[scene.speed] / steps
  mask = ends[step] > step
  return (np.where(mask, position - begins[step], 0) * step_s,
          np.where(mask, ends[step] - position, 0) * step_s)


def synthesize(scene: scenes.Scene) -> np.ndarray:
  """Makes the sound of a scene: int16 [S] at RATE, S = 51,200."""
  rng = np.random.default_rng(draw(2 ** 64, scene.id, "sound"))
  timbre = TIMBRES[scene.shape]
  times = np.arange(round(scenes.SECONDS * RATE)) / RATE
  since, left = _notes(scene, times)
  # A note sets in within 5 ms, dies away and ends within 10 ms.
  envelope = (np.minimum(since / 0.005, 1) * np.minimum(left / 0.01, 1)
              * np.exp(-since / 0.6))
  if timbre.tremolo:
    envelope = envelope * (
        0.55 + 0.45 * np.cos(2 * np.pi * timbre.tremolo * since))

  pitch = PITCHES[scene.colour] * rng.uniform(0.99, 1.01)
  frequency = pitch * (
      1 + timbre.vibrato * np.sin(2 * np.pi * 6 * times)
      + timbre.glide * np.exp(-since / 0.04))
  angle = 2 * np.pi * np.cumsum(frequency) / RATE
  sound = np.zeros_like(times)
  for ratio, amplitude in timbre.partials:
    if ratio * pitch < 0.47 * RATE:  # else it would alias
      sound += amplitude * np.sin(ratio * angle + rng.uniform(0, 6.28))
  if timbre.hiss:
    noise = rng.normal(size=len(times) + 1)
    sound += timbre.hiss * np.diff(noise)
  sound = sound * envelope / np.sqrt(np.mean(sound ** 2))
  if scene.size == "large":
    sound += 2 * np.sin(2 * np.pi * THUMP * since) * np.exp(-since / 0.08)
  sound *= rng.uniform(0.06, 0.14)
  sound += rng.uniform(0.0005, 0.003) * rng.normal(size=len(times))
  return np.int16(np.clip(np.rint(sound * 32767), -32768, 32767))
