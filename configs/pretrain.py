"""Pre-training as in the paper, on HowTo100M and AudioSet.

  python -m vatt.main --config=configs/pretrain.py:mbs --workdir=DIR \\
      --config.data.data_dir=DIR --config.strategy.name=tpu --tpu=NAME

Argument: bbs, mbs, lbs (three encoders: video, audio, text) or ma (one Medium
encoder for all). 500k steps of 2048 samples; the paper took 3 days on 256 TPU
v3 cores. Scores: section 8 of the paper's tables, such as zero-shot retrieval
R@10 / median rank on YouCook2 45.5 / 13 and MSR-VTT 29.7 / 49 (mbs).

Any built dataset will do, at the same shapes:

  python -m vatt.main --config=configs/pretrain.py:bbs --workdir=DIR \\
      --config.data.data_dir=DIR --config.data.datasets="('clips/mine',)" \\
      --config.model.vocab_size=0 --config.batch_size=64

On two CPU cores a step of bbs with batch 2 in float32 takes 11 seconds, and the
process 12 GB.
"""
from configs import common


def get_config(arg=None):
  """The config of `bbs`, `mbs`, `lbs` or `ma`."""
  chosen = common.parse_arg(arg, variant=("mbs", "bbs", "lbs", "ma"))
  config = common.pretraining(chosen["variant"])
  config.dtype = "mixed_bfloat16"
  return config
