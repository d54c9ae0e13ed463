"""Ranks and nearest items against values worked out by hand and by sorting."""
import numpy as np
import pytest

from vatt import similarity
from vatt.evaluators import retrieval


@pytest.fixture
def small_blocks(monkeypatch):
  """A function that sets the sizes of what is compared at a time."""
  def use(block, chunk):
    monkeypatch.setattr(similarity, "BLOCK", block)
    monkeypatch.setattr(similarity, "CHUNK", chunk)
  return use


def rank_pairs(queries, items):
  ids = np.arange(len(items))
  return similarity.ranks(queries, items, ids[:len(queries)], ids)


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
  rank = rank_pairs(similarity.normalize(queries), items)
  assert rank.tolist() == [1, 1, 3]
  assert dict(retrieval.recalls(rank)) == {
      "R@1": pytest.approx(2 / 3), "R@5": 1.0, "R@10": 1.0, "MedR": 1.0}


def test_normalize():
  x = np.array([[[3.0, 4.0]], [[0.0, 0.0]], [[-5.0, 12.0]]], np.float32)
  unit = similarity.normalize(x)
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
    rank = similarity.ranks(queries, items, query_ids, item_ids)
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
  items = similarity.normalize(rng.randn(500, 64)).astype(np.float32)
  queries = similarity.normalize(rng.randn(70, 64)).astype(np.float32)
  if match == "pair":
    item_ids, query_ids = np.arange(500), rng.permutation(500)[:70]
  else:
    item_ids, query_ids = rng.randint(9, size=500), rng.randint(9, size=70)
  products = queries @ items.T
  right = query_ids[:, None] == item_ids
  best = np.where(right, products, -np.inf).max(axis=1, keepdims=True)
  dense = 1 + ((products >= best) & ~right).sum(axis=1)
  path = tmp_path / "items.npy"
  np.save(path, items)
  pool = np.load(path, mmap_mode="r")
  for block, chunk in ((17, 70), (64, 32), (499, 69), (500, 1), (8192, 1024)):
    small_blocks(block, chunk)
    np.testing.assert_array_equal(
        similarity.ranks(queries, pool, query_ids, item_ids), dense)


def test_a_copy_in_the_pool_is_a_tie(small_blocks):
  """Copies get other last bits in another place of a matrix of another size,
  which must not decide."""
  rng = np.random.RandomState(0)
  items = similarity.normalize(rng.randn(200, 256)).astype(np.float32)
  # Queries beside their items, which come first; then each has three copies.
  queries = similarity.normalize(items + 0.01 * rng.randn(200, 256))
  pool = np.concatenate([items] * 4 + [0.999 * items[:3]])
  ids = np.arange(len(pool))
  for block, chunk in ((8192, 1024), (331, 7), (256, 1), (1, 200)):
    small_blocks(block, chunk)
    rank = similarity.ranks(queries, pool, ids[:200], ids)
    # The last three are shorter: not as similar.
    assert rank.tolist() == [4] * 200, (block, chunk)


def test_ties_count_against_the_query():
  # A collapsed model embeds everything alike: the last rank for everyone.
  same = np.full([7, 4], 0.5)
  assert rank_pairs(same, same).tolist() == [7] * 7
  # Among right items a tie costs nothing.
  ids = np.array([0, 0, 1, 1, 1, 1, 0])
  assert similarity.ranks(same[:1], same, np.array([1]), ids).tolist() == [4]


def test_best_has_what_is_no_number_last(small_blocks):
  items = np.array([[np.nan, 0], [0.2, 0], [np.nan, 1], [0.9, 0], [0.5, 0]])
  for block in (1, 2, 9):
    small_blocks(block, 1)
    scores, places = similarity.best(np.array([[1.0, 0]]), items, 4)
    assert places[0, :3].tolist() == [3, 4, 1]
    assert np.isnan(scores[0, 3])


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
  scores, places = similarity.best(queries, items, top, there)
  for row, query in enumerate(queries):
    order = sorted((-sum(query * item), i) for i, item in enumerate(items)
                   if there is None or there[i])[:top]
    assert places[row].tolist() == [i for _, i in order]
    assert scores[row].tolist() == [-s for s, _ in order]
