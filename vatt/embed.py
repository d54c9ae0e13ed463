"""Vectors of files: what a trained model makes of videos and sounds.

  python -m vatt.embed FILE... --workdir=DIR --out=vectors.npz
      [--modalities=video,audio] [--windows=4 | --windows=all] [--each]

FILE is any file of video or sound, or a folder, of which all media files are
taken. DIR is the workdir of a run, a converted or an exported model. For
`vatt-embed` read `python -m vatt.embed`.

The .npz has `path` [n], and float32 [n, E] by the name of the space: `video_va`
and `audio_va`, near each other where picture and sound belong together;
`video_vt` and `audio_vt`, near the `text_vt` of what they show; and features of
the towers, `video_features` and `audio_features`. Vectors have unit length, and
are NaN of what a file does not have. A file is seen in `--windows`, evenly
spread, or in all, end to end, and its vector is their mean. With --each every
window is a row: `path` [W] is that of its file, `time` [W, 2] the seconds at
which it starts and ends.

Files that cannot be used are left out and listed.
"""
import io
import os

from absl import flags

from vatt import cli
from vatt.errors import UserError, one_line

cli.define_workdir("Of a trained model.")
OUT = flags.DEFINE_string("out", None, "File to write, .npz.")
MODALITIES = flags.DEFINE_list(
    "modalities", [], "Of video and audio; default those that the model has.")
EACH = flags.DEFINE_boolean("each", False, "A row a window, not a file.")
NORMALIZE = flags.DEFINE_boolean(
    "normalize", True, "Whether vectors are scaled to unit length.")
cli.define_windows()
cli.require("out")


def main(arguments: list[str]) -> None:
  """Embeds the files, and writes."""
  out = os.path.expanduser(OUT.value)
  if not out.endswith(".npz") or not os.path.isdir(os.path.dirname(out) or "."):
    raise UserError(f"--out={OUT.value}: expected a file of a folder that is "
                    "there, whose name ends in .npz")
  paths, windows = cli.media_files(arguments), cli.windows()

  import numpy as np  # what takes seconds comes after the command line's errors

  from vatt import files, findings, host, inference

  host.hold_memory()
  model = inference.Model(cli.workdir())
  for modality in MODALITIES.value:
    model.require(modality)
    if modality == "text":
      raise UserError("--modalities=text: expected video or audio, which files "
                      "have")
  found = model.find(paths, MODALITIES.value or model.signals, windows)
  findings.tell(found, [one.used for one in found])
  found = [one for one in found if one.used]
  arrays = {}
  for name in found[0].values.keys() - {"logits"}:
    arrays[name] = np.concatenate([
        one.windows(name, NORMALIZE.value) for one in found
    ]) if EACH.value else findings.means(found, name, NORMALIZE.value)
  print("\n".join(f"{name} {list(arrays[name].shape)}"
                  for name in sorted(arrays)))
  rows = [len(one.times) if EACH.value else 1 for one in found]
  arrays["path"] = np.repeat([one.name for one in found], rows)
  if EACH.value:
    arrays["time"] = np.concatenate([one.times for one in found])
  content = io.BytesIO()
  np.savez(content, **arrays)
  try:
    files.write_whole(out, content.getvalue())
  except files.REFUSED as error:
    raise UserError(f"--out={OUT.value}: cannot be written ({one_line(error)}),"
                    " expected a file that can be") from None
  print(f"{out}: {len(found)} of {len(paths)} files")


if __name__ == "__main__":
  cli.run(main, arguments=True)
