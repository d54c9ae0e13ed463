"""What all programs share: how they start, their common flags, how they end."""
import argparse
import errno
import itertools
import os
import pathlib
import re
import runpy
import signal
import sys
import traceback
from collections.abc import Callable

from absl import app, flags

from vatt import stopping
from vatt.errors import UserError, one_line

# The folder of `configs`, which a config of one's own imports: the checkout's
# top, or what setup.py puts into an installed package. It is the last one that
# is searched, so that what others call `configs` stays theirs; where that is a
# folder and no package, as ours, both are found.
ROOT = pathlib.Path(__file__).resolve().parent / "shipped"
if not ROOT.is_dir():
  ROOT = ROOT.parents[1]
if str(ROOT) not in sys.path:
  sys.path.append(str(ROOT))

flags.disclaim_key_flags()  # so that --help of a program lists them

# Whatever starts programs again is to tell a fault of ours, which may not come
# twice, from an error that is told in a line: EX_SOFTWARE of <sysexits.h>.
FAULT = 70


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


def define_windows() -> None:
  """Defines --windows, of a file."""
  flags.DEFINE_string("windows", None, "Windows of a file, evenly spread, or "
                      "all: end to end. Default as in the model's evaluation.")


def windows() -> int | str | None:
  """What --windows says; UserError if it is no number and not all."""
  given = flags.FLAGS.windows
  if given in (None, "all"):
    return given
  if not given.isdecimal() or not int(given):
    raise UserError(f"--windows={given}: expected a number from 1, or all")
  return int(given)


def media_files(arguments: list[str]) -> list[str]:
  """The files of a command line; of a folder all media in it.

  Raises:
    UserError: there are none.
  """
  from vatt.data.ingest import clip_sources

  found = []
  for argument in map(os.path.expanduser, arguments):
    if os.path.isdir(argument):
      inside = clip_sources.find_media(argument)
      if not inside:
        raise UserError(f"{argument}: no media file in it, expected some, whose"
                        " names end in .mp4, .wav or the like")
      found += [os.path.join(argument, name) for name in inside]
    else:
      found.append(argument)
  if not found:
    raise UserError("no file, expected the names of media files or folders")
  return list(dict.fromkeys(found))


def require(name: str) -> None:
  """Has a run without the flag of that name end in a line."""
  def is_given(value):
    if value is None and flags.FLAGS[name].present:
      raise flags.ValidationError(
          f"--{name}: its get_config returns None, expected a ConfigDict")
    return value not in (None, "", [])

  flags.register_validator(name, is_given, f"--{name} is missing")


def workdir() -> str:
  """The path of --workdir; UserError if no file can have that name."""
  path = os.path.expanduser(flags.FLAGS.workdir)
  long = [name for name in path.split("/") if len(os.fsencode(name)) > 255]
  if long:
    raise UserError(f"--workdir: a name of {len(os.fsencode(long[0]))} bytes, "
                    "expected at most 255")
  return path


def config() -> "ConfigDict":  # noqa: F821  not loaded with this module
  """The ConfigDict of --config; UserError if its file cannot be read."""
  return _loaded(flags.FLAGS.config)


def _loaded(found):
  """`config`, of what ml_collections has for it."""
  from ml_collections import ConfigDict

  try:
    found.items  # noqa: B018  ml_collections tells of a missing file at use
  except OSError as error:
    raise UserError(f"--config: {_file_error(error)}") from None
  except AttributeError:
    pass
  if not isinstance(found, ConfigDict):
    raise UserError(f"--config: its get_config returns {found!r:.80}, expected "
                    "a ConfigDict")
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
    try:
      config.update(_loaded(values.config))
    except (KeyError, TypeError) as error:
      what = one_line(error).partition(" Other fields present")[0].strip("'\"")
      raise UserError(f"--config={given.config}: {what}; expected fields of "
                      f"{path}/config.json") from None
  argv = [argv[0], f"--workdir={path}", *rest]
  config_flags.DEFINE_config_dict("config", config, sys_argv=argv)
  return argv


