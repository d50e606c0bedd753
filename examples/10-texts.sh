#!/usr/bin/env bash
# A language model tuned on texts of one's own. The model is random and tiny, so that this takes
# seconds: with `--backbone smollm2` the same commands tune a real one.
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

# texts/<client>/: three people write about the weather, three about dinner. tiny-llama/: a model.
python - <<'PY'
import json
import random
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from silva.models.llama_config import llama_config
from silva.models.llama_tensors import shapes

draw = random.Random(0)
weather = ["rain", "wind", "snow", "sun", "cloud", "storm", "cold", "warm"]
dinner = ["soup", "bread", "salt", "rice", "lemon", "butter", "sweet", "sour"]
for n, client in enumerate(("ada", "ben", "cleo", "dan", "eve", "fay", "guest")):
    words = " ".join(draw.choices((weather, dinner)[n % 2], k=400))
    folder = Path("guest" if client == "guest" else f"texts/{client}")
    folder.mkdir(parents=True)
    (folder / "diary.txt").write_text(words + "\n")

folder = Path("tiny-llama")
folder.mkdir()
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
tokenizer.save(str(folder / "tokenizer.json"))
config = {
    "model_type": "llama",
    "vocab_size": len(alphabet),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": 0,
}
(folder / "config.json").write_text(json.dumps(config))
torch.manual_seed(0)
tensors = {name: 0.2 * torch.randn(shape) for name, shape in shapes(llama_config(config, "")).items()}
save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
PY

silva tune --backbone tiny-llama --data texts --partition by_folder --unseen 0.17 \
    --samples-per-client 24 --test-per-client 8 --rounds 4 --set data.window=16 \
    --set federation.local.lr=1e-2 --set federation.unseen_epochs=1 \
    --set federation.clustering.rule=fixed --set federation.clustering.k=2 --out forest
expect "Perplexity over clients"

# What head policies say about heads does not apply: the model's own head serves everybody.
silva tune --backbone tiny-llama --data texts --partition by_folder --set federation.head=local \
    --out other 2>refusal.txt && exit 1
grep -q "have no heads" refusal.txt
test ! -e other -a ! -e other.run

silva forest show forest
expect "mean perplexity"
silva forest verify forest
silva forest add forest --client guest --data guest --split 0.2 --leaf-epochs 1
expect "perplexity with leaf"

# One adapter for stock transformers and PEFT: the client's whole path.
silva forest export forest --client guest --peft guest-adapter
test -s guest-adapter/adapter_model.safetensors
grep -q '"CAUSAL_LM"' guest-adapter/adapter_config.json

# The same forest behind OpenAI's API: every client is a model, and one pool of peers answers all.
silva serve tiny-llama --forest forest --port 8010 --unknown-client root &
server=$!
for _ in $(seq 300); do grep -q "serving at" said.txt && break; sleep 0.2; done
expect "serving at http://127.0.0.1:8010/v1"
python - <<'PY'
import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor

URL = "http://127.0.0.1:8010/v1"


def answer(model: str) -> str:
    body = {"model": model, "prompt": "rain soup ", "max_tokens": 24, "temperature": 0}
    data, headers = json.dumps(body).encode(), {"content-type": "application/json"}
    request = urllib.request.Request(f"{URL}/completions", data, headers)
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)["choices"][0]["text"]


models = json.load(urllib.request.urlopen(f"{URL}/models"))["data"]
names = [each["id"] for each in models]
print("models:", ", ".join(names))
assert {"tiny-llama", "tiny-llama@root", "tiny-llama@ada", "tiny-llama@guest"} <= set(names)
with ThreadPoolExecutor(len(names)) as pool:  # all clients at once, in one batch
    answers = dict(zip(names, pool.map(answer, names), strict=True))
for name, text in answers.items():
    print(f"{name:24} {text!r}")
assert answers == {name: answer(name) for name in names}  # and each alone says the same
assert len(set(answers.values())) > 2
assert answer("tiny-llama@nobody") == answers["tiny-llama@root"]
PY
# Somebody new joins while the server runs. The data stay with their owner: a probe of them is sent.
silva forest probe forest --client visitor --data guest --split 0.2 --out visitor.probe
silva forest join --url http://127.0.0.1:8010 --client visitor --probe visitor.probe
expect "ask for tiny-llama@visitor"
python -c 'import urllib.request as u; u.urlopen("http://127.0.0.1:8010/v1/models/tiny-llama@visitor")'
silva forest reload --url http://127.0.0.1:8010 --to 2
expect "version 2 is answered for: 2 clusters, 7 clients"
silva stop --url http://127.0.0.1:8010
wait "$server"
server=

cat said.txt >&3
