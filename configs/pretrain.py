"""Pre-training as in the paper, on HowTo100M and AudioSet.

  python -m vatt.main --config=configs/pretrain.py:mbs --workdir=DIR \\
      --config.data.data_dir=DIR --config.strategy.name=tpu --tpu=NAME

DIR has both, which these make, and a vocabulary of HowTo100M's words:

  python scripts/prepare_dataset.py --dataset=howto100m --data_dir=DIR \\
      --annotations=CAPTIONS --manual_dir=VIDEOS
  python scripts/prepare_dataset.py --dataset=audioset --data_dir=DIR \\
      --annotations=SEGMENTS --manual_dir=MEDIA
  python scripts/build_vocabulary.py --dataset=howto100m --data_dir=DIR

Argument: bbs, mbs, lbs (three encoders: video, audio, text) or ma (one Medium
encoder for all). 500k steps of 2048 samples; the paper took 3 days on 256 TPU
v3 cores. With released after a comma, model and loss are those of the weights
that the paper's authors released, where these differ; with t5, the text encoder
is like T5's, whose weights it can start from (scripts/convert_standard.py).

Cost: millions of parameters, GFLOPs forward of a clip in training, FLOPs of the
whole training. The paper's scores: R@10 / median rank of zero-shot retrieval on
YouCook2 and MSR-VTT (configs/retrieval.py), top-1 of linear probes on UCF101,
HMDB51, ESC-50 (configs/linear_probe.py, the better of LRC and SVM).

         params   GFLOPs   FLOPs     YouCook2    MSR-VTT     UCF / HMDB / ESC
  bbs    227.3    278      8.6e20
  mbs    294.3    391      1.2e21    45.5 / 13   29.7 / 49   89.6 / 65.2 / 84.7
  lbs    445.5    658      2.0e21
  ma     224.5    497      1.5e21    40.6 / 17   23.6 / 67   84.4 / 63.1 / 81.2

Any built dataset will do, at the same shapes:

  python -m vatt.main --config=configs/pretrain.py:bbs --workdir=DIR \\
      --config.data.data_dir=DIR --config.data.datasets="('clips/mine',)" \\
      --config.batch_size=64

On two CPU cores a step of bbs with batch 2 in float32 takes about 14 seconds,
and the process 6 GB (scripts/README.md has more of what is fast how much).
"""
from ml_collections import ConfigDict

from vatt import recipes
from vatt.errors import UserError


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of `bbs`, `mbs`, `lbs` or `ma`."""
  chosen = recipes.parse_arg(
      arg, variant=("mbs", "bbs", "lbs", "ma"), flavour=("paper", "released"),
      text=("vatt", "t5"))
  config = recipes.pretraining(chosen["variant"], chosen["flavour"])
  if chosen["text"] == "t5":
    from vatt.models.convert.standard import (
      T5,  # and safetensors, for this alone
    )
    if "text" not in config.model.encoders:
      raise UserError(f"config argument {arg!r}: t5 is a text encoder, "
                      "expected one of bbs, mbs, lbs with it")
    config.model.encoders.text.update(T5)
  config.dtype = "mixed_bfloat16"
  return config
