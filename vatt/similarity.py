"""What is near what: similarities, the nearest items, the ranks of right ones.

Items are read block by block: an np.memmap of any size will do. Similarity is
the dot product, which for unit vectors is the cosine.
"""
from collections.abc import Iterator

import numpy as np

BLOCK = 8192  # items compared at a time
CHUNK = 1024  # queries compared at a time
# Similarities this near each other are tied, and larger scores relative to
# their size: the same product of float32 vectors is not the same to the last
# bit everywhere in a matrix.
TIE = 1e-6


def normalize(x: np.ndarray) -> np.ndarray:
  """L2-normalizes the last axis; a zero vector stays zero."""
  norm = np.sqrt(np.einsum("...e,...e->...", x, x))[..., None]
  return x / np.where(norm > 0, norm, np.ones_like(norm))


def bar(own: np.ndarray) -> np.ndarray:
  """What others must be below not to rank before `own`.

  It is the one counting of ties, against: `~(others < bar(own))` rank before.
  So does all before what is no finite number, and what is no number before
  anything.

  Args:
    own: float, scores of what is right, of any shape.
  """
  with np.errstate(invalid="ignore"):  # inf - inf: nothing is below
    return own - TIE * np.maximum(1, np.abs(own))


def blocks(items: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (first, float32 [n, E]) of items [N, E]."""
  for first in range(0, len(items), BLOCK):
    yield first, np.asarray(items[first:first + BLOCK], np.float32)


def best(queries: np.ndarray, items: np.ndarray, top: int,
         mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
  """The items that are most similar to each query.

  Args:
    queries: [Q, E], few.
    items: [N, E].
    top: K; all items if there are fewer.
    mask: bool [N], the items to take; all if None.

  Returns:
    Similarities float32 [Q, K], in falling order, and the numbers of the items,
    int [Q, K]; of equally similar ones the earlier comes first, and what is no
    number last.
  """
  queries = np.asarray(queries, np.float32)
  found = np.zeros([len(queries), 0], np.float32)
  places = np.zeros([len(queries), 0], np.int64)
  for first, block in blocks(items):
    rows = np.arange(first, first + len(block))
    if mask is not None:
      block, rows = block[mask[rows]], rows[mask[rows]]
    found = np.concatenate([found, queries @ block.T], axis=1)
    places = np.concatenate(
        [places, np.broadcast_to(rows, [len(queries), len(rows)])], axis=1)
    order = np.argsort(-found, axis=1, kind="stable")[:, :top]
    found, places = (
        np.take_along_axis(x, order, axis=1) for x in (found, places))
  return found, places


def ranks(queries: np.ndarray, items: np.ndarray, query_ids: np.ndarray,
          item_ids: np.ndarray) -> np.ndarray:
  """The rank of the best right item of each query, from 1.

  Ties count against the query: an item that is not right and as similar, up to
  TIE, ranks before, so a collapsed model scores nothing (see `bar`).

  Memory is that of the queries and of CHUNK x BLOCK similarities. The right
  items are compared twice, as their similarity must be known first.

  Args:
    queries: [Q, E], held in memory.
    items: [N, E], of length 1 or less.
    query_ids: int [Q].
    item_ids: int [N]; the items with a query's id are right. Those with a
      negative one are left out.

  Returns:
    int [Q]; one more than there are items for a query without a right one.
  """
  queries = np.asarray(queries, np.float32)
  right = np.full([len(queries)], -np.inf, np.float32)
  rank = np.ones([len(queries)], np.int64)

  def pool():
    for first, block in blocks(items):
      ids = item_ids[first:first + BLOCK]
      kept = ids >= 0
      yield (block, ids) if kept.all() else (block[kept], ids[kept])

  def chunks(rows):
    return (rows[i:i + CHUNK] for i in range(0, len(rows), CHUNK))

  for block, ids in pool():
    columns = np.isin(ids, query_ids)
    block, ids = block[columns], ids[columns]
    for rows in chunks(np.flatnonzero(np.isin(query_ids, ids))):
      similarity = np.where(query_ids[rows, None] == ids,
                            queries[rows] @ block.T, -np.inf)
      right[rows] = np.maximum(right[rows], similarity.max(axis=1))
  least = bar(right)
  for block, ids in pool():
    for rows in chunks(np.arange(len(queries))):
      # Not "at least as similar": what is not a number ranks before, too.
      before = ~(queries[rows] @ block.T < least[rows, None])
      columns = np.flatnonzero(np.isin(ids, query_ids[rows]))
      before[:, columns] &= query_ids[rows, None] != ids[columns]
      rank[rows] += [np.count_nonzero(row) for row in before]
  return rank
