"""MSR-VTT: https://www.microsoft.com/en-us/research/publication/
msr-vtt-a-large-video-description-dataset-for-bridging-video-and-language/

`--annotations`, what there is of
  MSRVTT_JSFUSION_test.csv (the test set 1k-A, 1,000 videos; of any name with
    `test`, but lists of more videos are refused): columns video_id, sentence
    and others;
  MSRVTT_data.json, or train_val_videodatainfo.json and
    test_videodatainfo.json: {videos: [{video_id, split: train|validate|test}],
    sentences: [{video_id, caption}]}, about 20 sentences a video;
  MSRVTT_train.9k.csv, MSRVTT_train.7k.csv (of the papers that evaluate on
    1k-A): column video_id; their captions are in the JSON.
Microsoft's page had the JSON; all of these are in the msrvtt_data.zip that came
with CLIP4Clip.

The splits: test is 1k-A, with the sentence of the CSV as the first caption,
which is the one to search by, and those of the JSON, if it is there, after it;
train (6,513 videos), validation (497) and fulltest (2,990, of which 1k-A is a
part) are those of the JSON; train9k and train7k are the two lists. Each file is
its clip: start and end in the JSON are times in the video that it was cut out
of. There are no classes.
`--manual_dir`: video9770.mp4, ... in any folders.
"""
import os
import re
from collections.abc import Iterator

import tensorflow_datasets as tfds

from vatt.data.datasets.clips import Options
from vatt.data.datasets.official import Official
from vatt.data.ingest import annotations, tables
from vatt.data.ingest.annotations import Listed, some, text, unlike
from vatt.errors import UserError

MSRVTT_SPLITS = {"train": "train", "validate": "validation",
                 "test": "fulltest"}
FORM = (f"{{videos: [{{video_id, split: {'|'.join(MSRVTT_SPLITS)}}}], "
        "sentences: [{video_id, caption}]}")
TEST_SIZE = 1000
JSON = r"(?i:.*(videodatainfo|msrvtt).*\.json)"


def read(path: str, match: re.Match) -> Iterator[Listed]:
  """Reads a file of the annotations: as of `annotations.Format`."""
  if match["json"]:
    yield from _read_json(path)
  elif match["train"]:
    others = os.listdir(os.path.dirname(path))
    if not any(re.fullmatch(JSON, name) for name in others):
      print(f"{path}: left out, as the JSON with its captions is not beside it")
      return
    for _, cells in tables.read_table(path, ("video_id",), others=True):
      yield Listed(cells["video_id"], (f"train{match['train'].lower()}",))
  else:
    for _, cells in tables.read_table(
        path, ("video_id", "sentence"), others=True, sentences=("sentence",)):
      yield Listed(cells["video_id"], ("test",),
                   captions=some(cells["sentence"]))


def _read_json(path):
  found = tables.read_json(path, FORM)
  where, videos = "top", {}
  try:
    for i, entry in enumerate(found["videos"]):
      where = f"videos[{i}]"
      splits, _ = videos.setdefault(text(entry["video_id"]), ([], []))
      splits.append(MSRVTT_SPLITS[entry["split"]])
    for i, entry in enumerate(found["sentences"]):
      where = f"sentences[{i}]"
      _, captions = videos[text(entry["video_id"])]
      captions += some(text(entry["caption"]))
  except annotations.MALFORMED as error:
    raise unlike(path, where, error, FORM) from error
  for video, (splits, captions) in videos.items():
    yield Listed(video, tuple(dict.fromkeys(splits)),
                 captions=tuple(dict.fromkeys(captions)))


def _check_test(folder, clips):
  """There are no classes; UserError if `test` is more than 1k-A."""
  count = sum("test" in clip.splits for clip in clips)
  if count > TEST_SIZE:
    raise UserError(
        f"{folder}: {count} videos in the .csv with 'test' in their names, "
        f"expected at most the {TEST_SIZE} of 1k-A: leave that list alone there"
        " (the whole test set is the split fulltest of the JSON)")
  return ()


class Msrvtt(Official, skip_registration=True):
  """Videos and sentences: splits train, validation, test (1k-A), fulltest,
  train9k, train7k."""

  VERSION = tfds.core.Version("1.1.0")
  DEFAULTS = Options(fps=12.5, size=224)
  FORMAT = annotations.Format(
      read, rf"(?i:.*test.*\.csv|.*train.*(?P<train>[79]k).*\.csv)"
      rf"|(?P<json>{JSON})",
      "MSRVTT_JSFUSION_test.csv or another .csv with 'test' in its name, "
      "MSRVTT_data.json, train_val_videodatainfo.json, ...", _check_test)
