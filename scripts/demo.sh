#!/usr/bin/env bash
# From nothing to sentences that find films, on two CPU cores: sets up the
# environment, makes the demo's films, ingests them, trains a small VATT and
# reports how well sentences and sounds find films never seen before.
#
#   ./scripts/demo.sh [specific|agnostic] [FOLDER]
#
# FOLDER (default: workdirs/demo in the project) takes the films, the built
# dataset and the model. A demo that was stopped goes on when the same command
# is run again.
set -euo pipefail
here=$PWD
unset CDPATH  # which may lead elsewhere
cd "$(dirname "${BASH_SOURCE[0]}")/.."

model=${1:-specific}
folder=${2:-$PWD/workdirs/demo}
if [[ $folder != /* ]]; then folder=$here/$folder; fi
case $model/$# in
  specific/[012] | agnostic/[12]) ;;
  *) echo "error: $*: expected [specific|agnostic] [FOLDER]" >&2; exit 2 ;;
esac

scripts/setup.sh
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3}  # of GPUs it lacks
python=.venv/bin/python

vocabularies=("$folder"/data/demo/default/*/vocabulary.txt)
if [[ ! -e ${vocabularies[0]} ]]; then
  echo "== Films, and records made of them"
  $python scripts/prepare_dataset.py --dataset=demo --data_dir="$folder/data"
  $python scripts/build_vocabulary.py --dataset=demo/default \
    --data_dir="$folder/data"
fi
echo "== Training"
$python -m vatt.main --config="configs/demo.py:$model" \
  --config.data.data_dir="$folder/data" --workdir="$folder/$model"
echo "== Films never seen, found by sentences and by sounds"
$python scripts/zero_shot_retrieval.py --workdir="$folder/$model" --report
