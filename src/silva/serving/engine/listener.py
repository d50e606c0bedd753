"""What an engine tells its owner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from silva.control.request import FinishReason, Output, Phases, Sampled, StoredBlock
from silva.errors import ServingError


@dataclass(frozen=True)
class Handed:
    """A request that was added with `hand_over` has its first token."""

    sampled: Sampled
    blocks: tuple[int, ...]
    """Its KV, all positions before the sampled token; held until `release`. Empty when finished."""
    cached_tokens: int
    phases: Phases
    finish: FinishReason | None
    """Where the first token is the last. Then nothing is held, and nothing is to be released."""


class Listener:
    """What an engine's owner hears, on the engine's thread; overwrite what is wanted.

    All but `lookups` come between steps, so they may call the engine's methods but `step`.
    """

    def outputs(self, outputs: Sequence[Output]) -> None:
        """What one step gave to the requests that decode here."""

    def failed(self, request: str, error: ServingError) -> None:
        """The request is over without an end: nothing more comes of it, its blocks are free."""

    def handed(self, handed: Handed) -> None:
        """A prompt is computed, for a decode peer to fetch."""

    def lookups(self, begun: Sequence[tuple[str, tuple[bytes, ...]]]) -> None:
        """Requests look for these keys in the cache peers: see `silva.control.fills`.

        Comes before a step is computed, so that the question travels meanwhile: the engine must not
        be called in here.
        """

    def stored(self, blocks: Sequence[StoredBlock]) -> None:
        """Blocks that are complete now, to be stored in the cache peers.

        Comes when a prompt is computed, and when a request that decodes here is over: then with all
        of its blocks, those of the prompt among them, which may have been told before. A later step
        may give the blocks to others: who copies them later calls `scheduler.pin` in here, and
        `scheduler.unpin` when that is over.
        """
