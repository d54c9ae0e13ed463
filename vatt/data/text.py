"""Sentences to word ids: words, vocabularies, word vectors.

Id 0 is padding, 1 any word out of the vocabulary, the words count from 2.
"""
import collections
import functools
import itertools
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from vatt.errors import UserError

PADDING, UNKNOWN, FIRST_WORD = 0, 1, 2
SHOWN = 10  # words, or sentences, that a message names


def normalize(sentences: tf.Tensor) -> tf.Tensor:
  """Lower-cases sentences and leaves words with single spaces between them.

  A word is a run of letters with their marks, digits and inner apostrophes, of
  any script.

  Args:
    sentences: string tensor of any shape, UTF-8.

  Returns:
    string tensor of that shape.
  """
  text = tf.strings.lower(sentences, encoding="utf-8")
  text = tf.strings.regex_replace(text, "[’ʼ]", "'")
  text = tf.strings.regex_replace(text, r"[^\p{L}\p{M}\p{N}']+", " ")
  # Quotation marks are not part of the word that they touch.
  text = tf.strings.regex_replace(text, r"'*( |$)'*", r"\1")
  return tf.strings.strip(tf.strings.regex_replace(text, "^'+", ""))


def compose(sentence: str) -> str:
  """Composes letters and their marks (NFC): the same word is the same string,
  however it was typed. What graphs get has been through it; see `make_table`.
  """
  return unicodedata.normalize("NFC", sentence)


def load_vocabulary(path: str) -> list[str]:
  """Reads a vocabulary, one word a line.

  A byte order mark, line ends of Windows and blanks around a word are left out,
  and words are composed (NFC), but for one that would then be there twice.
  Nothing else is changed: written again, the words are read as the same. Warns
  if some can never be found in a sentence, see `ids_of`.

  Returns:
    The words; the id of word i is 2 + i.

  Raises:
    UserError: no such file, an empty line or a word twice; no word in it that a
      sentence could have.
  """
  try:
    with tf.io.gfile.GFile(path, "rb") as f:
      lines = f.read().decode().lstrip("\ufeff").split("\n")
  except (tf.errors.OpError, UnicodeDecodeError) as error:
    reason = ("not UTF-8" if isinstance(error, UnicodeDecodeError)
              else "cannot be read")
    raise UserError(f"{path}: {reason}, expected a vocabulary, one word a line "
                    "(scripts/build_vocabulary.py makes one)") from None
  # Not other white space, of any script: a word of word2vec may end in some.
  vocabulary = [line.strip(" \t\r") for line in lines]
  while vocabulary and not vocabulary[-1]:  # behind the last word
    vocabulary.pop()
  if not vocabulary:
    raise UserError(f"{path}: empty, expected one word a line")
  numbers = {}
  for number, word in enumerate(vocabulary, 1):
    if not word.strip():
      raise UserError(f"{path}: line {number} is empty, expected a word")
    if word in numbers:
      raise UserError(f"{path}: line {number} has '{word}', as line "
                      f"{numbers[word]} has; expected each word once")
    numbers[word] = number
  for i, word in enumerate(vocabulary):
    if compose(word) not in numbers:
      vocabulary[i] = compose(word)
      numbers[vocabulary[i]] = i
  found = set(ids_of(vocabulary).values())
  lost = [word for i, word in enumerate(vocabulary, FIRST_WORD)
          if i not in found]
  if not found:
    raise UserError(
        f"{path}: no line is a word of a sentence; the first is "
        f"{_shown(lost[0])}, expected one word a line and nothing beside it, "
        "no numbers of word vectors")
  if lost:
    _warn_once(f"{path}: {len(lost)} of {len(vocabulary)} words can never be "
               f"found in a sentence: {_listed(lost)}")
  return vocabulary


@functools.cache
def _warn_once(message):
  """Warns of a file that is read many times in a run."""
  logging.warning("%s", message)


def ids_of(vocabulary: Sequence[str]) -> dict[str, int]:
  """The ids of the words that a sentence can have, as `normalize` leaves them.

  A word of the vocabulary that is not so itself stands for what `normalize`
  makes of it ("Dog" for "dog"), unless another one is that, or stands for it
  already. So all keep their ids, but such a further one is never found, nor are
  several words ("New_York") or none ("...").
  """
  ids = {}
  normal = [word.decode() for word in normalize(
      tf.constant(list(map(compose, vocabulary)), tf.string)).numpy()]
  for exact in (True, False):
    for i, (word, found) in enumerate(zip(normal, vocabulary), FIRST_WORD):
      if (word == found) == exact and word and " " not in word:
        ids.setdefault(word, i)
  return ids