def entry() -> None:
  """Runs the program that a command is called after, as `python -m` does:
  vatt/embed.py, as `vatt-embed`."""
  module = os.path.basename(sys.argv[0]).replace("-", ".")
  runpy.run_module(module, run_name="__main__", alter_sys=True)


def fail(error: object) -> None:
  """Ends the program with one line, and the code of a UserError or 1."""
  line = " ".join(str(error).split())
  print(f"error: {line}", file=sys.stderr)
  sys.exit(getattr(error, "code", 1))


def run(main: Callable[..., object],
        define_flags: Callable[[list[str]], list[str] | None] | None = None,
        arguments: bool = False) -> None:
  """Runs a program; bad flags, UserErrors and Ctrl-C end it in one line, with
  the error's code or 130; any other exception with a traceback and FAULT.

  Characters that the output cannot show are replaced; a reader that goes away,
  as `head` does, ends the program without a word.

  Args:
    main: called once the flags are parsed; its result is the exit status, as of
      `sys.exit`.
    define_flags: called with the command line before it is parsed, for flags
      that depend on it; may return another one to parse.
    arguments: whether the program takes others than flags, such as files; then
      `main` is called with a list of them.
  """
  _open_what_is_closed()
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):  # not where a test has taken its place
      stream.reconfigure(errors="replace")

  def parse(argv):
    for argument in argv:
      if re.search("[\udc80-\udcff]", argument):  # bytes that are no letters
        fail(f"command line: {ascii(argument)}: not in the encoding "
             f"{sys.getfilesystemencoding()}, expected UTF-8, and PYTHONUTF8=1 "
             "where the locale is another")
    try:
      if define_flags:
        argv = define_flags(argv) or argv
      try:
        rest = flags.FLAGS(argv)
      finally:
        print(end="", flush=True)
    except UserError as error:
      fail(error)
    except BrokenPipeError:  # of --help
      _end_without_reader()
    # Nothing of ours ran: it is a flag, or whatever a config file does.
    except Exception as error:
      _end_without_room(error)
      fail(_line_of(error, sys.argv))
    if len(rest) > 1 and not arguments:
      fail(f"unexpected argument {rest[1]!r}, expected flags")
    return rest

  def guarded(argv):
    try:
      if "://" in (line := " ".join(sys.argv)):
        from vatt import files  # and TensorFlow with it
        files.know(line)
      result = main(argv[1:]) if arguments else main()
      # What is left to be written: at exit, nobody could say that it failed.
      print(end="", flush=True)
      return result
    except UserError as error:
      fail(error)
    except BrokenPipeError:
      _end_without_reader()
    except KeyboardInterrupt:
      print("stopped", file=sys.stderr)
      sys.exit(128 + signal.SIGINT)
    except Exception as error:  # a fault of ours
      _end_without_room(error)
      if flags.FLAGS.pdb_post_mortem:
        raise
      traceback.print_exc()
      sys.exit(FAULT)

  try:
    app.run(guarded, flags_parser=parse)
  except SystemExit as end:
    stopping.leave(end.code)
    raise


def _open_what_is_closed():
  """Sends to nowhere what a program writes that started without an output:
  else the next file that it opens would take that place."""
  for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # which gets the lowest free number
    if getattr(sys, name) is None:
      setattr(sys, name, open(number, "r" if number == 0 else "w",
                              closefd=False))


def _end_without_reader():
  """Ends as a process does that SIGPIPE kills."""
  # What is still to be written at exit has no reader either.
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  sys.exit(128 + signal.SIGPIPE)


def _end_without_room(error):
  """Ends in a line if the error is that of an output on a full disk."""
  if getattr(error, "errno", None) == errno.ENOSPC and error.filename is None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    fail(f"the output: {error.strerror}, expected room for it")


