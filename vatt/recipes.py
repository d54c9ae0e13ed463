"""What config files share: the paper's recipes, arguments, each other.

A config file starts from `pretraining()` or `finetuning()` and changes what
differs. It may lie in any folder: it needs nothing but this module.
"""
import importlib.util
import os

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vatt.errors import UserError
from vatt.models.vatt import SIZES, model_fields


def encoders(**sizes: dict) -> ConfigDict:
  """The field `model.encoders`: sizes by part, and `epsilon`, which a flag may
  set: of the norms, where it is another than Encoder's."""
  return ConfigDict({part: dict(size, epsilon=placeholder(float))
                     for part, size in sizes.items()})


def finetuning(modality: str, size: str, flavour: str = "paper") -> ConfigDict:
  """What all fine-tuning shares (section 4.2 and appendix A.2).

  Args:
    modality: video or audio.
    size: a key of `vatt.models.vatt.SIZES`, or ma: Medium, from a model with
      one encoder for all.
    flavour: paper or released, of the model that training starts from.
  """
  variant = "ma" if size == "ma" else "mbs"
  config = pretraining(variant, flavour)
  config.task = "finetune"
  config.steps_per_loop = 5  # of up to 2 s, on few cores
  config.finetune = ConfigDict(dict(
      modality=modality,
      multi_label=False,
      label_smoothing=0.1,  # of a single label
      mixup=0,  # a of Beta(a, a)
      labels_per_class=0,  # of the training clips; 0: all that there are
      # Part that stays as it is: tokenizer, blocks_N (and the tokenizer), tower
      freeze="",
      rare_classes=False,  # whether biases start at a chance of 1 / classes
      # How positions are resized: bicubic, or spline.
      positions="spline" if flavour == "released" else "bicubic",
  ))
  part = "shared" if size == "ma" else modality
  config.model.encoders = encoders(
      **{part: SIZES["medium" if size == "ma" else size]})
  config.model.update(dict(drop_rate=0.0, classifier_dropout=0.0))
  config.data.captions = 0
  config.optimizer.update(dict(
      name="sgd", momentum=0.9, schedule="half_cosine", end_lr=0.0))
  config.eval.templates = ()
  return config


def get_config(path: str | os.PathLike, arg: str | None = None) -> ConfigDict:
  """The config of another config file, to change what differs from it.

  Found by its path, such as `pathlib.Path(__file__).parent / "finetune.py"`,
  and not by a module's name, which may be taken where somebody trains.

  Args:
    path: of the file.
    arg: what stands behind the colon of --config.
  """
  name, _ = os.path.splitext(os.path.basename(path))
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(arg)


def parse_arg(arg: str | None, **choices: tuple[str, ...]) -> dict[str, str]:
  """Parses the argument behind a config's colon, strictly.

  Args:
    arg: comma-separated words, such as "agnostic,spectrogram".
    **choices: for each name, a tuple of the words it may take; the first is
      the default.

  Returns:
    The chosen word of each name, by name.

  Raises:
    UserError: a word that fits nothing, or a second word for one name.
  """
  chosen = {}
  for word in filter(None, (arg or "").split(",")):
    names = [name for name, words in choices.items() if word in words]
    if not names or names[0] in chosen:
      expected = "; ".join("|".join(words) for words in choices.values())
      raise UserError(f"config argument {arg!r}: {word!r} "
                      f"{'comes twice' if names else 'is unknown'}, expected "
                      f"one each of {expected}")
    chosen[names[0]] = word
  return {name: chosen.get(name, words[0]) for name, words in choices.items()}


def one_device() -> ConfigDict:
  """The strategy that needs nothing of a machine; others by its fields."""
  return ConfigDict(dict(
      name="one_device", devices=0, tpu="",
      wait_minutes=15.0))  # for the other workers


