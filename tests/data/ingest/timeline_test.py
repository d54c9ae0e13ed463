"""Times: files whose clocks start anew, wrap, leap, are damaged or missing."""
import itertools
import pathlib
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from vatt.data.ingest import media as media_lib
from vatt.data.ingest import media_tracks, views
from vatt.data.ingest.media import MediaError

# What tells the parts of a joined file apart: picture and sound of each.
PARTS = [((200, 20, 20), 440), ((20, 20, 200), 1000), ((20, 200, 20), 1700)]
WRAP = 2 ** 33  # of the clocks of MPEG-TS, 90,000 a second


def tone(hertz, seconds, rate=48000):
  return np.float32(0.5 * np.sin(
      2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate))[None]


def write_part(media, path, part, seconds, fps=10, sound=True, **kwargs):
  """A film of one colour and one tone."""
  colour, hertz = PARTS[part]
  pictures = [np.full((48, 64, 3), colour, np.uint8)] * round(seconds * fps)
  return media.write_media(
      path, pictures, tone(hertz, seconds) if sound else None, rate=fps,
      **kwargs)


def join(path, files):
  path.write_bytes(b"".join(pathlib.Path(file).read_bytes() for file in files))
  return str(path)


def part_of(frame):
  return int(np.argmin([np.abs(frame.mean((0, 1)) - colour).sum()
                        for colour, _ in PARTS]))


def hertz_of(audio, rate):
  spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
  return np.argmax(spectrum) * rate / len(audio)


def part_heard(audio, rate):
  hertz = hertz_of(audio, rate)
  part = int(np.argmin([abs(hertz - want) for _, want in PARTS]))
  assert abs(hertz - PARTS[part][1]) < 40
  return part


def parts(clip, fps=10, rate=16000, step=0.5):
  """What is seen and what is heard in each half second but for its edges."""
  times = np.arange(0, clip.end - clip.start - 0.9 * step, step)
  return ([part_of(clip.frames[int((t + 0.5 * step) * fps)]) for t in times],
          [part_heard(clip.audio[int((t + 0.1) * rate):
                                 int((t + step - 0.1) * rate)], rate)
           for t in times])


def remux(source, path, change=lambda packet: packet, options=None):
  """Copies the packets of a file as `change` returns them; None is left out."""
  with av.open(str(source)) as inputs, av.open(
      str(path), "w", options=options or {}) as outputs:
    streams = {s.index: outputs.add_stream_from_template(s)
               for s in inputs.streams}
    for packet in inputs.demux():
      index = packet.stream.index
      if packet.dts is not None and (packet := change(packet)) is not None:
        packet.stream = streams[index]
        outputs.mux(packet)
  return str(path)


