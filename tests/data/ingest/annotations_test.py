"""Official lists in their published forms, to data sets opened by split."""
import csv
import json

import pytest
import tensorflow as tf

from vatt.data import datasets, record_index, sources
from vatt.data.datasets.clips import Clips
from vatt.data.ingest import annotations, clip_lists
from vatt.data.ingest.annotations import Listed
from vatt.errors import UserError

SMALL = "fps=5+size=32+audio_rate=8000"

pytestmark = pytest.mark.usefixtures("one_set_of_workers")


def read(dataset, path):
  return annotations.read(dataset, datasets.find(dataset).FORMAT, path).clips


def write_clips(dataset, lists, folder, *options, **more):
  form = datasets.find(dataset).FORMAT
  clip_lists.write_clips(annotations.read(dataset, form, lists), form, folder,
                         *options, **more)


def build(dataset, lists, manual_dir, data_dir, **options):
  datasets.find(dataset)(
      annotations=lists, manual_dir=str(manual_dir), data_dir=str(data_dir),
      config=SMALL, **options).download_and_prepare()


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
  assert done.stdout.splitlines()[-1].startswith(
      f"{folder}/clips.csv: 6 clips (train1 4 of 5, train2 4 of 4, test1 2 of "
      "2, test2 2 of 2), missing 1, in no split 0; ")
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
  """Also where a copy has two classes: they keep their numbers."""
  classes = ("dog", 0), ("rain", 10)
  rows = [f"{fold}-{number}{fold}-A.wav,{fold},{number},{name},True"
          for fold in range(1, 6) for name, number in classes]
  lists = write(tmp_path / "meta", {"esc50.csv": "\n".join(
      ["filename,fold,target,category,esc10", *rows])})
  folder = tmp_path / "audio"
  folder.mkdir()
  for row in rows:
    media.write_media(folder / row.split(",")[0], audio="pcm_s16le",
                      sound=media.clicks([0.2 * int(row[0]) - 0.1], 1))
  build("esc50", lists, folder, tmp_path)
  for k in range(1, 6):
    test, source = opened(tmp_path, f"esc50/{SMALL}", f"test{k}")
    train, _ = opened(tmp_path, f"esc50/{SMALL}", f"train{k}")
    assert len(source.label_names) == 50
    assert set(test) == {f"{k}-0{k}-A.wav", f"{k}-10{k}-A.wav"}
    assert not set(test) & set(train) and len(train) == 8
    assert [test[name]["label"].numpy().tolist() for name in sorted(test)] == [
        [0], [10]]
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
  assert capsys.readouterr().out.splitlines()[-1].startswith(
      f"{folder}/clips.csv: 4 clips (train1 2 of 2, train2 2 of 2, train3 2 of "
      "2, test1 2 of 2, test2 1 of 1, test3 1 of 1), missing 0, in no split 1;")
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
MSRVTT_JSON = {
    "info": {"year": "2016"},
    "videos": [
        {"video_id": f"video{number}", "split": split, "category": 9, "id": i,
         "start time": 137.72, "end time": 149.44, "url": "https://..."}
        for i, (number, split) in enumerate([
            (0, "train"), (6513, "validate"), (9770, "test"), (9772, "test")])],
    "sentences": [
        {"sen_id": i, "video_id": f"video{number}", "caption": caption}
        for i, (number, caption) in enumerate([
            (9770, "hands on a plug"), (0, "a car"), (9770, "a caf\u00e9"),
            (0, "a car is shown\n"), (6513, "a cat"), (0, "a car"),
            (9770, "a person is connecting something"), (9772, "cafe\u0301"),
            ])]}


