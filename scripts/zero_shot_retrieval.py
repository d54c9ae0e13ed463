"""Zero-shot retrieval and classification with a trained model.

  python scripts/zero_shot_retrieval.py --workdir=DIR
      [--config=configs/retrieval.py:ARG] [--config.FIELD=VALUE]
      [--export=FOLDER | --pool=FOLDER] [--report | --query="a sentence"]

Evaluates the workdir's newest checkpoint on `data.eval_split` of its first
dataset, or, with --query, ranks the clips of that split for a sentence. The
fields of --config, a protocol, replace those of the workdir.

--export keeps the embeddings of the split: each array of
`Pretrain.embed_split` as NAME.npy, clips.tsv with a line a clip, and the step
of the model in pool.json. --pool takes them in place of a split, with no
dataset and nothing embedded but the sentence; they are read in blocks, however
many there are.

With --report, the table goes to the workdir's `report` too, with a picture of
some clips and the sentences that rank first for each.
"""
import functools
import itertools
import json
import os

from vatt import cli, distribute, files, inference, similarity
from vatt.config import check_strategy, replace
from vatt.data import record_index
from vatt.errors import UserError
from vatt.reports import retrieval as retrieval_report
from vatt.tasks import make_task
from vatt.workdir import read_json

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
LINES, MODEL = "clips.tsv", "pool.json"  # of a pool


def read_clip(source, tensors, i):
  """The example of record i."""
  return source.parse(record_index.read_record(tensors, tf.constant(i)))


def describe(source, numbers):
  """Yields a line for each of some records: its id and first captions."""
  tensors = record_index.file_tensors(source.index)
  for i in numbers:
    example = read_clip(source, tensors, i)
    captions = " | ".join(
        c.decode() for c in example["captions/text"].numpy()[:2])
    yield f"{example['id'].numpy().decode()}\t{' '.join(captions.split())}"


def export(folder, step, clips, source):
  """Writes a pool.

  Args:
    folder: for the files.
    step: of the model.
    clips: arrays of `Pretrain.embed_split`.
    source: Source of the split.
  """
  tf.io.gfile.makedirs(folder)
  for name, array in clips.items():
    with tf.io.gfile.GFile(os.path.join(folder, f"{name}.npy"), "wb") as file:
      np.save(file, array)
  files.write_whole(os.path.join(folder, LINES), "".join(
      line + "\n" for line in describe(source, range(len(source.index)))))
  files.write_whole(os.path.join(folder, MODEL), json.dumps({"step": step}))


def read_pool(folder, step):
  """What `export` wrote, its arrays as np.memmaps by name.

  Raises:
    UserError: it is none, not whole, or of another step of the model.
  """
  path = os.path.join(folder, MODEL)  # written last
  if not tf.io.gfile.exists(path):
    raise UserError(f"{path}: not found, expected what --export writes")
  found = read_json(path)["step"]
  if found != step:
    raise UserError(f"{folder}: embedded by step {found} of a model, "
                           f"expected {step}, which the workdir has")
  pool = {}
  for path in sorted(tf.io.gfile.glob(os.path.join(folder, "*.npy"))):
    try:
      array = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
      raise UserError(f"{path}: cannot be read ({error})") from None
    pool[os.path.basename(path)[:-len(".npy")]] = array
  if len({len(array) for array in pool.values()}) != 1:
    raise UserError(
        f"{folder}: .npy files of {sorted(map(len, pool.values()))} rows, "
        "expected as many in each")
  return pool


