"""Evaluations in training: what is kept of them, whatever happens."""
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from vatt import metric_writers
from vatt.evaluation import Evaluation

CONFIG = ConfigDict(dict(eval_every=2, total_steps=5))


def make(evaluate):
  return Evaluation(CONFIG, evaluate, None, tf.distribute.get_strategy())


def test_steps_that_are_due():
  evaluation = make(lambda model: [])
  assert [step for step in range(7) if evaluation.is_due(step)] == [2, 4, 5, 6]
  assert not make(None).is_due(2)


def test_results_are_kept_before_they_are_shown(tmp_path, monkeypatch):
  """A reader of the output that is gone ends training, not the results."""
  def gone(*_):
    raise BrokenPipeError

  evaluation = make(lambda model: [("a/R@1", 0.25)])
  writer = metric_writers.MetricWriter(str(tmp_path))
  monkeypatch.setattr("sys.stdout.write", gone)
  with pytest.raises(BrokenPipeError):
    evaluation.run(2, writer)
  writer.close()
  monkeypatch.undo()
  assert metric_writers.evaluated_steps(str(tmp_path)) == {2}
  evaluation.tell_failures()


def test_metrics_that_cannot_be_read(tmp_path):
  (tmp_path / "metrics.jsonl").mkdir()
  with pytest.raises(ValueError, match="metrics.jsonl: cannot be read"):
    metric_writers.evaluated_steps(str(tmp_path))
