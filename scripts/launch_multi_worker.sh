#!/usr/bin/env bash
# Starts a training of several workers, on hosts or as processes here, and ends
# with it.
#
#   ./scripts/launch_multi_worker.sh --hosts=HOST,HOST,... [OPTIONS] FLAGS
#   ./scripts/launch_multi_worker.sh --local=N [OPTIONS] FLAGS
#
# FLAGS are those of python -m vatt.main; strategy.name comes from here.
#
#   --hosts=...    of ssh, one worker each, with all GPUs of its host; the first
#                  writes checkpoints
#   --local=N      workers here, that share its GPUs evenly, if it has any
#   --dir=DIR      the checkout on each host (default: the path of this one)
#   --port=PORT    of the workers (default: 2222 on hosts; free ones here)
#   --ssh=COMMAND  in place of ssh and its options
#   --logs=FOLDER  of worker-0.log, worker-1.log, ... (default: logs); they are
#                  here for hosts, too. Worker 0's is shown as it grows
#   --grace=60     seconds for the others to save, once one has failed
#   --supervise    starts all again by scripts/supervise.sh, which must see the
#                  workdir
#   --dry_run      prints what would run
#
# PYTHON=/path/to/python chooses the interpreter, on hosts too (default: that of
# the checkout's .venv).
#
# SIGTERM and Ctrl-C reach all workers, which save; so does the end of this
# script, whatever ended it. When a worker fails, the others are stopped. This
# ends with the code of the first that failed.
set -euo pipefail
unset CDPATH  # which may lead elsewhere
{  # Read as a whole before it runs: the file may change meanwhile.

usage() { echo "error: $*" >&2; exit 2; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/quoting.sh
source "$root/scripts/quoting.sh"
arguments=("$@")
hosts="" workers="" dir=$root port="" logs=logs grace=60 supervise="" dry_run=""
ssh="ssh -o BatchMode=yes -o ServerAliveInterval=30"
while (($#)); do
  case $1 in
    --hosts=*) hosts=${1#*=} ;;
    --local=*) workers=${1#*=} ;;
    --dir=*) dir=${1#*=} ;;
    --port=*) port=${1#*=} ;;
    --ssh=*) ssh=${1#*=} ;;
    --logs=*) logs=${1#*=} ;;
    --grace=*) grace=${1#*=} ;;
    --supervise) supervise=yes ;;
    --dry_run) dry_run=yes ;;
    --) shift; break ;;
    *) break ;;
  esac
  shift
