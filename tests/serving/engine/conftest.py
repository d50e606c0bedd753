"""Models that all tests of the engine share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))

from engine_world import Expected, oracle, tiny

from silva.models.language import LanguageModel

Oracle = Callable[..., Expected]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, LanguageModel]:
    """A tiny random Llama, stock and silva's."""
    return tiny(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture(scope="session")
def model(pair: tuple[Any, LanguageModel]) -> LanguageModel:
    return pair[1]


@pytest.fixture(scope="session")
def expected(pair: tuple[Any, LanguageModel]) -> Oracle:
    """What transformers says after a prompt, greedily; remembered."""
    known: dict[tuple[Any, ...], Expected] = {}

    def ask(prompt: tuple[int, ...], count: int = 24) -> Expected:
        if (prompt, count) not in known:
            known[prompt, count] = oracle(pair[0], prompt, count)
        return known[prompt, count]

    return ask
