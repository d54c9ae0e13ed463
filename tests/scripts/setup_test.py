"""The script that makes the environment; pip, which takes minutes, just notes
what it is asked for."""
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PYTHON = f"""#!/bin/sh
case "$*" in "-m venv "*) set -- "$@" --without-pip ;; esac
exec "{sys.executable}" "$@"
"""
PIP = """import os, sys
open(os.environ["ASKED"], "a").write(" ".join(sys.argv[1:]) + chr(10))
"""


@pytest.fixture
def checkout(tmp_path):
  """A folder with a name of its own, that has what the script needs."""
  folder = tmp_path / "o d[1] #%\u00e9'*"
  (folder / "scripts").mkdir(parents=True)
  for name in ("setup.py", "scripts/setup.sh"):
    shutil.copy(ROOT / name, folder / name)
  return folder


@pytest.fixture
def set_up(tmp_path):
  """A function (folder) -> (what pip was asked for, what was said)."""
  python, pip, asked = (tmp_path / n for n in ("python", "lib/pip.py", "asked"))
  python.write_text(PYTHON)
  python.chmod(0o755)
  pip.parent.mkdir()
  pip.write_text(PIP)

  def set_up(folder):
    asked.write_text("")
    # A folder of the same name, where `cd` looks first.
    decoys = tmp_path / "decoys"
    (decoys / folder.name / "scripts").mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["bash", f"{folder.name}/scripts/setup.sh"], cwd=folder.parent,
        env=dict(os.environ, PYTHON=str(python), ASKED=str(asked),
                 PYTHONPATH=str(pip.parent), CDPATH=str(decoys)),
        capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return asked.read_text().splitlines(), done.stderr

  return set_up


def activated(folder):
  """The `python` of a shell in which the environment was activated."""
  return subprocess.run(
      ["bash", "-c", ". .venv/bin/activate && command -v python"], cwd=folder,
      capture_output=True, text=True, check=True).stdout.strip()


def test_once_is_enough(checkout, set_up):
  asked, _ = set_up(checkout)
  assert asked[-1].endswith("-e .[dev]")
  assert activated(checkout) == f"{checkout}/.venv/bin/python"
  assert set_up(checkout) == ([], "")
  with open(checkout / "setup.py", "a") as file:
    file.write("# Another.\n")
  mark = checkout / ".venv/mark"
  mark.touch()
  asked, _ = set_up(checkout)
  assert asked[-1].endswith("-e .[dev]") and mark.exists()


def test_a_moved_checkout_is_set_up_anew(checkout, set_up, tmp_path):
  set_up(checkout)
  moved = checkout.rename(tmp_path / "another folder")
  asked, said = set_up(moved)
  assert asked[-1].endswith("-e .[dev]")
  assert f"The project was at {checkout}: making .venv anew" in said
  assert activated(moved) == f"{moved}/.venv/bin/python"
  assert set_up(moved) == ([], "")
  # By another name of the same folder it is where it was.
  (tmp_path / "link").symlink_to(moved)
  assert set_up(tmp_path / "link") == ([], "")


def test_what_a_kill_left_is_made_anew(checkout, set_up):
  set_up(checkout)
  (checkout / ".venv/vatt.unfinished").touch()
  (checkout / ".venv/vatt.stamp").unlink()
  asked, said = set_up(checkout)
  assert asked[-1].endswith("-e .[dev]") and "did not finish" in said
