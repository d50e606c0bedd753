#!/usr/bin/env bash
# The demo as `make demo` runs it: minutes, the longest script here.
set -euo pipefail
trap 'echo "$0: line $LINENO failed: $BASH_COMMAND" >&2' ERR
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
exec 3>&1 >said.txt # what the command prints; `expect` looks for a text in it
expect() { grep -qE -- "$1" said.txt || { cat said.txt >&2; echo "not printed: $1" >&2; exit 1; }; }

silva demo
expect "root \+ cluster \+ leaf"
expect "Clients never seen in training"
expect "adjusted Rand index"
test -s demo-forest/report/overview.png -a ! -e demo-forest.run

cat said.txt >&3
