"""Zero-shot retrieval and classification with a trained model.

  python scripts/zero_shot_retrieval.py --workdir=DIR
      [--config=configs/retrieval.py:ARG] [--config.FIELD=VALUE]
      [--export=FOLDER | --pool=FOLDER] [--report | --query="a sentence"]

Evaluates the workdir's newest checkpoint on `data.eval_split` of its first
dataset, or, with --query, ranks the clips of that split for a sentence. The
fields of --config, a protocol, replace those of the workdir.

--export keeps the embeddings of the split in a folder, see vatt/pools.py, in
place of those that may be there. --pool takes them in place of a split, with no
dataset and nothing embedded but the sentence; they are read in blocks, however
many there are. They are of one model and one protocol, and refused with others:
give it the fields that --export had.

With --report, the table goes to the workdir's `report` too, with a picture of
some clips and the sentences that rank first for each.
"""
import functools
import os

from vatt import (
  agreement,
  cli,
  distribute,
  inference,
  pools,
  similarity,
  stopping,
)
from vatt.config import check_evaluation, check_strategy, replace
from vatt.data import audio, record_index, windows
from vatt.errors import UserError
from vatt.reports import retrieval as retrieval_report
from vatt.tasks import make_task
from vatt.workdir import has_model

import numpy as np
import tensorflow as tf
from absl import flags, logging
from tqdm import tqdm

cli.define_workdir("Directory of a trained model.", required=False)
QUERY = flags.DEFINE_string("query", None, "Sentence to rank the clips for.")
TOP = flags.DEFINE_integer(
    "top", 5, "Clips shown for a query, sentences for a clip.", 1)
REPORT = flags.DEFINE_boolean("report", False, "Write WORKDIR/report.")
EXPORT = flags.DEFINE_string("export", None, "Folder to keep embeddings in.")
POOL = flags.DEFINE_string("pool", None, "Folder that --export has filled.")

SHOWN = 8  # clips of a report
FRAMES = 4  # of each


def read_clip(source, tensors, i):
  """The example of record i."""
  return source.parse(record_index.read_record(tensors, tf.constant(i)))


def decode(text):
  """The str of a record's bytes, which may be no UTF-8."""
  return text.decode(errors="replace")


def sentences_of(source, example):
  """The captions of a clip itself, as evaluation takes them."""
  length = windows.clip_length(
      example, audio.samples(example["audio"], source.flac))
  return [decode(caption) for caption in windows.own_captions(
      example | {"length": length}).numpy()]


def describe(source, numbers):
  """Yields a line for each of some records: its id and first captions."""
  tensors = record_index.file_tensors(source.index)
  for i in numbers:
    example = read_clip(source, tensors, i)
    captions = " | ".join(sentences_of(source, example)[:2])
    yield f"{decode(example['id'].numpy())}\t{' '.join(captions.split())}"


def report(folder, title, results, clips, source):
  """Writes a report of an evaluation.

  Args:
    folder: for the files.
    title: a line.
    results: (name, value)s.
    clips: arrays of `Pretrain.embed_split`.
    source: Source of the split.

  Returns:
    The paths of the report's files.
  """
  both = np.flatnonzero(  # numbers of the clips with video and a sentence
      clips["has_video"] & clips["has_caption"][:, :1].any(axis=1))
  rows = np.linspace(0, len(both) - 1, min(SHOWN, len(both)), dtype=int)
  rank, nearness, place = [], [], []
  if len(both):
    videos = clips["video_vt"][both[rows]]
    sentences = clips["text_vt"][both, 0]
    rank = similarity.ranks(videos, sentences, rows, np.arange(len(both)))
    nearness, place = similarity.best(videos, sentences, TOP.value)
  tensors = record_index.file_tensors(source.index)
  sentence = functools.cache(lambda i: sentences_of(
      source, read_clip(source, tensors, i))[0])
  shown, pictures = [], {}
  for row, own_rank, scores, places in zip(rows, rank, nearness, place):
    example = read_clip(source, tensors, both[row])
    frames = example["frames"].numpy()
    names = []
    for frame in np.linspace(0, len(frames) - 1, FRAMES, dtype=int):
      names.append(f"frames/{len(shown)}_{frame}.jpg")
      pictures[names[-1]] = frames[frame]
    shown.append({
        "id": decode(example["id"].numpy()),
        "frames": names,
        "rank": int(own_rank),
        "sentences": [(sentence(both[i]), float(score), bool(i == row))
                      for score, i in zip(scores, places)]})
  return retrieval_report.write(
      folder, {"title": title, "results": results, "clips": shown}, pictures)


