"""Ranks and recalls against values worked out by hand and by sorting."""
import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from configs import spoken_digits
from vatt import pretrain
from vatt.data import input_pipeline
from vatt.errors import UserError
from vatt.evaluators import retrieval

OPTIONS = dict(match="pair", average="embedding", captions=1)


@pytest.fixture
def small_blocks(monkeypatch):
  """A function that sets the sizes of what is compared at a time."""
  def use(block, chunk):
    monkeypatch.setattr(retrieval, "BLOCK", block)
    monkeypatch.setattr(retrieval, "CHUNK", chunk)
  return use


def rank_pairs(queries, items):
  ids = np.arange(len(items))
  return retrieval.ranks(queries, items, ids[:len(queries)], ids)


def rank_by_hand(queries, items, query_ids, item_ids):
  """Each query's items sorted one by one: those that are not right come first
  among equal ones; of ids below 0 none is there."""
  found = []
  for query, own in zip(queries, query_ids):
    order = sorted(
        (-sum(float(a) * float(b) for a, b in zip(query, item)), id_ == own)
        for item, id_ in zip(items, item_ids) if id_ >= 0)
    found.append(1 + sum(not right for _, right in order[:next(
        i for i, (_, right) in enumerate(order) if right)]))
  return found


def test_ranks_by_hand():
  items = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
  queries = np.array([[2.0, 1.0], [0.1, 3.0], [0.5, 0.4]])
  # Cosines fall in the order of the angles: query 0 ranks items 0, 1, 2;
  # query 1 ranks 1, 0, 2; query 2 ranks 0, 1, 2.
  rank = rank_pairs(retrieval.normalize(queries), items)
  assert rank.tolist() == [1, 1, 3]
  assert dict(retrieval.recalls(rank)) == {
      "R@1": pytest.approx(2 / 3), "R@5": 1.0, "R@10": 1.0, "MedR": 1.0}


def test_normalize():
  x = np.array([[[3.0, 4.0]], [[0.0, 0.0]], [[-5.0, 12.0]]], np.float32)
  unit = retrieval.normalize(x)
  assert unit.dtype == np.float32
  np.testing.assert_allclose(
      unit, [[[0.6, 0.8]], [[0.0, 0.0]], [[-5 / 13, 12 / 13]]], rtol=1e-6)


