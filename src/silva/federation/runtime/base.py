"""The seam between the cascade and the place where clients run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from silva.federation.client import Update, Work
from silva.federation.task import Examples

Data_co = TypeVar("Data_co", bound=Examples, covariant=True)


class Runtime(Protocol):
    """Runs clients' work wherever their data lives.

    A runtime keeps no state between calls that changes a result: the same work on the same data
    gives the same update.
    """

    def train(self, works: Iterable[Work]) -> Iterator[Update]:
        """One update for each piece of work, in order; a client that does not answer is left out."""
        ...


class Clients(Protocol[Data_co]):
    """Data of clients by name, loaded when asked for. Any thread may ask."""

    def train(self, name: str) -> Data_co: ...

    def test(self, name: str) -> Data_co: ...
