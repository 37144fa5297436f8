#!/bin/sh
# What `make demo` runs: this project's own checkout indexed, one question, one completion.
set -eu
question="where is it checked that memory has room for a request?"
file="cli/codellama_cli/infill.py"
before="    settings"
line=$(grep -n "^$before" "$file" | head -n 1 | cut -d: -f1)
place="$file:$line:$((${#before} + 1))"

echo "\$ codellama index build ."
"$CODELLAMA" index build .
echo
echo "\$ codellama ask \"$question\""
"$CODELLAMA" ask "$question"
echo
echo "\$ codellama complete $place"
"$CODELLAMA" complete "$place"
