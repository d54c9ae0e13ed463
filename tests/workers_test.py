"""Two real processes that train together: they meet, agree, leave together."""
import json
import pathlib
import random
import re
import signal
import socket
import threading
import time

import numpy as np
import pytest

from vatt import rendezvous
from vatt.errors import Temporary, UserError

LOST = "another worker was lost"


def free_addresses(count):
  """Addresses here that nobody listens at. Not of those that the system hands
  out, which another program may get in between."""
  addresses = []
  while len(addresses) < count:
    port = random.SystemRandom().randrange(10_000, 32_000)
    with socket.socket() as one:
      try:
        one.bind(("", port))
      except OSError:
        continue
    addresses.append(f"localhost:{port}")
  return addresses


def tf_config(addresses, index):
  return json.dumps({"cluster": {"worker": addresses},
                     "task": {"type": "worker", "index": index}})


@pytest.fixture
def start(run_main):
  """A function (workdir, *flags, others=()) -> two workers, of which the second
  also has the flags `others`; a path for a workdir of its own."""
  running = []

  def start(workdir, *flags, others=(), apart=None):
    addresses = free_addresses(2)
    for index, more in enumerate(((), others)):
      running.append(run_main(
          apart or workdir if index else workdir,
          "--config.strategy.name=multi_worker", *flags, *more, wait=False,
          TF_CONFIG=tf_config(addresses, index)))
    return running[-2:]

  yield start
  for worker in running:
    worker.kill()


def ends(workers, timeout=300):
  """Exit codes and outputs."""
  outputs = [worker.communicate(timeout)[0] for worker in workers]
  return [worker.returncode for worker in workers], outputs


def weights(output):
  return re.search(r"weights have SHA-256 (\w{64})", output)[1]


def rows(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


# -----------------------------------------------------------------------------
# They meet.
# -----------------------------------------------------------------------------
def test_all_go_on_when_the_last_has_come():
  addresses, done = free_addresses(3), []

  def come(index):
    rendezvous.meet(addresses, index, 1.0)
    done.append(index)

  threads = [threading.Thread(target=come, args=(i,)) for i in (2, 0, 1)]
  threads[0].start()
  threads[1].start()
  time.sleep(0.6)
  assert not done
  threads[2].start()
  for thread in threads:
    thread.join()
  assert sorted(done) == [0, 1, 2]
  # The port is free for TensorFlow.
  with socket.socket() as one:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("", int(addresses[0].split(":")[1])))


def test_what_answers_may_be_no_worker(caplog):
  """Such as TensorFlow's server of an older run: not to be taken for one."""
  addresses = free_addresses(2)
  with socket.socket() as server:
    server.bind(("", int(addresses[0].split(":")[1])))
    server.listen()

    def answer():
      for _ in range(2):
        server.accept()[0].sendall(b"PRI * HTTP/2.0\n\x00\x00\n")

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(Temporary, match=f"worker 0 of 2 at {addresses[0]} did"):
      rendezvous.meet(addresses, 1, 0.02)
    thread.join()
    with pytest.raises(Temporary, match=r"port \d+ of worker 0 cannot be had"):
      rendezvous.meet(addresses, 0, 0.02)
  assert f"waiting for worker 0 of 2 at {addresses[0]}" in caplog.text


def test_a_worker_that_goes_before_the_last_came_is_waited_for_again(caplog):
  addresses = free_addresses(3)
  leader = threading.Thread(
      target=lambda: rendezvous.meet(addresses, 0, 1.0), daemon=True)
  leader.start()
  place = ("localhost", int(addresses[0].split(":")[1]))
  time.sleep(0.3)
  with socket.create_connection(place) as gone:
    gone.sendall(b"vatt " + json.dumps(
        {"index": 1, "addresses": addresses}).encode() + b"\n")
    time.sleep(0.6)
  last = threading.Thread(
      target=lambda: rendezvous.meet(addresses, 2, 1.0), daemon=True)
  last.start()
  time.sleep(0.8)
  assert leader.is_alive() and last.is_alive()
  rendezvous.meet(addresses, 1, 1.0)
  leader.join(10)
  last.join(10)
  assert not leader.is_alive() and not last.is_alive()


@pytest.mark.parametrize("address", ["a", ":1", "a:x", "a:70000", 3])
def test_address_that_is_none(address):
  with pytest.raises(UserError, match="a worker is at .*expected host:port"):
    rendezvous.meet(["b:1", address], 0, 1.0)


