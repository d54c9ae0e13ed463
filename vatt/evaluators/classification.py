"""Classification: measures, and zero-shot by the nearest class's sentences."""
from collections.abc import Iterator, Sequence

import numpy as np

from vatt import similarity
from vatt.errors import UserError


def top_k(scores: np.ndarray, labels: np.ndarray,
          ks: Sequence[int] = (1, 5)) -> Iterator[tuple[str, float]]:
  """Yields ("top-K", share of the rows one of whose classes is among the K
  best).

  Ties count against, as of `similarity.bar`: an equal score of a class that is
  not a row's ranks before, and a score that is no finite number is never right.

  Args:
    scores: [N, C].
    labels: bool [N, C], the classes of each row, one at least.
    ks: the Ks.

  Raises:
    UserError: there are no rows.
  """
  if not len(scores):
    raise UserError("no clip with a label, expected some")
  own = np.where(labels, scores, -np.inf).max(axis=1, keepdims=True)
  before = ~labels & ~(scores < similarity.bar(own))
  rank = 1 + before.sum(axis=1)
  for k in ks:
    yield f"top-{k}", float(np.mean(rank <= k))


def multi_label(scores: np.ndarray, labels: np.ndarray
                ) -> Iterator[tuple[str, float]]:
  """Yields (name, value) of mAP, AUC and d-prime, means over the classes.

  Equal scores, up to `similarity.TIE`: rows of one score enter the precision
  together, as one step; of a positive and a negative that tie, half a pair is
  right for the AUC. So equal scores of all have an AUC of a half. Scores that
  are no finite numbers count against: those of positives as the lowest, those
  of negatives as the highest.
  d-prime is √2·Φ⁻¹(AUC) of each class. An AUC of 1 or 0 would make it infinite:
  it is taken as if half of one of its pairs was the other way round. Classes
  without a positive, or with nothing else, are left out, and counted in
  "classes left out".

  Args:
    scores: [N, C].
    labels: bool [N, C], the classes of each row.

  Raises:
    UserError: all classes would be left out.
  """
  # Imported where they are used: they are slow to load.
  import scipy.stats
  from sklearn import metrics

  positives = labels.sum(axis=0)
  mask = (positives > 0) & (positives < len(labels))  # classes, [C]
  if not mask.any():
    raise UserError(
        f"of {labels.shape[1]} classes and {len(labels)} clips, no class has "
        "clips with it and clips without, expected one at least")
  yield "classes left out", int((~mask).sum())
  pairs = (positives * (len(labels) - positives))[mask]
  precision, auc = [], []
  for right, score in zip(labels.T[mask], scores.T[mask]):
    level = _levels(score, right)
    precision.append(metrics.average_precision_score(right, level))
    auc.append(metrics.roc_auc_score(right, level))
  finite = np.clip(auc, 0.5 / pairs, 1 - 0.5 / pairs)
  yield "mAP", float(np.mean(precision))
  yield "AUC", float(np.mean(auc))
  yield "d-prime", float(np.mean(np.sqrt(2) * scipy.stats.norm.ppf(finite)))


def _levels(scores, positive):
  """Whole numbers in the order of scores [N], the same for those that tie with
  the lowest of them: many that are near each other are no chain."""
  finite = np.isfinite(scores)
  order = np.flatnonzero(finite)[np.argsort(scores[finite])]
  level = np.where(positive, -1, len(scores))  # of what is not finite
  rising = scores[order]
  # Of each score the number of the first that it is below.
  after = np.searchsorted(similarity.bar(rising), rising, side="right")
  first = number = 0
  while first < len(order):
    level[order[first:after[first]]] = number
    first, number = after[first], number + 1
  return level


class ZeroShot:
  """Video and audio against the sentences of each class, in S_vt.

  Audio and text never meet in training: they share only the video.

  Args:
    class_vectors: [C, n, E], the embeddings of n sentences a class. A class is
      the mean of its normalized sentences.
  """

  def __init__(self, class_vectors: np.ndarray):
    self.classes = similarity.normalize(
        similarity.normalize(class_vectors).mean(axis=1))

  def run(self, clips: dict[str, np.ndarray]) -> Iterator[tuple[str, float]]:
    """Yields (name, value): the share of clips that are classified right, their
    class before all others; ties count against, as in `similarity.ranks`.

    Args:
      clips: `video_vt` and `audio_vt` [N, E], bool `has_video` and `has_audio`
        [N], and `label` [N], below 0 for none: such clips are left out.

    Raises:
      UserError: a label is no class.
    """
    highest = clips["label"].max(initial=-1)
    if highest >= len(self.classes):
      raise UserError(f"a clip has label {highest}, expected 0 to "
                      f"{len(self.classes) - 1}, the classes that have names")
    for modality in ("video", "audio"):
      mask = clips[f"has_{modality}"] & (clips["label"] >= 0)
      if not mask.any():
        continue
      rank = similarity.ranks(
          similarity.normalize(clips[f"{modality}_vt"][mask]), self.classes,
          clips["label"][mask], np.arange(len(self.classes)))
      yield f"{modality}_to_text/accuracy", float(np.mean(rank == 1))
