"""A split through a function, against its views in one batch."""
import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from tests.data import conftest as records
from vatt.data import input_pipeline, sources
from vatt.predict import Views, predict, tell_not_finite


def test_means_and_first_views(tmp_path):
  """Seven clips of 2 windows × 3 crops in batches of 4: a clip's views begin in
  one batch and end in another. What is declared decides, not the type: an
  integer has a first view's value, and so has a float if it is said so."""
  records.write_built(tmp_path, "clips", {"test": [
      records.serialize(records.clip(i, width=50)) for i in range(7)]})
  data = records.config(tmp_path, frames=2)
  config = ConfigDict(dict(data=data, eval=dict(
      batch_size=4, windows=2, crops=3)))
  source = sources.open_source("clips", str(tmp_path), "test")
  batch, = input_pipeline.eval_dataset(data, source, 42, 2, 3)

  def function(batch):
    brightness = tf.reduce_mean(
        tf.cast(batch["video"], tf.float64), [1, 2, 3])  # [b, 3]
    return Views(means=dict(mean=brightness), first=dict(
        first=brightness, sum=tf.reduce_sum(tf.cast(
            batch["video"], tf.int64), [1, 2, 3, 4])))

  done = []
  found = predict(config, function, tf.distribute.get_strategy(), source,
                  done.append)
  views = batch["video"].numpy().astype(float).mean(axis=(1, 2, 3))
  views = views.reshape(7, 6, 3)
  assert np.ptp(views, axis=1).min() > 0  # views of a clip differ
  np.testing.assert_allclose(found["mean"], views.mean(axis=1), rtol=1e-12)
  np.testing.assert_allclose(found["first"], views[:, 0], rtol=1e-12)
  sums = batch["video"].numpy().astype(int).sum(axis=(1, 2, 3, 4))
  np.testing.assert_array_equal(found["sum"], sums.reshape(7, 6)[:, 0])
  assert sum(done) == 7 and set(found) == {"mean", "first", "sum"}


def test_what_is_no_finite_number_is_said(caplog):
  values = np.ones([4, 2, 3])
  for empty in (values, values[:0], values[..., :0]):
    tell_not_finite(empty, "a")
  assert not caplog.text
  values[1, 0, 2], values[3] = np.nan, -np.inf
  tell_not_finite(values, "video_va of split 'test'")
  assert ("video_va of split 'test': 2 of 4 clips have what is no finite "
          "number") in caplog.text
