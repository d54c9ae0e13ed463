"""WebVTT as the tests of vtt.js have it, all files of VATT_TEST_DATA."""
import json

import pytest

from vatt.data.ingest.subtitles import parse

# Files that we read otherwise, and why.
HEADER = "cues without a right first line are read, as those of SubRip are"
OTHERWISE = {
    "file-layout/bom-garbage-data": HEADER,
    "file-layout/bom-tab-webvtt": HEADER,
    "file-layout/tab-after-bom-before-header": HEADER,
    "file-layout/newline-before-webvtt": HEADER,
    "file-layout/header-no-new-line":
        "the standard has the cue right behind the first line by now",
    "file-layout/cue-spacing":
        "a line that stays on the screen for the next cue counts once",
    "integration/id":
        "the standard has a cue below a line that has an arrow and no times by "
        "now",
    "cue-times/fraction-digits": "fewer digits than three are read",
    "cue-times/minimum-spots-over-sixty":
        "120:00.000 is two hours; vtt.js has 120 hours and skips its test, the "
        "standard has it as no time",
}
# Of cue texts that its files of expectations lack, without their tags.
TEXTS = {
    "cuetext/timestamp/basic": ["It's a blue apple tree!"],
    "cuetext/timestamp/nested": ["Hee! Hee!"],
    "cuetext/timestamp/no-end-gt": [""],
    "cuetext/timestamp/out-of-cue-range": ["That's awesome!"],
    "cuetext/timestamp/space-before-gt": ["No way!"],
}


def load(path):
  return json.loads(path.read_text()) if path.exists() else None


def expected(folder, name):
  """[(text, start, end)] of the cues that last and have a text, by its time:
  what is shown, of *-proc.json, and the times, of *.json, which may be one for
  several files."""
  path = folder / name
  shown = load(path.with_name(path.name + "-proc.json"))
  shared = [*path.parent.glob("with-data.json"),
            *path.parent.glob(f"bad-{path.parent.name}.json")]
  cues = load(path.with_suffix(".json")) or (
      load(shared[0]) if shown else {"cues": []})
  texts = TEXTS.get(name) or (
      [cue["textContent"] for cue in shown] if shown is not None else
      [cue["text"] for cue in cues["cues"]])
  assert len(texts) == len(cues["cues"])
  found = ((" ".join(text.split()), cue["startTime"], cue["endTime"])
           for text, cue in zip(texts, cues["cues"]))
  return sorted((cue for cue in found if cue[0] and cue[1] < cue[2]),
                key=lambda cue: cue[1])


def test_vtt_js(test_data):
  folder = test_data / "vtt/tests"
  names = sorted(str(path.relative_to(folder).with_suffix(""))
                 for path in folder.rglob("*.vtt"))
  if not names:
    pytest.skip("VATT_TEST_DATA has no vtt")
  assert len(names) == 267
  other = {name for name in names if parse(
      (folder / f"{name}.vtt").read_bytes()) != expected(folder, name)}
  assert other == set(OTHERWISE)
