# shellcheck shell=bash
# Words for another shell; read by the scripts that start something elsewhere.

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
