"""Reads the sentences of subtitle files and when they are said."""
import codecs
import html
import re

TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?"
CUE = re.compile(rf"\s*{TIME}\s*-->\s*{TIME}(?:\s.*)?")
# <i>, <c.yellow>, <00:01:02.500> and, in SubRip, {\an8}.
TAG = re.compile(r"<[^>\n]*>|\{\\[^}\n]*\}")

ROLL = 0.05  # seconds between two cues of captions that roll, at most


def parse(data: bytes) -> list[tuple[str, float, float]]:
  """Parses SubRip (.srt) or WebVTT (.vtt), as far as it can be understood.

  A cue without a readable time, without text, or that ends before it starts, is
  left out; what WebVTT has besides cues is ignored. A line that stays on
  screen from one cue to the next, as in captions that roll, counts once.

  Args:
    data: the file: UTF-8 or with a byte order mark, else Latin-1.

  Returns:
    (text, start, end) of the cues, times in seconds, in the file's order.
  """
  cues, lines = [], None  # the lines of text of the current cue
  for line in _decode(data).splitlines():
    match = CUE.fullmatch(line)
    if match:
      if lines and lines[-1].strip().isdigit():
        lines.pop()  # the number of this cue, without an empty line before it
      lines = []
      times = match.groups()
      cues.append((lines, _seconds(times[:4]), _seconds(times[4:])))
    elif "-->" in line or not line:  # a line of blanks belongs to the cue
      lines = None
    elif lines is not None:
      lines.append(line)
  found, shown, until = [], [], 0.0  # the lines of the last cue, and its end
  for lines, start, end in cues:
    lines = [" ".join(html.unescape(TAG.sub(" ", line)).split())
             for line in lines]
    lines = list(filter(None, lines))
    rolled = bool(lines and shown and lines[0] == shown[-1]
                  and abs(start - until) < ROLL)
    text = " ".join(lines[rolled:])
    if text and start < end:
      found.append((text, start, end))
    shown, until = lines, end
  return found


def _decode(data):
  if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    return data.decode("utf-16", errors="replace")
  try:
    return data.decode("utf-8-sig")
  except UnicodeDecodeError:
    return data.decode("latin-1")


def _seconds(parts):
  hours, minutes, seconds, fraction = parts
  return (int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
          + float(f"0.{fraction or 0}"))
