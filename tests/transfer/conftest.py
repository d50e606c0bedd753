"""Share `transfer_parties` among these tests; one owner serves all that leave it whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from transfer_parties import KINDS, Owner, Parties


@pytest.fixture(scope="session", params=KINDS)
def lasting(request: pytest.FixtureRequest) -> Iterator[tuple[Parties, Owner]]:
    parties = Parties(request.param)
    yield parties, parties.owner()
    parties.end()


@pytest.fixture
def owner(lasting: tuple[Parties, Owner]) -> Owner:
    """Not to be killed or stopped."""
    return lasting[1]


@pytest.fixture
def reader(lasting: tuple[Parties, Owner]):
    return lasting[0].reader


@pytest.fixture(params=KINDS)
def parties(request: pytest.FixtureRequest) -> Iterator[Parties]:
    """Owners of this test alone."""
    parties = Parties(request.param)
    yield parties
    parties.end()
