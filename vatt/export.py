"""A trained model as a folder for use elsewhere.

  python -m vatt.export --workdir=DIR --to=saved_model --out=FOLDER
  python -m vatt.export --workdir=DIR --to=safetensors --out=FOLDER

DIR is the workdir of a run or of a converted model, or a folder that this
wrote; the newest checkpoint is taken. FOLDER is new or empty, and may lie in
DIR. It comes whole or not at all; what a kill leaves is beside it and ends in
.tmp. For `vatt-export` read `python -m vatt.export`.

A SavedModel runs with TensorFlow alone: `tf.saved_model.load(FOLDER)` has the
functions `video` (uint8 [n, T, H, W, 3]), `audio` (int16 [n, S, 1]), `text`
(int32 [n, W], ids) and `sentences` (string [n]), each also a signature of that
name. They return what the model makes of a window, not normalized: `video_va`,
`video_vt`, `video_features` and so on, or `logits`. See `vatt/exports.py`.

safetensors are the weights alone, by name, without code.

Either has config.json and the words, and is loaded by `vatt.load(FOLDER)`, by
--workdir of the programs that use a model, and by --config.init.
"""
import os

from absl import flags

from vatt import cli
from vatt.errors import UserError

KINDS = ("saved_model", "safetensors")

cli.define_workdir("Of a trained model.")
TO = flags.DEFINE_enum("to", None, KINDS, "What to write.")
OUT = flags.DEFINE_string("out", None, "Folder to write, new or empty.")
cli.require("to")
cli.require("out")


def main() -> None:
  """Loads the model, and writes."""
  out = os.path.expanduser(OUT.value)
  if "://" not in out:
    out = os.path.abspath(out)
    if not os.path.isdir(os.path.dirname(out)):
      raise UserError(f"--out={OUT.value}: expected a new folder in one that "
                      "is there")

  from vatt import exports, restore

  exports.check_new(out)
  trained = restore.load_model(cli.workdir())
  written = exports.write(out, TO.value, *trained)
  weights = trained.model.count_params()
  print(f"{out}: step {trained.step}, {weights:,} weights, "
        f"{sum(written.values()) / 1e6:.3g} MB in {len(written)} files")


if __name__ == "__main__":
  cli.run(main)
