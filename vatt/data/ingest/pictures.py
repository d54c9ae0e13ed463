"""What decoded frames look like on screen."""
import math
from fractions import Fraction

import av
import numpy as np
from av.sidedata import sidedata
from av.video.reformatter import Interpolation, VideoReformatter

# Exact and the same with every instruction set; the default is off by -1.5.
# Flags of libswscale that older PyAV has no names for: full chroma, accurate
# rounding, bit-exact.
SCALING = int(Interpolation.BICUBIC) | 0x2000 | 0x40000 | 0x80000

# Matrices of colours, by their numbers in H.273 and in FFmpeg; Kr and Kb of
# those that libswscale knows.
BT709, BT601, BT2020, BT2020_CONSTANT = 1, 5, 9, 10
MATRICES = {BT709: (0.2126, 0.0722), 4: (0.30, 0.11), BT601: (0.299, 0.114),
            6: (0.299, 0.114), 7: (0.212, 0.087), BT2020: (0.2627, 0.0593)}
# These are none of Y, Cb and Cr: with another matrix, the colours are others.
OTHERS = {8: "YCgCo", 11: "YDzDx", 14: "ICtCp", 15: "IPT", 16: "YCgCo",
          17: "YCgCo"}
HD_WIDTH, HD_HEIGHT = 1280, 577  # from which on, as in mpv, a picture is HD
LIMITED, FULL = 1, 2  # ranges of values
FULL_OF_LIMITED = np.uint8(
    ((np.arange(256) - 16) * 255 / 219).round().clip(0, 255))
SAME = 0.02  # by which the shapes of a picture in two sizes differ at most


class PictureError(Exception):
  """A frame that cannot be shown; the message is the reason."""


def _unnamed(kinds, value):
  """A kind of side data that PyAV has no name for."""
  kind = object.__new__(kinds)
  kind._name_, kind._value_ = f"UNNAMED_{value}", value
  return kind


# Without this, a frame that has one of these (EXIF, views of stereo) says
# nothing of its display matrix either.
sidedata.Type._missing_ = classmethod(_unnamed)


