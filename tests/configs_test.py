"""Every shipped config builds, and trains a step at tiny size."""
import contextlib
import importlib
import itertools
import pathlib

import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from configs import ablations, common, finetune
from vatt import config as config_lib
from vatt import optimizers, train
from vatt.errors import UserError
from vatt.models.vatt import SIZES, VARIANTS, VATT, Classifier
from vatt.tasks import make_task

TOWERS = ("base", "medium", "large", "ma")
ARGUMENTS = {
    "spoken_digits": [",".join(words) for words in itertools.product(
        ("specific", "agnostic"), ("spectrogram", "waveform"),
        ("seen", "unseen"))],
    "demo": ["specific", "agnostic"],
    "my_videos": [",".join(words) for words in itertools.product(
        ("cpu", "gpu"), ("specific", "agnostic"))],
    "pretrain": [*VARIANTS, *(f"{variant},released" for variant in VARIANTS),
                 "bbs,t5", "mbs,t5", "lbs,t5"],
    "ablations": [*ablations.CHANGES, *ablations.TUNING],
    "finetune": [
        *(",".join(words) for words in itertools.product(
            finetune.VIDEOS, TOWERS)),
        "imagenet,base", "audioset,base", "audioset,medium", "audioset,ma",
        *(f"kinetics400,{tower},released" for tower in TOWERS),
        "audioset,base,released", "audioset,medium,released",
        "audioset,ma,released"],
    "finetune_digits": [",".join(words) for words in itertools.product(
        ("video", "audio"), ("specific", "agnostic"))],
    "linear_probe": [],  # no trainings; tests/scripts/linear_probe_test.py
    "retrieval": [],  # nor this; tests/scripts/zero_shot_retrieval_test.py
}
# At tiny size these are the graphs of others.
SAME_GRAPH = [*(("pretrain", arg) for arg in (
                  "mbs", "lbs", "bbs,released", "lbs,released", "bbs,t5",
                  "lbs,t5")),
              ("my_videos", "cpu,agnostic"), ("my_videos", "gpu,agnostic"),
              ("spoken_digits", "specific,waveform,unseen"),
              ("spoken_digits", "agnostic,spectrogram,unseen"),
              ("spoken_digits", "agnostic,waveform,unseen"),
              # What they change is not left at tiny size, or changes nothing.
              *(("ablations", arg) for arg in (
                  "size_32x200", "size_32x224", "size_64x224", "patch_4x16x16",
                  "audio_128", "drop_50", "batch_8192", "tune_drop_50",
                  "tune_drop_25", "tune_drop_0", "tune_224", "tune_64x224")),
              *(("finetune", ",".join(words)) for words in itertools.product(
                  finetune.VIDEOS, TOWERS)
                if words != ("kinetics400", "medium")),
              *(("finetune", arg) for arg in (
                  "audioset,medium", "audioset,ma", "audioset,medium,released",
                  "kinetics400,base,released", "kinetics400,large,released")),
              ("finetune_digits", "video,agnostic"),
              ("finetune_digits", "audio,agnostic")]
# The others are of one kind.
SLOW = [*(("ablations", arg) for arg in (
            *ablations.CHANGES, *ablations.TUNING)
          if arg != "batch_8192_lamb"),
        ("finetune", "kinetics400,medium,released"),
        ("finetune", "audioset,base,released"),
        ("finetune", "audioset,ma,released")]
ALL = [(name, arg) for name, args in ARGUMENTS.items() for arg in args]


@contextlib.contextmanager
def eagerly():
  """Functions run op by op."""
  tf.config.run_functions_eagerly(True)
  try:
    yield
  finally:
    tf.config.run_functions_eagerly(False)


def get_config(name, arg):
  config = importlib.import_module(f"configs.{name}").get_config(arg)
  return ml_collections.ConfigDict(config).lock()


