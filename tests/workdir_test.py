"""A run's folder: what is written comes back, what is another's is refused."""
import json
import pathlib

import pytest
from ml_collections import ConfigDict

from configs import common
from vatt import workdir
from vatt.config import replace
from vatt.errors import UserError


@pytest.fixture
def config():
  return replace(common.finetuning("video", "base"), {"data.classes": 2})


def test_what_is_written_comes_back(tmp_path, config):
  folder = str(tmp_path / "run")
  assert not workdir.has_model(folder)
  workdir.claim(folder, config, "labels.txt", ["a cat", "caf\u00e9\u2028x"])
  assert workdir.has_model(folder) and not workdir.has_checkpoint(folder)
  assert workdir.read_config(folder).to_dict() == config.to_dict()
  assert workdir.read_words(folder, "labels.txt") == [
      "a cat", "caf\u00e9\u2028x"]
  assert workdir.read_words(folder, "vocabulary.txt") == []
  # Not lists, which the command line could not replace.
  assert ConfigDict(workdir.read_config(folder)).data.datasets == (
      "howto100m", "audioset")


def test_free_fields_may_change_and_others_may_not(tmp_path, config):
  folder = str(tmp_path)
  workdir.claim(folder, config, "labels.txt", ["a", "b"])
  free = replace(config, {"eval.windows": 9, "data.data_dir": "elsewhere"})
  workdir.claim(folder, free, "labels.txt", ["a", "b"])
  assert workdir.read_config(folder).eval.windows == 9
  with pytest.raises(UserError, match="config.json: optimizer.lr is 0.0001, "
                     "this run has 0.5; expected the same config or another"):
    workdir.claim(folder, replace(config, {"optimizer.lr": 0.5}),
                  "labels.txt", ["a", "b"])
  assert workdir.read_config(folder).to_dict() == free.to_dict()


def test_fields_of_older_runs(tmp_path, config):
  """Those that came later are as the older run was."""
  workdir.write(str(tmp_path), config, "labels.txt", [])
  path = tmp_path / "config.json"
  older = json.loads(path.read_text())
  for part, fields in workdir.ADDED.items():
    for field in fields:
      del older[part][field]
  path.write_text(json.dumps(older))
  found = workdir.read_config(str(tmp_path))
  assert found.eval.crops == 1 and found.finetune.freeze == ""
  assert found.optimizer.clip_part == "" and not found.model.remat
  assert found.augment.color_probability == 1.0


@pytest.mark.parametrize("fields, goes_on", [
    ({}, False), ({"augment.noise": 0.0}, True),
    ({"data.audio_samples": 0}, True)])
def test_an_older_run_with_noise_does_not_go_on(
    tmp_path, config, fields, goes_on):
  """Its noise was no share of the sound's magnitude."""
  config = replace(config, {"augment.color_probability": 1.0, **fields})
  workdir.write(str(tmp_path), config, "labels.txt", [])
  workdir.check_run(str(tmp_path), config)
  path = tmp_path / "config.json"
  older = json.loads(path.read_text())
  del older["augment"]["color_probability"]
  path.write_text(json.dumps(older))
  if goes_on:
    workdir.check_run(str(tmp_path), config)
    return
  with pytest.raises(UserError, match="config.json: augment.noise is 0.01, .*"
                     "expected another --workdir, and --config.init="):
    workdir.check_run(str(tmp_path), config)


def test_a_config_that_is_a_folder(tmp_path):
  (tmp_path / "config.json").mkdir()
  with pytest.raises(UserError, match="config.json: cannot be read"):
    workdir.read_config(str(tmp_path))


def test_no_words(tmp_path):
  (tmp_path / "labels.txt").write_text("")
  assert workdir.read_words(str(tmp_path), "labels.txt") == []


def test_words_that_are_no_text(tmp_path):
  (tmp_path / "vocabulary.txt").write_bytes(b"caf\xe9\n")
  with pytest.raises(UserError, match="vocabulary.txt: not UTF-8, expected a"):
    workdir.read_words(str(tmp_path), "vocabulary.txt")


@pytest.mark.parametrize("content, said", [
    (None, "config.json: not found, expected the workdir of a run"),
    ("{", "config.json: not valid JSON")])
def test_what_is_no_workdir(tmp_path, content, said):
  if content:
    (tmp_path / "config.json").write_text(content)
  with pytest.raises(UserError, match=said):
    workdir.read_config(str(tmp_path))


@pytest.mark.parametrize("name, config", [
    ("agnostic", common.pretraining("ma")),
    ("tuned", common.finetuning("video", "ma"))])
def test_fields_that_came_later_have_values_for_older_runs(name, config):
  """Whoever adds one to configs adds it to `workdir.ADDED`."""
  folder = pathlib.Path(__file__).parent / "fixtures" / name
  found = workdir.read_config(str(folder))
  for part, fields in config.items():
    assert part in found
    if isinstance(fields, ConfigDict):
      assert set(fields) <= set(found[part]), part