# What the values of flags are to be, by what Python says of those that are not.
EXPECTED = {"int()": "a whole number", "to float": "a number",
            "Non-boolean": "True or False", "as a ConfigDict":
            "no value of its own, but of its fields: --{name}.FIELD=VALUE"}


def _line_of(error, argv):
  """What is wrong with a command line, or the config file that it names."""
  text = str(error)
  if isinstance(error, flags.IllegalFlagValueError):
    found = text.splitlines()[0].rpartition(": ")[2]
    if found.endswith(" is missing"):
      return found
    found = re.fullmatch(r"flag --([\w.]+)=(.*?): (.*)", text, re.DOTALL)
    if found and found[1] != "config":
      name, value, reason = found.groups()
      for said, expected in EXPECTED.items():
        if said in reason:
          return f"--{name} is {value!r}, expected {expected.format(name=name)}"
    elif "get_config returns" in text:
      return text[text.index("--config: "):]
  path = _config_path(argv)
  if path and (line := _line_in(path, error)):
    return f"--config: {line}"
  if isinstance(error, (KeyError, AttributeError)):
    # ml_collections, of a field that the config has not: its name comes first.
    missing = re.search(r"\w+", text)
    for argument in argv:
      flag = argument.partition("=")[0].lstrip("-")
      if missing and flag.startswith("config.") and (
          missing[0] in flag.split(".")):
        close = re.search(r'Did you mean "(\w+)', text)
        return (f"--{flag}: the config has no such field, expected "
                + (close[1] if close else "one of its own"))
  return f"command line: {text}"


def _config_path(argv):
  """The file that --config names, or None."""
  for flag, value in itertools.zip_longest(argv, argv[1:], fillvalue=""):
    name, given, path = flag.partition("=")
    if name in ("--config", "-config"):
      return (path if given else value).partition(":")[0]
  return None


def _line_in(path, error):
  """What went wrong in a config file, with its line; None if it is not that.

  Args:
    path: of the file.
    error: what came of its import, or of its get_config.
  """
  text = str(error)
  if isinstance(error, SyntaxError):
    return f"{error.filename}, line {error.lineno}: {error.msg}"
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
           if os.path.abspath(frame.filename) == os.path.abspath(path)]
  if "Traceback" in text:  # ml_collections has written it down
    lines = [int(number) for file, number in re.findall(
        r'File "(.+)", line (\d+)', text)
        if os.path.abspath(file) == os.path.abspath(path)]
    # The first line that is not indented, behind the last place in a file.
    _, _, rest = text.rpartition("\n  File ")
    last = next(line for line in rest.splitlines()[1:]
                if line.strip() and not line.startswith(" "))
    kind, _, said = last.partition(": ")
  else:
    kind, said = type(error).__name__, one_line(error)
    if isinstance(error, KeyError):
      said = said.strip("'\"")
  if kind.endswith("UserError"):
    return said
  if lines:
    said = said.partition(" Other fields present")[0]
    return f"{path}, line {lines[-1]}: {kind}" + (
        f": {said}" if said not in ("", kind) else "")
  if "FrozenConfigDict is immutable" in text:
    return (f"{path}: its get_config returns a FrozenConfigDict, expected a "
            "ConfigDict, which flags can change")
  # Called with another number of arguments, or not there at all.
  if "get_config()" in text:
    return (f"{path}: {said}; expected a get_config(arg=None), and after a "
            "colon what it takes")
  if "no attribute 'get_config'" in text:
    return f"{path}: has no get_config, expected a function of that name"
  return f"{path}: {kind}: {said}" if "Traceback" in text else None


def _file_error(error):
  """What ml_collections says of a config file that cannot be read."""
  found = str(error).splitlines()[-1].strip()
  return re.sub(r".*earlier failure to load: |\[Errno \d+\] ", "", found)
