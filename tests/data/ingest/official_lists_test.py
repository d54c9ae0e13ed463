"""All rows of the official lists of VATT_TEST_DATA, against what Python's csv
and json say of them."""
import collections
import csv
import json

import pytest

from vatt.data import datasets
from vatt.data.ingest import annotations


@pytest.fixture
def official(test_data):
  folder = test_data / "official"
  if not folder.exists():
    pytest.skip("VATT_TEST_DATA has no official lists")
  return folder


def read(dataset, folder):
  return annotations.read(
      dataset, datasets.find(dataset).FORMAT, str(folder / dataset))


def rows_of(path):
  with open(path, newline="", encoding="utf-8") as file:
    return list(csv.DictReader(file))


def said(listing, *fields):
  return [tuple(getattr(clip, field) for field in fields)
          for clip in listing.clips]


def test_esc50(official, capsys):
  rows = rows_of(official / "esc50/esc50.csv")
  listing = read("esc50", official)
  assert len(rows) == len(listing.clips) == 2000
  assert said(listing, "file", "labels") == [
      (row["filename"].removesuffix(".wav"), (row["category"],))
      for row in rows]
  assert [listing.classes.index(*clip.labels) for clip in listing.clips] == [
      int(row["target"]) for row in rows]
  for fold in range(1, 6):
    where = [row["fold"] == str(fold) for row in rows]
    assert [f"test{fold}" in clip.splits for clip in listing.clips] == where
    assert [f"train{fold}" in clip.splits for clip in listing.clips] == [
        not each for each in where]
  assert not capsys.readouterr().out  # neither twice nor on both sides


def test_ucf101(official, tmp_path):
  listing = read("ucf101", official)
  numbers, count = {}, collections.Counter()
  expected = []
  for split in "test", "train":
    path = official / f"ucf101/{split}list01.txt"
    for line in path.read_text().splitlines():
      file, number = line.split()
      folder, name = file.split("/")
      label = folder.replace("HandStand", "Handstand")  # as in classInd.txt
      numbers[int(number)] = label
      count[split] += 1
      expected.append((f"{folder}/{name.removesuffix('.avi')}",
                       (f"{split}1",), (label,)))
  assert count == {"train": 9537, "test": 3783}
  assert said(listing, "file", "splits", "labels") == expected
  assert listing.classes == tuple(numbers[i] for i in range(1, 102))
  # Without the numbers, the order of the names.
  for name in "trainlist01.txt", "testlist01.txt":
    (tmp_path / "ucf101").mkdir(exist_ok=True)
    (tmp_path / "ucf101" / name).write_text("".join(
        f"{line.split()[0]}\n" for line in (
            official / "ucf101" / name).read_text().splitlines()))
  assert read("ucf101", tmp_path) == listing


def test_msrvtt(official):
  rows = rows_of(official / "msrvtt/MSRVTT_JSFUSION_test.csv")
  listing = read("msrvtt", official)
  assert len(rows) == 1000 and listing.classes == ()
  assert said(listing, "file", "splits", "captions", "start", "end") == [
      (row["video_id"], ("test",), (row["sentence"].strip(),), None, None)
      for row in rows]


@pytest.mark.parametrize("size, count", [(400, 19906), (600, 30000)])
def test_kinetics(official, size, count):
  rows = rows_of(official / f"kinetics{size}/kinetics-{size}_val.csv")
  listing = read(f"kinetics{size}", official)
  assert len(rows) == count
  assert said(listing, "file", "start", "end", "labels", "splits") == [
      (row["youtube_id"], float(row["time_start"]), float(row["time_end"]),
       (row["label"],), ("validation",)) for row in rows]
  assert listing.classes == tuple(sorted({row["label"] for row in rows}))


def test_audioset(official):
  names = {row["mid"]: row["display_name"] for row in rows_of(
      official / "audioset/class_labels_indices.csv")}
  with open(official / "audioset/eval_segments.csv", newline="") as file:
    rows = list(csv.reader(file, skipinitialspace=True))[3:]
  listing = read("audioset", official)
  assert len(rows) == 20371
  assert said(listing, "file", "start", "end", "labels", "splits") == [
      (video, float(start), float(end),
       tuple(names[mid] for mid in mids.split(",")), ("test",))
      for video, start, end, mids in rows]
  assert listing.classes == tuple(names.values()) and len(names) == 527
  assert sum(len(clip.labels) for clip in listing.clips) == 51804  # its header


def test_youcook2(official, capsys):
  """Of one segment there are two sentences."""
  path = official / "youcook2/youcookii_annotations_trainval.json"
  expected, rows = {}, 0
  for video, facts in json.loads(path.read_text())["database"].items():
    for part in facts["annotations"]:
      rows += 1
      split = {"training": "train", "validation": "validation"}[facts["subset"]]
      expected.setdefault((video, *part["segment"], (split,)), []).append(
          part["sentence"].strip())
  listing = read("youcook2", official)
  assert said(listing, "file", "start", "end", "splits", "captions") == [
      (*clip, tuple(captions)) for clip, captions in expected.items()]
  assert rows == 13829 and len(expected) == 13828
  assert capsys.readouterr().out == (
      f"{official}/youcook2: clips listed again: 1, 1 of them with another "
      "label or caption, which they have too\n")
