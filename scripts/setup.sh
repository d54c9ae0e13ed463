#!/usr/bin/env bash
# Makes the virtual environment .venv and installs the project into it;
# returns at once where that is done already. No arguments.
#
# PYTHON=/path/to/python3.11 chooses the interpreter.
set -euo pipefail
unset CDPATH  # which may lead elsewhere
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "error: $*" >&2; exit 1; }

# True for an interpreter that starts and is a Python 3.10 or 3.11.
suits() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 12))' \
    >/dev/null 2>&1
}

# What the environment was made for. Written last: an install that was killed
# leaves none.
stamp=.venv/vatt.stamp
# Stands while an install runs: packages may be half there.
unfinished=.venv/vatt.unfinished
wanted() { pwd -P; cat setup.py; }

if wanted | cmp -s - "$stamp" && suits .venv/bin/python; then
  exit 0
fi

if [[ -e $unfinished ]]; then
  echo "The last install did not finish: making .venv anew." >&2
  rm -rf .venv
elif [[ -e $stamp && $(head -n 1 "$stamp") != "$(pwd -P)" ]]; then
  # What is installed there starts and activates the environment of old.
  echo "The project was at $(head -n 1 "$stamp"): making .venv anew." >&2
  rm -rf .venv
elif [[ -e .venv ]] && ! suits .venv/bin/python; then
  fail ".venv holds no working Python 3.10 or 3.11: remove it and try again"
fi

if [[ ! -e .venv ]]; then
  candidates=(python3.11 python3.10 python3 python)
  if [[ -n ${PYTHON:-} ]]; then candidates=("$PYTHON"); fi
  python=""
  for candidate in "${candidates[@]}"; do
    if suits "$candidate"; then python=$candidate; break; fi
  done
  [[ -n $python ]] || fail "no Python 3.10 or 3.11 found${PYTHON:+ at $PYTHON}:" \
    "install one (apt install python3.11 python3.11-venv, brew install" \
    "python@3.11, or from python.org), or name it: PYTHON=/path/to/python3.11"
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$("$python" -V) cannot make a virtual environment:" \
      "install its venv module (apt install python3.11-venv)"
  mkdir .venv
  touch "$unfinished"
  "$python" -m venv .venv
fi

touch "$unfinished"
rm -f "$stamp"
echo "Installing into .venv: some minutes, once." >&2
# -qq shows errors alone; an index location that pip is set up with and that
# does not exist is no error. The resolver of an older pip can take hours.
install() {
  PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install -qq \
    --no-input "$@" ||
    fail "the install failed, see above; run again when that is mended"
}
install --upgrade pip
install -e '.[dev]'
rm -f "$unfinished"
wanted > "$stamp"