def make_table(vocabulary: Sequence[str]) -> tf.lookup.StaticHashTable:
  """The lookup table word -> id of a list of words; see `ids_of`.

  It has words in their decomposed form (NFD) as well: graphs cannot compose,
  and records and callers of an export may have either.
  """
  ids = ids_of(vocabulary)
  ids = {unicodedata.normalize("NFD", word): i for word, i in ids.items()} | ids
  return tf.lookup.StaticHashTable(
      tf.lookup.KeyValueTensorInitializer(
          tf.constant(list(ids)), np.array(list(ids.values()), np.int64)),
      default_value=UNKNOWN)


def encode(table: tf.lookup.StaticHashTable, sentences: tf.Tensor,
           num_words: int) -> tuple[tf.Tensor, tf.Tensor]:
  """Turns sentences into word ids, clipped or padded to a number of words.

  Args:
    table: the lookup table word -> id.
    sentences: string [..., K].
    num_words: W.

  Returns:
    ids int32 [..., K, W] and mask bool [..., K, W], true where a word is.
  """
  shape = tf.concat([tf.shape(sentences), [num_words]], 0)
  flat = tf.reshape(normalize(sentences), [-1])
  split = tf.strings.split(flat).to_tensor("", shape=[None, num_words])
  mask = tf.not_equal(split, "")
  ids = tf.where(mask, tf.cast(table.lookup(split), tf.int32), PADDING)
  ids, mask = tf.reshape(ids, shape), tf.reshape(mask, shape)
  static = sentences.shape.concatenate([num_words])
  return tf.ensure_shape(ids, static), tf.ensure_shape(mask, static)


class Understood(NamedTuple):
  """What a model understands of a sentence: words, each once and in order.

  Attributes:
    sentence: the sentence.
    known: those that the vocabulary has; nothing is understood without one.
    unknown: those that it does not have, which to the model are all the same.
    dropped: those behind the last that the model reads.
    num_words: how many it reads.
  """
  sentence: str
  known: list[str]
  unknown: list[str]
  dropped: list[str]
  num_words: int

  @property
  def problem(self) -> str:
    """What is not understood, in a line; empty if all is."""
    problems = []
    if not self.known and not self.unknown:
      problems.append("has no word, expected letters or digits")
    elif not self.known:
      problems.append(
          f"of its words, {_listed(self.unknown)}, the vocabulary has none, "
          "expected words that the model knows")
    elif self.unknown:
      problems.append(f"not in the vocabulary: {_listed(self.unknown)}")
    if self.dropped:
      problems.append(f"only the first {self.num_words} words are read, not: "
                      f"{_listed(self.dropped)}")
    return f"{_shown(self.sentence)}: {'; '.join(problems)}" * bool(problems)


def understand(vocabulary: Sequence[str], sentences: Sequence[str],
               num_words: int) -> list[Understood]:
  """What a model understands of sentences, of which it reads so many words."""
  ids, found = ids_of(vocabulary), []
  normal = normalize(
      tf.constant(list(map(compose, sentences)), tf.string)).numpy()
  for sentence, words in zip(sentences, normal):
    words = words.decode().split()
    read, rest = (dict.fromkeys(part) for part in (
        words[:num_words], words[num_words:]))
    found.append(Understood(
        sentence, [word for word in read if word in ids],
        [word for word in read if word not in ids], list(rest), num_words))
  return found


def warn_of(understood: Iterable[Understood], where: str) -> None:
  """Warns of what was not understood, in a few lines.

  Args:
    understood: of `understand`.
    where: the sentences come from.
  """
  problems = [one.problem for one in understood if one.problem]
  for problem in problems[:SHOWN]:
    logging.warning("%s: %s", where, problem)
  if len(problems) > SHOWN:
    logging.warning("%s: %d more sentences are not understood, or not all of "
                    "them", where, len(problems) - SHOWN)


def _listed(words):
  more = len(words) - SHOWN
  return ", ".join(words[:SHOWN]) + f" and {more} more" * (more > 0)


def _shown(text, size=100):
  return repr(text if len(text) <= size else text[:size] + "…")


