"""Zero-shot retrieval of videos by sentences, as the paper evaluates.

  python scripts/prepare_dataset.py --dataset=msrvtt --data_dir=DATA \\
      --annotations=MSRVTT_JSFUSION_test.csv --manual_dir=VIDEOS
  python scripts/zero_shot_retrieval.py --workdir=PRETRAINED \\
      --config=configs/retrieval.py:msrvtt --config.data.data_dir=DATA

PRETRAINED is the workdir of a model that was pre-trained, or of a released one
(scripts/convert_checkpoint.py). Arguments: msrvtt (the 1k split: 1,000 clips, a
sentence each) or youcook2 (all segments of its validation split that are there,
3.1k in the paper, a sentence each). Only the fields below replace the model's
own: frames and their size stay as it was trained, 32 of 224 x 224 for the
paper's.

The paper's R@10 / median rank, text to video:

                    youcook2    msrvtt
  mbs               45.5 / 13   29.7 / 49
  ma                40.6 / 17   23.6 / 67
  mbs, batch 8192   51.2 / 10   29.2 / 42

A clip is four forward passes of the video tower, 2.2 TFLOPs of mbs
(scripts/paper_tables.py), so msrvtt is 2.2 PFLOPs and youcook2 6.8: a minute or
two on a GPU, six hours and nineteen on two cores of 100 GFLOP/s in all.
"""
from ml_collections import ConfigDict

from vatt import recipes


def get_config(arg: str | None = None) -> ConfigDict:
  """What replaces a workdir's config, for a dataset such as `youcook2`."""
  dataset = recipes.parse_arg(arg, dataset=("msrvtt", "youcook2"))["dataset"]
  config = ConfigDict()
  # Frames have a stride of 2 at 25 a second, from the centre; no sound is read.
  config.data = ConfigDict(dict(
      datasets=(dataset,),
      # YouCook2's test set is published without sentences.
      eval_split="validation" if dataset == "youcook2" else "test",
      fps=12.5, audio_samples=0, captions=1))
  config.eval = ConfigDict(dict(
      windows=4, crops=1, average="embedding", match="pair", captions=1,
      templates=()))
  return config
