import numpy as np
import pytest
from benchmarks import input as input_benchmark

from configs import common


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  return input_benchmark.make_records(
      str(tmp_path_factory.mktemp("input")), count=2)


@pytest.fixture
def config():
  config = common.pretraining("mbs")
  config.data.update(dict(frames=3, size=160, audio_samples=14_400))
  return config


@pytest.mark.slow  # and says no more than that they run
def test_stages_run(config, source):
  stages = input_benchmark.input_stages(
      config, source, num_clips=2, batch_size=1)
  assert list(stages) == [
      "read", "+ decode the crops", "+ resize", "+ audio and captions",
      "naive frames", "pipeline", "naive pipeline"]
  for run in stages.values():
    assert run() > 0


@pytest.mark.slow  # likewise
def test_choices_run(config, tmp_path):
  choices = input_benchmark.input_choices(
      str(tmp_path), config, num_clips=2, batch_size=1)
  assert list(choices) == [
      "enlarged on the device", "frames of 192",
      "frames of 192, enlarged on the device", "frames of 160",
      "frames of 160, enlarged on the device"]
  for run in choices.values():
    assert run() > 0


def test_the_naive_way_makes_the_same_batch(config, source):
  config.data.vocabulary = f"{source.directory}/vocabulary.txt"
  config.data.datasets = (source.name,)
  ours, naive = (
      next(iter(input_benchmark.train_batches(config.data, source, 6, naive)))
      for naive in (False, True))
  difference = np.abs(np.int32(ours.pop("video")) - np.int32(
      naive.pop("video")))
  # But at the edges of a crop: JPEG has a quarter of the colours, and what lies
  # beyond the edge is not decoded.
  assert difference[:, :, 8:-8, 8:-8].max() <= 1
  assert (difference > 1).mean() < 0.01
  for key, value in naive.items():
    np.testing.assert_array_equal(ours[key], value)
