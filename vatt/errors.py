"""What a user did wrong, and how it is told in lines."""
import re
import unicodedata


class UserError(ValueError):
  """Bad input of the user: names the file or field, what was found there and
  what was expected. Programs show it as one line, without a traceback, and end
  with the code."""

  code = 1


class Temporary(UserError):
  """What another start may mend, such as the loss of another worker. Whatever
  starts programs again knows it by the code, EX_TEMPFAIL of <sysexits.h>."""

  code = 75


# What TensorFlow says of where in a graph, before it says what is wrong.
_WHERE = re.compile(
    r'Graph execution error:|Detected at node .*|File ".*|'
    r"<stack traces unavailable>|\d+ root error\(s\) found\.|"
    r"Exception encountered when calling .*")


def one_line(error: BaseException) -> str:
  """What an error says, as one line: the first that has anything, without
  TensorFlow's names of nodes; the kind of the error if it says nothing."""
  text = str(getattr(error, "message", None) or error)
  text = re.sub(r"\{\{.*?\}\} ", "", text)
  lines = (" ".join(line.split()) for line in text.splitlines())
  return next((line for line in lines if line and not _WHERE.fullmatch(line)),
              type(error).__name__)


def visible(name: str) -> str:
  """A name as it is printed: control characters, of which some would end the
  line, are escaped."""
  return "".join(
      each.encode("unicode_escape").decode()
      if unicodedata.category(each) == "Cc" else each for each in name)