def pretraining(variant: str, flavour: str = "paper") -> ConfigDict:
  """The paper's pre-training (section 4.1 and appendix A.1) of a variant.

  Args:
    variant: a key of `vatt.models.vatt.VARIANTS`.
    flavour: paper, or released for the model and the loss of the weights that
      the authors released.
  """
  # A new field needs a value for runs that are older: vatt.workdir.ADDED.
  config = ConfigDict()
  config.task = "pretrain"
  config.seed = 0
  config.init = ""  # workdir of a trained model whose weights to start from
  config.dtype = "float32"  # or mixed_bfloat16, float64
  config.deterministic = False
  config.strategy = one_device()

  # Durations, in steps.
  config.total_steps = 500_000
  config.batch_size = 2048  # global
  # Divides the three below. A run hears only after a loop that it is to stop:
  # at the paper's 0.52 s a step, within 5 s.
  config.steps_per_loop = 10
  config.log_every = 100
  config.checkpoint_every = 5_000
  config.eval_every = 50_000
  config.keep_checkpoints = 3

  config.data = ConfigDict(dict(
      data_dir="",
      datasets=("howto100m", "audioset"),
      shares=(),  # of every global batch; equal ones if empty
      train_split="train",
      eval_split="test",
      vocabulary="",  # default: vocabulary.txt of the first dataset
      frames=32, fps=10.0, size=224,
      audio_samples=153_600, audio_rate=48_000,
      audio_rms=0.0,  # loudness that each window is scaled to; 0: as it is
      captions=5, words=16,
      classes=0,  # of labels; of the dataset, where a task needs them
      crop_area=(0.08, 1.0), crop_aspect=(0.5, 2.0),
      # Or on the host, which then makes fewer clips a second.
      enlarge_on_device=False,
      shuffle_captions=False,  # breaks the labels, for a control run
      cache=False,  # holds the encoded records in memory
      max_corrupt_share=1e-3,
      # Of the audio, where the model wants it (model.audio_input).
      spectrogram=dict(window_s=2048 / 48_000, step_s=1024 / 48_000, bins=80,
                       low=80.0, high=7600.0),
  ))
  config.augment = ConfigDict(dict(
      flip=True, brightness=32 / 255, saturation=0.4, contrast=0.4, hue=0.2,
      color_probability=0.8,  # of a clip to have its colours changed
      noise=0.01,  # standard deviation, of the waveform's largest magnitude
      # Beyond the paper, all off.
      gain=(1.0, 1.0), speed=(1.0, 1.0), shift=0.0, equalizer=0.0,
      time_masks=0, time_mask_width=0, freq_masks=0, freq_mask_width=0,
      freq_warp=(1.0, 1.0),
  ))

  config.model = ConfigDict(dict(
      **model_fields(variant, flavour),
      video_patch=(4, 16, 16),
      audio_input="waveform",  # or spectrogram
      audio_patch=(128,),
      drop_rate=0.5,  # DropToken, of video and audio
      dropout=0.1,
      remat=False,  # less memory for more time: see models/encoder.py
      dim_va=512, dim_vt=256,
      vocab_size=2 ** 16,  # most rows, with padding and unknown; 0: any
      word_vectors="",  # word2vec text file or .npy to start from
  ))
  config.model.encoders = encoders(**config.model.encoders)
  config.loss = ConfigDict(dict(form=flavour, temperature=0.07, weight=1.0))
  released = flavour == "released"
  config.optimizer = ConfigDict(dict(
      name="adam", lr=1e-4, end_lr=5e-5,
      warmup_steps=5_000 if released else 10_000,
      # quarter_cosine, half_cosine, constant or levels
      schedule="half_cosine" if released else "quarter_cosine",
      levels=(),  # (step, rate)s of the schedule of that name
      momentum=0.9, beta_1=0.9, beta_2=0.999,
      epsilon=1e-7, weight_decay=0.0,
      clip_norm=0.0,  # of the gradients; 0: they are as they are
      clip_part=""))  # of the model that it is for, such as tower; all of it
  config.eval = ConfigDict(dict(
      batch_size=64,
      windows=4,  # of a clip, spread evenly over it; results are averaged
      crops=1,  # of each window: squares along the frame's longer side
      average="embedding",  # or similarity: the mean of all pairs of views
      match="pair",  # or label: any clip of the query's class is right
      captions=1,  # of a clip, that are sentences to search with
      # Sentences of a class, for zero-shot classification; () for none.
      templates=("{}",)))
  return config
