"""What several workers must have in common before the first step.

Each reads its own command line, code, data and workdir. Workers that differ in
one of them would train on without a word, to weights that are nobody's.
"""
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from ml_collections import FrozenConfigDict

from vatt import distribute
from vatt.data.sources import Source
from vatt.errors import Temporary, UserError, one_line
from vatt.workdir import flat

# Paths, which may be others on other machines: what lies there is compared.
OWN_FIELDS = ("data.data_dir", "data.vocabulary")


def facts_of(config: FrozenConfigDict, data_sources: Sequence[Source],
             words: Sequence[str] = (), **others: Any) -> dict[str, Any]:
  """What a run is made of, by name.

  Args:
    config: resolved.
    data_sources: the splits that are read.
    words: the vocabulary, or the names of the classes.
    **others: by name.
  """
  # First what others follow from.
  facts = {"the code's SHA-256": code_sha256(), **others}
  facts |= {f"the records of {source.name}, split '{source.split}'":
            source.index.fingerprint() for source in data_sources}
  facts["the words' SHA-256"] = hashlib.sha256(
      "\n".join(words).encode()).hexdigest()
  return facts | {
      f"config.{field}": value for field, value in flat(config).items()
      if field not in OWN_FIELDS}


def agree(strategy: tf.distribute.Strategy,
          facts: Callable[[], Mapping[str, Any]], workdir: str,
          error: UserError | None = None) -> None:
  """Returns if all workers have the same facts; every worker must call it.

  Args:
    strategy: of the workers.
    facts: returns them by name, of whatever JSON has; called where there are
      several workers, and no error.
    workdir: this worker's, for errors.
    error: what kept this worker from having facts.

  Raises:
    UserError: they differ, or a worker has an error.
  """
  if not distribute.several_workers(strategy):
    if error:
      raise error
    return
  mine = {"facts": {} if error else dict(facts())}
  if error:
    mine |= {"error": one_line(error), "code": error.code}
  found = [json.loads(text) for text in distribute.gather_texts(
      strategy, json.dumps(mine))]
  if error:
    raise error
  for number, theirs in enumerate(found):
    if "error" in theirs:
      kind = Temporary if theirs["code"] == Temporary.code else UserError
      raise kind(f"worker {number}: {theirs['error']}")
  first = found[0]["facts"]
  for number, theirs in enumerate(found):
    for name in {**first, **theirs["facts"]}:
      values = first.get(name), theirs["facts"].get(name)
      if values[0] != values[1]:
        raise UserError(
            f"workers differ: {name} is {values[0]!r} for worker 0 and "
            f"{values[1]!r} for worker {number}; expected the same command, "
            "code and data for each, and a --workdir that all share ("
            f"{workdir} here)")


def code_sha256() -> str:
  """SHA-256 of this package's code."""
  digest = hashlib.sha256()
  folder = pathlib.Path(__file__).parent
  for path in sorted(folder.rglob("*.py")):
    digest.update(f"{path.relative_to(folder)}\n".encode())
    digest.update(path.read_bytes())
  return digest.hexdigest()
