"""Official lists in their published forms, to data sets opened by split."""
import csv
import json

import pytest
import tensorflow as tf

from vatt.data import datasets, record_index, sources
from vatt.data.datasets.clips import Clips
from vatt.data.ingest import annotations, clip_lists, matching
from vatt.data.ingest.annotations import Listed
from vatt.errors import UserError

SMALL = "fps=5+size=32+audio_rate=8000"


def read(dataset, path):
  return annotations.read(dataset, datasets.find(dataset).FORMAT, path).clips


def write_clips(dataset, lists, folder, *options, **more):
  clip_lists.write_clips(
      annotations.read(dataset, datasets.find(dataset).FORMAT, lists), folder,
      *options, **more)


def write(folder, files):
  """Writes texts, a file name to its lines, indented or not."""
  folder.mkdir(exist_ok=True)
  for name, lines in files.items():
    text = "\n".join(line.strip() for line in lines.strip().splitlines())
    (folder / name).write_text(text + "\n")
  return str(folder)


def listed_rows(folder):
  with open(folder / "clips.csv", newline="") as file:
    return list(csv.reader(file))[1:]


def opened(data_dir, name, split):
  """(file of a record -> its example), of a split."""
  source = sources.open_source(name, str(data_dir), split)
  tensors = record_index.file_tensors(source.index)
  examples = [source.parse(record_index.read_record(
      tensors, tf.constant(i, tf.int64)))
              for i in range(len(source.index))]
  by_file = {e["id"].numpy().decode().rsplit(":", 1)[0]: e for e in examples}
  assert len(by_file) == len(examples)
  return by_file, source


# ---- to the end

UCF101 = {
    "trainlist01.txt": """Archery/v_Archery_g02_c01.avi 1
                          Archery/v_Archery_g03_c01.avi 1
                          Archery/v_Archery_g04_c01.avi 1
                          YoYo/v_YoYo_g02_c01.avi 2
                          YoYo/v_YoYo_g03_c01.avi 2""",
    "testlist01.txt": """Archery/v_Archery_g01_c01.avi
                         YoYo/v_YoYo_g01_c01.avi""",
    "trainlist02.txt": """Archery/v_Archery_g01_c01.avi 1
                          Archery/v_Archery_g03_c01.avi 1
                          YoYo/v_YoYo_g01_c01.avi 2
                          YoYo/v_YoYo_g03_c01.avi 2""",
    "testlist02.txt": """Archery/v_Archery_g02_c01.avi

                         YoYo/v_YoYo_g02_c01.avi""",
    "classInd.txt": "1 Archery\n2 YoYo"}


def test_ucf101_by_the_commands(tmp_path, media, python):
  lists = write(tmp_path / "lists", UCF101)
  folder = tmp_path / "UCF-101"
  numbers = {}
  for name in ("Archery", "YoYo"):
    (folder / name).mkdir(parents=True)
    for group in (1, 2, 3):
      file = f"{name}/v_{name}_g{group:02d}_c01.avi"
      numbers[file] = 10 * (name == "YoYo") + group
      media.write_media(folder / file, [media.numbered(numbers[file])] * 10,
                        rate=10, video="mpeg4")

  def run(script, *flags, fork=True):
    return python.run(f"scripts/{script}.py", f"--manual_dir={folder}", *flags,
                      fork=fork)

  command = "list_clips", "--dataset=ucf101", f"--annotations={lists}"
  done = run(*command, fork=False)
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1] == (
      f"{folder}/clips.csv: 6 clips (train1 4, train2 4, test1 2, test2 2), 2 "
      "classes; left out: 0 in no split, 1 that are not there, such as "
      "Archery/v_Archery_g04_c01.*")
  again = run(*command)
  assert again.returncode == 1 and "Traceback" not in again.stderr
  assert again.stderr.splitlines()[-1].endswith(
      "clips.csv: is there already; --overwrite replaces it")
  done = run("prepare_dataset", f"--dataset=clips/ucf101+{SMALL}",
             f"--data_dir={tmp_path}/data")
  assert done.returncode == 0, done.stderr
  assert "built 6 clips (" in done.stdout

  name = f"clips/ucf101+{SMALL}"
  assert {path.name.split("-")[1].split(".")[0] for path in (
      tmp_path / f"data/{name}/{Clips.VERSION}").glob("*.tfrecord-*")} == {
          "train1_test2", "train1_train2", "train2_test1"}
  groups = {"train1": (2, 3), "test1": (1,), "train2": (1, 3), "test2": (2,),
            "test1+test2": (1, 2), "train1+test1": (1, 2, 3)}
  for split, expected in groups.items():
    examples, source = opened(tmp_path / "data", name, split)
    assert source.label_names == ("Archery", "YoYo")
    assert set(examples) == {f"{c}/v_{c}_g{g:02d}_c01.avi"
                             for c in ("Archery", "YoYo") for g in expected}
    for file, example in examples.items():
      assert len(example["frames"]) == 5  # all of the file: 1 s
      picture = tf.io.decode_jpeg(example["frames"][0]).numpy()
      assert media.number_of(picture) == numbers[file]
      assert example["label"].numpy().tolist() == [file.startswith("YoYo")]


