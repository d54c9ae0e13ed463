"""Contrastive losses over the global batch: NCE and MIL-NCE (section 3.4)."""
import tensorflow as tf

from vatt import replicas

MASKED = -1e9  # score of what must not count: exp() of it is 0
FORMS = ("paper", "released", "info_nce", "one_way")


def mil_nce(video: tf.Tensor, items: tf.Tensor, video_mask: tf.Tensor,
            item_mask: tf.Tensor, temperature: float = 0.07,
            form: str = "paper") -> tf.Tensor:
  """Contrasts videos with the items (captions, or one audio) that go with them.

  With P_i the items of sample i, and e(x, y) = exp(xᵀy / τ) of L2-normalized
  vectors, the loss of a sample is -log(numerator / denominator):

  - numerator: Σ_{t∈P_i} e(v_i, t);
  - `paper`: numerator + Σ_{j≠i} [Σ_{t∈P_j} e(v_i, t) + Σ_{t∈P_i} e(v_j, t)];
  - `released`: the same with the numerator counted twice;
  - `one_way`: numerator + Σ_{j≠i} Σ_{t∈P_j} e(v_i, t);
  - `info_nce`: the mean of the losses of a softmax each way.

  NCE is the case of one item a sample. Negatives come from all replicas.

  Args:
    video: [b, E], rows of this replica.
    items: [b, K, E].
    video_mask: bool [b]. An invalid video is no negative either.
    item_mask: bool [b, K]. A sample without a valid item has no term; its
      video stays a negative for the others.
    temperature: τ.
    form: one of FORMS.

  Returns:
    float [], this replica's part of the mean over the valid samples of the
    global batch: SUM over replicas is the loss. 0 if no sample is valid.
  """
  rows, k, dim = items.shape
  video = tf.math.l2_normalize(video, axis=-1)
  items = tf.math.l2_normalize(items, axis=-1)
  item_mask = tf.logical_and(item_mask, video_mask[:, None])
  if form == "released":  # all captions of a valid sample count
    item_mask = tf.repeat(
        tf.reduce_any(item_mask, axis=1, keepdims=True), k, axis=1)
  valid = tf.reduce_any(item_mask, axis=1)

  def masked(scores, mask):
    return tf.where(mask, scores, tf.constant(MASKED, scores.dtype))

  def lse(scores):  # [b, ...] -> [b]
    return tf.reduce_logsumexp(tf.reshape(scores, [rows, -1]), axis=1)

  all_video = replicas.gather(video)
  all_video_mask = replicas.gather(video_mask)
  # [b, K, E] -> [b·K, E]: items of all replicas in one list
  all_items = replicas.gather(tf.reshape(items, [-1, dim]))
  all_item_mask = replicas.gather(tf.reshape(item_mask, [-1]))
  own_row = (replicas.rank() * rows + tf.range(rows))[:, None]
  is_own = own_row == tf.range(tf.shape(all_video)[0])[None]  # [b, B]

  positives = masked(
      tf.einsum("be,bke->bk", video, items) / temperature, item_mask)
  # v_i with the items of everyone, its own among them: [b, B·K]
  to_items = masked(
      tf.matmul(video, all_items, transpose_b=True) / temperature,
      all_item_mask[None])
  # the items of i with the videos of everyone: [b·K, B] -> [b, K, B]
  to_videos = tf.matmul(
      tf.reshape(items, [-1, dim]), all_video, transpose_b=True) / temperature
  to_videos = masked(
      tf.reshape(to_videos, [rows, k, -1]),
      item_mask[:, :, None] & all_video_mask[None, None])
  to_others = masked(to_videos, ~is_own[:, None])

  numerator = lse(positives)
  if form == "one_way":
    loss = lse(to_items) - numerator
  elif form == "info_nce":
    loss = 0.5 * (lse(to_items) + lse(to_videos)) - numerator
  else:
    reverse = to_others if form == "paper" else to_videos
    # [b, B·K] and [b, K·B] -> [b, 2·B·K]
    denominator = lse(tf.concat(
        [to_items, tf.reshape(reverse, [rows, -1])], axis=1))
    loss = denominator - numerator
  weight = tf.cast(valid, loss.dtype)
  # [B·K] -> [B, K] -> [B]: samples of all replicas that have a term
  all_valid = tf.reduce_any(tf.reshape(all_item_mask, [-1, k]), axis=1)
  count = tf.reduce_sum(tf.cast(all_valid, loss.dtype))
  return tf.reduce_sum(loss * weight) / tf.maximum(count, 1.0)


