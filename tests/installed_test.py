"""The package as pip installs it: away from the checkout."""
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
OWN = """
from configs import common, my_videos
from vatt import recipes

def get_config(arg=None):
  assert common.pretraining is recipes.pretraining
  config = my_videos.get_config(arg)
  config.total_steps = 7
  return config
"""
# --config of several programs.
PROGRAM = """
import json, sys
from absl import flags
from ml_collections import config_flags
import vatt
from vatt import cli
for i, path in enumerate(sys.argv[1:]):
  config_flags.DEFINE_config_file(f"config{i}", path)
flags.FLAGS(sys.argv[:1])
found = [flags.FLAGS[f"config{i}"].value for i in range(len(sys.argv) - 1)]
print(json.dumps([vatt.__file__, [(c.task, c.total_steps) for c in found]]))
"""


def setup(*command):
  subprocess.run([sys.executable, "setup.py", "-q", *command], cwd=ROOT,
                 check=True, capture_output=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
  """A folder with what is installed, to be on the path."""
  folder = tmp_path_factory.mktemp("installed")
  setup("build", "-b", str(folder / "build"), "--build-lib",
        str(folder / "lib"))
  return folder / "lib"


def test_nothing_is_installed_that_others_may_be_called(installed):
  assert os.listdir(installed) == ["vatt"]


def test_names_of_classes_are_installed(installed):
  there = {path.relative_to(ROOT): path.read_bytes()
           for path in (ROOT / "vatt").rglob("*.txt")}
  assert len(there) == 5
  assert there == {path: (installed / path).read_bytes() for path in there}


@pytest.mark.parametrize("theirs", [{}, pytest.param(
    {"__init__.py": "", "common.py": OWN, "finetune.py": ""},
    marks=pytest.mark.slow)])
def test_configs_run_from_any_folder(installed, tmp_path, theirs):
  """One's own that imports ours, and ours by their paths; whatever is called
  `configs` where they run."""
  (tmp_path / "configs").mkdir()
  for name, text in theirs.items():
    (tmp_path / "configs" / name).write_text(text)
  ours = [(f"{ROOT}/configs/my_videos.py:cpu", ("pretrain", 2_000)),
          (f"{ROOT}/configs/ablations.py:tune_224", ("finetune", 100_000)),
          (f"{ROOT}/configs/finetune_digits.py:audio", ("finetune", 300))]
  own = tmp_path / "elsewhere/own.py"
  own.parent.mkdir()
  own.write_text(OWN)
  if not theirs:  # else `configs` is theirs
    ours.append((f"{own}:cpu", ("pretrain", 7)))
  done = subprocess.run(
      [sys.executable, "-c", PROGRAM, *(path for path, _ in ours)],
      cwd=tmp_path, env=dict(os.environ, PYTHONPATH=str(installed)),
      capture_output=True, text=True)
  assert not done.returncode, done.stderr
  file, found = json.loads(done.stdout)
  assert pathlib.Path(file).is_relative_to(installed)
  assert list(map(tuple, found)) == [expected for _, expected in ours]


def test_commands_lead_to_programs(installed, tmp_path):
  setup("egg_info", "--egg-base", str(tmp_path))
  lines = (tmp_path / "vatt.egg-info/entry_points.txt").read_text().split("\n")
  commands = dict(line.split(" = ") for line in lines if " = " in line)
  assert {"vatt-embed", "vatt-classify"} <= commands.keys()
  for name, place in commands.items():
    module, function = place.split(":")
    script = tmp_path / name  # as pip writes it
    script.write_text(f"from {module} import {function}\n{function}()\n")
    done = subprocess.run(
        [sys.executable, script, "--help"], cwd=tmp_path, capture_output=True,
        env=dict(os.environ, PYTHONPATH=str(installed)), text=True)
    assert f"python -m {name.replace('-', '.')} " in done.stdout, done.stderr
    assert "  --workdir: " in done.stdout


def test_sources_are_whole(tmp_path):
  """What a source distribution has beside the package: all that is at the top
  but what only a checkout needs."""
  setup("egg_info", "--egg-base", str(tmp_path), "sdist", "--dist-dir",
        str(tmp_path))
  archive, = tmp_path.glob("*.tar.gz")
  with tarfile.open(archive) as tar:
    names = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    head, text = tar.extractfile(
        f"{archive.name.removesuffix('.tar.gz')}/PKG-INFO").read().decode(
        ).split("\n\n", 1)
  for folder in ("configs", "scripts", "tests", "vatt"):
    there = {path.relative_to(ROOT).as_posix()
             for path in (ROOT / folder).rglob("*") if path.is_file()
             and not any("cache" in part for part in path.parts)}
    assert there <= names
  assert {"README.md", "LICENSE", ".importlinter", ".pytest.ini",
          ".ruff.toml", "scripts/.ruff.toml"} <= names
  assert not any("cache" in name for name in names)
  assert "Description-Content-Type: text/markdown" in head.splitlines()
  assert text.strip() == (ROOT / "README.md").read_text().strip()
