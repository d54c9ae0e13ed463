import types

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tests.data.conftest import check_rows_are_changed_alike
from vatt import seeds
from vatt.data import video

OFF = dict(flip=False, brightness=0, saturation=0, contrast=0, hue=0,
           color_probability=1.0)


def augmentation(**changes):
  return types.SimpleNamespace(**(OFF | changes))


@pytest.fixture(scope="module")
def batch(records):
  """Pictures, noise, and the colours where hue and saturation are undefined:
  uint8 [5, 2, 16, 12, 3]."""
  rng = np.random.default_rng(0)
  clips = [np.stack([records.picture(i, 4 * t, 16, 12) for t in range(2)])
           for i in range(2)]
  clips += [rng.integers(0, 256, [2, 16, 12, 3]).astype(np.uint8)]
  grey = np.repeat(rng.integers(0, 256, [2, 16, 12, 1]), 3, -1).astype(np.uint8)
  primary = rng.choice([0, 255], [2, 16, 12, 3]).astype(np.uint8)
  return tf.constant(np.stack([*clips, grey, primary]))


@pytest.mark.parametrize("num_stored,stored_fps,start,fps,expected", [
    (8, 8.0, 0.0, 8.0, [0, 1, 2, 3]),
    (8, 8.0, 0.5, 8.0, [4, 5, 6, 7]),
    (8, 8.0, 0.75, 8.0, [6, 7, 7, 7]),  # After the end: the last.
    (30, 10.0, 0.0, 5.0, [0, 2, 4, 6]),
    (30, 10.0, 0.0, 20.0, [0, 1, 1, 2]),  # 0.5 goes up.
    (100, 29.97, 1.0, 10.0, [30, 33, 36, 39]),
    (1, 1.0, 0.0, 8.0, [0, 0, 0, 0]),
])
def test_sample_indices(records, num_stored, stored_fps, start, fps, expected):
  def sample(num_stored, stored_fps, start):
    return video.sample_indices(num_stored, stored_fps, start, 4, fps)
  args = (tf.constant(num_stored), tf.constant(stored_fps),
          tf.constant(start, tf.float64))
  assert sample(*args).numpy().tolist() == expected
  assert records.in_dataset(sample, *args).numpy().tolist() == expected


def test_centre_crop_box():
  def box(height, width, aspect=(1.0, 1.0)):
    return video.crop_box(tf.constant(height), tf.constant(width), (1.0, 1.0),
                          aspect).numpy().tolist()
  assert box(40, 40) == [0, 0, 40, 40]
  assert box(30, 50) == [0, 10, 30, 30]
  assert box(51, 30) == [10, 0, 30, 30]
  assert box(100, 400, (0.5, 2.0)) == [0, 100, 100, 200]
  assert box(1, 7) == [0, 3, 1, 1]


@pytest.mark.parametrize("height,width,crops,places", [
    (20, 26, 3, [(0, 0), (0, 3), (0, 6)]),
    (27, 20, 3, [(0, 0), (3, 0), (7, 0)]),
    (20, 27, 1, [(0, 3)]),
    (10, 31, 4, [(0, 0), (0, 7), (0, 14), (0, 21)]),
    (9, 9, 2, [(0, 0), (0, 0)])])
def test_square_boxes(height, width, crops, places):
  found = video.square_boxes(tf.constant(height), tf.constant(width), crops)
  side = min(height, width)
  assert found.numpy().tolist() == [[*place, side, side] for place in places]


def test_one_square_box_is_the_centre_crop():
  for height in range(1, 12):
    for width in range(1, 12):
      args = tf.constant(height), tf.constant(width)
      np.testing.assert_array_equal(
          video.square_boxes(*args, 1)[0],
          video.crop_box(*args, (1.0, 1.0), (1.0, 1.0)))


