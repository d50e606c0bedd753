"""The fake server, started for a test with its script and stopped after it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bench_server import FakeOpenAI, Running

Start = Callable[..., Running]


@pytest.fixture
def start() -> Iterator[Start]:
    """start(script=..., fields=...): a `FakeOpenAI` on a free port of this machine."""
    running = []

    def make(**script: Any) -> Running:
        running.append(Running(FakeOpenAI(**script)))
        return running[-1]

    yield make
    for server in running:
        server.stop()
