"""Subtitles as they are found."""
import unicodedata

import pytest

from vatt.data.ingest.charsets import UnknownEncoding
from vatt.data.ingest.subtitles import parse, read

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Hello</i>, {\\an8}world
second line

2
00:00:03,000 --> 00:00:04,000 X1:40 X2:600
&lt;b&gt; &amp; more
3
00:00:05,000 --> 00:01:06,040
no empty line before
"""
WANT = [("Hello, world second line", 1, 2.5), ("<b> & more", 3, 4),
        ("no empty line before", 5, 66.04)]


@pytest.mark.parametrize("encode", [
    lambda text: text.encode(),
    lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    lambda text: text.replace("\n", "\r").encode("utf-16"),
])
def test_subrip(encode):
  assert parse(encode(SRT)) == WANT


def test_what_is_said_again_lasts_longer():
  assert parse(b"""1
00:00:01,000 --> 00:00:02,000
No.

2
00:00:02,000 --> 00:00:10,000
No.
""") == [("No.", 1, 10)]


def test_captions_that_roll_count_once():
  """As YouTube's automatic ones: blank lines within, each line twice."""
  assert parse(b"""WEBVTT

00:00:00.160 --> 00:00:02.000 align:start
_
so<00:00:01.000><c> today</c>

00:00:02.000 --> 00:00:02.010 align:start
so today
_

00:00:02.010 --> 00:00:04.000 align:start
so today
we<00:00:03.000><c> cook</c>

00:00:04.000 --> 00:00:04.010 align:start
we cook
_

00:00:09.000 --> 00:00:10.000
we cook
""".replace(b"_", b" ")) == [
    ("so today", 0.16, 2.0), ("we cook", 2.01, 4.0), ("we cook", 9, 10)]


def test_webvtt():
  assert parse(b"""WEBVTT - a title
Kind: captions

STYLE
::cue { color: lime }

NOTE 00:01 is no cue

intro
00:01.500 --> 00:02.000 align:start position:0%
<v Fred>so <00:00:01.700><c.yellow>it</c> is

01:00:00.000 --> 01:00:01.000
an hour
""") == [("so it is", 1.5, 2), ("an hour", 3600, 3601)]


def test_bad_cues_are_left_out():
  assert parse(b"""00:00:02,000 --> 00:00:01,000
backwards

00:00:03,000 --> soon
when

00:00:05,000 --> 00:00:06,000

00:00:07,000 --> 00:00:08,000
<i></i>

00:00:09,000 --> 00:00:10,000
caf\xe9
""") == [("caf\u00e9", 9, 10)]
  assert parse(b"") == parse(b"\x00\xff\xfe") == parse(b"no cues at all") == []


@pytest.mark.parametrize("time,seconds", [
    ("00:00:01.5", 1.5), ("0:00:01,500", 1.5), ("1:02.5", 62.5),
    ("00:01.500000", 1.5), ("00:00:01,123456789012345", 1.123456789),
    ("01:01:01", 3661), ("100:00:00.000", 360000), ("75:30.000", 4530),
    ("00:00:1,5", 1.5), ("\u0660\u0661:\u0660\u0662.\u0665", 62.5)])
def test_times(time, seconds):
  for line in (f"{time} --> 999:00:00.000", f"  {time}-->999:00:00 X1:5 Y2:3",
               f"{time}\t-->\t999:00:00.000align:start position:0%"):
    assert parse(f"7\n{line}\nhi".encode()) == [("hi", seconds, 3596400)]


@pytest.mark.parametrize("time", [
    "soon", "1", "1.5", "00.01.500", "09:009.000", "-00:00:01,000", "::",
    "123456:00:00", "9" * 9999 + ":00:00", "00:00:00:01", "00:00:-1"])
def test_what_is_no_time(time):
  for line in (f"{time} --> 99:00:00.000", f"00:00:00.000 --> {time}"):
    assert parse(f"1\n{line}\nhi".encode()) == []