@pytest.mark.parametrize("case", range(60))
def test_measures_equal_sorting_by_hand(case, small_blocks):
  """Coordinates of a few values only, and items that are there twice: many ties
  that are exact, also in float32."""
  rng = np.random.RandomState(case)
  n, q, width = rng.randint(2, 40), rng.randint(1, 30), rng.randint(1, 5)
  items = rng.randint(-2, 3, [n, width]) / 4.0
  items[rng.randint(n, size=n // 3)] = items[rng.randint(n)]
  if case % 2:  # a clip each
    item_ids = rng.permutation(n)
    query_ids = rng.randint(n, size=q)
  else:  # classes; some items are of none
    item_ids = rng.randint(-1, 4, n)
    item_ids[0] = 2
    query_ids = rng.choice(item_ids[item_ids >= 0], q)
  queries = rng.randint(-2, 3, [q, width]) / 4.0
  expected = rank_by_hand(queries, items, query_ids, item_ids)
  for block, chunk in ((1, 1), (3, 2), (7, 100), (100, 4), (n, q)):
    small_blocks(block, chunk)
    rank = retrieval.ranks(queries, items, query_ids, item_ids)
    assert rank.tolist() == expected, (block, chunk)
  found = dict(retrieval.recalls(rank))
  for k in (1, 5, 10):
    hits = sum(r <= k for r in expected)
    assert found[f"R@{k}"] == pytest.approx(hits / q)
  middle = sorted(expected)
  assert found["MedR"] == (middle[(q - 1) // 2] + middle[q // 2]) / 2


@pytest.mark.parametrize("match", ["pair", "label"])
def test_streamed_equals_dense(match, small_blocks, tmp_path):
  rng = np.random.RandomState(0)
  items = retrieval.normalize(rng.randn(500, 64)).astype(np.float32)
  queries = retrieval.normalize(rng.randn(70, 64)).astype(np.float32)
  if match == "pair":
    item_ids, query_ids = np.arange(500), rng.permutation(500)[:70]
  else:
    item_ids, query_ids = rng.randint(9, size=500), rng.randint(9, size=70)
  similarity = queries @ items.T
  right = query_ids[:, None] == item_ids
  best = np.where(right, similarity, -np.inf).max(axis=1, keepdims=True)
  dense = 1 + ((similarity >= best) & ~right).sum(axis=1)
  path = tmp_path / "items.npy"
  np.save(path, items)
  pool = np.load(path, mmap_mode="r")
  for block, chunk in ((17, 70), (64, 32), (499, 69), (500, 1), (8192, 1024)):
    small_blocks(block, chunk)
    np.testing.assert_array_equal(
        retrieval.ranks(queries, pool, query_ids, item_ids), dense)


def test_a_copy_in_the_pool_is_a_tie(small_blocks):
  """Copies get other last bits in another place of a matrix of another size,
  which must not decide."""
  rng = np.random.RandomState(0)
  items = retrieval.normalize(rng.randn(200, 256)).astype(np.float32)
  # Queries beside their items, which come first; then each has three copies.
  queries = retrieval.normalize(items + 0.01 * rng.randn(200, 256))
  pool = np.concatenate([items] * 4 + [0.999 * items[:3]])
  ids = np.arange(len(pool))
  for block, chunk in ((8192, 1024), (331, 7), (256, 1), (1, 200)):
    small_blocks(block, chunk)
    rank = retrieval.ranks(queries, pool, ids[:200], ids)
    # The last three are shorter: not as similar.
    assert rank.tolist() == [4] * 200, (block, chunk)


def test_ties_count_against_the_query():
  # A collapsed model embeds everything alike: the last rank for everyone.
  same = np.full([7, 4], 0.5)
  assert rank_pairs(same, same).tolist() == [7] * 7
  # Among right items a tie costs nothing.
  ids = np.array([0, 0, 1, 1, 1, 1, 0])
  assert retrieval.ranks(same[:1], same, np.array([1]), ids).tolist() == [4]


def test_what_is_not_a_number_ranks_last():
  items = np.eye(5)
  items[3, 0] = np.nan
  # Query 3 has no similarity to its item; the others' are all before it.
  assert rank_pairs(np.eye(5), items).tolist() == [2, 2, 2, 5, 2]


@pytest.mark.parametrize("case", range(20))
def test_best_equals_sorting(case, small_blocks):
  rng = np.random.RandomState(case)
  n, top = rng.randint(1, 50), rng.randint(1, 9)
  items, queries = rng.randint(-2, 3, [n, 3]), rng.randint(-2, 3, [4, 3])
  there = rng.rand(n) < 0.7 if case % 2 else None
  small_blocks(rng.randint(1, 20), 1)
  similarity, places = retrieval.best(queries, items, top, there)
  for row, query in enumerate(queries):
    order = sorted((-sum(query * item), i) for i, item in enumerate(items)
                   if there is None or there[i])[:top]
    assert places[row].tolist() == [i for _, i in order]
    assert similarity[row].tolist() == [-s for s, _ in order]


def test_label_match_and_missing_modalities():
  eye = np.eye(4)
  clips = {
      "video_vt": eye, "video_va": eye, "audio_vt": eye,
      # Audio of clips 0 and 1 is swapped, clip 3 has none.
      "audio_va": eye[[1, 0, 2, 3]],
      "text_vt": eye[:, None],
      "has_video": np.ones(4, bool),
      "has_audio": np.array([True, True, True, False]),
      "has_caption": np.ones([4, 1], bool),
      "label": np.array([5, 5, 6, 6]),
  }

  def run(**options):
    return dict(retrieval.Retrieval(
        ConfigDict(OPTIONS | options)).run(clips))

  pair = run()
  assert pair["text_to_video/R@1"] == 1.0
  assert pair["audio_to_video/R@1"] == pytest.approx(1 / 3)
  assert run(match="label")["audio_to_video/R@1"] == 1.0  # 0, 1 share a label
  assert len(pair) == 6 * 4
  # Clips 0 and 1 are right for nobody without one.
  clips["label"][:2] = -1
  assert run(match="label")["audio_to_video/MedR"] == 1.0
  clips["label"][:] = -1
  assert not run(match="label")
  # Without sound nothing of it needs to be there.
  clips["has_audio"][:] = False
  del clips["audio_va"], clips["audio_vt"]
  assert {name.split("/")[0] for name in run()} == {
      "text_to_video", "video_to_text"}


def test_several_captions():
  """Video i is the i-th axis; captions point at one or between two."""
  clips = {
      "video_vt": np.eye(3),
      "text_vt": np.array([
          [[0.9, 0.1, 0], [0.1, 0.9, 0]],  # the second one is like video 1
          [[0, 0.8, 0.1], [0, 0, 0]],  # there is no second one
          [[0, 0.9, 0.2], [0, 0.1, 0.9]]]),  # the first one is like video 1
      "has_video": np.ones(3, bool), "has_audio": np.zeros(3, bool),
      "has_caption": np.array([[True, True], [True, False], [True, True]]),
      "label": np.full(3, -1),
  }

  def run(captions):
    return dict(retrieval.Retrieval(
        ConfigDict(OPTIONS | dict(captions=captions))).run(clips))

  # Ranks of the first captions: 1, 1, 2. Videos find them at 1, 2 (0.8 beside
  # 0.9), 1.
  one = run(1)
  assert one["text_to_video/R@1"] == pytest.approx(2 / 3)
  assert one["video_to_text/R@1"] == pytest.approx(2 / 3)
  # Of all five: 1, 2, 1, 2, 1. Video 1 now has two others before its own: 3.
  for captions in (2, 9):
    both = run(captions)
    assert both["text_to_video/R@1"] == pytest.approx(3 / 5)
    assert both["text_to_video/MedR"] == 1.0
    assert both["video_to_text/R@1"] == pytest.approx(2 / 3)
    assert both["video_to_text/R@5"] == 1.0


def test_clips_are_averaged_over_their_views(digits_dir):
  config = ConfigDict(spoken_digits.get_config()).lock()
  data = config.data
  data.update(dict(  # half a clip, so that windows differ
      data_dir=digits_dir, size=16, frames=data.frames // 2,
      audio_samples=data.audio_samples // 2))
  config.model.video_patch = (4, 8, 8)
  for size in config.model.encoders.values():
    size.update(dict(depth=1, width=16, mlp_dim=32, num_heads=2))
  config.eval.update(dict(batch_size=16, windows=3))
  source, = pretrain.open_sources(config, "test")
  words = pretrain.resolve(config, [source])
  model = pretrain.build_model(config, words)
  views = {}  # by name and clip
  run = tf.function(
      lambda batch: model(pretrain.model_inputs(batch, config))[0])
  for batch in input_pipeline.eval_dataset(data, source, 16, 3):
    embeddings = run(batch)
    for i in np.flatnonzero(batch["valid"]):
      for name, value in embeddings.items():
        views.setdefault((name, int(batch["index"][i])), []).append(
            value[i].numpy().astype(np.float64))

  def unit(x):
    return x / np.sqrt((x ** 2).sum(axis=-1, keepdims=True))

  def embed():
    return pretrain.embed_split(
        config, model, tf.distribute.get_strategy(), source)

  tables = {}
  for average in ("embedding", "similarity"):
    config.eval.average = average
    tables[average] = embed()
    for name in ("video_va", "video_vt", "audio_va", "audio_vt", "text_vt"):
      for i in range(len(source.index)):
        stack = np.stack(views[name, i])
        assert len(stack) == 3
        expected = (unit(stack.mean(axis=0)) if average == "embedding"
                    else unit(stack).mean(axis=0))
        there = (tables[average]["has_caption"][i] if name == "text_vt"
                 else slice(None))
        np.testing.assert_allclose(
            tables[average][name][i][there], expected[there], atol=1e-5)
  # They are not the same; this split's windows differ.
  apart = np.linalg.norm(tables["similarity"]["video_va"], axis=1)
  assert apart.min() < 1 - 1e-4
  # What the config reads nothing of is not there, and the rest is the same.
  config.eval.average = "embedding"
  data.audio_samples = data.captions = 0
  silent = embed()
  assert not {"audio_va", "audio_vt", "text_vt"} & set(silent)
  assert not silent["has_audio"].any() and silent["has_caption"].shape == (
      len(source.index), 0)
  np.testing.assert_allclose(
      silent["video_vt"], tables["embedding"]["video_vt"], atol=1e-5)
  assert not list(retrieval.Retrieval(config.eval).run(silent))


@pytest.mark.parametrize("field, value", [
    ("match", "clip"), ("average", "logits"), ("captions", 0)])
def test_unknown_options(field, value):
  with pytest.raises(UserError, match=f"eval.{field} is '?{value}"):
    retrieval.Retrieval(ConfigDict(OPTIONS | {field: value}))
