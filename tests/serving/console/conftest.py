"""The browser, once for each file of tests; and where the helpers of other folders lie."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TESTS = HERE.parents[1]
sys.path[:0] = [
    str(HERE),
    str(HERE.parent),
    *(str(HERE.parent / name) for name in ("api", "engine", "images")),
    *(str(TESTS / name) for name in ("adapters", "faults", "federation")),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Of the module, since nothing else can run a loop of asyncio while it is open."""
    from page_browser import chromium

    with chromium() as found:
        yield found
