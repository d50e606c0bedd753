#!/usr/bin/env bash
# From the pictures that come with silva to a forest, and from the forest to an answer.
set -euo pipefail
trap 'echo "$0: line $LINENO failed: $BASH_COMMAND" >&2' ERR
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
exec 3>&1 >said.txt # what the commands print; `expect` looks for a text in it
expect() { grep -qE -- "$1" said.txt || { cat said.txt >&2; echo "not printed: $1" >&2; exit 1; }; }

silva doctor
expect "embedded data +fashion"

# Twelve clients in three groups whose cameras differ; two of them stay out of training.
silva tune --data embedded --partition 'planted(3)' --clients 12 \
    --samples-per-client 30 --test-per-client 30 --rounds 6 --out forest
expect "root \+ cluster \+ leaf"
expect "adjusted Rand index"
test -s forest/report/summary.json -a -s forest/report/overview.png
test ! -e forest.run

silva forest show forest
expect "c-08 .*leaf"

python - <<'PY'
import numpy as np
from PIL import Image

from silva.data.open import open_dataset

images = open_dataset("embedded").source.load(np.array([4999]), 28)
Image.fromarray(images[0]).save("picture.png")
PY
silva predict forest --client c-01 picture.png
expect "^picture.png"
expect "%  (Ankle boot|Sneaker|Sandal|Bag|Shirt)"

# The same with the Python API.
python - <<'PY'
import silva
from silva.config import build

settings = {
    "data": {"path": "embedded", "partition": "planted(2)", "clients": 6, "samples_per_client": 20},
    "federation": {"rounds": 3},
}
forest = silva.tune(build(silva.TuneConfig, settings), "from-python")
print(forest.clusters, forest.client("c-01").accuracy)
for answer in forest.predict("c-01", ["picture.png"], top=3):
    print(answer.image, answer.classes[0], answer.probabilities[0])
forest.export_peft("c-01-adapter", client="c-01")  # for stock transformers and PEFT; import_peft reads

print(silva.Forest.load("forest").clients)
PY
expect "^picture.png .* [01]\."
test -s c-01-adapter/adapter_model.safetensors

cat said.txt >&3
