"""Clients who send their examples to the server: probed here at once, and given a leaf if they like.

What trains is handed down by whoever starts the server, since tuning stands beside serving.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from silva.adapters.forest import Forest
from silva.adapters.joining import Joined, check_name
from silva.adapters.probe_file import Probed
from silva.adapters.tiers import Tier
from silva.data.labelled import LabelledFiles
from silva.errors import ForestError
from silva.serving.backend import BusyError
from silva.serving.live_forest import LiveForest

if TYPE_CHECKING:
    from silva.serving.tunings import Tunings

MOST_ASKING = 4
"""Newcomers whose examples are received or probed at a time."""


class Prober(Protocol):
    """Makes a client's probe on the model that is served."""

    def probe(self, forest: Forest, client: str, examples: LabelledFiles) -> Probed:
        """The probe that `silva forest probe` makes of the same examples.

        Raises DataError for an unknown label and for what is no image, ForestError for a forest
        without clusters.
        """
        ...


class LeafTuner(Protocol):
    """Tunes a leaf in a process of its own, to which it is pickled."""

    def tune(
        self,
        forest: Forest,
        client: str,
        examples: LabelledFiles,
        leave: Callable[[int, int], None],
    ) -> Tier:
        """The leaf that `silva forest add` gives a client of the same name and examples.

        `leave` is called before every pass with passes done and all passes, and returns when the
        pass may begin. Raises a SilvaError where there is no leaf.
        """
        ...


class Newcomers:
    """Who joins by examples. Belongs to the event loop; one is probed at a time, beside it."""

    def __init__(self, live: LiveForest, prober: Prober, tunings: Tunings) -> None:
        self._live, self._prober, self.tunings = live, prober, tunings
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

    async def join(self, client: str, examples: LabelledFiles, *, tune: bool) -> Joined:
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
                self.tunings.begin(joined.forest, client, examples)
        return joined

    async def tune(self, client: str, examples: LabelledFiles) -> None:
        """Begin a leaf for a client that has none, such as after one that failed.

        Raises UnknownClientError, ForestError for one that has a leaf or will have one, DataError for
        an unknown label, and BusyError.
        """
        async with self._turn:
            forest = await asyncio.to_thread(self._live.on_disk)
            if forest.client(client).leaf is not None:
                what = f"client {client!r} has a leaf already"
                raise ForestError(what, remedy="erase it and let it join again")
            if self.tunings.unfinished(client):
                what = f"a leaf of {client!r} is tuned already"
                raise ForestError(what, remedy="wait for it")
            examples.dataset(forest.class_names)
            self.tunings.begin(forest, client, examples)

    def told(self) -> list[dict[str, Any]]:
        """See `Tunings.told`."""
        return self.tunings.told()
