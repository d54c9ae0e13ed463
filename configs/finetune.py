"""Fine-tuning as in the paper: videos, sounds and images.

  python -m vatt.main --config=configs/finetune.py:kinetics400,medium \\
      --config.init=PRETRAINED --config.data.data_dir=DIR --workdir=DIR \\
      --config.strategy.name=tpu

PRETRAINED is the workdir of a model that was pre-trained, or of a released one
(scripts/convert_checkpoint.py; then with a third argument, released). Without
it, training is from scratch. DIR has the dataset, as its module in
vatt/data/datasets says, such as kinetics.py:

  python scripts/prepare_dataset.py --dataset=kinetics400 --data_dir=DIR \\
      --annotations=LISTS --manual_dir=VIDEOS

imagenet is built by tensorflow-datasets of the two archives in TARS,
ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar:

  python scripts/prepare_dataset.py --dataset=tfds:imagenet2012 \\
      --manual_dir=TARS --data_dir=DIR

Any other with labels will do (--config.data.datasets), its classes decide.

Arguments: a dataset; base, medium, large, or ma: Medium, with one encoder for
all. The paper's top-1 / top-5, of four windows and three crops a clip:

               base        medium      large       ma          scratch
  kinetics400  79.6/94.9   81.1/95.6   82.1/95.5   79.9/94.9   26.4/51.8
  kinetics600  80.5/95.5   82.4/96.1   83.6/96.6   80.8/95.5
  kinetics700                          72.7/90.5
  moments      38.7/67.5   39.5/68.2   41.1/67.7   37.8/65.9
  imagenet     78.7/93.9                                       64.7/83.9

and mAP / AUC / d-prime of audioset: base 39.4 / 97.1 / 2.895, ma 39.3 / 97.0 /
2.884. kinetics700 is of the released checkpoint. With DropToken and at other
resolutions: configs/ablations.py.

Cost, GFLOPs forward of a clip (three times that in training) and FLOPs of the
whole training, without evaluation:

               base            medium, ma        large
  videos       937; 1.8e19     1,490; 2.9e19     2,961; 5.7e19
  audioset     257; 4.0e19     434; 6.7e19
  imagenet     113; 2.2e19
"""
from ml_collections import ConfigDict

from vatt import recipes

VIDEOS = ("kinetics400", "kinetics600", "kinetics700", "moments")


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of a dataset and a size, such as `audioset,base`."""
  chosen = recipes.parse_arg(
      arg, dataset=(*VIDEOS, "audioset", "imagenet"),
      size=("medium", "base", "large", "ma"), flavour=("paper", "released"))
  dataset = chosen["dataset"]
  modality = "audio" if dataset == "audioset" else "video"
  config = recipes.finetuning(modality, chosen["size"], chosen["flavour"])
  config.dtype = "mixed_bfloat16"
  released = chosen["flavour"] == "released"
  if dataset == "audioset":
    config.total_steps = 50_000
    config.batch_size = 1024
    config.eval_every = 10_000
    config.finetune.update(dict(
        multi_label=True, label_smoothing=0.0, mixup=5))
    config.data.update(dict(
        datasets=("audioset",), frames=0, audio_rate=24_000))
    config.augment.noise = 0.0
    config.optimizer.update(dict(lr=0.2, warmup_steps=5_000))
    config.finetune.rare_classes = released
    return config
  config.data.audio_samples = 0
  if dataset == "imagenet":
    config.total_steps = 125_000  # 50 epochs
    config.batch_size = 512
    config.eval_every = 25_000
    config.data.update(dict(
        datasets=("tfds:imagenet2012",), eval_split="validation", frames=4,
        size=384))
    config.eval.windows = 1
    config.optimizer.update(dict(lr=8e-2, warmup_steps=0))
    return config
  config.total_steps = 100_000
  config.batch_size = 64
  config.eval_every = 25_000
  # 32 frames with a stride of 2 at 25 frames a second.
  config.data.update(dict(
      datasets=(dataset,), eval_split="validation", fps=12.5, size=320))
  config.eval.update(dict(windows=4, crops=3))
  config.optimizer.update(dict(lr=0.005, warmup_steps=2_500))
  if released:
    config.model.classifier_dropout = 0.5
    config.optimizer.update(dict(clip_norm=0.75, clip_part="tower"))
  return config
