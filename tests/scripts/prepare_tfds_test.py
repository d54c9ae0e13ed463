"""What tensorflow-datasets builds, by the script."""
import io
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from vatt.data import sources

SYNSETS = ("n01440764", "n01443537", "n15075141")  # the classes 0, 1 and 999
# Of the first six of ILSVRC2012's validation, from the list in tfds.
VALIDATION = [65, 970, 230, 809, 516, 57]


def add(archive, name, data):
  entry = tarfile.TarInfo(name)
  entry.size = len(data)
  archive.addfile(entry, io.BytesIO(data))


@pytest.fixture
def tars(tmp_path):
  """A folder of ILSVRC2012's archives, with two pictures of three classes and
  six for validation."""
  folder = tmp_path / "tars"
  folder.mkdir()
  pictures = [tf.io.encode_jpeg(np.full([8, 8, 3], 40 * i, np.uint8)).numpy()
              for i in range(6)]
  with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as train:
    for synset in SYNSETS:
      inner = io.BytesIO()
      with tarfile.open(fileobj=inner, mode="w") as archive:
        for i in range(2):
          add(archive, f"{synset}_{i}.JPEG", pictures[i])
      add(train, f"{synset}.tar", inner.getvalue())
  with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as validation:
    for i, picture in enumerate(pictures, 1):
      add(validation, f"ILSVRC2012_val_{i:08}.JPEG", picture)
  return folder


def prepare(python, tmp_path, *flags):
  return python.run("scripts/prepare_dataset.py", *flags,
                    f"--data_dir={tmp_path}/data")


def test_imagenet_from_its_archives(tars, tmp_path, python):
  done = prepare(python, tmp_path, "--dataset=tfds:imagenet2012",
                 f"--manual_dir={tars}")
  assert done.returncode == 0, done.stderr
  for split, labels in ("train", [0, 0, 1, 1, 999, 999]), (
      "validation", sorted(VALIDATION)):
    source = sources.open_source(
        "tfds:imagenet2012", f"{tmp_path}/data", split)
    assert sorted(sources.read_labels(source)) == [[i] for i in labels]
    assert len(source.label_names) == 1000
    assert source.label_names[0] == "n01440764"


@pytest.mark.parametrize("flags,message", [
    (["--dataset=tfds:imagenet2012"],
     "--manual_dir is missing: manual_dir should contain two files: ILSVRC"),
    (["--dataset=tfds:imagenet2012", "--manual_dir=/nowhere"],
     "--dataset: tensorflow-datasets cannot build imagenet2012: Manual direct"),
    (["--dataset=tfds:no_such"], "cannot build no_such: Dataset no_such not "),
    (["--dataset=tfds:mnist", "--repair"],
     "tfds:mnist is built by tensorflow-datasets, expected none of"),
    (["--dataset=tfds:mnist", "--notrimmed"], "none of --annotations, --tr")])
def test_what_goes_wrong_is_told_in_a_line(tmp_path, python, flags, message):
  done = prepare(python, tmp_path, *flags)
  assert done.returncode == 1 and "Traceback" not in done.stderr
  line = done.stderr.splitlines()[-1]
  assert line.startswith("error: --") and message in line
