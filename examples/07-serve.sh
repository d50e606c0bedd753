#!/usr/bin/env bash
# A language model behind OpenAI's API: fetched, served by peers, asked, loaded, scaled and stopped.
set -euo pipefail
trap 'echo "$0: line $LINENO failed: $BASH_COMMAND" >&2' ERR
work=$(mktemp -d)
url=http://127.0.0.1:8000
finish() {
  kill "$server" 2>/dev/null && wait "$server" || true
  rm -rf "$work"
}
trap finish EXIT
cd "$work"
exec 3>&1 >said.txt # what the commands print; `expect` looks for a text in it
expect() { grep -qE -- "$1" said.txt || { cat said.txt >&2; echo "not printed: $1" >&2; exit 1; }; }
ask() { # the answer to one chat message, whole
  python - "$1" <<'PYTHON'
import json, sys, urllib.request

body = {"model": "smollm2", "temperature": 0, "max_tokens": 16,
        "messages": [{"role": "user", "content": sys.argv[1]}]}
request = urllib.request.Request("http://127.0.0.1:8000/v1/chat/completions",
                                 json.dumps(body).encode(), {"content-type": "application/json"})
print(json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"])
PYTHON
}
peers() { # wait until `silva status` lists so many ready peers
  for _ in $(seq 300); do
    test "$(silva status | grep -c " ready ")" = "$1" && return
    sleep 0.2
  done
  silva status >&2
  return 1
}

silva serve &
server=$!
for _ in $(seq 600); do grep -q "serving at" said.txt && break; sleep 0.5; done
expect "serving at $url/v1"

ask "What is the capital of France?"
expect "Paris"

silva status
expect "decode-1"
silva scale prefill=2 decode=2
peers 5
silva drain decode-2
peers 4
silva switch prefill-2 decode
peers 4
test "$(ask "What is the capital of France?")" = "The capital of France is Paris."

silva bench serve --url http://127.0.0.1:8000 --concurrency 2 --requests 6 --input 32 --output 8
expect "time to first token"

silva stop
wait "$server"

cat said.txt >&3
