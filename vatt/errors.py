"""What a user did wrong, told in one line."""
import sys

from absl import app, flags


class UserError(ValueError):
  """Bad input of the user: names the file or field, what was found there and
  what was expected. Shown as one line, without a traceback."""


def fail(error):
  """Ends the program with one line and code 1."""
  line = " ".join(str(error).split())
  sys.exit(f"error: {line}")


def run(main, define_flags=None):
  """Runs an absl `main(argv)`; bad flags and UserErrors end it in one line.

  Args:
    main: called with what the flags leave of the command line.
    define_flags: called with the command line before it is parsed, for flags
      that depend on it; may return another one to parse.
  """

  def parse(argv):
    try:
      if define_flags:
        argv = define_flags(argv) or argv
      return flags.FLAGS(argv)
    except UserError as error:
      fail(error)
    # ml_collections: an unknown field, or a value of another type.
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError,
            OSError) as error:
      text = str(error)
      if text[:1] == text[-1:] == "'":  # a KeyError's is quoted
        text = text[1:-1].replace("\\n", " ").replace("\\'", "'")
      if "Traceback" in text:  # of a config file that failed
        text = text.strip().splitlines()[-1]
      fail(f"command line: {text}")

  def guarded(argv):
    try:
      return main(argv)
    except UserError as error:
      fail(error)

  app.run(guarded, flags_parser=parse)