def test_esc50(tmp_path, media):
  rows = [f"{fold}-{i}{fold}-A-{i}.wav,{fold},{i},{name},True,{i}{fold},A"
          for fold in range(1, 6) for i, name in enumerate(("dog", "rain"))]
  lists = write(tmp_path / "meta", {"esc50.csv": "\n".join(
      ["filename,fold,target,category,esc10,src_file,take", *rows])})
  folder = tmp_path / "audio"
  folder.mkdir()
  for row in rows:
    media.write_media(folder / row.split(",")[0], audio="pcm_s16le",
                      sound=media.clicks([0.2 * int(row[0]) - 0.1], 1))
  write_clips("esc50", lists, str(folder))
  assert listed_rows(folder)[2] == [
      "2-02-A-0.wav", "", "", "dog", "", "train1 test2 train3 train4 train5"]
  Clips(data_dir=str(tmp_path), config=f"esc50+{SMALL}",
        manual_dir=str(folder)).download_and_prepare()
  for k in range(1, 6):
    test, source = opened(tmp_path, f"clips/esc50+{SMALL}", f"test{k}")
    train, _ = opened(tmp_path, f"clips/esc50+{SMALL}", f"train{k}")
    assert source.label_names == ("dog", "rain")
    assert set(test) == {f"{k}-0{k}-A-0.wav", f"{k}-1{k}-A-1.wav"}
    assert not set(test) & set(train) and len(train) == 8
    assert [test[name]["label"].numpy().tolist() for name in sorted(test)] == [
        [0], [1]]
    for example in test.values():  # the click tells the fold
      samples = tf.io.decode_raw(example["audio"], tf.int16).numpy()
      assert abs(abs(samples).argmax() / 8000 - (0.2 * k - 0.1)) < 0.01


def test_hmdb51(tmp_path, media, capsys):
  #                               split 1, 2, 3
  use = {"brush_hair": {"#20_hair_(A)_brush_hair_u_nm_np1_ba_goo_0": (1, 1, 2),
                        "April_09_brush_hair_u_nm_np1_ba_goo_1": (2, 0, 1),
                        "atheism_brush_hair_u_nm_np1_ba_goo_2": (0, 0, 0)},
         "kick": {"Prelinger_kick_l_cm_np1_fr_med_18": (1, 2, 0),
                  "FIRST_DATES;_kick_f_cm_np1_ba_med_19": (2, 1, 1)}}
  lists = write(tmp_path / "splits", {
      f"{label}_test_split{k + 1}.txt": "\n".join(
          f"{name}.avi {numbers[k]} " for name, numbers in clips.items())
      for label, clips in use.items() for k in range(3)})
  folder = tmp_path / "hmdb51"
  for label, clips in use.items():
    (folder / label).mkdir(parents=True)
    for name in clips:
      media.write_media(folder / label / f"{name}.avi",
                        [media.numbered(7)] * 5, rate=10, video="mpeg4")
  write_clips("hmdb51", lists, str(folder))
  assert capsys.readouterr().out.splitlines()[-1] == (
      f"{folder}/clips.csv: 4 clips (train1 2, train2 2, train3 2, test1 2, "
      "test2 1, test3 1), 2 classes; left out: 1 in no split, 0 that are not "
      "there")
  Clips(data_dir=str(tmp_path), config=SMALL,
        manual_dir=str(folder)).download_and_prepare()
  for k in range(3):
    for i, split in (1, "train"), (2, "test"):
      examples, source = opened(tmp_path, f"clips/{SMALL}", f"{split}{k + 1}")
      assert set(examples) == {
          f"{label}/{name}.avi" for label, clips in use.items()
          for name, numbers in clips.items() if numbers[k] == i}
      assert all(source.label_names[example["label"][0]] == file.split("/")[0]
                 for file, example in examples.items())


