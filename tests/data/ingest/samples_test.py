"""Float samples that are no numbers, or of another scale."""
import av
import numpy as np
import pytest
from scipy.io import wavfile

from vatt.data.ingest import media as media_lib
from vatt.data.ingest.media import MediaError
from vatt.data.ingest.samples import FloatCheck

TONE = 0.3 * np.sin(2 * np.pi * 440 * np.arange(48000) / 8000)  # 6 s


def write(path, samples, kind=np.float32):
  wavfile.write(path, 8000, samples.astype(kind))
  return str(path)


@pytest.mark.parametrize("kind, values", [
    (np.float32, [np.nan]), (np.float32, [np.inf, -np.inf]),
    (np.float64, [np.nan, -np.inf, 0.1])])
def test_what_is_no_number_is_silence_and_counted(tmp_path, kind, values):
  samples = TONE.copy()
  samples[16000:19200] = np.resize(values, 3200)
  path = write(tmp_path / "a.wav", samples, kind)
  clip = media_lib.read(path, audio_rate=8000)
  bad = ~np.isfinite(samples)
  want = np.round(np.where(bad, 0, samples) * 32768)
  np.testing.assert_allclose(clip.audio, want, atol=1)
  assert not clip.audio[bad].any()
  assert 0 < clip.damaged < 30  # packets
  # Clips are damaged that have some of it; of overlapping ones, each.
  clips = list(media_lib.read_clips(
      path, [(0, 1.9), (0.1, 6), (0.2, 5.8), (2.45, 4)], audio_rate=16000))
  assert [bool(clip.damaged) for clip in clips] == [False, True, True, False]
  for clip, begin in zip(clips[1:3], (0.1, 0.2)):
    silent = clip.audio[round((2 - begin) * 16000):][:6400:2]
    assert not silent[bad[16000:19200]].any()


def test_too_much_that_is_no_number_is_refused(test_data):
  path = str(test_data / "cases/nan.wav")
  with pytest.raises(MediaError, match=(
      r"^32000 of 48000 samples are there; \d+ packets are damaged: samples "
      "that are not finite$")):
    media_lib.read(path, audio_rate=16000)
  for start in (0, 2):
    clip = media_lib.read(path, start, start + 1, audio_rate=4000)
    assert not clip.damaged and 9000 < np.abs(clip.audio.astype(int)).max() < (
        11000)


@pytest.mark.parametrize("samples, found", [
    (TONE * 32768, "from -9830.4 to 9830.4"),
    (np.int32(TONE * 2 ** 31).view(np.float32), r"from -.*e\+\d\d to "),
    (TONE * 10, "from -3 to 3")])
def test_samples_of_another_scale_are_refused(tmp_path, samples, found):
  path = write(tmp_path / "a.wav", samples)
  with pytest.raises(MediaError, match=f"^samples {found}.*, expected finite "
                     "ones within -1 and 1: .* f32le$"):
    media_lib.read(path)


def test_what_is_a_little_too_loud_is_clipped(tmp_path):
  samples = TONE * 5
  samples[::2000] = 9.0  # peaks
  clip = media_lib.read(write(tmp_path / "a.wav", samples), audio_rate=8000)
  want = np.clip(np.round(samples * 32768), -32768, 32767)
  np.testing.assert_allclose(clip.audio, want, atol=1)
  assert not clip.damaged


@pytest.mark.parametrize("kind", ["flt", "fltp", "dbl", "dblp"])
def test_channels_of_a_frame(kind):
  values = np.zeros([3, 100], np.float32 if "f" in kind else np.float64)
  values[0, 10:13], values[2, 12:20], values[1, 99] = np.nan, np.inf, np.nan
  packed = not kind.endswith("p")
  frame = av.AudioFrame.from_ndarray(
      values.T.reshape(1, -1) if packed else values, kind, "3.0")
  frame.sample_rate, frame.pts = 8000, 7
  (mended, spans), = FloatCheck().mend([frame])
  assert spans.tolist() == [[10, 20], [99, 100]]
  assert np.isfinite(mended.to_ndarray()).all() and mended.pts == 7
  assert np.isnan(frame.to_ndarray()).any()  # others have it, too
  frame = av.AudioFrame.from_ndarray(
      np.zeros_like(frame.to_ndarray()), kind, "3.0")
  (same, spans), = FloatCheck().mend([frame])
  np.testing.assert_array_equal(same.to_ndarray(), frame.to_ndarray())
  assert spans.shape == (0, 2)


@pytest.mark.parametrize("layout, count", [("7.1", 8), ("12 channels", 12)])
def test_many_channels(tmp_path, layout, count):
  """PyAV takes what lies in memory behind 8 planes or more for others."""
  path = str(tmp_path / "a.mkv")
  values = np.repeat(np.float32(TONE)[None], count, axis=0)
  values[-1, 16000:19200] = np.nan
  with av.open(path, "w") as container:
    stream = container.add_stream(
        "wavpack", rate=8000, layout=layout, format="fltp")
    parting = av.AudioResampler("fltp", layout, 8000)
    for i in range(0, len(TONE), 1000):
      # [C, S] -> [1, S·C]
      frame = av.AudioFrame.from_ndarray(
          values[:, i:i + 1000].T.reshape(1, -1), "flt", layout)
      frame.sample_rate, frame.pts = 8000, i
      for planar in parting.resample(frame):
        container.mux(stream.encode(planar))
    container.mux(stream.encode(None))
  with av.open(path) as container:
    frame = next(container.decode(audio=0))
    assert frame.format.name == "fltp" and frame.layout.nb_channels == count
  clip = media_lib.read(path, audio_rate=8000)
  want = np.where(np.isnan(values[-1]), 0, np.round(TONE * 32768))
  np.testing.assert_allclose(clip.audio, want, atol=1)
  assert 0 < clip.damaged < 30