class Screen:
  """Shows the frames of a clip as players do, all of them in one size.

  That size is the one of the first frame: with square pixels, turned and
  mirrored as its display matrix says, and no larger than asked. A later frame
  of another size is scaled to it; one of another shape is fitted in, with black
  bars, as in a window that stays as it is. Pixel aspect, matrix and range of
  colours are those of each frame. Where a frame does not say its matrix, that
  is BT.709 if the clip's first frame is HD, of HD_WIDTH or HD_HEIGHT and more,
  else BT.601: who changes the size of a picture leaves its colours. What is
  transparent is over black. Primaries and transfer functions (of HDR) are left
  as they are.
  """

  def __init__(self, stream: av.VideoStream, size: int):
    """Begins a clip; before a frame of its stream is decoded.

    Args:
      stream: the video stream that is decoded.
      size: the pictures' shorter side, in pixels; smaller ones stay as they
        are.
    """
    context, self._size = stream.codec_context, size
    context.copy_opaque = True
    # As in 32-bit AVI, whose fourth byte is often 0.
    self._may_lack_alpha = context.name == "rawvideo"
    self._stated = stream.sample_aspect_ratio
    # What the container says holds throughout; the codec can change it.
    self._fixed = self._stated != context.sample_aspect_ratio
    self._shape = self._target = None  # width / height, and in whole pixels
    self._untagged = None  # the matrix
    self._scaler, self._planes = Scaler(), PlaneScaler()

  def show(self, frame: av.VideoFrame) -> np.ndarray:
    """A frame as it looks on screen: uint8 [H, W, 3].

    Args:
      frame: of `decode`.

    Raises:
      PictureError: its colours are not read.
    """
    target, inside, (transposed, left, up) = self._place(frame)
    picture = self._colours(frame, self._matrix(frame), *inside)
    if inside != target:
      space = [(whole - part) // 2 for whole, part in zip(target, inside)]
      fitted = np.zeros((*target[::-1], 3), np.uint8)
      fitted[space[1]:space[1] + inside[1],
             space[0]:space[0] + inside[0]] = picture
      picture = fitted
    if transposed:
      picture = picture.swapaxes(0, 1)
    return picture[::-1 if up else 1, ::-1 if left else 1]

  def show_ycbcr(self, frame: av.VideoFrame) -> av.VideoFrame:
    """A frame as `show` has it, in the planes that JPEG takes: see `ycbcr`.

    Those of the usual frame become these without RGB between, which takes a
    quarter of the time.
    """
    target, inside, turned = self._place(frame)
    if any(turned) or inside != target or not frame.format.name.startswith(
        ("yuv4", "yuvj4")):
      return ycbcr(self.show(frame))
    matrix = self._matrix(frame)
    return _in_bt601(self._planes(frame, *inside), matrix)

  def _place(self, frame):
    """Sizes (W, H) before it is turned: of the screen, and of what the frame
    takes of it; and its `orientation`."""
    width, height = frame.width, frame.height
    aspect = self._aspect(frame)
    if 1 <= aspect < 4:  # pixels wider than high; others are damage
      height = height / aspect
    elif 1 / 4 < aspect < 1:
      width = width * aspect
    turned = orientation(frame)
    transposed = turned[0]
    shape = height / width if transposed else width / height
    if self._target is None:
      scale = min(1.0, self._size / min(width, height))
      inside = _pixels(width * scale, height * scale)
      self._shape = shape
      self._target = inside[::-1] if transposed else inside
    target = self._target[::-1] if transposed else self._target
    inside = target
    if abs(math.log(shape / self._shape)) > SAME:
      scale = min(target[0] / width, target[1] / height)
      inside = _pixels(width * scale, height * scale)
    return target, inside, turned

  def _aspect(self, frame):
    """The width of a pixel by its height."""
    found = not self._fixed and frame.opaque
    return found and found[0] or self._stated or 1

  def _matrix(self, frame):
    """The matrix of a frame's colours."""
    if self._untagged is None:
      large = frame.width >= HD_WIDTH or frame.height >= HD_HEIGHT
      self._untagged = BT709 if large else BT601
    matrix = int(frame.colorspace)
    if matrix in OTHERS and not frame.format.is_rgb:
      raise PictureError(f"its colours are {OTHERS[matrix]}, which is not read")
    if matrix == BT2020_CONSTANT:
      return BT2020  # nearly the same
    return matrix if matrix in MATRICES else self._untagged

  def _colours(self, frame, matrix, width, height):
    """A frame in a size, over black: uint8 [H, W, 3]."""
    if frame.format.has_palette or any(
        part.is_alpha for part in frame.format.components):
      rgba = self._convert(frame, matrix, frame.width, frame.height, "rgba")
      alpha = rgba[..., 3:]
      if alpha.min() < 255 and (alpha.any() or not self._may_lack_alpha):
        frame = av.VideoFrame.from_ndarray(
            np.uint8((rgba[..., :3] * np.uint32(alpha) + 127) // 255), "rgb24")
    rgb = self._convert(frame, matrix, width, height, "rgb24")
    # libswscale takes all gray for full range.
    if frame.color_range == LIMITED and frame.format.name.startswith("gray"):
      rgb = FULL_OF_LIMITED[rgb]
    return rgb

  def _convert(self, frame, matrix, width, height, pixels):
    return self._scaler(
        frame, pixels, width, height, src_colorspace=matrix,
        dst_color_range=FULL).to_ndarray()


class Scaler:
  """Converts frames, one after the other, in this thread.

  `VideoFrame.reformat` makes a scaler for each frame, with as many threads as
  there are CPUs: that takes longer than the scaling.
  """

  def __init__(self):
    self._scalers = {}  # by what they convert to: a change would make them anew

  def __call__(self, frame: av.VideoFrame, pixels: str,
               width: int | None = None, height: int | None = None, **colours
               ) -> av.VideoFrame:
    """Converts a frame.

    Args:
      frame: to convert.
      pixels: their format.
      width, height: None for those of the frame.
      **colours: of `VideoReformatter.reformat`.
    """
    scaler = self._scalers.get(pixels)
    if not scaler:
      scaler = self._scalers[pixels] = VideoReformatter()
    return scaler.reformat(frame, width, height, pixels, interpolation=SCALING,
                           threads=1, **colours)


class PlaneScaler:
  """Scales planes Y, Cb and Cr to those of JPEG, one frame after the other."""

  def __init__(self):
    self._sizes = self._graph = None

  def __call__(self, frame: av.VideoFrame, width: int, height: int
               ) -> av.VideoFrame:
    """Scales a frame of Y, Cb and Cr, whose matrix stays.

    Returns:
      Full range, 4:2:0, chroma in the middle of its four pixels: yuvj420p. It
      may share memory with `frame`.
    """
    sizes = frame.width, frame.height, frame.format.name, width, height
    if sizes != self._sizes:
      self._sizes, self._graph = sizes, self._make(frame, width, height)
    self._graph.vpush(frame)
    return self._graph.vpull()

  def _make(self, frame, width, height):
    graph = av.filter.Graph()
    graph.threads = 1
    # To say one matrix twice is to have it stay: libswscale would go by RGB.
    graph.link_nodes(
        graph.add_buffer(width=frame.width, height=frame.height,
                         format=frame.format, time_base=Fraction(1, 1000)),
        graph.add("scale", w=str(width), h=str(height), flags=str(SCALING),
                  in_color_matrix="bt601", out_color_matrix="bt601",
                  out_range="full", out_chroma_loc="center", interl="-1"),
        graph.add("format", "yuvj420p"), graph.add("buffersink"))
    graph.configure()
    return graph


def ycbcr(picture: np.ndarray) -> av.VideoFrame:
  """The planes that JPEG takes of a picture, uint8 [H, W, 3].

  Returns:
    yuvj420p: Y, Cb and Cr as JFIF has them, BT.601 and full range, chroma in
    the middle of its four pixels.
  """
  frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
  return Scaler()(frame, "yuvj420p", dst_colorspace="ITU601",
                  dst_color_range="JPEG")


def _in_bt601(frame, matrix):
  """A frame of yuvj420p in another matrix: with that of JFIF."""
  kr, kb = MATRICES[matrix]
  to_kr, to_kb = MATRICES[BT601]
  if (kr, kb) == (to_kr, to_kb):
    return frame
  y, cb, cr = map(_values, frame.planes)
  cb, cr = np.float32(cb) - 128, np.float32(cr) - 128
  # Of B - Y = 2 (1 - Kb) Cb and R - Y = 2 (1 - Kr) Cr, and of the same with
  # the other matrix, where Y' = Kr' R + Kg' G + Kb' B and Kr + Kg + Kb = 1.
  blue, red = np.float32(2 - 2 * kb) * cb, np.float32(2 - 2 * kr) * cr
  green = (1 - to_kr - to_kb) / (1 - kr - kb)  # Kg' / Kg
  rise = (np.float32(to_kb - green * kb) * blue
          + np.float32(to_kr - green * kr) * red)  # Y' - Y
  made = av.VideoFrame(frame.width, frame.height, "yuvj420p")
  to_y, to_cb, to_cr = map(_values, made.planes)
  for plane, colour, weight in (to_cb, blue, to_kb), (to_cr, red, to_kr):
    colour -= rise
    colour *= np.float32(0.5 / (1 - weight))
    plane[:] = np.rint(colour + 128).clip(0, 255)
  rises = _enlarged(np.int16(np.rint(16 * rise)))  # 256 a level
  rises = np.right_shift(
      rises[:frame.height, :frame.width] + np.int16(128), 8)
  rises += y
  to_y[:] = rises.clip(0, 255, out=rises)
  return made


def _values(plane):
  """The values of a plane, uint8 [H, W]."""
  rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
  return rows[:, :plane.width]


def _enlarged(values):
  """Sixteen times what decoders of JPEG make of chroma, with three parts of
  the nearest value and one of the next in each direction: int16 [H, W] ->
  [2 H, 2 W]."""
  height, width = values.shape
  tall = np.empty([height, 2, width], np.int16)
  near = 3 * values
  np.add(near[1:], values[:-1], out=tall[1:, 0])
  np.add(near[:-1], values[1:], out=tall[:-1, 1])
  tall[0, 0], tall[-1, 1] = 4 * values[0], 4 * values[-1]
  values = tall.reshape(2 * height, width)  # [H, 2, W] -> [2 H, W]
  wide = np.empty([2 * height, width, 2], np.int16)
  near = 3 * values
  np.add(near[:, 1:], values[:, :-1], out=wide[:, 1:, 0])
  np.add(near[:, :-1], values[:, 1:], out=wide[:, :-1, 1])
  wide[:, 0, 0], wide[:, -1, 1] = 4 * values[:, 0], 4 * values[:, -1]
  return wide.reshape(2 * height, 2 * width)  # [2 H, W, 2] -> [2 H, 2 W]


def decode(packet: av.Packet) -> list[av.VideoFrame]:
  """Decodes a packet; a frame of it, which may come with a later packet, gets
  the pixel aspect that the decoder says now."""
  aspect = packet.opaque = []
  try:
    return packet.decode()
  finally:
    aspect.append(packet.stream.codec_context.sample_aspect_ratio)


def orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
  """How a frame is turned and mirrored by its display matrix.

  Where that is none of the eight ways to lay a picture on its sides, it is the
  nearest of them.

  Returns:
    Whether its rows become columns, and whether after that left and right, and
    top and bottom, are exchanged.
  """
  # `frame.side_data` would keep the frame until garbage is collected.
  data = sidedata.SideDataContainer(frame).get("DISPLAYMATRIX")
  if data is None:
    return False, False, False
  # (x, y) -> (a x + c y, b x + d y), of int32 [[a, b, u], [c, d, v], …].
  (a, b, _), (c, d, _), _ = np.frombuffer(data, np.int32).reshape(3, 3).tolist()
  if abs(a) + abs(d) >= abs(b) + abs(c):
    return False, a < 0, d < 0
  return True, c < 0, b < 0


def _pixels(width, height):
  return max(1, round(width)), max(1, round(height))
