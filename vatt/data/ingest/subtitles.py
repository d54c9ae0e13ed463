"""Reads the sentences of subtitle files and when they are said."""
import html
import html.entities
import re
import unicodedata
from typing import NamedTuple

from vatt.data.ingest import charsets

ARROW = "-->"
WIDE_ARROW = re.compile(rb"-\0{0,3}-\0{0,3}>")
# WebVTT's, and with more digits or fewer.
TIME = r"(?:(\d{1,5}):)?(\d{1,5}):(\d{1,2})(?:[.,](\d{1,9})\d*)?(?![\d:])"
CUE = re.compile(rf"\s*{TIME}\s*{ARROW}\s*{TIME}")

# Tags are no blanks, but for those that begin a line or another's speech.
BLANK = re.compile(r"<(?=/?(?:br|p|div)\b|v\b)", re.I)
CLOSED_TAG = re.compile(r"<(?!\d+[^\d:])[^>]*>")  # "<3" is none
OPEN_TAG = re.compile(r"<(?:[A-Za-z/.]|\d+:).*", re.S)
SUBRIP_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<\d+:[\d:.,]+>")
OVERRIDE = re.compile(r"\{(?:\\|[YyCcFfSs]:)[^{}]*\}")  # {\an8}, from SSA
ENTITY = re.compile(
    r"&(?:(#\d{1,7}|#[xX][0-9A-Fa-f]{1,6})|[A-Za-z][A-Za-z0-9]{1,31});")

ROLL = 0.05  # seconds between two cues of captions that roll, at most
LINES = 15  # on the screen, at most


class Found(NamedTuple):
  """What a subtitle file says.

  Attributes:
    cues: (text, start, end), times in seconds, in the order of their starts.
    damaged: how many others there are, with a character that is lost.
  """
  cues: list[tuple[str, float, float]]
  damaged: int = 0


def parse(data: bytes) -> list[tuple[str, float, float]]:
  """The cues (text, start, end) of a subtitle file, as `read` finds them."""
  return read(data).cues


def read(data: bytes) -> Found:
  """Parses SubRip (.srt) or WebVTT (.vtt), as far as it can be understood.

  A cue without a readable time, without text, or that ends before it starts, is
  left out, as is one that is there twice; what WebVTT has besides cues is
  ignored. Lines that stay on the screen from one cue to the next, as in
  captions that roll, count once.

  Args:
    data: the file, in any encoding that `charsets.decode` finds.

  Returns:
    The cues. Their text is NFC, in one line, without tags.

  Raises:
    charsets.UnknownEncoding: it cannot be decoded.
  """
  if not WIDE_ARROW.search(data):
    return Found([])
  text = charsets.decode(data, ARROW)
  for old, new in (("\r\r\n", "\n"), ("\r\n", "\n"), ("\r", "\n"), ("\0", ""),
                   ("\ufeff", "")):
    text = text.replace(old, new)
  webvtt = text.lstrip().startswith("WEBVTT")
  found, damaged = {}, 0
  shown, until = [], 0.0  # the lines of the last cue, and its end
  for lines, start, end in sorted(_cues(text), key=lambda cue: cue[1]):
    lines = _plain("\n".join(lines), webvtt)
    new = " ".join(lines[_rolled(shown, lines) if start < until + ROLL else 0:])
    if "\ufffd" in new:
      damaged += 1
    elif new:
      found[new, start, end] = None
    elif lines == shown and found and end - start > ROLL:  # said again
      text, begin, stop = found.popitem()[0]
      found[text, begin, max(stop, end)] = None
    if lines:
      shown, until = lines, end
  return Found(list(found), damaged)


def _cues(text):
  """(lines, start, end) of the cues that last, in the file's order."""
  cues, lines = [], None  # the lines of text of the current cue
  for line in text.split("\n"):
    if ARROW in line:
      if lines and lines[-1].strip().isdigit():
        lines.pop()  # the number of this cue, without an empty line before it
      match = CUE.match(line)
      lines = [] if match else None
      if match:
        times = match.groups()
        cues.append((lines, _seconds(*times[:4]), _seconds(*times[4:])))
    elif not line:  # a line of blanks belongs to the cue
      lines = None
    elif lines is not None:
      lines.append(line)
  return [cue for cue in cues if cue[1] < cue[2]]


def _seconds(hours, minutes, seconds, fraction):
  return (int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
          + float(f"0.{fraction or 0}"))


def _plain(text, webvtt):
  """The lines of a cue's text that are not empty, without what is no text.

  In linear time: no pattern looks for the end of a tag that may have none.
  """
  text = re.sub(r"\\[Nh]", " ", OVERRIDE.sub("", text))
  text = BLANK.sub(" <", text)
  if webvtt:
    closed = text.rfind(">") + 1
    text = CLOSED_TAG.sub("", text[:closed]) + OPEN_TAG.sub("", text[closed:])
  else:
    text = SUBRIP_TAG.sub("", text)
  text = unicodedata.normalize("NFC", ENTITY.sub(_character, text))
  text = text.replace("\u200b", " ")  # between words of Thai, or to fill a line
  lines = (" ".join(line.split()) for line in text.split("\n"))
  return [line for line in lines if line]


def _character(match):
  """The character of an entity; not of one without a semicolon, as browsers
  have it: "Q&AMP" is rather a name."""
  if match[1]:
    return html.unescape(match[0])
  return html.entities.html5.get(match[0][1:], match[0])


def _rolled(shown, lines):
  """How many lines were on the screen already, at its end."""
  return next((n for n in range(min(len(shown), len(lines), LINES), 0, -1)
               if shown[-n:] == lines[:n]), 0)
