"""Zero-shot retrieval and classification with a trained model.

  python scripts/zero_shot_retrieval.py --workdir=DIR [--config.FIELD=VALUE]
      [--report | --query="a sentence"]

Evaluates the workdir's newest checkpoint on `data.eval_split` of its first
dataset, or, with --query, ranks the clips of that split for a sentence. With
--report, the table goes to the workdir's `report` too, with a picture of some
clips and the sentences that rank first for each.
"""
import functools
import json
import os

import numpy as np
import tensorflow as tf
from absl import flags
from tqdm import tqdm

from vatt import distribute, errors, files, inference, pretrain
from vatt.data import record_index
from vatt.evaluators import retrieval
from vatt.reports import retrieval as retrieval_report

WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a trained model.")
QUERY = flags.DEFINE_string("query", None, "Sentence to rank the clips for.")
TOP = flags.DEFINE_integer(
    "top", 5, "Clips shown for a query, sentences for a clip.", 1)
REPORT = flags.DEFINE_boolean("report", False, "Write WORKDIR/report.")

SHOWN = 8  # clips of a report
FRAMES = 4  # of each


def read_clip(source, tensors, i):
  """The example of record i."""
  raw = record_index.read_record(
      tensors, tf.constant(i), lambda raw: raw, tf.constant(""))
  return source.parse(raw)


def report(folder, title, results, clips, source):
  """Writes what a report of the evaluation is made of, and the report.

  Args:
    folder: for the files.
    title: a line.
    results: (name, value)s.
    clips: arrays of `pretrain.embed_split`.
    source: Source of the split.

  Returns:
    The paths of the report's files.
  """
  there = np.flatnonzero(clips["has_video"] & clips["has_caption"][:, 0])
  similarity = retrieval.similarities(
      clips["video_vt"][there], clips["text_vt"][there, 0])
  tensors = record_index.file_tensors(source.index)
  sentence = functools.cache(lambda i: read_clip(source, tensors, i)[
      "captions/text"].numpy()[0].decode())
  tf.io.gfile.makedirs(os.path.join(folder, "frames"))
  shown = []
  for row in np.linspace(0, len(there) - 1, min(SHOWN, len(there)), dtype=int):
    example = read_clip(source, tensors, there[row])
    frames = example["frames"].numpy()
    names = []
    for place in np.linspace(0, len(frames) - 1, FRAMES, dtype=int):
      names.append(f"frames/{len(shown)}_{place}.jpg")
      with tf.io.gfile.GFile(os.path.join(folder, names[-1]), "wb") as file:
        file.write(frames[place])
    best = np.argsort(-similarity[row], kind="stable")[:TOP.value]
    shown.append({
        "id": example["id"].numpy().decode(),
        "frames": names,
        "rank": int((similarity[row] >= similarity[row, row]).sum()),
        "sentences": [
            (sentence(there[i]), float(similarity[row, i]), bool(i == row))
            for i in best]})
  files.write_whole(os.path.join(folder, "retrieval.json"), json.dumps(
      {"title": title, "results": results, "clips": shown}, indent=1))
  return retrieval_report.write(folder)


def main(argv):
  """Evaluates, or answers a query."""
  if len(argv) > 1:
    raise errors.UserError(f"unexpected argument {argv[1]!r}, expected flags")
  if REPORT.value and QUERY.value is not None:
    raise errors.UserError("--report and --query: expected one of them")
  config = flags.FLAGS.config
  strategy = distribute.make_strategy(config.strategy)
  source = pretrain.open_sources(config, config.data.eval_split)[0]
  workdir = os.path.expanduser(WORKDIR.value)
  embedder = inference.Embedder(workdir, config, strategy)
  title = (f"{workdir}: step {embedder.step}, {len(source.index)} clips "
           f"of {source.name} {source.split}")
  print(title)
  if QUERY.value is not None:
    query = embedder.embed_text([QUERY.value])

  with tqdm(total=len(source.index), unit="clip", leave=False) as progress:
    clips = pretrain.embed_split(
        config, embedder.model, strategy, source, progress.update)
  if QUERY.value is None:
    results = pretrain.evaluate_embedded(
        config, embedder.model, strategy, source, embedder.words, clips)
    print("\n".join(retrieval_report.format_table(results)))
    if REPORT.value:
      print("\n".join(report(os.path.join(workdir, "report"), title, results,
                             clips, source)))
    return
  similarity = retrieval.similarities(query, clips["video_vt"])[0]
  similarity[~clips["has_video"]] = -1
  tensors = record_index.file_tensors(source.index)
  for i in similarity.argsort()[::-1][:TOP.value]:
    example = read_clip(source, tensors, i)
    captions = " | ".join(
        c.decode() for c in example["captions/text"].numpy()[:2])
    print(f"{similarity[i]:7.3f}  {example['id'].numpy().decode():24}  "
          f"{captions}")


if __name__ == "__main__":
  errors.run(main, inference.define_config_flag)
