import gzip
import logging
import unicodedata

import numpy as np
import pytest
import tensorflow as tf

from vatt.data import text
from vatt.errors import UserError

SENTENCES = {
    "A red Dog, and a CAT.": ["a", "red", "dog", "and", "a", "cat"],
    "": [],
    " \t\n...!": [],
    "don't 'quote' ''twice'' rock 'n' roll": [
        "don't", "quote", "twice", "rock", "n", "roll"],
    "It’s l’ÉTÉ": ["it's", "l'été"],
    "ΣΊΣΥΦΟΣ straße ДОМ": ["σίσυφος", "straße", "дом"],
    "日本 語 3,5 ２": ["日本", "語", "3", "5", "２"],
    "हिन्दी में": ["हिन्दी", "में"],  # Vowel signs are marks, not letters.
    "under_score snake-case x+y": ["under", "score", "snake", "case", "x", "y"],
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_words(sentence):
  normal = text.normalize(tf.constant(sentence)).numpy().decode()
  assert normal.split() == SENTENCES[sentence]
  assert text.normalize(tf.constant(normal)).numpy().decode() == normal


def test_normalize_in_tf_data_keeps_the_shape(records):
  sentences = tf.constant([["One, TWO"], ["'three'"]])
  for value in (text.normalize(sentences),
                records.in_dataset(text.normalize, sentences)):
    assert value.numpy().tolist() == [[b"one two"], [b"three"]]


def test_bytes_that_are_not_utf8_do_no_harm():
  for broken in (b"caf\xe9 ok", b"\xff\xfe", b"ok \xc3"):
    normal = text.normalize(tf.constant(broken)).numpy()
    normal.decode()  # UTF-8 now.
  assert b"ok" in normal


def test_encode_eagerly_and_in_tf_data(records):
  table = text.make_table(["dog", "cat", "l'été"])
  sentences = tf.constant([["Dog cat CAT mouse", ""], ["L’été!", "a b c d e"]])
  ids = [[[2, 3, 3], [0, 0, 0]], [[4, 0, 0], [1, 1, 1]]]
  mask = [[[1, 1, 1], [0, 0, 0]], [[1, 0, 0], [1, 1, 1]]]
  for got in (text.encode(table, sentences, 3), records.in_dataset(
      lambda s: text.encode(table, s, 3), sentences)):
    assert got[0].dtype == tf.int32 and got[1].dtype == tf.bool
    assert got[0].shape == got[1].shape == [2, 2, 3]
    np.testing.assert_array_equal(got[0], ids)
    np.testing.assert_array_equal(got[1], np.array(mask, bool))


def decomposed(sentence):
  return unicodedata.normalize("NFD", sentence)


def test_composed_or_not_a_word_is_the_same(tmp_path, records):
  """In vocabularies, word vectors, captions of any record, and queries."""
  composed, words = "L'été à Hà Nội", ["l'été", "à", "hà", "nội", "dog"]
  apart = decomposed(composed)
  assert len(apart) == len(composed) + 6
  path = tmp_path / "vocabulary.txt"
  path.write_text("\n".join(map(decomposed, words)), encoding="utf-8")
  assert text.load_vocabulary(str(path)) == words
  sentences = tf.constant([composed, apart, "dog été"])
  for vocabulary in (words, list(map(decomposed, words))):
    table = text.make_table(vocabulary)
    for ids, _ in (text.encode(table, sentences, 4), records.in_dataset(
        lambda s, table=table: text.encode(table, s, 4), sentences)):
      assert ids.numpy().tolist() == [[2, 3, 4, 5]] * 2 + [[6, 1, 0, 0]]
    for one in text.understand(vocabulary, [composed, apart], 9):
      assert (one.known, one.unknown) == (words[:4], [])
  assert text.build_vocabulary([composed, apart, apart], 9) == [
      "hà", "l'été", "nội", "à"]
  vectors = tmp_path / "vectors.txt"
  vectors.write_text(f"{decomposed('à')} 1 2\n", encoding="utf-8")
  np.testing.assert_array_equal(
      text.load_word_vectors(str(vectors), words, 2)[3], [1, 2])


def test_a_vocabulary_that_has_both_forms_keeps_its_ids(tmp_path):
  """As one that a model was trained with may."""
  words = [decomposed("été"), "été", "Café", decomposed("Café"), "dog"]
  path = tmp_path / "vocabulary.txt"
  path.write_text("\n".join(words), encoding="utf-8")
  for _ in range(2):
    assert text.load_vocabulary(str(path)) == words
    path.write_text("".join(word + "\n" for word in words), encoding="utf-8")
  assert text.ids_of(words) == {"été": 3, "café": 4, "dog": 6}


def test_encode_has_static_shapes_and_takes_no_sentence():
  table = text.make_table(["dog"])
  dataset = tf.data.Dataset.from_tensors(["dog", "cow"]).map(
      lambda s: text.encode(table, s, 4))
  assert dataset.element_spec[0].shape == [2, 4]
  ids, mask = text.encode(table, tf.zeros([0], tf.string), 4)
  assert ids.shape == mask.shape == [0, 4]
  ids, mask = text.encode(table, tf.constant([" ", ""]), 4)
  assert not ids.numpy().any() and not mask.numpy().any()


def test_load_vocabulary(tmp_path):
  path = tmp_path / "vocabulary.txt"
  path.write_text("dog\nl'été\n", encoding="utf-8")
  assert text.load_vocabulary(str(path)) == ["dog", "l'été"]
  path.write_text("dog\ncat", encoding="utf-8")
  assert text.load_vocabulary(str(path)) == ["dog", "cat"]


@pytest.mark.parametrize("content", [
    "dog\nl'été\ncat\n", "dog\r\nl'été\r\ncat\r\n", "\ufeffdog\nl'été\ncat",
    "\ufeffdog \r\nl'été\t\r\n cat", "Dog\nL’ÉTÉ\nCAT\n",
    "(dog)\n'l'été'\ncat.\n"])
def test_vocabularies_as_people_have_them(tmp_path, content):
  """Whatever stands around a word, sentences have the same ids."""
  path = tmp_path / "vocabulary.txt"
  path.write_bytes(content.encode())
  words = text.load_vocabulary(str(path))
  ids, _ = text.encode(text.make_table(words), tf.constant(
      ["A cat, DOG and l'Été"]), 5)
  assert ids.numpy().tolist() == [[1, 4, 2, 1, 3]]
  # As a workdir keeps them.
  path.write_text("".join(word + "\n" for word in words), encoding="utf-8")
  assert text.load_vocabulary(str(path)) == words


def test_words_of_a_vocabulary_keep_their_ids(tmp_path, caplog):
  words = ["</s>", "The", "New_York", "the", "Dog", "dOG", "...", "cat\xa0",
           "cat", "won't"]
  ids = {"s": 2, "the": 5, "dog": 6, "cat": 10, "won't": 11}
  assert text.ids_of(words) == ids
  path = tmp_path / "vocabulary.txt"
  path.write_text("\n".join(words), encoding="utf-8")
  with caplog.at_level(logging.WARNING):
    for _ in range(2):
      assert text.load_vocabulary(str(path)) == words
  message, = caplog.messages  # told once
  assert message == (f"{path}: 5 of 10 words can never be found in a sentence: "
                     "The, New_York, dOG, ..., cat\xa0")


@pytest.mark.parametrize("content,message", [
    (b"dog\n\ncat\n", "line 2 is empty"),
    (b"dog\r\n\r\ncat\r\n", "line 2 is empty"),
    (b"dog\ncat\ndog \n", "line 3 has 'dog', as line 1"),
    (b"2 3\ndog 0.1 0.2 0.3\ncat 1 2 3\n", "no line is a word .* '2 3', expe"),
    (b"dog 1204\ncat 33\n", "no line is a word .* 'dog 1204', expected one"),
    ("dog\n".encode("utf-16"), "not UTF-8"),
    (b"dog\n\ncat\n\n", "line 2 is empty"),
    (b"dog\ncat\ndog\n", "line 3 has 'dog', as line 1"),
    (b"", "empty, expected one word a line"),
    (b"caf\xe9\n", "not UTF-8"),
])
def test_bad_vocabularies(tmp_path, content, message):
  path = tmp_path / "vocabulary.txt"
  path.write_bytes(content)
  with pytest.raises(UserError, match=f"vocabulary.txt: {message}"):
    text.load_vocabulary(str(path))


def test_missing_vocabulary(tmp_path):
  with pytest.raises(UserError, match="none.txt: cannot be read.*build_voc"):
    text.load_vocabulary(str(tmp_path / "none.txt"))


def test_what_is_understood():
  sentences = ["A blue dog, a Blue cat", "a Dog a", "blue cow dog a", " 🙂 ",
               "", "One blue red day and then a dog"]
  found = text.understand(["Dog", "a"], sentences, 4)
  assert [(one.known, one.unknown, one.dropped) for one in found] == [
      (["a", "dog"], ["blue"], ["blue", "cat"]), (["a", "dog"], [], []),
      (["dog", "a"], ["blue", "cow"], []), ([], [], []), ([], [], []),
      ([], ["one", "blue", "red", "day"], ["and", "then", "a", "dog"])]
  assert [one.problem for one in found] == [
      "'A blue dog, a Blue cat': not in the vocabulary: blue; only the first 4 "
      "words are read, not: blue, cat", "",
      "'blue cow dog a': not in the vocabulary: blue, cow",
      "' 🙂 ': has no word, expected letters or digits",
      "'': has no word, expected letters or digits",
      "'One blue red day and then a dog': of its words, one, blue, red, day, "
      "the vocabulary has none, expected words that the model knows; only the "
      "first 4 words are read, not: and, then, a, dog"]
  assert text.understand(["a"], [], 4) == []


def test_warnings_of_many_sentences_are_few(caplog):
  with caplog.at_level(logging.WARNING):
    text.warn_of(text.understand(
        ["a"], ["a"] + [f"a b{i}" for i in range(20)], 4), "here")
  *messages, last = caplog.messages
  assert messages == [f"here: 'a b{i}': not in the vocabulary: b{i}"
                      for i in range(10)]
  assert last.startswith("here: 10 more sentences are not understood, or not")


def test_build_vocabulary_ranks_by_count_then_alphabet():
  captions = ["b b B c", "d a, c!", "", "zebra"]
  assert text.build_vocabulary(captions, 10) == ["b", "c", "a", "d", "zebra"]
  assert text.build_vocabulary(captions, 3) == ["b", "c", "a"]
  assert text.build_vocabulary(iter(["x y"] * 5000), 9) == ["x", "y"]
  assert text.build_vocabulary([], 9) == []


@pytest.mark.parametrize("lines", [
    "3 2\ncat 1 2\nl'été 3 -4.5\nother 7 7\n",
    "cat 1 2\nl'été 3 -4.5\nother 7 7\n",
    "4 2\r\ncat 1 2 \r\nl'été\t3 -4.5\r\nother 7 7\r\ncat 8 8\r\n\r\n",
    # Words with blanks, a hard one, one that is no letter, and numbers.
    ". . . 0 0\n2\xa0000 5 5\n\x85 6 6\n3 4 9 9\ncat 1 2\nl'été 3 -4.5\n"])
def test_word_vectors_of_word2vec(tmp_path, lines):
  path = tmp_path / "vectors.txt"
  path.write_bytes(lines.encode())
  vectors = text.load_word_vectors(str(path), ["dog", "l'été", "cat"], 2)
  assert vectors.dtype == np.float32 and vectors.shape == (5, 2)
  np.testing.assert_array_equal(vectors[[0, 3, 4]], [[0, 0], [3, -4.5], [1, 2]])
  # Unknown and "dog" are noise, the same each time.
  assert vectors[[1, 2]].all()
  np.testing.assert_array_equal(vectors, text.load_word_vectors(
      str(path), ["dog", "l'été", "cat"], 2))


def test_words_have_their_vectors_as_they_are_written(tmp_path, caplog):
  path = tmp_path / "vectors.txt"
  vocabulary = ["New_York", "Dog", "2\xa0000", ". .", "cow"]
  path.write_bytes(b"New_York 1 2\ndog 3 4\ncaf\xe9 5 5\n" + (
      "2\xa0000 5 6\n. . 7 8\n".encode()))
  with caplog.at_level(logging.INFO):
    vectors = text.load_word_vectors(str(path), vocabulary, 2)
  np.testing.assert_array_equal(
      vectors[2:6], [[1, 2], [3, 4], [5, 6], [7, 8]])
  message, = caplog.records
  assert message.levelno == logging.INFO
  assert "vectors of 4 of the vocabulary's 5 words (80 %)" in message.message
  path.write_text("cow 1 2\n")
  caplog.clear()
  text.load_word_vectors(str(path), vocabulary, 2)
  message, = caplog.records
  assert message.levelno == logging.WARNING
  assert "1 of the vocabulary's 5 words (20 %)" in message.message


def test_word_vectors_of_npy(tmp_path):
  path = str(tmp_path / "vectors.npy")
  table = np.arange(8.0).reshape(4, 2)
  np.save(path, table)
  vectors = text.load_word_vectors(path, ["a", "b"], 2)
  assert vectors.dtype == np.float32
  np.testing.assert_array_equal(vectors, table)
  with pytest.raises(UserError, match=r"npy: .*\(4, 2\), expected \(5, 2\)"):
    text.load_word_vectors(path, ["a", "b", "c"], 2)
  np.save(path, np.array([{"evil": 1}], object))
  with pytest.raises(UserError, match="npy: .*allow_pickle"):
    text.load_word_vectors(path, ["a", "b"], 2)


@pytest.mark.parametrize("content,message", [
    ("2 3\na 1 2 3\nb 1 2 3\n", "line 2 has 3 values, expected .* width of 2"),
    ("a 1 2\nb 1\n", "line 2 has 1 values"),
    ("x 1 2\ny 1 2\n", "none of its words"),
    ("a 1 2\nb one 2\n", "could not convert"),
    ("a 1 2 3\nb 1 2 3\n", "line 1 has 3 values, expected .* width of 2"),
    ("a 1 2\nb nan 2\n", "has values that are infinite or not a number"),
    # As word2vec's .bin; and packed text.
    (b"2 2\na " + np.float32([0, 1]).tobytes() + b"\n", "binary, expected wo"),
    (gzip.compress(b"a 1 2\nb 1 2\n", mtime=0),
     "compressed, expected word vectors as"),
])
def test_bad_word_vectors(tmp_path, content, message):
  path = tmp_path / "vectors.txt"
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(UserError, match=f"vectors.txt: {message}"):
    text.load_word_vectors(str(path), ["a", "b"], 2)


def test_missing_word_vectors(tmp_path):
  for name in ("none.txt", "none.npy"):
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
      text.load_word_vectors(str(tmp_path / name), ["a"], 2)
