from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from silva.pretraining.language.config import LanguageRecipe, ModelShape

TINY = ModelShape(
    vocab_size=300,
    hidden_size=16,
    layers=2,
    intermediate_size=24,
    experts=4,
    experts_per_token=2,
    expert_size=8,
    heads=2,
    q_rank=12,
    kv_rank=8,
    nope_size=6,
    rope_size=4,
    value_size=8,
    context=128,
)

WORDS = "the forest grows a root and then a leaf falls on grass while clients read their own text"


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of a few words in random order, in two files."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("texts")
    words = WORDS.split()
    for name in ("a", "b"):
        lines = [" ".join(rng.choice(words, 30)) for _ in range(900)]
        (folder / f"{name}.txt").write_text("\n\n".join(lines))
    return folder


@pytest.fixture
def recipe() -> LanguageRecipe:
    return LanguageRecipe(
        model=TINY, steps=6, sequences=2, length=32, held_out=0.2, warmup_steps=2, save_every=2
    )
