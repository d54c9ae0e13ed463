"""Linear probes on the frozen features of a trained model.

  python scripts/linear_probe.py --workdir=DIR
      --config=configs/linear_probe.py:ARG [--config.FIELD=VALUE]

Makes features of a labelled dataset with the workdir's newest checkpoint,
trains the paper's low-rank classifier (lrc), a linear SVM (svm) and a k-NN
(knn) on them for each split, and prints their accuracies beside each other. The
table goes to WORKDIR/report/linear_probe_DATASET_MODALITY.txt and .json too;
the .json, which is written last, vouches for both.
"""
import contextlib
import hashlib
import json
import os
import re

from vatt import agreement, cli, distribute, files, restore, stopping
from vatt.config import check_probe
from vatt.data import sources
from vatt.errors import UserError, one_line
from vatt.evaluators import features, linear_probe
from vatt.reports import retrieval as report

import numpy as np
import tensorflow as tf
from tqdm import tqdm

cli.define_config("Probes, such as configs/linear_probe.py:ucf101.")
cli.define_workdir("Directory of a trained model.")

LONGEST = 160  # name of a dataset in that of a file
PROBES = {kind.name: kind for kind in (
    linear_probe.LRC, linear_probe.SVM, linear_probe.KNN)}


def open_splits(options, data_dir):
  """The sources to train on and to test on, of each split.

  Raises:
    UserError: there is no such split; the names of the classes of two differ,
      or their clips cannot be probed.
  """
  def open_all(kind):
    return [sources.open_source(options.dataset, data_dir, kind + split)
            for split in options.splits]

  train, test = open_all("train"), open_all("test")
  for a, b in zip(train, test):
    for source in (a, b):
      if 0 < source.fps < options.fps:
        raise UserError(
            f"{source.directory}: split '{source.split}' has {source.fps:g} "
            f"frames a second, expected probe.fps ({options.fps:g}) at least")
    if a.label_names != b.label_names:
      raise UserError(
          f"{b.directory}: {len(b.label_names)} classes in split '{b.split}', "
          f"expected the {len(a.label_names)} of '{a.split}'")
  # Before hours go into features, the labels alone, which are quick to read.
  found = features.labels_of(train + test)
  for a, b, *labels in zip(
      train, test, found[:len(train)], found[len(train):]):
    with named(f"{a.directory}: splits '{a.split}' and '{b.split}'"):
      linear_probe.check_labels(*labels)
  return train, test


@contextlib.contextmanager
def named(what):
  """Puts a name before what a UserError says."""
  try:
    yield
  except UserError as error:
    raise UserError(f"{what}: {error}") from None


def make_features(config, tower, strategy, splits, extract, windows, unit):
  """The features of some splits, each clip's made once.

  Args:
    config: of the features, see `features.config_for`.
    tower: the trained tower.
    strategy: the tower's.
    splits: list of Source.
    extract: a function (config, tower, strategy, source, progress) -> table.
    windows: of a clip, that the progress counts.
    unit: what it counts.

  Returns:
    Features and labels of each split.
  """
  everything, rows = features.union(splits)
  with tqdm(total=len(everything.index) * windows, unit=unit, leave=False,
            desc=splits[0].split.rstrip("0123456789")) as progress:
    table = extract(config, tower, strategy, everything, progress.update)
  return [features.labelled(table, mine, f"{s.name} split '{s.split}'")
          for mine, s in zip(rows, splits)]


def run_probe(config, name, train, test):
  """(name, value)s of one probe on one split."""
  options = config[name].to_dict()
  if name != "lrc":
    return list(PROBES[name](**options).run(*train, *test))
  with tqdm(total=options["steps"], unit="step", leave=False,
            desc=name) as progress:
    probe = linear_probe.LRC(
        **options, seed=config.seed, progress=progress.update)
    try:
      return list(probe.run(*train, *test))
    except tf.errors.ResourceExhaustedError as error:
      raise UserError(
          f"lrc.components is {options['components']}, expected no more than "
          f"the memory has room for ({one_line(error)})") from None


def main():
  """Makes the strategy, and probes."""
  stopping.listen()
  config, workdir = cli.config(), cli.workdir()
  check_probe(config)
  strategy = distribute.make_strategy(config.strategy)
  with distribute.together(strategy):
    probe(config, workdir, strategy)


def probe(config, workdir, strategy):
  """Extracts, trains and reports."""
  options = config.probe
  distribute.rows_per_replica(
      strategy, options.batch_size, "probe.batch_size")
  model_config, tower, step = restore.load_tower(
      workdir, options.modality, strategy)
  model_config = features.config_for(
      model_config, options, config.data.data_dir)
  train, test = open_splits(options, model_config.data.data_dir)
  agreement.agree(strategy, lambda: agreement.facts_of(
      config, [*train, *test], step=step), workdir)

  def augmented(*args):
    return features.window_features(
        *args[:-1], options.train_windows, config.seed, args[-1])

  with stopping.noted():  # so that all workers leave together
    train = make_features(model_config, tower, strategy, train, augmented,
                          options.train_windows, "window")
    test = make_features(model_config, tower, strategy, test,
                         features.mean_features, 1, "clip")

  if not distribute.is_chief(strategy):
    return  # The chief has all features.

  by_name, results = {}, []
  for split, *data in zip(options.splits, train, test):
    for name in options.probes:
      with named(f"{options.dataset}, split '{split}'"):
        measures = run_probe(config, name, *data)
      for measure, value in measures:
        measure = measure.replace("/", " ")
        results.append((f"split {split}".strip() + f"/{measure}", value))
        by_name.setdefault(measure, []).append(value)
  if len(options.splits) > 1:  # of what all of them have
    results += [(f"mean/{measure}", float(np.mean(values)))
                for measure, values in by_name.items()
                if len(values) == len(options.splits)]
  to_train, to_test = (" + ".join(str(len(labels)) for _, labels in part)
                       for part in (train, test))
  rate = (f" at {model_config.data.fps:g} fps"
          if options.modality == "video" else "")
  title = (f"{workdir}: step {step}, {options.modality} of {options.dataset}"
           f"{rate}, {train[0][0].shape[-1]} features, "
           f"{to_train} clips to train, {to_test} to test")
  lines = [title, *report.format_table(results)]
  print("\n".join(lines))
  folder = os.path.join(workdir, "report")
  dataset = re.sub(r"[^\w+=.-]+", "_", options.dataset)
  if len(dataset) > LONGEST:  # as one of files may be
    digest = hashlib.sha256(options.dataset.encode()).hexdigest()
    dataset = dataset[:LONGEST] + f"_{digest[:8]}"
  name = f"linear_probe_{dataset}_{options.modality}"
  files.write_together(folder, f"{name}.json", json.dumps(dict(
      title=title, step=step, results=results,
      config=json.loads(config.to_json_best_effort())), indent=1),
                       {f"{name}.txt": "\n".join(lines) + "\n"})
  for kind in ("txt", "json"):
    print(os.path.join(folder, f"{name}.{kind}"))


if __name__ == "__main__":
  cli.run(main)
