"""Frames: which to take, decoding and cropping; colours on the device."""
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from ml_collections import ConfigDict

from vatt import seeds
from vatt.xla import compiled

# Shape of the random numbers of a crop: a row for each attempt at one.
CROP_DRAW = (10, 4)


# -----------------------------------------------------------------------------
# On the host, one clip.
# -----------------------------------------------------------------------------
def sample_indices(num_stored: tf.Tensor, stored_fps: tf.Tensor,
                   start: tf.Tensor, num_frames: int, fps: float) -> tf.Tensor:
  """Finds the stored frames nearest in time to those wanted.

  Args:
    num_stored: int32 [], frames stored.
    stored_fps: float [], their rate.
    start: float64 [], seconds, time of the first frame.
    num_frames: T.
    fps: wanted rate.

  Returns:
    int32 [T], in 0 … num_stored - 1; after the end the last one is repeated.
  """
  times = start + tf.range(num_frames, dtype=tf.float64) / fps
  # 1e-6: times are sums of rounded fractions, and halves go up.
  nearest = tf.floor(times * tf.cast(stored_fps, tf.float64) + (0.5 + 1e-6))
  return tf.clip_by_value(tf.cast(nearest, tf.int32), 0, num_stored - 1)


def crop_box(height: tf.Tensor, width: tf.Tensor, area: Sequence[float],
             aspect: Sequence[float], draw: tf.Tensor | None = None
             ) -> tf.Tensor:
  """Chooses a crop of random area and aspect ratio.

  Args:
    height, width: int32 [], pixels of the frame.
    area: (least, most) share of the frame's area.
    aspect: (least, most) width over height; its logarithm is uniform.
    draw: float32 CROP_DRAW, uniform in [0, 1); None takes the largest centred
      crop of such an aspect.

  Returns:
    int32 [4]: top, left, height, width. If no attempt fits into the frame, the
    largest centred crop whose aspect ratio is within range.
  """
  size = tf.cast(tf.stack([height, width]), tf.float32)
  ratio = tf.clip_by_value(size[1] / size[0], *map(float, aspect))
  largest = tf.minimum(size, tf.stack([size[1] / ratio, size[0] * ratio]))
  largest = tf.maximum(tf.round(largest), 1.0)
  centred = tf.concat([tf.floor((size - largest) / 2), largest], 0)
  if draw is None:
    return tf.cast(centred, tf.int32)
  # The columns of the draw: area, aspect ratio, top, left.
  areas = (area[0] + draw[:, 0] * (area[1] - area[0])) * size[0] * size[1]
  low, high = math.log(aspect[0]), math.log(aspect[1])
  ratios = tf.exp(low + draw[:, 1] * (high - low))
  sizes = tf.round(tf.sqrt(tf.stack([areas / ratios, areas * ratios], 1)))
  fits = tf.reduce_all((sizes <= size) & (sizes >= 1.0), 1)
  first = tf.argmax(fits)
  corner = tf.floor(draw[first, 2:] * (size - sizes[first] + 1.0))
  box = tf.concat([corner, sizes[first]], 0)
  return tf.cast(tf.where(fits[first], box, centred), tf.int32)


def square_boxes(height: tf.Tensor, width: tf.Tensor, crops: int) -> tf.Tensor:
  """The largest squares in a frame, spread evenly along its longer side.

  Args:
    height, width: int32 [], pixels of the frame.
    crops: M: 1 is the centre; 3 are left, middle and right, or top,
      middle and bottom.

  Returns:
    int32 [M, 4]: top, left, height, width of each.
  """
  size = tf.stack([height, width])
  side = tf.minimum(height, width)
  first, parts = (0, crops - 1) if crops > 1 else (1, 2)
  corners = (size - side) * tf.range(first, first + crops)[:, None] // parts
  return tf.concat([corners, tf.fill([crops, 2], side)], 1)


def decode_frames(encoded: tf.Tensor, size: int,
                  area: Sequence[float] = (1.0, 1.0),
                  aspect: Sequence[float] = (1.0, 1.0),
                  draw: tf.Tensor | None = None) -> tf.Tensor:
  """Decodes frames, crops all of them alike and resizes the crop.

  Args:
    encoded: string [T], JPEG or PNG, T static; equal neighbours are decoded
      once.
    size: height and width of the result, pixels.
    area: (least, most) share of the frame's area in the crop.
    aspect: (least, most) width over height of the crop.
    draw: float32 CROP_DRAW, uniform in [0, 1), to draw the crop by; None for
      the largest centred one.

  Returns:
    uint8 [T, size, size, 3].

  Raises:
    tf.errors.InvalidArgumentError: a frame cannot be decoded.
  """
  return _decode(encoded, size, lambda height, width: crop_box(
      height, width, area, aspect, draw)[None])[0]


