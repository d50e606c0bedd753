"""What the API asks of whatever computes: one protocol, its nouns and its errors.

The hub of a disaggregated server and the engine of a colocated one both are a Backend. Everything
behind it knows token ids only; text, HTTP and API keys stay before it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from silva.control.admission import Admission
from silva.control.request import Output, Request
from silva.errors import SilvaError

Role = Literal["prefill", "decode", "cache", "both"]
"""both: the one engine of a colocated server."""

PeerState = Literal["starting", "ready", "draining", "dead"]
"""dead: not heard of for too long; one whose process has ended is not listed."""

End = Literal["finished", "cancelled", "failed"]
"""How a request ended; cancelled: whoever waited left before the answer was complete."""

STATUS_VERSION = 1
"""Of the JSON that `Status` becomes; raised when a field changes its meaning or goes."""


class BusyError(SilvaError):
    """No room for one more request now; `retry_after_s` says when to come back (429)."""

    usual = "try again later"

    def __init__(self, what: str, *, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(what)


class UnservableError(SilvaError):
    """This request can never be served here, such as one larger than the whole KV pool (400)."""

    usual = "shorten the prompt or the answer"


class UnavailableError(SilvaError):
    """Nobody can serve now: no peer of a role is left, peers died too often, or it closes (503)."""

    usual = "try again later"


class UnknownPeerError(SilvaError):
    """An admin verb names a peer or a role that does not exist (404)."""

    usual = "`silva status` lists the peers"


class ChangeRefusedError(SilvaError):
    """An admin verb would leave the server unable to serve, or it is not possible here (409)."""


@dataclass(frozen=True)
class ModelCard:
    """One name under which a model can be asked: the base, the root, a cluster or a client."""

    id: str
    created: int
    """Seconds since 1970."""
    context_tokens: int
    """Prompt and answer together; 0 where nothing is continued."""
    owned_by: str = "silva"
    parent: str | None = None
    """The model that it refines: a client's cluster, a cluster's root, the root's base."""
    root: str | None = None
    """The base model's id; None for the base itself."""
    path: tuple[str, ...] = ()
    """Digests of the adapters along the path, as `Request.path` wants them."""


@dataclass(frozen=True)
class PeerStatus:
    """One process that serves."""

    name: str
    role: Role
    pid: int
    state: PeerState
    queue: int = 0
    """Requests that wait on it."""
    running: int = 0
    """Requests in its batch."""
    blocks_free: int = 0
    blocks_total: int = 0
    blocks_used: int = 0
    """Held by requests; with the free ones, all of them."""
    steps: int = 0
    """Steps that computed something; like the following, a total of this process."""
    step_s: float = 0.0
    """Seconds of those steps, from one to the next."""
    execute_s: float = 0.0
    """Of them, in the model and in sampling."""
    model_s: float = 0.0
    """Of them, in the model."""
    preempted: int = 0
    """Requests that gave their blocks to others and were computed again."""
    drafted: int = 0
    """Guessed tokens that were computed."""
    accepted: int = 0
    """Of them, the right ones."""
    admission: Admission | None = None
    """What the target for time per token lets in; of peers that decode."""
    ranks: int = 0
    """Peers that share its experts and are alive, as it knows, itself among them; 0: none do."""


@dataclass(frozen=True)
class PoolStatus:
    """All peers of one role together."""

    peers: int
    ready: int
    queue: int = 0
    running: int = 0
    blocks_free: int = 0
    blocks_total: int = 0
    blocks_used: int = 0
    admission: Admission | None = None
    """Of those of its peers that decode, summed."""


@dataclass(frozen=True)
class CacheStatus:
    """All cache peers together; of a colocated server, its own prefix cache."""

    objects: int = 0
    ram_bytes: int = 0
    ram_limit_bytes: int = 0
    disk_bytes: int = 0
    disk_limit_bytes: int = 0
    hits: int = 0
    misses: int = 0


@dataclass(frozen=True)
class RolesStatus:
    """How busy the roles are, and what the server itself did about it."""

    auto: bool = False
    """Whether it moves peers between prefill and decode by itself."""
    busy: Mapping[str, float] = field(default_factory=dict)
    """By role, in the last whole window, 0 to 1: time of prefill, batch or blocks of decode."""
    moves: Mapping[str, int] = field(default_factory=dict)
    """Moves so far, by the role that the peer took."""
    last: str = ""
    """The last move, as "decode-2 to prefill"."""
    last_age_s: float | None = None
    """Seconds since."""


@dataclass(frozen=True)
class Status:
    """The server at one moment, as `silva status` and the metrics show it."""

    peers: tuple[PeerStatus, ...] = ()
    pools: Mapping[str, PoolStatus] = field(default_factory=dict)
    """By role."""
    cache: CacheStatus = CacheStatus()
    roles: RolesStatus = RolesStatus()
    counters: Mapping[str, int] = field(default_factory=dict)
    """Totals since the start, such as "retries" or "corrupt": [a-z0-9_]+, never falling."""
    version: int = STATUS_VERSION


class Serving(Protocol):
    """What the API needs of whatever computes. All of it is called on the event loop of the front."""

    def models(self) -> Sequence[ModelCard]:
        """All models that can be asked, the base first: the same sequence until others are offered."""
        ...

    def model(self, name: str) -> ModelCard | None:
        """The model asked for by this name, or None; cheap, since every request asks."""
        ...

    def offer(self, cards: Sequence[ModelCard]) -> None:
        """From now on these are the models that can be asked, the base first."""
        ...

    def status(self) -> Status:
        """The latest that is known; must not wait for peers."""
        ...

    def ready(self) -> bool:
        """Whether a request that comes now would be served."""
        ...

    async def scale(self, roles: Mapping[str, int]) -> None:
        """Start or drain peers until each named role has so many; returns once that is under way.

        Raises UnknownPeerError for a role and ChangeRefusedError.
        """
        ...

    async def drain(self, peer: str) -> None:
        """Let a peer finish what it runs, then stop it; returns once it takes nothing new.

        Raises UnknownPeerError and ChangeRefusedError.
        """
        ...

    async def switch(self, peer: str, role: str) -> None:
        """Drain a peer and let it go on in another role; returns once that is under way.

        Raises UnknownPeerError and ChangeRefusedError.
        """
        ...

    async def close(self, grace_s: float) -> None:
        """Admit nothing more, let what runs finish for up to `grace_s` seconds, cancel the rest,
        and end all peers. A call that was cancelled may be followed by one with less grace.
        """
        ...


class Backend(Serving, Protocol):
    """What the API needs to continue texts."""

    def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        """The outputs of one request in order; the last one, and only it, has `finish` set.

        A token that ends the answer (of `sampling.stop_token_ids`) is among the tokens.
        `cached_tokens` and `phases` are what is known by then, so the last output's are complete.
        Closing the generator, or cancelling the task that waits on it, cancels the request and
        frees its blocks. A reader may fall behind: outputs are merged or kept, never waited for.

        Raises BusyError, UnservableError and UnavailableError before the first output;
        UnavailableError also later, when a request whose peers died is given up.
        """
        ...

    def complete(self, request: str) -> None:
        """The answer is complete as far as it came: its text has reached a stop string.

        Said before its generator is closed, so that this is no cancellation. Unknown ids are none.
        """
        ...
