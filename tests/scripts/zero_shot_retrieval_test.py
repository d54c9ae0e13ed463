"""The script on a workdir of the real program."""
import json

import numpy as np
import pytest

from configs import retrieval


@pytest.fixture(scope="module")
def workdir(run_main, tmp_path_factory):
  folder = tmp_path_factory.mktemp("workdir")
  code, output = run_main(
      folder, *(f"--config.{field}=5" for field in (
          "total_steps", "eval_every", "log_every", "checkpoint_every")))
  assert code == 0, output
  return folder


def run(python, *flags, fork=True):
  return python.run("scripts/zero_shot_retrieval.py", *flags, fork=fork)


@pytest.fixture(scope="module")
def pool(workdir, python, tmp_path_factory):
  """What --export writes, and the run that did so."""
  folder = tmp_path_factory.mktemp("exported") / "pool[0.1] *#%é?"
  return folder, run(python, f"--workdir={workdir}", f"--export={folder}",
                     fork=False)


def table_of(result):
  """The measures that a run of the script prints, by row."""
  assert result.returncode == 0, result.stderr
  _, columns, *rows = result.stdout.splitlines()
  return {row[:16].strip(): dict(zip(columns.split(), row[16:].split()))
          for row in rows}


def test_table_has_the_measures_of_the_run(workdir, pool):
  result = pool[1]
  table = table_of(result)
  assert "step 5, 30 clips of spoken_digits/official test" in result.stdout
  rows = [json.loads(line) for line in
          (workdir / "metrics.jsonl").read_text().splitlines()]
  measures = {name: value for row in rows for name, value in row.items()}
  for direction in ("text_to_video", "audio_to_text"):
    shown = table[direction.replace("_", " ")]
    assert shown["R@5"] == f"{measures[f'eval/{direction}/R@5']:.1%}"
    assert shown["MedR"] == f"{measures[f'eval/{direction}/MedR']:.1f}"


def test_query_ranks_clips_and_reports_unknown_words(
    workdir, python, pool):
  flags = [f"--workdir={workdir}", "--top=3",
           f"--query=somebody writes a zero with a zeppelin{' a' * 30} nine"]
  result = run(python, *flags)
  assert result.returncode == 0, result.stderr
  lines = result.stdout.splitlines()[1:]
  assert len(lines) == 3
  scores = [float(line.split()[0]) for line in lines]
  assert scores == sorted(scores, reverse=True)
  assert "not in the vocabulary: " in result.stderr
  assert "zeppelin" in result.stderr.split("not in the vocabulary: ")[1]
  assert "only the first 12 words are read, not: a, nine" in result.stderr
  # From a pool, with no dataset.
  result = run(python, *flags, f"--pool={pool[0]}",
               "--config.data.data_dir=/nowhere")
  assert result.returncode == 0, result.stderr
  assert result.stdout.splitlines()[1:] == lines


@pytest.mark.parametrize("query, expected", [
    ("", "'': has no word, expected letters or digits"),
    ("🙂 !", "'🙂 !': has no word, expected letters or digits"),
    ("zeppelin quark", "'zeppelin quark': of its words, zeppelin, quark, the "
     "vocabulary has none, expected words that the model knows")])
def test_a_query_that_is_not_understood_is_refused(
    workdir, python, pool, query, expected):
  result = run(python, f"--workdir={workdir}", f"--pool={pool[0]}",
               f"--query={query}")
  assert result.returncode == 1 and not result.stdout
  assert result.stderr.splitlines()[-1] == f"error: sentence {expected}"


def test_a_pool_takes_the_place_of_its_split(workdir, python, pool):
  folder, exported = pool
  flags = [f"--workdir={workdir}", f"--pool={folder}",
           "--config.data.data_dir=/nowhere"]
  whole = table_of(exported)
  assert "accuracy" in whole["video to text"]
  assert table_of(run(python, *flags)) == whole
  # What is measured of the embeddings is free.
  other = table_of(run(python, *flags, "--config.eval.match=pair",
                       "--config.eval.templates=()"))
  assert other["text to video"] != whole["text to video"]
  assert "accuracy" not in other["video to text"]
  vectors = np.load(folder / "video_vt.npy")
  assert vectors.dtype == np.float32 and len(vectors) == 30
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
  assert len((folder / "clips.tsv").read_text().splitlines()) == 30


