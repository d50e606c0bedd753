#!/usr/bin/env bash
# Mistakes end with exit code 2 and one line that says what is wrong, where, and what to do.
set -euo pipefail
trap 'echo "$0: line $LINENO failed: $BASH_COMMAND" >&2' ERR
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

refused() { # $1: what the line must say; then the command
    local code=0
    "${@:2}" >out.txt 2>err.txt || code=$?
    cat err.txt
    test "$code" = 2 || { echo "exit code $code, not 2: ${*:2}" >&2; exit 1; }
    test "$(grep -c . err.txt)" = 1 || { echo "not one line: ${*:2}" >&2; exit 1; }
    grep -qE -- "$1" err.txt || { echo "does not say: $1" >&2; exit 1; }
    test ! -e forest -a ! -e forest.run || { echo "left something behind: ${*:2}" >&2; exit 1; }
}

refused "no such file or folder" silva tune --data nowhere.npz --out forest
refused "need more than the data set's 4000 train images" \
    silva tune --data embedded --partition 'planted(2)' --clients 5000 --samples-per-client 1 --out forest
refused "no partition is called 'by_magic'" silva tune --data embedded --partition by_magic --out forest
refused "did you mean federation.local.epochs" \
    silva tune --data embedded --set federation.local.epoch=2 --out forest
refused "out of range; allowed: 1 to 100000" silva tune --data embedded --rounds 0 --out forest

head -c 1000 /dev/zero >broken.npz
refused "unknown format" silva tune --data broken.npz --out forest
printf '\x1f\x8bnot a gzip file' >cifar-100-python.tar.gz
refused "damaged gzip file" silva tune --data cifar-100-python.tar.gz --out forest

mkdir taken && touch taken/file
refused "taken: already exists; choose another --out" silva tune --data embedded --out taken
refused "is not a forest" silva forest show taken
refused "no unfinished run lies here" silva tune --resume forest
refused "no config.json here" silva tune --data embedded --backbone taken --out forest