def assert_is_cut_of(path, whole, spans, fps=10, rate=16000):
  """Clips read by themselves, and in one pass, are those of the whole file."""
  together = media_lib.read_clips(path, spans, fps=fps, audio_rate=rate)
  for (start, end), other in zip(spans, together, strict=True):
    alone = media_lib.read(path, start, end, fps=fps, audio_rate=rate)
    for clip in alone, other:
      np.testing.assert_array_equal(
          clip.frames, whole.frames[round(start * fps):round(end * fps)])
      want = whole.audio[round(start * rate):round(end * rate)]
      for at in range(0, len(want), rate // 4):
        if len({part_heard(want[k:k + rate // 8], rate) for k in (
            at, at + rate // 8)}) == 1:
          assert part_heard(clip.audio[at:at + rate // 4], rate) == part_heard(
              want[at:at + rate // 4], rate)


# ---- files that people have

def test_recordings_joined_to_one_file(test_data):
  path = str(test_data / "cases/joined_short_long.ts")
  assert media_lib.length(path) == pytest.approx(12.1, abs=0.1)
  clip = media_lib.read(path, fps=5, audio_rate=16000)
  for second in range(12):
    red, _, blue = clip.frames[5 * second + 2].mean((0, 1))
    assert (red > 200) == (second < 4) and (blue > 200) == (second >= 4)
    sound = clip.audio[16000 * second:16000 * (second + 1)]
    assert hertz_of(sound[2400:-2400], 16000) == pytest.approx(
        440 if second < 4 else 1000, abs=5)
  for start, end in ((1, 3), (3, 6), (7, 9), (10, 12)):
    part = media_lib.read(path, start, end, fps=5, audio_rate=16000)
    np.testing.assert_array_equal(part.frames, clip.frames[5 * start:5 * end])


def test_chained_ogg(test_data):
  path = str(test_data / "cases/chained.ogg")
  assert media_lib.length(path) == pytest.approx(8, abs=0.02)
  for start, end in ((0, 8), (4, 8), (2, 6), (5, 7)):
    audio = media_lib.read(path, start, end, audio_rate=16000).audio
    for second in range(start, end):
      sound = audio[(second - start) * 16000:][1600:14400]
      assert hertz_of(sound, 16000) == pytest.approx(
          440 if second < 4 else 1000, abs=5)
      assert np.abs(sound.astype(int)).max() > 1000


def test_pictures_without_times_of_their_own(test_data, media):
  path = str(test_data / "cases/h264_bframes.avi")
  pictures = media_lib.read(path, fps=25).frames
  assert [media.number_of(p) for p in pictures] == list(range(100))
  for start in (1, 2, 3):
    part = media_lib.read(path, start, start + 1, fps=25).frames
    np.testing.assert_array_equal(part, pictures[25 * start:25 * start + 25])


def test_a_screen_stays_until_it_changes(test_data):
  path = str(test_data / "cases/screen.mkv")
  assert media_lib.length(path) == pytest.approx(80, abs=0.1)
  first, second, third, last = (
      media_lib.read(path, s, s + 1, fps=2).frames[0] for s in (0, 1, 2, 70))
  assert len({p.tobytes() for p in (first, second, third, last)}) == 4
  for start in (5, 33, 68):
    clip = media_lib.read(path, start, start + 1.5, fps=2)
    assert all((frame == third).all() for frame in clip.frames)
  assert (media_lib.read(path, 69, 71, fps=2).frames[[1, 2]] == [
      third, last]).all()


# ---- sections

@pytest.mark.parametrize("suffix, codecs, lengths", [
    ("ts", {}, (3, 6, 2)),
    ("ts", {"video": "mpeg2video", "audio": "mp2", "fps": 25}, (4, 2, 3)),
    ("mpg", {"video": "mpeg1video", "audio": "mp2", "fps": 25}, (2, 5, 3)),
    ("mkv", {"b_frames": 2}, (4, 6)),
    ("webm", {"video": "libvpx", "audio": "libopus"}, (5, 3)),
])
def test_joined_films(tmp_path, media, suffix, codecs, lengths):
  order = (1, 0, 2)[:len(lengths)]
  path = join(tmp_path / f"a.{suffix}", [
      write_part(media, tmp_path / f"{i}.{suffix}", part, lengths[i], **codecs)
      for i, part in enumerate(order)])
  length, ends = media_lib.examine(path)
  assert length == pytest.approx(sum(lengths), abs=0.25)
  assert min(ends.values()) == pytest.approx(length, abs=0.1)
  whole = media_lib.read(path, audio_rate=16000)
  seen, heard = parts(whole)
  want = np.repeat(order, 2 * np.array(lengths))
  ends = 2 * np.cumsum(lengths)  # there a part may be some hundredths late
  right = [k for k in range(len(want)) if k not in (*ends, *(ends - 1))]
  assert [seen[k] for k in right] == [want[k] for k in right]
  assert [heard[k] for k in right] == [want[k] for k in right]
  first = lengths[0]
  assert_is_cut_of(path, whole, [
      (0.5, 1.5), (first - 1, first + 1), (first + 1, first + 2),
      (sum(lengths) - 1.5, sum(lengths) - 0.5)])


def test_sections_that_lack_a_stream(tmp_path, media):
  """Sound is missing in the second, which is as long as the third."""
  path = join(tmp_path / "a.ts", [
      write_part(media, tmp_path / "0.ts", 0, 3),
      write_part(media, tmp_path / "1.ts", 1, 6, sound=False),
      write_part(media, tmp_path / "2.ts", 2, 6)])
  assert media_lib.length(path) == pytest.approx(15, abs=0.2)
  for start, part, has_sound in ((1, 0, True), (5, 1, False), (11, 2, True)):
    clip = media_lib.read(path, start, start + 2, audio_rate=16000)
    assert {part_of(frame) for frame in clip.frames} == {part}
    if has_sound:
      assert part_heard(clip.audio, 16000) == part
    else:
      assert clip.audio is None
  with pytest.raises(MediaError, match="samples are there"):
    media_lib.read(path, 2, 11)


def test_many_short_films(tmp_path, media):
  order = [0, 1, 2, 1, 0, 2, 0]
  files = [write_part(media, tmp_path / f"{i}.ts", i, 0.8) for i in range(3)]
  path = join(tmp_path / "a.ts", [files[i] for i in order])
  length = media_lib.length(path)
  assert length == pytest.approx(7 * 0.83, abs=0.15)
  clip = media_lib.read(path, audio_rate=16000)
  for k, part in enumerate(order):
    middle = (k + 0.5) * length / 7
    assert part_of(clip.frames[round(middle * 10)]) == part
    assert part_heard(clip.audio[int((middle - 0.2) * 16000):
                                 int((middle + 0.2) * 16000)], 16000) == part


def test_section_that_begins_amid_pictures(tmp_path, media):
  """They refer to one that is missing, and not to the last of another film."""
  pictures = [media.numbered(100 + i) for i in range(60)]
  files = [pathlib.Path(media.write_media(
      tmp_path / f"{i}.ts", pictures[:n], rate=10, gop=20))
           for i, n in enumerate((30, 60))]
  data = files[1].read_bytes()
  files[1].write_bytes(data[len(data) // 12 // 188 * 188:])
  path = join(tmp_path / "a.ts", files)
  length = media_lib.length(path)
  clip = media_lib.read(path, length - 4, length)
  assert [media.number_of(f) for f in clip.frames] == list(range(120, 160))
  with pytest.raises(MediaError, match="frames are there"):
    media_lib.read(path, 3.1, 4.1)


def test_streams_that_take_the_place_of_others_are_refused(tmp_path, media):
  first = write_part(media, tmp_path / "0.ts", 0, 4)
  second = remux(write_part(media, tmp_path / "1.ts", 1, 8), tmp_path / "2.ts",
                 options={"mpegts_start_pid": "0x300"})
  with pytest.raises(MediaError, match="its streams change"):
    media_lib.length(join(tmp_path / "a.ts", [first, second]))
  films = [write_part(media, tmp_path / f"{i}.ogv", i, 3, video="libvpx",
                      audio="libopus") for i in (0, 1)]
  with pytest.raises(MediaError, match="its streams change"):
    media_lib.length(join(tmp_path / "a.ogv", films))
  for suffix in "flv", "mkv":
    film = write_part(media, tmp_path / f"0.{suffix}", 0, 3)
    with pytest.raises(MediaError, match="bytes cannot be read"):
      media_lib.length(join(tmp_path / f"a.{suffix}", 3 * [film]))


@pytest.mark.parametrize("suffix", ["mp4", "mov", "avi", "wav"])
def test_files_of_which_the_first_part_alone_would_be_read_are_refused(
    tmp_path, media, suffix):
  if suffix == "wav":
    one = media.write_media(
        tmp_path / "0.wav", sound=tone(440, 2), audio="pcm_s16le")
  else:
    one = write_part(media, tmp_path / f"0.{suffix}", 0, 2)
  path = join(tmp_path / f"a.{suffix}", [one, one])
  with pytest.raises(MediaError, match="^files that were joined, of which the"):
    media_lib.read(path, 0, 1)
  # What is no file, such as tags, and what long AVI files consist of.
  rest = {"mp4": b"\0\0\0\x0cfree1234", "mov": b"\0\0\0\0free", "avi":
          b"RIFF\x04\0\0\0AVIX", "wav": b"TAG and so on, at the end"}[suffix]
  whole = join(tmp_path / f"b.{suffix}", [one])
  with open(whole, "ab") as file:
    file.write(rest)
  assert media_lib.length(whole) == media_lib.length(one)


def test_clocks_that_start_anew_at_different_times_are_refused(tmp_path, media):
  source = write_part(media, tmp_path / "0.ts", 0, 40)
  data = bytearray(pathlib.Path(source).read_bytes())
  change_clock(data, lambda pid, time: (
      time - 15 * 90000 if pid == 256 and time > 20 * 90000 else time))
  path = tmp_path / "a.ts"
  path.write_bytes(data)
  with pytest.raises(MediaError, match="start anew at different times"):
    media_lib.read(str(path), 1, 2)


# ---- clocks of MPEG-TS

def change_clock(data, change):
  """Changes the timestamps in MPEG-TS: `change(PID, time)` -> time."""
  for at in range(0, len(data), 188):
    pid = struct.unpack_from(">H", data, at + 1)[0] & 0x1fff
    start = at + 4
    if data[at + 3] & 0x20:  # an adaptation field
      start += 1 + data[start]
    if not (data[at + 1] & 0x40 and data[start:start + 3] == b"\0\0\1"):
      continue
    flags = data[start + 7] >> 6
    for k in range({2: 1, 3: 2}.get(flags, 0)):
      field = data[start + 9 + 5 * k:start + 14 + 5 * k]
      time = ((field[0] >> 1 & 7) << 30 | field[1] << 22
              | (field[2] >> 1) << 15 | field[3] << 7 | field[4] >> 1)
      time = change(pid, time) % WRAP
      data[start + 9 + 5 * k:start + 14 + 5 * k] = bytes([
          field[0] & 0xf1 | time >> 30 << 1, time >> 22 & 255,
          time >> 14 & 254 | 1, time >> 7 & 255, (time & 127) << 1 | 1])


@pytest.mark.parametrize("seconds, before", [(12, 5), (100, 75)])
def test_clock_that_wraps(tmp_path, media, seconds, before):
  """FFmpeg takes the first for negative times, the second for later ones."""
  pictures = [media.numbered(i) for i in range(5 * seconds // 2)]
  times = np.arange(0.5, seconds, 5)
  sound = media.clicks(times, seconds, 16000)
  source = pathlib.Path(media.write_media(
      tmp_path / "0.ts", pictures, sound, rate=Fraction(5, 2), gop=5,
      audio_rate=16000))
  data = bytearray(source.read_bytes())
  change_clock(data, lambda _, time: time + WRAP - before * 90000)
  path = tmp_path / "a.ts"
  path.write_bytes(data)
  for found, want in zip(media_lib.examine(str(path)),
                         media_lib.examine(str(source))):
    assert found == pytest.approx(want, abs=1e-5)
  spans = [(0, 3), (before - 1, before + 2), (seconds - 4, seconds - 1)]
  clips = [list(media_lib.read_clips(str(p), spans, fps=5, audio_rate=16000))
           for p in (source, path)]
  for span, want, other in zip(spans, *clips, strict=True):
    alone = media_lib.read(str(path), *span, fps=5, audio_rate=16000)
    for clip in (other, alone):
      np.testing.assert_array_equal(clip.frames, want.frames)
      np.testing.assert_allclose(clip.audio, want.audio, atol=300)


def test_clock_that_leaps_ahead(tmp_path, media):
  """So it does, too, by 2 ** 33, where the second part was recorded minutes
  before the first: FFmpeg takes that for a clock that wrapped."""
  files = [write_part(media, tmp_path / f"{i}.ts", i, 4 + 2 * i)
           for i in range(2)]
  for order in ((0, 1), (1, 0)):
    parts_ = []
    for i in order:
      data = bytearray(pathlib.Path(files[i]).read_bytes())
      change_clock(data, lambda _, time, i=i: time + i * 1000 * 90000)
      parts_.append(tmp_path / f"b{i}.ts")
      parts_[-1].write_bytes(data)
    path = join(tmp_path / f"a{order[0]}.ts", parts_)
    assert media_lib.length(path) == pytest.approx(10, abs=0.15)
    seen, heard = parts(media_lib.read(path, audio_rate=16000))
    first = 8 if order[0] == 0 else 12
    for found in seen, heard:
      assert found[:first - 1] == [order[0]] * (first - 1)
      assert found[first + 1:19] == [order[1]] * (18 - first)


def test_a_damaged_timestamp_is_no_section(tmp_path, media):
  source = write_part(media, tmp_path / "0.ts", 0, 6)
  whole = media_lib.read(source, audio_rate=16000)
  for pid, off in itertools.product((256, 257), (-2, 500, 90_000)):
    data = bytearray(pathlib.Path(source).read_bytes())
    count = itertools.count()
    change_clock(data, lambda other, time, pid=pid, off=off, count=count: (
        time + off * 90000 if other == pid and next(count) in (5, 6) else time))
    path = tmp_path / f"{pid}{off}.ts"
    path.write_bytes(data)
    assert media_lib.length(str(path)) == pytest.approx(whole.end, abs=0.05)
    clip = media_lib.read(str(path), audio_rate=16000)
    np.testing.assert_array_equal(clip.frames, whole.frames)
    assert np.abs(clip.audio - whole.audio.astype(int)).max() < 3000


def test_a_pause_of_the_pictures_is_no_section(tmp_path, media):
  times = [0, 1, 2, 22, 23]
  path = media.write_media(
      tmp_path / "a.ts", [media.numbered(i) for i in range(5)],
      media.clicks([3, 21], 24, 16000), times=times, audio_rate=16000)
  assert media_lib.length(path) == pytest.approx(24, abs=0.2)
  clip = media_lib.read(path, 1.5, 23.5, fps=2)
  assert [media.number_of(f) for f in clip.frames] == [
      1, *[2] * 40, 3, 3, 4][:len(clip.frames)]


def test_single_pictures_between_pauses_are_no_noise(tmp_path, media):
  times = [0, 15, 30, 30.1, 45, 60, 75, 76]
  path = media.write_media(
      tmp_path / "a.ts", [media.numbered(i) for i in range(8)],
      media.clicks([3], 90, 16000), times=times, audio_rate=16000)
  clip = media_lib.read(path, fps=1)
  assert [media.number_of(frame) for frame in clip.frames[::5]] == [
      0, 0, 0, 1, 1, 1, 2, 3, 3, 4, 4, 4, 5, 5, 5, 6]


def test_pictures_behind_all_sound_in_the_file_have_their_times(
    tmp_path, media):
  """A muxer waits 10 s for pictures, and writes late ones where it is."""
  path = media.write_media(
      tmp_path / "a.ts", [media.numbered(i) for i in range(7)],
      media.clicks([3], 90, 16000), times=[0, 15, 30, 30.1, 45, 60, 75],
      audio_rate=16000)
  length, ends = media_lib.examine(path)
  assert length == pytest.approx(90.1, abs=0.1)
  assert ends["video"] == pytest.approx(75, abs=0.2)


def test_windows_of_joined_films(tmp_path, media):
  path = join(tmp_path / "a.ts", [
      write_part(media, tmp_path / f"{i}.ts", i, 7) for i in range(3)])
  found = list(views.read_parts(
      path, media_lib.KINDS, "all", 1.0, 1.0, 10, square=False))
  assert len(found) > 1 and not any(part.problem for part in found)
  for part in found:
    for start in part.windows:
      frames = part.frames[round((start - part.start) * 10):][:10]
      sound = part.audio[round((start - part.start) * 48000):][4800:43200]
      if abs((start + 0.5) % 7.02 - 3.5) < 2.5:  # not where films meet
        assert ({part_of(frame) for frame in frames}
                == {part_heard(sound, 48000)} == {int(start // 7.02)})


@pytest.mark.parametrize("suffix, codec", [("ogg", "libopus"), ("oga", "flac")])
def test_three_chained_sounds(tmp_path, media, suffix, codec):
  path = join(tmp_path / f"a.{suffix}", [
      media.write_media(tmp_path / f"{i}.{suffix}",
                        sound=tone(PARTS[i][1], 2 + i), audio=codec)
      for i in (2, 0, 1)])
  assert media_lib.length(path) == pytest.approx(9, abs=0.05)
  whole = media_lib.read(path, audio_rate=16000).audio
  for start, part in ((1, 2), (3, 2), (4, 0), (5, 0), (7, 1), (8, 1)):
    clip = media_lib.read(path, start, start + 1, audio_rate=16000).audio
    for sound in clip, whole[start * 16000:][:16000]:
      assert part_heard(sound[1600:14400], 16000) == part


def test_chained_sound_of_other_rates_is_refused(tmp_path, media):
  """FFmpeg counts all samples at the rate of the first."""
  path = join(tmp_path / "a.oga", [
      media.write_media(tmp_path / f"{rate}.oga", sound=tone(440, 3, rate),
                        audio="flac", audio_rate=rate)
      for rate in (48000, 24000)])
  assert len(media_lib.read(path, 0, 2).audio) == 96_000
  with pytest.raises(MediaError, match="samples are there"):
    media_lib.read(path, 3, 4)


# ---- pictures

def test_decoding_times_alone(tmp_path, media):
  """Files of writers that know of no others, with B-frames."""
  source = media.write_media(
      tmp_path / "0.mp4", [media.numbered(i) for i in range(100)], b_frames=2)

  def forget(packet):
    packet.dts += int(0.08 / packet.time_base)
    packet.pts = packet.dts
    return packet

  path = remux(source, tmp_path / "a.mp4", forget)
  for start, end in ((0, 3.9), (2, 3)):
    assert [media.number_of(frame) for frame in media_lib.read(
        path, start, end, fps=25).frames] == list(
            range(25 * start, round(25 * end)))
  path = remux(source, tmp_path / "a.mkv", forget)  # has no times of decoding
  with pytest.raises(MediaError, match="frames come after later ones"):
    media_lib.read(path, 0, 3.9)


def test_what_is_before_the_start_is_cut(tmp_path, media):
  """As the edit list of MP4 says. Matroska has no times for it."""
  source = media.write_media(
      tmp_path / "0.mp4", [media.numbered(i) for i in range(100)],
      media.clicks([1, 3], 4), b_frames=2)

  def shift(packet):
    packet.pts -= int(2 / packet.time_base)
    packet.dts -= int(2 / packet.time_base)
    return packet

  path, other = (remux(source, tmp_path / f"a.{suffix}", shift,
                       {"avoid_negative_ts": "disabled"})
                 for suffix in ("mp4", "mkv"))
  assert media_lib.length(path) == pytest.approx(2, abs=0.03)
  clip = media_lib.read(path, 0, 2, fps=25)
  assert [media.number_of(f) for f in clip.frames] == list(range(50, 100))
  click = np.argmax(np.abs(clip.audio.astype(int)) > 8000) / 48000
  assert click == pytest.approx(1, abs=0.01)
  with pytest.raises(MediaError, match="are there|come after later"):
    media_lib.read(other)


@pytest.mark.parametrize("suffix, video, b_frames", [
    ("mkv", "libx264", 2), ("mp4", "libx264", 0), ("webm", "libvpx", 0)])
def test_slides_of_minutes(tmp_path, media, suffix, video, b_frames):
  times = [0, 2, 95, 95.5, 300, 301]
  path = media.write_media(
      tmp_path / f"a.{suffix}", [media.numbered(i) for i in range(6)],
      times=times, video=video, b_frames=b_frames)
  for start, end in ((0, 290), (40, 60), (90, 100), (200, 210), (290, 301)):
    clip = media_lib.read(path, start, end, fps=1)
    assert [media.number_of(frame) for frame in clip.frames] == [
        max(k for k, time in enumerate(times) if time <= start + i)
        for i in range(end - start)]


def test_pictures_that_were_lost_are_no_slide(tmp_path, media):
  chance = np.random.default_rng(0)
  pictures = [np.uint8(chance.integers(256, size=(48, 64, 3)))
              for _ in range(240)]
  path = pathlib.Path(media.write_media(
      tmp_path / "a.mkv", pictures, rate=2, gop=1))  # none refers to another
  with av.open(str(path)) as container:
    ends = [packet.pos + packet.size + 16 for packet in container.demux()
            if packet.size]
  data = bytearray(path.read_bytes())
  data[ends[47]:ends[199]] = bytes(ends[199] - ends[47])
  path.write_bytes(data)
  assert len(media_lib.read(str(path), 2, 20, fps=2).frames) == 36
  with pytest.raises(MediaError, match="0 of 20 frames are there"):
    media_lib.read(str(path), 60, 70, fps=2)


def test_sound_that_is_laid_over_other_sound_is_refused():
  def read(step):
    track = media_tracks.AudioTrack(0.0, (0.0, 4.0), 8000, sought=False)
    for i in range(6):
      frame = av.AudioFrame.from_ndarray(
          np.full((1, 8000), 1000 * i, np.int16), "s16", "mono")
      frame.sample_rate = 8000
      track.add(frame, i * step)
    return track.finish("")

  assert (read(1.0)[1000::8000] == [0, 1000, 2000, 3000]).all()
  with pytest.raises(MediaError, match="22000 of 32000 samples are there"):
    read(0.75)


# ---- picture and sound together

FORMATS = {
    "mp4": {"b_frames": 2},
    "mkv": {"b_frames": 2, "audio": "libopus"},
    "webm": {"video": "libvpx", "audio": "libopus"},
    "ts": {"b_frames": 2},
    "avi": {"b_frames": 2, "audio": "libmp3lame", "audio_rate": 44100},
    "joined.ts": {},
}


def write_flashes(media, path, times, seconds, **kwargs):
  pictures = np.full((seconds * 10, 64, 64, 3), 20, np.uint8)
  pictures[[round(time * 10) for time in times]] = 250
  return media.write_media(
      path, list(pictures),
      media.clicks(times, seconds, kwargs.get("audio_rate", 48000)),
      rate=10, **kwargs)


def sync(media, folder, name, times, cuts):
  """Seconds from each flash to its click, as they are read; and from where it
  should be to the flash."""
  path = folder / f"a.{name}"
  if name.startswith("joined"):
    path = join(path, [
        write_flashes(media, folder / f"{start}.ts",
                      [t - start for t in times if start <= t < end],
                      end - start, **FORMATS[name])
        for start, end in zip(cuts, cuts[1:])])
  else:
    path = write_flashes(media, path, times, cuts[-1], **FORMATS[name])
  found = []
  for time in times:
    start = max(0.0, time - 1.23)
    clip = media_lib.read(str(path), start, start + 3, fps=50)
    flash = np.argmax([frame.mean() > 128 for frame in clip.frames]) / 50
    click = np.flatnonzero(np.abs(clip.audio.astype(int)) > 6000)[0] / 48000
    found.append((round(float(click - flash), 3),
                  round(float(start + flash - time), 3)))
  return found


@pytest.mark.parametrize("name", FORMATS)
def test_flash_and_click(tmp_path, media, name):
  found = np.array(sync(media, tmp_path, name, [0, 4, 9], [0, 3, 12]))
  assert (np.abs(found) < 0.1).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_flash_and_click_of_a_long_film(tmp_path, media, name):
  found = sync(media, tmp_path, name, [0, 40, 570], [0, 20, 400, 580])
  print(name, found)
  assert (np.abs(found) < 0.1).all()
