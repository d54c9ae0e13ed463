"""The benchmark of ingest: totals by hand, and a film that is joined."""
import json

import av
import pytest
from benchmarks import ingesting


def test_totals():
  """HowTo100M in clips of ten seconds, by hand: 134,472 x 360 clips."""
  found = ingesting.totals(134_472, stride=10, size=3_170_000, seconds=0.375)
  assert found == {
      "millions of clips": pytest.approx(48.409_92),
      "TB": pytest.approx(153.459_446_4),
      "core hours": pytest.approx(5042.7)}


def test_clips_around_captions_are_as_many_as_there_are_captions():
  found = ingesting.totals(
      134_472, ingesting.CHOICES["+stride=3.56"], size=0, seconds=0)
  assert found["millions of clips"] == pytest.approx(136, rel=0.001)


@pytest.mark.slow  # what it says of times is not tested
def test_measures_a_film_that_is_joined(python, test_data, tmp_path):
  (tmp_path / "videos").mkdir()
  for name in "bikes.mp4", "band.mp4":  # of two sizes, rates and layouts
    (tmp_path / "videos" / name).symlink_to(test_data / "media" / name)
  program = f"""
import runpy, sys
sys.path.insert(0, "scripts")
from benchmarks import ingesting
ingesting.SECONDS = 30
ingesting.CHOICES = {{"+fps=1+size=64": 10.0, "+fps=2+size=64+stride=5": 5.0}}
sys.argv = ["benchmark", "--what=ingest", "--folder={tmp_path}/made",
            "--videos={tmp_path}/videos", "--joined", "--hours=2",
            "--json={tmp_path}/found.json", "--repeats=1"]
runpy.run_path("scripts/benchmark.py", run_name="__main__")
"""
  done = python.run("-c", program, fork=False)
  assert done.returncode == 0, done.stderr
  with av.open(str(tmp_path / "made/joined/film.mp4")) as film:
    video, sound = film.streams.video[0], film.streams.audio[0]
    assert (video.width, video.height, video.average_rate, video.frames) == (
        640, 360, 30, 900)
    assert float(sound.duration * sound.time_base) == pytest.approx(30, abs=0.1)
  found = json.loads((tmp_path / "found.json").read_text())
  for name, clips, stride in (("+fps=1+size=64", 3, 10),
                              ("+fps=2+size=64+stride=5", 6, 5)):
    of = {what: found[f"{name}: {what}"] for what in (
        "clips", "frames, MB a clip", "sound, MB a clip",
        "processor seconds a clip", "TB", "core hours")}
    assert of["clips"] == clips
    # PCM of 48 kHz, of which the last clip may have half; frames are JPEG of
    # 64 x 114 pixels.
    assert of["sound, MB a clip"] == pytest.approx(0.96, rel=0.1)
    assert 0.01 < of["frames, MB a clip"] < 0.1
    number = 2 * 3600 / stride
    seconds = of["processor seconds a clip"]["median"]
    assert seconds > 0 and of["core hours"] == pytest.approx(
        number * seconds / 3600)
    assert of["TB"] == pytest.approx(number * (
        of["frames, MB a clip"] + of["sound, MB a clip"]) / 1e6)
