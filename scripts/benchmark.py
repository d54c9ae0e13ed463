"""Measures how fast it is here: steps, forward passes, input, ingest, search.

  python scripts/benchmark.py --what=step --config=configs/pretrain.py:bbs
      [--config.batch_size=2 --config.dtype=float32 ...] [--parts] [--vs=torch]
      [--export=FOLDER]
  python scripts/benchmark.py --what=forward --config=configs/finetune.py:ARG
  python scripts/benchmark.py --what=growth --config=configs/pretrain.py:ARG
  python scripts/benchmark.py --what=input --folder=DIR [--config=...]
  python scripts/benchmark.py --what=ingest --folder=DIR [--videos=VIDEOS]
      [--joined] [--hours=134472]
  python scripts/benchmark.py --what=build --folder=DIR
  python scripts/benchmark.py --what=retrieval --folder=DIR

Everything takes turns in one process, as machines change their speed: a figure
is the median of --repeats turns, a ratio the median of the turns' ratios. A
table comes out and, with --json=FILE, all of it as JSON.

  step       a training step of a config: clips/s, true GFLOP/s (3 x forward on
             the tokens that are kept), as a share of the fastest of several
             matrix products, and peak memory; with --parts, the time of
             tokenizers, encoders, heads and loss, optimizer. --vs=torch has the
             video encoder beside the same in PyTorch, if that is installed.
             --export measures nothing but writes the step as HLO, which
             scripts/time_hlo.py times on another machine.
  forward    the model as in evaluation, likewise.
  growth     three blocks of the video encoder by the batch and by the tokens, a
             whole step by DropToken's rate.
  input      clips/s of the input pipeline by its stages, on records that are
             made of films in DIR, beside decoding whole frames and what may be
             chosen to have it faster; seconds are the processor's, of all cores
             together.
  ingest     from films to records, as they may be chosen: bytes a clip, and
             processor seconds of all processes together. The films are VIDEOS
             or, with --joined, one like those of HowTo100M that is made of
             them; without any, it is made of rendered ones, which have other
             bytes than real ones. --hours has totals for so much video.
  build      by processes: what they and the one that waits for them take, for
             films in DIR and for clips that take time and no work.
  retrieval  ranks in a pool of a million embeddings on disk, beside the bare
             matrix product.
"""
import json
import os

from vatt import cli, fields, files, host
from vatt.config import check_model, check_optimizer, replace
from vatt.errors import UserError, one_line
from vatt.models import cost
from vatt.tasks import make_task

import numpy as np
import tensorflow as tf
from absl import flags, logging

from benchmarks import encoder, timing
from benchmarks.step import Step

FLAGS = flags.FLAGS
cli.define_config("Experiment.", default="configs/pretrain.py:bbs")
flags.DEFINE_enum("what", None, [
    "step", "forward", "growth", "input", "ingest", "build", "retrieval"],
                  "What to measure.")
cli.require("what")
flags.DEFINE_string("folder", None, "For films, records and embeddings.")
flags.DEFINE_string("json", None, "File for all figures.")
flags.DEFINE_integer("repeats", 5, "Turns that count.", 1)
flags.DEFINE_integer("threads", 0, "Of TensorFlow's kernels; 0: all cores.", 0)
flags.DEFINE_bool("parts", False, "Whether to time the parts of a step.")
flags.DEFINE_enum("vs", None, ["torch"], "What to compare the encoder with.")
flags.DEFINE_string("videos", None, "Folder of videos of your own.")
flags.DEFINE_bool("joined", False, "Whether to join --videos to one film.")
flags.DEFINE_float("hours", 0.0, "Of video, to work totals out for.", 0)
flags.DEFINE_string("export", None, "Folder for the step as HLO, unmeasured.")

GIB = 2 ** 30
CLASSES, VOCABULARY = 400, 2 ** 16
POOL, POOL_WIDTH, QUERIES = 1_000_000, 256, 1_000


def make_step(training):
  """A Step of --config, with what else the data would tell."""
  config = FLAGS.config
  tuned = config.task == "finetune"
  return Step(make_task(replace(config, {
      "data.classes": config.data.classes or CLASSES * tuned,
      "model.vocab_size": config.model.vocab_size or VOCABULARY})),
              training=training)


def measure_model(training):
  """A step or a forward pass beside matrix products."""
  step = make_step(training)
  config = step.config
  run = step.run() if training else step.run_forward()
  before = timing.resident_memory()
  timing.forget_peak()
  run(), run()
  peak = timing.peak_memory()
  products, flops = step.matmuls(training)
  parts = step.parts() if training and FLAGS.parts else {}
  seconds = timing.interleave({"model": run, **parts, **products},
                              FLAGS.repeats, FLAGS.what)
  best, rate = timing.best_rate(seconds, flops)
  own = step.flops(training) / seconds["model"]
  weights = sum(cost.parameters(
      config.model, step.shapes,
      config.data.classes if config.task == "finetune" else 0).values()) * 4
  details = {
      "seconds": timing.spread(seconds["model"]),
      "clips/s": timing.spread(config.batch_size / seconds["model"]),
      "GFLOP": step.flops(training) / 1e9,
      "GFLOP/s": timing.spread(own / 1e9),
      best + ", GFLOP/s": timing.spread(rate / 1e9),
      "share of it": timing.spread(own / rate),
  }
  if peak:
    details |= {"peak memory, GiB": peak / GIB,
                "of that before it ran": before / GIB,
                "weights, GiB": weights / GIB}
  details |= {f"{name}, s": timing.spread(seconds[name]) for name in parts}
  details |= {f"{name}, GFLOP/s": timing.spread(flops[name] / seconds[name]
                                                / 1e9)
              for name in products if name != best}
  return details