@pytest.mark.parametrize("encode", [tf.io.encode_jpeg, tf.io.encode_png])
def test_decode_crops_is_decode_then_crop_then_resize(records, encode):
  frames = [encode(records.picture(2, t, 40, 61)).numpy() for t in range(3)]
  frames = tf.constant(frames + frames[2:])  # The last one twice.
  expected = []
  for left in (0, 10, 21):
    for frame in frames:
      whole = tf.io.decode_image(frame, 3).numpy()
      if encode is tf.io.encode_jpeg:
        whole = tf.io.decode_jpeg(frame, 3, dct_method="INTEGER_ACCURATE")
      resized = tf.image.resize(
          whole[:, left:left + 40], [12, 12], antialias=True)
      expected.append(np.floor(resized.numpy() + 0.5))
  expected = np.reshape(expected, [3, 4, 12, 12, 3])
  def decode(frames):
    return video.decode_crops(tf.ensure_shape(frames, [4]), 12, 3)
  for got in decode(frames), records.in_dataset(decode, frames):
    assert got.dtype == tf.uint8
    np.testing.assert_array_equal(got, expected)
  # Of a single one no more than that is decoded. Around its edges colours may
  # then differ by 1: JPEG has a quarter of them.
  single = video.decode_crops(frames, 12, 1)
  np.testing.assert_array_equal(single[0], video.decode_frames(frames, 12))
  np.testing.assert_allclose(single[0], expected[1], atol=1)


def boxes(height, width, area, aspect, n=4000):
  """Crops of n seeds, drawn within tf.data: int [n, 4]."""
  seed = seeds.root(5)
  dataset = tf.data.Dataset.range(n).map(lambda i: video.crop_box(
      tf.constant(height), tf.constant(width), area, aspect,
      tf.random.stateless_uniform(video.CROP_DRAW, seeds.fold(seed, i))))
  return np.stack(list(dataset.as_numpy_iterator()))


