#!/usr/bin/env bash
# The demo as `make demo` runs it where SmolLM2 is not in the cache: minutes, the longest script here.
set -euo pipefail
trap 'echo "$0: line $LINENO failed: $BASH_COMMAND" >&2' ERR
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
exec 3>&1 >said.txt # what the command prints; `expect` looks for a text in it
expect() { grep -qE -- "$1" said.txt || { cat said.txt >&2; echo "not printed: $1" >&2; exit 1; }; }

silva demo --no-texts
expect "root \+ cluster \+ leaf"
expect "Clients never seen in training"
expect "adjusted Rand index"
expect "new-1 joins with 20 pictures: cluster-[0-9]+, live after"
test -s demo-forest/report/overview.png -a ! -e demo-forest.run

cat said.txt >&3
