"""The demo's script; what it runs has tests of its own."""
import pathlib
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "scripts/demo.sh"


@pytest.mark.parametrize("arguments", [
    ["both"], ["specific", "a", "b"], ["--help"]])
def test_bad_arguments(arguments):
  done = subprocess.run(["bash", SCRIPT, *arguments], capture_output=True,
                        text=True)
  assert done.returncode == 2 and not done.stdout
  assert done.stderr == (f"error: {' '.join(arguments)}: expected "
                         "[specific|agnostic] [FOLDER]\n")
