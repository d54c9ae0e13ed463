"""Four logical CPUs for every test, and the folders of outside data."""
import contextlib
import os
import pathlib
import signal
import subprocess
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Figures are compared with those of a CPU; a GPU rounds otherwise.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
# As the package does, which comes after TensorFlow here.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# tests/lowering.py makes variables of full size that nobody writes: they take
# no memory, but TensorFlow counts them, and refuses more than there is.
os.environ.setdefault("TF_MKL_ALLOC_MAX_BYTES", str(2 ** 37))

import pytest

from tests.forkserver import ForkServer

pytest_plugins = ["tests.media", "tests.searching"]


def pytest_configure(config):
  """Prepares TensorFlow, where this process runs tests and has no others to."""
  if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # So it is behind `&` in a script, and so would programs have it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
  if config.getoption("numprocesses", None):
    return
  import tensorflow as tf

  # Logical devices can be made only before TensorFlow starts, so all tests have
  # them: strategies of 1, 2 and 4 replicas then run in this process.
  tf.config.set_logical_device_configuration(
      tf.config.list_physical_devices("CPU")[0],
      [tf.config.LogicalDeviceConfiguration()] * 4)

  # Every MirroredStrategy numbers its groups of devices from 1; so two of
  # different sizes in a process take each other's for their own, and fail.
  # TensorFlow's tests, too, number them apart.
  make_mirrored = tf.distribute.MirroredStrategy.__init__

  def make_mirrored_apart(self, *args, **kwargs):
    tf.distribute.MirroredStrategy._collective_key_base += 1000
    make_mirrored(self, *args, **kwargs)

  tf.distribute.MirroredStrategy.__init__ = make_mirrored_apart


# What takes longest starts first, so that all processes end at about the same
# time: half a minute and more, by the durations that .ci/run prints.
LONGEST = (
    "golden", "lowering_test", "train_test", "replicas_test", "configs_test",
    "data/input_pipeline_test", "models/cost_test", "tasks/finetune_test",
    "scripts/zero_shot_retrieval_test", "models/vatt_step_test",
    "models/kernels_test", "scripts/convert_checkpoint_test",
    "scripts/linear_probe_test", "evaluators/features_test", "workers_test",
    "tpu_test")


def group_of(item):
  """A file's tests share what they build; the golden ones, what was used."""
  path = item.path.relative_to(pathlib.Path(__file__).parent)
  golden = path.name.startswith("golden_")
  return "golden" if golden else path.with_suffix("").as_posix()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items):
  """Where several processes run the tests, a group has one of them."""
  rank = {group: i for i, group in enumerate(LONGEST)}
  items.sort(key=lambda item: rank.get(group_of(item), len(LONGEST)))
  for item in items:
    item.add_marker(pytest.mark.xdist_group(group_of(item)))


def folder_of(variable, what):
  path = os.environ.get(variable)
  if not path:
    pytest.skip(f"{variable} is not set: it names the folder of {what}")
  if not os.path.isdir(path):
    pytest.fail(f"{variable} is {path}, which is no folder")
  return pathlib.Path(path)


@pytest.fixture(scope="session")
def golden_dir():
  """Path of the values that the published release computes."""
  return folder_of("VATT_GOLDEN_DIR", "the release's reference values")


@pytest.fixture(scope="session")
def golden(golden_dir):
  """Those values, to be read by name."""
  from tests.golden import Golden
  return Golden(golden_dir)


@pytest.fixture(scope="session")
def test_data():
  """Path of real media, such as spoken_digits/."""
  return folder_of("VATT_TEST_DATA", "real media")


@pytest.fixture(scope="session")
def python_env():
  """Environment for a Python process of its own that imports this project."""
  root = str(pathlib.Path(__file__).parents[1])
  return dict(os.environ, PYTHONPATH=root)


@pytest.fixture(scope="session")
def python(python_env):
  """Runs commands in that environment: `python.run("scripts/x.py", *flags)`."""
  server = ForkServer(python_env)
  yield server
  server.close()


class Processes:
  """What runs on this machine."""

  @staticmethod
  def of_session(session):
    """Of all of a session: {process: (its parent, its command)}."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
      with contextlib.suppress(OSError):
        name, _, rest = (folder / "stat").read_text().rpartition(")")
        state, parent, _, own, *_ = rest.split()
        if int(own) == session and state not in "ZX":
          found[int(folder.name)] = int(parent), (
              folder / "cmdline").read_text().split("\0")
    return found

  @staticmethod
  def are_gone(processes, seconds=5):
    """Whether processes have ended, or do so in a few seconds."""
    def runs(process):
      try:
        stat = pathlib.Path(f"/proc/{process}/stat").read_text()
      except OSError:
        return False
      return stat.rpartition(")")[2].split()[0] not in "ZX"

    end = time.monotonic() + seconds
    while any(map(runs, processes)):
      if time.monotonic() > end:
        return False
      time.sleep(0.05)
    return True


@pytest.fixture(scope="session")
def processes():
  """Looks at processes: `processes.are_gone(numbers)`."""
  return Processes


@pytest.fixture
def small_disk(tmp_path):
  """A function (size, such as "64k") -> path of a file system of that size."""
  path = tmp_path / "small_disk"

  def mount(size):
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)],
        capture_output=True)
    if done.returncode:
      pytest.skip("no right to mount a small file system")
    return path

  yield mount
  if path.is_mount():
    subprocess.run(["umount", "-l", str(path)], check=True)
