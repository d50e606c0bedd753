"""A federation of texts in seconds: a random Llama of width 32, six clients who write in two ways.

Even clients use words of one list, odd ones of another; each has one folder with two texts.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from deepseek_cases import random_hf as random_deepseek
from language_cases import random_hf
from tokenizer_cases import byte_level, save_tokenizer

from silva.config import build
from silva.federation.tune import TuneConfig

SHAPE: dict[str, Any] = {
    "vocab_size": 424,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "eos_token_id": 0,
}
WORDS = (("red", "tree", "bird", "sings"), ("Größe", "naïve", "café", "über"))
WINDOW = 16
SETTINGS: dict[str, Any] = {
    "adapter": {"rank": 2, "alpha": 4.0},
    "local": {"batch_size": 4, "lr": 1e-2},
    "root": {"rounds": 2},
    "cluster": {"rounds": 1},
    "leaf": {"rounds": 1},
    "clustering": {"rule": "fixed", "k": 2, "skip_rounds": 0, "min_size": 1},
    "probe_steps": 2,
    "unseen_epochs": 1,
    "measure_every": 0,
}


def save_model(folder: Path) -> Path:
    """A Hugging Face directory with weights and tokenizer."""
    random_hf("llama", **SHAPE).save_pretrained(folder)
    save_tokenizer(folder, byte_level())
    return folder


def save_latent_model(folder: Path, shape: str = "v3") -> Path:
    """The same with latent attention and experts, in one of the shapes of `deepseek_cases`."""
    random_deepseek(shape, vocab_size=SHAPE["vocab_size"], eos_token_id=0).save_pretrained(folder)
    save_tokenizer(folder, byte_level())
    return folder


def save_texts(folder: Path, clients: int = 6, words: int = 120) -> Path:
    """Folders ann-0, ann-1, ... with two texts each."""
    draw = random.Random(5)
    for n in range(clients):
        for name in ("a.txt", "b.txt"):
            path = folder / f"ann-{n}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(" ".join(draw.choices(WORDS[n % 2], k=words)) + "\n", encoding="utf-8")
    return folder


def config(folder: Path, **adapter: Any) -> TuneConfig:
    """A run on the model and the texts in `folder`, a third of the clients unseen."""
    data = {
        "path": str(folder / "texts"),
        "partition": "by_folder",
        "unseen": 0.34,
        "samples_per_client": 12,
        "test_per_client": 6,
        "window": WINDOW,
    }
    federation = {**SETTINGS, "adapter": {**SETTINGS["adapter"], **adapter}}
    plain = {"backbone": str(folder / "model"), "data": data, "federation": federation}
    return build(TuneConfig, {**plain, "threads": 1}, "test")
