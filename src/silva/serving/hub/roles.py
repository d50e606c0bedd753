"""How busy the roles are, window after window, and which peer should change its role for that.

The decision is `control.scaling`'s; here are the numbers that it wants, out of what the hub knows and
what peers report. A window in which a computing peer starts, drains, is silent or is replaced says
nothing about the load, and is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from silva.control.scaling import Move, RoleController, Window, peer_to_move
from silva.serving.backend import RolesStatus
from silva.serving.config import RolesConfig
from silva.serving.hub.hub import Hub
from silva.serving.hub.peer import Peer
from silva.serving.hub.traffic import Traffic

IDLE_S = 1.0
"""A peer that has nothing to compute turns twice a second; if a turn takes longer, it is a step."""


@dataclass(frozen=True)
class Advice:
    """This peer should take the role `move.target`."""

    peer: str
    move: Move


@dataclass
class _Begin:
    """What the counts stood at when a window began, and what was seen since."""

    at_s: float
    peers: list[tuple[str, int]]
    traffic: Traffic
    stepped: dict[str, tuple[float, float]]
    """By prefill peer: a time, and the seconds of its steps until then."""
    decode_shares: list[float] = field(default_factory=list)


class RoleWatch:
    """Of one server. Decides nothing unless `config.auto`; how busy the roles are is always known."""

    def __init__(self, hub: Hub, config: RolesConfig, clock: Callable[[], float]) -> None:
        self._hub, self._config, self._clock = hub, config, clock
        self._controller = RoleController()
        self._begin: _Begin | None = None
        self._busy: dict[str, float] = {}
        self._moves = {"prefill": 0, "decode": 0}
        self._last = ""
        self._last_s = 0.0

    def tick(self) -> Advice | None:
        """Call twice a second; the move to make now, if any."""
        # What peers that follow have to do is that of the one that leads.
        peers = [p for p in self._hub.peers.values() if p.role != "cache" and not p.follows]
        now, begin = self._clock(), self._begin
        steady = all(p.usable for p in peers)
        if not steady or begin is None or begin.peers != _who(peers):
            self._begin = self._begun(now, peers) if steady else None
            return None
        begin.decode_shares.append(self._decode_share(peers))
        if now - begin.at_s < self._config.window_s:
            return None
        window = self._window(begin, now, peers)
        self._begin = self._begun(now, peers)
        self._busy = {"prefill": window.prefill_busy, "decode": window.decode_busy}
        move = self._controller.observe(window) if self._config.auto else None
        name = peer_to_move(map(self._hub.load_of, peers), move) if move else None
        return Advice(name, move) if name and move else None

    def moved(self, advice: Advice) -> None:
        """The advice is being carried out."""
        target = advice.move.target.value
        self._moves[target] += 1
        self._last, self._last_s = f"{advice.peer} to {target}", self._clock()

    def status(self) -> RolesStatus:
        """As `silva status` shows it."""
        age_s = self._clock() - self._last_s if self._last else None
        return RolesStatus(
            self._config.auto, dict(self._busy), dict(self._moves), self._last, age_s
        )

    def _begun(self, now_s: float, peers: list[Peer]) -> _Begin:
        return _Begin(
            now_s,
            _who(peers),
            replace(self._hub.traffic),
            {p.name: _stepped(p, now_s) for p in peers if p.role == "prefill"},
        )

    def _decode_share(self, peers: list[Peer]) -> float:
        """Of the batches of all decode peers, or of their blocks where that is more; 0 to 1."""
        flights = self._hub.flights.values()
        batch = Counter(f.decode for f in flights if f.state in ("handover", "decode"))
        decode = [p for p in peers if p.role == "decode"]
        shares = []
        for peer in decode:
            load = peer.load
            used = 1 - load.blocks_free / max(1, load.blocks_total)
            shares.append(min(1.0, max(batch[peer.name] / max(1, load.most_running), used)))
        return sum(shares) / max(1, len(shares))

    def _window(self, begin: _Begin, now_s: float, peers: list[Peer]) -> Window:
        then, now = begin.traffic, self._hub.traffic
        arrivals, prefills = now.requests - then.requests, now.prefills - then.prefills
        if prefills:
            prompt = (now.computed_tokens - then.computed_tokens) / prefills
        else:  # whatever is under way is longer than the window
            prompt = (now.prompt_tokens - then.prompt_tokens) / max(1, arrivals)
        answers = now.answers - then.answers
        output = (now.answer_tokens - then.answer_tokens) / max(1, answers)
        prefill = [p for p in peers if p.role == "prefill"]
        busy = [_busy(begin.stepped[p.name], _stepped(p, now_s)) for p in prefill]
        return Window(
            seconds=now_s - begin.at_s,
            arrivals=arrivals,
            prompt_tokens=prompt,
            output_tokens=output,
            prefill_peers=len(prefill),
            decode_peers=len(peers) - len(prefill),
            prefill_busy=sum(busy) / max(1, len(busy)),
            decode_busy=sum(begin.decode_shares) / len(begin.decode_shares),
        )


def _who(peers: list[Peer]) -> list[tuple[str, int]]:
    """The processes: one that takes another's place has its name."""
    return [(p.name, p.pid) for p in peers]


def _stepped(peer: Peer, now_s: float) -> tuple[float, float]:
    """Of steps that are over it reports; of one that goes on only its beats tell."""
    over_s = peer.counters.get("step_s", 0.0)
    if peer.busy_s > IDLE_S:
        return (now_s, over_s + peer.busy_s)
    return (peer.reported_s, over_s)


def _busy(then: tuple[float, float], now: tuple[float, float]) -> float:
    """Share of the time between two reports; a peer that reports nothing is in a long step."""
    seconds = now[0] - then[0]
    return min(1.0, max(0.0, now[1] - then[1]) / seconds) if seconds > 0 else 1.0
