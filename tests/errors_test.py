"""Errors of Python and of TensorFlow's graphs, as one line."""
import pytest
import tensorflow as tf

from vatt.errors import one_line, visible


def check_in_graph(x):
  with tf.control_dependencies([tf.debugging.Assert(x > 1, ["too small:", x])]):
    return tf.identity(x)


@pytest.mark.parametrize("function, value, said", [
    (check_in_graph, 0, "assertion failed: [too small:] [0]"),
    (lambda x: tf.gather([1, 2, 3], x), 7, "indices = 7 is not in [0, 3)")])
def test_an_error_in_a_graph_is_what_was_wrong(function, value, said):
  with pytest.raises(tf.errors.OpError) as error:
    tf.function(function, autograph=False)(tf.constant(value))
  assert one_line(error.value).startswith(said)


@pytest.mark.parametrize("error, said", [
    (ValueError("\n  a  b\nc"), "a b"), (KeyError("x"), "'x'"),
    (ValueError("Exception encountered when calling layer 'a' (type B).\n\nc"),
     "c"),
    (OSError(28, "No space left on device"),
     "[Errno 28] No space left on device"), (MemoryError(), "MemoryError")])
def test_an_error_of_python_is_its_first_line(error, said):
  assert one_line(error) == said


@pytest.mark.parametrize("name, shown", [
    ("a\nb\r\t.mp4", "a\\nb\\r\\t.mp4"), ("\x1b[2J\x85", "\\x1b[2J\\x85"),
    ("café 50%\\ \u2028\udcff", "café 50%\\ \u2028\udcff")])
def test_names_are_printed_in_a_line(name, shown):
  assert visible(name) == shown
