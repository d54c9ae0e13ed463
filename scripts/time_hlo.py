"""Times an exported training step through JAX's XLA, beside matrix products.

  python time_hlo.py FOLDER [--repeats=5] [--json=FILE]

FOLDER is what `benchmark.py --what=step --export=FOLDER` has written, on any
machine. Where this runs, on the first device that JAX sees, JAX is all that is
needed: neither TensorFlow nor vatt. Weights and batch are random; the time is
that of the step alone, the least of three in a row, without input and without
fetching anything; products are called in long series.
"""
import argparse
import json
import os
import sys
import time
import uuid

try:
  import jax
  import jax.numpy as jnp
  import numpy as np
  from jax._src.lib import xla_client
except ImportError as error:
  sys.exit(f"{error}, expected JAX 0.10 or 0.11 (pip install jax)")

SIZES = (4096, 8192)  # of square products, the larger not on processors
LONG = {"cpu": 2e10}  # operations of a product's turn, where not 4e12
SERIES = 10_000  # calls at most
WARM_UP, RUNS = 1, 3  # turns that do not count; steps a turn, the best counts


def load(folder):
  """The program, the shapes of its arguments, and what was noted of it."""
  try:
    with open(os.path.join(folder, "step.hlo.pb"), "rb") as file:
      computation = xla_client.XlaComputation(file.read())
      shapes = computation.program_shape().parameter_shapes()
    with open(os.path.join(folder, "step.json")) as file:
      notes = json.load(file)
  except (OSError, ValueError, RuntimeError) as error:
    sys.exit(f"{folder}: {error}; expected step.hlo.pb and step.json as "
             "benchmark.py --what=step --export writes them")
  return computation, shapes, notes


def compile_for(device, computation):
  """An executable, by whichever interface this JAX has."""
  module = xla_client._xla.mlir.xla_computation_to_mlir_module(computation)
  devices = (xla_client.DeviceList((device,))
             if hasattr(xla_client, "DeviceList") else [device])
  if hasattr(device.client, "compile_and_load"):
    return device.client.compile_and_load(module, devices)
  return device.client.compile(module)


@jax.jit
def scaled(bits):
  """Numbers of the size of weights, from random bytes."""
  return (bits.astype(jnp.float32) - 127.5) * 2.7e-4  # deviation 0.02


def draw(shape, number):
  """A random argument: floats as weights are, positions below 100, masks that
  are True, scalars that are 1."""
  dims, dtype = shape.dimensions(), shape.numpy_dtype()
  if dtype == np.bool_ or not dims:
    return jnp.ones(dims, dtype)
  bits = jax.random.bits(jax.random.key(number), dims, jnp.uint8)
  if np.issubdtype(dtype, np.integer):
    return bits if dtype == np.uint8 else (bits % 100).astype(dtype)
  return scaled(bits).astype(dtype)


def make_step(executable, shapes):
  """A function that returns the seconds of a step and its loss."""
  arguments = [None] * len(shapes)

  def run():
    for i, shape in enumerate(shapes):
      # The state's memory goes to the result: it is drawn anew each time.
      if arguments[i] is None or arguments[i].is_deleted():
        arguments[i] = draw(shape, i)
    jax.block_until_ready(arguments)
    start = time.perf_counter()
    results = jax.block_until_ready(executable.execute(arguments))
    return time.perf_counter() - start, float(np.asarray(results[0]))

  return run


def make_product(m, k, n, dtype, operations):
  """A function that returns the FLOP/s of a matrix product."""
  left, right = (scaled(jax.random.bits(jax.random.key(0), shape, jnp.uint8))
                 .astype(dtype) for shape in ((m, k), (k, n)))
  product = jax.jit(jnp.matmul)
  count = min(SERIES, max(1, round(operations / (2 * m * k * n))))

  def run():
    start = time.perf_counter()
    for _ in range(count):
      result = product(left, right)
    result.block_until_ready()
    return 2 * m * k * n * count / (time.perf_counter() - start)

  return run


def measure(folder, repeats):
  """Times the step of a folder: {name: figure}, or median, least and most."""
  jax.config.update("jax_enable_x64", True)  # for the step's number
  device = jax.devices()[0]
  computation, shapes, notes = load(folder)
  print(f"compiling for {device.device_kind}, which can take minutes",
        flush=True)
  start = time.perf_counter()
  executable = compile_for(device, computation)
  details = {"device": device.device_kind, "JAX": jax.__version__,
             "compiled in, s": time.perf_counter() - start}
  memory = executable.get_compiled_memory_stats()
  details |= {"state and batch, GiB": memory.argument_size_in_bytes / 2 ** 30,
              "other memory, GiB": memory.temp_size_in_bytes / 2 ** 30}
  sizes = {tuple(x) for x in notes["products"]} | {
      (n, n, n) for n in SIZES[:1 if device.platform == "cpu" else None]}
  products = {
      "matmul {} x {} x {}, TFLOP/s".format(*mkn): make_product(
          *mkn, notes["dtype"], LONG.get(device.platform, 4e12))
      for mkn in sorted(sizes)}
  step = make_step(executable, shapes)
  seconds, rates = [], {name: [] for name in products}
  for turn in range(WARM_UP + repeats):
    runs = [step() for _ in range(RUNS)]
    for name, run in products.items():
      rates[name].append(run() / 1e12)
    if not np.isfinite(runs[0][1]):
      sys.exit(f"{folder}: the loss is {runs[0][1]}, expected a finite one")
    seconds.append(min(took for took, _ in runs))
    print(f"turn {turn + 1} of {WARM_UP + repeats}: {seconds[-1]:.4g} s",
          flush=True)
  seconds = np.asarray(seconds[WARM_UP:])
  rates = {name: np.asarray(x[WARM_UP:]) for name, x in rates.items()}
  best = max(rates, key=lambda name: np.median(rates[name]))
  own = notes["flops"] / seconds / 1e12
  figures = {"step, s": seconds, "clips/s": notes["batch_size"] / seconds,
             "TFLOP/s": own, "share of " + best.split(",")[0]: own / rates[best]
             } | rates
  return details | {
      name: dict(median=float(np.median(x)), least=float(np.min(x)),
                 most=float(np.max(x))) for name, x in figures.items()}


def main():
  """Prints a table."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("folder")
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--json")
  args = parser.parse_args()
  if args.repeats < 1:
    sys.exit(f"--repeats is {args.repeats}, expected 1 or more")
  target = args.json and os.path.dirname(os.path.abspath(args.json))
  if target and not os.access(target, os.W_OK):
    sys.exit(f"--json: {target} cannot be written to, expected a folder")
  try:
    details = measure(args.folder, args.repeats)
  except jax.errors.JaxRuntimeError as error:
    sys.exit(f"{args.folder}: {str(error).splitlines()[0]}")
  for name, value in details.items():
    if isinstance(value, dict):
      value = "{median:.4g}  ({least:.4g} to {most:.4g})".format(**value)
    elif isinstance(value, float):
      value = f"{value:.4g}"
    print(f"{name:40} {value}")
  if args.json:
    aside = f"{args.json}.{uuid.uuid4().hex[:8]}.tmp"  # another may write it
    with open(aside, "w") as file:
      json.dump(details, file, indent=1)
    os.replace(aside, args.json)


if __name__ == "__main__":
  main()