# What a cue says, and its plain text in WebVTT and in SubRip.
TEXTS = [
    ("<i>lady</i>.", "lady.", "lady."),
    ("un<b>believ</b>able", "unbelievable", "unbelievable"),
    ("one<br>two<BR />three<br/>four", "one two three four", None),
    ("<p>one</p><p>two</p>", "one two", None),
    ("one\ntwo\t three\u3000four \u2028 five", "one two three four five", None),
    (r"{\an8}{\fs12\b1}top{\i0}s, {laughs}", "tops, {laughs}", None),
    (r"{y:i}one\Ntwo\hthree", "one two three", None),
    ("so<00:00:01.000><c> today</c><00:00:01.500><c.a.b>s</c>", "so todays",
     None),
    ("<v Bob>hi</v><v.loud Ann Lee>ho</v>.", "hi ho.", None),
    ('<font color="#fff" face=\'x\'>white</font>', "white", None),
    ("<font\ncolor=red>red", "red", None),
    ("I <3 you & 5 > 4 < 6", "I <3 you & 5 > 4 < 6", None),
    ("I <3 <i>you</i>", "I <3 you", None),
    ("<c.a never closed", "", "<c.a never closed"),
    ("< 00:01.000>it", "it", "< 00:01.000>it"),
    ("a <- b", "a <- b", None),
    ("&lt;b&gt; &amp;&#8217;&#x2019;&eacute;&nbsp;x", "<b> &’’é x", None),
    ("AT&T &copy 5 &notit; &unknown; &amp;lt; &#99999999;",
     "AT&T &copy 5 &notit; &unknown; &lt; &#99999999;", None),
    ("cafe\u0301 A\u030a", "caf\u00e9 \u00c5", None),
    ("n\0ul\ufeff", "nul", None), ("\u200b\nx\u200by&#8203;", "x y", None),
]


@pytest.mark.parametrize("text,webvtt,subrip", TEXTS)
def test_plain_text(text, webvtt, subrip):
  for head, want in (("WEBVTT\n\n", webvtt), (" \n\nWEBVTT\n", webvtt),
                     ("1\n", webvtt if subrip is None else subrip)):
    data = f"{head}00:00:01.000 --> 00:00:02.000\n{text}\n\nend"
    assert parse(data.encode()) == [(want, 1, 2)] * bool(want)


def test_line_ends():
  text = "1\n00:00:01,000 --> 00:00:02,000\none\ntwo\n\n2\nthree"
  for end in ("\n", "\r\n", "\r", "\r\r\n"):
    assert parse(text.replace("\n", end).encode()) == [("one two", 1, 2)]


def test_lines_that_roll():
  """The last two of three stay; so the same shape with one and with three."""
  words = [f"line {i}" for i in range(9)]
  for height in (1, 2, 3, 4):
    for gap in (0, 40):
      data = "\n\n".join(
          f"00:00:0{i}.000 --> 00:00:0{i}.{999 - gap}\n" + "\n".join(
              words[max(0, i + 1 - height):i + 1]) for i in range(9))
      assert [text for text, _, _ in parse(data.encode())] == words
  # A repeated one is said again, if it was gone; an order is one of lines.
  texts = ("a", "a", "b\nc", "c\nb", "x\nb\nb", "b\nb\ny")
  apart = [f"00:0{i}:00.000 --> 00:0{i}:59.900\n{text}"
           for i, text in enumerate(texts)]
  assert [text for text, _, _ in parse("\n\n".join(apart).encode())] == [
      "a", "a", "b c", "c b", "x b b", "b b y"]
  # All that stays is left out; a cue without text takes nothing away.
  assert parse(b"""1
00:00:01,000 --> 00:00:02,000
a
b
b

2
00:00:02,000 --> 00:00:02,500
<i></i>

3
00:00:02,000 --> 00:00:03,000
b
b
c
""") == [("a b b", 1, 2), ("c", 2, 3)]


