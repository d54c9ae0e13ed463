"""The script as its users call it, on datasets made here."""
import csv
import json
import os
import shutil

import tensorflow as tf

SCRIPT = "scripts/check_records.py"


def count_of(folder, name="spoken_digits-*"):
  """Records of shards, as the build has noted."""
  return sum(len(json.loads(path.read_text())["offsets"])
             for path in folder.glob(f"{name}.index.json"))


def test_a_dataset_that_is_built_is_good_until_it_is_not(
    tmp_path, digits_dir, media, python):
  """Found, mended as it says, and good again."""
  data = shutil.copytree(digits_dir, tmp_path / "data")
  flags = [SCRIPT, "--dataset=spoken_digits/official", f"--data_dir={data}"]
  folder = data / "spoken_digits" / "official" / "1.0.1"
  total = count_of(folder)
  good = f"spoken_digits/official: {total} records in 20 files: none bad\n"
  done = python.run(*flags)
  assert (done.returncode, done.stdout) == (0, good), done.stderr
  flipped, cut, gone, changed = (
      folder / f"spoken_digits-train.tfrecord-0000{i}-of-00016"
      for i in (1, 4, 7, 9))
  content = bytearray(flipped.read_bytes())
  content[700] ^= 1
  flipped.write_bytes(content)
  os.truncate(cut, 10)
  gone.unlink()
  raws = [raw.numpy() for raw in tf.data.TFRecordDataset(str(changed))]
  example = tf.train.Example.FromString(raws[1])
  label = example.features.feature["label"].int64_list.value
  label[0] = 12  # in as many bytes, so that all lies where it did
  raws[1] = example.SerializeToString()
  with tf.io.TFRecordWriter(str(changed)) as writer:
    for raw in raws:
      writer.write(raw)
  table = tmp_path / "bad.csv"
  done = python.run(*flags, f"--output={table}", fork=False)
  assert done.returncode == 1
  assert "Traceback" not in done.stderr and "100%" in done.stderr
  *lines, count, mend = done.stdout.splitlines()
  there = total - count_of(folder, gone.name) - count_of(folder, cut.name) + 1
  assert count == (f"spoken_digits/official: {there} records in 19 files: 3 "
                   "bad, 2 files missing, cut or changed")
  with open(table, newline="") as file:
    rows = {(row["file"], row["record"]): row for row in csv.DictReader(file)}
  assert rows.keys() == {
      (str(gone), ""), (str(cut), ""), (str(cut), "0"), (str(flipped), "0"),
      (str(changed), "1")}
  assert rows[str(changed), "1"] == {
      "file": str(changed), "record": "1", "offset": str(len(raws[0]) + 16),
      "id": example.features.feature["id"].bytes_list.value[0].decode(),
      "reason": "label is 12, expected 0 to 2"}
  row = rows[str(flipped), "0"]
  assert row["reason"] == "its CRC is not that of its content"
  assert f"{flipped}: record 0 at byte 0: {row['id']}: {row['reason']}" in lines
  first, _, before = mend.partition("; before that, delete what was written so")
  assert before == f": {changed}"
  changed.unlink()
  command = first.partition("to mend it: python ")[2].partition(",")[0]
  manual_dir, _ = media.write_sources(tmp_path / "manual")
  python.run(*command.split(), f"--manual_dir={manual_dir}").check_returncode()
  done = python.run(*flags)
  assert (done.returncode, done.stdout) == (0, good)


def test_what_cannot_be_checked_is_told_in_a_line(python):
  for flags, line in (
      ([], "--dataset is missing"),
      (["--dataset=none", "--data_dir=/nowhere"],
       "none: no finished data set in /nowhere/none")):
    done = python.run(SCRIPT, *flags)
    assert done.returncode == 1 and line in done.stderr
    assert "Traceback" not in done.stderr


def test_how_a_dataset_of_tfds_is_mended(tmp_path, python):
  directory = tmp_path / "mine" / "1.0.0"
  directory.mkdir(parents=True)
  (directory / "features.json").write_text(
      '{"featuresDict": {"features": {"image": {"image": {}}}}}')
  (directory / "dataset_info.json").write_text("{}")
  with tf.io.TFRecordWriter(
      str(directory / "mine-train.tfrecord-00000-of-00001")) as writer:
    writer.write(b"junk")
  done = python.run(SCRIPT, "--dataset=tfds:mine:1.0.0?image=image",
                    f"--data_dir={tmp_path}")
  assert done.returncode == 1, done.stderr
  assert f"{directory}/mine-train.tfrecord-00000-of-00001: record 0 at " in (
      done.stdout)
  assert done.stdout.splitlines()[-1] == (
      f"to mend it: tfds build mine --overwrite --data_dir={tmp_path}")