def decode_unenlarged(encoded: tf.Tensor, size: int, area: Sequence[float],
                      aspect: Sequence[float], draw: tf.Tensor
                      ) -> tuple[tf.Tensor, tf.Tensor]:
  """Decodes and crops frames, and shrinks the crop where it is larger than the
  result; where it is smaller, `enlarge` is left to do, on the device.

  Enlarging takes as long a pixel of the result, whatever the crop: of frames
  that are not much larger than the result, a third of the input's time.

  Args:
    encoded, size, area, aspect, draw: those of `decode_frames`.

  Returns:
    uint8 [T, size, size, 3], in whose top left corner the crop is; and int32
    [2], the height and width that it has there.

  Raises:
    tf.errors.InvalidArgumentError: a frame cannot be decoded.
  """
  num_frames = encoded.shape[0]

  def use(boxes):
    crop = boxes[0, 2:]
    shape = tf.minimum(crop, size)
    filtered = tf.reduce_any(crop > 2 * size)
    smaller = tf.reduce_all(crop <= size)
    return lambda part: tf.cond(
        smaller, lambda: part, lambda: _resize(part, shape, filtered))

  parts, position = decode_parts(
      encoded, lambda height, width: crop_box(
          height, width, area, aspect, draw)[None],
      use, tf.TensorSpec([None, None, 3], tf.uint8))
  parts = tf.cond(tf.shape(parts)[0] == num_frames, lambda: parts,
                  lambda: tf.gather(parts, position))
  height, width = tf.unstack(tf.shape(parts)[1:3])
  # tf.pad takes three times as long as these copies of whole rows.
  rows = tf.concat([
      tf.reshape(parts, [num_frames, height, width * 3]),
      tf.zeros([num_frames, height, (size - width) * 3], tf.uint8)], 2)
  frames = tf.concat([
      tf.reshape(rows, [num_frames, height * size * 3]),
      tf.zeros([num_frames, (size - height) * size * 3], tf.uint8)], 1)
  # [T, size * size * 3] -> [T, size, size, 3]
  return (tf.reshape(frames, [num_frames, size, size, 3]),
          tf.stack([height, width]))


def decode_crops(encoded: tf.Tensor, size: int, crops: int) -> tf.Tensor:
  """Decodes frames once and takes several crops of them, for evaluation.

  Args:
    encoded: string [T], JPEG or PNG, T static; equal neighbours are decoded
      once.
    size: height and width of the result, pixels.
    crops: M, the largest squares, spread evenly along the longer side.

  Returns:
    uint8 [M, T, size, size, 3].

  Raises:
    tf.errors.InvalidArgumentError: a frame cannot be decoded.
  """
  return _decode(encoded, size, lambda height, width: square_boxes(
      height, width, crops))


def _decode(encoded, size, choose):
  """Decodes string [T] -> uint8 [M, T, size, size, 3], the crops of the int32
  [M, 4] that `choose` makes of height and width."""
  num_crops = choose(tf.constant(size), tf.constant(size)).shape[0]
  crops, position = decode_parts(
      encoded, choose, lambda boxes: _resizer(boxes, size, num_crops),
      (tf.TensorSpec([size, size, 3], tf.uint8),) * num_crops)

  def repeat(crop):
    # Without equal frames, which are rare, this copy is spared.
    crop = tf.cond(tf.shape(crop)[0] == encoded.shape[0], lambda: crop,
                   lambda: tf.gather(crop, position))
    return tf.ensure_shape(crop, [encoded.shape[0], size, size, 3])

  if num_crops == 1:
    return repeat(crops[0])[None]
  return tf.stack([repeat(crop) for crop in crops])


def crop_frames(frames: tf.Tensor, size: int, crops: int) -> tf.Tensor:
  """The crops of frames that are decoded already, as `decode_crops` takes them.

  Args:
    frames: uint8 [T, H, W, 3], T static.
    size: height and width of the result, pixels.
    crops: M, the largest squares, spread evenly along the longer side.

  Returns:
    uint8 [M, T, size, size, 3].
  """
  shape = tf.shape(frames)
  boxes = square_boxes(shape[1], shape[2], crops)
  top, left, height, width = tf.unstack(_around(boxes))
  resize = _resizer(boxes - [top, left, 0, 0], size, crops)
  resized = tf.map_fn(
      lambda frame: resize(frame[top:top + height, left:left + width]), frames,
      fn_output_signature=(tf.TensorSpec([size, size, 3], tf.uint8),) * crops)
  return tf.stack([tf.ensure_shape(
      crop, [frames.shape[0], size, size, 3]) for crop in resized])


def _around(boxes):
  """The smallest box, int32 [4], that has all of [M, 4] in it."""
  first = tf.reduce_min(boxes[:, :2], 0)
  return tf.concat(
      [first, tf.reduce_max(boxes[:, :2] + boxes[:, 2:], 0) - first], 0)


