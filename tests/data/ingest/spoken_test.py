"""Captions of HowTo100M's files, against Python's csv and json."""
import collections
import csv
import json
import re

import pytest

from vatt.data.ingest import spoken


def read(tmp_path, text):
  path = tmp_path / "x.csv"
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return spoken.of_csv(str(path))


def test_official_files_row_by_row(test_data):
  paths = sorted((test_data / "official/howto100m").glob("*.csv"))
  counts = []
  for path in paths:
    with open(path, newline="") as file:
      rows = [(row["text"], float(row["start"]), float(row["end"]))
              for row in csv.DictReader(file)]
    for found in (spoken.of_csv(str(path)), spoken.of_json(json.loads(
        json.dumps({"text": [t for t, _, _ in rows],
                    "start": [s for _, s, _ in rows],
                    "end": [e for _, _, e in rows]})), "")):
      assert found.cues == rows and not found.wrong
      assert +found.counts == +collections.Counter({spoken.OVERLAPS: sum(
          a[2] > b[1] for a, b in zip(rows, rows[1:]))})
    counts.append(len(rows))
  assert counts == [20, 49, 84, 102, 62]


ROWS = (  # start, end, text
    (5, 7, "second"), (1, 4.5, "first"), (2, 3, "within"), (-1, 2, "too early"),
    (4, 3, "backwards"), (8, 9, "  "), (8, 8, "in no time"),
    (9, 10, "cafe\u0301\n au  lait"), (11, 12, None))
CUES = [("first", 1, 4.5), ("within", 2, 3), ("second", 5, 7),
        ("in no time", 8, 8), ("caf\u00e9 au lait", 9, 10)]


def test_what_is_odd_is_counted(tmp_path):
  with open(tmp_path / "y.csv", "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerows([("start", "end", "text"), *ROWS])
  lists = dict(zip(("start", "end", "text"), map(list, zip(*ROWS))))
  lists["text"][-1] = float("nan")  # so pandas writes an empty cell
  for found in (spoken.of_csv(str(tmp_path / "y.csv")),
                spoken.of_json(json.loads(json.dumps(lists)), "v")):
    assert found.cues == CUES and not found.wrong
    # "second" is before "first"; "within" ends before "first" does.
    assert +found.counts == {
        "out of order": 1, "overlapping": 1, "without text": 2,
        "with impossible times": 2}
  assert spoken.of_csv(str(tmp_path / "y.csv")).digest == found.digest
  changed = found._replace(cues=[*CUES[:-1], ("x", 9, 10)])
  assert changed.digest != found.digest and len(found.digest) == 16
  assert spoken.Spoken([]).digest == ""


@pytest.mark.parametrize("text, cues, wrong", [
    ("", 0, ""), ("start,end,text\n", 0, ""),
    (b"\xef\xbb\xbfStart,End,Text\r\n1,2,a\r\n", 1, ""),
    (",start,end,text\n0,1,2,a\n1,2,3,b\n", 2, ""),  # a table with its index
    ("text,end,start\na,2,1\n", 1, ""),
    ('start,end,text\n1,2,"a, b"\n3,4,c\n', 2, ""),
    ("start,end,text\n1,2,a, b\n3,4,c\n", 1, "x.csv: row 2: 4 cells"),
    ("start,end,text\nsoon,2,a\n3,nan,b\n3,4,c\n", 1, "x.csv: row 2: .'soon'"),
    ('start,end,text\n1,2,a\n2,3,"b\n3,4,c\n', 1, "x.csv: row 3: cannot"),
    (b"start,end,text\n1,2,a\n3,4,\xe9\n", 0, "x.csv: line 3: byte 0xe9"),
    ("start,end,text\n1,2,a\ufffd\n3,4,b\n", 1, "row 2: a character"),
    ("1,2,a\n", 0, "x.csv: row 1: no column 'start' in '1,2,a', expected"),
    ("begin,end,text\n1,2,a\n", 0, "no column 'start'")])
def test_tables(tmp_path, text, cues, wrong):
  """One row of no use costs itself alone."""
  found = read(tmp_path, text)
  assert len(found.cues) == cues
  assert bool(found.wrong) == bool(wrong) == bool(found.counts[spoken.UNLIKE])
  assert re.search(wrong, found.wrong) if wrong else True
  assert "\n" not in found.wrong


@pytest.mark.parametrize("value, cues, wrong", [
    ({"start": [], "end": [], "text": []}, 0, ""),
    ({"start": [0, 1], "end": [1, 2], "text": ["a", "b"], "more": 1}, 2, ""),
    ({"start": [0, 1], "end": [1], "text": ["a", "b"]}, 0,
     "v: 2 of start, 1 of end, 2 of text, expected as many"),
    ({"start": [0], "end": [1]}, 0, "v: expected {start: "),
    ({"start": 0, "end": 1, "text": "a"}, 0, "v: expected {start: "),
    ([], 0, "v: expected {start: "), (None, 0, "v: expected {start: "),
    ({"start": [True, "1", None, [], 1e999, 10**400, 0], "end": [9] * 7,
      "text": list("abcdefg")}, 1, "v: caption 1: (True, 9, 'a'), expected"),
    ({"start": [0, 1, 2, 3, 4], "end": [5] * 5,
      "text": [7, ["a"], "\ud800", "a\0b", "c"]}, 1, "v: caption 1: (0, 5, 7)"),
])
def test_members(value, cues, wrong):
  found = spoken.of_json(value, "v")
  assert len(found.cues) == cues and found.wrong.startswith(wrong)
  assert bool(found.wrong) == bool(wrong) == bool(found.counts[spoken.UNLIKE])