MSRVTT = """key,vid_key,video_id,sentence
            ret0,msr9770,video9770,a person is connecting something
            ret1,msr9771,video9771,"a little girl, who does gymnastics"
            """


def test_msrvtt_has_a_test_set_and_no_labels(tmp_path, media):
  lists = write(tmp_path / "lists", {"MSRVTT_JSFUSION_test.csv": MSRVTT,
                                     "MSRVTT_train.9k.csv": "video_id\nvideo1"})
  folder = tmp_path / "TestVideo"
  folder.mkdir()
  for number in 9770, 9771:
    media.write_media(folder / f"video{number}.mp4",
                      [media.numbered(number % 256)] * 10, rate=10)
  write_clips("msrvtt", lists, str(folder))
  Clips(data_dir=str(tmp_path), config=SMALL,
        manual_dir=str(folder)).download_and_prepare()
  examples, source = opened(tmp_path, f"clips/{SMALL}", "test")
  assert source.label_names == ()
  assert {file: e["captions/text"].numpy().tolist()
          for file, e in examples.items()} == {
              "video9770.mp4": [b"a person is connecting something"],
              "video9771.mp4": [b"a little girl, who does gymnastics"]}
  with pytest.raises(UserError, match="no split 'train' .* one of: test"):
    sources.open_source(f"clips/{SMALL}", str(tmp_path), "train")


# ---- what the files say

KINETICS = {
    "train.csv": """label,youtube_id,time_start,time_end,split
                    playing guitar,-3B32lodo2M,59,69,train
                    "sawing, wood",0kqzsCDZA_w,7,17,train""",
    "validate.csv": """label,youtube_id,time_start,time_end,split,is_cc
                       playing guitar,0wR5jVB-WPk,417.0,427.0,validate,0""",
    "test.csv": """youtube_id,time_start,time_end,split
                   --6bJUbfpnQ,17,27,test"""}


def test_kinetics(tmp_path):
  lists = write(tmp_path / "lists", KINETICS)
  (tmp_path / "lists/clips.csv").write_text("not of Kinetics")
  guitar = ("playing guitar",)
  assert read("kinetics400", lists) == [
      Listed("--6bJUbfpnQ", ("test",), 17, 27,
             own_file="--6bJUbfpnQ_000017_000027"),
      Listed("-3B32lodo2M", ("train",), 59, 69, guitar,
             own_file="-3B32lodo2M_000059_000069"),
      Listed("0kqzsCDZA_w", ("train",), 7, 17, ("sawing, wood",),
             own_file="0kqzsCDZA_w_000007_000017"),
      Listed("0wR5jVB-WPk", ("validation",), 417, 427, guitar,
             own_file="0wR5jVB-WPk_000417_000427")]
  assert len(read("kinetics400", f"{lists}/train.csv")) == 2


def test_lists_that_went_through_a_spreadsheet(tmp_path):
  """With semicolons and decimal commas, or as UTF-16; JSON with a mark."""
  folder = tmp_path / "lists"
  folder.mkdir()
  text = "Label;YouTube ID;time_start;time_end;split;;\nrun;a;1,5;11,5;val;;\n"
  for data in (text.encode("utf-8-sig"),
               text.replace(";", "\t").encode("utf-16")):
    (folder / "val.csv").write_bytes(data)
    assert read("kinetics400", str(folder)) == [
        Listed("a", ("validation",), 1.5, 11.5, ("run",),
               own_file="a_000001_000011")]
  (folder / "youcookii_annotations_trainval.json").write_bytes(
      json.dumps(YOUCOOK2).encode("utf-8-sig"))
  assert len(read("youcook2", str(folder))) == 3