done
flags=("$@" --config.strategy.name=multi_worker)
(($#)) || usage "no flags of vatt.main, expected them behind the options"
[[ -z $hosts || -z $workers ]] || usage "--hosts and --local: expected one"
[[ -n $hosts || $workers =~ ^[1-9][0-9]{0,3}$ ]] ||
  usage "--local is '$workers', expected a number of workers, or --hosts"
[[ -z $port || $port =~ ^[1-9][0-9]{0,4}$ ]] ||
  usage "--port is '$port', expected a number"
[[ $grace =~ ^[0-9]{1,5}$ ]] || usage "--grace is '$grace', expected seconds"

python=${PYTHON:-$dir/.venv/bin/python}

if [[ -n $supervise && -z $dry_run ]]; then
  again=()
  for argument in "${arguments[@]}"; do
    if [[ $argument != --supervise ]]; then again+=("$argument"); fi
  done
  exec "$root/scripts/supervise.sh" -- "$root/scripts/launch_multi_worker.sh" \
    "${again[@]}"
fi

# ---- Who is who -------------------------------------------------------------
names=()      # hosts; none where all are here
addresses=()  # host:port of each worker
if [[ -n $hosts ]]; then
  IFS=, read -r -a names <<<"$hosts"
  workers=${#names[@]}
  for ((i = 0; i < workers; i++)); do
    [[ ${names[i]} =~ ^[^-].*$ ]] ||
      usage "--hosts is '$hosts', expected names with commas between"
    number=${port:-2222}
    for ((k = 0; k < i; k++)); do  # another port for a host that comes again
      if [[ ${names[k]} == "${names[i]}" ]]; then number=$((number + 1)); fi
    done
    addresses+=("${names[i]##*@}:$number")
  done
elif [[ -n $port ]]; then
  for ((i = 0; i < workers; i++)); do
    addresses+=("localhost:$((port + i))")
  done
else
  while IFS= read -r number; do addresses+=("localhost:$number"); done < <(
    "$python" -c '
import socket, sys
count = int(sys.argv[1])
sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
print(*(s.getsockname()[1] for s in sockets), sep="\n")' "$workers")
  [[ ${#addresses[@]} == "$workers" ]] || usage "$python finds no free ports"
fi
cluster=""
for address in "${addresses[@]}"; do cluster+=", \"$address\""; done

gpus=()
if [[ -z $hosts ]]; then
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    if [[ $CUDA_VISIBLE_DEVICES != -1 ]]; then
      IFS=, read -r -a gpus <<<"$CUDA_VISIBLE_DEVICES"
    fi
  elif command -v nvidia-smi >/dev/null; then
    while IFS= read -r number; do gpus+=("$number"); done < <(
      nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true)
  fi
  ((${#gpus[@]} % workers == 0)) ||
    usage "--local is $workers, expected a number that divides the" \
      "${#gpus[@]} GPUs: ${gpus[*]}"
fi

# Sets `command` to what worker $1 runs.
command_of() {
  local each=$((${#gpus[@]} / workers))
  local task="{\"type\": \"worker\", \"index\": $1}"
  command=(env "TF_CONFIG={\"cluster\": {\"worker\": [${cluster#, }]},\
 \"task\": $task}")
  if ((each)); then
    command+=("CUDA_VISIBLE_DEVICES=$(
      IFS=,; echo "${gpus[*]:$(($1 * each)):$each}")")
  fi
  command+=("$python" -m vatt.main "${flags[@]}")
}

if [[ -n $dry_run ]]; then
  for ((i = 0; i < workers; i++)); do
    command_of "$i"
    if [[ -n $hosts ]]; then
      # shellcheck disable=SC2086  # a command and its options
      line $ssh "${names[i]}" "cd $(quote "$dir") && $(line "${command[@]}")"
    else
      line "${command[@]}"
    fi
  done
  exit 0
fi

# ---- Run them ---------------------------------------------------------------
# Runs a command until it ends, or the standard input does: then it gets
# SIGTERM, and $1 seconds later SIGKILL. ssh passes on no signals, but the end
# of its input it does. Goes to hosts as text.
hold() {
  local grace=$1 child watch code before signals=0
  shift
  exec 3<&0
  "$@" </dev/null 3<&- &
  child=$!
  trap 'signals=$((signals + 1)); kill -TERM $child 2>/dev/null' TERM INT HUP
  (
    trap - TERM INT HUP
    while read -r <&3; do :; done
    kill -TERM "$child"
    sleep "$grace"
    kill -KILL "$child"
  ) >/dev/null 2>&1 &
  watch=$!
  while true; do
    before=$signals
    code=0
    wait "$child" 2>/dev/null || code=$?
    if ((signals == before)); then break; fi
  done
  kill "$watch" 2>/dev/null || true
  return "$code"
}

# Runs worker $1 to its end.
run() {
  command_of "$1"
  if [[ -z $hosts ]]; then
    hold "$grace" "${command[@]}"
  else
    # shellcheck disable=SC2086  # a command and its options
    $ssh "${names[$1]}" "bash -c $(quote "$(declare -f hold)
cd $(quote "$dir") || exit
hold $grace $(line "${command[@]}")")"
  fi
}

mkdir -p "$logs"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkfifo "$folder/lifeline"
# Workers read 5, which ends when nobody has 4 any more.
# shellcheck disable=SC2094  # both ends are wanted
exec 4<>"$folder/lifeline" 5<"$folder/lifeline"
touch "$folder/ended"
signals=0
asked=""  # whether somebody else wants it to end
# shellcheck disable=SC2329  # traps call it
stop() {
  signals=$((signals + 1))
  exec 4>&-
}
trap stop USR1
trap 'asked=yes; stop' TERM INT

pids=()
for ((i = 0; i < workers; i++)); do
  (
    exec 4>&-
    code=0
    if ((i == 0)); then
      run "$i" <&5 2>&1 | (
        trap '' TERM INT  # it is to show how the worker ends
        exec tee -a "$logs/worker-$i.log") || code=${PIPESTATUS[0]}
    else
      run "$i" <&5 >>"$logs/worker-$i.log" 2>&1 || code=$?
    fi
    echo "$i $code" >>"$folder/ended"
    if ((code)); then kill -USR1 $$ 2>/dev/null || true; fi
  ) &
  pids+=($!)
done
for pid in "${pids[@]}"; do
  while true; do
    before=$signals
    wait "$pid" || true
    if ((signals == before)); then break; fi
  done
done

while read -r i code; do
  if [[ $code == 143 && -n $asked ]]; then
    echo "Stopped by a signal: run the same command to go on." >&2
    exit 143
  elif ((code)); then
    echo "Worker $i of $workers ended with code $code first, the last of" \
      "$logs/worker-$i.log:" >&2
    tail -n 5 "$logs/worker-$i.log" >&2
    exit "$code"
  fi
done <"$folder/ended"
exit 0
}
