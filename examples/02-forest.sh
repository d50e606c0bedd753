#!/usr/bin/env bash
# What can be done with a forest: check it, draw it, export adapters, add and remove clients.
set -euo pipefail
trap 'echo "$0: line $LINENO failed: $BASH_COMMAND" >&2' ERR
work=$(mktemp -d)
server=
finish() {
  test -z "$server" || { kill "$server" 2>/dev/null && wait "$server" || true; }
  rm -rf "$work"
}
trap finish EXIT
cd "$work"
exec 3>&1 >said.txt # what the commands print; `expect` looks for a text in it
expect() { grep -qE -- "$1" said.txt || { cat said.txt >&2; echo "not printed: $1" >&2; exit 1; }; }

silva tune --data embedded --partition 'planted(2)' --clients 7 --unseen 0.15 \
    --samples-per-client 20 --test-per-client 20 --rounds 5 --set federation.unseen_epochs=1 \
    --set federation.clustering.rule=fixed --set federation.clustering.k=2 --out forest

silva forest verify forest
expect "^sound: 1 versions"
silva forest show forest --plot forest.png
test -s forest.png

# PEFT directories: a client's whole path as one adapter, one tier alone, or a directory a tier.
silva forest export forest --client c-01 --peft c-01-adapter
silva forest export forest --tier cluster-0 --peft cluster-0-adapter
silva forest export forest --client c-01 --stack --peft c-01-tiers
test -s c-01-adapter/adapter_model.safetensors -a -s cluster-0-adapter/adapter_config.json
ls c-01-tiers
expect "^tier-leaf"

# Somebody new, whose camera inverts colours: probed, routed, and given a leaf.
python - <<'PY'
import numpy as np

from silva.data.open import open_dataset
from silva.data.styles import apply_style

data = open_dataset("embedded")
rows = np.random.default_rng(1).choice(4000, 40, replace=False)
images = apply_style(data.source.load(rows, 28), "inverted", rows)
split = np.repeat([0, 1], 20).astype(np.uint8)
np.savez("new-1.npz", images=images, label=data.labels[rows], split=split, class_names=data.class_names)
PY
silva forest add forest --client new-1 --data new-1.npz --leaf-epochs 2
expect "<- nearest"
expect "accuracy with leaf"
expect "version 2 of forest, from 20 images"

# An adapter that was trained elsewhere becomes a leaf; here, c-01's own.
silva forest import forest --client new-2 --peft c-01-tiers/tier-leaf
expect "imported c-01-tiers/tier-leaf as new-2; version 3 is live"

# The forest behind an API: pictures of any clients are answered in one batch.
silva serve silva-vit-tiny --forest forest --port 8011 &
server=$!
for _ in $(seq 300); do grep -q "serving at" said.txt && break; sleep 0.2; done
python - <<'PY'
import base64
import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from silva import Forest
from silva.data.open import open_dataset

URL = "http://127.0.0.1:8011/v1"
Image.fromarray(open_dataset("embedded").source.load(np.array([4999]), 28)[0]).save("boot.png")
picture = base64.b64encode(open("boot.png", "rb").read()).decode()


def classes(client: str) -> dict[str, float]:
    body = {"model": f"silva-vit-tiny@{client}", "images": [picture], "top_k": 10}
    data, headers = json.dumps(body).encode(), {"content-type": "application/json"}
    reply = urllib.request.urlopen(urllib.request.Request(f"{URL}/classify", data, headers))
    [found] = json.load(reply)["data"]
    return {each["label"]: each["probability"] for each in found["classes"]}


forest = Forest.load("forest")
with ThreadPoolExecutor(8) as pool:
    for client, found in zip(forest.clients, pool.map(classes, forest.clients)):
        print(f"{client}: {next(iter(found))} {next(iter(found.values())):.1%}")
        [alone] = forest.predict(client, ["boot.png"], top=10)
        wanted = dict(zip(alone.classes, alone.probabilities))
        assert all(abs(found[label] - chance) < 1e-4 for label, chance in wanted.items())
PY
expect "^new-1: "

# Somebody else sends its examples to the server: answered by its cluster at once, and by a leaf of its
# own when the server has tuned one beside its answers.
silva forest join --client new-3 --data new-1.npz --tune --url http://127.0.0.1:8011
expect "^ask for silva-vit-tiny@new-3"
for _ in $(seq 100); do
  silva forest served --url http://127.0.0.1:8011 >served.txt
  grep -q "leaf of new-3: live" served.txt && break || sleep 0.2
done
cat served.txt
expect "leaf of new-3: live, pass 1 of 1"
silva stop --url http://127.0.0.1:8011
wait "$server"
server=

# Versions are kept, so the last steps can be taken back.
silva forest rollback forest --to 2
expect "version 2 is live, 8 clients"

# Whoever is removed is gone for good, from every version.
silva forest remove forest new-1
expect "removed new-1; version 6 is live, 7 clients"
test -z "$(grep -rl new-1 forest/versions)"
silva forest verify forest
expect "^sound: "

# A byte that changed on disk does not go unseen.
python - <<'PY'
from pathlib import Path

path = max(Path("forest/objects").iterdir())
data = bytearray(path.read_bytes())
data[-1] ^= 1
path.chmod(0o644)
path.write_bytes(data)
PY
code=0
silva forest verify forest 2> verify.txt || code=$?
test "$code" = 2
grep -q "restore it from a copy" verify.txt

cat said.txt >&3
