"""One request of an engine: where it stands, what it holds, and as what that is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from silva.control.request import Request
from silva.control.urgency import Order


class Stage(Enum):
    """Where a request stands. `admitted` entries count towards `max_running`."""

    WAITING = "in the queue"
    PARKED = "waits for a block that another request makes"
    LOOKING = "its lookup at the cache peers is outstanding"
    FILLING = "blocks of the cache peers are read into its own"
    STARTED = "admitted, computes its prompt"
    JOINING = "has its first token, decodes from the next step on"
    DECODING = "is given one token a step"
    RESERVED = "its KV is on the way from a prefill peer"
    HELD = "its KV waits to be fetched by a decode peer"


class Filed(Enum):
    """As what an entry's blocks are counted when others need room."""

    SAFE = "none, or never taken: a step, or somebody outside, reads or writes them"
    IDLE = "hits of a request that waits: any request before it may take them"
    PROMISED = "none yet, but some are promised to it"
    RUNNING = "taken by preemption"

    __hash__ = object.__hash__  # an enumeration's own is written in Python


@dataclass(slots=True, eq=False)
class Entry:
    """One request and where it stands. `length` are its known tokens, `computed` those with KV;
    while it decodes both are as they were when it joined (`State.length_of`).
    """

    request: Request
    id: str
    """That of the request, which a step looks at all the time."""
    order: Order
    keys: Sequence[bytes]
    length: int
    limit: int
    """Length at which it ends."""
    blocks: list[int]
    sought: dict[bytes, None]
    """Keys that it makes by looking for them."""
    filling: dict[bytes, int]
    """Keys whose blocks are being read, and the places of these in `blocks`."""
    hand_over: bool = False
    lookup: bool = False
    stage: Stage = Stage.WAITING
    computed: int = 0
    told: int = 0
    """How many of `blocks` the runner knows from plans."""
    admitted: bool = False
    coming: bool = False
    """Reserved or just arrived, not yet in the batch."""
    promised: int = 0
    """Blocks it will still need for its known tokens."""
    joined_step: int = 0
    filed: Filed = Filed.SAFE
    filed_blocks: int = 0
    """Blocks held and promised that are counted in `State.running_blocks`."""
    sampled: bool = False
    """Its last known token was sampled: if that alone lacks KV, it decodes."""
    looked: bool = False
    """The cache peers were asked, or are known not to have more."""
    waits_for: bytes | None = None
    ready: int = 0
    """Blocks that need no transfer, of a reservation."""
    cancelled: bool = False
    """Its owner has left, but its blocks are still written to: it goes when that is over."""
    cached: int = 0
    preemptions: int = 0
    started_s: float | None = None

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt whose KV came from a cache, when it first started."""
        return min(self.cached, len(self.request.prompt))
