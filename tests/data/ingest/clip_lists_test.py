"""Official lists and media to a dataset or a clips.csv: what is missing, media
that come later, what the file system refuses."""
import csv
import os
import pathlib
import subprocess

import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from vatt.data import record_index, sources
from vatt.data.datasets.clips import Clips, Options
from vatt.data.datasets.official import Official
from vatt.data.ingest import (
  annotations,
  clip_lists,
  clips_csv,
  coverage,
  matching,
)
from vatt.data.ingest.annotations import Format, Listed, Listing
from vatt.errors import UserError

CLASSES = ("dive", "jump", "run", "swim")  # of no medium's: dive

pytestmark = pytest.mark.usefixtures("one_set_of_workers")


def read_sports(path, match):
  for name, start, end, label, splits in rows(path):
    yield Listed(name, tuple(splits.split()), float(start), float(end),
                 (label,) if label else ())


class Sports(Official, skip_registration=True):
  """Lists of rows file,start,end,label,splits."""

  VERSION = tfds.core.Version("1.0.0")
  DEFAULTS = Options(fps=5.0, size=32, audio_rate=8000)
  FORMAT = Format(read_sports, r"list\.csv", "list.csv",
                  lambda folder, clips: CLASSES)


def touch(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"")


def rows(path):
  with open(path, newline="") as file:
    return list(csv.reader(file))


def records(data_dir, name, split="train"):
  """(a record's id -> its example), and the classes."""
  source = sources.open_source(name, str(data_dir), split)
  tensors = record_index.file_tensors(source.index)
  examples = [source.parse(record_index.read_record(
      tensors, tf.constant(i, tf.int64))) for i in range(len(source.index))]
  return ({e["id"].numpy().decode(): e for e in examples}, source.label_names)


def loudness(example):
  """Where a record has its loudest sample, in seconds; None without sound."""
  samples = tf.io.decode_raw(example["audio"], tf.int16).numpy()
  return (abs(samples.astype(int)).argmax() / 8000) if len(samples) else None


# ---- to the end

LIST = """a,0,1,jump,train
b,0,1,"run",train
b,1,2,swim,train
c,5,6,run,test
d,0,1,,test
gone,3,4.5,swim,train test
left,0,1,jump,
=odd,0,1,jump,train
"""
LINE = ("5 clips (train 3 of 5, test 2 of 3), missing 2, in no split 1; 4 "
        "classes, 1 of them without any clip: dive")
MISSING = [
    ["id", "reason", "split", "label"],
    ["gone:3.000-4.500", "no file of its name", "train test", "swim"],
    ["left:0.000-1.000", "in no split", "", "jump"],
    ["'=odd:0.000-1.000", "no file of its name", "train", "jump"]]
COVERAGE = [
    ["split", "label", "listed", "there"],
    ["train", "jump", "2", "1"], ["train", "run", "1", "1"],
    ["train", "swim", "2", "1"],
    ["", "jump", "1", "0"],
    ["test", "", "1", "1"], ["test", "run", "1", "1"],
    ["test", "swim", "1", "0"]]


def make_sports(folder, media):
  """A list, and media of five of its clips, two of them one file and its sound
  in another one."""
  folder.mkdir(exist_ok=True)
  (folder / "list.csv").write_text(LIST)
  films = folder / "films"
  films.mkdir()
  media.write_media(films / "a.mkv", [media.numbered(1)] * 5,
                    media.clicks([0.3], 1), rate=5, audio="flac")
  media.write_media(films / "b.mp4", [media.numbered(i) for i in range(10)],
                    rate=5)
  media.write_media(films / "b.wav", audio="pcm_s16le",
                    sound=media.clicks([0.4, 1.6], 2))
  media.write_media(films / "c.wav", audio="pcm_s16le",
                    sound=media.clicks([0.7], 1))
  media.write_media(films / "d_0_1.wav", audio="pcm_s16le",
                    sound=media.clicks([0.2], 1))
  return str(folder / "list.csv"), str(films)


def build(tmp_path, manual_dir, repair=False, **options):
  Sports(data_dir=str(tmp_path / "data"), manual_dir=manual_dir, **options
         ).download_and_prepare(repair=repair)
  return tmp_path / "data/sports/default/1.0.0"


