"""Configs: what is refused, what the data complete, and that none changes."""
import numpy as np
import pytest
from ml_collections import ConfigDict, FrozenConfigDict

from configs import common, finetune, linear_probe, pretrain
from tests.configs_test import ALL, get_config
from vatt import config as config_lib
from vatt import fields as fields_lib
from vatt.config import Fact
from vatt.errors import UserError
from vatt.tasks import make_task

BAD = [  # of pre-training: fields, what is said
    ({"log_every": 7}, "log_every is 7, expected a multiple of steps_per_loop"),
    ({"total_steps": 99_955}, "total_steps is 99955"),
    ({"batch_size": -8}, "batch_size is -8, expected a whole number from 1 t"),
    ({"keep_checkpoints": 0}, "keep_checkpoints is 0"),
    ({"strategy.name": "horovod"},
     "'horovod', expected one of one_device, mirrored, multi_worker, tpu"),
    ({"strategy.devices": -1}, "strategy.devices is -1"),
    ({"strategy.name": "tpu", "data.datasets": ("clips/a", "clips/b+audio=flac")
      }, "'tpu', whose workers cannot decode the sound of clips/b+audio=flac "
     "(audio=flac), expected it built with audio=pcm"),
    ({"data.audio_samples": 16_000}, "32 frames at 10.0 fps are 3.200 s, 16000 "
     "audio_samples at 48000 Hz are 0.333 s; expected the same span"),
    ({"data.shares": (1, 2, 3)}, "data.shares is (1, 2, 3), expected a"),
    ({"eval.windows": 0}, "eval.windows is 0, expected a whole number from 1 "),
    ({"eval.captions": 0}, "eval.captions is 0"),
    ({"eval.captions": 6}, "eval.captions is 6, expected at most data.captions "
     "(5), which"),
    ({"eval.match": "clip"}, "eval.match is 'clip', expected one of pair, lab"),
    ({"eval.average": "logits"}, "eval.average is 'logits'"),
    ({"data.frames": 0, "eval.crops": 3}, "eval.crops is 3 and data.frames 0"),
    ({"loss.form": "sym"}, "loss.form is 'sym', expected one of paper, rel"),
    ({"model.drop_rate": 1.0}, "model.drop_rate is 1.0"),
    ({"model.dropout": -0.1}, "model.dropout is -0.1"),
    ({"model.audio_input": "mp3"}, "model.audio_input is 'mp3'"),
    ({"model.heads": "three"}, "model.heads is 'three'"),
    ({"model.video_patch": (4, 256, 16)}, "model.video_patch is (4, 256, 16), "
     "expected sizes from 1 to those of the input, (32, 224, 224)"),
    ({"model.video_patch": (0, 16, 16)}, "model.video_patch is (0, 16, 16)"),
    ({"model.video_patch": (128,)}, "(128,), expected 3 sizes: the input is"),
    ({"model.audio_patch": (4, 4)}, "model.audio_patch is (4, 4), expected 1"),
    ({"model.encoders": dict(video=dict(
        depth=1, width=8, mlp_dim=8, num_heads=2))},
     "model.encoders has ['video'], expected video, audio, text, or shared"),
    ({"model.encoders.audio.width": 10, "model.encoders.audio.num_heads": 4},
     "model.encoders.audio: width is 10, expected a multiple of num_heads (4)"),
    ({"model.encoders.text": dict(
        depth=1, width=8, mlp_dim=8, num_heads=2, norm="batch")},
     "model.encoders.text.norm is 'batch', expected one of layer, rms"),
    ({"model.encoders.text": dict(depth=1, width=8, mlp_dim=8)},
     "model.encoders.text has no num_heads, expected depth, width, mlp"),
    *(({"model.encoders.text.epsilon": value}, "model.encoders.text.epsilon "
       f"is {value!r}, expected a number above 0")
      for value in (0.0, -1e-6, float("nan"), float("inf"), True, "1e-6")),
    ({"optimizer.name": "adamw"}, "'adamw', expected one of adam, sgd, lamb"),
    ({"optimizer.warmup_steps": 600_000}, "expected rising numbers from 0"),
]
BAD_TUNING = [
    ({"finetune.modality": "text"}, "finetune.modality is 'text'"),
    ({"finetune.positions": "linear"}, "finetune.positions is 'linear'"),
    ({"finetune.label_smoothing": 1.0}, "label_smoothing is 1.0, expected a "),
    ({"finetune.freeze": "blocks_13"}, "freeze is 'blocks_13', expected one of "
     "'', tokenizer, tower, blocks_1 to blocks_12"),
    ({"model.encoders": dict(audio=dict(
        depth=12, width=8, mlp_dim=8, num_heads=2))},
     "model.encoders has ['audio'], expected video, or shared"),
    ({"model.encoders": {}}, "model.encoders has [], expected video, or sh"),
    ({"model.encoders.video": dict(width=8, mlp_dim=8, num_heads=2)},
     "model.encoders.video has no depth"),
]


