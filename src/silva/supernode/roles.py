"""Instances that change their roles in a simulation, when the server's controller says so.

Each instance has a scheduler for either role, one of which works. At the end of a window the
controller is told what happened in it; the instance that it moves takes nothing new, and when it
has nothing left it begins again in the other role.
"""

from __future__ import annotations

import math

import numpy as np

from silva.control.mapping import Health, PeerLoad, Role
from silva.control.scaling import RoleController, Window, peer_to_move
from silva.errors import ConfigError
from silva.supernode.cluster import Cluster, Failure
from silva.supernode.engine import Engine
from silva.supernode.fleet import Fleet
from silva.supernode.records import Records
from silva.supernode.system import System


class Roles:
    """Watches windows of `scale_window_s` and moves instances of `fleet`."""

    def __init__(self, cluster: Cluster, fleet: Fleet) -> None:
        self.window_s, self._fleet = cluster.scale_window_s, fleet
        self._controller = RoleController()
        self._busy_s = [0.0] * len(fleet.prefill)
        self._draining: Engine | None = None

    def window_ends(self, now_s: float, records: Records) -> None:
        """Takes in the window that ends now, and draws the instance to move."""
        window = self._window(now_s, records)
        move = self._controller.observe(window)
        if move is None or self._draining is not None:
            return
        source = self._fleet.prefill if move.source is Role.PREFILL else self._fleet.decode
        peers = [_load(engine, move.source) for engine in source if self._fleet.takes(engine)]
        name = peer_to_move(peers, move)
        self._draining = next(engine for engine in source if engine.name == name)
        self._fleet.drain(self._draining)

    def proceed(self, now_s: float, records: Records) -> Engine | None:
        """The instance that works again, in another role, if one has nothing left now."""
        old = self._draining
        if old is None or old.state.entries:
            return None
        self._draining = None
        old.up = False
        prefill, decode = self._fleet.prefill, self._fleet.decode
        ways = (prefill, decode) if old.hands_over else (decode, prefill)
        # The first instances of one list stand at the end of the other one.
        new = ways[1][(old.number + self._first(ways[1])) % len(ways[1])]
        self._fleet.restore(new)
        records.moves.append((now_s, old.name, new.name))
        return new

    def _first(self, engines: list[Engine]) -> int:
        fleet = self._fleet
        return fleet.first_decode if engines is fleet.decode else fleet.first_prefill

    def _window(self, now_s: float, records: Records) -> Window:
        traffic, start_s = records.traffic, now_s - self.window_s
        first, last = np.searchsorted(traffic.arrival_s, (start_s, now_s), side="right")
        computed = traffic.prompt[first:last] - records.cached_tokens[first:last]
        ended = (records.finished_s > start_s) & (records.finished_s <= now_s)
        said = traffic.output[ended]
        prefill = [engine for engine in self._fleet.prefill if self._fleet.takes(engine)]
        decode = [engine for engine in self._fleet.decode if self._fleet.takes(engine)]
        return Window(
            self.window_s,
            int(last - first),
            float(computed.mean()) if len(computed) else 0.0,
            float(said.mean()) if len(said) else 0.0,
            len(prefill),
            len(decode),
            self._prefill_busy(now_s, prefill),
            sum(map(_full, decode)) / max(1, len(decode)),
        )

    def _prefill_busy(self, now_s: float, engines: list[Engine]) -> float:
        shares = []
        for engine in self._fleet.prefill:
            ahead = engine.due_s - now_s if engine.due_s != math.inf else 0.0
            busy_s = engine.busy_s - ahead
            if engine in engines:
                shares.append((busy_s - self._busy_s[engine.number]) / self.window_s)
            self._busy_s[engine.number] = busy_s
        return float(np.clip(sum(shares) / max(1, len(shares)), 0.0, 1.0))


def check_roles(cluster: Cluster, system: System, failures: tuple[Failure, ...]) -> None:
    """ConfigError where instances cannot change their roles."""
    where = "scale_window_s"
    if not cluster.prefill:
        raise ConfigError("colocated instances have no roles to change", where=where)
    if system.prefill.dies != system.decode.dies:
        what = f"an instance of {system.prefill.dies} dies cannot take the place of one of "
        what += f"{system.decode.dies}"
        raise ConfigError(what, where=where, remedy="take a system with instances of one size")
    if failures:
        raise ConfigError(
            "failures and changes of roles are not simulated together",
            where=where,
            remedy="leave one of them out",
        )


def _load(engine: Engine, role: Role) -> PeerLoad:
    counts = engine.state.counts()
    return PeerLoad(
        engine.name,
        role,
        Health.READY,
        len(engine.state.entries),
        counts.blocks_used * engine.settings.block_tokens,
    )


def _full(engine: Engine) -> float:
    """Share of its batch, or of its blocks if that is more."""
    counts = engine.state.counts()
    batch = (counts.running + counts.coming) / engine.settings.max_running
    return min(1.0, max(batch, counts.blocks_used / counts.blocks))