def test_moments(tmp_path):
  lists = write(tmp_path / "lists", {
      "trainingSet.csv": "ap+plauding/flickr-0-1_4.mp4,ap+plauding,3,1",
      "validationSet.csv": "baking/yt-z4OjxIWz_100.mp4,baking,4,0",
      "moments_categories.txt": "baking,0"})
  assert read("moments", lists) == [
      Listed("ap+plauding/flickr-0-1_4", ("train",), labels=("ap+plauding",)),
      Listed("baking/yt-z4OjxIWz_100", ("validation",), labels=("baking",))]


AUDIOSET = {
    "unbalanced_train_segments.csv": """
        # Segments csv created Sun Mar  5 10:56:58 2017
        # num_ytids=1, num_segs=1, num_unique_labels=1, num_positive_labels=2
        # YTID, start_seconds, end_seconds, positive_labels
        ---1_cCGK4M, 0.000, 10.000, "/m/01g50p,/m/09x0r"
        """,
    "balanced_train_segments.csv": """# a
        # b
        # c
        --PJHxphWEs, 30.000, 40.000, "/m/09x0r"
        """,
    "eval_segments.csv": """# a
        --4gqARaEJE, 0.000, 8.500, "/m/05zppz"
        """,
    "class_labels_indices.csv": """index,mid,display_name
        0,/m/09x0r,"Speech"
        1,/m/05zppz,"Male speech, man speaking"
        2,/m/01g50p,"Railroad car, train wagon"
        """}


def test_audioset(tmp_path):
  lists = write(tmp_path / "lists", AUDIOSET)
  assert read("audioset", lists) == [
      Listed("--PJHxphWEs", ("train", "balanced"), 30, 40, ("Speech",)),
      Listed("--4gqARaEJE", ("test",), 0, 8.5, ("Male speech, man speaking",)),
      Listed("---1_cCGK4M", ("train",), 0, 10,
             ("Railroad car, train wagon", "Speech"))]


YOUCOOK2 = {"database": {
    "GLd3aX16zBg": {
        "duration": 241.62, "subset": "training", "recipe_type": "113",
        "annotations": [
            {"segment": [90, 102], "id": 0,
             "sentence": "spread margarine on two slices of white bread"},
            {"segment": [114, 127], "id": 1,
             "sentence": "place a slice of cheese on the bread "}],
        "video_url": "https://www.youtube.com/watch?v=GLd3aX16zBg"},
    "fn9anlEL4FI": {
        "duration": 176.4, "subset": "validation", "recipe_type": "405",
        "annotations": [{"segment": [45, 58.5], "id": 0,
                         "sentence": "add oil, then salt"}]}}}


def test_youcook2(tmp_path):
  lists = write(tmp_path / "lists", {
      "youcookii_annotations_trainval.json": json.dumps(YOUCOOK2),
      "label_foodtype.csv": "113,grilled cheese"})
  assert read("youcook2", lists) == [
      Listed("GLd3aX16zBg", ("train",), 90, 102, captions=(
          "spread margarine on two slices of white bread",)),
      Listed("GLd3aX16zBg", ("train",), 114, 127, captions=(
          "place a slice of cheese on the bread",)),
      Listed("fn9anlEL4FI", ("validation",), 45, 58.5, captions=(
          "add oil, then salt",))]


