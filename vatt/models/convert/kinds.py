"""Which model a file of another one seems to hold, for errors."""
import re
from collections.abc import Iterable

# The first that is among the names of a file's tensors tells.
KINDS = (
    (r"lora_[AB]\b", "an adapter (LoRA) without the model that it is for"),
    (r"\bwi_0\b", "a T5 1.1, Flan-T5 or mT5: its MLPs are gated"),
    (r"vision_model\.|visual\.|norm_pre\.", "a tower of CLIP or its kin"),
    (r"\blayers\.\d+\.blocks\.|\bswin", "a Swin"),
    (r"q_bias", "a VideoMAE or BEiT, whose keys have no bias"),
    (r"layer_scale|lambda_?1\b|\bls1\.|gamma_?1\b",
     "a DINOv2, DeiT III, BEiT or CaiT, with layer scale"),
    (r"reg(ister)?_tokens?\b", "a ViT with registers"),
    (r"dist(illation)?_token", "a distilled DeiT, of two tokens"),
    (r"\bq_norm\.", "a ViT with norms of queries and keys"),
    (r"\bfc_norm\.", "a ViT that averages its patches, without a last norm"),
    (r"(^|\.)h\.\d+\.|(^|\.)layers\.\d+\.self_attn\.",
     "a language model that is a decoder alone, such as GPT-2 or Llama"),
    (r"attention\.self\.query", "a BERT"),
    (r"\.[1-9]\d*\.layer\.0\.SelfAttention\.relative_attention_bias",
     "a UMT5, with a bias on the scores of its own in each block"),
    (r"relative_attention_bias", "a T5"),
    (r"patch_embed", "a ViT"),
    (r"\blayer4\.|\bstages\.\d", "a convolutional network"),
    (r"^model/(towers?|heads|classifier)/",
     "a checkpoint of this project, whose workdir --config.init takes"),
    (r"^model/layer_with_weights", "a VATT in part"),
    (r"layer_with_weights|^variables/|_kernel_optimizer",
     "another model of Keras"),
    (r"^_?optimizer/", "the state of an optimizer alone"),
    (r"^global_step$|/Adam(_1)?$|/Momentum$", "a checkpoint of TensorFlow 1"),
)


def seems(names: Iterable[str]) -> str:
  """", it seems to be a Swin", of the names of tensors; "" if none tells."""
  names = list(names)
  for pattern, kind in KINDS:
    if any(re.search(pattern, name) for name in names):
      return f", it seems to be {kind}"
  return ""
