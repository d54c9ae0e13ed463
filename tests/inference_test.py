"""Trained models from their workdirs: what is refused, in a line."""
import pathlib
import shutil

import pytest

from vatt import inference
from vatt.config import replace
from vatt.errors import UserError
from vatt.tasks import make_task
from vatt.workdir import read_config

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


@pytest.fixture
def workdir(tmp_path):
  """A copy of a pre-trained model's."""
  return pathlib.Path(shutil.copytree(
      FIXTURES / "specific", tmp_path / "specific"))


def test_words_that_are_not_the_models_are_refused(workdir):
  path = workdir / "vocabulary.txt"
  words = path.read_text()
  path.write_text(words + "another\n")
  with pytest.raises(UserError, match=r"vocabulary.txt: \d+ words, expected "
                     r"the \d+ of the model"):
    inference.Embedder(str(workdir))
  path.write_text(words + words.splitlines()[0] + "\n")
  with pytest.raises(UserError, match="expected each word once"):
    inference.Embedder(str(workdir))
  path.unlink()
  with pytest.raises(UserError, match="has no vocabulary.txt, expected the"):
    inference.Embedder(str(workdir))
  # Towers need none.
  _, tower, step = inference.load_tower(str(workdir), "video")
  assert (tower.modality, step) == ("video", 10)


def test_other_shapes_and_towers_are_refused(workdir):
  config = read_config(str(workdir))
  with pytest.raises(UserError, match="data.size is 99, expected .*, which the "
                     "model of .* was trained with"):
    inference.load_model(str(workdir), replace(config, {"data.size": 99}))
  with pytest.raises(UserError, match="dtype is 'half', expected one of float"):
    inference.load_model(str(workdir), replace(config, {"dtype": "half"}))
  with pytest.raises(UserError, match="probe.modality is 'text', expected vid"):
    inference.load_tower(str(workdir), "text")


def test_a_model_that_starts_from_another_has_its_words(workdir):
  config = read_config(str(workdir))
  words = (workdir / "vocabulary.txt").read_text().split()
  task = make_task(replace(config, {"data.vocabulary": "other.txt"}),
                   [words[1], words[0], *words[2:]])
  with pytest.raises(UserError, match=f"vocabulary other.txt: number 0 is "
                     f"'{words[1]}', expected '{words[0]}' as in .*specific"):
    inference.start_from(str(workdir), task, task.build_model())
  task = make_task(config, words)
  assert inference.start_from(str(workdir), task, task.build_model()) == 10


def test_a_model_that_cannot_be_written_takes_nothing_with_it(workdir):
  """Not even what another program has put beside it meanwhile."""
  trained = inference.load_model(str(workdir))
  folder = workdir.parent / "new"

  class Beside(type(trained.task)):
    """Its words have no folder to lie in; whoever asks for them is seen."""
    WORDS_FILE = "nowhere/words.txt"

    @property
    def words(self):
      (folder / "notes.txt").touch()
      return ["word"]

    @words.setter
    def words(self, _):
      pass

  with pytest.raises(UserError, match="new: cannot be written: "):
    inference.create(str(folder), Beside(trained.task.config), trained.model)
  assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_classifier_embeds_no_sentence():
  with pytest.raises(UserError, match="a model of the task finetune, expected"):
    inference.Embedder(str(FIXTURES / "tuned"))