def report(folder, title, results, clips, source):
  """Writes what a report of the evaluation is made of, and the report.

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
  sentence = functools.cache(lambda i: read_clip(source, tensors, i)[
      "captions/text"].numpy()[0].decode())
  tf.io.gfile.makedirs(os.path.join(folder, "frames"))
  shown = []
  for row, own_rank, scores, places in zip(rows, rank, nearness, place):
    example = read_clip(source, tensors, both[row])
    frames = example["frames"].numpy()
    names = []
    for frame in np.linspace(0, len(frames) - 1, FRAMES, dtype=int):
      names.append(f"frames/{len(shown)}_{frame}.jpg")
      with tf.io.gfile.GFile(os.path.join(folder, names[-1]), "wb") as file:
        file.write(frames[frame])
    shown.append({
        "id": example["id"].numpy().decode(),
        "frames": names,
        "rank": int(own_rank),
        "sentences": [(sentence(both[i]), float(score), bool(i == row))
                      for score, i in zip(scores, places)]})
  files.write_whole(os.path.join(folder, "retrieval.json"), json.dumps(
      {"title": title, "results": results, "clips": shown}, indent=1))
  return retrieval_report.write(folder)


def answer(embedder, clips, lines, name):
  """Prints the clips that are nearest to --query.

  Args:
    embedder: inference.Embedder.
    clips: arrays with `video_vt` and `has_video`.
    lines: a function of numbers of clips -> what to show of each.
    name: of the clips, for errors.

  Raises:
    UserError: there is no video, or its vectors are another model's.
  """
  has_video = clips["has_video"]
  if not has_video.any():
    raise UserError(f"{name}: no clip has video, expected some to rank")
  query = similarity.normalize(embedder.embed_text([QUERY.value]))
  if clips["video_vt"].shape[1] != query.shape[1]:
    raise UserError(
        f"{name}: vectors of {clips['video_vt'].shape[1]} numbers, expected "
        f"{query.shape[1]} as the model's")
  (nearness,), (places,) = similarity.best(
      query, clips["video_vt"], TOP.value, has_video)
  for score, line in zip(nearness, lines(places)):
    name, _, captions = line.partition("\t")
    print(f"{score:7.3f}  {name:24}  {captions}")


def main():
  """Evaluates, or answers a query."""
  for one, other in (("report", "query"), ("pool", "report"),
                     ("pool", "export")):
    if all(flags.FLAGS[name].value not in (None, False)
           for name in (one, other)):
      raise UserError(f"--{one} and --{other}: expected one of them")
  config, workdir = cli.config(), cli.workdir()
  if QUERY.value is not None and EXPORT.value is None:  # not asked for
    config = replace(config, {"data.audio_samples": 0, "data.captions": 0})
  check_strategy(config.strategy)
  strategy = distribute.make_strategy(config.strategy)
  if POOL.value is None:
    source, *_ = make_task(config).open_sources(config.data.eval_split)
    name = f"{source.name} {source.split}"
    count = len(source.index)
  embedder = inference.Embedder(workdir, config, strategy)
  if POOL.value is not None:
    name = os.path.expanduser(POOL.value)
    clips = read_pool(name, embedder.step)
    count = len(clips["label"])
  title = f"{workdir}: step {embedder.step}, {count} clips of {name}"
  print(title)
  if POOL.value is None:
    with tqdm(total=count, unit="clip", leave=False) as progress:
      clips = embedder.task.embed_split(
          embedder.model, strategy, source, progress.update)
    if EXPORT.value is not None:
      export(os.path.expanduser(EXPORT.value), embedder.step, clips, source)

  if QUERY.value is not None:
    def lines(places):
      if POOL.value is None:
        return describe(source, places)
      with open(os.path.join(name, LINES), encoding="utf-8") as file:
        found = {i: line.rstrip("\n") for i, line in enumerate(
            itertools.islice(file, int(places.max()) + 1)) if i in places}
      return [found.get(i, "") for i in places]

    answer(embedder, clips, lines, name)
    return
  # A pool does not have the names of its classes.
  results = embedder.task.measure(
      embedder.model, strategy,
      source.label_names if POOL.value is None else (), clips)
  if not any("R@" in measure for measure, _ in results):
    raise UserError(
        f"{name}: no clip has two of video, audio and captions, expected some "
        "to find each other")
  if not clips["has_caption"].any():
    logging.warning("%s: no clip has a caption, so no sentence is found", name)
  print("\n".join(retrieval_report.format_table(results)))
  if REPORT.value:
    print("\n".join(report(os.path.join(workdir, "report"), title, results,
                           clips, source)))


if __name__ == "__main__":
  cli.run(main, cli.define_config_of_workdir)
