#!/usr/bin/env bash
# A backbone of one's own, trained from scratch and then tuned. Far too short to be any good.
set -euo pipefail
trap 'echo "$0: line $LINENO failed: $BASH_COMMAND" >&2' ERR
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
exec 3>&1 >said.txt # what the commands print; `expect` looks for a text in it
expect() { grep -qE -- "$1" said.txt || { cat said.txt >&2; echo "not printed: $1" >&2; exit 1; }; }

cat >recipe.toml <<'TOML'
hidden_size = 48
num_hidden_layers = 2
num_attention_heads = 3
intermediate_size = 96
image_size = 32
batch_size = 100
warmup_steps = 5

[[stages]]
side = 16
epochs = 1

[[stages]]
side = 32
epochs = 1
TOML

silva pretrain --config recipe.toml --data embedded --out my-vit
expect "my-vit: held-out top-1"
test -s my-vit/model.safetensors -a -s my-vit/curve.png -a ! -e my-vit.run

silva tune --data embedded --partition 'planted(2)' --clients 6 --samples-per-client 20 \
    --test-per-client 20 --rounds 3 --backbone my-vit --out forest
expect "forest forest"

cat said.txt >&3
