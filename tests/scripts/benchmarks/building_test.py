"""The benchmark of builds by processes, of a small film."""
import json

import numpy as np
import pytest


@pytest.mark.slow
def test_one_process_and_more(python, media, tmp_path):
  films = tmp_path / "films"
  films.mkdir()
  media.write_media(films / "0.mp4", [media.numbered(i) for i in range(100)],
                    media.clicks([0.5], 10), rate=10)
  (films / "clips.csv").write_text("video_path,start,end\n0.mp4,0,10\n")
  done = python.run("scripts/benchmark.py", "--what=build", "--repeats=1",
                    f"--folder={tmp_path}", f"--json={tmp_path}/out.json")
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / "out.json").read_text())
  assert len(list((tmp_path / "copies").iterdir())) == 8
  for count in 2, 32:  # 0.3 s a clip, whoever else takes the cores
    assert 0 < found[f"{count} sleepers: clips/s"] <= count / 0.3
    np.testing.assert_allclose(
        found[f"{count} sleepers: parent, % of a core"],
        count * found[f"{count} sleepers: that for each process"])
  assert found["1 films: clips/s"]["median"] > 0