def answer(query, clips, lines, name):
  """Prints the clips that are nearest to a sentence.

  Args:
    query: its embedding, [1, E].
    clips: arrays with `video_vt` and `has_video`.
    lines: a function of numbers of clips -> what to show of each.
    name: of the clips, for errors.

  Raises:
    UserError: there is no video, or its vectors are another model's.
  """
  has_video = clips["has_video"]
  if not has_video.any():
    raise UserError(f"{name}: no clip has video, expected some to rank")
  if clips["video_vt"].shape[1] != query.shape[1]:
    raise UserError(
        f"{name}: vectors of {clips['video_vt'].shape[1]} numbers, expected "
        f"{query.shape[1]} as the model's")
  (nearness,), (places,) = similarity.best(
      similarity.normalize(query), clips["video_vt"], TOP.value, has_video)
  for score, line in zip(nearness, lines(places)):
    name, _, captions = line.partition("\t")
    print(f"{score:7.3f}  {name:24}  {captions}")


def main():
  """Reads the flags, makes the strategy, and runs."""
  stopping.listen()
  for one, other in (("report", "query"), ("pool", "report"),
                     ("pool", "export")):
    if all(flags.FLAGS[name].value not in (None, False)
           for name in (one, other)):
      raise UserError(f"--{one} and --{other}: expected one of them")
  for name in ("pool", "export"):
    if flags.FLAGS[name].value == "":
      raise UserError(f"--{name} is empty, expected a folder")
  config, workdir = cli.config(), cli.workdir()
  if EXPORT.value is not None and has_model(os.path.expanduser(EXPORT.value)):
    raise UserError(f"--export={EXPORT.value}: the workdir of a model, "
                    "expected another folder")
  if QUERY.value is not None and EXPORT.value is None and POOL.value is None:
    config = replace(  # not asked for
        config, {"data.audio_samples": 0, "data.captions": 0})
  check_strategy(
      config.strategy, config.data.datasets if POOL.value is None else ())
  strategy = distribute.make_strategy(config.strategy)
  with distribute.together(strategy):
    run(config, workdir, strategy)
    distribute.wait_for_all(strategy)  # The chief may still write.


def run(config, workdir, strategy):
  """Evaluates, or answers a query."""
  is_chief = distribute.is_chief(strategy)
  source = None
  check_evaluation(config)
  if POOL.value is None:
    distribute.rows_per_replica(
        strategy, config.eval.batch_size, "eval.batch_size")
    source, *_ = make_task(config).open_sources(config.data.eval_split)
    name, labels = f"{source.name} {source.split}", source.label_names
    count = len(source.index)
  else:
    name = os.path.expanduser(POOL.value)
    pool = pools.read(name)
    clips, labels = pool.clips, pool.label_names
    count = len(clips["label"])
  if EXPORT.value is not None and is_chief:
    pools.make_folder(os.path.expanduser(EXPORT.value))
  embedder = inference.Model(workdir, config=config, strategy=strategy)
  embedder.require_text()
  agreement.agree(strategy, lambda: agreement.facts_of(
      embedder.task.config, [source] if source else [], embedder.task.words,
      step=embedder.step, flags=[flag.value for flag in (
          QUERY, REPORT, EXPORT, POOL)]), workdir)
  if POOL.value is not None or EXPORT.value is not None:
    facts = pools.describe(embedder.task.config, embedder.model, embedder.step)
  if POOL.value is not None:
    pool.check(facts)
  if QUERY.value is not None:  # before much is computed for nothing
    query = embedder.embed_text([QUERY.value])
  title = f"{workdir}: step {embedder.step}, {count} clips of {name}"
  if is_chief:
    print(title)
  if POOL.value is None:
    with stopping.noted(), tqdm(
        total=count, unit="clip", leave=False, disable=not is_chief
    ) as progress:
      clips = embedder.task.embed_split(
          embedder.model, strategy, source, progress.update)
    if EXPORT.value is not None and is_chief:
      pools.write(os.path.expanduser(EXPORT.value), facts, source, clips,
                  describe(source, range(count)))

  if QUERY.value is not None and is_chief:
    answer(query, clips, pool.lines if POOL.value is not None else
           functools.partial(describe, source), name)
  if QUERY.value is not None:
    return
  results = embedder.task.measure(embedder.model, strategy, labels, clips)
  if not any("R@" in measure for measure, _ in results):
    raise UserError(
        f"{name}: no clip has two of video, audio and captions, expected some "
        "to find each other")
  if not clips["has_caption"].any():
    logging.warning("%s: no clip has a caption, so no sentence is found", name)
  if not is_chief:
    return
  print("\n".join(retrieval_report.format_table(results)))
  if REPORT.value:
    print("\n".join(report(os.path.join(workdir, "report"), title, results,
                           clips, source)))


if __name__ == "__main__":
  cli.run(main, cli.define_config_of_workdir)