def test_cases_of_rolling(test_data):
  """ROLLUP3: three lines, one of them new in each cue."""
  cues = parse((test_data / "cases/rollup3.srt").read_bytes())
  assert cues == [
      ("FOUR SCORE", 1, 2), ("AND SEVEN YEARS AGO,", 2, 3),
      ("OUR FATHERS", 3, 4), ("BROUGHT FORTH", 4, 5),
      ("UPON THIS CONTINENT", 5, 6), ("A NEW NATION:", 6, 7)]


def test_other_cases(test_data):
  found = {name: parse((test_data / f"cases/{name}.srt").read_bytes())
           for name in ("cp1252", "cp1251", "microseconds")}
  assert found == {
      "cp1252": [("she\u2019s here \u2013 \u201cnow\u201d", 1, 3)],
      "cp1251": [("собака бежит по траве", 1, 3)],
      "microseconds": [("hello there", 1, 3.5)]}


def test_cues_out_of_order_and_twice():
  """Sorted by their starts; those that overlap count once."""
  assert parse(b"""3
00:00:05,000 --> 00:00:06,000
last

1
00:00:01,000 --> 00:00:03,000
one

2
00:00:02,000 --> 00:00:04,000
one
two

3
00:00:05,000 --> 00:00:06,000
last

4
00:00:05,500 --> 00:00:06,500
other

5
00:00:05,500 --> 00:00:06,500
other
""") == [("one", 1, 3), ("two", 2, 4), ("last", 5, 6), ("other", 5.5, 6.5)]


def test_blocks_of_webvtt_that_are_no_cues():
  assert parse(b"""WEBVTT
X-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:900000
Region: id=fred width=40%

REGION
id:bill
lines:3

NOTE
several lines
42

STYLE
::cue(b) { color: red }

42
00:01.000 --> 00:02.000 region:bill
<b>one</b>

WEBVTT
X-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:1800000

00:03.000 --> 00:04.000
two
""") == [("one", 1, 2), ("two", 3, 4)]


def test_damaged_characters_cost_their_cues_alone():
  data = ("1\n00:00:01,000 --> 00:00:02,000\ncafé\n\n"
          "2\n00:00:03,000 --> 00:00:04,000\nthé glacé\n").encode()
  assert read(data.replace("é gl".encode(), b"\xc3 gl")) == (
      [("café", 1, 2)], 1)
  assert read(data[:-3] + b"\n") == ([("café", 1, 2), ("thé glac", 3, 4)], 0)
  assert read(data[:-2]) == ([("café", 1, 2)], 1)
  with pytest.raises(UnknownEncoding, match="cannot be known, expected UTF-8"):
    read(b"00:01.000 --> 00:02.000\n" + bytes(range(255, 127, -1)) * 9)


def test_text_is_composed():
  text = "Te\u0302te d'un e\u0301le\u0300ve, Ho\u0323\u0302 \u1112\u1161\u11ab"
  (found, _, _), = parse(f"00:01.000 --> 00:02.000\n{text}".encode())
  assert found == "Tête d'un élève, Hộ 한" == unicodedata.normalize("NFC", text)


# Where a pattern would look for the same end again and again.
HOSTILE = ["<", "<a", "<1:", "<3", "</", "<v ", "<a>\n", "{\\", "{y:", "&a",
           "&#1", "\r", "\0", "\n", " ", "00:", "-->", "--> \n", "a\n", "\n1\n",
           "00:00:00.0 --> 00:00:01.0\na\n"]


@pytest.mark.parametrize("part", HOSTILE)
def test_time_is_linear(part):
  """Not by the clock: a pattern that is not would take minutes."""
  for head in ("WEBVTT\n\n", ""):
    head += "00:00:01.000 --> 00:00:02.000\n"
    parse((head + part * (2**18 // len(part))).encode())