def test_msrvtt(tmp_path, media):
  """The sentence to search by is the first of the test set's."""
  lists = tmp_path / "lists"
  write(lists, {"msrvtt_test_1k.csv": MSRVTT,
                "MSRVTT_train.9k.csv": "video_id\nvideo0\nvideo9772"})
  # In the order of their names JSON comes first.
  (lists / "MSRVTT_data.json").write_text(json.dumps(MSRVTT_JSON), "utf-16")
  folder = tmp_path / "TrainValVideo"
  folder.mkdir()
  for number in 0, 6513, 9770, 9771, 9772:
    media.write_media(folder / f"video{number}.mp4",
                      [media.numbered(number % 256)] * 10, rate=10)
  build("msrvtt", str(lists), folder, tmp_path)
  car = "video0.mp4", ["a car", "a car is shown"]
  cat = "video6513.mp4", ["a cat"]
  plug = "video9770.mp4", ["a person is connecting something",
                           "hands on a plug", "a caf\u00e9"]
  girl = "video9771.mp4", ["a little girl, who does gymnastics"]
  cafe = "video9772.mp4", ["caf\u00e9"]
  for split, expected in {
      "train": [car], "validation": [cat], "test": [plug, girl],
      "fulltest": [plug, cafe], "train9k": [car, cafe]}.items():
    examples, source = opened(tmp_path, f"msrvtt/{SMALL}", split)
    assert source.label_names == ()
    assert {file: [text.decode() for text in e["captions/text"].numpy()]
            for file, e in examples.items()} == dict(expected)
    assert all(len(e["frames"]) == 5 for e in examples.values())  # all of it
  with pytest.raises(UserError, match="no split 'train7k' .* one of: fulltest"):
    sources.open_source(f"msrvtt/{SMALL}", str(tmp_path), "train7k")


def test_msrvtt_without_json(tmp_path, capsys):
  lists = write(tmp_path / "lists", {"MSRVTT_JSFUSION_test.csv": MSRVTT,
                                     "MSRVTT_train.7k.csv": "video_id\nvideo1"})
  assert [clip.splits for clip in read("msrvtt", lists)] == [("test",)] * 2
  assert capsys.readouterr().out == (
      f"{lists}/MSRVTT_train.7k.csv: left out, as the JSON with its captions "
      "is not beside it\n")


def test_audioset_with_its_names(tmp_path, media):
  """Names have commas and quotes; a class without a clip keeps its number."""
  names = ["Speech", "Male speech, man speaking", 'Shout "hey", run', "Dog"]
  lists = write(tmp_path / "lists", {
      "eval_segments.csv": 'aaa, 30.0, 40.0, "/m/3,/m/1"\nbbb, 0.0, 9.0, /m/2',
      "class_labels_indices.csv": "index,mid,display_name\n" + "\n".join(
          '{0},/m/{0},"{1}"'.format(i, name.replace('"', '""'))
          for i, name in enumerate(names))})
  folder = tmp_path / "wav"
  folder.mkdir()
  for name in "aaa", "bbb":
    media.write_media(folder / f"{name}.wav", audio="pcm_s16le",
                      sound=media.clicks([0.5], 1))
  build("audioset", lists, folder, tmp_path, trimmed=True)
  examples, source = opened(tmp_path, f"audioset/{SMALL}", "test")
  assert source.label_names == tuple(names)
  assert {file: e["label"].numpy().tolist() for file, e in examples.items()
          } == {"aaa.wav": [3, 1], "bbb.wav": [2]}


# ---- what the files say

KINETICS = {
    "train.csv": """label,youtube_id,time_start,time_end,split
                    playing guitar,-3B32lodo2M,59,69,train
                    "Massaging person's head",0kqzsCDZA_w,7,17,train""",
    "validate.csv": """label,youtube_id,time_start,time_end,split,is_cc
                       playing_guitar,0wR5jVB-WPk,417.0,427.0,validate,0""",
    "test.csv": """youtube_id,time_start,time_end,split
                   --6bJUbfpnQ,17,27,test"""}
