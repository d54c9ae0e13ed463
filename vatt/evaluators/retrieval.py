"""Zero-shot retrieval between video, audio and text: R@K and median rank."""
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from vatt import similarity
from vatt.errors import UserError

RECALLS = (1, 5, 10)


def recalls(rank: np.ndarray) -> Iterator[tuple[str, float]]:
  """Yields (name, value) of R@1, R@5, R@10 (share of the queries) and the
  median of their ranks, int [Q], which count from 1."""
  for k in RECALLS:
    yield f"R@{k}", float(np.mean(rank <= k))
  yield "MedR", float(np.median(rank))


class Retrieval:
  """Retrieval over the clips of a split (section 4.3).

  Clips that lack one of the two modalities are left out of that pair.

  Args:
    options: config.eval, of which these are used. `match`, "pair": the clip
      that a query belongs to is right; "label": every clip of its class, and
      clips without one are left out. `captions`: of each clip, so many of the
      first are sentences to search with and to be found.
  """

  DIRECTIONS = {
      "text_to_video": ("text_vt", "video_vt"),
      "video_to_text": ("video_vt", "text_vt"),
      "audio_to_video": ("audio_va", "video_va"),
      "video_to_audio": ("video_va", "audio_va"),
      "text_to_audio": ("text_vt", "audio_vt"),
      "audio_to_text": ("audio_vt", "text_vt"),
  }

  def __init__(self, options: ConfigDict):
    self.options = options

  def run(self, clips: dict[str, np.ndarray]) -> Iterator[tuple[str, float]]:
    """Yields (name, value), such as ("text_to_video/R@10", 0.4).

    Args:
      clips: embeddings of a split, the arrays of `Pretrain.embed_split`;
        np.memmaps are read in blocks, but for the queries.

    Raises:
      UserError: of captions, fewer are embedded than are to take part.
    """
    count, captions = clips["has_caption"].shape
    if 0 < captions < self.options.captions:
      raise UserError(f"eval.captions is {self.options.captions}, expected at "
                      f"most the {captions} that are embedded of a clip")
    # A clip has one video, one sound and K captions: all of it is [N, n].
    has = {
        "video": clips["has_video"][:, None],
        "audio": clips["has_audio"][:, None],
        "text": clips["has_caption"] & (
            np.arange(captions) < self.options.captions)}
    ids = (clips["label"] if self.options.match == "label"
           else np.arange(count))[:, None]
    for name, sides in self.DIRECTIONS.items():
      masks = [has[side.split("_")[0]] for side in sides]
      both = masks[0].any(1) & masks[1].any(1) & (ids[:, 0] >= 0)
      if not both.any():
        continue
      (queries, query_ids), (items, item_ids) = (
          (clips[side].reshape(-1, clips[side].shape[-1]),  # [N·n, E]
           np.where(mask & both[:, None], ids, -1).reshape(-1))
          for side, mask in zip(sides, masks))
      asked = query_ids >= 0
      rank = similarity.ranks(queries[asked], items, query_ids[asked], item_ids)
      for measure, value in recalls(rank):
        yield f"{name}/{measure}", value