def test_built_from_lists_and_nothing_lost(tmp_path, media, capsys):
  annotations_path, films = make_sports(tmp_path / "s", media)
  before = sorted(os.listdir(films))
  folder = build(tmp_path, films, annotations=annotations_path)
  out = capsys.readouterr().out.splitlines()
  assert f"{films}: {LINE}" in out
  assert out[-1] == (
      f"{folder}: built 5 clips (train 3, test 2; with pictures 3, sound 5, "
      f"captions 0), rejected 0, listed and not used 3 (see "
      f"{folder}/missing.csv)")
  assert sorted(os.listdir(films)) == before
  assert rows(folder / "missing.csv") == MISSING
  assert rows(folder / "coverage.csv") == COVERAGE

  examples, names = records(tmp_path / "data", "sports/default")
  assert names == CLASSES  # though there is no clip of the first
  assert {i: (CLASSES[int(e["label"][0])], pytest.approx(loudness(e), abs=0.01))
          for i, e in examples.items()} == {
              "a.mkv:0.000-1.000": ("jump", 0.3),
              "b.mp4:0.000-1.000": ("run", 0.4),
              "b.mp4:1.000-2.000": ("swim", 0.6)}
  assert [media.number_of(tf.io.decode_jpeg(
      examples["b.mp4:1.000-2.000"]["frames"][i]).numpy()) for i in range(5)
  ] == [5, 6, 7, 8, 9]
  tests, _ = records(tmp_path / "data", "sports/default", "test")
  assert sorted(tests) == ["c.wav:0.000-", "d_0_1.wav:0.000-"]

  # With the lists, without them, and without the media.
  for options in ({"annotations": annotations_path}, {}):
    build(tmp_path, films, **options)
    assert ": already built 5 clips (" in capsys.readouterr().out
  build(tmp_path, None)
  assert ": already built 5 clips (" in capsys.readouterr().out
  # What was measured is not measured again, unless it has changed.
  clip = pathlib.Path(films, "c.wav")
  sound, facts = clip.read_bytes(), clip.stat()
  clip.write_bytes(b"\0" * len(sound))
  os.utime(clip, ns=(facts.st_atime_ns, facts.st_mtime_ns))
  build(tmp_path, films, annotations=annotations_path)
  assert ": already built 5 clips (" in capsys.readouterr().out
  os.utime(clip)
  with pytest.raises(UserError, match="4 of its clips are the same, 1 are new"):
    build(tmp_path, films, annotations=annotations_path)
  clip.write_bytes(sound)
  # Of before there was such a file: still whole, and a repair adds it.
  for name in "missing.csv", "coverage.csv":
    (folder / name).unlink()
  build(tmp_path, films, annotations=annotations_path)
  assert capsys.readouterr().out.splitlines()[-1].endswith("rejected 0")
  build(tmp_path, films, True, annotations=annotations_path)
  out = capsys.readouterr().out.splitlines()
  assert out[-2].endswith("built anew: coverage.csv, missing.csv")
  assert rows(folder / "missing.csv") == MISSING
  # Cut off.
  (folder / "missing.csv").write_bytes(
      (folder / "missing.csv").read_bytes()[:-8])
  with pytest.raises(UserError, match=(
      r"damaged, .*\(missing.csv\);.*--manual_dir and --annotations that")):
    build(tmp_path, films)
  with pytest.raises(UserError, match="--annotations is missing"):
    build(tmp_path, films, True)
  (tmp_path / "clips.csv").write_text("")
  with pytest.raises(UserError, match="--trimmed: the times in .*/clips.csv "
                     "are those in the files"):
    build(tmp_path, str(tmp_path), trimmed=True)


def test_media_come_later(tmp_path, media, capsys):
  path, films = make_sports(tmp_path / "s", media)
  folder = build(tmp_path, films, annotations=path)
  known, _ = records(tmp_path / "data", "sports/default")
  for later in "=odd_0_1.mp4", "gone_3000_4500.mp4":  # train has a shard more
    media.write_media(f"{films}/{later}", [media.numbered(2)] * 8, rate=5)
    with pytest.raises(UserError, match=(
        r"built before, from other sources than there are now \(5 of its clips "
        r"are the same, 1 are new, changed or were rejected\); to build it from"
        r" these, delete its dataset_info.json, and what is the same is taken"
    )):
      build(tmp_path, films, annotations=path)
    os.rename(f"{films}/{later}", tmp_path / later)
  os.rename(tmp_path / later, f"{films}/{later}")
  # What the message says.
  (folder / "dataset_info.json").unlink()
  pathlib.Path(films, "a.mkv").write_bytes(
      pathlib.Path(films, "a.mkv").read_bytes().ljust(os.path.getsize(
          f"{films}/a.mkv"), b"\0"))
  os.rename(f"{films}/b.mp4", f"{films}/b.hidden")  # of the same size ...
  pathlib.Path(films, "b.mp4").write_bytes(
      b"\0" * os.path.getsize(f"{films}/b.hidden"))  # but not read again
  build(tmp_path, films, annotations=path)
  examples, _ = records(tmp_path / "data", "sports/default",
                        "train+train_test")
  assert len(examples) == 4
  for i, example in known.items():
    assert example["frames"].numpy().tolist() == (
        examples[i]["frames"].numpy().tolist())
  assert [row[0] for row in rows(folder / "missing.csv")[1:]] == [
      "left:0.000-1.000", "'=odd:0.000-1.000"]