GUITAR, HEAD = ("playing guitar",), ("massaging person's head",)
KINETICS_CLIPS = [
    Listed("--6bJUbfpnQ", ("test",), 17, 27),
    Listed("-3B32lodo2M", ("train",), 59, 69, GUITAR),
    Listed("0kqzsCDZA_w", ("train",), 7, 17, HEAD),
    Listed("0wR5jVB-WPk", ("validation",), 417, 427, GUITAR)]


@pytest.mark.parametrize("size", [400, 600, 700])
def test_kinetics(tmp_path, size):
  lists = write(tmp_path / "lists", KINETICS)
  (tmp_path / "lists/clips.csv").write_text("not of Kinetics")
  assert read(f"kinetics{size}", lists) == KINETICS_CLIPS
  assert len(read(f"kinetics{size}", f"{lists}/train.csv")) == 2


def test_kinetics_of_other_copies(tmp_path):
  """JSON in place of the tables, older columns, the split in a file's name."""
  lists = tmp_path / "lists"
  lists.mkdir()
  entries = {}
  for clip in KINETICS_CLIPS:
    entries.setdefault(clip.splits[0], {})[clip.file] = {
        "annotations": {"segment": [clip.start, clip.end]}
        | ({"label": clip.labels[0]} if clip.labels else {}),
        "duration": 10.0, "subset": clip.splits[0].replace("ation", "ate"),
        "url": f"https://www.youtube.com/watch?v={clip.file}"}
  for split, videos in entries.items():
    (lists / f"{split}.json").write_text(json.dumps(videos), "utf-8-sig")
  (lists / "labels.json").write_text("[]")
  assert read("kinetics700", str(lists)) == KINETICS_CLIPS
  header = "label-name,video-id,start-time,end-time"
  write(tmp_path / "older", {
      "kinetics700_val.csv": f"{header}\nplaying guitar,a,1,11"})
  assert read("kinetics700", str(tmp_path / "older")) == [
      Listed("a", ("validation",), 1, 11, GUITAR)]


def test_lists_that_went_through_a_spreadsheet(tmp_path):
  """With semicolons and decimal commas, or as UTF-16; JSON with a mark."""
  folder = tmp_path / "lists"
  folder.mkdir()
  text = "Label;YouTube ID;time_start;time_end;split;;\nyoga;a;1,5;11,5;val;;\n"
  for data in (text.encode("utf-8-sig"),
               text.replace(";", "\t").encode("utf-16")):
    (folder / "val.csv").write_bytes(data)
    assert read("kinetics400", str(folder)) == [
        Listed("a", ("validation",), 1.5, 11.5, ("yoga",))]
  (folder / "youcookii_annotations_trainval.json").write_bytes(
      json.dumps(YOUCOOK2).encode("utf-8-sig"))
  assert len(read("youcook2", str(folder))) == 3


def test_rows_of_one_clip(tmp_path, capsys):
  """Their labels are the clip's; they are told, unless by another split."""
  header = "label,youtube_id,time_start,time_end,split"
  rows = ["yoga,a,1,11,train", "zumba,a,1,11,train", "yoga,a,1,11,train",
          "yoga,a,2,12,train", "yoga,a,1,11,val"]
  lists = write(tmp_path / "lists", {"all.csv": "\n".join([header, *rows])})
  first, second = read("kinetics400", lists)
  assert (first.splits, first.labels) == (
      ("train", "validation"), ("yoga", "zumba"))
  assert second.labels == ("yoga",)
  assert capsys.readouterr().out == (
      f"{lists}: clips listed again: 2, 1 of them with another label or "
      "caption, which they have too\n"
      f"{lists}: files to train and to test in one: 1, such as a\n")
  lists = write(tmp_path / "splits", {
      f"wave_test_split{k}.txt": f"a.avi {k - 1}\nb.avi 0" for k in (1, 2, 3)})
  a, b = read("hmdb51", lists)
  assert (a.splits, b.splits) == (("train2", "test3"), ())
  assert not capsys.readouterr().out
  write(tmp_path / "splits", {"wave_test_split4.txt": "a.avi 1\na.avi 2"})
  read("hmdb51", lists)
  assert capsys.readouterr().out == (
      f"{lists}: files to train and to test in one: 1, such as wave/a\n")


