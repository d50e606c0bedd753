#!/usr/bin/env bash
# A run that is stopped by Ctrl-C, then killed, ends with the same forest as one that was left alone.
set -euo pipefail
trap 'echo "$0: line $LINENO failed: $BASH_COMMAND" >&2' ERR
work=$(mktemp -d)
trap 'kill -9 "${run:-}" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"

# A shell lets its background jobs ignore Ctrl-C; this makes one listen again.
listen='import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])'

grow() {
    exec python -c "$listen" silva tune --data embedded --partition 'planted(2)' --clients 6 \
        --samples-per-client 20 --test-per-client 20 --rounds 4 \
        --set federation.unseen_epochs=2 --out "$1"
}
wait_for() { # until the saved state of the run shows $1
    until grep -qsE -- "$1" forest.run/state.json; do
        kill -0 "$run" || { echo "the run ended before it showed $1" >&2; exit 1; }
        sleep 0.1
    done
}

(grow undisturbed) >/dev/null

(grow forest) 2>interrupted.txt &
run=$!
wait_for '"total_rounds": ?[1-9]'
kill -INT "$run"
code=0
wait "$run" || code=$?
test "$code" = 130 || { cat interrupted.txt >&2; echo "ended with $code" >&2; exit 1; }
grep -q "silva tune --resume FOREST" interrupted.txt
test -d forest.run -a ! -e forest

silva tune --resume forest >/dev/null &
run=$!
wait_for '"stage": ?"(leaf|unseen)"'
kill -KILL "$run"
wait "$run" || true
test -d forest.run -a ! -e forest

silva tune --resume forest
test ! -e forest.run -a -s forest/report/summary.json

# Objects are named by their digests, and a version names its objects.
diff <(ls undisturbed/objects) <(ls forest/objects)
cmp undisturbed/versions/1.json forest/versions/1.json
echo "the same $(ls forest/objects | wc -l) objects as without interruption"