@pytest.mark.parametrize("config, fields, said", [
    *((pretrain.get_config("bbs"), *bad) for bad in BAD),
    *((finetune.get_config("kinetics400,base"), *bad) for bad in BAD_TUNING)])
def test_bad_fields_give_one_line(config, fields, said):
  config_lib.check(config)  # as it ships
  with pytest.raises(UserError) as error:
    config_lib.check(config_lib.replace(config, fields))
  assert said in str(error.value) and "\n" not in str(error.value)


# Where 0 means something; in all others it is wrong, or no number.
ZERO = {
    "seed", "strategy.devices", "data.audio_rms", "data.captions",
    "data.classes", "data.max_corrupt_share", "data.spectrogram.low",
    *(f"augment.{name}" for name in (
        "brightness", "saturation", "contrast", "hue", "color_probability",
        "noise", "shift", "equalizer", "time_masks", "time_mask_width",
        "freq_masks", "freq_mask_width")),
    *(f"model.{name}" for name in (
        "word_dim", "post_projection", "drop_rate", "dropout", "vocab_size",
        "classifier_dropout")),
    "loss.weight", *(f"optimizer.{name}" for name in (
        "lr", "end_lr", "warmup_steps", "momentum", "beta_1", "beta_2",
        "weight_decay", "clip_norm")),
    *(f"finetune.{name}" for name in (
        "label_smoothing", "mixup", "labels_per_class")),
}
# Names of files and splits: whether they are there, the data tell.
NAMES = {"init", "strategy.tpu", "data.data_dir", "data.datasets",
         "data.train_split", "data.eval_split", "data.vocabulary",
         "model.word_vectors"}


def fields_of(config, prefix=""):
  """Yields (field, value) of all that lies in a config."""
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      yield from fields_of(value, f"{prefix}{name}.")
    else:
      yield prefix + name, value


def wrong_values(field, value):
  """Yields values that a field cannot have, by what it has."""
  if value is not None:  # as a field is that nothing has set
    yield None
  if isinstance(value, bool):
    yield from (-1, 0.5, "maybe")
  elif isinstance(value, (int, float)):
    yield from (-1, float("nan"), 10 ** 30, 1e30, float("inf"), "12", (1,), [])
    if value and field not in ZERO and not field.endswith("head_dim"):
      yield 0
  elif isinstance(value, str):
    yield from (-1, 0, float("nan"), ("x",))
    if field not in NAMES:
      yield "nonesuch"
  else:
    yield from (-1, 0, float("nan"), "x")
    if field not in NAMES:
      yield from ((float("nan"), float("nan")), (-1, -1, -1), ("x",),
                  ("{}", "{label}"), (10 ** 30,))


def wrong_configs(count):
  """Yields (name and argument of a config, field, wrong value)."""
  rng = np.random.default_rng(0)
  everything = [
      (f"{name}:{arg}", field, value)
      for name, arg in ALL
      for field, right in fields_of(get_config(name, arg))
      for value in wrong_values(field, right)]
  for i in rng.permutation(len(everything))[:count]:
    yield everything[i]


def test_a_field_of_any_config_with_a_wrong_value_is_named():
  fields = set()
  for name, field, value in wrong_configs(1000):
    config = ConfigDict(
        get_config(*name.split(":"))).copy_and_resolve_references()
    *path, last = field.split(".")
    part = config.unlock()
    for step in path:
      part = part[step]
    del part[last]
    part[last] = value
    fields.add(field)
    with pytest.raises(UserError) as error:
      fields_lib.check(config)
      make_task(config)
      config_lib.check(config)
      pytest.fail(f"{name}: {field} is {value!r}, and nothing is said")
    said = str(error.value)
    assert field in said and "expected" in said and "\n" not in said, said
  assert len(fields) > 90


def test_a_signal_that_is_not_read_needs_no_patch_in_it():
  config_lib.check_evaluation(config_lib.replace(
      common.pretraining("bbs"), {"data.audio_samples": 0}))


def test_captions_that_are_not_read_need_not_be_many():
  """Where none is read, as to answer a query, or none is embedded at all."""
  config_lib.check_evaluation(config_lib.replace(
      common.pretraining("bbs"), {"data.captions": 0, "eval.captions": 3}))
  config_lib.check_evaluation(config_lib.replace(
      finetune.get_config("kinetics400,base"), {"eval.captions": 3}))


