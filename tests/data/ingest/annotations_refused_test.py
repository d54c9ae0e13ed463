"""Official lists that are not in their published forms: which line says so."""
import pytest

from vatt.data import datasets
from vatt.data.ingest import annotations
from vatt.errors import UserError


def read(dataset, path):
  return annotations.read(dataset, datasets.find(dataset).FORMAT, str(path))


def write(folder, files):
  folder.mkdir(exist_ok=True)
  for name, text in files.items():
    (folder / name).write_text(text)
  return folder


def refusal(dataset, path):
  with pytest.raises(UserError) as error:
    read(dataset, path)
  assert str(path) in str(error.value) and "\n" not in str(error.value)
  return str(error.value)


HEADER = "label,youtube_id,time_start,time_end,split\n"
CLASSES = "index,mid,display_name\n0,/m/1,Dog\n1,/m/2,Cat\n"


def youcook2(facts):
  return f'{{"database": {{"v": {facts}}}}}'


def msrvtt(videos="", sentences=""):
  return f'{{"videos": [{videos}], "sentences": [{sentences}]}}'


VIDEO = '{"video_id": "video1", "split": "train"}'


@pytest.mark.parametrize("dataset, name, text, expected", [
    ("ucf101", "trainlist01.txt", "A/v_A_g01_c01.avi 1\nA/v.txt 1",
     "row 2: 'A/v.txt 1', expected Class/v_Class_g01_c01.avi"),
    ("ucf101", "list.txt", "", "no annotations of ucf101 by their names, "
     "expected trainlist01.txt"),
    ("hmdb51", "kick_test_split1.txt", "a.avi 3", "row 1: 'a.avi 3', expected "
     "name.avi and 0, 1 or 2"),
    ("hmdb51", "juggle_test_split1.txt", "a.avi 1", "'juggle' is no class of "
     "HMDB51, expected one of its 51, such as brush_hair"),
    ("esc50", "esc50.csv", "filename,fold,category\na.wav,6,dog",
     "row 2: '6', expected a fold of 1 to 5"),
    ("esc50", "esc50.csv", "filename,category\n", "no column 'fold' in "
     "'filename, category', expected filename, fold, category and of target"),
    ("esc50", "esc50.csv", "filename,fold,target,category\na.wav,1,0,dog\n"
     "b.wav,1,1,rain", "row 3: '1', expected the target 10 of rain"),
    ("esc50", "esc50.csv", "filename,fold,category\na.wav,1,guitar",
     "row 2: 'guitar', expected a category of ESC-50, such as dog"),
    ("msrvtt", "test.csv", "video_id,sentence\nvideo1,a cat, a dog",
     "row 2: 3 cells, expected 2"),
    pytest.param(
        "msrvtt", "full_test.csv", "video_id,sentence\n" + "".join(
            f"video{i},a\n" for i in range(1001)), "1001 videos in the .csv "
        "with 'test' in their names, expected at most the 1000 of 1k-A",
        id="more than 1k-A"),
    ("msrvtt", "MSRVTT_data.json", "[]", "cannot be read as JSON with {videos: "
     "[{video_id, split: train|validate|test}], sentences: [{video_id, caption"
     "}]}: is a list"),
    ("msrvtt", "MSRVTT_data.json", msrvtt(f'{VIDEO}, {{"video_id": "v2"}}'),
     "videos[1]: KeyError('split'), expected {videos: [{video_id, split: tr"),
    ("msrvtt", "MSRVTT_data.json", msrvtt(VIDEO.replace("train", "dev")),
     "videos[0]: KeyError('dev'), expected {videos: "),
    ("msrvtt", "MSRVTT_data.json", msrvtt(
        VIDEO, '{"video_id": "video1", "caption": "a"}, '
        '{"video_id": "video1", "caption": ["a"]}'),
     "sentences[1]: TypeError(\"['a'] is no text\")"),
    ("msrvtt", "MSRVTT_data.json", msrvtt(
        VIDEO, '{"video_id": "video1", "caption": "\\ud83d"}'),
     "sentences[0]: UnicodeEncodeError("),
    ("msrvtt", "MSRVTT_data.json", msrvtt(
        VIDEO, '{"video_id": "video2", "caption": "a"}'),
     "sentences[0]: KeyError('video2')"),
    ("msrvtt", "MSRVTT_data.json", '{"videos": []}', "KeyError('sentences')"),
    ("youcook2", "youcookii_trainval.json", "{}", "JSON with a 'database'"),
    ("youcook2", "youcookii_trainval.json", '{"database": []}',
     "JSON with a 'database'"),
    ("youcook2", "youcookii_trainval.json", youcook2('{"subset": "dev"}'),
     "json: video v: KeyError('dev'), expected {subset: training"),
    ("youcook2", "youcookii_trainval.json", youcook2(
        '{"subset": "training", "annotations": [{"segment": [1]}]}'),
     "video v: ValueError('not enough values"),
    ("youcook2", "youcookii_trainval.json", youcook2(
        '{"subset": "training", "annotations": [{"segment": [0, NaN], '
        '"sentence": "x"}]}'),
     "video v: ValueError('a segment from 0.0 to nan"),
    pytest.param(
        "youcook2", "youcookii_trainval.json", youcook2(
            '{"subset": "training", "annotations": [{"segment": [0, '
            f'1{"0" * 400}]}}]}}').replace('"v"', '"v\\n"'),
        r"video v\n: OverflowError", id="a large number"),
    pytest.param("youcook2", "youcookii_trainval.json", "[" * 100000,
                 "JSON with a 'database'", id="deep"),
    ("kinetics400", "train.csv", f"{HEADER},a,soon,10,train",
     "row 2, column time_start: 'soon', expected seconds"),
    ("kinetics400", "train.csv", f"{HEADER},a,0,10,dev",
     "row 2: 'dev', expected a split of train, val"),
    ("kinetics400", "all.csv", f"{HEADER},a,0,10,",
     "row 2: '', expected a split of train, val"),
    ("kinetics400", "train.csv", f"{HEADER}yoga,a,0,10,train\n,b,0,10,train",
     "row 3: '', expected a label, which test sets alone lack"),
    ("kinetics400", "train.csv", f"{HEADER},a,,10,train",
     "row 2: '', expected seconds"),
    ("kinetics400", "train.csv", f'{HEADER}"a\nb",a,0,10,train',
     r"row 2, column label: 'a\nb', expected no line break"),
    ("kinetics400", "train.csv", f"{HEADER}yoga,a,0,10,train\nsing,a,0,10,val",
     "row 3: 'sing', expected a class of Kinetics-400; --dataset=kinetics400 "
     "takes the lists of Kinetics-400 alone: give one file, or a folder"),
    # One of all three Kinetics, one of 400 and 700, one of 600 and 700.
    ("kinetics400", "a.csv", f"{HEADER}yoga,a,0,10,val\narguing,a,1,11,val",
     "row 3: 'arguing', expected a class of Kinetics-400; these are of Kinetics"
     "-600 or 700; --dataset=kinetics400 takes the lists"),
    ("kinetics600", "a.csv", f"{HEADER}baby waking up,a,0,10,val\n"
     "balloon blowing,b,0,10,val\narguing,c,1,11,val",
     "row 2: 'baby waking up', expected a class of Kinetics-600; it is of "
     "Kinetics-400 or 700; --dataset"),
    ("kinetics400", "kinetics-600_val.csv", f"{HEADER}yoga,a,0,10,val",
     "is of Kinetics-600 by its name; --dataset=kinetics400 takes"),
    ("kinetics700", "K400_val.csv", f"{HEADER}yoga,a,0,10,val",
     "is of Kinetics-400 by its name; --dataset=kinetics700 takes"),
    ("kinetics400", "train.json", '{"a": {"subset": "train", "annotations": '
     '{"label": "sing", "segment": [0, 10]}}}',
     "video a: 'sing', expected a class of Kinetics-400; --dataset=kinetics"),
    ("kinetics400", "train.json", '{"a": {}, "b": {}, "a": {}}',
     "JSON with videos by their ids: 'a' is there twice"),
    ("kinetics400", "train.json", '{"a": {"subset": "train"}}', "video a: "
     "KeyError('annotations'), expected {annotations: {label, segment: ["),
    ("kinetics400", "train.json", '{"a": {"subset": "train", "annotations": '
     '{"label": 1, "segment": [0, 10]}}}', "video a: TypeError('1 is no text"),
    ("moments", "trainingSet.csv", "a/b.mp4,a",
     "moments_categories.txt: no such file, expected the numbers of the"),
    ("audioset", "eval_segments.csv", 'x, 0.0, 10.0, "/m/9,/m/0"',
     "lists/class_labels_indices.csv: no such file, nor in the folder above, "
     "nor in those beside it, expected the columns index, mid and "),
])
def test_lists(tmp_path, dataset, name, text, expected):
  assert expected in refusal(dataset, write(tmp_path / "lists", {name: text}))


