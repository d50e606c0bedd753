"""When a peer should change its role, because prompts or answers have become longer or shorter.

    controller = RoleController()
    move = controller.observe(window)            # at the end of each window of time
    if move: drain peer_to_move(peers, move) and start it in the role move.target

Demand is counted in peers: a role of 3 peers that are busy 80 % of the time demands 2.4. A peer goes
to the busier role when that is busier by more than `margin` than the other one would be without it,
in every one of `patience` windows. Each move therefore relieves the busier role, and it cannot flap:
from p prefill peers to p - 1 and d decode peers to d + 1, and back, takes

    Dd / d > (1 + margin) Dp / (p - 1)    and then    Dp' / (p - 1) > (1 + margin) Dd' / d

so that the ratio of the two demands changes by more than (1 + margin)^2 in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from silva.control.mapping import Health, PeerLoad, Role, by_name

_SATURATED = 0.92
"""A role that is busier than this may have more to do than it shows."""


@dataclass(frozen=True)
class Scaling:
    """How eager the controller is."""

    margin: float = 0.25
    """By what share the busier role must be busier than the other would be after the move."""
    patience: int = 3
    """So many windows in a row must say so."""
    cool_down: int = 4
    """So many windows after a move are not looked at: drains and queues distort them."""
    floor: float = 0.6
    """Below this utilisation of the busier role nothing is moved."""

    def __post_init__(self) -> None:
        if not (self.margin > 0 and self.patience >= 1 and self.cool_down >= 0 <= self.floor):
            raise ValueError(f"impossible: {self}")


@dataclass(frozen=True)
class Window:
    """What happened in one window of time, over all ready peers."""

    seconds: float
    arrivals: int
    """Requests that came in, whether or not they were served yet."""
    prompt_tokens: float
    """Mean tokens of their prompts that had to be computed, without those from caches."""
    output_tokens: float
    """Mean tokens of the answers that ended."""
    prefill_peers: int
    decode_peers: int
    prefill_busy: float
    """Mean share of the time that prefill peers computed, 0 to 1."""
    decode_busy: float
    """Mean share of the decode peers' batch, or of their KV blocks if that is more, 0 to 1."""


@dataclass(frozen=True)
class Move:
    """One peer should go from `source` to `target`."""

    source: Role
    target: Role
    busy_now: float
    """Demand over capacity of the busier role; above 1 its queue grows."""
    busy_then: float
    """The same after the move."""


@dataclass
class _Demand:
    """How many peers a role would need, from what is seen and from what tokens have cost before."""

    cost_s: float | None = None
    """Peer-seconds a token."""

    def estimate(self, tokens_per_s: float, busy: float, peers: int) -> float:
        seen = busy * peers
        if tokens_per_s <= 0:
            return seen
        cost_s = seen / tokens_per_s
        if busy < _SATURATED:
            # Not smoothed: tokens may cost more or less from now on, and `patience` looks at several.
            self.cost_s = cost_s
            return seen
        self.cost_s = max(cost_s, self.cost_s or 0.0)
        return tokens_per_s * self.cost_s


@dataclass
class RoleController:
    """Watches windows and proposes one move at a time. Deterministic, and has no clock."""

    settings: Scaling = field(default_factory=Scaling)
    _prefill: _Demand = field(default_factory=_Demand)
    _decode: _Demand = field(default_factory=_Demand)
    _seen: deque[tuple[float, float]] = field(default_factory=deque)
    _peers: tuple[int, int] = (0, 0)
    _cooling: int = 0

    def observe(self, window: Window) -> Move | None:
        """Take in a window; the move to make now, if any. The caller carries it out, or not.

        Windows of a changed number of peers are not mixed with those before.
        """
        peers = (window.prefill_peers, window.decode_peers)
        if peers != self._peers:
            self._seen.clear()
            self._peers = peers
        if min(peers) < 1 or window.seconds <= 0:
            return None
        rate = window.arrivals / window.seconds
        demand = (
            self._prefill.estimate(rate * window.prompt_tokens, window.prefill_busy, peers[0]),
            self._decode.estimate(rate * window.output_tokens, window.decode_busy, peers[1]),
        )
        if self._cooling:
            self._cooling -= 1
            return None
        self._seen.append(demand)
        if len(self._seen) > self.settings.patience:
            self._seen.popleft()
        return self._decide(peers)

    def _decide(self, peers: tuple[int, int]) -> Move | None:
        if len(self._seen) < self.settings.patience:
            return None
        prefill, decode = (sum(each) / len(self._seen) for each in zip(*self._seen, strict=True))
        to_decode = decode / peers[1] > prefill / peers[0]
        if not all(
            self._helps(each, peers, to_decode) for each in (*self._seen, (prefill, decode))
        ):
            return None
        now, then = (
            _busiest((prefill, decode), peers),
            _busiest((prefill, decode), _moved(peers, to_decode)),
        )
        self._seen.clear()
        self._cooling = self.settings.cool_down
        if to_decode:
            return Move(Role.PREFILL, Role.DECODE, now, then)
        return Move(Role.DECODE, Role.PREFILL, now, then)

    def _helps(self, demand: tuple[float, float], peers: tuple[int, int], to_decode: bool) -> bool:
        after = _moved(peers, to_decode)
        if min(after) < 1:
            return False
        busier = demand[to_decode] / peers[to_decode]
        other = demand[not to_decode] / after[not to_decode]
        return busier >= self.settings.floor and busier > (1 + self.settings.margin) * other


def peer_to_move(peers: Iterable[PeerLoad], move: Move) -> str | None:
    """The ready peer of the source role with the least work, of equal ones the last by name."""
    ready = [p for p in peers if p.role is move.source and p.health is Health.READY]
    ready.sort(key=lambda peer: by_name(peer.name), reverse=True)
    best = min(ready, key=lambda peer: (peer.requests, peer.tokens), default=None)
    return best.name if best else None


def _moved(peers: tuple[int, int], to_decode: bool) -> tuple[int, int]:
    step = 1 if to_decode else -1
    return (peers[0] - step, peers[1] + step)


def _busiest(demand: tuple[float, float], peers: tuple[int, int]) -> float:
    return max(demand[0] / peers[0], demand[1] / peers[1])
