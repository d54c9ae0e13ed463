"""Builds shards on the machines of a runner of Apache Beam.

A shard is a work item, built by the function that builds it on one machine. A
worker needs what that needs: this package, the folder of the dataset and that
of the media, by the same paths as here.
"""
import atexit
import contextlib
import io
import json
import logging
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import apache_beam as beam
import grpc
import tensorflow as tf
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    PipelineOptions,
    WorkerOptions,
)
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners import runner as runners
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.transforms import environments

from vatt import files, stopping
from vatt.data.ingest import shards as shards_lib
from vatt.data.ingest.plans import Shard
from vatt.data.record_files import INDEX_SUFFIX
from vatt.errors import UserError, one_line

DIRECT = "direct"  # the runner on this machine
# Beside the shards: for workers, as a job has no room for a list of 100,000;
# and what they say. The builder removes in the end what is no shard.
SHARDS, LOG = "beam_shards.jsonl", "beam_workers.log"
WORKER = "apache_beam.runners.worker.sdk_worker_main"
WAIT = 0.5  # seconds between two looks at whether it has ended
LOOK = 20  # times as long as a look at what is finished is the pause after it


class Engine:
  """Builds shards by Beam."""

  def __init__(self, runner: str, options: Sequence[str] = ()):
    """Finds a runner; nothing runs yet.

    Args:
      runner: name of a runner of Beam, such as direct, dataflow, flink, spark.
      options: for it, NAME=VALUE or NAME.

    Raises:
      UserError: Beam has no such runner, or it cannot be used so.
    """
    self._is_local = runner == DIRECT
    self._options = _parse(options, self._is_local)
    logging.getLogger("apache_beam").setLevel(
        logging.CRITICAL if self._is_local else logging.INFO)
    # A worker has a process for each core; a shard has a decoder besides.
    debug = self._options.view_as(DebugOptions)
    debug.number_of_worker_harness_threads = (
        debug.number_of_worker_harness_threads or 1)
    try:
      self._pipeline = None if self._is_local else beam.Pipeline(
          runners.create_runner(runner), self._options)
    except (AttributeError, ImportError, ValueError) as error:
      raise UserError(
          f"--runner={runner}: {' '.join(str(error).split())}") from None

  def __call__(self, job: shards_lib.Job, shards: Sequence[Shard],
               progress: Callable[[int], object]) -> None:
    """Builds shards.

    Args:
      job, shards: as of `shards.build`.
      progress: called with the number of clips that are done since.

    Raises:
      Stopped: the program is to end.
      UserError: a shard cannot be built, or the runner failed.
    """
    folder = job.folder
    if "://" not in folder:
      folder = os.path.abspath(folder)
    # What is known of former records is in a file of this machine.
    job = job._replace(
        folder=folder, plan=f"{folder}/{os.path.basename(job.plan)}",
        known=job.known if self._is_local else None)
    files.write_whole_by(f"{folder}/{SHARDS}", lambda path: _write_lines(
        path, map(json.dumps, shards)))
    log = os.devnull if "://" in folder else f"{folder}/{LOG}"
    pipeline = self._pipeline or beam.Pipeline(
        _local_runner(self._options, log), self._options)
    _ = (pipeline
         | beam.Create([f"{folder}/{SHARDS}"])
         | "Shards" >> beam.FlatMap(_read_lines)
         | beam.Reshuffle()
         | "Build" >> beam.ParDo(_Build(
             job, os.getpid() if self._is_local else 0)))
    try:
      _run(pipeline, _Progress(folder, shards, progress))
    except _Lost as error:
      raise UserError(f"a worker ended ({error}), see {log}") from None


def _parse(options, strictly):
  """Options as Beam has them; raises UserError."""
  said = io.StringIO()
  flags = [f"--{option.removeprefix('--')}" for option in options]
  try:
    with contextlib.redirect_stderr(said):
      parsed = PipelineOptions(flags)
      known = parsed.get_all_options()
  except SystemExit:
    raise UserError("--beam_options: " + said.getvalue().strip().rpartition(
        "error: ")[-1]) from None
  # Those of other runners may be known to their servers alone.
  unknown = parsed.get_all_options(
      retain_unknown_options=True).keys() - known.keys()
  if strictly and unknown:
    raise UserError(f"--beam_options: {min(unknown)} is no option of Beam")
  return parsed