@pytest.mark.parametrize("row, expected", [
    ('a/b.mp4,"a\nb"', r"row 1: 'a\nb', expected a class of "),
    ("a/b.mp4,b\nfile,label", "row 2: 'file,label', expected class/file.mp4"),
    ("a/b.mp4", "row 1: 'a/b.mp4', expected class/file.mp4,class"),
    ("a/b.mp4,c", "row 1: 'c', expected a class of "),
])
def test_rows_of_moments(tmp_path, row, expected):
  assert expected in refusal("moments", write(tmp_path / "lists", {
      "trainingSet.csv": row, "moments_categories.txt": "b,0\na,1"}))


@pytest.mark.parametrize("row, expected", [
    ('x, 0.0, 10.0, "/m/1,/m/0"', "row 2: '/m/0', expected a mid of class_"),
    ("# b\n#NAME?, 0.0, 10.0, /m/1", "row 3: '#NAME?', which spreadsheets"),
    ("x, 0.0, 10.0", "row 2: 'x,0.0,10.0', expected YTID"),
    ('x, 0.0, nan, "/m/1"', "row 2: 'nan', expected seconds"),
    ('"x\n", 0.0, 1, /m/1', None),
    ('"x\ny", 0.0, 1, /m/1', r"row 2: 'x\ny,0.0,1,/m/1', expected YTID"),
])
def test_rows_of_audioset(tmp_path, row, expected):
  lists = write(tmp_path / "lists", {
      "class_labels_indices.csv": CLASSES, "eval_segments.csv": f"# a\n{row}"})
  if expected:
    assert expected in refusal("audioset", lists)
  else:  # blanks around a cell are none of it
    assert read("audioset", lists).clips[0].file == "x"


def test_a_path_that_leads_nowhere(tmp_path):
  for dataset in "ucf101", "audioset", "msrvtt", "kinetics400", "moments":
    for path in tmp_path / "none", tmp_path / "none/trainlist01.txt":
      assert "No such file or directory" in refusal(dataset, path)


def test_what_macos_puts_beside_each_file(tmp_path):
  lists = write(tmp_path, {"kick_test_split1.txt": "a.avi 1",
                           "._kick_test_split1.txt": "\0\5\26\7"})
  assert [clip.file for clip in read("hmdb51", lists).clips] == ["kick/a"]