@pytest.mark.parametrize("dataset, name, text, match", [
    ("ucf101", "trainlist01.txt", "A/v_A_g01_c01.avi 1\nA/v.txt 1",
     "row 2: 'A/v.txt 1', expected Class/v_Class_g01_c01.avi"),
    ("ucf101", "list.txt", "", "no annotations of ucf101 by their names, "
     "expected trainlist01.txt"),
    ("hmdb51", "kick_test_split1.txt", "a.avi 3", "row 1: 'a.avi 3', expected "
     "name.avi and 0, 1 or 2"),
    ("esc50", "esc50.csv", "filename,fold,category\na.wav,6,dog",
     "row 2: '6', expected a fold of 1 to 5"),
    ("esc50", "esc50.csv", "filename,category\n", "no column 'fold' in "
     "'filename, category', expected filename, fold, category$"),
    ("msrvtt", "test.csv", "video_id,sentence\nvideo1,a cat, a dog",
     "row 2: 3 cells, expected 2"),
    ("youcook2", "youcookii_trainval.json", "{}", "JSON with a 'database'"),
    ("youcook2", "youcookii_trainval.json",
     '{"database": {"v": {"subset": "dev"}}}',
     r"json: video v: KeyError\('dev'\), expected {subset: training"),
    ("youcook2", "youcookii_trainval.json", '{"database": {"v": {"subset": '
     '"training", "annotations": [{"segment": [1]}]}}}',
     r"video v: ValueError\('not enough values"),
    ("kinetics400", "train.csv",
     "youtube_id,time_start,time_end,split\na,soon,10,train",
     "row 2, column time_start: 'soon', expected seconds"),
    ("kinetics400", "train.csv",
     "youtube_id,time_start,time_end,split\na,0,10,dev",
     "row 2: 'dev', expected a split of train, val"),
    ("youcook2", "youcookii_trainval.json", '{"database": {"v": {"subset": '
     '"training", "annotations": [{"segment": [0, NaN], "sentence": "x"}]}}}',
     r"video v: ValueError\('a segment from 0.0 to nan"),
    pytest.param(
        "youcook2", "youcookii_trainval.json",
        '{"database": {"v\\n": {"subset": '
        f'"training", "annotations": [{{"segment": [0, 1{"0" * 400}]}}]}}}}}}',
        r"video v\\n: OverflowError", id="a large number"),
    pytest.param("youcook2", "youcookii_trainval.json", "[" * 100000,
                 "JSON with a 'database'", id="deep"),
    ("kinetics400", "train.csv",
     "youtube_id,time_start,time_end,split\na,,10,train",
     "row 2: '', expected seconds"),
    ("kinetics400", "train.csv",
     'label,youtube_id,time_start,time_end,split\n"a\nb",a,0,10,train',
     r"row 2, column label: 'a\\nb', expected no line break"),
    ("moments", "trainingSet.csv", 'a/b.mp4,"a\nb"',
     r"row 1: 'a/b.mp4,a\\nb', expected class/file.mp4,class"),
    ("moments", "trainingSet.csv", "a/b.mp4,a\nfile,label",
     "row 2: 'file,label', expected class/file.mp4,class"),
    ("audioset", "eval_segments.csv", '#\n# a\nx, 0.0, 10.0, "/m/9,/m/0"',
     "class_labels_indices.csv: cannot be read: .*No such file"),
])
def test_annotations_that_are_refused(tmp_path, dataset, name, text, match):
  write(tmp_path / "lists", {name: text})
  with pytest.raises(UserError, match=match) as error:
    read(dataset, str(tmp_path / "lists"))
  assert str(tmp_path / "lists") in str(error.value)
  assert "\n" not in str(error.value)


def test_audioset_rows_that_are_refused(tmp_path):
  for row, match in (('x, 0.0, 10.0, "/m/09x0r,/m/0"', "row 4: '/m/0', expected"
                      " a mid of .*class_labels_indices.csv"),
                     ("x, 0.0, 10.0", "row 4: 'x,0.0,10.0', expected YTID"),
                     ('x, 0.0, nan, "/m/09x0r"', "row 4: 'nan', expected sec")):
    lists = write(tmp_path / "lists", AUDIOSET | {
        "balanced_train_segments.csv": f"# a\n# b\n# c\n{row}"})
    with pytest.raises(UserError, match=match):
      read("audioset", lists)


def test_a_list_that_cannot_be_written_is_told(tmp_path, media):
  lists = write(tmp_path / "lists", {"MSRVTT_JSFUSION_test.csv": MSRVTT})
  (tmp_path / "clips.csv").mkdir()
  media.write_media(
      tmp_path / "video9770.mp4", [media.numbered(1)] * 10, rate=10)
  with pytest.raises(UserError, match="clips.csv: cannot be written: .+"):
    write_clips("msrvtt", lists, str(tmp_path), overwrite=True)


# ---- the media that are there

