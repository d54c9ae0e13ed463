"""The values that the published release computes, and models to compare."""
import json
import math
import os
import pathlib

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from vatt.models.convert import released
from vatt.models.vatt import VATT, Classifier

FOLDER = pathlib.Path(os.environ.get("VATT_GOLDEN_DIR", "missing"))
NO_DROPOUT = dict(drop_rate=0.0, dropout=0.0, classifier_dropout=0.0,
                  remat=False)


def fine_tuned():
  """Names of the fixtures of fine-tuned models, as the folder has them."""
  return sorted(path.stem.removeprefix("ft_")
                for path in FOLDER.glob("ft_*.npz"))


def layouts():
  """Names of the released layouts, as the folder has them."""
  return sorted(path.stem.removeprefix("variables_")
                for path in FOLDER.glob("released/variables_*"))


def rounding(dtype, terms):
  """What rounding may change in a sum, or in sums of sums; relative to the
  largest of what is added up.

  An addition is off by anything between minus and plus half of epsilon, with a
  deviation of epsilon/√12. So n of them, one after another, are off by
  epsilon·√(n/12): errors of either sign, not all of one, as the worst case
  n·epsilon/2 has it (Higham and Mary, A new approach to probabilistic rounding
  error analysis, 2019). The bound is 3.5 deviations, epsilon·√n. It is met with
  some to spare, for processors add in blocks; a formula that is wrong, if only
  by an epsilon of 1e-5 for 1e-6 within a norm, exceeds it.

  Args:
    dtype: of floating-point numbers.
    terms: how many are added, one sum after another.
  """
  return np.finfo(dtype).eps * np.sqrt(terms)


class Golden:
  """The folder, which remembers what was taken of it.

  Args:
    folder: pathlib.Path.
  """

  def __init__(self, folder):
    self.folder = folder
    self.used = set()
    self.sizes = self.json("sizes.json")

  def json(self, name):
    self.used.add(name)
    return json.loads((self.folder / name).read_text())

  def npz(self, name):
    """The arrays of NAME.npz by their names."""
    self.used.add(f"{name}.npz")
    return np.load(self.folder / f"{name}.npz")

  def checkpoint(self, name):
    """The prefix of the checkpoint that a file of that name was made with."""
    self.used.add(f"ckpt_{name}")
    index, = (self.folder / f"ckpt_{name}").glob("*.index")
    return str(index.with_suffix(""))

  def values(self, name):
    """The values of the variables of a checkpoint by their keys."""
    reader = tf.train.load_checkpoint(self.checkpoint(name))
    return {key: reader.get_tensor(key)
            for key in reader.get_variable_to_shape_map()}

  def terms(self, modality):
    """How many numbers are added on the longest way from a signal to an
    embedding, one sum after another.

    For a token's patch or word; in a block for the mean and variance of two
    norms, for queries, keys and values, scores, softmax, mixture, the layer
    behind it and the two of the MLP; for the last norm and a head's two layers.
    """
    sizes = self.sizes
    width, mlp = sizes["width"], sizes["mlp_dim"]
    patch, tokens = dict(
        video=(3 * math.prod(sizes["video_patch"]), math.prod(
            size // part for size, part in zip(
                sizes["video"], sizes["video_patch"]))),
        audio=(sizes["audio_patch"],
               sizes["audio_samples"] // sizes["audio_patch"]),
        text=(sizes["text_embedding"], sizes["max_words"]))[modality]
    block = (2 * 2 * width + width + width // sizes["num_heads"]
             + 2 * (1 + tokens) + width + width + mlp)
    return (patch + sizes["num_layers"] * block + 2 * width + width
            + sizes["s_va"])

  def describe(self, name):
    """The path of a checkpoint, and what it holds."""
    path = self.checkpoint(name)
    return path, released.describe(
        released.read_shapes(path), path, self.sizes["head_width"])

  def vatt(self, name, policy="float32", **fields):
    """A VATT with the weights of a checkpoint; sets the global policy."""
    tf.keras.mixed_precision.set_global_policy(policy)
    path, facts = self.describe(name)
    if "text" in facts["model"]["encoders"]:  # what no variable tells
      facts["model"]["encoders"]["text"]["max_distance"] = (
          self.sizes["relative_max_distance"])
    model = VATT(
        ConfigDict(facts["model"] | NO_DROPOUT | fields), self.sizes["video"],
        (self.sizes["audio_samples"], 1), self.sizes["max_words"])
    released.load(path, model)
    return model

  def classifier(self, name, shape, policy="float32"):
    """A Classifier of inputs of a shape with the weights of a checkpoint; sets
    the global policy."""
    tf.keras.mixed_precision.set_global_policy(policy)
    path, facts = self.describe(name)
    model = Classifier(ConfigDict(facts["model"] | NO_DROPOUT),
                       facts["modality"], shape, facts["num_classes"])
    released.load(path, model, resize=True)
    return model

  def batch(self, arrays):
    """A batch of a VATT, of the inputs in a file; captions clip by clip."""
    text = arrays["text"].reshape(
        len(arrays["video"]), self.sizes["captions_per_clip"], -1)
    return dict(video=arrays["video"], audio=arrays["audio"], text=text)
