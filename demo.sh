#!/bin/sh
# What `make demo` runs: this project's own checkout indexed, one question, one completion.
set -eu
question="where are ignore rules applied?"
place="codellama/codellama/runtime/sampling.py:27:19"

echo "\$ codellama index build ."
"$CODELLAMA" index build .
echo
echo "\$ codellama ask \"$question\""
"$CODELLAMA" ask "$question"
echo
echo "\$ codellama complete $place"
"$CODELLAMA" complete "$place"
