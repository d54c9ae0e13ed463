"""VATT on films of things that move and sound, made on the spot.

  ./scripts/demo.sh

does all of it: films, ingest, training, retrieval, a report. The parts:

  python scripts/prepare_dataset.py --dataset=demo --data_dir=DATA
  python scripts/build_vocabulary.py --dataset=demo/default --data_dir=DATA
  python -m vatt.main --config=configs/demo.py:specific \\
      --config.data.data_dir=DATA --workdir=DIR
  python scripts/zero_shot_retrieval.py --workdir=DIR

Argument: specific (an encoder each) or agnostic (one for all).
"""
from ml_collections import ConfigDict

from vatt import recipes


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of `specific` or `agnostic`."""
  chosen = recipes.parse_arg(arg, model=("specific", "agnostic"))
  config = recipes.pretraining("bbs")

  config.total_steps = 1_000
  config.batch_size = 32
  config.steps_per_loop = 20
  config.log_every = 100
  config.checkpoint_every = 500
  config.eval_every = 500

  config.data.update(dict(
      datasets=("demo/default",),
      frames=16, fps=5.0, size=48, audio_samples=51_200, audio_rate=16_000,
      crop_area=(0.7, 1.0), crop_aspect=(0.8, 1.25), cache=True))
  config.data.spectrogram.update(dict(
      window_s=0.064, step_s=0.032, bins=64, low=60.0, high=7_600.0))
  # No flip: the sentences name directions. Little hue: they name colours.
  config.augment.update(dict(
      flip=False, brightness=0.1, saturation=0.2, contrast=0.2, hue=0.02,
      noise=0.0, gain=(0.5, 1.5), time_masks=1, time_mask_width=8,
      freq_masks=1, freq_mask_width=4))

  config.model.update(dict(
      video_patch=(4, 12, 12), audio_input="spectrogram", audio_patch=(4, 64),
      drop_rate=0.0, dropout=0.0, dim_va=256, dim_vt=128, vocab_size=0))
  size = dict(depth=4, width=128, mlp_dim=512, num_heads=4)
  if chosen["model"] == "agnostic":
    config.model.encoders = recipes.encoders(shared=size)
  else:
    config.model.encoders = recipes.encoders(
        video=size, audio=size,
        text=dict(depth=2, width=64, mlp_dim=256, num_heads=2))

  config.loss.temperature = 0.1
  config.optimizer.update(dict(lr=1e-3, end_lr=1e-5, warmup_steps=100))
  config.eval.update(dict(windows=1, templates=()))
  return config
