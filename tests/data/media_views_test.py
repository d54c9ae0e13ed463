"""Views of files: which moments they show, however many processes read them."""
import os
import signal
import threading

import numpy as np
import pytest
from ml_collections import ConfigDict

from vatt.data import media_views
from vatt.data import windows as windows_lib
from vatt.data.ingest import views as views_lib
from vatt.data.ingest import workers as workers_lib
from vatt.data.media_views import End, View

DATA = ConfigDict(dict(frames=4, fps=4.0, size=8, audio_samples=1000,
                       audio_rate=1000))


@pytest.fixture(scope="module")
def film(tmp_path_factory, media):
  """50 seconds of four grey pictures a second, each a little lighter; a click a
  second."""
  pictures = [np.full([32, 48, 3], 20 + i, np.uint8) for i in range(200)]
  return media.write_media(
      tmp_path_factory.mktemp("film") / "grey.mkv", pictures,
      media.clicks(np.arange(50), 50), rate=4, audio="flac")


def read(inputs, windows, kinds=("video", "audio"), crops=1, workers=None):
  items = list(media_views.read_views(
      inputs, DATA, windows_lib.make_cutter(DATA, kinds, crops), kinds, windows,
      crops, workers or workers_lib.Workers()))
  return ([item for item in items if isinstance(item, View)],
          [item for item in items if isinstance(item, End)])


def picture_numbers(view):
  """Which pictures the frames of a view are, as their grey tells."""
  return [int(round(float(frame.mean()))) - 20 for frame in view.row["video"]]


@pytest.mark.parametrize("cores", [
    pytest.param(1, marks=pytest.mark.slow), 3])
def test_windows_of_a_long_file_show_their_moments(monkeypatch, film, cores):
  monkeypatch.setattr(media_views, "num_cores", lambda: cores)
  rows, ends = read([film], "all")
  assert ends == [End(0, [])]
  rows.sort(key=lambda view: view.window)
  assert [view.window for view in rows] == list(range(50))
  assert sum(view.share for view in rows) == pytest.approx(1)
  for second, view in enumerate(rows):
    assert view.start == second and not view.silent
    assert picture_numbers(view) == pytest.approx(
        [4 * second + i for i in range(4)], abs=1)
    # The filter that resamples lets a click begin a little before its time.
    sound = np.abs(view.row["audio"][:, 0].astype(int))
    assert sound[:5].max() > 2_000 > 20 * sound[20:-20].max()


class Together(workers_lib.Workers):
  """Of two files, each waits for the other to have begun."""

  def __init__(self):
    super().__init__()
    self._begun = threading.Barrier(2)

  def stream(self, *args, **kwargs):
    for i, item in enumerate(super().stream(*args, **kwargs)):
      if i == 0:
        self._begun.wait(60)
      yield item


def test_files_are_read_beside_each_other(monkeypatch, film):
  """Not the second behind the first, where both are long."""
  monkeypatch.setattr(media_views, "num_cores", lambda: 2)
  rows, ends = read([film, film], "all", ("video",), workers=Together())
  assert sorted(end.file for end in ends) == [0, 1]
  for number in (0, 1):
    assert sorted(view.window for view in rows if view.file == number) == (
        list(range(50)))


def test_sound_behind_the_last_picture_is_heard(tmp_path, media):
  path = media.write_media(
      tmp_path / "short.mkv", [np.full([32, 32, 3], 99, np.uint8)] * 8,
      media.clicks([0.5, 5.5], 6), rate=4, audio="flac")
  rows, ends = read([path], "all")
  rows.sort(key=lambda view: view.window)
  assert ends == [End(0, [])]
  assert [view.start for view in rows] == [0, 1, 2, 3, 4, 5]
  assert [bool(view.row["video_mask"]) for view in rows] == [True] * 2 + (
      [False] * 4)
  assert [view.silent for view in rows] == [False, True, True, True, True,
                                            False]
  # As an evaluation spreads them, by pictures.
  assert [view.start for view in read([path], 2)[0]] == [0, 1]


def test_few_windows_of_a_long_file_are_spread_as_in_an_evaluation(film):
  rows, _ = read([film], 3)
  # 200 frames, windows of 4: of 196 starts the first, the middle, the last.
  assert [view.start for view in rows] == [0, 98 / 4, 196 / 4]
  assert [picture_numbers(view)[0] for view in rows] == pytest.approx(
      [0, 98, 196], abs=1)
  rows, _ = read([film], 1)
  assert [view.start for view in rows] == [98 / 4]


def test_crops_lie_beside_each_other(film):
  rows, _ = read([film], 2, ("video",), crops=3)
  assert [view.window for view in rows] == [0, 0, 0, 1, 1, 1]
  assert {*rows[0].row} == {"video", "video_mask", "audio_mask"}
  assert not rows[0].row["audio_mask"]


def test_windows_that_touch_are_read_together():
  """Whatever the rounding of their starts: 3.2 seconds have no binary."""
  starts = views_lib.window_starts(1200, 10.0, 3.2, "all") / 10
  parts = views_lib._group(starts, 3.2, 120.0, 20.0)
  assert [len(part) for part in parts] == [6] * 6 + [2]


@pytest.mark.parametrize("count, span, windows, starts", [
    (40, 1.0, 2, [0, 36]), (40, 1.0, 1, [18]), (41, 1.0, 1, [18]),
    (40, 1.0, "all", range(0, 40, 4)),
    (42, 1.0, "all", [*range(0, 40, 4), 38]),
    (3, 1.0, 4, [0] * 4), (3, 1.0, "all", [0]), (4, 1.0, "all", [0]),
    (8, 0.6, "all", [0, 2, 4, 5])])
def test_starts_of_windows(count, span, windows, starts):
  found = views_lib.window_starts(count, 4.0, span, windows)
  assert found.tolist() == [*starts]


def test_who_stops_reading_leaves_no_thread_and_no_process(monkeypatch, film):
  started, start = [], workers_lib._start
  monkeypatch.setattr(workers_lib, "_start",
                      lambda: started.append(start()) or started[-1])

  def threads():
    return [thread for thread in threading.enumerate()
            if thread.name == "reader of views"]

  cut = windows_lib.make_cutter(DATA, ("video",), 1)
  items = media_views.read_views(
      [film] * 3, DATA, cut, ("video",), "all", 1, workers_lib.Workers())
  assert isinstance(next(items), View)
  assert threads()
  items.close()
  for thread in threads():
    thread.join(10)
  assert not threads()
  # Killed, and no zombies.
  assert {process.returncode for process, _ in started} == {-signal.SIGKILL}


def test_a_decoder_that_is_told_to_stop_ends_it_all(monkeypatch, film):
  """As Ctrl-C does, which all processes of a terminal get."""
  read_parts = views_lib.read_parts
  monkeypatch.setattr(views_lib, "read_parts", stop_me)
  stop_me.__module__ = __name__
  with pytest.raises(KeyboardInterrupt):
    read([film], 1)
  monkeypatch.setattr(views_lib, "read_parts", read_parts)
  assert read([film], 1)[1] == [End(0, [])]


def stop_me(*_):
  os.kill(os.getpid(), signal.SIGINT)
