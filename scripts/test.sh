#!/usr/bin/env bash
# Lints and tests the project, in an environment that it sets up itself.
#
#   ./scripts/test.sh [--all] [arguments of pytest]
#
# --all adds the slow tests. Two processes run them (-n 4: four; -n 0: this one,
# as for a debugger). VATT_TEST_DATA and VATT_GOLDEN_DIR name folders
# of real media and of reference values, VATT_TEST_JAX a Python with JAX;
# tests that need one are skipped without it.
set -euo pipefail
unset CDPATH  # which may lead elsewhere
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh

arguments=()
for argument in "$@"; do
  if [[ $argument == --all ]]; then
    arguments+=(-m "slow or not slow")
  else
    arguments+=("$argument")
  fi
done

export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
python=.venv/bin/python
$python -m ruff check
$python .venv/bin/lint-imports --no-cache --no-logo
# Groups in the order of tests/conftest.py, not of how many tests they have.
exec $python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder \
  ${arguments[@]+"${arguments[@]}"}
