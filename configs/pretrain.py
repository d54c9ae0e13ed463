"""Pre-training as in the paper, on HowTo100M and AudioSet.

  python -m vatt.main --config=configs/pretrain.py:mbs --workdir=DIR \\
      --config.data.data_dir=DIR --config.strategy.name=tpu --tpu=NAME

Argument: bbs, mbs, lbs (three encoders: video, audio, text) or ma (one Medium
encoder for all). 500k steps of 2048 samples; the paper took 3 days on 256 TPU
v3 cores. With released after a comma, model and loss are those of the weights
that the paper's authors released, where these differ; with t5, the text encoder
is like T5's, whose weights it can start from (scripts/convert_standard.py).

Scores: zero-shot retrieval, R@10 / median rank: YouCook2 45.5 / 13 and MSR-VTT
29.7 / 49 (mbs), 40.6 / 17 and 23.6 / 67 (ma).

Any built dataset will do, at the same shapes:

  python -m vatt.main --config=configs/pretrain.py:bbs --workdir=DIR \\
      --config.data.data_dir=DIR --config.data.datasets="('clips/mine',)" \\
      --config.model.vocab_size=0 --config.batch_size=64

On two CPU cores a step of bbs with batch 2 in float32 takes 11 seconds, and the
process 12 GB.
"""
from configs import common
from vatt.errors import UserError


def get_config(arg=None):
  """The config of `bbs`, `mbs`, `lbs` or `ma`."""
  chosen = common.parse_arg(
      arg, variant=("mbs", "bbs", "lbs", "ma"), flavour=("paper", "released"),
      text=("vatt", "t5"))
  config = common.pretraining(chosen["variant"], chosen["flavour"])
  if chosen["text"] == "t5":
    from vatt.models.standard import T5  # and safetensors, for this alone
    if "text" not in config.model.encoders:
      raise UserError(f"config argument {arg!r}: t5 is a text encoder, "
                      "expected one of bbs, mbs, lbs with it")
    config.model.encoders.text.update(T5)
  config.dtype = "mixed_bfloat16"
  return config
