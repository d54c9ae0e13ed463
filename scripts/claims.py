"""The paper's claims, tried on spoken digits in minutes on two CPU cores.

  python scripts/claims.py --claim=few_labels --data_dir=DATA --folder=DIR
      [--pretrained=WORKDIR] [--seeds=3]

DATA has spoken_digits/official (scripts/prepare_dataset.py, and its
vocabulary). A claim trains several models, each in a workdir under DIR/runs,
measures them, and writes a table and a picture, DIR/NAME.txt and .png. The same
command goes on where it was.

  few_labels   Pre-training beats training from scratch: fine-tuning with ten
               labels a class, video and audio.
  droptoken    Pre-training with DropToken costs less and loses little: a linear
               probe on video features (the paper's table 13).
  resolution   Fine-tuning at a higher resolution with DropToken, against a
               lower one without (table 14).
  agnostic     One encoder for all modalities, against one for each.

few_labels and resolution start from WORKDIR, a model of
configs/spoken_digits.py:specific,spectrogram; without it they train one first
(11 minutes). droptoken and agnostic pre-train for --steps.
"""
import json
import os
import pathlib
import subprocess
import sys

from vatt import cli, metric_writers
from vatt.config import replace
from vatt.errors import UserError
from vatt.models import cost
from vatt.reports import claims as report
from vatt.tasks import make_task

import numpy as np
from absl import flags

from benchmarks import timing
from benchmarks.step import Step
from configs import finetune_digits, spoken_digits

FLAGS = flags.FLAGS
flags.DEFINE_enum("claim", None, [
    "few_labels", "droptoken", "resolution", "agnostic"], "What to try.")
flags.DEFINE_string("data_dir", None, "Where the digits were built.")
flags.DEFINE_string("folder", None, "For workdirs, table and picture.")
flags.DEFINE_string("pretrained", None, "Workdir of a pre-trained model.")
flags.DEFINE_integer("seeds", 3, "Runs of each setting.", 1)
flags.DEFINE_integer("steps", 500, "Of pre-training, for droptoken and "
                     "agnostic.", 100)

for name in ("claim", "data_dir", "folder"):
  cli.require(name)

ROOT = pathlib.Path(__file__).resolve().parents[1]
RATES = (0.0, 0.25, 0.5, 0.75)
# Half of the config's in time, a quarter in frequency. With its own, few tokens
# could stand for others, as most do at 224 x 224.
SMALL_PATCHES = dict(video_patch=(2, 8, 8), audio_patch=(4, 16))
TIMED = 5  # steps of each setting
SPECTROGRAM = "specific,spectrogram"


def run(*command):
  """Runs a command of this project; its output goes to the screen.

  Raises:
    UserError: it failed.
  """
  if subprocess.run([sys.executable, *command], cwd=ROOT).returncode:
    raise UserError(f"failed: {' '.join(command)}")


def train_model(name, config, **fields):
  """Trains a model in a workdir of its own, or finds that it is trained.

  Args:
    name: of the workdir, under `runs`.
    config: file and argument.
    **fields: of the config, dots written as double underscores.

  Returns:
    The workdir, and the measures of its last evaluation.
  """
  workdir = os.path.join(FLAGS.folder, "runs", name)
  run("-m", "vatt.main", f"--config={config}", f"--workdir={workdir}",
      f"--config.data.data_dir={FLAGS.data_dir}",
      *(f"--config.{field.replace('__', '.')}={value}"
        for field, value in fields.items()))
  rows = metric_writers.read(os.path.join(workdir, "metrics.jsonl"))
  evaluated = [row for row in rows if any(k.startswith("eval/") for k in row)]
  return workdir, {key.removeprefix("eval/"): value
                   for key, value in evaluated[-1].items()}


def pretrained():
  """The workdir that fine-tuning starts from."""
  if FLAGS.pretrained:
    return os.path.abspath(os.path.expanduser(FLAGS.pretrained))
  return train_model("pretrained", f"configs/spoken_digits.py:{SPECTROGRAM}")[0]


def pretrain_short(name, model=SPECTROGRAM, **fields):
  """Pre-trains for --steps: the workdir, and its last measures."""
  return train_model(
      f"{name}_{FLAGS.steps}", f"configs/spoken_digits.py:{model}",
      total_steps=FLAGS.steps, checkpoint_every=FLAGS.steps,
      eval_every=FLAGS.steps, **fields)


def probe(workdir, modality):
  """Top-1 of a linear SVM on a model's features of one window a clip."""
  run("scripts/linear_probe.py", f"--workdir={workdir}",
      f"--config=configs/linear_probe.py:digits_{modality}",
      f"--config.data.data_dir={FLAGS.data_dir}",
      "--config.probe.train_windows=1", "--config.probe.probes=('svm',)")
  return read_probe(workdir, modality)["split/svm top-1"]


def read_probe(workdir, modality):
  """The measures of the one probe in a workdir, by name."""
  # Of the workdir's name, which may be any, nothing is taken for a pattern.
  path, = pathlib.Path(workdir, "report").glob(
      f"linear_probe_*_{modality}.json")
  return dict(json.loads(path.read_text())["results"])


def gflops(config):
  """GFLOPs of the forward pass of a clip in training."""
  classes = dict(num_classes=10) if config.task == "finetune" else {}
  return cost.total(cost.flops(
      config.model, make_task(config).input_shapes(), config.data.captions,
      training=True, **classes)) / 1e9


