"""Pictures as on screen: what is expected is worked out from the standards."""
import gc
import io
import pathlib
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from vatt.data.ingest import encoding, pictures
from vatt.data.ingest import media as media_lib
from vatt.data.ingest.media import MediaError

RGB = np.array([[230, 40, 20], [30, 200, 60], [20, 60, 240], [128, 128, 128]])
# Kr and Kb of a matrix by its number in H.273, table 4.
KR_KB = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114),
         7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
LIMITED, FULL = 1, 2


def ycbcr(rgb, matrix, full=False, bits=8):
  """Y, Cb and Cr of colours 0 ... 255, by equations 38 to 55 of H.273."""
  kr, kb = KR_KB[matrix]
  r, g, b = np.moveaxis(rgb / 255, -1, 0)
  y = kr * r + (1 - kr - kb) * g + kb * b
  cb, cr = (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)
  unit, zero = 2 ** (bits - 8), 2 ** (bits - 1)
  if full:
    y, cb, cr = (2 ** bits - 1) * np.array([y, cb, cr])
  else:
    y, cb, cr = 219 * unit * y + 16 * unit, 224 * unit * cb, 224 * unit * cr
  return [np.round(y).astype(int), np.round(cb + zero).astype(int),
          np.round(cr + zero).astype(int)]


