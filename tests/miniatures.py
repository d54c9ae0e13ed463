"""The paper's datasets in miniature: lists as they are published, and for a few
of their clips real media under the names that these have."""
import csv
import json

ACTIONS = {"kinetics400": "abseiling", "kinetics600": "acting in play",
           "kinetics700": "zumba"}
SHORT = "carphone_pristine.mp4", "bigbuckbunny.mp4"  # 4 and 5 s
LONG = "band.mp4", "band.webm", "band.avi"  # a minute


def make(name, folder, data):
  """Writes the lists and the media of a dataset.

  Args:
    name: of the dataset.
    folder: a new one, for both.
    data: folder of official lists and of media.

  Returns:
    --annotations and --manual_dir.
  """
  lists, media = folder / "lists", folder / "media"
  lists.mkdir(parents=True)
  media.mkdir()

  def put(path, source):
    (media / path).parent.mkdir(parents=True, exist_ok=True)
    (media / path).symlink_to(data / "media" / source)

  def official(path):
    (lists / path.split("/")[-1]).symlink_to(data / "official" / path)
    return data / "official" / path

  make_one = _kinetics if name in ACTIONS else MAKE[name]
  make_one(name, lists, put, official)
  return str(lists), str(media)


def _howto100m(name, lists, put, official):
  for path, source in (("-tCQ4tCQdWE", "band.mp4"),
                       ("2Mn5sVpFDTg", "band.webm"),
                       ("2_MmPmFxGCo", "bikes.mp4")):
    official(f"howto100m/{path}.csv")
    put(f"{path}.mp4", source)
  official("howto100m/3lL8XUUWg_Q.csv")  # whose video is gone


def _audioset(name, lists, put, official):
  official("audioset/class_labels_indices.csv")
  with open(official("audioset/eval_segments.csv")) as file:
    tested = [line.split(",")[0] for line in file if line[0] != "#"]
  put(f"eval/Y{tested[0]}.wav", "band_audio.mp3")
  put(f"eval/{tested[1]}_20000_30000.flac", "band_audio.ogg")
  for kind, id_ in ("balanced", "--PJHxphWEs"), ("unbalanced", "---1_cCGK4M"):
    (lists / f"{kind}_train_segments.csv").write_text(
        "# Segments csv created\n# num_ytids=1\n# YTID, start_seconds, "
        "end_seconds, positive_labels\n"
        f'{id_}, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n')
  put("train/--PJHxphWEs_30.mp4", "bikes.mp4")
  put("train/---1_cCGK4M.mp4", "band.mp4")


def _kinetics(name, lists, put, official):
  tested = [(ACTIONS[name], "0wR5jVB-WPk", "417", "427")]
  if name != "kinetics700":
    with open(official(f"{name}/{name[:8]}-{name[8:]}_val.csv")) as file:
      tested = [row[:4] for row in csv.reader(file)][1:]
  else:
    (lists / "val.csv").write_text(
        "label,youtube_id,time_start,time_end,split\n"
        f"{ACTIONS[name]},0wR5jVB-WPk,417,427,val\n")
  (lists / "train.csv").write_text(
      "label,youtube_id,time_start,time_end,split\n"
      "yoga,-3B32lodo2M,59,69,train\nzumba,0kqzsCDZA_w,7,17,train\n")
  put("train/yoga/-3B32lodo2M_000059_000069.mp4", "bikes.mp4")
  put("train/zumba/0kqzsCDZA_w.mp4", "band.mp4")
  for (label, id_, start, end), source in zip(tested, SHORT):
    put(f"val/{label}/{id_}_{int(start):06d}_{int(end):06d}.mp4", source)


def _moments(name, lists, put, official):
  (lists / "moments_categories.txt").write_text(
      "applauding,0\nbaking,1\nclapping,2\n")
  for split, rows in (
      ("training", (("baking", "a_1"), ("clapping", "b_2"))),
      ("validation", (("baking", "c_3"),))):
    (lists / f"{split}Set.csv").write_text("".join(
        f"{label}/{file}.mp4,{label},3,0\n" for label, file in rows))
    for (label, file), source in zip(rows, SHORT):
      put(f"{split}/{label}/{file}.mp4", source)


def _ucf101(name, lists, put, official):
  for list_ in "trainlist01.txt", "testlist01.txt":
    rows = official(f"ucf101/{list_}").read_text().split("\n")
    for other in "23":  # in the other splits alike
      (lists / list_.replace("1", other)).write_text("\n".join(rows))
    for label in "YoYo", "Archery":
      files = [row.split()[0] for row in rows if row.startswith(f"{label}/")]
      for file, source in zip(files, SHORT):
        put(f"{file[:-4]}.mp4", source)


def _hmdb51(name, lists, put, official):
  for label, sources in ("wave", SHORT), ("kick", LONG):
    files = [f"{label}_{i}" for i in range(2)]
    for file, source in zip(files, sources):
      put(f"{label}/{file}.avi", source)
    for split in "123":
      (lists / f"{label}_test_split{split}.txt").write_text(
          f"{files[0]}.avi 1 \n{files[1]}.avi 2 \ngone.avi 1 \n")


def _esc50(name, lists, put, official):
  with open(official("esc50/esc50.csv")) as file:
    rows = {(row["category"], row["fold"]): row["filename"]
            for row in csv.DictReader(file)}
  for category, source in ("rain", "band_audio.mp3"), ("dog", "band_audio.ogg"):
    for fold in "12345":  # a clip of each
      put(rows[category, fold], source)


def _msrvtt(name, lists, put, official):
  with open(official("msrvtt/MSRVTT_JSFUSION_test.csv")) as file:
    videos = [row["video_id"] for row in csv.DictReader(file)]
  for video, source in zip(videos, (*SHORT, *LONG)):
    put(f"TestVideo/{video}.mp4", source)


def _youcook2(name, lists, put, official):
  path = official("youcook2/youcookii_annotations_trainval.json")
  videos = json.loads(path.read_text())["database"]
  for split, sources in ("training", LONG[:1]), ("validation", LONG):
    early = [video for video, facts in videos.items()
             if facts["subset"] == split
             and facts["annotations"][0]["segment"][1] < 50]
    for video, source in zip(early, sources):
      put(f"{split}/{video}.mp4", source)


MAKE = {"howto100m": _howto100m, "audioset": _audioset, "moments": _moments,
        "ucf101": _ucf101, "hmdb51": _hmdb51, "esc50": _esc50,
        "msrvtt": _msrvtt, "youcook2": _youcook2}
NAMES = (*ACTIONS, *MAKE)
