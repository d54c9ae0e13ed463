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
# In FFmpeg's filters.
NAMES = {BT709: "bt709", 4: "fcc", BT601: "bt470bg", 6: "smpte170m",
         7: "smpte240m", BT2020: "bt2020nc"}
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
  mirrored as its display matrix says, and no larger than asked; where it is
  scaled, the longer side is even, as JPEG keeps colours for two pixels. A later
  frame of another size is scaled to it; one of another shape is fitted in, with
  black bars, as in a window that stays as it is. Pixel aspect, matrix and range
  of colours are those of each frame. Where a frame does not say its matrix,
  that is BT.709 if the clip's first frame is HD, of HD_WIDTH or HD_HEIGHT and
  more, else BT.601: who changes the size of a picture leaves its colours. What
  is transparent is over black. Primaries and transfer functions (of HDR) are
  left as they are.
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
        ("yuv4", "yuvj4")) or any(side % 2 for side in inside):
      return ycbcr(self.show(frame))
    return self._planes(frame, self._matrix(frame), *inside)

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
      inside = self._fitted(width, height)
      self._shape = shape
      self._target = inside[::-1] if transposed else inside
    target = self._target[::-1] if transposed else self._target
    inside = target
    if abs(math.log(shape / self._shape)) > SAME:
      scale = min(target[0] / width, target[1] / height)
      inside = _pixels(width * scale, height * scale)
    return target, inside, turned

  def _fitted(self, width, height):
    """The size of a clip whose first frame has a size."""
    if min(width, height) <= self._size:
      return _pixels(width, height)
    longer = 2 * round(max(width, height) * self._size / min(width, height) / 2)
    return (longer, self._size) if width > height else (self._size, longer)

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
  """Makes of planes Y, Cb and Cr those that JPEG takes, frame after frame."""

  def __init__(self):
    self._kind = self._graph = None

  def __call__(self, frame: av.VideoFrame, matrix: int, width: int, height: int
               ) -> av.VideoFrame:
    """Scales a frame of Y, Cb and Cr, and gives it the colours of JFIF.

    Args:
      frame: to scale.
      matrix: that of its colours, of MATRICES.
      width, height: of the result; even.

    Returns:
      See `ycbcr`.
    """
    full = frame.color_range == FULL or frame.format.name.startswith("yuvj")
    kind = (frame.width, frame.height, frame.format.name, matrix, full, width,
            height)
    if kind != self._kind:
      self._kind, self._graph = kind, _plane_graph(*kind)
    self._graph.vpush(frame)
    return self._graph.vpull()


def _plane_graph(from_width, from_height, pixels, matrix, full, width, height):
  """The filters of `PlaneScaler`."""
  graph = av.filter.Graph()
  graph.threads = 1
  last = graph.add_buffer(width=from_width, height=from_height, format=pixels,
                          time_base=Fraction(1, 1000))

  def add(name, **options):
    nonlocal last
    made = graph.add(name, **options)
    last.link_to(made)
    last = made

  # libswscale takes most of its time for rows, as it scales each one first. So
  # fields of many rows are averaged, down to twice those of the result: what
  # bicubic scaling does from there on costs 3 % of the sharpness.
  while from_height >= 4 * height and from_height % 4 == 0:
    add("split")
    both, last = last, graph.add("blend", all_mode="average")
    for number, kind in enumerate(("top", "bottom")):
      field = graph.add("field", type=kind)
      both.link_to(field, number)
      field.link_to(last, 0, number)
    from_height //= 2
  # To say a matrix and a range twice is to have them stay.
  span = "full" if full else "limited"
  add("scale", w=str(width), h=str(height), flags=str(SCALING),
      in_color_matrix="bt601", out_color_matrix="bt601", in_range=span,
      out_range=span, out_chroma_loc="center", interl="-1")
  add("format", pix_fmts="yuv420p")
  # This rounds to the nearest value, where libswscale cuts. Primaries and
  # transfer functions have to be named, and stay.
  add("colorspace", ispace=NAMES[matrix], space=NAMES[BT601],
      irange="pc" if full else "tv", range="pc", iprimaries="bt709",
      primaries="bt709", itrc="bt709", trc="bt709")
  add("buffersink")
  graph.configure()
  return graph


def ycbcr(picture: np.ndarray) -> av.VideoFrame:
  """The planes that JPEG takes of a picture, uint8 [H, W, 3].

  Returns:
    yuv420p: Y, Cb and Cr as JFIF has them, BT.601 and full range, chroma in
    the middle of its four pixels.
  """
  frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
  return Scaler()(frame, "yuv420p", dst_colorspace="ITU601",
                  dst_color_range="JPEG")


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