def test_a_pool_of_another_protocol_is_refused(workdir, python, pool):
  result = run(python, f"--workdir={workdir}", f"--pool={pool[0]}",
               "--query=a zero", "--config.eval.windows=2",
               "--config.data.eval_split=train")
  assert result.returncode == 1
  assert result.stderr.splitlines()[-1] == (
      f"error: {pool[0]}: embedded with data.eval_split 'test', not 'train'; "
      "eval.windows 1, not 2; expected the fields that it was embedded with")


def test_a_folder_that_cannot_be_is_told_before_anything_is_embedded(
    workdir, python, tmp_path):
  (tmp_path / "file").write_text("")
  result = run(python, f"--workdir={workdir}", f"--export={tmp_path}/file/pool")
  assert result.returncode == 1 and not result.stdout
  assert result.stderr.splitlines()[-1].startswith(
      f"error: {tmp_path}/file/pool: cannot be made (")


def test_report(workdir, python):
  result = run(python, f"--workdir={workdir}", "--report", "--top=30")
  assert result.returncode == 0, result.stderr
  report = json.loads((workdir / "report/retrieval.json").read_text())
  table = result.stdout.splitlines()
  assert (workdir / "report/retrieval.txt").read_text().splitlines()[
      :8] == table[:8]
  assert len(report["clips"]) == 8
  for clip in report["clips"]:
    scores = [similarity for _, similarity, _ in clip["sentences"]]
    assert len(scores) == 30 and scores == sorted(scores, reverse=True)
    own, = (score for _, score, right in clip["sentences"] if right)
    assert clip["rank"] == sum(score >= own - 1e-6 for score in scores)
    digit = clip["id"][0]  # of {digit}_{speaker}_{take}: its word is in there
    word = {"0": "zero", "3": "three", "8": "eight"}[digit]
    assert all(word in text for text, _, right in clip["sentences"] if right)


def test_a_protocol(workdir, python):
  """Fields of the file take the place of the workdir's, and flags theirs."""
  flags = [f"--workdir={workdir}",
           "--config.data.datasets=spoken_digits/official"]
  protocol = table_of(run(
      python, flags[0], "--config=configs/retrieval.py:msrvtt", flags[1],
      "--config.eval.batch_size=4"))
  # No sound is read, which the model was trained with.
  assert set(protocol) == {"text to video", "video to text"}
  # The same by hand.
  assert protocol == table_of(run(
      python, *flags, "--config.data.fps=12.5",
      "--config.data.audio_samples=0", "--config.data.captions=1",
      "--config.eval.windows=4", "--config.eval.match=pair",
      "--config.eval.templates=()"))


def test_protocols_differ_in_their_dataset():
  ours, theirs = (retrieval.get_config(name) for name in ("msrvtt", "youcook2"))
  assert ours.data.datasets == ("msrvtt",)
  theirs.data.update(  # and in the name of its test split
      datasets=ours.data.datasets, eval_split=ours.data.eval_split)
  assert ours == theirs


@pytest.mark.parametrize("flags, expected", [
    (["--workdir=/nowhere"], "/nowhere/config.json"),
    (["--workdir=tests/fixtures/specific", "--export="],
     "--export is empty, expected a folder"),
    (["--workdir=tests/fixtures/specific", "--export=tests/fixtures/specific"],
     "--export=tests/fixtures/specific: the workdir of a model, expected"),
    ([], "--workdir is missing"),
    (["--config.eval.windos=2"], "windos"),
    (["--config.seed=0", "--report", "--query=a"], "--report and --query"),
    (["--config.data.size=32"], "data.size is 32, expected 24"),
    (["--config=configs/retrieval.py:coin"], "expected one each of msrvtt|"),
    # Nothing that could find something else, or be found.
    (["--config.data.audio_samples=0", "--config.data.captions=0"],
     "spoken_digits/official test: no clip has two of video, audio and "),
    (["--config.data.audio_samples=0", "--config.data.frames=0", "--query=a"],
     "data.frames and data.audio_samples are 0, expected some of one"),
    (["--config.strategy.name=tpu",
      "--config.data.datasets=('clips/a+audio=flac',)"],
     "tpu', whose workers cannot decode the sound of clips/a+audio=flac"),
])
def test_bad_input(workdir, python, flags, expected):
  if flags and "config" in flags[0]:
    flags = [f"--workdir={workdir}", *flags]
  result = run(python, *flags)
  assert result.returncode == 1
  assert result.stderr.splitlines()[-1].startswith("error: ")
  assert expected in result.stderr.splitlines()[-1]
