"""Pre-training on your own videos, or from a trained model on.

  python scripts/prepare_dataset.py --dataset=clips/mine --manual_dir=FOLDER \\
      --data_dir=DATA
  python scripts/build_vocabulary.py --dataset=clips/mine --data_dir=DATA
  python -m vatt.main --config=configs/my_videos.py:cpu \\
      --config.data.datasets="('clips/mine',)" --config.data.data_dir=DATA \\
      --workdir=DIR
  python scripts/zero_shot_retrieval.py --workdir=DIR --query="a sentence"

Arguments: cpu (a small model of 64 x 64 frames, for two cores) or gpu (the
paper's Small, for one of 16 GB or more); specific (an encoder each) or agnostic
(one for all). With --config.init=WORKDIR the weights and words of a model of
the same sizes are where training starts.
"""
from ml_collections import ConfigDict

from vatt import recipes
from vatt.models.vatt import SIZES


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of a device and a model, such as `gpu,agnostic`."""
  chosen = recipes.parse_arg(
      arg, device=("cpu", "gpu"), model=("specific", "agnostic"))
  config = recipes.pretraining("bbs")
  config.data.datasets = ("clips/mine",)
  config.model.vocab_size = 0
  config.eval.windows = 2
  if chosen["device"] == "cpu":
    size = dict(depth=4, width=192, mlp_dim=768, num_heads=4)
    text = dict(depth=2, width=128, mlp_dim=512, num_heads=4)
    config.total_steps = 2_000
    config.batch_size = 16
    config.steps_per_loop = 10
    config.log_every = 50
    config.checkpoint_every = 500
    config.eval_every = 500
    config.data.update(dict(
        frames=16, fps=5.0, size=64, audio_samples=51_200, audio_rate=16_000))
    config.data.spectrogram.update(dict(
        window_s=0.064, step_s=0.032, bins=64, low=60.0, high=7_600.0))
    config.model.update(dict(
        video_patch=(4, 16, 16), audio_input="spectrogram",
        audio_patch=(4, 64), dropout=0.0, dim_va=256, dim_vt=128,
        drop_rate=0.0))  # few tokens, none of them redundant
    config.loss.temperature = 0.1
    config.optimizer.update(dict(lr=5e-4, end_lr=1e-5, warmup_steps=200))
  else:
    size = text = dict(SIZES["small"])
    config.dtype = "mixed_bfloat16"
    config.total_steps = 50_000
    config.batch_size = 64
    config.checkpoint_every = 1_000
    config.eval_every = 5_000
    config.data.update(dict(size=112))
    config.optimizer.update(dict(warmup_steps=2_000))
  if chosen["model"] == "agnostic":
    config.model.encoders = recipes.encoders(shared=size)
  else:
    config.model.encoders = recipes.encoders(video=size, audio=size, text=text)
  return config