def _resizer(boxes, size, num_crops):
  """A function: the part of a frame, uint8 [h, w, 3], that has all boxes, int32
  [M, 4], -> the boxes' resized content."""
  filtered = tf.unstack(tf.reduce_any(boxes[:, 2:] > 2 * size, 1), num_crops)
  boxes = [tf.unstack(box) for box in tf.unstack(boxes, num_crops)]

  def resize(part):
    if num_crops == 1:  # It is all of the part.
      return (_resize(part, [size, size], filtered[0]),)
    return tuple(
        _resize(part[top:top + height, left:left + width], [size, size], much)
        for (top, left, height, width), much in zip(boxes, filtered))

  return resize


def decode_parts(encoded: tf.Tensor,
                 choose: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
                 use: Callable[[tf.Tensor], Callable[[tf.Tensor], Any]],
                 signature: Any) -> tuple[Any, tf.Tensor]:
  """Decodes of frames what is needed for crops, and uses it frame by frame.

  A frame stays in the processor's cache from the decoder to the last use.

  Args:
    encoded: string [T], JPEG or PNG.
    choose: height and width, int32 [] -> the crops, int32 [M, 4]: top, left,
      height, width.
    use: the crops, int32 [M, 4], within the smallest part of a frame that has
      all of them -> a function of such a part, uint8 [h, w, 3].
    signature: structure of TensorSpecs, of what that function returns.

  Returns:
    What the function returns of the N frames that differ, stacked: [N, ...];
    and int32 [T], which of the N each frame is.
  """
  encoded, position = tf.unique(encoded)
  is_jpeg = tf.io.is_jpeg(encoded[0])
  shape = tf.cond(is_jpeg, lambda: tf.io.extract_jpeg_shape(encoded[0]),
                  lambda: tf.shape(_decode_image(encoded[0])))
  boxes = choose(shape[0], shape[1])
  box = _around(boxes)
  use_part = use(boxes - tf.concat([box[:2], [0, 0]], 0))

  def decode_jpeg(frame):
    return use_part(tf.io.decode_and_crop_jpeg(
        frame, box, channels=3, dct_method="INTEGER_ACCURATE"))

  def decode_other(frame):
    return use_part(tf.slice(_decode_image(frame), tf.concat([box[:2], [0]], 0),
                             tf.concat([box[2:], [3]], 0)))

  decoded = tf.cond(
      is_jpeg,
      lambda: tf.map_fn(decode_jpeg, encoded, fn_output_signature=signature),
      lambda: tf.map_fn(decode_other, encoded, fn_output_signature=signature))
  return decoded, position


def _decode_image(encoded):
  return tf.io.decode_image(encoded, channels=3, expand_animations=False)


def _resize(frame, shape, filtered):
  """Resizes uint8 [h, w, 3] bilinearly to [*shape, 3].

  A pixel is one bilinear sample (the paper says just "resized"), but `filtered`
  in frames that shrink to less than half, of whose pixels samples would leave
  some out. It then is a weighted mean of all that it covers, which takes five
  times as long.
  """

  def resize(antialias):
    # The half that makes truncation round is added where pixels are few.
    resized = tf.image.resize(tf.cast(frame, tf.float32) + 0.5, shape,
                              "bilinear", antialias=antialias)
    return tf.cast(resized, tf.uint8)

  return tf.cond(filtered, lambda: resize(True), lambda: resize(False))


# -----------------------------------------------------------------------------
# On the device, a batch.
# -----------------------------------------------------------------------------
def normalize_video(video: tf.Tensor) -> tf.Tensor:
  """Scales uint8 frames to float32 in [-1, 1]."""
  return tf.cast(video, tf.float32) * (2.0 / 255.0) - 1.0


