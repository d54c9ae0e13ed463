"""What all programs share: how they start, their common flags, how they end."""
import argparse
import os
import pathlib
import signal
import sys
from collections.abc import Callable

from absl import app, flags

from vatt.errors import UserError

# `configs` is not installed; in a checkout it lies beside this package, and
# config files import each other from there.
ROOT = pathlib.Path(__file__).resolve().parents[1]
if (ROOT / "configs").is_dir() and str(ROOT) not in sys.path:
  sys.path.insert(0, str(ROOT))


def define_config(what: str, default: str | None = None,
                  required: bool = True) -> None:
  """Defines --config=FILE.py:ARGUMENT and --config.FIELD=VALUE."""
  from ml_collections import config_flags

  config_flags.DEFINE_config_file("config", default, what)
  if required:
    require("config")


def define_workdir(what: str, required: bool = True) -> None:
  """Defines --workdir, a path in which ~ is the home folder."""
  flags.DEFINE_string("workdir", None, what)
  if required:
    require("workdir")


def require(name: str) -> None:
  """Has a run without the flag of that name end in a line."""
  flags.register_validator(
      name, lambda value: value not in (None, "", []), f"--{name} is missing")


def workdir() -> str:
  """The path of --workdir."""
  return os.path.expanduser(flags.FLAGS.workdir)


def config() -> "ConfigDict":  # noqa: F821  not loaded with this module
  """The ConfigDict of --config; UserError if its file cannot be read."""
  found = flags.FLAGS.config
  try:
    found.items  # noqa: B018  ml_collections tells of a missing file at use
  except OSError as error:
    raise UserError(
        f"--config: {str(error).splitlines()[-1].strip()}") from None
  return found


def define_config_of_workdir(argv: list[str]) -> list[str]:
  """Defines --config as the config of --workdir, for --config.FIELD=VALUE.

  With --config=FILE.py:ARGUMENT, the fields of that config replace the
  workdir's.

  Args:
    argv: the command line.

  Returns:
    The command line without --config, to be parsed.
  """
  from ml_collections import ConfigDict, config_flags

  parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  parser.add_argument("--workdir", "-workdir")
  parser.add_argument("--config", "-config")
  given, rest = parser.parse_known_args(argv[1:])
  path = os.path.expanduser(given.workdir or "")
  if not path and not {"--help", "--helpfull"} & set(argv):
    raise UserError("--workdir is missing, expected the workdir of a run")
  config = ConfigDict()
  if path:
    from vatt.workdir import read_config  # TensorFlow, not needed by --help
    config = ConfigDict(read_config(path)).lock()
  if given.config:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", given.config, flag_values=values, sys_argv=argv[:1])
    values(argv[:1])
    config.update(values.config)
  argv = [argv[0], f"--workdir={path}", *rest]
  config_flags.DEFINE_config_dict("config", config, sys_argv=argv)
  return argv


def fail(error: object) -> None:
  """Ends the program with one line and code 1."""
  line = " ".join(str(error).split())
  sys.exit(f"error: {line}")


def run(main: Callable[[], object],
        define_flags: Callable[[list[str]], list[str] | None] | None = None
        ) -> None:
  """Runs a program; bad flags and UserErrors end it in one line.

  Characters that the output cannot show are replaced; a reader that goes away,
  as `head` does, ends the program without a word.

  Args:
    main: called once the flags are parsed; its result is the exit status, as of
      `sys.exit`.
    define_flags: called with the command line before it is parsed, for flags
      that depend on it; may return another one to parse.
  """
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):  # not where a test has taken its place
      stream.reconfigure(errors="replace")

  def parse(argv):
    try:
      if define_flags:
        argv = define_flags(argv) or argv
      rest = flags.FLAGS(argv)
    except UserError as error:
      fail(error)
    except BrokenPipeError:  # of --help
      _end_without_reader()
    # ml_collections: an unknown field, or a value of another type.
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError,
            OSError) as error:
      fail(_line_of(error))
    if len(rest) > 1:
      fail(f"unexpected argument {rest[1]!r}, expected flags")
    return rest

  def guarded(_):
    try:
      return main()
    except UserError as error:
      fail(error)
    except BrokenPipeError:
      _end_without_reader()

  app.run(guarded, flags_parser=parse)


def _end_without_reader():
  """Ends as a process does that SIGPIPE kills."""
  # What is still to be written at exit has no reader either.
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  sys.exit(128 + signal.SIGPIPE)


def _line_of(error):
  """What is wrong with a command line."""
  if isinstance(error, flags.IllegalFlagValueError):
    found = str(error).splitlines()[0].rpartition(": ")[2]
    if found.endswith(" is missing"):
      return found
  text = str(error)
  if text[:1] == text[-1:] == "'":  # a KeyError's is quoted
    text = text[1:-1].replace("\\n", " ").replace("\\'", "'")
  if "Traceback" in text:  # of a config file that failed
    text = text.strip().splitlines()[-1]
  return f"command line: {text}"
