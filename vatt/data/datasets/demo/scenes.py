"""Scenes of a thing that moves: what there is to see in clips of `demo`.

A scene is a combination of five factors. The picture shows all of them, the
sound (sounds.py) belongs to what moves, and the sentences
(captions.py) tell it. What is not a factor, such as the background, the
position and the phase, is drawn at random and told by nobody.
"""
import functools
import itertools
from typing import NamedTuple

import numpy as np
import scipy.ndimage

from vatt.data.ingest.plans import draw

SECONDS = 3.2
FPS = 10
FRAMES = 32
SIDE = 96  # pixels

# ---- the factors
# Whether a point is inside, x to the right and y downwards in -1 ... 1. None is
# as round as a disc, which nobody could see spinning.


def _star(x, y):
  fifth = 2 * np.pi / 5
  angle = np.abs(np.mod(np.arctan2(x, -y) + fifth / 2, fifth) - fifth / 2)
  radius = np.hypot(x, y)
  # Left of the line from a tip at radius 1 to a notch at 0.42.
  notch = 0.42 * np.cos(fifth / 2), 0.42 * np.sin(fifth / 2)
  return ((radius * np.cos(angle) - 1) * notch[1]
          - radius * np.sin(angle) * (notch[0] - 1)) < 0


def _heart(x, y):
  x, y = 1.2 * x, 0.1 - 1.2 * y
  return (x ** 2 + y ** 2 - 1) ** 3 < x ** 2 * y ** 3


SHAPES = {
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.75,
    "triangle": lambda x, y: (y < 0.7) & (abs(x) < 0.55 * (y + 0.98)),
    "star": _star,
    "heart": _heart,
    "moon": lambda x, y: (np.hypot(x + 0.15, y) < 0.95) & (
        np.hypot(x - 0.4, y) > 0.8),
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.26) & (
        np.maximum(abs(x), abs(y)) < 0.92),
    "hourglass": lambda x, y: (abs(y) < 0.9) & (abs(x) < 0.08 + 0.8 * abs(y)),
    "horseshoe": lambda x, y: (abs(np.hypot(x, y) - 0.7) < 0.24) & (
        (abs(x) > 0.4) | (y < 0)),
    "bar": lambda x, y: (abs(x) < 0.98) & (abs(y) < 0.24),
    "mushroom": lambda x, y: ((np.hypot(x, y) < 0.9) & (y < 0.05)) | (
        (abs(x) < 0.26) & (y >= 0) & (y < 0.9)),
}
COLOURS = {
    "red": (230, 25, 40),
    "orange": (250, 135, 15),
    "yellow": (245, 230, 40),
    "green": (35, 185, 55),
    "turquoise": (40, 215, 215),
    "blue": (50, 75, 245),
    "pink": (245, 80, 200),
    "white": (245, 245, 245),
}
MOTIONS = ("right", "left", "up", "down", "circles", "spins", "grows", "blinks")
SIZES = {"small": 0.36, "large": 0.54}  # diameter, of the frame's side
SPEEDS = {"slow": 2.0, "fast": 1.0}  # seconds a bar: a round of the motion

TEST_COMBINATIONS = 200


class Scene(NamedTuple):
  """A clip's id, the seed of all that is random in it, and its factors."""
  id: str
  shape: str
  colour: str
  motion: str
  size: str
  speed: str


@functools.lru_cache(maxsize=1)
def combinations() -> dict[str, list[tuple[str, str, str]]]:
  """The combinations (shape, colour, motion) of each split: 200 for `test`, the
  others for `train`."""
  ordered = sorted(itertools.product(SHAPES, COLOURS, MOTIONS),
                   key=lambda combination: draw(2 ** 64, *combination))
  return {"test": ordered[:TEST_COMBINATIONS],
          "train": ordered[TEST_COMBINATIONS:]}


def scene(split: str, number: int) -> Scene:
  """The scene of a clip.

  Args:
    split: train or test.
    number: the clip's number in its split; combinations of shape, colour and
      motion come in turn, and in `test` only once.
  """
  id_ = f"{split}/{number:05d}"
  cases = combinations()[split]
  return Scene(
      id_, *cases[number % len(cases)],
      *(list(values)[draw(len(values), id_, site)]
        for site, values in (("size", SIZES), ("speed", SPEEDS))))


def bars(scene: Scene, times: np.ndarray) -> np.ndarray:
  """The position of times in the scene's bars, which motion and rhythm share.

  Args:
    scene: its speed is that of the bars.
    times: float [N], seconds.

  Returns:
    float64 [N]: whole numbers are where bars begin.
  """
  return times / SPEEDS[scene.speed] + draw(1000, scene.id, "phase") / 1000


# ---- drawing

