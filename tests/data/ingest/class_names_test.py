"""The numbers of classes are the official ones, whatever lists and media are
there."""
import csv

import pytest

from vatt.data import datasets
from vatt.data.ingest import annotations, class_names
from vatt.errors import UserError

HEADER = "label,youtube_id,time_start,time_end,split\n"


def classes_of(dataset, folder, files, path=""):
  folder.mkdir(exist_ok=True)
  for name, text in files.items():
    (folder / name).write_text(text)
  return annotations.read(
      dataset, datasets.find(dataset).FORMAT, str(folder / path)).classes


@pytest.mark.parametrize("dataset, files, numbers", [
    ("kinetics400", {"val.csv": f"{HEADER}zumba,a,0,10,val"},
     {"abseiling": 0, "air drumming": 1, "zumba": 399}),
    ("kinetics600", {"val.csv": f"{HEADER}zumba,a,0,10,val"},
     {"abseiling": 0, "acting in play": 1, "zumba": 599}),
    ("kinetics700", {"val.csv": f"{HEADER}zumba,a,0,10,val"},
     {"abseiling": 0, "arresting": 13, "zumba": 699}),
    ("hmdb51", {"wave_test_split2.txt": "a.avi 1"},
     {"brush_hair": 0, "cartwheel": 1, "wave": 50}),
    ("esc50", {"esc50.csv": "filename,fold,category\na.wav,1,hand_saw"},
     {"dog": 0, "rooster": 1, "hand_saw": 49}),
])
def test_of_shipped_names(tmp_path, dataset, files, numbers):
  found = classes_of(dataset, tmp_path / "lists", files)
  assert len(set(found)) == len(found) == max(numbers.values()) + 1
  assert {name: found.index(name) for name in numbers} == numbers


@pytest.mark.parametrize("dataset", ["kinetics400", "kinetics600",
                                     "kinetics700"])
def test_are_those_of_kinetics(tmp_path, test_data, dataset):
  path = test_data / f"official/{dataset}/classes.txt"
  if not path.exists():
    pytest.skip("VATT_TEST_DATA has no official lists")
  assert list(classes_of(dataset, tmp_path, {"val.csv": HEADER})) == (
      path.read_text().splitlines())


LISTS = {"trainlist01.txt": "YoYo/v_YoYo_g02_c01.avi 2\n"
                            "HandStandPushups/v_HandStandPushups_g02_c01.avi 1",
         "testlist01.txt": "YoYo/v_YoYo_g01_c01.avi"}


def test_of_ucf101(tmp_path):
  """By classInd.txt, or the numbers in the lists, or names in order."""
  def found(**files):
    return tuple(classes_of("ucf101", tmp_path, files, "testlist01.txt"))

  capitals = {"testlist01.txt": "JumpingJack/a.avi\nJumpRope/b.avi\nAir/c.avi"}
  assert found(**capitals) == ("Air", "JumpingJack", "JumpRope")
  assert found(**LISTS) == ("HandstandPushups", "YoYo")
  # The list that is asked for has neither numbers nor the first class.
  index = {"classInd.txt": "2 HandstandPushups\n1 Archery\n\n3 YOYO\n"}
  lists = {name: text.replace(" 2", " 3").replace(" 1", " 2")
           for name, text in LISTS.items()}
  assert found(**lists, **index) == ("Archery", "HandstandPushups", "YOYO")
  listing = annotations.read(
      "ucf101", datasets.find("ucf101").FORMAT, str(tmp_path))
  assert {(clip.file, clip.labels) for clip in listing.clips} == {
      ("HandStandPushups/v_HandStandPushups_g02_c01", ("HandstandPushups",)),
      ("YoYo/v_YoYo_g01_c01", ("YOYO",)), ("YoYo/v_YoYo_g02_c01", ("YOYO",))}


