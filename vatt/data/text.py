"""Sentences to word ids: words, vocabularies, word vectors.

Id 0 is padding, 1 any word out of the vocabulary, the words count from 2.
"""
import collections
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from vatt.errors import UserError

PADDING, UNKNOWN, FIRST_WORD = 0, 1, 2


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


def words(sentence: str) -> list[str]:
  """The normalized words of a sentence."""
  return normalize(tf.constant(sentence)).numpy().decode().split()


def load_vocabulary(path: str) -> list[str]:
  """Reads a vocabulary, one word a line.

  Returns:
    The words; the id of word i is 2 + i.

  Raises:
    UserError: no such file, no word in it, an empty line or a word twice.
  """
  try:
    with tf.io.gfile.GFile(path) as f:
      vocabulary = f.read().split("\n")
  except (tf.errors.OpError, UnicodeDecodeError) as error:
    reason = ("not UTF-8" if isinstance(error, UnicodeDecodeError)
              else "cannot be read")
    raise UserError(f"{path}: {reason}, expected a vocabulary, one word a line "
                    "(scripts/build_vocabulary.py makes one)") from None
  if vocabulary[-1] == "":
    vocabulary.pop()
  if not vocabulary:
    raise UserError(f"{path}: empty, expected one word a line")
  lines = {}
  for number, word in enumerate(vocabulary, 1):
    if not word.strip():
      raise UserError(f"{path}: line {number} is empty, expected a word")
    if word in lines:
      raise UserError(f"{path}: line {number} has '{word}', as line "
                      f"{lines[word]} has; expected each word once")
    lines[word] = number
  return vocabulary


def make_table(vocabulary: Sequence[str]) -> tf.lookup.StaticHashTable:
  """The lookup table word -> id of a list of words."""
  ids = np.arange(FIRST_WORD, FIRST_WORD + len(vocabulary), dtype=np.int64)
  return tf.lookup.StaticHashTable(
      tf.lookup.KeyValueTensorInitializer(tf.constant(vocabulary), ids),
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


def unknown_words(vocabulary: Sequence[str], sentence: str) -> list[str]:
  """The words of a sentence that the vocabulary does not have, in order."""
  known = set(vocabulary)
  return [word for word in dict.fromkeys(words(sentence)) if word not in known]


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
    text = b" ".join(normalize(tf.constant(chunk)).numpy().tolist())
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
    standard deviation of the others.

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
      return vectors.astype(np.float32)
    return _word2vec(path, vocabulary, width)
  except tf.errors.OpError:
    raise UserError(f"{path}: cannot be read, expected word vectors") from None
  except ValueError as error:
    if isinstance(error, UserError):
      raise
    raise UserError(f"{path}: {error}, expected word vectors (word2vec text "
                    "or .npy)") from None


def _word2vec(path, vocabulary, width):
  row_of = {word: FIRST_WORD + i for i, word in enumerate(vocabulary)}
  vectors = np.zeros([FIRST_WORD + len(vocabulary), width], np.float32)
  found = np.zeros(len(vectors), bool)
  with tf.io.gfile.GFile(path) as f:
    for number, line in enumerate(f, 1):
      word, *values = line.split()
      if number == 1 and len(values) == 1:
        continue  # The counts of words and values.
      if len(values) != width:
        raise UserError(f"{path}: line {number} has {len(values)} values, "
                        f"expected the embedding's width of {width}")
      row = row_of.get(word)
      if row is not None:
        vectors[row], found[row] = np.array(values, np.float32), True
  if not found.any():
    raise UserError(f"{path}: none of its words is in the vocabulary, whose "
                    f"first is '{vocabulary[0]}'")
  missing = ~found
  missing[PADDING] = False
  vectors[missing] = np.random.default_rng(0).normal(
      0.0, vectors[found].std(), [missing.sum(), width])
  return vectors