def time_steps(configs):
  """Seconds of a training step of each config on a real batch: medians, the
  configs taking turns."""
  runs = {}
  for i, config in enumerate(configs):
    task = make_task(replace(config, {"data.data_dir": FLAGS.data_dir}))
    sources = task.open_sources(config.data.train_split)
    task = task.resolve(sources)
    batch = next(iter(task.train_dataset(sources, 0)(0, 1, config.batch_size)))
    runs[i] = Step(task, batch).run()
  seconds = timing.interleave(runs, TIMED, "steps")
  return [np.median(seconds[i]) for i in runs]


def costs(configs):
  """GFLOPs, and a step's seconds, of each config; by the names of columns."""
  seconds = time_steps(configs)
  return [{"GFLOPs": gflops(config), "ms a step": 1e3 * float(s),
           "of the first": float(s / seconds[0])}
          for config, s in zip(configs, seconds)]


def few_labels():
  """Top-1 from the pre-trained model and from scratch."""
  start, rows = pretrained(), []
  for modality in ("video", "audio"):
    for name, init in (("pre-trained", start), ("from scratch", "")):
      values = [train_model(
          f"{modality}_{name.replace(' ', '_')}_{seed}",
          f"configs/finetune_digits.py:{modality}", init=init, seed=seed
          )[1]["top-1"] for seed in range(FLAGS.seeds)]
      rows.append(dict(name=f"{modality}, {name}", scores={"top-1": values}))
  return "Fine-tuned with 10 labels a class", rows


def droptoken():
  """Probe of the video features, cost and time, by the drop rate."""
  configs = []
  for rate in RATES:
    configs.append(replace(spoken_digits.get_config(SPECTROGRAM), {
        "model.drop_rate": rate,
        **{f"model.{field}": patch for field, patch in SMALL_PATCHES.items()}}))
  rows = []
  for rate, columns in zip(RATES, costs(configs)):
    scores = {"SVM top-1": [], "zero-shot": []}
    for seed in range(FLAGS.seeds):
      workdir, measures = pretrain_short(
          f"drop_{rate:.2f}_{seed}", model__drop_rate=rate, seed=seed,
          **{f"model__{field}": patch
             for field, patch in SMALL_PATCHES.items()})
      scores["SVM top-1"].append(probe(workdir, "video"))
      scores["zero-shot"].append(measures["video_to_text/accuracy"])
    rows.append(dict(name=f"{rate:.0%} dropped", columns=columns,
                     scores=scores))
  return f"Pre-trained for {FLAGS.steps} steps, by the drop rate", rows


def resolution():
  """Fine-tuned on video at two resolutions, with DropToken and without."""
  start, rows = pretrained(), []
  settings = [(40, rate) for rate in RATES] + [(32, 0.0), (24, 0.0)]
  configs = [replace(finetune_digits.get_config("video"), {
      "data.size": size, "model.drop_rate": rate}) for size, rate in settings]
  for (size, rate), columns in zip(settings, costs(configs)):
    values = []
    for seed in range(FLAGS.seeds):
      # The first setting is that of few_labels.
      name = (f"video_{size}_{rate:.2f}_{seed}" if (size, rate) != settings[0]
              else f"video_pre-trained_{seed}")
      fields = {} if (size, rate) == settings[0] else dict(
          data__size=size, model__drop_rate=rate)
      values.append(train_model(
          name, "configs/finetune_digits.py:video", init=start, seed=seed,
          **fields)[1]["top-1"])
    rows.append(dict(name=f"{size} x {size}, {rate:.0%} dropped",
                     columns=columns, scores={"top-1": values}))
  return "Fine-tuned with 10 labels a class, by resolution and drop rate", rows


def agnostic():
  """Probes and zero-shot accuracy of both kinds of model."""
  names = {"specific": SPECTROGRAM, "agnostic": "agnostic,spectrogram"}
  configs = [spoken_digits.get_config(arg) for arg in names.values()]
  rows = []
  for (name, arg), columns, config in zip(
      names.items(), costs(configs), configs):
    columns["million weights"] = cost.total(cost.parameters(
        config.model, make_task(config).input_shapes())) / 1e6
    scores = {}
    for seed in range(FLAGS.seeds):
      workdir, measures = pretrain_short(f"{name}_{seed}", arg, seed=seed)
      for modality in ("video", "audio"):
        scores.setdefault(f"SVM {modality}", []).append(
            probe(workdir, modality))
        scores.setdefault(f"zero-shot {modality}", []).append(
            measures[f"{modality}_to_text/accuracy"])
    rows.append(dict(name=name, columns=columns, scores=scores))
  return f"Pre-trained for {FLAGS.steps} steps: encoders, or one for all", rows


def main():
  """Tries a claim."""
  for name in ("data_dir", "folder"):  # commands run in another folder
    FLAGS[name].value = os.path.abspath(os.path.expanduser(FLAGS[name].value))
  title, rows = dict(few_labels=few_labels, droptoken=droptoken,
                     resolution=resolution, agnostic=agnostic)[FLAGS.claim]()
  text, picture = report.write(
      FLAGS.folder, FLAGS.claim, dict(title=title, rows=rows))
  print(pathlib.Path(text).read_text() + picture)


if __name__ == "__main__":
  cli.run(main)