def list_sports(path, films, **options):
  clip_lists.write_clips(
      annotations.read("sports", Sports.FORMAT, path), Sports.FORMAT, films,
      **options)


def test_a_list_in_another_folder_keeps_the_numbers(tmp_path, media, capsys):
  path, films = make_sports(tmp_path / "s", media)
  output = tmp_path / "made/lists"
  list_sports(path, films, output=str(output))
  assert capsys.readouterr().out.splitlines()[-1] == (
      f"{output}/clips.csv: {LINE} (see {output}/missing.csv)")
  assert rows(output / "missing.csv") == MISSING
  assert rows(output / "coverage.csv") == COVERAGE
  assert (output / "classes.txt").read_text() == "dive\njump\nrun\nswim\n"
  assert rows(output / "clips.csv") == [
      [*clips_csv.COLUMNS, "sound_path"],
      [f"{films}/a.mkv", "0.0", "1.0", "jump", "", "train", ""],
      [f"{films}/b.mp4", "0.0", "1.0", "run", "", "train", f"{films}/b.wav"],
      [f"{films}/b.mp4", "1.0", "2.0", "swim", "", "train", f"{films}/b.wav"],
      [f"{films}/c.wav", "", "", "run", "", "test", ""],
      [f"{films}/d_0_1.wav", "", "", "", "", "test", ""]]
  with pytest.raises(UserError, match="lists/clips.csv: is there already; "
                     "--overwrite replaces it"):
    list_sports(path, films, output=str(output))

  # Edited: the clip that alone is of class swim goes.
  lines = (output / "clips.csv").read_text().splitlines(keepends=True)
  (output / "clips.csv").write_text("".join(
      line for line in lines if "swim" not in line))
  build(tmp_path, str(output))
  examples, names = records(tmp_path / "data", "sports/default")
  assert names == CLASSES
  assert {int(e["label"][0]): pytest.approx(loudness(e), abs=0.01)
          for e in examples.values()} == {1: 0.3, 2: 0.4}
  # What the edited list says would be lost, and the numbers of the classes.
  list_sports(path, films)
  capsys.readouterr()
  build(tmp_path / "other", films, annotations=path)
  assert f"{films}/clips.csv: not read, as --annotations is given\n" in (
      capsys.readouterr().out)
  (output / "classes.txt").unlink()
  with pytest.raises(UserError, match="lists/classes.txt: no such file, expecte"
                     "d the classes of sports in the order of their numbers"):
    build(tmp_path / "unnumbered", str(output))


def test_names_that_spreadsheets_take_for_formulas(tmp_path):
  touch(tmp_path, "-a.mp4")
  (tmp_path / "list.csv").write_text("-a,0,1,run,train\n")
  list_sports(str(tmp_path / "list.csv"), str(tmp_path))
  assert rows(tmp_path / "clips.csv")[1][0] == "./-a.mp4"
  span, = clips_csv.read(str(tmp_path / "clips.csv")).spans()
  assert span.file == "-a.mp4"


def test_a_list_beside_classes_that_do_not_fit(tmp_path):
  touch(tmp_path, "a.mp4", "a.wav")
  (tmp_path / "clips.csv").write_text(
      "video_path,start,end,label,split\na.mp4,0,1,run,train\n"
      "a.mp4,0,1,walk,train\n")

  def find(**files):
    for name, text in files.items():
      (tmp_path / f"{name}.txt").write_text(text)
    return Clips(data_dir=str(tmp_path)).find(
        str(tmp_path), Options(), None)

  found = find()
  span, = found.spans()
  assert span.labels == found.classes == ("run", "walk")
  assert find(classes="walk\n\n run \n").classes == ("walk", "run")
  for text, match in (
      ("run\nwalking\n", "clips.csv: row 3, column label: 'walk', expected a "
       "class of classes.txt beside it"),
      ("", "clips.csv: row 2, column label: 'run'"),
      ("run\nwalk\nrun\n", "classes.txt: line 3: 'run' is in line 1")):
    with pytest.raises(UserError, match=match):
      find(classes=text)
  (tmp_path / "classes.txt").unlink()
  (tmp_path / "clips.csv").write_text(
      f"video_path,start,end,sound_path\na.mp4,0,1,{tmp_path}/./a.wav\n"
      "a.mp4,1,2,b.wav\n")
  found = find()
  assert [span.sound for span in found.spans()] == ["a.wav"]
  assert found.rejected == [("a.mp4:1.000-2.000", "a.mp4",
                       "row 3: no such file of sound: b.wav")]
  (tmp_path / "clips.csv").write_text(
      "video_path,start,end,sound_path\na.mp4,0,1,a.wav\na.mp4,0,1,\n")
  with pytest.raises(UserError, match="row 3, column sound_path: '', but "
                     "'a.wav' for the same clip in row 2"):
    find()


