"""Short films of things that move and sound, made on the spot.

The media are real files, H.264 and AAC in mp4 with subtitles beside them, and
are ingested like anybody's: see media.py. What there is to see, hear and
read is in scenes.py, sounds.py and captions.py. Captions have
directions, so training on this must not flip.
"""
import tensorflow_datasets as tfds

from vatt.data.datasets import clips
from vatt.data.datasets.demo import media, scenes, sounds
from vatt.data.ingest.plans import Plan


class Demo(clips.Clips, skip_registration=True):
  """Text to video: each test clip's caption fits no other of the 200, and its
  combination of shape, colour and motion is in no training clip."""

  VERSION = tfds.core.Version("1.1.0")  # as that of Clips
  MEDIA = "1.0.0"  # which are the same
  NUM_TRAIN = 1320
  NUM_TEST = 200
  DEFAULTS = clips.Options(fps=float(scenes.FPS), size=scenes.SIDE,
                           audio_rate=sounds.RATE)

  def make_plan(self, manual_dir: str | None) -> Plan:
    folder = (manual_dir
              or f"{self._data_dir_root}/downloads/demo_{self.MEDIA}")
    media.render(folder, self.NUM_TRAIN, self.NUM_TEST)
    return super().make_plan(folder)
