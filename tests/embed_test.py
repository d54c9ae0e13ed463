"""Vectors of files by the command line."""
import os
import pathlib
import signal
import time

import numpy as np
import pytest
from scipy.io import wavfile

from vatt import inference

MODEL = pathlib.Path(__file__).parent / "fixtures" / "specific"


def embed(python, *arguments, fork=True):
  return python.run("-m", "vatt.embed", f"--workdir={MODEL}", *arguments,
                    fork=fork)


def test_rows_are_files_in_their_order(tmp_path, python, films):
  (tmp_path / "notes.mp4").write_text("no film")
  wavfile.write(tmp_path / "silent.wav", 8000, np.zeros([9000], np.int16))
  out = tmp_path / "vectors [1].npz"
  result = embed(python, films[1], str(tmp_path), films[0], f"--out={out}",
                 "--windows=2", fork=False)
  assert result.returncode == 0, result.stderr
  assert f"{out}: 2 of 4 files\n" in result.stdout
  assert f"{tmp_path}/notes.mp4: no readable media: " in result.stderr
  assert f"{tmp_path}/silent.wav: its sound is silent in all" in result.stderr
  found = dict(np.load(out))
  assert found.pop("path").tolist() == [films[1], films[0]]
  wanted = inference.Model(MODEL).embed_clip([films[1], films[0]], windows=2)
  assert found.keys() == wanted.keys() >= {
      "video_vt", "video_va", "audio_features"}
  for name, rows in wanted.items():
    assert found[name].dtype == np.float32
    np.testing.assert_allclose(found[name], rows, atol=1e-6)
  assert np.isnan(found["audio_va"]).all(axis=1).tolist() == [True, False]


def test_rows_are_windows(tmp_path, python, films):
  result = embed(python, *films, f"--out={tmp_path}/a.npz", "--each",
                 "--windows=all", "--modalities=video")
  assert result.returncode == 0, result.stderr
  found = np.load(tmp_path / "a.npz")
  assert {*found} == {"path", "time", "video_va", "video_vt", "video_features"}
  assert found["path"].tolist() == [films[0]] * 6 + [films[1]] * 10
  assert found["time"][:, 0].tolist() == [0, 1, 2, 3, 4, 4.25, *range(10)]
  assert (found["time"][:, 1] == found["time"][:, 0] + 1).all()
  np.testing.assert_allclose(
      np.linalg.norm(found["video_vt"], axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("arguments, said", [
    ([], "no file, expected the names of media files or folders"),
    (["{tmp}"], "{tmp}: no media file in it, expected some"),
    (["{film}", "--windows=0"], "--windows=0: expected a number from 1"),
    (["{film}", "--out=a.txt"], "--out=a.txt: expected a file of a folder that "
     "is there, whose name ends in .npz"),
    (["{film}", "--out={tmp}/b/a.npz"], "--out={tmp}/b/a.npz: expected a file "
     "of a folder"),
    (["{film}", "--modalities=smell"], "{model}: a model of video, audio, "
     "text, expected one that has smell"),
    (["{film}", "--modalities=text"], "--modalities=text: expected video or "),
    (["{tmp}/no.mp4"], "{tmp}/no.mp4: no readable media: No such file"),
    (["{film}", "--workdir={tmp}"], "{tmp}/config.json: not found, expected"),
])
def test_errors_are_one_line(tmp_path, python, films, arguments, said):
  words = dict(tmp=str(tmp_path), film=films[1], model=str(MODEL))
  out = [] if "--out" in " ".join(arguments) else [f"--out={tmp_path}/a.npz"]
  result = embed(python, *(each.format(**words) for each in arguments), *out)
  line = result.stderr.splitlines()[-1]
  assert result.returncode == 1
  assert line.startswith("error: " + said.format(**words)), result.stderr
  assert os.listdir(tmp_path) == []


def test_ctrl_c_is_told_in_a_line(tmp_path, python, films):
  for i in range(300):
    (tmp_path / f"{i}.mp4").symlink_to(films[1])
  process = python.start("-m", "vatt.embed", *tmp_path.glob("*"),
                         f"--workdir={MODEL}", f"--out={tmp_path}/a.npz",
                         "--windows=all")
  time.sleep(2)  # of ten or more
  process.send_signal(signal.SIGINT)
  _, said = process.communicate(60)
  assert said.splitlines()[-1] == "stopped" and "Traceback" not in said
  assert process.returncode == 130 and not (tmp_path / "a.npz").exists()
