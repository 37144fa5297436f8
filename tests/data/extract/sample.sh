#!/usr/bin/env bash
# The script.
set -euo pipefail
source lib/common.sh
. ./other.sh

# The limit.
readonly LIMIT=3
NAME="a $LIMIT"
export PATH_EXTRA=/opt
declare -A table=([a]=1)
typeset number=1
alias ll='ls -l'

# Opens it.
open_box() {
  local size=$1
  inner=2
  echo "${NAME} $size" | grep -q "$(basename "$0")"
}

function close_box {
  declare hidden=1
  open_box "$@"
}

function with_parentheses() { close_box; }

for item in a b; do
  value=$item
done
if [[ -n $NAME ]]; then flag=1; fi
cat <<EOF
$NAME
EOF
