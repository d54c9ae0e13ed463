# shellcheck shell=bash
# What the scripts share that start something: options, words for another shell,
# waiting. They read it.

usage() { echo "error: $*" >&2; exit 2; }

# Takes the script's options off its arguments, up to -- or to the first that is
# none. Each sets the variable of its name, to `yes` where it takes no value;
# `rest` is what comes behind. --help prints what the script begins with.
#
#   options flags|command "NAME= NAME ..." ARGUMENTS
#
# An option that comes behind flags was meant for the script, and is refused: as
# one more flag, --dry_run would have the thing really run.
options() {
  local behind=$1 names=" $2 " option word
  shift 2
  while (($#)); do
    case $1 in
      --) shift; rest=("$@"); return ;;
      --help)
        awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
        exit 0 ;;
    esac
    is_option "$1" || break
    case $names/$1 in
      *" $option= "*/--*=*) printf -v "$option" %s "${1#*=}" ;;
      *" $option "*/--"$option") printf -v "$option" yes ;;
      *" $option= "*) usage "$1: expected --$option=VALUE" ;;
      *) usage "$1: expected --$option" ;;
    esac
    shift
  done
  rest=("$@")
  [[ $behind == flags ]] || return 0
  names+="help "
  for word in "$@"; do
    if [[ $word == -- ]]; then return; fi
    if is_option "$word"; then
      usage "$word: expected before the flags, or behind --"
    fi
  done
}

# True for a word that begins like one of the options `names`; sets `option`.
is_option() {
  option=${1#-}
  option=${option#-}
  option=${option%%=*}
  [[ $1 == -?* && $option =~ ^[a-z_]+$ &&
    ($names == *" $option "* || $names == *" $option= "*) ]]
}

# Quotes a word for any shell, if need be.
quote() {
  local end="'\\''"
  if [[ $1 =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
    printf '%s' "$1"
  else
    printf "'%s'" "${1//\'/$end}"
  fi
}

# Prints words as a line for a shell.
line() {
  local word words=""
  for word in "$@"; do words+=" $(quote "$word")"; done
  echo "${words# }"
}

# Waits for a child to end; sets `code`. A signal ends `wait` too, and the child
# may go on for some time: traps add one to `signals`.
await() {
  local before
  while true; do
    before=$signals
    code=0
    wait "$1" 2>/dev/null || code=$?
    if ((signals == before)); then break; fi
  done
}
