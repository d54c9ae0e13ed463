"""The paper's ablations: one parameter changed.

  python -m vatt.main --config=configs/ablations.py:patch_8x16x16 \\
      --workdir=DIR --config.data.data_dir=DIR --config.strategy.name=tpu
  python -m vatt.main --config=configs/ablations.py:tune_drop_75 \\
      --config.init=PRETRAINED --workdir=DIR --config.data.data_dir=DIR \\
      --config.strategy.name=tpu

Argument: one of the table. The first ones pre-train mbs for 500k steps of 512
samples, batch_8192 for six epochs. With each, the paper's top-1 of linear
classifiers on UCF101, HMDB51 and ESC-50 (configs/linear_probe.py) and R@10 of
retrieval on YouCook2 and MSR-VTT (configs/retrieval.py). Their cost is true
GFLOPs forward of a clip in training; the backward pass is twice as much, so
that patch_4x16x16 is 3.0e20 FLOPs in all.

  argument            table   UCF    HMDB   YC2    MSR-VTT  ESC     GFLOPs
  size_32x200         9       87.16  67.08  23.98  17.84    86.25   320
  size_32x224         9       87.74  67.6   27.47  17.96    87      355
  size_64x224         9       86.57  63.09  18.52  12.5     86.25   736
  patch_4x16x16       10      87.8   67.7   27.53  17.99    87      391
  patch_5x16x16       10      88.4   67.02  26.45  16.83    88      355
  patch_8x16x16       10      86.52  65.64  23.43  16.14    84      250
  patch_8x32x32       10      82.68  60.73  15.27  13.79    87      154
  audio_128           11      88.14  68.13  25.72  17.31    87.75   391
  audio_256           11      87.74  66.1   24.19  16.55    83.75   330
  audio_512           11      87.21  67.34  26.11  16.91    82.5    302
  audio_1024          11      86.41  66.36  24.46  16.38    82.5    289
  audio_spectrogram   12      88.3   67.52  26.62  16.86    88      290
  drop_75             13      84.0   62.5   -      -        78.9    187
  drop_50             13      85.5   64.8   -      -        84.1    391
  drop_25             13      87.2   65.6   -      -        84.6    617
  drop_0              13      87.6   66.4   -      -        84.9    865
  batch_8192          -       -      -      51.2   29.2     -       391
  batch_8192_lamb     ours                                          391

The median ranks of batch_8192 are 10 and 42. The sound of size_64x224 is as
long as its 64 frames, 6.4 s.

batch_8192_lamb is OURS and not in the paper, whose optimizer is Adam: LAMB (You
et al. 2020, arXiv 1904.00962), made for batches of that size, scales the step
of each layer to the norm of its weights. Its rate, decay and warm-up are
choices that nobody has tried on HowTo100M and AudioSet; there is no score.

The others fine-tune medium on Kinetics-400 from PRETRAINED, a workdir of
configs/pretrain.py:mbs (table 14); cost as the paper counts, and true:

  argument       top-1   the paper's GFLOPs   true
  tune_drop_75   79.3    279.8                279
  tune_drop_50   80.2    572.5                620
  tune_drop_25   80.7    898.9                1,024
  tune_drop_0    81.1    1,252.3              1,490
  tune_224       79.9    548.1                605
  tune_64x224    80.8    1,222.1              1,451

The same in minutes on two cores: scripts/claims.py.
"""
import pathlib

from ml_collections import ConfigDict

from vatt import recipes

FINETUNE = pathlib.Path(__file__).parent / "finetune.py"

# Fields of `data` and of `model`.
PATCH_5 = dict(video_patch=(5, 16, 16))
CHANGES = {
    "size_32x200": (dict(size=200), PATCH_5),
    "size_32x224": ({}, PATCH_5),
    "size_64x224": (dict(frames=64, audio_samples=307_200), PATCH_5),
    "patch_4x16x16": ({}, {}),
    "patch_5x16x16": ({}, PATCH_5),
    "patch_8x16x16": ({}, dict(video_patch=(8, 16, 16))),
    "patch_8x32x32": ({}, dict(video_patch=(8, 32, 32))),
    "audio_128": ({}, {}),
    "audio_256": ({}, dict(audio_patch=(256,))),
    "audio_512": ({}, dict(audio_patch=(512,))),
    "audio_1024": ({}, dict(audio_patch=(1024,))),
    "audio_spectrogram": (
        {}, dict(audio_input="spectrogram", audio_patch=(16, 5))),
    "drop_75": ({}, dict(drop_rate=0.75)),
    "drop_50": ({}, {}),
    "drop_25": ({}, dict(drop_rate=0.25)),
    "drop_0": ({}, dict(drop_rate=0.0)),
    "batch_8192": ({}, {}),
    "batch_8192_lamb": ({}, {}),
}
# Of fine-tuning.
TUNING = {
    "tune_drop_75": ({}, dict(drop_rate=0.75)),
    "tune_drop_50": ({}, dict(drop_rate=0.5)),
    "tune_drop_25": ({}, dict(drop_rate=0.25)),
    "tune_drop_0": ({}, {}),
    "tune_224": (dict(size=224), {}),
    "tune_64x224": (dict(size=224, frames=64), {}),
}


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of one of CHANGES or TUNING."""
  chosen = recipes.parse_arg(arg, change=(*CHANGES, *TUNING))["change"]
  if chosen in TUNING:
    config = recipes.get_config(FINETUNE, "kinetics400,medium")
    data, model = TUNING[chosen]
    config.data.update(data)
    config.model.update(model)
    return config
  config = recipes.pretraining("mbs")
  config.dtype = "mixed_bfloat16"
  config.batch_size = 512
  data, model = CHANGES[chosen]
  config.data.update(data)
  config.model.update(model)
  if chosen.startswith("batch_8192"):
    config.batch_size = 8192
    config.steps_per_loop = 5  # of 2 s, on the paper's cores
    # Six epochs: 6/4 of the samples of 500k steps of 2048.
    config.total_steps = 187_500
  if chosen == "batch_8192_lamb":
    config.optimizer.update(dict(
        name="lamb", lr=2.5e-3, end_lr=1.25e-3, warmup_steps=9_375,
        epsilon=1e-6, weight_decay=0.01))
  return config