# ---- what the file system refuses

@pytest.fixture
def disk(tmp_path):
  """A small file system of its own, and a function that remounts it."""
  folder = tmp_path / "disk"
  folder.mkdir()

  def mount(options, *what):
    return subprocess.run(["mount", *what, "-o", options, folder],
                          capture_output=True).returncode

  try:
    if mount("size=64k", "-t", "tmpfs", "tmpfs"):
      pytest.skip("needs the right to mount")
  except FileNotFoundError:
    pytest.skip("needs mount")
  yield folder, lambda options: mount(f"remount,{options}")
  subprocess.run(["umount", folder], check=True)


def test_a_read_only_folder(tmp_path, media, disk, capsys):
  folder, remount = disk
  path, films = make_sports(tmp_path / "s", media)
  for name in "abc":  # so many as fit
    for file in pathlib.Path(films).glob(f"{name}.m*"):
      (folder / file.name).write_bytes(file.read_bytes())
  assert not remount("ro")
  with pytest.raises(UserError, match="/missing.csv: cannot be written: .*[Rr]"
                     "ead-only.*; --output=FOLDER writes elsewhere"):
    list_sports(path, str(folder))
  list_sports(path, str(folder), output=str(tmp_path / "out"))
  assert rows(tmp_path / "out/clips.csv")[1][0] == f"{folder}/a.mkv"
  assert not remount("rw")
  (folder / "filler").write_bytes(b"\0" * (os.statvfs(folder).f_bavail *
                                           os.statvfs(folder).f_frsize))
  before = sorted(os.listdir(folder))
  with pytest.raises(UserError, match="/missing.csv: cannot be written: .*No "
                     "space left"):
    list_sports(path, str(folder))
  assert sorted(os.listdir(folder)) == before


def test_paths_that_are_something_else(tmp_path, media):
  path, films = make_sports(tmp_path / "s", media)
  for output, match in (
      (path, f"--output={path}: .*File exists"),
      (f"{path}/x", "--output=.*list.csv/x: .*Not a directory")):
    with pytest.raises(UserError, match=match):
      list_sports(path, films, output=output)
  with pytest.raises(UserError, match=f"--manual_dir={path}: no such folder"):
    list_sports(path, path)
  for name in "coverage.csv", "classes.txt":
    os.mkdir(f"{films}/{name}")
    with pytest.raises(UserError, match=f"{name}: is there already"):
      list_sports(path, films)
    with pytest.raises(UserError, match=f"{name}: cannot be written: .+"):
      list_sports(path, films, overwrite=True)
    os.rmdir(f"{films}/{name}")
  assert not os.path.exists(f"{films}/clips.csv")


# ---- what is missing

def test_labels_and_splits_in_a_table():
  clips = [
      Listed("a", ("test", "train"), 0.5, 2, ("x, y", "z")),
      Listed("b", ("train",), labels=("z",)), Listed("c", ())]
  listing = Listing(clips, ("z", "x, y", "w", "v", "u", "t"))
  matches = matching.Matches(
      [matching.Match(clips[1], "b.mp4", None, None)],
      [(clips[0], "no, file"), (clips[2], "in no split")])
  made = coverage.tables(listing, matches)
  assert made["missing.csv"].decode().splitlines() == [
      "id,reason,split,label",
      'a:0.500-2.000,"no, file",train test,"x, y; z"', "c,in no split,,"]
  assert made["coverage.csv"].decode().splitlines() == [
      "split,label,listed,there", "train,z,2,1", 'train,"x, y",1,0', ",,1,0",
      "test,z,1,0", 'test,"x, y",1,0']
  assert coverage.line(listing, matches) == (
      "1 clips (train 1 of 2, test 0 of 1), missing 1, in no split 1; 6 "
      "classes, 5 of them without any clip: x, y; w; v; ...")
