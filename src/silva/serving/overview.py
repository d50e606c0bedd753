"""The hub's knowledge as the Status that the API shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from silva.serving.backend import CacheStatus, PeerState, PeerStatus, PoolStatus, Status
from silva.serving.hub.hub import Hub
from silva.serving.hub.peer import Peer


def overview(hub: Hub) -> Status:
    """Peers by name, pools by role, the cache peers' counts summed, the hub's own counters."""
    peers = tuple(_peer(p) for p in sorted(hub.peers.values(), key=lambda p: p.name))
    queued = sum(f.state == "queued" for f in hub.flights.values())
    caches = [p.counters for p in hub.peers.values() if p.role == "cache"]
    pools = {role: _pool([p for p in peers if p.role == role]) for role in _roles(peers)}
    if "prefill" in pools:  # where those go first that no peer has room for
        pools["prefill"] = replace(pools["prefill"], queue=pools["prefill"].queue + queued)
    return Status(
        peers=peers,
        pools=pools,
        cache=_cache(caches),
        counters=hub.counters,
    )


def _roles(peers: Iterable[PeerStatus]) -> list[str]:
    return sorted({p.role for p in peers})


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
        blocks_total=load.blocks_total,
    )


def _pool(peers: list[PeerStatus]) -> PoolStatus:
    return PoolStatus(
        peers=len(peers),
        ready=sum(p.state == "ready" for p in peers),
        queue=sum(p.queue for p in peers),
        running=sum(p.running for p in peers),
        blocks_free=sum(p.blocks_free for p in peers),
        blocks_total=sum(p.blocks_total for p in peers),
    )


def _cache(counters: list[dict[str, float]]) -> CacheStatus:
    names = CacheStatus.__dataclass_fields__
    return CacheStatus(**{n: int(sum(c.get(n, 0) for c in counters)) for n in names})
