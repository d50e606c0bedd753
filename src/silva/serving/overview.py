"""The hub's knowledge as the Status that the API shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from silva.control.admission import together
from silva.serving.backend import CacheStatus, PeerState, PeerStatus, PoolStatus, Status
from silva.serving.engine.spent import NAMES as SPENT
from silva.serving.hub.hub import Hub
from silva.serving.hub.peer import Peer

_CACHE = CacheStatus.__dataclass_fields__


def overview(hub: Hub) -> Status:
    """Peers by name, pools by role, the cache peers' counts summed; counters of hub and peers."""
    peers = tuple(_peer(p) for p in sorted(hub.peers.values(), key=lambda p: p.name))
    queued = sum(f.state == "queued" for f in hub.flights.values())
    pools = {role: _pool([p for p in peers if p.role == role]) for role in _roles(peers)}
    if "prefill" in pools:  # where those go first that no peer has room for
        pools["prefill"] = replace(pools["prefill"], queue=pools["prefill"].queue + queued)
    return Status(
        peers=peers,
        pools=pools,
        cache=_cache(hub),
        counters=hub.counters | {n: v for n, v in hub.totals.items() if n not in _CACHE},
    )


def _roles(peers: Iterable[PeerStatus]) -> list[str]:
    return sorted({p.role for p in peers})


def spent(counters: Mapping[str, float]) -> dict[str, Any]:
    """What a peer tells of its steps, as `PeerStatus` has it."""
    known = {name: counters.get(name, 0.0) for name in SPENT}
    counts = ("steps", "preempted", "drafted", "accepted")
    return known | {name: int(known[name]) for name in counts}


def _peer(peer: Peer) -> PeerStatus:
    state: PeerState = "dead" if peer.silent else peer.state
    load = peer.load
    return PeerStatus(
        peer.name,
        peer.role,
        peer.pid,
        state,
        queue=load.waiting,
        running=load.running,
        blocks_free=load.blocks_free,
        blocks_used=load.blocks_used,
        blocks_total=load.blocks_total,
        **spent(peer.counters),
        admission=peer.admission,
        ranks=int(peer.counters.get("ranks", 0)),
    )


def _pool(peers: list[PeerStatus]) -> PoolStatus:
    return PoolStatus(
        peers=len(peers),
        ready=sum(p.state == "ready" for p in peers),
        queue=sum(p.queue for p in peers),
        running=sum(p.running for p in peers),
        blocks_free=sum(p.blocks_free for p in peers),
        blocks_used=sum(p.blocks_used for p in peers),
        blocks_total=sum(p.blocks_total for p in peers),
        admission=together(p.admission for p in peers if p.admission is not None),
    )


def _cache(hub: Hub) -> CacheStatus:
    """What the present peers hold, and what all have ever found and missed."""
    counters = [p.counters for p in hub.peers.values() if p.role == "cache"]
    held = {n: int(sum(c.get(n, 0) for c in counters)) for n in _CACHE}
    return CacheStatus(**held | {n: v for n, v in hub.totals.items() if n in _CACHE})