def test_a_file_that_is_the_clip_starts_at_0(tmp_path, media, capsys):
  lists = write(tmp_path / "lists", KINETICS)
  folder = tmp_path / "videos"
  (folder / "train").mkdir(parents=True)
  second = [media.numbered(1)] * 10
  media.write_media(folder / "train/-3B32lodo2M_000059_000069.mp4", second)
  media.write_media(folder / "train/-3B32lodo2M.mp4", second)
  media.write_media(folder / "0kqzsCDZA_w.webm", second * 10, rate=10,
                    video="libvpx")
  write_clips("kinetics400", lists, str(folder))
  assert listed_rows(folder) == [
      ["train/-3B32lodo2M_000059_000069.mp4", "", "", "playing guitar", "",
       "train"],
      ["0kqzsCDZA_w.webm", "7.0", "17.0", "sawing, wood", "", "train"]]
  assert "2 that are not there, such as --6bJUbfpnQ.*" in (
      capsys.readouterr().out)
  media.write_media(folder / "0wR5jVB-WPk.mp4", second)
  write_clips("kinetics400", lists, str(folder), trimmed=True,
                          overwrite=True)
  assert [row[:3] for row in listed_rows(folder)[1:]] == [
      ["0kqzsCDZA_w.webm", "", ""], ["0wR5jVB-WPk.mp4", "", ""]]
  # Where none is long enough, the times are not the files'.
  (folder / "0kqzsCDZA_w.webm").unlink()
  with pytest.raises(UserError, match="0wR5jVB-WPk.mp4: 0.4 s long, but its "
                     "clip starts at 417.0 s, .*give --trimmed"):
    write_clips("kinetics400", lists, str(folder), overwrite=True)


def test_files_of_several_clips_and_several_labels(tmp_path, media):
  lists = write(tmp_path / "lists", AUDIOSET | {
      "youcookii_annotations_trainval.json": json.dumps(YOUCOOK2)})
  folder = tmp_path / "media"
  folder.mkdir()
  media.write_media(folder / "GLd3aX16zBg.mkv", [media.numbered(1)] * 100,
                    rate=1)
  media.write_media(folder / "---1_cCGK4M.wav", audio="pcm_s16le",
                    sound=media.clicks([1], 2))
  write_clips("youcook2", lists, str(folder))
  assert [row[:3] for row in listed_rows(folder)] == [
      ["GLd3aX16zBg.mkv", "90.0", "102.0"],
      ["GLd3aX16zBg.mkv", "114.0", "127.0"]]
  with pytest.raises(UserError, match="--trimmed: GLd3aX16zBg.mkv is the file "
                     "of 2 clips"):
    write_clips("youcook2", lists, str(folder), True, True)
  write_clips("audioset", lists, str(folder), overwrite=True)
  assert listed_rows(folder) == [
      ["---1_cCGK4M.wav", "0.0", "10.0", label, "", "train"]
      for label in ("Railroad car, train wagon", "Speech")]


def test_names_that_two_files_have(tmp_path):
  lists = write(tmp_path / "lists", {
      "trainingSet.csv": "run/x_1.mp4,run\nwalk/x_1.mp4,walk\nwalk/y.mp4,walk"})
  folder = tmp_path / "videos"
  for name in "training/run", "training/walk":
    (folder / name).mkdir(parents=True)
    (folder / name / "x_1.webm").write_bytes(b"")
  clips = read("moments", lists)
  found, missing = matching.find(clips, str(folder))
  assert [path for path, _ in found] == [
      "training/run/x_1.webm", "training/walk/x_1.webm"]
  assert missing == clips[2:]
  (folder / "training/run/x_1.mp4").write_bytes(b"")
  with pytest.raises(UserError, match=r"both training/run/x_1.mp4 and training/"
                     "run/x_1.webm have the name of run/x_1"):
    matching.find(clips, str(folder))
  matching.check_times([("training/run/x_1.mp4", Listed("", (), 5, 9))],
                          str(folder), False)  # which cannot be read
  (folder / "training/y.mp3").write_bytes(b"")
  assert matching.find(clips[2:], str(folder))[0] == [
      ("training/y.mp3", clips[2])]
  with pytest.raises(UserError, match="no file of the 1 clips that are listed, "
                     "such as a.\\*"):
    matching.find([Listed("a", ("test",))], str(folder))
  with pytest.raises(UserError, match="no such folder"):
    write_clips("moments", lists, str(tmp_path / "none"))
