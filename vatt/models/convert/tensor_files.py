"""Safetensors as others leave them: a file, shards of an index, a folder."""
import json
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
import tensorflow as tf

from vatt.errors import UserError, one_line

# Of weights. Others are quantized: numbers without their scale.
FLOATS = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4"),
          "F16": np.dtype("<f2"), "BF16": tf.bfloat16.as_numpy_dtype}
NAMES = ("model.safetensors", "model.safetensors.index.json")
SHARD = re.compile(r"-\d+-of-0*([2-9]|[1-9]\d+)\.safetensors$")


class Tensor(NamedTuple):
  """Where a tensor lies.

  Attributes:
    path: of its file.
    dtype: as safetensors names it.
    shape: of it.
    offset, size: of its bytes in the file.
  """
  path: str
  dtype: str
  shape: tuple[int, ...]
  offset: int
  size: int


def find(path: str) -> str:
  """The file or index that a path of either, or of their folder, means.

  Raises:
    UserError: a folder without, or one shard of several.
  """
  if os.path.isdir(path):
    names = [name for name in NAMES if os.path.exists(os.path.join(path, name))]
    if not names:
      found = ", ".join(sorted(os.listdir(path))[:5]) or "nothing"
      raise UserError(f"{path}: a folder with {found}, expected "
                      f"{' or '.join(NAMES)} in it")
    return os.path.join(path, names[0])
  if SHARD.search(path):
    raise UserError(f"{path}: one of several shards, expected their index "
                    f"({NAMES[1]}) or their folder")
  return path


def read_beside(path: str, name: str = "config.json") -> dict[str, Any]:
  """A JSON file beside another; {} if there is none.

  Args:
    path: of `find`.
    name: of the file.

  Raises:
    UserError: it is no JSON object.
  """
  beside = os.path.join(os.path.dirname(path), name)
  return _read_json(beside) if os.path.exists(beside) else {}


def list_tensors(path: str) -> dict[str, Tensor]:
  """The tensors of a safetensors file, or of those that an index names.

  Args:
    path: of `find`.

  Raises:
    UserError: a file is missing or damaged, or is not as the index says.
  """
  if not path.endswith(".json"):
    return _list_file(path)
  shards = _read_json(path).get("weight_map")
  if not (shards and isinstance(shards, Mapping)
          and all(isinstance(name, str) for name in shards.values())):
    raise UserError(f"{path}: no index, expected a weight_map in it: the file "
                    "of each tensor")
  folder, tensors = os.path.dirname(path), {}
  names = sorted(set(shards.values()))
  for name in names:
    if not os.path.exists(os.path.join(folder, name)):
      raise UserError(f"{path}: {name} is missing, one of its {len(names)} "
                      "shards")
  for name in names:
    shard = os.path.join(folder, name)
    found = _list_file(shard)
    for key in sorted({key for key in shards if shards[key] == name}
                      ^ set(found)):
      raise UserError(f"{shard}: {key} is {'' if key in found else 'not '}in "
                      f"it, expected {shards.get(key, 'it nowhere')}, as "
                      f"{os.path.basename(path)} says")
    tensors |= found
  return tensors


def read(key: str, tensor: Tensor) -> np.ndarray:
  """The values of a tensor, in float32.

  Args:
    key: of the tensor, for errors.
    tensor: of one of FLOATS.

  Raises:
    UserError: they are not finite, or the file is no longer there.
  """
  try:
    with open(tensor.path, "rb") as file:
      file.seek(tensor.offset)
      data = np.frombuffer(file.read(tensor.size), FLOATS[tensor.dtype])
      data = data.reshape(tensor.shape)
  except (OSError, ValueError) as error:
    raise UserError(f"{tensor.path}: cannot read {key}: {one_line(error)}"
                    ) from None
  with np.errstate(over="ignore"):
    value = data.astype(np.float32)
  wrong = value.size - np.count_nonzero(np.isfinite(value))
  if wrong:
    raise UserError(f"{tensor.path}: {key} has {wrong} of {value.size} values "
                    "that are NaN or infinite, expected finite ones")
  return value


def _list_file(path):
  try:
    with safetensors.safe_open(path, "np"):  # sees to it that it is whole
      pass
    with open(path, "rb") as file:
      length = int.from_bytes(file.read(8), "little")
      header = json.loads(file.read(length))
  except FileNotFoundError:
    raise UserError(f"{path}: not found, expected a safetensors file") from None
  except (OSError, safetensors.SafetensorError, ValueError) as error:
    raise UserError(f"{path}: not a safetensors file: {one_line(error)}"
                    ) from None
  tensors = {}
  for key, entry in header.items():
    if key != "__metadata__":
      begin, end = entry["data_offsets"]
      tensors[key] = Tensor(path, entry["dtype"], tuple(entry["shape"]),
                            8 + length + begin, end - begin)
  return tensors


def _read_json(path):
  try:
    with open(path, encoding="utf-8") as file:
      found = json.load(file)
  except (OSError, ValueError) as error:
    raise UserError(f"{path}: not JSON: {one_line(error)}") from None
  if not isinstance(found, dict):
    raise UserError(f"{path}: a {type(found).__name__}, expected a JSON object")
  return found
