"""Fine-tuning with few labels: which digit is written, or said.

  python -m vatt.main --config=configs/finetune_digits.py:video \\
      --config.init=PRETRAINED --config.data.data_dir=DATA --workdir=DIR

PRETRAINED is the workdir of configs/spoken_digits.py:specific,spectrogram (or,
with a second argument, of agnostic,spectrogram); without it, training is from
scratch. Arguments: video or audio; specific or agnostic. The labels are those
of 10 clips a class (--config.finetune.labels_per_class=0: of all).

scripts/claims.py compares both, over several seeds: of the test clips, 92.8 %
are right from the pre-trained model and 31.9 % from scratch by video, 93.3 %
and 47.3 % by audio (measured before each draw belonged to a sample).
"""
import pathlib

from ml_collections import ConfigDict

from vatt import recipes

PRETRAINING = pathlib.Path(__file__).parent / "spoken_digits.py"


def get_config(arg: str | None = None) -> ConfigDict:
  """The config of a modality and a model, such as `audio,agnostic`."""
  chosen = recipes.parse_arg(
      arg, modality=("video", "audio"), model=("specific", "agnostic"))
  modality = chosen["modality"]
  pretrained = recipes.get_config(
      PRETRAINING, f"{chosen['model']},spectrogram")
  config = recipes.finetuning(modality, "base")
  config.deterministic = True
  config.total_steps = 300
  config.batch_size = 20
  config.steps_per_loop = 20
  config.log_every = 100
  config.checkpoint_every = 300
  config.eval_every = 300
  config.keep_checkpoints = 1

  config.data = pretrained.data
  config.data.captions = 0
  config.data.update(dict(frames=0) if modality == "audio" else
                     dict(audio_samples=0))
  config.augment = pretrained.augment
  part = "shared" if chosen["model"] == "agnostic" else modality
  del config.model.encoders
  config.model.encoders = {part: pretrained.model.encoders[part]}
  for field in ("video_patch", "audio_input", "audio_patch", "drop_rate",
                "dropout"):
    config.model[field] = pretrained.model[field]
  config.finetune.labels_per_class = 10
  config.optimizer.update(dict(lr=0.02, warmup_steps=30))
  config.eval.windows = 1
  return config