@pytest.mark.parametrize("files, expected", [
    ({"trainlist02.txt": "YoYo/v_YoYo_g01_c01.avi 1"}, "trainlist02.txt: row 1"
     ": 'YoYo 1', expected one class of a number, and one number of a class"),
    ({"trainlist02.txt": "\nAir/a.avi 2"}, "row 2: 'Air 2', expected one "),
    ({"testlist02.txt": "Air/a.avi"}, "lists: no list has the number of Air, "
     "expected classInd.txt, or a number of each class"),
    ({"trainlist02.txt": "Air/a.avi 4"}, "lists without classInd.txt: no class "
     "has the number 3, expected all from 1"),
    ({"classInd.txt": "1 HandstandPushups\n2 Air"}, "row 1: 'YoYo', expected "
     "a class of .*classInd.txt and its number"),
    ({"classInd.txt": "1 HandstandPushups\n3 YoYo\n2 Air"}, "trainlist01.txt: "
     "row 1: 'YoYo 2', expected a class of .*classInd.txt and its number"),
    ({"classInd.txt": "1 HandstandPushups\n2 YoYo\n4 Air"},
     "classInd.txt: no class has the number 3, expected all from 1"),
    ({"classInd.txt": "1 HandstandPushups\n1 YoYo"},
     "row 2: 1 is in row 1 too, expected each class once"),
    ({"classInd.txt": "1 YoYo\n2 YoYo"},
     "row 2: 'YoYo' is in row 1 too, expected each class once"),
    ({"classInd.txt": "YoYo 1"}, "row 1: 'YoYo' and '1', expected the number"),
    ({"classInd.txt": ""}, "no class has the number 1, expected all from 1"),
])
def test_that_contradict_each_other(tmp_path, files, expected):
  with pytest.raises(UserError, match=expected):
    classes_of("ucf101", tmp_path / "lists", LISTS | files)


def test_of_moments_are_in_no_order_of_names(tmp_path):
  assert classes_of("moments", tmp_path, {
      "validationSet.csv": "run/a.mp4,run,3,0",
      "moments_categories.txt": "run,2\nwalk, not run,0\n eat , 1"}) == (
          "walk, not run", "eat", "run")


@pytest.mark.parametrize("row, expected", [
    ("1,/m/3,Dog", "row 4: 1 is in row 3 too"),
    ("2,/m/2,Cow", "row 4: '/m/2' is in row 3 too"),
    ("2,/m/3,Cat", "row 4: 'Cat' is in row 3 too"),
    ("3,/m/3,Dog", "no class has the number 2, expected all from 0"),
    ("two,/m/3,Dog", "row 4: 'two' and '/m/3', expected the number"),
])
def test_of_audioset_that_are_refused(tmp_path, row, expected):
  with pytest.raises(UserError, match=expected):
    classes_of("audioset", tmp_path, {
        "eval_segments.csv": "a, 0, 10, /m/1", "class_labels_indices.csv":
        f"index,mid,display_name\n0,/m/1,Emu\n1,/m/2,Cat\n{row}"})


def test_of_lists_in_one_folder(tmp_path, test_data):
  """A list of Kinetics with a whole one of another, by names that tell nothing.
  """
  for mine, other in (400, 600), (600, 400), (700, 400), (700, 600):
    source = test_data / f"official/kinetics{other}/kinetics-{other}_val.csv"
    if not source.exists():
      pytest.skip("VATT_TEST_DATA has no official lists")
    (tmp_path / "val2.csv").write_bytes(source.read_bytes())
    names = set(class_names.shipped(datasets.__file__, f"kinetics{mine}"))
    with open(source, newline="") as file:
      row, label = next(
          (i, cells["label"]) for i, cells in enumerate(csv.DictReader(file), 2)
          if cells["label"] not in names)
    with pytest.raises(UserError) as error:
      classes_of(f"kinetics{mine}", tmp_path, {
          "val1.csv": f"{HEADER}zumba,a,0,10,val"})
    assert str(error.value) == (
        f"{tmp_path}/val2.csv: row {row}: {label!r}, expected a class of "
        f"Kinetics-{mine}; these are of Kinetics-{other}; --dataset=kinetics"
        f"{mine} takes the lists of Kinetics-{mine} alone: give one file, or a "
        "folder without those of others")


def test_are_found_however_they_are_spelled():
  names = class_names.ClassNames(["massaging person's head", "a-b", "a b", "C"])
  for label in "massaging_persons_head", "Massaging Person's Head", (
      "massagingpersonshead"):
    assert names.find(label) == names[0]
  assert (names.find("a-b"), names.find("a b"), names.find("ab")) == (
      "a-b", "a b", None)
  assert names.find("c") == "C" and names.find("") is None
