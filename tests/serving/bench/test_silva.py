"""The benchmark against silva's own API: it understands everything that is asked."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "api"))
from api_fakes import FakeBackend, FakeText
from api_server import Running

from silva.config import build, overlay
from silva.serving.api.app import create_app
from silva.serving.bench.config import BenchConfig
from silva.serving.bench.measure import summarise
from silva.serving.bench.nouns import Dialect
from silva.serving.bench.run import run


@pytest.fixture
def server() -> Iterator[Running]:
    backend = FakeBackend(cached_tokens=4)
    running = Running(create_app(backend, FakeText()), backend)
    yield running
    running.stop()


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_silva_is_measured_exactly(server: Running, endpoint: str) -> None:
    flags = {
        "url": server.url,
        "endpoint": endpoint,
        "load.rate": 200.0,
        "load.requests": 10,
        "work.input": "12",
        "work.output": "6",
        "work.vocabulary_low": 97,
        "work.vocabulary_high": 122,
    }
    found = asyncio.run(run(build(BenchConfig, overlay({}, flags), "test")))
    assert found.dialect == Dialect(endpoint == "completions", True, True, True)
    summary = summarise(found)
    assert (summary.answered, summary.failures, summary.tokens.output) == (10, (), 60)
    assert summary.tokens.cached == 40
    assert summary.inter_token_ms is not None and summary.inter_token_ms.count == 50
