"""What all programs share, by a small program in processes of its own."""
import ast
import os
import subprocess
import sys

import pytest

from vatt import cli

PROGRAM = """
from vatt import cli
from vatt.errors import UserError
from absl import flags
flags.DEFINE_string("say", "", "")
cli.define_workdir("A folder.")
def main():
  say = flags.FLAGS.say
  if say == "wrong":
    raise UserError("field: found 1,\\n  expected 2")
  if say == "stop":
    raise KeyboardInterrupt
  if say == "much":
    for i in range(100_000):
      print(i)
  print(say, cli.workdir())
  return 3
cli.run(main)
"""


@pytest.fixture
def run(tmp_path, python_env):
  """A function of flags that runs the program."""
  path = tmp_path / "program.py"
  path.write_text(PROGRAM)

  def run(*flags, **environment):
    return subprocess.run(
        [sys.executable, str(path), *flags], env=python_env | environment,
        capture_output=True)

  return run


@pytest.mark.parametrize("flags, said", [
    ([], "--workdir is missing"),
    (["--workdir=a", "b"], "unexpected argument 'b', expected flags"),
    (["--workdir=a", "--sya=b"],
     "command line: Unknown command line flag 'sya'"),
    (["--workdir=a", "--say=wrong"], "field: found 1, expected 2"),
])
def test_errors_are_one_line(run, flags, said):
  done = run(*flags)
  assert done.returncode == 1 and not done.stdout
  error, = done.stderr.decode().splitlines()
  assert error.startswith(f"error: {said}")


def test_ctrl_c_is_one_line(run):
  done = run("--workdir=a", "--say=stop")
  assert (done.returncode, done.stderr) == (130, b"stopped\n")


CONFIGURED = """
from vatt import cli
cli.define_config("A config.")
def main():
  print(cli.config().to_dict())
cli.run(main)
"""


@pytest.mark.parametrize("content, said", [
    ("import nonesuch\n", "{file}, line 1: ModuleNotFoundError: No module na"),
    ("x = 1\ndef get_config(arg=None:\n", "{file}, line 2: "),
    ("\ndef get_config(arg=None):\n  return nonesuch\n",
     "{file}, line 3: NameError: name 'nonesuch' is not defined"),
    ("def get_config(arg=None):\n  return 1 / 0\n", "{file}, line 2: ZeroD"),
    ("def get_config(arg=None):\n  return int('a')\n",
     "{file}, line 2: ValueError: invalid literal for int() with base 10: 'a'"),
    ("def get_config(arg=None):\n  from vatt.errors import UserError\n"
     "  raise UserError('a: found 1, expected 2')\n", "a: found 1, expected 2"),
    ("x = 1\n", "{file}: has no get_config, expected a function"),
    ("def get_config():\n  pass\n", "{file}: get_config() takes"),
    ("def get_config(arg=None):\n  return 3\n", "returns 3, expected a Config"),
    ("def get_config(arg=None):\n  pass\n", "returns None, expected a Config"),
    ("get_config = 5\n", "{file}: TypeError: 'int' object is not callable"),
    ("def get_config(arg=None):\n  raise ValueError('one\\ntwo')\n",
     "{file}, line 2: ValueError: one"),
    ("from ml_collections import FrozenConfigDict\n"
     "def get_config(arg=None):\n  return FrozenConfigDict()\n",
     "{file}: its get_config returns a FrozenConfigDict, expected a Conf"),
    (None, "No such file or directory: '{file}'"),
], ids=range(14))
def test_errors_of_config_files_are_one_line(
    tmp_path, python_env, content, said):
  program, file = tmp_path / "program.py", tmp_path / "config of mine.py"
  program.write_text(CONFIGURED)
  if content:
    file.write_text(content)
  done = subprocess.run(
      [sys.executable, str(program), f"--config={file}:a"], env=python_env,
      capture_output=True, text=True)
  assert done.returncode == 1 and not done.stdout
  error = done.stderr.splitlines()[-1]
  assert error.startswith("error: --config: "), done.stderr
  assert said.format(file=file) in error and "Traceback" not in done.stderr


@pytest.mark.parametrize("flag, said", [
    ("--config.size=a", "--config.size is 'a', expected a whole number"),
    ("--config.siez=3", "--config.siez: the config has no such field, expected "
     "size"),
    ("--config.part=3", "--config.part is '3', expected no value of its own"),
    ("--config.on=maybe", "--config.on is 'maybe', expected True or False")])
def test_bad_fields_are_one_line(tmp_path, python_env, flag, said):
  program, file = tmp_path / "program.py", tmp_path / "config.py"
  program.write_text(CONFIGURED)
  file.write_text("from ml_collections import ConfigDict\n"
                  "def get_config(arg=None):\n  return ConfigDict(dict(\n"
                  "      size=3, on=True, part=dict(a=1)))\n")
  done = subprocess.run(
      [sys.executable, str(program), f"--config={file}", flag],
      env=python_env, capture_output=True, text=True)
  error, = done.stderr.splitlines()
  assert error.startswith(f"error: {said}"), error


PROTOCOL = """
from vatt import cli
cli.define_workdir("A folder.", required=False)
cli.run(lambda: print(cli.config().part.size), cli.define_config_of_workdir)
"""