def build_vocabulary(captions: Iterable[str], size: int) -> list[str]:
  """Finds the most frequent words.

  Args:
    captions: the sentences to count words in.
    size: the most words to keep.

  Returns:
    The words, most frequent first, alphabetically where as frequent.
  """
  counts = collections.Counter()
  captions = iter(captions)
  while chunk := list(itertools.islice(captions, 4096)):
    chunk = tf.constant(list(map(compose, chunk)))
    text = b" ".join(normalize(chunk).numpy().tolist())
    counts.update(text.decode().split())
  ranked = sorted(counts, key=lambda word: (-counts[word], word))
  return ranked[:size]


def load_word_vectors(path: str, vocabulary: Sequence[str], width: int
                      ) -> np.ndarray:
  """Loads word vectors to start the word embedding from.

  Args:
    path: a text file in word2vec's form (a line a word, with or without the
      first line of counts), or a .npy file of the whole embedding table.
    vocabulary: the words, in the order of their ids.
    width: width of the word embedding.

  Returns:
    float32 [2 + words, width]. From a text file, padding is zero; the row of
    unknown words and words that the file lacks get normal noise with the
    standard deviation of the others. How many it has is logged.

  Raises:
    UserError: the file is missing, of another form or of other sizes.
  """
  rows = FIRST_WORD + len(vocabulary)
  try:
    if path.endswith(".npy"):
      with tf.io.gfile.GFile(path, "rb") as f:
        vectors = np.load(f, allow_pickle=False)
      if vectors.shape != (rows, width):
        raise UserError(f"{path}: word vectors of shape {vectors.shape}, "
                        f"expected {(rows, width)}: 2 + {len(vocabulary)} "
                        "words, width of the embedding")
      vectors = vectors.astype(np.float32)
    else:
      vectors = _word2vec(path, vocabulary, width)
  except tf.errors.OpError:
    raise UserError(f"{path}: cannot be read, expected word vectors") from None
  except ValueError as error:
    if isinstance(error, UserError):
      raise
    raise UserError(f"{path}: {error}, expected word vectors (word2vec text "
                    "or .npy)") from None
  if not np.isfinite(vectors).all():
    raise UserError(f"{path}: has values that are infinite or not a number, "
                    "expected finite ones")
  return vectors


def _word2vec(path, vocabulary, width):
  row_of = ids_of(vocabulary) | {
      word: row for row, word in enumerate(vocabulary, FIRST_WORD)}
  vectors = np.zeros([FIRST_WORD + len(vocabulary), width], np.float32)
  found = np.zeros(len(vectors), bool)
  for word, values in _lines_of_word2vec(path, width):
    row = row_of.get(word, row_of.get(compose(word)))
    if row is not None and not found[row]:
      vectors[row], found[row] = np.array(values, np.float32), True
  if not found.any():
    raise UserError(f"{path}: none of its words is in the vocabulary, whose "
                    f"first is '{vocabulary[0]}'")
  count, total = np.count_nonzero(found), len(vocabulary)
  logging.log(
      logging.INFO if 2 * count >= total else logging.WARNING,
      "%s: has vectors of %d of the vocabulary's %d words (%.0f %%), the "
      "others start by chance", path, count, total, 100 * count / total)
  missing = ~found
  missing[PADDING] = False
  vectors[missing] = np.random.default_rng(0).normal(
      0.0, vectors[found].std(), [missing.sum(), width])
  return vectors


def _lines_of_word2vec(path: str, width: int
                       ) -> Iterator[tuple[str, list[bytes]]]:
  """Yields the word and the values of each line of a text file."""
  with tf.io.gfile.GFile(path, "rb") as f:
    start = f.read(4096)
    if start[:2] == b"\x1f\x8b" or b"\0" in start:
      kind = "compressed" if start[:2] == b"\x1f\x8b" else "binary"
      raise UserError(f"{path}: {kind}, expected word vectors as text (a line "
                      "a word, its values behind it) or .npy")
    f.seek(0)
    first = True
    for number, line in enumerate(f, 1):
      # As bytes, so that only ASCII's white space ends a word; it may have
      # blanks in it nevertheless.
      fields = line.split()
      if not fields or (number == 1 and len(fields) == 2
                        and fields[0].isdigit() and fields[1].isdigit()):
        continue  # The counts of words and values, or nothing.
      count = len(fields) - 1
      if first:  # Are there more values than expected?
        count = min(count, sum(1 for _ in itertools.takewhile(
            _is_number, reversed(fields))))
      if count < width or (first and count > width):
        raise UserError(f"{path}: line {number} has {count} values, "
                        f"expected the embedding's width of {width}")
      first = False
      yield (b" ".join(fields[:-width]).decode(errors="replace"),
             fields[-width:])


def _is_number(field):
  try:
    float(field)
  except ValueError:
    return False
  return True
