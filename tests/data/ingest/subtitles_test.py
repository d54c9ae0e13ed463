"""Subtitles as they are found."""
import pytest

from vatt.data.ingest.subtitles import parse

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
WANT = [("Hello , world second line", 1, 2.5), ("<b> & more", 3, 4),
        ("no empty line before", 5, 66.04)]


@pytest.mark.parametrize("encode", [
    lambda text: text.encode(),
    lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    lambda text: text.replace("\n", "\r").encode("utf-16"),
])
def test_subrip(encode):
  assert parse(encode(SRT)) == WANT


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