@pytest.mark.parametrize("fields, said", [
    (None, "error: --config: No such file or directory: '{file}'"),
    ("siez=3", "error: --config={file}: Key \"siez\" does not exist"),
    ("size='a'", "error: --config={file}: Could not override field")])
def test_a_protocol_that_does_not_fit_is_one_line(
    tmp_path, python, fields, said):
  program, file = tmp_path / "program.py", tmp_path / "protocol.py"
  program.write_text(PROTOCOL)
  (tmp_path / "config.json").write_text('{"part": {"size": 3}}')
  if fields:
    file.write_text("from ml_collections import ConfigDict\n"
                    "def get_config(arg=None):\n"
                    f"  return ConfigDict(dict(part=dict({fields})))\n")
  done = python.run(  # TensorFlow is loaded there
      str(program), f"--workdir={tmp_path}", f"--config={file}")
  error = done.stderr.splitlines()[-1]
  assert done.returncode == 1 and error.startswith(said.format(file=file))
  assert "expected" in error or not fields
  assert "Other fields" not in error


def test_result_is_the_exit_code_and_home_is_known(run):
  done = run("--workdir=~/a", "--say=b", HOME="/home/of")
  assert (done.returncode, done.stdout) == (3, b"b /home/of/a\n")


def test_what_the_output_cannot_show_is_replaced(run):
  done = run("--workdir=a", "--say=caf\u00e9", PYTHONIOENCODING="ascii")
  assert (done.returncode, done.stdout) == (3, b"caf? a\n")


@pytest.mark.parametrize("flags", [["--help"], ["--workdir=a", "--say=much"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_without_room_is_told(run, tmp_path, python_env, flags,
                                        unbuffered):
  run("--workdir=a")
  with open("/dev/full", "w") as full:
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), *flags],
        env=python_env | {"PYTHONUNBUFFERED": unbuffered}, stdout=full,
        stderr=subprocess.PIPE, text=True)
  assert done.returncode == 1
  assert done.stderr == ("error: the output: No space left on device, expected "
                         "room for it\n")


@pytest.mark.parametrize("closed", ["<&- 2>&-", "<&- >&- 2>&-"])
def test_outputs_that_are_closed(tmp_path, python_env, closed):
  """What a program opens then does not take their place."""
  program = tmp_path / "program.py"
  program.write_text("""
import sys
from vatt import cli
def main():
  with open(sys.argv[0] + ".txt", "w") as file:
    print("an error", file=sys.stderr, flush=True)
    print("a line", flush=True)
    file.write(str(file.fileno() > 2))
  return 3
cli.run(main)
""")
  code = subprocess.run(
      ["bash", "-c", f"'{sys.executable}' '{program}' {closed}"],
      env=python_env, stdout=subprocess.DEVNULL).returncode
  written = tmp_path / "program.py.txt"
  assert (code, written.read_text()) == (3, "True")


def test_names_that_are_too_long(run):
  done = run("--workdir=a/" + "b" * 256)
  assert done.stderr == (b"error: --workdir: a name of 256 bytes, expected at "
                         b"most 255\n")


def test_what_is_no_text_is_told(run):
  done = run(b"--workdir=caf\xe9")
  assert done.returncode == 1
  assert done.stderr.startswith(
      b"error: command line: '--workdir=caf\\udce9': not in the encoding utf-8")


def test_a_reader_that_goes_away_ends_it_without_a_word(
    run, tmp_path, python_env):
  run("--workdir=a")
  process = subprocess.Popen(
      [sys.executable, str(tmp_path / "program.py"), "--workdir=a",
       "--say=much"], env=python_env, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE)
  assert process.stdout.readline() == b"0\n"
  process.stdout.close()
  assert process.stderr.read() == b""
  assert process.wait() == 141


@pytest.mark.parametrize("flag", ["--say=b", "--help"])
def test_so_does_one_that_went_before_the_first_line(
    tmp_path, run, python_env, flag):
  """What is written is held back until the end, as everywhere by default."""
  run("--workdir=a")
  reader, writer = os.pipe()
  os.close(reader)
  done = subprocess.run(
      [sys.executable, str(tmp_path / "program.py"), "--workdir=a", flag],
      env=python_env | {"PYTHONUNBUFFERED": ""}, stdout=writer,
      stderr=subprocess.PIPE)
  os.close(writer)
  assert (done.returncode, done.stderr) == (141, b"")


def test_the_face_loads_no_tensorflow(python_env):
  subprocess.run(
      [sys.executable, "-c", "import sys, vatt.main\n"
       "assert 'tensorflow' not in sys.modules"], env=python_env, check=True)


@pytest.mark.parametrize("path", sorted(
    path for path in (cli.ROOT / "scripts").glob("*.py")
    if path.stem != "time_hlo"), ids=lambda path: path.stem)
def test_programs_load_vatt_first(path):
  """It chooses TensorFlow's kernels, which must be before that is loaded."""
  modules = [node.module if isinstance(node, ast.ImportFrom)
             else node.names[0].name
             for node in ast.parse(path.read_text()).body
             if isinstance(node, (ast.Import, ast.ImportFrom))]
  others = [module.split(".")[0] for module in modules
            if module.split(".")[0] not in sys.stdlib_module_names]
  assert others[0] == "vatt"
