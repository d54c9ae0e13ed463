#!/usr/bin/env bash
# Runs a training, and starts it again when it ends by what another start may
# mend: a lost worker, a preemption, a kill, a crash.
#
#   ./scripts/supervise.sh [--failures=5] [--pause=10] [--workdir=DIR] \
#       [--] COMMAND...
#
# --help prints this.
#
# COMMAND is python -m vatt.main, or what starts it; its own --workdir=DIR names
# the workdir. What its end means:
#
#   0               done: so ends this, with 0
#   1, 2, 126, 127  an error that it said in a line, bad arguments, no such
#                   command: another start cannot mend that, so ends this, with
#                   the same code
#   all others      such as 75 (a worker was lost), 143 (SIGTERM: preempted) and
#                   137 (killed, out of memory): started again
#
# It pauses before that: 10 seconds, and twice as long after each failure
# without progress, ten minutes at most. Progress is a newer checkpoint. After 5
# failures in a row without any it gives up, with the code of the last. SIGTERM
# and SIGINT (Ctrl-C) are passed on as SIGTERM, so that the run is saved; then
# this ends, with 143.
set -euo pipefail
unset CDPATH  # which may lead elsewhere
{  # Read as a whole before it runs: the file may change meanwhile.

LONGEST=600  # seconds of a pause

# shellcheck source=scripts/launching.sh
source "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/launching.sh"
say() { echo "$(date '+%Y-%m-%d %H:%M:%S') supervise: $*" >&2; }

failures=5
pause=10
workdir=""
options command "failures= pause= workdir=" "$@"
set -- ${rest[@]+"${rest[@]}"}
[[ ${1:-} != -* ]] ||
  usage "$1: expected --failures=N, --pause=SECONDS, --workdir=DIR or --, and" \
    "a command"
[[ $failures =~ ^[1-9][0-9]{0,5}$ ]] ||
  usage "--failures is '$failures', expected a number above 0"
[[ $pause =~ ^(0|[1-9][0-9]{0,5})$ ]] ||
  usage "--pause is '$pause', expected whole seconds"
(($#)) || usage "no command, expected one behind the options"

if [[ -z $workdir ]]; then
  before=""
  for argument in "$@"; do  # the last counts, as it does for the command
    case $argument in
      --workdir=* | -workdir=*) workdir=${argument#*=} ;;
      *) case $before in --workdir | -workdir) workdir=$argument ;; esac ;;
    esac
    before=$argument
  done
  [[ -n $workdir ]] ||
    usage "no --workdir in the command, expected it there, or as an option"
fi
workdir=${workdir/#\~\//${HOME:-~}/}
if [[ $workdir == *://* ]] && ! command -v gcloud >/dev/null; then
  usage "gcloud is not found, expected it to look for checkpoints in $workdir"
fi

# Prints the step of the newest checkpoint, 0 without any.
newest() {
  local pattern='ckpt-*.manifest.json' path step best=0
  while IFS= read -r path; do
    step=${path##*/ckpt-}
    step=${step%.manifest.json}
    if [[ $step =~ ^[0-9]+$ ]] && ((10#$step > best)); then
      best=$((10#$step))
    fi
  done < <(
    case $workdir in
      *://*) gcloud storage ls "$workdir/checkpoints/$pattern" 2>/dev/null ;;
      *) find "$workdir/checkpoints" -maxdepth 1 -name "$pattern" 2>/dev/null ;;
    esac || true
  )
  echo "$best"
}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkfifo "$folder/pipe" "$folder/copy"
child=""
signals=0
# shellcheck disable=SC2329  # the trap calls it
stop() {
  signals=$((signals + 1))
  if [[ -n $child ]]; then kill -TERM "$child" 2>/dev/null || true; fi
}
trap stop TERM INT

# Runs the command. What it says on its standard error is shown, and the end of
# it kept in a file. Sets `code`.
run() {
  local keeper listener tries=0
  # Neither is to be ended by a signal to all of us: the command still has to
  # say how it ends.
  (trap '' TERM INT; exec tail -c 20000 <"$folder/copy" >"$folder/said") &
  keeper=$!
  (trap '' TERM INT; exec tee "$folder/copy" <"$folder/pipe" >&2) &
  listener=$!
  "$@" 2>"$folder/pipe" &
  child=$!
  # A signal that came before there was a child.
  if ((signals)); then kill -TERM "$child" 2>/dev/null || true; fi
  await "$child"
  child=""
  # What it started may hold the pipe for longer than it lived.
  while kill -0 "$listener" 2>/dev/null && ((tries++ < 20)); do sleep 0.1; done
  kill -KILL "$listener" 2>/dev/null || true
  wait "$listener" "$keeper" 2>/dev/null || true
}

# Prints what was wrong, of what the command has said.
reason() {
  local lines
  # Progress bars end in carriage returns.
  lines=$(tr '\r' '\n' <"$folder/said" | grep -v '^[[:space:]]*$') || true
  grep '^error: ' <<<"$lines" | tail -n 1 | grep . || tail -n 1 <<<"$lines"
}

best=$(newest)
stuck=0  # failures without progress, one after the other
while ((! signals)); do
  say "starting at step $best: $*"
  run "$@"
  case $code in
    0) say "done"; exit 0 ;;
    1 | 2 | 126 | 127)
      say "ended with code $code, which another start cannot mend:" \
        "$(reason)"
      exit "$code" ;;
  esac
  if ((signals)); then break; fi
  say "ended with code $code: $(reason)"
  found=$(newest)
  if ((found > best)); then
    best=$found
    stuck=0
  else
    stuck=$((stuck + 1))
    say "no checkpoint after step $best: failure $stuck of $failures"
    if ((stuck == failures)); then
      say "giving up after $failures failures without progress, the last with" \
        "code $code: $(reason)"
      exit "$code"
    fi
  fi
  seconds=$pause
  for ((i = 1; i < stuck && seconds < LONGEST; i++)); do
    seconds=$((2 * seconds))
  done
  if ((seconds > LONGEST)); then seconds=$LONGEST; fi
  say "starting again in $seconds seconds"
  # As a child, which a signal does not have to wait for.
  sleep "$seconds" &
  wait $! || kill $! 2>/dev/null || true
done
say "stopped by a signal: run the same command to go on"
exit 143
}