def enlarge(video: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
  """Resizes what `decode_unenlarged` left: a corner of frames, to all of them.

  Bilinearly as tf.image.resize does it on the host, but as matrix products:
  these have static shapes, and a TPU gathers pixels slowly.

  Args:
    video: uint8 [B, T, S, S, 3].
    part: int32 [B, 2], height and width of the top left corner to resize.

  Returns:
    uint8 [B, T, S, S, 3].
  """
  size = video.shape[2]
  pixel = tf.range(size, dtype=tf.float32)

  def weights(length):  # [B] -> [B, S, S], of each pixel for each of the result
    length = tf.cast(length, tf.float32)[:, None]
    place = tf.clip_by_value(
        (pixel + 0.5) * (length / size) - 0.5, 0.0, length - 1.0)  # [B, S]
    return tf.nn.relu(1.0 - tf.abs(place[..., None] - pixel))

  x = tf.cast(video, tf.float32)
  x = tf.einsum("bij,btjwc->btiwc", weights(part[:, 0]), x)
  x = tf.einsum("bjw,btiwc->btijc", weights(part[:, 1]), x)
  return tf.cast(x + 0.5, tf.uint8)


def augment_video(video: tf.Tensor, seed: tf.Tensor, augment: ConfigDict
                  ) -> tf.Tensor:
  """Flips clips and changes their colours, the same for all frames of one.

  Colours are changed in some clips, all of them that `augment` says; such a
  clip is treated as tf.image's adjust_brightness, adjust_saturation,
  adjust_contrast and adjust_hue treat its frames, one after the other; then
  colours are clipped to [0, 1] (paper, appendix A.2.1).

  Args:
    video: uint8 [B, T, H, W, 3].
    seed: int32 [2], of the step.
    augment: has flip (bool), brightness (the largest delta, of 1), saturation,
      contrast (factors are within 1 ± these), hue (the largest turn, of 1),
      color_probability, of a clip to have its colours changed.

  Returns:
    float32 [B, T, H, W, 3] in [-1, 1].
  """

  def draw(site, least, most):  # [B, 1, 1, 1, 1]
    uniform = seeds.uniform_rows(video.shape[0], [1, 1, 1, 1],
                                 seeds.fold(seed, site))
    return least + uniform * (most - least)

  draws = {}  # None: as it is
  if augment.flip:
    draws["flipped"] = draw("flip", 0.0, 1.0) < 0.5
  if augment.brightness:
    draws["brightness"] = draw(
        "brightness", -augment.brightness, augment.brightness)
  if augment.saturation:
    draws["saturation"] = draw(
        "saturation", 1 - augment.saturation, 1 + augment.saturation)
  if augment.contrast:
    draws["contrast"] = draw(
        "contrast", 1 - augment.contrast, 1 + augment.contrast)
  if augment.hue:
    draws["hue"] = draw("hue", -augment.hue, augment.hue)
  if augment.color_probability < 1:
    draws["changed"] = draw("colors", 0.0, 1.0) < augment.color_probability
  return _adjust(video, *(draws.get(name) for name in (
      "flipped", "changed", "brightness", "saturation", "contrast", "hue")))


@compiled
def _adjust(video, flipped, changed, brightness, saturation, contrast, hue):
  """uint8 [B, T, H, W, 3] -> float32 in [-1, 1]; all others [B, 1, 1, 1, 1],
  or None for what stays as it is."""
  if flipped is not None:
    video = tf.where(flipped, tf.reverse(video, [3]), video)
  plain = x = tf.cast(video, tf.float32) / 255.0
  if brightness is not None:
    x += brightness
  if saturation is not None:
    x = adjust_saturation(x, saturation)
  if contrast is not None:
    mean = tf.reduce_mean(x, [2, 3], keepdims=True)  # [B, T, 1, 1, 3]
    x = x * contrast + mean * (1.0 - contrast)
  if hue is not None:
    x = adjust_hue(x, hue)
  if changed is not None:
    x = tf.where(changed, x, plain)
  return tf.clip_by_value(x, 0.0, 1.0) * 2.0 - 1.0


def adjust_saturation(x: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
  """Scales the saturation of RGB [..., 3] by a factor that broadcasts to it."""
  value, spread = _value_and_spread(*tf.split(x, 3, -1))
  # In HSV a channel is V - S·V·(a function of the hue): only S changes.
  saturation = tf.where(value > 0, tf.math.divide_no_nan(spread, value), 0.0)
  target = tf.clip_by_value(saturation * factor, 0.0, 1.0)
  return value - (value - x) * tf.math.divide_no_nan(target, saturation)


def adjust_hue(x: tf.Tensor, delta: tf.Tensor) -> tf.Tensor:
  """Turns the hue of RGB [..., 3] by delta, in turns, that broadcasts to it."""
  r, g, b = tf.split(x, 3, -1)  # [..., 1]
  value, spread = _value_and_spread(r, g, b)
  # Hue in sixths of a turn; any where there is no colour.
  turn = tf.math.divide_no_nan(1.0, spread)
  hue = tf.where(
      tf.equal(value, r), (g - b) * turn,
      tf.where(tf.equal(value, g), (b - r) * turn + 2.0, (r - g) * turn + 4.0))
  k = hue + delta * 6.0 + tf.constant([5.0, 3.0, 1.0])  # [..., 3]
  k -= 6.0 * tf.floor(k / 6.0)
  return value - spread * tf.clip_by_value(tf.minimum(k, 4.0 - k), 0.0, 1.0)


def _value_and_spread(r, g, b):
  """The largest of the channels, and how far the smallest is below it."""
  value = tf.maximum(tf.maximum(r, g), b)
  return value, value - tf.minimum(tf.minimum(r, g), b)