GRID = 256  # of the table that a shape is drawn from
REACH = 1.25  # of the table, where a shape reaches 1
EDGE = 0.09  # of the radius: the dark line around a shape


@functools.cache
def _distances(shape):
  """Distance to a shape's edge, negative inside: float32 [GRID, GRID]."""
  y, x = (np.mgrid[:GRID, :GRID] + 0.5) * (2 * REACH / GRID) - REACH
  inside = SHAPES[shape](x, y)
  outer, inner = map(scipy.ndimage.distance_transform_edt, (~inside, inside))
  return np.float32((outer - inner) * (2 * REACH / GRID))


def path(scene: Scene) -> tuple[np.ndarray, ...]:
  """Where the thing is in every frame.

  Returns:
    float64 [FRAMES] each: x and y of the middle, as shares of the frame; angle
    in radians, clockwise; radius, as a share of the frame; and whether it is
    visible, 0 or 1.
  """
  rng = np.random.default_rng(draw(2 ** 64, scene.id, "path"))
  position = bars(scene, np.arange(FRAMES) / FPS)
  round_ = position % 1
  turn = 2 * np.pi * position * rng.choice([-1, 1])
  still = np.ones(FRAMES)
  x, y = still * rng.uniform(0.38, 0.62, [2, 1])
  angle = still * rng.uniform(-0.25, 0.25)
  radius = still * SIZES[scene.size] / 2 * rng.uniform(0.95, 1.05)
  visible = still
  across = 1.2 * round_ - 0.1  # in at one side, out at the other
  match scene.motion:
    case "right":
      x = across
    case "left":
      x = 1 - across
    case "down":
      y = across
    case "up":
      y = 1 - across
    case "circles":
      x, y = 0.5 + 0.24 * np.cos(turn), 0.5 + 0.24 * np.sin(turn)
    case "spins":
      angle = turn / 2  # half a turn a bar, or crosses would seem to stand
    case "grows":
      radius = radius * (0.85 - 0.4 * np.cos(2 * np.pi * position))
    case "blinks":
      visible = np.float64(round_ < 0.5)
  return x, y, angle, radius, visible


def _background(rng):
  """A dim picture of two colours, waves and grain: float32 [SIDE, SIDE, 3]."""
  y, x = np.float32(np.mgrid[:SIDE, :SIDE] / SIDE)
  grey = rng.uniform(20, 85, [2, 1])
  tint = rng.uniform(-1, 1, [2, 3])
  one, other = np.float32(np.clip(grey * (1 + 0.75 * tint), 0, 120))
  angle, wave, phase = rng.uniform(0, 2 * np.pi, 3)
  slope = np.float32([np.cos(angle), np.sin(angle)]) / 1.4
  share = 0.5 + slope[0] * (x - 0.5) + slope[1] * (y - 0.5)
  waves = np.sin(rng.uniform(10, 50) * (
      x * np.float32(np.cos(wave)) + y * np.float32(np.sin(wave))) + phase)
  grain = np.float32(rng.normal(0, 2, [SIDE, SIDE]))
  return (one + (other - one) * share[..., None]
          + np.float32(rng.uniform(0, 12)) * waves[..., None]
          + grain[..., None])


def draw_frames(scene: Scene) -> np.ndarray:
  """Draws a scene: uint8 [FRAMES, SIDE, SIDE, 3]."""
  rng = np.random.default_rng(draw(2 ** 64, scene.id, "picture"))
  x, y, angle, radius, visible = (
      np.float32(value)[:, None, None] for value in path(scene))
  # Every pixel in the shape's own coordinates: [T, H, W].
  centres = np.float32((np.arange(SIDE) + 0.5) / SIDE)
  dx, dy = (centres - x) / radius, (centres[:, None] - y) / radius
  cos, sin = np.cos(angle), np.sin(angle)
  to_cell = lambda value: np.clip(
      (value + REACH) * (GRID / (2 * REACH)), 0, GRID - 1).astype(np.int32)
  distance = _distances(scene.shape)[
      to_cell(cos * dy - sin * dx), to_cell(cos * dx + sin * dy)]
  # Antialiased: a pixel is covered as far as its middle is from the edge.
  pixels = radius * SIDE
  body = np.clip(0.5 - distance * pixels, 0, 1) * visible
  dark = np.clip(0.5 - (distance - EDGE) * pixels, 0, 1) * visible
  background = np.clip(_background(rng), 0, 160)
  colour = np.float32(COLOURS[scene.colour]) * np.float32(
      rng.uniform(0.92, 1.0))
  frames = np.empty([FRAMES, SIDE, SIDE, 3], np.uint8)
  for c in range(3):  # far faster than with three channels innermost
    frames[..., c] = background[..., c] * (1 - dark) + (
        body * colour[c] + np.float32(0.5))
  return frames
