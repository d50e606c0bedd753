"""Which peers can no longer be counted on, and what is told to those that can."""

from __future__ import annotations

from collections.abc import Iterable

from silva.serving.hub.flight import Flight
from silva.serving.hub.peer import Peer
from silva.serving.wire.messages import Hold


def silent(peers: Iterable[Peer], now_s: float, after_s: float) -> list[Peer]:
    """Peers not heard of for longer than `after_s`, those aside that are known to be silent."""
    counted = (peer for peer in peers if peer.state != "starting" and not peer.silent)
    return [peer for peer in counted if now_s - peer.heard_s > after_s]


def stuck(peers: Iterable[Peer], after_s: float) -> list[Peer]:
    """Peers whose processes run, but whose present step is longer than `after_s`."""
    return [peer for peer in peers if peer.busy_s > after_s]


def holds(flights: Iterable[Flight]) -> dict[str, Hold]:
    """By prefill peer: whose blocks lie there and are still to be read."""
    attempts: dict[str, list[tuple[str, int]]] = {}
    for flight in flights:
        if flight.state == "handover":
            request = flight.request
            attempts.setdefault(flight.prefill, []).append((request.id, request.attempt))
    return {name: Hold(tuple(those)) for name, those in attempts.items()}
