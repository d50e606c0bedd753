"""Which peers a request goes to: the least loaded ones, wherever its cached blocks may live.

Every peer reaches every cached block at the same cost, so that placement needs to look at load only
(CloudMatrix-Infer, sections 3 and 4.7). The caller owns the requests and therefore knows what it has
given to whom; nothing here asks a peer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    """What a peer does at present."""

    PREFILL = "prefill"
    DECODE = "decode"
    CACHE = "cache"


class Health(Enum):
    """Whether a peer may be given requests: only a `READY` one may."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"


@dataclass(frozen=True)
class PeerLoad:
    """One peer, and the work that it was given and has not finished."""

    name: str
    role: Role
    health: Health = Health.READY
    requests: int = 0
    """Requests it has: queued, running, reserved."""
    tokens: int = 0
    """Prefill: prompt positions not yet computed. Decode: tokens of context it holds or expects."""
    capacity_tokens: int = 0
    """Decode: tokens that its KV pool holds; 0: not known."""


def choose_prefill(peers: Iterable[PeerLoad]) -> str | None:
    """The prefill peer with the fewest prompt positions ahead, then the fewest requests.

    None when none is ready. Equal ones are taken in the order of their names, numbers by value.
    """
    ready = [peer for peer in peers if peer.role is Role.PREFILL and peer.health is Health.READY]
    best = min(ready, key=lambda p: (p.tokens, p.requests, by_name(p.name)), default=None)
    return best.name if best else None


def choose_decode(peers: Iterable[PeerLoad], needs_tokens: int = 0) -> str | None:
    """The decode peer with the fewest requests, then the smallest share of its pool in use.

    Peers whose pool would overflow by `needs_tokens` come last: they may refuse, or preempt. None
    when none is ready.
    """
    ready = [peer for peer in peers if peer.role is Role.DECODE and peer.health is Health.READY]
    best = min(ready, key=lambda peer: _decode_load(peer, needs_tokens), default=None)
    return best.name if best else None


def by_name(name: str) -> tuple[str, int, str]:
    """Orders decode-2 before decode-10."""
    head = name.rstrip("0123456789")
    number = name[len(head) :]
    return (head, int(number) if number else -1, number)


def source_rank(
    *,
    prefill_tp_size: int,
    decode_tp_size: int,
    decode_dp_size: int,
    decode_dp_rank: int,
    decode_tp_rank: int = 0,
) -> int:
    """The tensor-parallel rank of the prefill instance that a decode rank reads KV from.

    All prefill ranks hold the whole latent KV of MLA, so that any may serve; this spreads the
    readers evenly (CloudMatrix-Infer, section 4.6):

        ratio      = prefill_tp_size / decode_tp_size
        group_size = decode_dp_size / ratio
        rank       = floor(decode_dp_rank / group_size) * decode_tp_size + decode_tp_rank

    The floor is taken of the exact quotient, so that `group_size` need not be a whole number.
    Raises ValueError unless the ratio is a whole number, and for ranks outside their sizes.
    """
    sizes = (prefill_tp_size, decode_tp_size, decode_dp_size)
    if min(sizes) < 1 or prefill_tp_size % decode_tp_size:
        raise ValueError(
            f"sizes must be positive and prefill_tp_size {prefill_tp_size} a multiple of "
            f"decode_tp_size {decode_tp_size}"
        )
    if not (0 <= decode_dp_rank < decode_dp_size and 0 <= decode_tp_rank < decode_tp_size):
        raise ValueError(
            f"no rank {decode_dp_rank} of {decode_dp_size}, {decode_tp_rank} of {decode_tp_size}"
        )
    ratio = prefill_tp_size // decode_tp_size
    group = decode_dp_rank * ratio // decode_dp_size
    return group * decode_tp_size + decode_tp_rank


def _decode_load(
    peer: PeerLoad, needs_tokens: int
) -> tuple[bool, int, float, tuple[str, int, str]]:
    known = peer.capacity_tokens > 0
    overflows = known and peer.tokens + needs_tokens > peer.capacity_tokens
    share = peer.tokens / peer.capacity_tokens if known else 0.0
    return (overflows, peer.requests, share, by_name(peer.name))