def stripes(values, width, height):
  """A plane with the four values side by side."""
  return np.broadcast_to(np.repeat(values, width // 4), (height, width))


def frame_of(pixels, planes):
  """A frame of planes, each int [H, W]."""
  height, width = planes[0].shape
  frame = av.VideoFrame(width, height, pixels)
  for plane, values in zip(frame.planes, planes):
    kind = np.uint8 if values.max() < 256 and "1" not in pixels[6:] else "<u2"
    row = np.zeros([plane.height, plane.line_size], np.uint8)
    data = np.ascontiguousarray(values.astype(kind)).view(np.uint8)
    row[:len(data), :data.shape[1]] = data
    plane.update(row)
  return frame


def write(path, frames, codec="ffv1", matrix=2, span=0, aspect=None, start=0,
          options=None):
  """Encodes frames, 25 a second, as they are."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=25, options=options or {})
    context = stream.codec_context
    stream.width, stream.height = frames[0].width, frames[0].height
    stream.pix_fmt = frames[0].format.name
    context.colorspace, context.color_range = matrix, span
    if aspect:
      context.sample_aspect_ratio = aspect
    for i, frame in enumerate(frames):
      frame.pts, frame.time_base = start + i, Fraction(1, 25)
      frame.colorspace, frame.color_range = matrix, span
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return str(path)


def colours_of(picture):
  """The four colours of a picture of `stripes`."""
  height, width, _ = picture.shape
  return picture[height // 2, [width * (2 * i + 1) // 8 for i in range(4)]]


def encoded(path, size=256, start=0.0, end=None, fps=10.0, mode="RGB"):
  """The frames of a clip as records have them, decoded: int [F, H, W, 3]."""
  clip = encoding.read_encoded(path, start, end, fps, size, 8000)
  return np.stack([
      Image.open(io.BytesIO(data)).convert("YCbCr") if mode == "YCbCr"
      else Image.open(io.BytesIO(data)) for data in clip.frames]).astype(int)


# ---- colours

@pytest.mark.parametrize("pixels, size, tag, span, matrix", [
    ("yuv420p", (64, 48), 2, 0, 5),  # SD that says nothing
    ("yuv420p", (1272, 576), 2, 0, 5),
    ("yuv420p", (1280, 48), 2, 0, 1),  # HD that says nothing
    ("yuv420p", (64, 578), 2, 0, 1),
    ("yuv420p", (1280, 48), 6, 0, 6),  # what is said holds
    ("yuv420p", (64, 48), 1, 0, 1),
    ("yuv422p", (64, 48), 7, LIMITED, 7),
    ("yuv420p", (64, 48), 9, LIMITED, 9),
    ("yuv444p", (64, 48), 10, LIMITED, 10),
    ("yuv420p", (64, 48), 3, LIMITED, 5),  # reserved
    ("yuv420p", (64, 48), 5, FULL, 5),
    ("yuv444p", (64, 48), 1, FULL, 1),
    ("yuv420p10le", (64, 48), 9, LIMITED, 9),
    ("yuv420p10le", (1280, 48), 2, 0, 1),
    ("yuv422p12le", (64, 48), 1, FULL, 1),
])
def test_matrix_and_range(tmp_path, pixels, size, tag, span, matrix):
  width, height = size
  bits = int(pixels[7:9] or 8) if pixels[7:] else 8
  y, *chroma = ycbcr(RGB, matrix, span == FULL, bits)
  across, down = pixels[3:6] != "444", pixels[3:6] == "420"
  planes = [stripes(y, width, height), *(
      stripes(c, width >> across, height >> down) for c in chroma)]
  path = write(tmp_path / "a.mkv", [frame_of(pixels, planes)] * 3,
               matrix=tag, span=span)
  picture = media_lib.read(path, size=48).frames[0]
  np.testing.assert_allclose(colours_of(picture), RGB, atol=2)
  np.testing.assert_allclose(colours_of(encoded(path)[0]), RGB, atol=3)


@pytest.mark.parametrize("matrix, span", [(1, 0), (9, FULL), (6, LIMITED)])
def test_matrix_and_range_in_the_stream_alone(tmp_path, matrix, span):
  """H.264 in a transport stream, where no container says them."""
  y, *chroma = ycbcr(RGB, matrix, span == FULL)
  planes = [stripes(y, 64, 48), *(stripes(c, 32, 24) for c in chroma)]
  path = write(tmp_path / "a.ts", [frame_of("yuv420p", planes)] * 5, "libx264",
               matrix, span, options={"qp": "5"})
  np.testing.assert_allclose(
      colours_of(media_lib.read(path).frames[0]), RGB, atol=4)
  np.testing.assert_allclose(colours_of(encoded(path)[0]), RGB, atol=4)


def test_motion_jpeg_is_bt601_and_full_range_in_hd_too(tmp_path):
  y, *chroma = ycbcr(RGB, 5, True)
  planes = [stripes(y, 1280, 48), *(stripes(c, 640, 24) for c in chroma)]
  path = write(tmp_path / "a.avi", [frame_of("yuvj420p", planes)] * 3, "mjpeg",
               options={"qmin": "1", "qmax": "1"})
  np.testing.assert_allclose(
      colours_of(media_lib.read(path, size=48).frames[0]), RGB, atol=3)
  np.testing.assert_allclose(colours_of(encoded(path, 48)[0]), RGB, atol=3)


def test_colours_that_are_not_read_are_named(tmp_path):
  frame = frame_of("yuv420p", [np.full([48, 64], 90), *2 * [
      np.full([24, 32], 90)]])
  path = write(tmp_path / "a.mkv", [frame] * 3, matrix=8)
  with pytest.raises(MediaError, match="^its colours are YCgCo, which is not"):
    media_lib.read(path)


@pytest.mark.parametrize("span, gray", [
    (0, [0, 90, 180, 255]), (FULL, [0, 90, 180, 255]),
    # (90 - 16)·255 / 219 and so on
    (LIMITED, [0, 86, 191, 255])])
def test_gray(tmp_path, span, gray):
  path = write(tmp_path / "a.mkv", [frame_of("gray", [
      stripes([0, 90, 180, 255], 64, 48)])] * 3, span=span)
  found = colours_of(media_lib.read(path).frames[0])
  np.testing.assert_array_equal(found, np.repeat(gray, 3).reshape(4, 3))
  np.testing.assert_allclose(colours_of(encoded(path)[0]), found, atol=1)


@pytest.mark.parametrize("pixels, codec", [
    ("rgb24", "png"), ("rgba", "png"), ("rgb24", "libx264rgb")])
def test_rgb_is_as_it_is(tmp_path, pixels, codec):
  rgb = np.uint8(np.stack([stripes(c, 64, 48) for c in RGB.T], -1))
  frame = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format=pixels)
  path = write(tmp_path / "a.mov", [frame] * 3, codec,
               options={"qp": "0"} if codec == "libx264rgb" else {})
  np.testing.assert_array_equal(media_lib.read(path).frames[0], rgb)


def test_palette(tmp_path):
  index = np.uint8(stripes([0, 1, 2, 3], 64, 48))
  palette = np.full([256, 4], 255, np.uint8)
  palette[:4, 1:] = RGB  # ARGB
  frame = av.VideoFrame.from_ndarray((index, palette), "pal8")
  path = write(tmp_path / "a.gif", [frame] * 3, "gif")
  np.testing.assert_array_equal(
      colours_of(media_lib.read(path).frames[0]), RGB)


@pytest.mark.parametrize("pixels", ["rgba", "yuva420p"])
def test_what_is_transparent_is_over_black(tmp_path, pixels):
  alpha = np.array([255, 128, 0, 51])
  if pixels == "rgba":
    frame = av.VideoFrame.from_ndarray(np.uint8(np.stack([
        stripes(c, 64, 48) for c in (*RGB.T, alpha)], -1)), "rgba")
    path = write(tmp_path / "a.mov", [frame] * 3, "png")
  else:
    y, *chroma = ycbcr(RGB, 5)
    frame = frame_of("yuva420p", [stripes(y, 64, 48), *(
        stripes(c, 32, 24) for c in chroma), stripes(alpha, 64, 48)])
    path = write(tmp_path / "a.mkv", [frame] * 3, "ffv1")
  want = RGB * alpha[:, None] / 255
  np.testing.assert_allclose(
      colours_of(media_lib.read(path).frames[0]), want, atol=2)
  np.testing.assert_allclose(colours_of(encoded(path)[0]), want, atol=3)


def test_alpha_that_nobody_has_set_hides_nothing(tmp_path):
  """As in 32-bit AVI, whose fourth byte is often 0."""
  rgba = np.uint8(np.stack([stripes(c, 64, 48) for c in (*RGB.T, 4 * [0])], -1))
  frame = av.VideoFrame.from_ndarray(rgba, "rgba").reformat(format="bgra")
  path = write(tmp_path / "a.avi", [frame] * 3, "rawvideo")
  with av.open(path) as container:
    assert next(container.decode(video=0)).format.name == "bgra"
  np.testing.assert_array_equal(
      media_lib.read(path).frames[0], rgba[..., :3])


def test_what_is_transparent_everywhere_is_black(tmp_path):
  frames = [av.VideoFrame.from_ndarray(np.full(
      (16, 16, 4), [250, 250, 250, alpha], np.uint8), "rgba")
            for alpha in (0, 255, 0)]
  path = write(tmp_path / "a.mov", frames, "png")
  assert [frame.max() for frame in media_lib.read(path, fps=25).frames] == [
      0, 250, 0]


def smooth(width, height):
  """A picture of many colours that change slowly: float [H, W, 3]."""
  y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
  return 60 + 120 * np.stack([x, y, 0.5 + 0.5 * np.sin(3 * x + 2 * y)], -1)


@pytest.mark.parametrize("pixels, size, matrix, span", [
    ("yuv420p", (96, 64), 5, LIMITED), ("yuv420p", (97, 64), 1, LIMITED),
    ("yuv420p", (131, 95), 9, FULL), ("yuv422p", (97, 64), 7, LIMITED),
    ("yuv444p", (96, 65), 1, FULL), ("yuv411p", (96, 64), 5, LIMITED),
    ("yuv420p10le", (97, 64), 1, LIMITED), ("yuv444p12le", (96, 64), 5, FULL)])
def test_planes_that_do_not_become_rgb_have_its_colours(
    tmp_path, pixels, size, matrix, span):
  """Those of JPEG are made of those of the frame, in all of their sizes."""
  image = smooth(*size)
  bits = int(pixels[7:9] or 8) if pixels[7:] else 8
  y, *chroma = ycbcr(image, matrix, span == FULL, bits)
  across, down = {"0": (2, 2), "1": (4, 1), "2": (2, 1), "4": (1, 1)}[
      pixels[5]] if pixels[3:5] != "44" else (1, 1)
  # In the middle of the pixels that share it.
  edges = [[(0, -size[1] % down), (0, -size[0] % across)], "edge"]
  planes = [y, *(np.round(np.pad(c, *edges).reshape(
      -(-size[1] // down), down, -1, across).mean((1, 3))).astype(int)
                 for c in chroma)]
  path = write(tmp_path / "a.mkv", [frame_of(pixels, planes)] * 3,
               matrix=matrix, span=span)
  for small in (64, 40):
    shown = media_lib.read(path, size=small).frames[0].astype(float)
    found = encoded(path, small)[0]
    height, width, _ = found.shape
    want = bicubic(image, width, height)
    assert found.shape == shown.shape and np.abs(found - shown).mean() < 1.5
    assert np.abs(found - want)[2:-2, 2:-2].mean() < 2
    assert np.abs((found - want)[2:-2, 2:-2].mean((0, 1))).max() < 1.3


@pytest.mark.parametrize("matrix, span", [
    (5, LIMITED), (1, LIMITED), (9, FULL)])
def test_colours_of_jpeg_are_rounded(matrix, span):
  """libswscale would cut: by 0.4 on average, and up to 1."""
  kr, kb = KR_KB[matrix]
  scaler = pictures.PlaneScaler()
  for value in range(60, 200, 13):
    y, cb, cr = 128, value, 256 - value // 2
    frame = frame_of("yuv420p", [np.full([8, 8], y), np.full([4, 4], cb),
                                 np.full([4, 4], cr)])
    frame.color_range = span
    found = [np.frombuffer(plane, np.uint8)[0]
             for plane in scaler(frame, matrix, 8, 8).planes]
    y, cb, cr = ((y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224) if (
        span == LIMITED) else (y / 255, (cb - 128) / 255, (cr - 128) / 255)
    r, b = y + (2 - 2 * kr) * cr, y + (2 - 2 * kb) * cb
    g = (y - kr * r - kb * b) / (1 - kr - kb)
    luma = 0.299 * r + 0.587 * g + 0.114 * b  # JFIF 1.02
    np.testing.assert_allclose(found, 255 * np.array([
        luma, (b - luma) / 1.772, (r - luma) / 1.402]) + [0, 128, 128],
                               atol=0.52)


@pytest.mark.parametrize("size", [64, 48])
def test_colours_are_where_they_are(tmp_path, size):
  """Chroma of H.264 is at every second pixel, that of JPEG between two."""
  width, height = 96, 64
  ramp = 30 + 2 * np.arange(width)  # of Cb, from pixel to pixel
  planes = [np.full([height, width], 120),
            np.broadcast_to(ramp[::2], (height // 2, width // 2)),
            np.full([height // 2, width // 2], 128)]
  path = write(tmp_path / "a.mp4", [frame_of("yuv420p", planes)] * 3,
               "libx264", 5, LIMITED, options={"qp": "1"})
  found = encoded(path, size, mode="YCbCr")[0]
  pixels = (np.arange(found.shape[1]) + 0.5) * width / found.shape[1] - 0.5
  want = 128 + (30 + 2 * pixels - 128) * 255 / 224
  error = (found[..., 1] - want)[:, 8:-8].mean()
  # libswscale rounds down, by 0.4; half a pixel is 1.1 or, of 48, 1.5.
  assert abs(error) < 0.9


def test_what_jpeg_takes_of_other_frames_is_what_is_shown(tmp_path, media):
  """Of those that are turned, mirrored or fitted in."""
  path = pathlib.Path(media.write_media(
      tmp_path / "a.mp4", [np.uint8(smooth(48, 32))] * 3))
  for matrix in EIGHT:
    set_matrix(path, *matrix)
    shown = media_lib.read(str(path)).frames[0].astype(int)
    found = encoded(str(path))[0]
    assert found.shape == shown.shape and np.abs(found - shown).mean() < 2
  path = join(tmp_path / "a.ts", ((96, 48), 1, 2), ((48, 96), 1, 2))
  shown = media_lib.read(path, fps=5).frames.astype(int)
  found = encoded(path, fps=5)
  assert not shown[-1, :, :30].any() and found[-1, :, :30].max() < 3
  assert np.abs(found - shown).mean() < 3


def test_frames_are_kept_no_longer_than_they_are_needed(tmp_path, media):
  """A cycle would keep 3 MB of each of them, until garbage is collected."""
  path = media.write_media(tmp_path / "a.mp4", [media.numbered(3)] * 50)
  gc.collect()
  gc.disable()
  try:
    assert len(encoding.read_encoded(path, 0.0, None, 10.0, 24, 8000).frames)
    assert not any(isinstance(one, av.VideoFrame) for one in gc.get_objects())
  finally:
    gc.enable()


# ---- scaling

def bicubic(image, width, height):
  """Scales down by the cubic of Keys (1981), a = -0.6, as wide as the pixels
  of the result: float [H, W, C]."""
  def weights(size, wanted):
    centre = (np.arange(wanted) + 0.5) * size / wanted - 0.5
    x = np.abs(np.arange(size) - centre[:, None]) * wanted / size
    a = -0.6
    near = ((a + 2) * x - (a + 3)) * x ** 2 + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    w = np.where(x < 1, near, np.where(x < 2, far, 0))
    return w / w.sum(1, keepdims=True)
  h, w, _ = image.shape
  rows = np.tensordot(weights(h, height), image.astype(float), 1)
  # [W', W] and [H', W, C] -> [H', W', C]
  return (weights(w, width) @ rows).clip(0, 255)


def test_scaling_is_bicubic_without_aliases(tmp_path):
  chance = np.random.default_rng(0)
  image = chance.integers(256, size=(120, 160, 3)).astype(np.uint8)
  image[:, 80:] = image[:, 80:] // 8 + 100
  image[40:80] = 255 * (np.arange(160)[:, None] // 7 % 2)
  path = write(tmp_path / "a.mov", [
      av.VideoFrame.from_ndarray(image, "rgb24")] * 3, "png")
  for size, mean, most in ((80, 0.3, 1), (45, 2, 30)):
    want = bicubic(image, 2 * round(size * 2 / 3), size)
    error = np.abs(media_lib.read(path, size=size).frames[0] - want)
    # At the edges others may do otherwise, as with the tails of a wide filter.
    assert error[4:-4, 4:-4].mean() < mean and error[4:-4, 4:-4].max() < most


@pytest.mark.parametrize("size, small, pixels", [
    ((168, 272), 42, "yuv420p"), ((96, 320), 24, "yuv420p10le"),
    ((520, 272), 32, "yuv422p")])
def test_many_rows_are_scaled_without_aliases(tmp_path, size, small, pixels):
  """Of what JPEG takes: four times as many rows, or eight times."""
  width, height = size
  chance = np.random.default_rng(0)
  unit = 4 if "10" in pixels else 1
  luma = chance.integers(70, 186, size=(height, width))
  luma[:, width // 2:] = 70 + 110 * (np.arange(height)[:, None] // 7 % 2)
  cb = np.broadcast_to(
      113 + 30 * np.arange(height) // height, (width // 2, height)).T
  if "420" in pixels:
    cb = (cb[::2] + cb[1::2]) // 2
  path = write(tmp_path / "a.mkv", [
      frame_of(pixels, [unit * luma, unit * cb, unit * (256 - cb)])] * 3,
               matrix=5, span=FULL)
  found = encoded(path, small, mode="YCbCr")[0]
  planes = np.stack([luma, *2 * [
      cb.repeat(height // len(cb), 0).repeat(2, 1)]], -1)
  planes[..., 2] = 256 - planes[..., 1]
  want = bicubic(planes, *found.shape[1::-1])
  error = (found - want)[2:-2, 2:-2]
  assert np.all(np.abs(error).mean((0, 1)) < [3, 1, 1])
  assert np.all(np.abs(error.mean((0, 1))) < [0.8, 1, 1])


# ---- the display matrix

def laid(picture, a, b, c, d):
  """A picture where each pixel (x, y), from the middle, goes to
  (a x + c y, b x + d y)."""
  height, width, _ = picture.shape
  out = np.zeros_like(picture if a else picture.swapaxes(0, 1))
  for row in range(height):
    for column in range(width):
      x, y = column - (width - 1) / 2, row - (height - 1) / 2
      x, y = a * x + c * y, b * x + d * y
      out[round(y + (out.shape[0] - 1) / 2),
          round(x + (out.shape[1] - 1) / 2)] = picture[row, column]
  return out


EIGHT = [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1),
         (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0)]


def set_matrix(path, a, b, c, d):
  data = bytearray(path.read_bytes())
  struct.pack_into(">9i", data, data.index(b"tkhd") + 44, *(
      round(65536 * value) for value in (a, b, 0, c, d, 0, 0, 0, 16384)))
  path.write_bytes(data)


def test_display_matrix(tmp_path, media):
  picture = np.full((24, 48, 3), 40, np.uint8)
  picture[:12, :24], picture[:12, 24:], picture[12:, :24] = (
      (255, 0, 0), 255, (0, 0, 255))
  path = pathlib.Path(media.write_media(tmp_path / "a.mp4", [picture] * 3))
  plain = media_lib.read(str(path)).frames[0]
  assert np.abs(plain[[6, 6, 18, 18], [12, 36, 12, 36]] - [
      [255, 0, 0], 3 * [255], [0, 0, 255], 3 * [40]]).max() < 12
  for matrix in EIGHT:
    set_matrix(path, *matrix)
    np.testing.assert_array_equal(
        media_lib.read(str(path)).frames[0], laid(plain, *matrix))
  for degrees, nearest in ((20, 0), (70, 6), (100, 6), (170, 3), (-80, 5)):
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    set_matrix(path, cos, sin, -sin, cos)
    np.testing.assert_array_equal(
        media_lib.read(str(path)).frames[0], laid(plain, *EIGHT[nearest]))
  set_matrix(path, 0, 0, 0, 0)
  np.testing.assert_array_equal(media_lib.read(str(path)).frames[0], plain)


def test_real_mirrors(test_data):
  white, red, blue = 3 * [255], [255, 0, 0], [0, 0, 255]
  for name, want in (("plain", [[white, white], [red, blue]]),
                     ("hflip", [[white, white], [blue, red]]),
                     ("vflip", [[red, blue], [white, white]])):
    clip = media_lib.read(str(test_data / f"cases/{name}.mp4"))
    height, width = clip.frames.shape[1:3]
    for frame in clip.frames:
      corners = frame[[[height // 8], [-height // 8]],
                      [[width // 4, 3 * width // 4]]]
      np.testing.assert_allclose(corners, want, atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_photograph(tmp_path, orientation):
  """As cameras write it, in a film of Motion JPEG."""
  image = np.zeros((32, 64, 3), np.uint8)
  image[:16, :32], image[:16, 32:], image[16:, :32] = 255, (255, 0, 0), 128
  image, data = Image.fromarray(image), io.BytesIO()
  exif = image.getexif()
  exif[0x112] = orientation
  image.save(data, "JPEG", exif=exif, quality=95)
  with av.open(str(tmp_path / "a.mkv"), "w") as container:
    stream = container.add_stream("mjpeg", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 32, "yuvj420p"
    for i in range(3):
      packet = av.Packet(data.getvalue())
      packet.stream, packet.pts, packet.dts = stream, i, i
      packet.time_base = Fraction(1, 25)
      container.mux(packet)
  want = np.asarray(ImageOps.exif_transpose(Image.open(data)))
  frame = media_lib.read(str(tmp_path / "a.mkv")).frames[0]
  assert frame.shape == want.shape
  assert np.abs(frame.astype(int) - want).mean() < 2


# ---- what changes within a clip

CENTRES = np.array([255, 100])  # gray in the middle, of each part


def halves(width, height, part):
  """Red at the left, blue at the right, gray in the middle."""
  picture = np.zeros((height, width, 3), int)
  picture[:, :width // 2], picture[:, width // 2:] = RGB[0], RGB[2]
  picture[height // 3:-(height // 3), width // 3:-(width // 3)] = CENTRES[part]
  return picture


def join(path, *parts, codec="libx264"):
  """A transport stream of parts that follow each other, 25 pictures of each:
  (width, height), pixel aspect, matrix."""
  data = b""
  for part, ((width, height), aspect, matrix) in enumerate(parts):
    y, cb, cr = ycbcr(
        halves(width, height, part), matrix if matrix != 2 else 5)
    frame = frame_of("yuv420p", [y, cb[::2, ::2], cr[::2, ::2]])
    data += pathlib.Path(write(
        path.with_suffix(".part.ts"), [frame] * 25, codec, matrix,
        aspect=Fraction(aspect), start=25 * part, options={"bf": "2"} | (
            {"preset": "ultrafast", "qp": "8"} if codec == "libx264"
            else {"qmax": "3"}))).read_bytes()
  path.write_bytes(data)
  return str(path)


def part_of(frame):
  """Of which part a frame is."""
  height, width, _ = frame.shape
  return np.abs(CENTRES - frame[height // 2, width // 2].mean()).argmin()


def test_size_of_a_real_stream_that_changes(test_data):
  clip = media_lib.read(str(test_data / "cases/size_down.ts"), 5, 7, size=256)
  assert clip.frames.shape == (20, 240, 320, 3)
  # The middles of the bars: their edges are elsewhere in the smaller one.
  bars = clip.frames[:, 30:130:20, 23::46].astype(int)
  assert bars.shape[2] == 7 and np.abs(bars - bars[0]).max() < 25
  assert np.abs(bars - bars[0]).mean() < 2


@pytest.mark.parametrize("first, second, size, want", [
    # The same picture in other pixels.
    (((96, 48), 1, 2), ((64, 32), 1, 2), (96, 48), None),
    (((48, 48), 2, 2), ((96, 48), 1, 2), (48, 24), None),
    (((96, 48), 1, 1), ((96, 48), 1, 6), (96, 48), None),
    # Of another shape it is between bars.
    (((96, 48), 1, 2), ((64, 48), 1, 2), (96, 48), np.s_[:, 16:80]),
    (((96, 48), 1, 2), ((48, 48), Fraction(4, 3), 2), (96, 48),
     np.s_[:, 16:80]),
    (((96, 64), 1, 2), ((96, 48), 1, 2), (96, 64), np.s_[8:56]),
    (((96, 48), 1, 2), ((48, 96), 1, 2), (96, 48), np.s_[:, 36:60]),
])
def test_a_picture_that_changes(tmp_path, first, second, size, want):
  clip = media_lib.read(join(tmp_path / "a.ts", first, second), fps=25)
  width, height = size
  assert clip.frames.shape[1:] == (height, width, 3)
  wanted = [halves(width, height, 0), np.zeros((height, width, 3), int)]
  inside = wanted[1][want or np.s_[:]]
  inside[:] = halves(*inside.shape[1::-1], 1)
  parts = [part_of(frame) for frame in clip.frames]
  assert min(np.bincount(parts)) >= 22 and sorted(parts) == parts
  for part, frame in zip(parts, clip.frames):
    assert np.abs(frame - wanted[part]).mean() < 6


def test_pixel_aspect_of_mpeg2_changes_with_its_key_frame(tmp_path):
  parts = [((96, 72), 1, 5), ((96, 72), Fraction(4, 3), 5)]
  path = join(tmp_path / "a.ts", *parts, codec="mpeg2video")
  frames = media_lib.read(path, fps=25).frames
  bars = [not frame[:5].any() for frame in frames]
  assert bars == [part_of(frame) == 1 for frame in frames]
  assert 22 <= sum(bars) <= 25
  # A clip of the second part alone is of its shape.
  assert media_lib.read(path, 1.2, 1.9).frames.shape[1:] == (54, 96, 3)
  assert media_lib.read(path, 0.5, 1.5).frames.shape[1:] == (72, 96, 3)


def test_what_a_container_says_of_pixels_holds(tmp_path, media):
  picture = np.uint8(halves(96, 48, 0))
  path = media.write_media(tmp_path / "a.mp4", [picture] * 5, aspect=2)
  data = bytearray(pathlib.Path(path).read_bytes())
  struct.pack_into(">2I", data, data.index(b"pasp") + 4, 4, 3)
  pathlib.Path(path).write_bytes(data)
  assert media_lib.read(path).frames.shape[1:] == (36, 96, 3)


def test_matrix_of_a_size_that_changes_is_guessed_once(tmp_path):
  """From HD to SD, nothing said: the colours stay."""
  parts = [((1280, 64), 1, 2), ((640, 32), 1, 2)]
  frames = media_lib.read(join(tmp_path / "a.ts", *parts), size=32).frames
  assert frames.shape[1:] == (32, 640, 3)
  first, last = frames[2].astype(int), frames[-2].astype(int)
  assert np.abs(first - last)[:8].mean() < 4
  # Red and blue that were in BT.601, seen as BT.709.
  assert np.abs(first[4, 8] - RGB[0]).max() > 10
