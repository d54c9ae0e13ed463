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
#   --help         prints this
#
# PYTHON=/path/to/python chooses the interpreter, on hosts too (default: that of
# the checkout's .venv).
#
# SIGTERM and Ctrl-C reach all workers, which save; so does the end of this
# script, whatever ended it. When a worker fails, the others are stopped. This
# ends with 0 if all workers have; else with the first code that is no
# consequence of another worker's end, as 75 is. 143: it was told to stop; 137:
# something killed a process of this script.
set -euo pipefail
unset CDPATH  # which may lead elsewhere
{  # Read as a whole before it runs: the file may change meanwhile.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/launching.sh
source "$root/scripts/launching.sh"
hosts="" local="" dir=$root port="" logs=logs grace=60 supervise="" dry_run=""
ssh="ssh -o BatchMode=yes -o ServerAliveInterval=30"
options flags "hosts= local= dir= port= ssh= logs= grace= supervise dry_run" \
  "$@"
own=("${@:1:$#-${#rest[@]}}")
set -- ${rest[@]+"${rest[@]}"}
workers=$local
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
  for argument in "${own[@]}"; do
    if [[ $argument != --supervise ]]; then again+=("$argument"); fi
  done
  exec "$root/scripts/supervise.sh" -- "$root/scripts/launch_multi_worker.sh" \
    ${again[@]+"${again[@]}"} "$@"
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
  local grace=$1 child watch i code=0
  shift
  exec 3<&0
  trap : TERM INT HUP  # what is ignored, the child could never hear
  "$@" </dev/null 3<&- &
  child=$!
  # From here on the input alone counts. A trap that runs while the child ends
  # can have bash miss that, and wait for ever.
  trap '' TERM INT HUP
  (
    while read -r <&3; do :; done
    kill -TERM "$child"
    # Its number may soon be another's, where nobody is left to end this.
    for ((i = 0; i < grace; i++)); do
      kill -0 "$child" || exit
      sleep 1
    done
    kill -KILL "$child"
  ) >/dev/null 2>&1 &
  watch=$!
  wait "$child" 2>/dev/null || code=$?
  kill -KILL "$watch" 2>/dev/null || true
  wait "$watch" 2>/dev/null || true
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
    # A signal to all of us, as a terminal and a scheduler send it, must end
    # neither this, which is to say how the worker ends, nor ssh, whose input
    # tells the host.
    trap '' TERM INT
    exec 4>&-
    code=0
    if ((i == 0)); then
      run "$i" <&5 2>&1 | tee -a "$logs/worker-$i.log" || code=${PIPESTATUS[0]}
    else
      exec <&5 >>"$logs/worker-$i.log" 2>&1
      run "$i" || code=$?
    fi
    echo "$i $code" >>"$folder/ended"
    if ((code)); then kill -USR1 $$ 2>/dev/null || true; fi
  ) &
  pids+=($!)
done
for pid in "${pids[@]}"; do await "$pid"; done

# ---- How they ended ---------------------------------------------------------
ended=0   # workers
first=""  # worker and code of the first that failed
cause=""  # of the first whose code is not another's doing
while read -r i code; do
  ended=$((ended + 1))
  if ((code)); then
    # 75: another was lost. 143: it was told to stop; after the first, by us.
    if [[ -z $cause && $code != 75 && ($code != 143 || -z $first$asked) ]]; then
      cause="$i $code"
    fi
    first=${first:-$i $code}
  fi
done <"$folder/ended"
if [[ -z $cause && -n $asked && (-n $first || $ended -lt $workers) ]]; then
  echo "Stopped by a signal: run the same command to go on." >&2
  exit 143
elif [[ -z $cause ]] && ((ended < workers)); then
  echo "How $((workers - ended)) of $workers workers ended is not known:" \
    "something killed a process of this script." >&2
  exit 137
elif [[ -n $first ]]; then
  read -r i code <<<"${cause:-$first}"
  echo "Worker $i of $workers ended with code $code, the last of" \
    "$logs/worker-$i.log:" >&2
  tail -n 5 "$logs/worker-$i.log" >&2
  exit "$code"
fi
exit 0
}
