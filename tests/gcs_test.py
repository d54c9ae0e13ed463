"""What TensorFlow reads of gs:// at once; its address cannot be changed."""
import subprocess
import sys

import pytest

NAMES = "GCS_READAHEAD_BUFFER_SIZE_BYTES", "GCS_READ_CACHE_BLOCK_SIZE_MB"


@pytest.mark.parametrize("given,expected", [
    ({}, "65536 None"), ({NAMES[0]: "7"}, "7 None"),
    ({NAMES[1]: "16"}, "None 16")])
def test_its_users_choice_comes_first(python_env, given, expected):
  env = {k: v for k, v in python_env.items() if k not in NAMES} | given
  done = subprocess.run(
      [sys.executable, "-c", "import os, vatt\n"
       f"print(*map(os.environ.get, {NAMES}))"], env=env, text=True,
      stdout=subprocess.PIPE, check=True)
  assert done.stdout.strip() == expected


@pytest.mark.slow
def test_tensorflow_takes_it(python_env):
  """As it says itself, when it is loaded."""
  env = {k: v for k, v in python_env.items() if k not in NAMES} | {
      "TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_MAX_VLOG_LEVEL": "1"}
  done = subprocess.run(
      [sys.executable, "-c", "import vatt, tensorflow"], env=env, text=True,
      stderr=subprocess.PIPE, check=True)
  assert "GCS cache max size = 0 ; block size = 65536 ;" in done.stderr
