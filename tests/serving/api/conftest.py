"""Fakes, and ways to speak to the API: a plain client, the openai client, a server on a socket."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from api_fakes import FakeBackend, FakeText
from api_server import Running

from silva.serving.api.app import create_app
from silva.serving.api.keys import KeyRing
from silva.serving.api.settings import ApiSettings


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def text() -> FakeText:
    return FakeText()


Start = Callable[..., Running]


@pytest.fixture
def start(backend: FakeBackend, text: FakeText) -> Iterator[Start]:
    """start(settings, keys=..., admin_keys=...): the API on a free port of this machine."""
    running = []

    def make(
        settings: ApiSettings | None = None,
        keys: KeyRing | None = None,
        admin_keys: KeyRing | None = None,
    ) -> Running:
        app = create_app(backend, text, settings, keys=keys, admin_keys=admin_keys)
        running.append(Running(app, backend))
        return running[-1]

    yield make
    for server in running:
        server.stop()


@pytest.fixture
def url(start: Start) -> str:
    return start().url


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=20) as client:
        yield client


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20) as found:
        yield found