def vatt_loss(embeddings: dict[str, tf.Tensor], batch: dict[str, tf.Tensor],
              temperature: float, weight: float, form: str
              ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
  """L = NCE(v, a) + λ · MIL-NCE(v, t), this replica's part (Eq. 6).

  Args:
    embeddings: `video_va`, `audio_va`, `video_vt` [b, E], `text_vt` [b, K, E].
    batch: `video_mask`, `audio_mask` bool [b], `caption_mask` bool [b, K].
    temperature: τ.
    weight: λ.
    form: one of FORMS.

  Returns:
    The loss, float [], and the two terms by name. Each sums over replicas.
  """
  nce = mil_nce(
      embeddings["video_va"], embeddings["audio_va"][:, None],
      batch["video_mask"], batch["audio_mask"][:, None], temperature, form)
  mil = mil_nce(
      embeddings["video_vt"], embeddings["text_vt"],
      batch["video_mask"], batch["caption_mask"], temperature, form)
  loss = nce + weight * mil
  if form == "released":  # the release divides by the sum of the weights
    loss /= 1.0 + weight
  return loss, {"nce": nce, "mil_nce": mil}


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor, mask: tf.Tensor
                  ) -> tf.Tensor:
  """Softmax cross-entropy of a single-label task, this replica's part.

  Args:
    logits: [b, C].
    labels: [b, C], a distribution a row, smoothed or mixed as one likes.
    mask: bool [b], the rows that have a term.

  Returns:
    float [], the sum over own rows divided by the rows of the global batch: SUM
    over replicas is the loss.
  """
  mask = tf.cast(mask, logits.dtype)
  terms = -tf.reduce_sum(labels * tf.nn.log_softmax(logits), axis=1)
  return tf.reduce_sum(mask * terms) / _global_sum(tf.ones_like(terms))


def balanced_sigmoid_cross_entropy(logits: tf.Tensor, labels: tf.Tensor,
                                   mask: tf.Tensor) -> tf.Tensor:
  """Sigmoid cross-entropy of a multi-label task, by rarity (appendix A.2.2).

  The terms of a sample, summed over the classes, are weighted by the mean over
  its labels of 1 / (samples of the global batch that carry that label). A
  sample without a label counts as one that carries a label "none".

  Args:
    logits: [b, C].
    labels: [b, C] in 0 … 1; mixed samples carry parts of labels.
    mask: bool [b], the rows that have a term, and carry labels.

  Returns:
    float [], the sum over own rows divided by the rows of the global batch: SUM
    over replicas is the loss.
  """
  mask = tf.cast(mask, labels.dtype)[:, None]  # [b] -> [b, 1]
  carried = tf.reduce_sum(labels, axis=1, keepdims=True)
  none = tf.cast(carried <= 0, labels.dtype)
  carries = mask * tf.concat([labels, none], axis=1)  # [b, C + 1]
  counts = _global_sum(carries)
  share = carries / tf.maximum(carried, none)
  weight = tf.reduce_sum(tf.math.divide_no_nan(share, counts), axis=1)
  terms = tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(
      labels=labels, logits=logits), axis=1)
  return tf.reduce_sum(weight * terms) / _global_sum(tf.ones_like(terms))


def _global_sum(x):
  """The sum over the rows of the global batch: [b, …] -> […]."""
  return replicas.all_sum(tf.reduce_sum(x, axis=0))