def test_resolve_completes_what_is_open():
  config = common.pretraining("bbs")
  config.model.vocab_size = 0
  facts = {"model.vocab_size": Fact(19, "words.txt: 17 words"),
           "data.vocabulary": Fact("words.txt", "a vocabulary")}
  found = config_lib.resolve(config, facts)
  assert (found.model.vocab_size, found.data.vocabulary) == (19, "words.txt")
  assert (config.model.vocab_size, config.data.vocabulary) == (0, "")
  assert config_lib.resolve(found, facts) == found
  with pytest.raises(UserError, match=r"words.txt: 17 words, expected "
                     r"model.vocab_size \(18\)"):
    config_lib.resolve(config_lib.replace(
        config, {"model.vocab_size": 18}), facts)
  # The 2^16 of the paper are the most words that there may be.
  facts["model.vocab_size"] = Fact(19, "words.txt: 17 words", at_most=True)
  for bound in 19, 20, 65536:
    assert found == config_lib.resolve(config_lib.replace(
        config, {"model.vocab_size": bound}), facts)
  with pytest.raises(UserError, match=r"expected at most model.vocab_size"):
    config_lib.resolve(config_lib.replace(
        config, {"model.vocab_size": 18}), facts)


def test_replace_makes_a_new_one_that_cannot_be_changed():
  config = common.pretraining("bbs")
  before = config.to_json()
  found = config_lib.replace(config, {
      "data.size": 40, "model.encoders": dict(shared=dict(depth=1))})
  assert isinstance(found, FrozenConfigDict)
  assert found.data.size == 40 and config.to_json() == before
  assert found.model.encoders.to_dict() == dict(shared=dict(depth=1))
  with pytest.raises(AttributeError):
    found.data.size = 3
  again = config_lib.replace(found, {"data.size": 41})
  assert (found.data.size, again.data.size) == (40, 41)
  assert ConfigDict(again).data.frames == np.int64(32)


def test_an_unknown_field_is_refused():
  with pytest.raises(KeyError, match="siez"):
    config_lib.replace(common.pretraining("bbs"), {"data.siez": 40})


PROBE_VALUES = (-1, 0, float("nan"), 1e30, 10 ** 30, "x", (), None, True, 3.5,
                (0,), (float("nan"),), ("x",), {})
# What may be such a value.
PROBE_FITS = {
    "seed": (0,), "strategy.devices": (0,), "data.data_dir": ("x",),
    "probe.dataset": ("x",), "probe.fps": (0, 3.5), "probe.splits": (("x",),),
    "strategy.wait_minutes": (3.5,), "lrc.lr": (3.5,),
    "knn.temperature": (1e30, 10 ** 30, 3.5)}


@pytest.mark.parametrize("field", [
    *linear_probe.get_config(), *(
        field for field, _ in fields_of(linear_probe.get_config()))])
def test_every_field_of_a_probe(field):
  """A wrong value, of whatever type, is a line that begins with the field; and
  so is a missing one."""
  *path, name = field.split(".")
  for value in (*PROBE_VALUES, "missing"):
    config = part = linear_probe.get_config("ucf101").to_dict()
    for step in path:
      part = part[step]
    part[name] = value
    if value == "missing":
      del part[name]
    if value in PROBE_FITS.get(field, ()):
      config_lib.check_probe(ConfigDict(config))
      continue
    with pytest.raises(UserError) as error:
      config_lib.check_probe(ConfigDict(config))
    said = str(error.value)
    assert said.startswith((f"{field} is ", f"{field}.")), value
    assert ", expected " in said
    assert "\n" not in said


@pytest.mark.parametrize("fields, said", [
    ({"probe.test_crops": 0}, "probe.test_crops is 0, expected a whole number"),
    ({"svm.cs": (1.0, 0.0)}, "svm.cs is (1.0, 0.0), expected a tuple of"),
    ({"probe.probes": ("svm", "lda")}, "probe.probes is ('svm', 'lda'), exp"),
    ({"lrc.kept": 129}, "lrc.kept is 129, expected 1 to lrc.components (128)"),
    ({"probe.modality": "audio"},
     "probe.fps is 12.5 and probe.modality audio, expected 0: sound has no"),
    ({"probe.modality": "audio", "probe.fps": 0.0, "probe.test_crops": 3},
     "probe.test_crops is 3 and probe.modality audio, expected 1"),
    ({"strategy.name": "horovod"}, "strategy.name is 'horovod'"),
])
def test_bad_probes_give_one_line(fields, said):
  config = linear_probe.get_config("ucf101")
  config_lib.check_probe(config)  # as it ships
  with pytest.raises(UserError) as error:
    config_lib.check_probe(config_lib.replace(config, fields))
  assert said in str(error.value) and "\n" not in str(error.value)


def test_home_in_paths(monkeypatch):
  monkeypatch.setenv("HOME", "/home/of")
  found = config_lib.expand_home(config_lib.replace(
      common.pretraining("bbs"), {"init": "~/a", "data.vocabulary": "b/~"}))
  assert (found.init, found.data.vocabulary) == ("/home/of/a", "b/~")
