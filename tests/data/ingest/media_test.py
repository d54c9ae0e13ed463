"""Reading media: files encoded here, and real ones of VATT_TEST_DATA."""
import os
import pathlib
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from vatt.data.ingest import media as media_lib
from vatt.data.ingest import media_pass, media_tracks
from vatt.data.ingest.media import MediaError

REAL = ["band.mp4", "band.webm", "band.avi", "band.mpg", "band_audio.mp3",
        "band_audio.ogg", "bigbuckbunny.mp4", "bikes.mp4",
        "carphone_pristine.mp4"]


def numbers(media, frames):
  return [media.number_of(frame) for frame in frames]


def loud(audio, rate=48000):
  """Seconds at which the sound gets loud."""
  return np.flatnonzero(np.abs(audio.astype(int)) > 8000)[0] / rate


def test_other_files_are_not_read(tmp_path, media):
  """Whatever a file that is called a film says."""
  media.write_media(tmp_path / "a.mp4", [media.numbered(i) for i in range(9)])
  (tmp_path / "b.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
  assert media_lib.length(str(tmp_path / "a.mp4")) > 0
  with pytest.raises(MediaError, match="a list of other files"):
    media_lib.length(str(tmp_path / "b.mp4"))


# ---- real files

@pytest.mark.parametrize("name", REAL)
def test_real_file_has_the_length_of_its_packets(test_data, name):
  path = str(test_data / "media" / name)
  begins, ends, counts, rates = {}, {}, {}, {}
  with av.open(path) as container:
    for packet in container.demux():
      if packet.size:
        kind = packet.stream.type
        begin = float(packet.pts * packet.time_base)
        begins[kind] = min(begin, begins.get(kind, begin))
        ends[kind] = max(begin + float(packet.duration * packet.time_base),
                         ends.get(kind, 0))
        counts[kind] = counts.get(kind, 0) + 1
        rates[kind] = getattr(packet.stream, "average_rate", None)
  zero = max(0, min(begins.values()))
  # Codecs of sound pad the last packet, by 1152 samples at most.
  assert media_lib.length(path) == pytest.approx(
      max(ends.values()) - zero, abs=0.06)

  clip = media_lib.read(path, size=64, audio_rate=16000)
  assert clip.damaged == 0 and clip.start == 0
  if "video" in ends:
    assert abs(len(clip.frames) - 10 * counts["video"] / rates["video"]) <= 1
    assert min(clip.frames.shape[1:3]) == 64
  else:
    assert clip.frames is None
  if "audio" in ends:
    seconds = ends["audio"] - max(zero, begins["audio"])
    assert len(clip.audio) / 16000 == pytest.approx(seconds, abs=0.06)
  else:
    assert clip.audio is None


@pytest.mark.parametrize("name", ["band.mp4", "band.mpg", "band.webm"])
def test_clip_amid_a_real_file_is_that_of_the_whole_file_decoded(
    test_data, name):
  path = str(test_data / "media" / name)
  clip = media_lib.read(path, 12.3, 14.3, audio_rate=22050)
  pictures, times, sound, zero = [], [], [], None
  with av.open(path) as container:
    zero = container.start_time / 1e6
    for frame in container.decode(video=0):
      times.append(frame.time - zero)
      if times[-1] > 14.5:
        break
      pictures.append(frame.to_ndarray(format="rgb24"))
  with av.open(path) as container:
    resampler = av.AudioResampler("s16", "mono", 22050)
    for frame in container.decode(audio=0):
      if not sound:
        first = frame.time - zero
      sound += [f.to_ndarray()[0] for f in resampler.resample(frame)]
      if frame.time - zero > 14.5:
        break
  for i, frame in enumerate(clip.frames):
    nearest = np.abs(np.array(times[:len(pictures)]) - 12.3 - i / 10).argmin()
    errors = [np.abs(np.float32(frame) - pictures[nearest + k]).mean()
              for k in (-3, -2, -1, 0, 1, 2)]
    assert min(errors[2:5]) < 4 and min(errors) == min(errors[2:5])
  at = round((12.3 - first) * 22050)
  want = np.concatenate(sound)[at:at + 44100].astype(float)
  got = clip.audio.astype(float)
  correlation = [np.corrcoef(want[50:-50], got[50 + k:len(got) - 50 + k])[0, 1]
                 for k in range(-50, 50)]
  # 22 samples are a millisecond, to which WebM rounds the times of both.
  assert abs(np.argmax(correlation) - 50) <= 33 and max(correlation) > 0.95


SPANS = [(0.0, 2.0), (1.5, 3.0), (3.0, 4.0), (30.0, 32.5), (33.0, 34.0),
         (59.0, 59.9)]


@pytest.mark.parametrize("name", ["band.mp4", "band.webm", "band.mpg"])
def test_clips_that_are_read_in_a_pass_are_those_read_alone(test_data, name):
  path = str(test_data / "media" / name)
  clips = list(media_lib.read_clips(path, SPANS, fps=5, size=64))
  for span, clip in zip(SPANS, clips, strict=True):
    alone = media_lib.read(path, *span, fps=5, size=64)
    np.testing.assert_array_equal(clip.frames, alone.frames)
    np.testing.assert_array_equal(clip.audio, alone.audio)
    assert (clip.start, clip.end) == span
  sound, = media_lib.read_clips(path, SPANS[:1], kinds=("audio",))
  assert sound.frames is None and len(sound.audio) == 96_000


@pytest.mark.parametrize("name", ["bikes.mp4", "carphone_pristine.mp4"])
def test_frames_that_nobody_takes_are_not_decoded(
    test_data, monkeypatch, name):
  """The others are the same as if all were."""
  path, calls = str(test_data / "media" / name), []
  add = media_tracks.VideoTrack.add
  monkeypatch.setattr(media_tracks.VideoTrack, "add", lambda self, *args: (
      calls.append(1), add(self, *args))[1])

  def read():
    calls.clear()
    clips = [media_lib.read(path, *span, fps=fps, size=48).frames
             for fps in (3.7, 10, 25)
             for span in ((0.0, 1.5), (1.03, 3.4))]
    return clips, len(calls)

  some, few = read()
  monkeypatch.setattr(media_pass, "LEAVING_OUT", ())
  every, most = read()
  for frames, wanted in zip(some, every, strict=True):
    np.testing.assert_array_equal(frames, wanted)
  assert few < 0.9 * most


def test_which_frames_may_be_taken(tmp_path, media):
  """The nearest one, but not 0.25 s before its time."""
  path = media.write_media(tmp_path / "a.mp4", [media.numbered(0)] * 5)
  with av.open(path) as container:
    track = media_tracks.VideoTrack(
        container.streams.video[0], 0.0, (0.0, 4.0), 2.0, 24, None, False)
  for *times, want in ((1.05, 1.1, 1.2, False), (1.05, 1.1, 3.0, True),
                       (2.28, 2.3, 2.8, True), (2.6, 2.7, 2.8, False),
                       (0.6, 0.62, 1.36, True),  # until 1.11
                       (0.6, 1.04, 1.1, True),  # from 0.82
                       (0.9, 1.2, 1.3, False), (3.6, 3.9, 5.0, False)):
    assert track.may_take(*times) == want


def test_clips_beside_one_that_is_damaged_are_read(test_data):
  path = str(test_data / "media" / "band.ogv")
  clips = list(media_lib.read_clips(
      path, [(1, 2), (2, 3), (6, 7), (58, 59)], fps=4))
  assert [type(clip) for clip in clips] == [
      MediaError, media_lib.Media, media_lib.Media, MediaError]
  assert "frames are there; " in str(clips[3])


def test_real_damaged_file_is_refused_with_the_reason(test_data):
  with pytest.raises(MediaError, match=(
      r"of 100 frames are there; \d+ packets are damaged$")):
    media_lib.read(str(test_data / "media/band.ogv"), 10, 20)


# ---- time

@pytest.mark.parametrize("suffix, video, audio, rate, sound_start", [
    ("mp4", "libx264", "aac", 44100, 0),
    ("mkv", "libx264", "libopus", 48000, 0),
    ("mp4", "libx264", "libopus", 48000, 0),
    ("mkv", "libx264", "aac", 48000, 0.4),
    ("mp4", "libx264", "aac", 48000, 0.4),
    ("webm", "libvpx", "libopus", 48000, 0),
    ("ts", "libx264", "aac", 48000, 0),
    ("mov", "mpeg4", "pcm_s16le", 22050, 0.25),
    ("avi", "mpeg4", "libmp3lame", 44100, 0),
])
def test_flash_and_click_stay_together(
    tmp_path, media, suffix, video, audio, rate, sound_start):
  pictures = [np.full((48, 64, 3), 255 * (i == 35), np.uint8)
              for i in range(75)]
  sound = media.clicks([1.4 - sound_start], 3 - sound_start, rate)
  path = media.write_media(
      tmp_path / f"a.{suffix}", pictures, sound, video=video, audio=audio,
      audio_rate=rate, sound_start=sound_start)
  for start in (0.0, 1.0):
    clip = media_lib.read(path, start, 3, fps=25)
    flash = np.argmax([frame.mean() for frame in clip.frames]) / 25
    assert abs(flash - loud(clip.audio)) < 0.04
    assert abs(start + flash - 1.4) < 0.09  # avi, ts: what the encoder adds
  clip = media_lib.read(path, 0, 3)
  assert len(clip.frames) == 30
  # Silence before the sound starts.
  assert not clip.audio[:int(48000 * (sound_start - 0.03)) if (
      sound_start) else 0].any()


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate(tmp_path, media, suffix):
  times = [0, 0.04, 0.08, 0.5, 1.2, 1.24, 1.3, 1.9, 2.0, 2.04]
  path = media.write_media(
      tmp_path / f"a.{suffix}", [media.numbered(i) for i in range(10)],
      times=times)
  clip = media_lib.read(path, 0, 2.1)
  want = [max(k for k, time in enumerate(times) if time <= i / 10)
          for i in range(len(clip.frames))]
  assert len(clip.frames) in (20, 21)
  assert numbers(media, clip.frames) == want
  assert numbers(media, media_lib.read(path, 1, 2).frames) == want[10:20]


@pytest.mark.parametrize("suffix, b_frames", [
    ("mkv", 0), ("mkv", 2), ("mp4", 0), ("mp4", 2), ("webm", 0)])
def test_slides_of_seconds_are_whole(tmp_path, media, suffix, b_frames):
  times = [0, 4, 8, 15, 15.5]
  path = media.write_media(
      tmp_path / f"a.{suffix}", [media.numbered(i) for i in range(5)],
      times=times, video="libvpx" if suffix == "webm" else "libx264",
      b_frames=b_frames)
  want = [max(k for k, time in enumerate(times) if time <= i / 2)
          for i in range(31)]
  assert numbers(media, media_lib.read(path, 0, 15.5, fps=2).frames) == want
  assert numbers(
      media, media_lib.read(path, 9, 14, fps=2).frames) == want[18:28]


def test_a_slide_stays_on_screen_in_the_clips_after_its_own(tmp_path, media):
  path = media.write_media(
      tmp_path / "a.mkv", [media.numbered(i) for i in range(4)],
      times=[0, 4, 14, 15.5])
  spans = [(1.0, 2.0), (3.0, 5.0), (6.0, 8.0), (9.0, 9.5), (13.0, 15.0)]
  clips = media_lib.read_clips(path, spans, fps=2)
  assert [numbers(media, clip.frames) for clip in clips] == [
      [0, 0], [0, 0, 1, 1], [1] * 4, [1], [1, 1, 2, 2]]


def test_matroska_that_begins_late_has_its_own_length(tmp_path, media):
  path = media.write_media(
      tmp_path / "a.mkv", [media.numbered(i) for i in range(75)],
      times=[5 + i / 25 for i in range(75)])
  assert media_lib.length(path) == pytest.approx(3, abs=0.05)
  clip = media_lib.read(path)
  assert clip.end == pytest.approx(3, abs=0.05) and len(clip.frames) == 30
  assert numbers(media, media_lib.read(path, 1, 2, fps=25).frames) == list(
      range(25, 50))


def test_length_of_mp3_is_counted_once_for_all_clips(
    tmp_path, media, monkeypatch):
  path = media.write_media(
      tmp_path / "a.mp3", sound=np.zeros([1, 480_000], np.float32),
      audio="libmp3lame")
  counted = []
  measure = media_lib.measure
  monkeypatch.setattr(media_lib, "measure", lambda *args: (
      counted.append(1), measure(*args))[1])
  for start in range(9):
    assert len(media_lib.read(path, start, start + 1).audio) == 48_000
  with pytest.raises(media_lib.MediaError, match="ends at 10"):
    media_lib.read(path, 11, 12)
  assert counted == [1]
  os.utime(path, ns=(1, 1))  # another file of the same name
  media_lib.read(path, 0, 1)
  assert counted == [1, 1]


def test_the_last_picture_stays_in_clips_of_a_pass(tmp_path, media):
  """For as long as it says."""
  source = media.write_media(
      tmp_path / "0.mkv", [media.numbered(i) for i in (1, 2)], times=[0, 30])
  path = str(tmp_path / "a.mkv")
  with av.open(source) as old, av.open(path, "w") as new:
    stream = new.add_stream_from_template(old.streams.video[0])
    for packet in old.demux(video=0):
      if packet.size:
        packet.stream = stream
        packet.duration = round(30 / packet.time_base)
        new.mux(packet)
  spans = [(float(start), start + 10.0) for start in range(0, 60, 10)]
  numbers = [{media.number_of(frame) for frame in clip.frames}
             for clip in media_lib.read_clips(path, spans)]
  assert numbers == [{1}] * 3 + [{2}] * 3


def test_clip_of_a_long_file_is_exact_and_decodes_little(
    tmp_path, media, monkeypatch):
  calls = []
  add = media_tracks.VideoTrack.add
  monkeypatch.setattr(media_tracks.VideoTrack, "add", lambda self, *args: (
      calls.append(1), add(self, *args))[1])
  for suffix, video in (("mp4", "libx264"), ("ts", "mpeg2video")):
    path = media.write_media(
        tmp_path / f"a.{suffix}", [media.numbered(i % 256)
                                   for i in range(2500)],
        rate=25, gop=50, video=video)
    for start in (7.0, 61.4, 90.0):
      calls.clear()
      clip = media_lib.read(path, start, start + 2, fps=25)
      assert numbers(media, clip.frames) == [
          (round(start * 25) + i) % 256 for i in range(50)]
      assert len(calls) < 400


def test_a_file_is_decoded_once_for_all_of_its_clips(
    tmp_path, media, monkeypatch):
  calls = []
  decode = media_pass.pictures.decode
  monkeypatch.setattr(media_pass.pictures, "decode", lambda packet: (
      calls.append(1), decode(packet))[1])
  spans = [(7.0 * i, 7.0 * i + 1) for i in range(6)]
  # Far apart, with keyframes before each, and with a single one: how many
  # of 370 packets are decoded.
  for suffix, gop, most in (("mp4", 20, 200), ("mkv", 20, 200),
                            ("ts", 20, 250), ("mp4", 1000, 380),
                            ("ts", 1000, 380), ("avi", 1000, 380)):
    path = media.write_media(
        tmp_path / f"a.{suffix}", [media.numbered(i % 256)
                                   for i in range(370)], rate=10, gop=gop,
        video="mpeg4" if suffix == "avi" else "libx264")
    calls.clear()
    clips = list(media_lib.read_clips(path, spans, fps=2, size=24))
    assert [numbers(media, clip.frames) for clip in clips] == [
        [70 * i % 256, (70 * i + 5) % 256] for i in range(6)]
    assert len(calls) < most


def test_where_decoding_would_begin(tmp_path, media):
  pictures = [media.numbered(i) for i in range(100)]
  times = [0.0, 1.9, 2.3, 5.0, 9.9, 3.0]
  for suffix, gop, want in (
      ("mp4", 20, [0, 0, 2, 4, 8, 2]), ("mkv", 20, [0, 0, 2, 4, 8, 2]),
      ("mp4", 1000, [0] * 6), ("mkv", 1000, [0] * 6), ("ts", 20, None)):
    path = media.write_media(tmp_path / f"a.{suffix}", pictures, rate=10,
                             gop=gop, b_frames=2)
    found = media_lib.keyframes_before(path, times)
    if want is None:
      assert found is None
    else:
      np.testing.assert_allclose(found, want, atol=0.001)
  assert media_lib.keyframes_before(media.write_media(
      tmp_path / "b.m4a", sound=media.clicks([], 1)), times) is None


def test_sound_that_has_ended_is_not_waited_for(tmp_path, media, monkeypatch):
  """Else all clips behind it would be held until the file's end."""
  monkeypatch.setattr(media_pass, "LATEST", 2.0)
  path = media.write_media(
      tmp_path / "a.mkv", [media.numbered(i) for i in range(200)],
      media.clicks([0.5, 1.5], 2.4), rate=10)
  calls = []
  add = media_tracks.VideoTrack.add
  monkeypatch.setattr(media_tracks.VideoTrack, "add", lambda self, *args: (
      calls.append(1), add(self, *args))[1])
  clips = media_lib.read_clips(
      path, [(2.0 * i, 2.0 * i + 2) for i in range(10)], size=24)
  first, second = next(clips), next(clips)
  assert len(first.audio) == 96_000 and 0 < len(second.audio) < 30_000
  assert len(calls) < 100
  assert next(clips).audio is None


def test_missing_timestamps(tmp_path, media):
  path = media.write_media(
      tmp_path / "a.h264", [media.numbered(i) for i in range(100)])
  assert media_lib.length(path) == pytest.approx(4, abs=0.05)
  assert numbers(media, media_lib.read(path, 2, 3).frames) == [
      50, 52, 55, 57, 60, 62, 65, 67, 70, 72]


def test_gap_in_the_sound_is_silence(tmp_path, media):
  tone = np.float32(0.5 * np.sin(np.arange(48000) / 20))[None]
  path = str(tmp_path / "a.mkv")
  with av.open(path, "w") as container:
    stream = container.add_stream("pcm_s16le", rate=48000, layout="mono")
    for at in (0, 1.1):
      frame = av.AudioFrame.from_ndarray(
          np.int16(tone * 32767), "s16", "mono")
      frame.sample_rate, frame.pts = 48000, int(at * 48000)
      container.mux(stream.encode(frame))
  clip = media_lib.read(path, 0.9, 2.1)
  level = np.abs(clip.audio.astype(int)).reshape(12, -1).max(1) > 8000
  assert level.tolist() == [True, False] + 10 * [True]
  with pytest.raises(MediaError, match="19200 of 24000 samples are there"):
    media_lib.read(path, 0.9, 1.4)


# ---- shape and channels

@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation(tmp_path, media, degrees):
  picture = np.zeros((48, 96, 3), np.uint8)
  picture[:24, :48] = 255  # bright at the upper left
  path = pathlib.Path(media.write_media(tmp_path / "a.mp4", [picture] * 10))
  data = bytearray(path.read_bytes())
  at = data.index(b"tkhd") + 44  # the matrix, in 16.16 and 2.30
  cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
  struct.pack_into(">9i", data, at, cos << 16, sin << 16, 0, -sin << 16,
                   cos << 16, 0, 0, 0, 1 << 30)
  path.write_bytes(data)
  frame = media_lib.read(str(path)).frames[3]
  want = np.rot90(picture, -degrees // 90)  # the matrix turns clockwise
  assert frame.shape == want.shape
  assert np.abs(frame.astype(int) - want).mean() < 6


def test_size(tmp_path, media):
  wide = media.write_media(tmp_path / "wide.mp4", [media.numbered(3)] * 5)
  assert media_lib.read(wide, size=24).frames.shape[1:] == (24, 80, 3)
  assert media_lib.read(wide, size=100).frames.shape[1:] == (48, 160, 3)
  odd = media.write_media(
      tmp_path / "odd.mkv", [media.numbered(3, 161, 47)] * 5, video="ffv1")
  frames = media_lib.read(odd).frames
  assert frames.shape[1:] == (47, 161, 3) and numbers(media, frames[:1]) == [3]
  for aspect, shape in ((Fraction(2), (24, 160, 3)),
                        (Fraction(1, 2), (48, 80, 3))):
    path = media.write_media(tmp_path / "aspect.mp4", [media.numbered(5)] * 5,
                             aspect=aspect)
    frames = media_lib.read(path).frames
    assert frames.shape[1:] == shape and numbers(media, frames[:1]) == [5]


@pytest.mark.parametrize("channel", [0, 2, 4])
def test_six_channels_become_one(tmp_path, media, channel):
  sound = np.zeros((6, 48000), np.float32)
  sound[channel] = 0.9 * np.sin(np.arange(48000) / 20)
  path = media.write_media(tmp_path / "a.flac", sound=sound, audio="flac",
                           layout="5.1")
  audio = media_lib.read(path).audio
  assert len(audio) == 48000
  assert 2000 < np.abs(audio.astype(int)).max() < 32767


def test_stereo_is_not_louder_and_rates_change_nothing_else(tmp_path, media):
  wave = np.float32(0.9 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050))
  path = media.write_media(tmp_path / "a.wav", sound=np.stack([wave, wave]),
                           audio="pcm_s16le", layout="stereo", audio_rate=22050)
  audio = media_lib.read(path, audio_rate=16000).audio / 32767
  want = 0.9 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
  assert len(audio) == 16000
  np.testing.assert_allclose(audio[100:-100], want[100:-100], atol=0.01)


def test_cover_picture_is_no_video(tmp_path, media):
  path = media.write_media(
      tmp_path / "a.mp3", [media.numbered(7)], media.clicks([0.5], 2),
      video="png", audio="libmp3lame")
  with av.open(path) as container:
    assert len(container.streams.video) == 1
  assert media_lib.length(path) == pytest.approx(2, abs=0.06)
  clip = media_lib.read(path)
  assert clip.frames is None and abs(loud(clip.audio) - 0.5) < 0.03


def test_one_stream_only_and_silence(tmp_path, media):
  pictures = [media.numbered(i) for i in range(25)]
  clip = media_lib.read(media.write_media(tmp_path / "v.mp4", pictures))
  assert clip.audio is None and len(clip.frames) == 10
  clip = media_lib.read(media.write_media(
      tmp_path / "s.mp4", pictures, media.clicks([], 1)))
  assert len(clip.audio) == 48000 and not clip.audio.any()


def test_streams_of_different_length(tmp_path, media):
  path = media.write_media(
      tmp_path / "a.mkv", [media.numbered(i) for i in range(25)],
      media.clicks([2.5], 3))
  clip = media_lib.read(path)
  assert len(clip.frames) == 10 and len(clip.audio) == pytest.approx(
      3 * 48000, abs=1500)
  assert media_lib.read(path, 2, 3).frames is None


# ---- what cannot be read

def test_spans(tmp_path, media):
  path = media.write_media(
      tmp_path / "a.mp4", [media.numbered(i) for i in range(100)])
  clip = media_lib.read(path, 2, 5)  # most of it is there
  assert clip.end == pytest.approx(4) and len(clip.frames) == 20
  for start, end in ((3, 7), (4, 5), (100, 101)):
    with pytest.raises(MediaError, match="the file ends at 4.000 s"):
      media_lib.read(path, start, end)
  with pytest.raises(MediaError, match="expected more than 0"):
    media_lib.read(path, 2, 2)


@pytest.mark.parametrize("data", [b"", b"a,b\n1,2\n" * 100, bytes(5000)])
def test_no_media(tmp_path, data):
  path = tmp_path / "a.mp4"
  path.write_bytes(data)
  for function in (media_lib.length, media_lib.read):
    with pytest.raises(MediaError):
      function(str(path))
    with pytest.raises(MediaError, match="No such file"):
      function(str(tmp_path / "missing.mp4"))


def test_damaged_packets_are_counted_and_too_many_refused(tmp_path, media):
  chance = np.random.default_rng(0)
  pictures = [np.uint8(chance.integers(256, size=(48, 64, 3)))
              for _ in range(100)]
  path = pathlib.Path(media.write_media(
      tmp_path / "a.avi", pictures, video="mpeg4", gop=1))
  data = path.read_bytes()

  def damage(count):
    changed, at = bytearray(data), 0
    for i in range(100):
      at = data.index(b"00dc", at + 1)
      if 40 <= i < 40 + count:
        size, = struct.unpack_from("<I", data, at + 4)
        changed[at + 8:at + 8 + size] = bytes([255]) * size
    path.write_bytes(changed)
    return media_lib.read(str(path), fps=25)

  clip = damage(6)
  assert clip.damaged == 6 and len(clip.frames) == 100
  with pytest.raises(MediaError, match="of 100 frames are there; 30 packets"):
    damage(30)


def test_truncated_file_is_refused_from_where_it_ends(tmp_path, media):
  path = pathlib.Path(media.write_media(
      tmp_path / "a.mkv", [media.numbered(i) for i in range(200)],
      media.clicks([], 8)))
  os.truncate(path, path.stat().st_size // 2)
  assert len(media_lib.read(str(path), 0, 2).frames) == 20
  with pytest.raises(MediaError, match="0 of 20 frames are there"):
    media_lib.read(str(path), 6, 8)
