#!/usr/bin/env bash
# The model of the supernode: published results predicted, a step explained, a small plan.
set -euo pipefail
trap 'echo "$0: line $LINENO failed: $BASH_COMMAND" >&2' ERR
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
exec 3>&1 >said.txt # what the commands print; `expect` looks for a text in it
expect() { grep -qE -- "$1" said.txt || { cat said.txt >&2; echo "not printed: $1" >&2; exit 1; }; }

silva validate cloudmatrix
expect "mean"
silva validate baselines
silva plan --explain --batch 96
expect "dispatch"
silva plan --rate 5 --prompt 2000 --output 200 --ttft-p99 3s --tpot-p99 60ms --requests 60 --out plan.html
test -s plan.html

cat said.txt >&3
