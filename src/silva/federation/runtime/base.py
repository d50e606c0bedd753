"""The seam between the cascade and the place where clients run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from silva.federation.client import ClientData, Update, Work


class Runtime(Protocol):
    """Runs clients' work wherever their data lives.

    A runtime keeps no state between calls that changes a result: the same work on the same data
    gives the same update.
    """

    def train(self, works: Iterable[Work]) -> Iterator[Update]:
        """One update for each piece of work, in order; a client that does not answer is left out."""
        ...


class Clients(Protocol):
    """Images of clients by name, loaded when asked for."""

    def train(self, name: str) -> ClientData: ...

    def test(self, name: str) -> ClientData: ...