def test_no_config_is_left_out():
  folder = pathlib.Path(common.__file__).parent
  names = {path.stem for path in folder.glob("*.py")} - {"common"}
  assert names == set(ARGUMENTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_pretrain_has_the_sizes_of_its_variant(variant):
  encoders = get_config("pretrain", variant).model.encoders.to_dict()
  assert encoders == {
      part: dict(SIZES[size], epsilon=None)
      for part, size in VARIANTS[variant].items()}


def test_pretrain_is_the_papers_recipe():
  config = get_config("pretrain", "mbs")
  assert (config.total_steps, config.batch_size) == (500_000, 2048)
  data = config.data
  assert data.frames / data.fps == data.audio_samples / data.audio_rate == 3.2
  assert config.model.encoders.video.width == 1024
  rate = optimizers.learning_rate(config.optimizer, config.total_steps)
  for step, expected in ((0, 0.0), (5_000, 5e-5), (10_000, 1e-4),
                         (500_000, 5e-5)):
    np.testing.assert_allclose(rate(step), expected, rtol=1e-6)


def test_all_are_valid():
  for name, arg in ALL:
    config_lib.check(get_config(name, arg))


def test_no_two_parts_are_one():
  """A flag for one encoder is not to change another."""
  def parts(config):
    for value in config.values():
      if isinstance(value, ml_collections.ConfigDict):
        yield value
        yield from parts(value)

  for name, arg in ALL:
    found = list(parts(get_config(name, arg)))
    assert len(set(map(id, found))) == len(found), (name, arg)


@pytest.mark.slow
@pytest.mark.parametrize("name, arg", ALL)
@tf.autograph.experimental.do_not_convert
def test_builds_at_full_size(name, arg):
  """In a graph, where variables have shapes and no values."""
  config = get_config(name, arg)
  if not config.model.vocab_size:  # as many as there are words
    config.model.vocab_size = 1000
  task = make_task(config)
  config_lib.check(config)
  try:
    tf.keras.mixed_precision.set_global_policy(config.dtype)
    with tf.Graph().as_default():
      shapes = task.input_shapes()
      if config.task == "finetune":
        (modality, shape), = shapes.items()
        model = Classifier(config.model, modality, shape, 600)
      else:
        model = VATT(config.model, shapes["video"], shapes["audio"],
                     config.data.words)
      assert len(model.trainable_variables) > 50
  finally:
    tf.keras.mixed_precision.set_global_policy("float32")


# Op by op, which spares the seconds of making a graph. Of training, that is
# tested by running the program.
@pytest.mark.parametrize("name, arg, in_graph", [
    pytest.param(*item, in_graph, marks=[pytest.mark.slow] * (
        item in SLOW or in_graph and item != ("finetune_digits",
                                              "video,specific")))
    for item in ALL if item not in SAME_GRAPH for in_graph in (False, True)])
def test_one_step(name, arg, in_graph, digits_dir):
  config = get_config(name, arg)
  tiny = dict(depth=1, width=16, mlp_dim=32, num_heads=2)
  with config.unlocked():
    config.data.update(dict(
        data_dir=digits_dir, datasets=("spoken_digits/official",),
        size=32))
    config.model.vocab_size = 0
    for size in config.model.encoders.values():
      size.update(tiny)
    if config.task == "finetune":
      config.data.frames = min(config.data.frames, 8)
      config.data.audio_samples = min(config.data.audio_samples, 19_200)
    elif name in ("pretrain", "ablations"):
      # 0.8 s, as the records are short; the patches are the paper's.
      config.data.update(dict(frames=8, audio_samples=38_400))
  config.batch_size = 4
  config.optimizer.warmup_steps = 1  # else the second step's rate is 1e-8
  task = make_task(config)
  config_lib.check(config)
  try:
    sources = task.open_sources("train")
    task = task.resolve(sources)
    model = task.build_model()
    optimizer = optimizers.make_optimizer(config.optimizer, config.total_steps)
    before = [v.numpy() for v in model.trainable_variables]
    dataset = task.train_dataset(sources, 0)(0, 1, 4)
    step = train.make_step(
        task, model, optimizer, tf.distribute.get_strategy())
    # Two steps: the rate of the first is 0, as it warms up.
    with contextlib.nullcontext() if in_graph else eagerly():
      loop = train.make_loop(step, ("loss", "grad_norm", *task.METRICS), 2)
      metrics, finite, corrupt = loop(iter(dataset))
  finally:
    tf.keras.mixed_precision.set_global_policy("float32")
  assert metrics.shape == (2, 2 + len(task.METRICS))
  assert finite.numpy().all() and np.isfinite(metrics).all()
  assert metrics[:, 1].numpy().min() > 0
  assert corrupt.shape == (2, 4) and not corrupt.numpy().any()
  assert optimizer.iterations == 2
  moved = [np.any(v != old)
           for v, old in zip(model.trainable_variables, before)]
  # Only dead ReLUs or the rounding of a zero gradient may stay.
  assert np.mean(moved) > 0.9


def test_arguments_are_strict():
  assert common.parse_arg("b,x", one=("a", "b"), two=("y", "x")) == {
      "one": "b", "two": "x"}
  assert common.parse_arg(None, one=("a", "b")) == {"one": "a"}
  with pytest.raises(UserError, match="'c' is unknown"):
    common.parse_arg("c", one=("a", "b"))
  with pytest.raises(UserError, match="'b' comes twice"):
    common.parse_arg("a,b", one=("a", "b"))