def _local_runner(options, log):
  """The runner that Beam has in Python alone; what it calls the direct one
  tries to load a program from elsewhere first."""
  direct, environment = options.view_as(DirectOptions), None
  if direct.direct_running_mode == "multi_processing":
    # As Beam itself starts them, but what they say at their end is for a log;
    # and of a Python by any path.
    direct.direct_running_mode = "in_memory"
    environment = environments.SubprocessSDKEnvironment.from_command_string(
        f"exec {shlex.quote(sys.executable)} -m {WORKER} 2>>{shlex.quote(log)}")
  worker = options.view_as(WorkerOptions)
  worker.default_sdk_harness_log_level = (
      worker.default_sdk_harness_log_level or "CRITICAL")
  provision = beam_provision_api_pb2.ProvisionInfo(
      pipeline_options=JobServiceHandle.encode_pipeline_options(
          options.get_all_options()))
  return fn_runner.FnApiRunner(
      default_environment=environment,
      provision_info=fn_runner.ExtendedProvisionInfo(provision))


def _write_lines(path: str, lines: Iterable[str]) -> None:
  with tf.io.gfile.GFile(path, "w") as file:
    for line in lines:
      file.write(line + "\n")


def _read_lines(path: str) -> Iterator[bytes]:
  files.know(path)
  with tf.io.gfile.GFile(path, "rb") as file:
    yield from file


class _Build(beam.DoFn):
  """Builds the shard of a line, on a worker."""

  def __init__(self, job, driver):
    """Args:
      job: as of `shards.build`.
      driver: number of the process that a worker is to end with, or 0.
    """
    self._job, self._driver = job, driver
    self._count = beam.metrics.Metrics.counter("vatt", "clips")

  def setup(self):
    files.know(self._job.folder)
    if self._driver not in (0, os.getpid()):
      threading.Thread(target=_end_with, args=[self._driver],
                       daemon=True).start()
      # At once, and not as libraries see fit: TensorFlow's for S3 abort.
      atexit.register(os._exit, 0)

  def process(self, line):
    shard = Shard(*json.loads(line))
    try:
      shards_lib.build(self._job, shard, self._count.inc)
    except Exception as error:
      raise UserError(f"{shard.name}: {one_line(error)}") from error


def _end_with(process):
  """Ends this process with another one, however that ends."""
  while True:
    try:
      os.kill(process, 0)
    except OSError:
      os._exit(1)
    time.sleep(WAIT)


class _Lost(Exception):
  """A worker of this machine has ended."""


def _run(pipeline, look):
  """Runs a pipeline to its end."""
  result, failed = [], []

  def run():
    # Ctrl-C is for this process alone, which tells its workers: they inherit
    # what is blocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
      result.append(pipeline.run())
      result[0].wait_until_finish()
    except BaseException as error:
      failed.append(error)

  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  try:
    with _noted_losses(failed):
      while thread.is_alive() and not failed:
        thread.join(WAIT)
        stopping.check()
        look()
  except BaseException:
    for each in result:
      with contextlib.suppress(Exception):
        each.cancel()
    raise
  for error in failed[:1]:
    if isinstance(error, _Lost):
      raise error
    raise UserError(_why(error)) from error
  if result[0].state != runners.PipelineState.DONE:
    raise UserError(f"the job of Beam ended as {result[0].state}")
  look(last=True)


@contextlib.contextmanager
def _noted_losses(failed):
  """Inside, the end of a worker of ours is noted in a list: Beam would wait for
  it for ever."""
  before = threading.excepthook

  def note(args):
    if args.thread and args.thread.name == "run_worker":
      failed.append(_Lost(one_line(args.exc_value)))
    elif not isinstance(args.exc_value, grpc.RpcError):  # what follows from it
      before(args)

  threading.excepthook = note
  try:
    yield
  finally:
    threading.excepthook = before


def _why(error):
  """What an error of a runner says, as one line: ours, if a worker raised it.
  """
  ours = re.findall(r"UserError: (.*)$", str(error), re.M)
  line = ours[-1] if ours else one_line(error)
  return re.sub(r" \[while running .*", "", line)


class _Progress:
  """Counts the clips of shards as these are finished: no runner tells of that
  in the same way as another."""

  def __init__(self, folder, shards, progress):
    self._folder, self._progress = folder, progress
    self._counts = {shard.name: shard.count for shard in shards}
    self._next = 0.0

  def __call__(self, last=False):
    began = time.monotonic()
    if began < self._next and not last:
      return
    done = 0
    for name in tf.io.gfile.listdir(self._folder):
      if name.endswith(INDEX_SUFFIX):
        done += self._counts.pop(name.removesuffix(INDEX_SUFFIX), 0)
    self._progress(done)
    self._next = time.monotonic() + LOOK * (time.monotonic() - began)