@pytest.mark.parametrize("index, others", [(1, 2), (2, 3)])
def test_workers_of_other_clusters_are_told_apart(index, others):
  """Two of one index; and one that knows of one worker more."""
  addresses, errors = free_addresses(3), {}

  def come(number, name, known):
    try:
      rendezvous.meet(known, number, 1.0)
    except UserError as error:
      errors[name] = str(error)

  threads = [
      threading.Thread(target=come, args=(0, "chief", addresses)),
      threading.Thread(target=come, args=(1, "first", addresses)),
      threading.Thread(target=come, args=(
          index, "other", [*addresses, "x:1"][:others + 1]))]
  for thread in threads:
    thread.start()
    time.sleep(0.5)  # The first two know each other when the other comes.
  for thread in threads:
    thread.join(20)
  said = ("two say that they are worker 1" if others == 2
          else "worker 2 has the workers")
  assert sorted(errors) == ["chief", "first", "other"]
  assert all(said in error for error in errors.values()), errors


def test_one_that_stays_alone_says_so_and_gives_up(run_main, tmp_path):
  addresses = free_addresses(2)
  code, output = run_main(
      tmp_path / "run", "--config.strategy.name=multi_worker",
      "--config.strategy.wait_minutes=0.02", TF_CONFIG=tf_config(addresses, 1))
  assert code == 75
  assert f"waiting for worker 0 of 2 at {addresses[0]} ..." in output
  assert output.splitlines()[-1].startswith(
      f"error: worker 0 of 2 at {addresses[0]} did not come within "
      "strategy.wait_minutes 0.02")
  assert not (tmp_path / "run").exists()


def test_sigterm_ends_one_that_waits(run_main, tmp_path):
  worker = run_main(
      tmp_path / "run", "--config.strategy.name=multi_worker", wait=False,
      TF_CONFIG=tf_config(free_addresses(2), 0))
  output = ""
  while "waiting for worker 1 of 2" not in output:
    assert worker.poll() is None
    output += worker.stdout.read()
    time.sleep(0.05)
  worker.terminate()
  (code,), (output,) = ends([worker])
  assert code == 128 + signal.SIGTERM and "with nothing to save" in output


# -----------------------------------------------------------------------------
# They train as one process does.
# -----------------------------------------------------------------------------
def test_two_workers_train_as_one_process(run_main, start, tmp_path):
  """Everything random on."""
  flags = ("--config.total_steps=4", "--config.steps_per_loop=1",
           "--config.log_every=1", "--config.checkpoint_every=4",
           "--config.optimizer.warmup_steps=2", "--config.eval_every=4")
  codes, outputs = ends(start(tmp_path / "two", *flags))
  assert codes == [0, 0], outputs
  assert weights(outputs[0]) == weights(outputs[1])
  code, output = run_main(tmp_path / "one", "--mode=train", *flags)
  assert code == 0, output
  two, one = rows(tmp_path / "two"), rows(tmp_path / "one")
  assert [row["step"] for row in two] == [1, 2, 3, 4, 4]  # the chief's alone
  assert [row["step"] for row in one] == [1, 2, 3, 4]
  for a, b in zip(two[:2], one[:2]):
    np.testing.assert_allclose(a["train/loss"], b["train/loss"], rtol=1e-6)
  for a, b in zip(two[2:4], one[2:4]):  # rounding grows, step by step
    np.testing.assert_allclose(a["train/loss"], b["train/loss"], rtol=1e-4)
  assert sum(name.startswith("eval/") for name in two[4]) > 8
  names = [path.name for path in (tmp_path / "two/checkpoints").iterdir()]
  assert "ckpt-4.manifest.json" in names
  assert not [name for name in names if "temp" in name]


@pytest.mark.slow
def test_two_workers_measure_as_one_process(run_main, start, tmp_path):
  """Views of a clip lie in batches of both."""
  code, output = run_main(tmp_path / "run", "--mode=train")
  assert code == 0, output
  flags = ("--mode=eval", "--config.eval.windows=3")
  code, one = run_main(tmp_path / "run", *flags)
  assert code == 0, one
  codes, outputs = ends(start(tmp_path / "run", *flags))
  assert codes == [0, 0], outputs
  assert one.splitlines()[-1] == outputs[0].splitlines()[-1]
  assert one.splitlines()[-1].count("R@1") > 4
  assert "R@1" not in outputs[1]  # the chief's alone


# -----------------------------------------------------------------------------
# They agree.
# -----------------------------------------------------------------------------
DIFFERENCES = {
    "config.optimizer.lr": "--config.optimizer.lr=0.5",
    "config.seed": "--config.seed=7",
    "config.loss.temperature": "--config.loss.temperature=0.1",
    "config.log_every": "--config.log_every=10",
    "mode": "--mode=train",
}