@pytest.mark.parametrize("dataset, files, told", [
    ("kinetics400", {"train.csv": "a,1,11,yoga\nb,1,11,yoga",
                     "val.csv": "a,30,40,zumba\nc,1,11,yoga"}, "a"),
    ("kinetics400", {"train.csv": "a,1,11,yoga", "val.csv": "b,1,11,yoga"}, ""),
    ("msrvtt", {"train.9k.csv": "video2,,,\nvideo3,,,",
                "test.csv": "video3,,,a\nvideo1,,,b"}, "video3"),
    ("msrvtt", {"train.9k.csv": "video2,,,", "test.csv": "video1,,,b"}, ""),
])
def test_files_to_train_and_to_test(tmp_path, capsys, dataset, files, told):
  header = ("youtube_id,time_start,time_end,label" if dataset != "msrvtt"
            else "video_id,key,id,sentence")
  files = {name: f"{header}\n{rows}\n" for name, rows in files.items()}
  if dataset == "msrvtt":  # in which train9k and fulltest have some in common
    files["MSRVTT_data.json"] = json.dumps({
        "videos": [{"video_id": "video2", "split": "test"}], "sentences": []})
  lists = write(tmp_path / "lists", files)
  read(dataset, lists)
  assert capsys.readouterr().out == (
      f"{lists}: files to train and to test in one: 1, such as {told}\n"
      if told else "")


def test_moments(tmp_path):
  lists = write(tmp_path / "lists", {
      "trainingSet.csv": "ap+plauding/flickr-0-1_4.mp4,ap+plauding,3,1",
      "validationSet.csv": "baking/yt-z4OjxIWz_100.mp4,baking,4,0",
      "moments_categories.txt": "baking,0\nap+plauding,1"})
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


AUDIOSET_CLIPS = [
    Listed("--PJHxphWEs", ("train", "balanced"), 30, 40, ("Speech",)),
    Listed("--4gqARaEJE", ("test",), 0, 8.5, ("Male speech, man speaking",)),
    Listed("---1_cCGK4M", ("train",), 0, 10,
           ("Railroad car, train wagon", "Speech"))]


@pytest.mark.parametrize("header", [
    "", "#YTID,start_seconds,end_seconds,positive_labels\n",
    "YTID,start_seconds,end_seconds,positive_labels\n"])
def test_audioset(tmp_path, header):
  lists = write(tmp_path / "lists", AUDIOSET)
  assert read("audioset", lists) == AUDIOSET_CLIPS
  for name in AUDIOSET.keys() - {"class_labels_indices.csv"}:
    write(tmp_path / "lists", {name: header + "\n".join(
        line for line in AUDIOSET[name].splitlines() if "# " not in line)})
  assert read("audioset", lists) == AUDIOSET_CLIPS


@pytest.mark.parametrize("place", ["..", "ontology"])
def test_audioset_with_its_classes_elsewhere(tmp_path, place):
  lists = tmp_path / "lists"
  write(lists, AUDIOSET)
  (lists / place).mkdir(exist_ok=True)
  (lists / "class_labels_indices.csv").rename(
      lists / place / "class_labels_indices.csv")
  assert read("audioset", str(lists / "eval_segments.csv")) == (
      AUDIOSET_CLIPS[1:2])


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


def test_a_list_that_cannot_be_written_is_told(tmp_path, media):
  lists = write(tmp_path / "lists", {"MSRVTT_JSFUSION_test.csv": MSRVTT})
  (tmp_path / "clips.csv").mkdir()
  media.write_media(
      tmp_path / "video9770.mp4", [media.numbered(1)] * 10, rate=10)
  with pytest.raises(UserError, match="clips.csv: cannot be written: .+"):
    write_clips("msrvtt", lists, str(tmp_path), overwrite=True)
