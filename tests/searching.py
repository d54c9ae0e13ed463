"""Media with their index, which the tests of search share."""
import pathlib
import types

import numpy as np
import pytest
from scipy.io import wavfile

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


def tone(seconds, pitch, rate=8000):
  """A sound, int16 [S]."""
  return np.int16(9000 * np.sin(np.arange(int(seconds * rate)) * pitch / rate))


@pytest.fixture(scope="session")
def indexed(tmp_path_factory, media):
  """A model of windows of a second; a folder of media with their index: a film
  of 3 s with sound, whose pictures are numbered 8 a second, a mute one of 2 s,
  a sound of 2.5 s, and what is no media."""
  from vatt import index as index_lib
  from vatt import inference

  folder = tmp_path_factory.mktemp("indexed")
  (folder / "b").mkdir()
  pictures = [media.numbered(i) for i in range(24)]
  media.write_media(folder / "film.mkv", pictures, media.clicks(
      np.arange(0, 3, 0.1), 3.0), rate=8, audio="flac")
  media.write_media(folder / "b/mute.mp4", [
      media.numbered(255 - i) for i in range(16)], rate=8)
  wavfile.write(folder / "b/sound.wav", 8000, tone(2.5, 2000))
  (folder / "broken.mp4").write_text("no film")
  model = inference.Model(FIXTURES / "specific")
  index = index_lib.Index(folder / ".vatt-index", model)
  assert index.read() == []
  assert index.update([str(folder)]) == (4, 0, 0, 0, 1)
  return types.SimpleNamespace(model=model, folder=folder, index=index)
