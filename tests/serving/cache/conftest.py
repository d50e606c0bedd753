"""Let the tests of this folder share `cache_blocks`: pytest's importlib mode leaves the path alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cache_blocks import Peer, Stores


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
def stores(peer: Peer, tmp_path: Path) -> Iterator[Stores]:
    stores = Stores(peer, tmp_path)
    yield stores
    stores.close()