def refuse(workers, field):
  codes, outputs = ends(workers)
  assert codes == [1, 1], outputs
  for output in outputs:
    line = output.splitlines()[-1]
    assert line.startswith(f"error: workers differ: {field} is "), output
    assert "for worker 0 and" in line and "Traceback" not in output


@pytest.mark.parametrize("field", [
    "config.optimizer.lr", *(pytest.param(f, marks=pytest.mark.slow)
                             for f in DIFFERENCES if "lr" not in f)])
def test_workers_that_differ_do_not_start(start, tmp_path, field):
  refuse(start(tmp_path / "run", others=[DIFFERENCES[field]]), field)
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_workers_with_other_data_do_not_start(start, tmp_path):
  data_dir = pathlib.Path(__file__).parent / "fixtures" / "data"
  refuse(start(tmp_path / "run", others=[f"--config.data.data_dir={data_dir}"]),
         "the records of spoken_digits/official, split 'train'")


@pytest.mark.slow
def test_workers_without_data_say_which_and_end(start, tmp_path):
  codes, outputs = ends(start(
      tmp_path / "run", others=[f"--config.data.data_dir={tmp_path}"]))
  assert codes == [1, 1], outputs
  said = "spoken_digits/official: no finished data set in"
  assert outputs[0].splitlines()[-1].startswith(f"error: worker 1: {said}")
  assert outputs[1].splitlines()[-1].startswith(f"error: {said}")


# -----------------------------------------------------------------------------
# They leave together, and go on.
# -----------------------------------------------------------------------------
LONG = ("--config.total_steps=200", "--config.steps_per_loop=1",
        "--config.checkpoint_every=20", "--config.log_every=20",
        "--config.eval_every=100")


@pytest.fixture(scope="module")
def undisturbed(run_main, tmp_path_factory):
  """The weights of two workers that nobody disturbs."""
  addresses = free_addresses(2)
  folder = tmp_path_factory.mktemp("workers") / "run"
  workers = [run_main(folder, "--config.strategy.name=multi_worker", *LONG,
                      wait=False, TF_CONFIG=tf_config(addresses, index))
             for index in range(2)]
  codes, outputs = ends(workers)
  assert codes == [0, 0], outputs
  return weights(outputs[0])


def wait_for(workers, there):
  while not there():
    assert all(worker.poll() is None for worker in workers), [
        worker.stdout.read() for worker in workers]
    time.sleep(0.01)


def saved(workdir):
  """The newest step that is saved, 0 for none."""
  folder = workdir / "checkpoints"
  return max((int(path.name.split(".")[0].split("-")[1])
              for path in folder.glob("ckpt-*.manifest.json")), default=0)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_loss_of_one_ends_the_other_and_both_go_on(
    start, undisturbed, tmp_path, victim):
  workdir = tmp_path / "run"
  workers = start(workdir, *LONG)
  wait_for(workers, lambda: saved(workdir) >= 40)
  workers[victim].kill()
  codes, outputs = ends(workers, timeout=60)
  assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 75
  assert LOST in outputs[1 - victim].splitlines()[-1]
  codes, outputs = ends(start(workdir, *LONG))
  assert codes == [0, 0], outputs
  assert weights(outputs[0]) == weights(outputs[1]) == undisturbed
  assert [row["step"] for row in rows(workdir) if "train/loss" in row] == [
      *range(20, 201, 20)]


@pytest.mark.slow
@pytest.mark.parametrize("told", [(0,), (1,), (0, 1)])
def test_sigterm_to_one_stops_all_after_the_same_step(
    start, undisturbed, tmp_path, told):
  workdir = tmp_path / "run"
  workers = start(workdir, *LONG)
  wait_for(workers, lambda: saved(workdir) >= 40)
  for number in told:
    workers[number].terminate()
  codes, outputs = ends(workers, timeout=60)
  assert codes == [143, 143], outputs
  step = int(re.search(r"saved step (\d+)", outputs[0])[1])
  assert step == saved(workdir)
  assert f"stopped by a signal, at step {step}" in outputs[1]
  assert "saved" not in outputs[1]
  codes, outputs = ends(start(workdir, *LONG))
  assert codes == [0, 0], outputs
  assert weights(outputs[0]) == weights(outputs[1]) == undisturbed


@pytest.mark.slow
def test_a_workdir_that_is_not_shared_is_refused(run_main, start, tmp_path):
  code, output = run_main(tmp_path / "run", "--mode=train")
  assert code == 0, output
  refuse(start(tmp_path / "run", apart=tmp_path / "other"),
         "the step to start from")