def measure_retrieval():
  """Ranks in a pool on disk beside the bare product of the same blocks."""
  from vatt import similarity

  path = os.path.join(FLAGS.folder, "pool.npy")
  rng = np.random.default_rng(0)
  if not os.path.exists(path):
    os.makedirs(FLAGS.folder, exist_ok=True)

    def write(temporary):
      pool = np.lib.format.open_memmap(
          temporary, "w+", np.float32, (POOL, POOL_WIDTH))
      for first in range(0, POOL, similarity.BLOCK):
        block = pool[first:first + similarity.BLOCK]
        block[:] = similarity.normalize(
            rng.standard_normal(block.shape, np.float32))
      return pool.offset + pool.nbytes

    files.write_whole_by(path, write)
  pool = np.load(path, mmap_mode="r")
  chosen = rng.choice(POOL, QUERIES, replace=False)
  queries = np.array(pool[np.sort(chosen)])
  numbers = np.arange(POOL)

  def product():
    for _, block in similarity.blocks(pool):
      queries @ block.T

  timing.forget_peak()
  found = similarity.ranks(queries, pool, np.sort(chosen), numbers)
  if not (found == 1).all():
    raise RuntimeError(f"ranks up to {found.max()}, expected 1: each query is "
                       "an item of the pool")
  peak = timing.peak_memory()
  seconds = timing.interleave({
      "ranks": lambda: similarity.ranks(
          queries, pool, np.sort(chosen), numbers),
      "product": product}, FLAGS.repeats, "retrieval")
  return {"pool": list(pool.shape), "queries": QUERIES,
          "ranks, s": timing.spread(seconds["ranks"]),
          "bare product, s": timing.spread(seconds["product"]),
          "ranks over product": timing.spread(
              seconds["ranks"] / seconds["product"]),
          "peak memory, GiB": peak and peak / GIB}


def table(details):
  """Lines of text."""
  lines = []
  for name, value in details.items():
    if isinstance(value, dict):
      value = "{median:.4g}  ({least:.4g} to {most:.4g})".format(**value)
    elif isinstance(value, float):
      value = f"{value:.4g}"
    lines.append(f"{name:40} {value}")
  return "\n".join(lines)


def main():
  """Measures; see the flags."""
  if FLAGS.export and (FLAGS.what != "step" or FLAGS.vs or FLAGS.parts):
    raise UserError("--export measures nothing, expected --what=step without "
                    "--vs and --parts")
  config = cli.config()
  fields.check(config)
  if FLAGS.what in ("step", "forward", "growth"):
    check_model(config)
    check_optimizer(config.optimizer, config.total_steps)
  if FLAGS.what in ("input", "ingest", "build", "retrieval"):
    if not FLAGS.folder:
      raise UserError("--folder is missing")
    FLAGS.folder = os.path.abspath(os.path.expanduser(FLAGS.folder))
  host.hold_memory()
  threads = FLAGS.threads or host.num_cores()
  tf.config.threading.set_intra_op_parallelism_threads(threads)
  tf.config.threading.set_inter_op_parallelism_threads(threads)
  if FLAGS.export:
    details = make_step(training=True).export(FLAGS.export)
  elif FLAGS.vs:
    details = encoder.measure_torch(FLAGS.config, FLAGS.repeats, threads)
  elif FLAGS.what == "growth":
    details = encoder.measure_growth(FLAGS.config, FLAGS.repeats)
  elif FLAGS.what in ("step", "forward"):
    details = measure_model(FLAGS.what == "step")
  elif FLAGS.what == "retrieval":
    details = measure_retrieval()
  elif FLAGS.what == "build":
    from benchmarks import building
    details = building.measure_build(FLAGS.folder, FLAGS.repeats)
  elif FLAGS.what == "ingest":
    from benchmarks import ingesting
    details = ingesting.measure_ingest(
        FLAGS.folder, FLAGS.videos and os.path.expanduser(FLAGS.videos),
        FLAGS.joined, FLAGS.hours, FLAGS.repeats)
  else:
    from benchmarks import input as input_benchmark
    details = input_benchmark.measure_input(
        FLAGS.folder, FLAGS.config, FLAGS.repeats)
  print(table(details))
  if FLAGS.json:
    try:
      files.write_whole(FLAGS.json, json.dumps(
          dict(what=FLAGS.what, threads=threads, **details), indent=1))
    except files.REFUSED as error:
      raise UserError(f"--json={FLAGS.json}: cannot be written: "
                      f"{one_line(error)}") from None


if __name__ == "__main__":
  logging.set_verbosity(logging.ERROR)  # tfds tells of each file that it reads
  cli.run(main)
