"""Clients who send their examples to the server: probed here at once, and given a leaf if they like.

What trains is handed down by whoever starts the server, since tuning stands beside serving.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from silva.adapters.forest import Forest
from silva.adapters.joining import Joined, check_name
from silva.adapters.probe_file import Probed
from silva.adapters.tiers import Tier
from silva.errors import ForestError
from silva.serving.backend import BusyError
from silva.serving.live_forest import LiveForest

if TYPE_CHECKING:
    from silva.serving.tunings import Tunings

MOST_ASKING = 4
"""Newcomers whose examples are received or probed at a time."""

Examples = TypeVar("Examples", bound=Sized)
Sent = TypeVar("Sent", contravariant=True)
"""A client's examples, as the forest takes them: images with labels, or texts."""


class Prober(Protocol[Sent]):
    """Makes a client's probe on the model that is served."""

    def rows(self, forest: Forest, examples: Sent) -> int:
        """How many rows of training data they are. Raises DataError for what can be told at once."""
        ...

    def probe(self, forest: Forest, client: str, examples: Sent) -> Probed:
        """The probe that `silva forest probe` makes of the same examples.

        Raises DataError for an unknown label, for what is no image and for too little text, ForestError
        for a forest without clusters.
        """
        ...


class LeafTuner(Protocol[Sent]):
    """Tunes a leaf in a process of its own, to which it is pickled."""

    def tune(
        self,
        forest: Forest,
        client: str,
        examples: Sent,
        leave: Callable[[int, int], None],
    ) -> Tier:
        """The leaf that `silva forest add` gives a client of the same name and examples.

        `leave` is called before every pass with passes done and all passes, and returns when the
        pass may begin. Raises a SilvaError where there is no leaf.
        """
        ...


class Newcomers(Generic[Examples]):
    """Who joins by examples. Belongs to the event loop; one is probed at a time, beside it."""

    def __init__(
        self,
        live: LiveForest,
        prober: Prober[Examples],
        tunings: Tunings,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        """end: ends a probe that is being made, where one can be ended."""
        self._live, self._prober, self.tunings = live, prober, tunings
        self._end = end
        self._asking = 0
        self._turn = asyncio.Lock()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Room to receive one newcomer's examples. Raises BusyError."""
        if self._asking >= MOST_ASKING:
            raise BusyError(f"{self._asking} clients are joining already")
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1

    async def join(self, client: str, examples: Examples, *, tune: bool) -> Joined:
        """Probe, route and commit a client; with `tune` its leaf is begun.

        Raises ForestError for a name that is taken or not allowed and for a forest that others change
        meanwhile, BusyError where a leaf cannot be had now, and what `Prober.probe` raises; then
        nothing has changed.
        """
        async with self._turn:
            forest = await asyncio.to_thread(self._live.on_disk)
            check_name(forest.manifest, client)
            if tune:
                self.tunings.check_room()
            probed = await asyncio.to_thread(self._prober.probe, forest, client, examples)
            joined = await asyncio.to_thread(self._live.join_probed, forest, client, probed)
            if tune:
                self.tunings.begin(joined.forest, client, examples, probed.images)
        return joined

    async def tune(self, client: str, examples: Examples) -> None:
        """Begin a leaf for a client that has none, such as after one that failed.

        Raises UnknownClientError, ForestError for one that has a leaf or will have one, BusyError, and
        what `Prober.rows` raises.
        """
        async with self._turn:
            forest = await asyncio.to_thread(self._live.on_disk)
            if forest.client(client).leaf is not None:
                what = f"client {client!r} has a leaf already"
                raise ForestError(what, remedy="erase it and let it join again")
            if self.tunings.unfinished(client):
                what = f"a leaf of {client!r} is tuned already"
                raise ForestError(what, remedy="wait for it")
            rows = await asyncio.to_thread(self._prober.rows, forest, examples)
            self.tunings.begin(forest, client, examples, rows)

    async def close(self) -> None:
        """End what is probed and tuned and forget all examples."""
        self._end()
        await self.tunings.close()

    def told(self) -> list[dict[str, Any]]:
        """See `Tunings.told`."""
        return self.tunings.told()