def test_random_crops_fit_and_are_spread_as_asked():
  # A small area always fits: nothing is drawn again.
  top, left, height, width = boxes(200, 300, (0.02, 0.1), (0.5, 2.0)).T
  assert (top >= 0).all() and (left >= 0).all()
  assert (top + height <= 200).all() and (left + width <= 300).all()
  area = height * width / 60_000
  aspect = np.log2(width / height)
  assert scipy.stats.kstest(
      area, scipy.stats.uniform(0.02, 0.08).cdf).pvalue > 1e-3
  assert scipy.stats.kstest(
      aspect, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-3
  assert scipy.stats.kstest(
      (top + 0.5) / (200 - height + 1), "uniform").pvalue > 1e-3
  assert scipy.stats.kstest(
      (left + 0.5) / (300 - width + 1), "uniform").pvalue > 1e-3


def test_random_crops_of_any_area():
  top, left, height, width = boxes(60, 80, (0.08, 1.0), (0.5, 2.0)).T
  assert (top + height <= 60).all() and (left + width <= 80).all()
  area = height * width / 4800
  assert area.min() < 0.1 and area.max() > 0.97
  aspect = width / height
  assert 0.45 < aspect.min() < 0.6 and 1.7 < aspect.max() < 2.2


def test_a_crop_that_never_fits_is_the_largest_centred_one():
  crops = boxes(30, 50, (1.0, 1.0), (1.0, 1.0), 5)
  np.testing.assert_array_equal(crops, [[0, 10, 30, 30]] * 5)


@pytest.mark.parametrize("encode", [tf.io.encode_jpeg, tf.io.encode_png])
def test_decode_frames_is_decode_then_crop_then_resize(records, encode):
  frames = [encode(records.picture(2, t, 40, 60)).numpy() for t in range(3)]
  frames = tf.constant(frames + frames[2:])  # The last one twice.
  draw = tf.random.stateless_uniform(video.CROP_DRAW, seeds.root(1))
  area, aspect = (0.2, 0.5), (0.5, 2.0)
  top, left, height, width = video.crop_box(
      tf.constant(40), tf.constant(60), area, aspect, draw).numpy()
  expected = []
  for frame in frames:
    whole = tf.io.decode_image(frame, 3).numpy()
    if encode is tf.io.encode_jpeg:
      whole = tf.io.decode_jpeg(frame, 3, dct_method="INTEGER_ACCURATE")
    crop = whole[top:top + height, left:left + width]
    resized = tf.image.resize(crop, [12, 12], antialias=True)
    expected.append(np.floor(resized.numpy() + 0.5))
  def decode(frames):
    return video.decode_frames(
        tf.ensure_shape(frames, [4]), 12, area, aspect, draw)
  for got in decode(frames), records.in_dataset(decode, frames):
    assert got.dtype == tf.uint8 and got.shape == [4, 12, 12, 3]
    np.testing.assert_array_equal(got, expected)


def test_decode_frames_enlarges_and_keeps(records):
  frame = tf.io.encode_png(records.picture(0, 1, 16, 16))[None]
  np.testing.assert_array_equal(
      video.decode_frames(frame, 16)[0], records.picture(0, 1, 16, 16))
  large = video.decode_frames(frame, 32)[0].numpy()
  # Pixel 1 lies at 0.25 between those at 0 and 1, pixel 0 before the first.
  first, second = records.picture(0, 1, 16, 16)[0, :2].astype(float)
  np.testing.assert_allclose(large[0, 0], first, atol=0.5)
  np.testing.assert_allclose(large[0, 1], 0.75 * first + 0.25 * second,
                             atol=0.5)


def test_frames_are_filtered_where_they_shrink_much(records):
  """Down to a half along either axis, they are sampled bilinearly."""
  for height, width, antialias in (
      (35, 30, False), (48, 40, False), (49, 49, True), (30, 49, True)):
    frame = records.picture(0, 1, height, width)
    resized = tf.image.resize(frame, [24, 24], antialias=antialias).numpy()
    np.testing.assert_array_equal(
        video.decode_frames(tf.io.encode_png(frame)[None], 24, (1.0, 1.0),
                            (0.5, 2.0))[0], np.floor(resized + 0.5))
  # Stripes too fine for the result are grey, not stripes of another width.
  stripes = np.zeros([64, 64, 3], np.uint8)
  stripes[:, ::2] = 255
  got = video.decode_frames(tf.io.encode_png(stripes)[None], 24)[0].numpy()
  assert np.ptp(got[:, 2:-2].astype(int)) < 64


@pytest.mark.parametrize("area, kept", [
    ((0.1, 0.1), "both"), ((0.6, 0.6), "height"), ((1.0, 1.0), "none")])
def test_what_is_not_enlarged_is_decode_then_crop_then_shrink(
    records, area, kept):
  """Against tf.image on the crop, along each axis by itself; then `enlarge`
  makes of it what `decode_frames` makes on the host."""
  height, width, size = 40, 90, 36
  frames = [tf.io.encode_png(records.picture(2, t, height, width)).numpy()
            for t in range(3)]
  frames = tf.constant(frames + frames[2:])  # The last one twice.
  draw = tf.random.stateless_uniform(video.CROP_DRAW, seeds.root(1))
  aspect = (1.9, 2.0)
  top, left, h, w = video.crop_box(
      tf.constant(height), tf.constant(width), area, aspect, draw).numpy()
  assert kept == ("both" if h <= size and w <= size else
                  "height" if h <= size else "none")
  assert not max(h, w) > 2 * size or kept == "none"
  expected = []
  for frame in frames:
    crop = tf.io.decode_png(frame)[top:top + h, left:left + w]
    small = tf.image.resize(crop, [min(h, size), min(w, size)],
                            antialias=bool(max(h, w) > 2 * size))
    expected.append(small.numpy())
  def decode(frames):
    return video.decode_unenlarged(
        tf.ensure_shape(frames, [4]), size, area, aspect, draw)
  for got, part in decode(frames), records.in_dataset(decode, frames):
    assert got.dtype == tf.uint8 and got.shape == [4, size, size, 3]
    assert part.numpy().tolist() == [min(h, size), min(w, size)]
    corner = got.numpy()[:, :part[0], :part[1]]
    # At halves between levels, either.
    assert np.abs(corner - expected).max() < 0.5 + 1e-3
    assert got.numpy().astype(int).sum() == corner.astype(int).sum()  # 0 else
  # Rounded to levels between both axes, where one of them shrinks.
  np.testing.assert_allclose(
      video.enlarge(got[None], part[None])[0].numpy().astype(int),
      video.decode_frames(frames, size, area, aspect, draw).numpy().astype(int),
      atol=1)


@pytest.mark.parametrize("jit", [False, True])
def test_enlarge_is_bilinear(jit):
  """Each clip by its own part, as tf.image.resize does; compiled, too."""
  rng = np.random.default_rng(0)
  clips = rng.integers(0, 256, [4, 2, 24, 24, 3]).astype(np.uint8)
  parts = [(24, 24), (1, 1), (7, 24), (23, 10)]
  got = tf.function(video.enlarge, jit_compile=jit)(
      tf.constant(clips), tf.constant(parts)).numpy()
  assert got.dtype == np.uint8
  for found, clip, (height, width) in zip(got, clips, parts):
    expected = tf.image.resize(clip[:, :height, :width], [24, 24]).numpy()
    # At halves between levels sums of other order may go the other way.
    assert np.abs(found - expected).max() < 0.5 + 1e-4
  np.testing.assert_array_equal(got[0], clips[0])


def test_a_frame_that_is_no_image_is_an_error(records):
  good = tf.io.encode_jpeg(records.picture(0, 0)).numpy()
  for frames in [b"nothing"], [good, good[:40]], [b""]:
    with pytest.raises(tf.errors.InvalidArgumentError):
      video.decode_frames(tf.constant(frames), 8)


def test_normalize_video():
  x = video.normalize_video(tf.constant([0, 51, 255], tf.uint8))
  np.testing.assert_allclose(x, [-1, -0.6, 1], atol=1e-6)


def test_augment_video_without_augmentation_normalizes(batch):
  np.testing.assert_allclose(
      video.augment_video(batch, seeds.root(0), augmentation()),
      video.normalize_video(batch), atol=1e-6)


@pytest.mark.parametrize("field,reference", [
    ("brightness", tf.image.adjust_brightness),
    ("saturation", tf.image.adjust_saturation),
    ("contrast", tf.image.adjust_contrast),
    ("hue", tf.image.adjust_hue),
])
def test_each_sample_is_changed_as_tf_image_does(batch, field, reference):
  amount = {"brightness": 32 / 255, "hue": 0.2}.get(field, 0.4)
  seed = seeds.root(7)
  got = video.augment_video(batch, seed, augmentation(**{field: amount}))
  u = seeds.uniform_rows(5, [1, 1, 1, 1], seeds.fold(seed, field)).numpy()
  centre = 0.0 if field in ("brightness", "hue") else 1.0
  values = centre - amount + 2 * amount * u.reshape(5)
  assert len(set(values)) == 5
  for sample, frames, value in zip(got, batch, values):
    expected = reference(tf.cast(frames, tf.float32) / 255, value)
    expected = tf.clip_by_value(expected, 0, 1) * 2 - 1
    np.testing.assert_allclose(sample, expected, atol=5e-6)


def test_all_changes_after_one_another_are_those_of_tf_image(batch):
  augment = augmentation(brightness=0.3, saturation=0.4, contrast=0.4, hue=0.2)
  seed = seeds.root(11)
  got = video.augment_video(batch, seed, augment)
  draws = {site: seeds.uniform_rows(5, [1, 1, 1, 1], seeds.fold(seed, site))
           .numpy().reshape(5) for site in
           ("brightness", "saturation", "contrast", "hue")}
  for i in range(5):
    x = tf.cast(batch[i], tf.float32) / 255
    # Brightness leaves [0, 1]: the next ones see colours out of it.
    x = tf.image.adjust_brightness(x, 0.3 * (2 * draws["brightness"][i] - 1))
    x = tf.image.adjust_saturation(x, 0.6 + 0.8 * draws["saturation"][i])
    x = tf.image.adjust_contrast(x, 0.6 + 0.8 * draws["contrast"][i])
    x = tf.image.adjust_hue(x, 0.2 * (2 * draws["hue"][i] - 1))
    np.testing.assert_allclose(
        got[i], tf.clip_by_value(x, 0, 1) * 2 - 1, atol=2e-5)


def test_hue_of_given_colours():
  red = tf.constant([1.0, 0.0, 0.0])
  np.testing.assert_allclose(  # A third of a turn: green.
      video.adjust_hue(red, tf.constant([1 / 3])), [0, 1, 0], atol=1e-6)
  np.testing.assert_allclose(
      video.adjust_saturation(tf.constant([1.0, 0.5, 0.0]), 0.5),
      [1.0, 0.75, 0.5], atol=1e-6)


def test_flip_mirrors_half_of_the_clips_with_all_their_frames(batch):
  many = tf.tile(batch[:1], [400, 1, 1, 1, 1])
  got = video.augment_video(many, seeds.root(2), augmentation(flip=True))
  plain = video.normalize_video(batch[0])
  mirrored = plain[:, :, ::-1]
  is_plain = np.abs(got - plain).max((1, 2, 3, 4)) < 1e-6
  is_mirrored = np.abs(got - mirrored).max((1, 2, 3, 4)) < 1e-6
  assert (is_plain ^ is_mirrored).all()
  assert scipy.stats.binomtest(int(is_plain.sum()), 400).pvalue > 1e-3


def test_colours_of_some_clips_are_changed_and_no_others(batch):
  """Each change is made in the same clips, or in none of them."""
  many = tf.tile(batch[:1], [400, 1, 1, 1, 1])
  plain = video.normalize_video(batch[:1])

  def changed(probability, **changes):
    got = video.augment_video(many, seeds.root(2), augmentation(
        color_probability=probability, **changes))
    return np.abs(got - plain).max((1, 2, 3, 4)) > 1e-6

  some = changed(0.8, brightness=0.1)
  assert scipy.stats.binomtest(int(some.sum()), 400, 0.8).pvalue > 1e-3
  for field in ("saturation", "contrast", "hue"):
    np.testing.assert_array_equal(changed(0.8, **{field: 0.2}), some)
  assert changed(1.0, brightness=0.1).all()
  assert not changed(0.0, brightness=0.1).any()
  # A mirrored clip may have its colours, or not: the draws are independent.
  mirrored = changed(0.0, flip=True)
  table = scipy.stats.contingency.crosstab(mirrored, some).count
  assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


def test_a_clip_is_changed_alike_in_any_batch_and_on_any_replica(batch):
  """To the last bit."""
  augment = augmentation(flip=True, brightness=0.1, saturation=0.4,
                         contrast=0.4, hue=0.2, color_probability=0.5)
  batch = tf.concat([batch, batch[:3]], 0)
  check_rows_are_changed_alike(
      lambda batch: video.augment_video(batch, seeds.root(1), augment), batch)


def test_augment_video_by_seed_in_tf_data_and_compiled(batch, records):
  augment = augmentation(flip=True, brightness=0.1, saturation=0.4,
                         contrast=0.4, hue=0.2, color_probability=0.5)
  def change(batch, seed):
    return video.augment_video(tf.ensure_shape(batch, [5, 2, 16, 12, 3]), seed,
                               augment)
  seed = seeds.root(3)
  expected = change(batch, seed)
  assert expected.dtype == tf.float32
  assert np.abs(expected).max() <= 1.0
  np.testing.assert_array_equal(expected, change(batch, seed))
  assert np.abs(expected - change(batch, seeds.root(4))).max() > 0.1
  np.testing.assert_allclose(
      records.in_dataset(change, batch, seed), expected, atol=1e-5)
  compiled = tf.function(change, jit_compile=True)
  np.testing.assert_allclose(compiled(batch, seed), expected, atol=1e-5)
