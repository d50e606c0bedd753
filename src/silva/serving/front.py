"""The disaggregated server: hub, sockets and processes together, as the API's Backend."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast, get_args

from silva.control.request import Output, Request
from silva.errors import ConfigError, SilvaError
from silva.serving.backend import (
    ChangeRefusedError,
    ModelCard,
    Status,
    UnavailableError,
    UnknownPeerError,
    UnservableError,
)
from silva.serving.catalogue import Catalogue
from silva.serving.config import MOST_PEERS, ServeConfig
from silva.serving.hub.hub import Hub
from silva.serving.hub.peer import Peer
from silva.serving.hub.roles import RoleWatch
from silva.serving.hub.settings import HubSettings
from silva.serving.hub.watch import stuck
from silva.serving.memory import available_bytes, check_memory
from silva.serving.overview import overview
from silva.serving.peers.start import PeerStart
from silva.serving.sockets import sockets_folder
from silva.serving.spread import Ranks, check_count, follows, peers_of, ranks_of, threads_each
from silva.serving.supervisor import Supervisor
from silva.serving.wire.messages import AnyMessage, Hello, Message, Role, Stop
from silva.serving.wire.star import Centre, address, peer_of

log = logging.getLogger("silva.front")

HUB = "hub"
TICK_S = 0.5

LEAVE_S = 10.0
"""A peer that has finished and was told to leave is ended after this time: it may be stuck."""


class Front:
    """A Backend over peers in processes of their own: `open` it on the loop that uses it."""

    def __init__(
        self,
        config: ServeConfig,
        model: Path,
        cards: Sequence[ModelCard],
        fail: Callable[[SilvaError], None] = log.error,
    ) -> None:
        """`model`: a directory as `silva.models.library` resolves it. `fail` is called when a peer
        of the configuration cannot start at all: nobody is served then, and it is to be closed.
        """
        self.config, self._model = config, model
        self._catalogue = Catalogue(cards, config.unknown_client)
        self._fail, self._closing = fail, False
        self._first: set[str] = set()
        """Peers of the configuration that have not served yet."""
        self._room_bytes = available_bytes()
        """What all peers together can take: as it is before the first of them."""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._centre: Centre | None = None
        self._token = secrets.token_bytes(32)
        self._identities: dict[str, str] = {}
        self._names: dict[str, str] = {}
        settings = HubSettings(
            block_tokens=config.kv.block_tokens,
            most_waiting=config.most_waiting,
            suspect_after_s=config.silence_s,
        )
        self.hub = Hub(settings, self._send, time.monotonic)
        self._supervisor = Supervisor(
            self._start_of, self._started, self._ended, start_s=config.start_s
        )
        self._roles = RoleWatch(self.hub, config.roles, time.monotonic)
        self._ranks: defaultdict[str, Ranks] = defaultdict(Ranks)
        self._chores: set[asyncio.Task[None]] = set()

    # Life -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Start the peers of the configuration; returns at once, `ready` says when they serve.

        Raises ServingError; to be closed all the same.
        """
        self._folder = sockets_folder()
        self._centre = Centre(address(Path(self._folder.name), HUB), self._receive)
        for role in cast(tuple[Role, ...], get_args(Role)):
            for _ in range(peers_of(self.config, role)):
                self._first.add(self._supervisor.add(role))
        self._chore(self._ticking())

    async def close(self, grace_s: float) -> None:
        """See Backend."""
        self._closing = True
        end = time.monotonic() + grace_s
        while self.hub.flights and time.monotonic() < end:
            await asyncio.sleep(0.05)
        self.hub.end("the server stopped before the answer was complete")
        await asyncio.sleep(0)
        for name in self._identities:
            self._send(name, Stop())
        await self._supervisor.stop(within_s=3.0)
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        if self._centre is not None:
            await self._centre.close()
        if self._folder is not None:
            self._folder.cleanup()

    def _chore(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _ticking(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await self._tick()
            except Exception:
                # Without it nobody would be found silent, and leases would run out.
                log.exception("while looking after the peers")

    async def _tick(self) -> None:
        self.hub.tick()
        for peer in stuck(self.hub.peers.values(), self.config.stuck_s):
            log.error("%s is ended: its step has taken %.0f s", peer.name, peer.busy_s)
            self.hub.stuck(peer.name)
            self._supervisor.kill(peer.name)
        advice = self._roles.tick()
        if advice is None or self._closing:
            return
        move = advice.move
        try:
            await self.switch(advice.peer, move.target.value)
        except ChangeRefusedError as error:
            log.warning("%s is not moved to %s: %s", advice.peer, move.target.value, error)
            return
        self._roles.moved(advice)
        # not a trouble, but whoever did not ask for it by hand has to be able to see it
        log.warning(
            "the load has shifted: %s goes to %s (the busier role has %.0f %% of the work that its "
            "peers can do, and %.0f %% then)",
            *(advice.peer, move.target.value, 100 * move.busy_now, 100 * move.busy_then),
        )

    def _start_of(self, name: str, role: Role, identity: str) -> PeerStart:
        assert self._folder is not None
        return PeerStart(
            name=name,
            role=role,
            identity=identity,
            folder=Path(self._folder.name),
            model=self._model,
            config=self.config,
            token=self._token,
            threads=self.config.threads or threads_each(self.config),
            log_level=logging.getLogger("silva").getEffectiveLevel(),
            rank=self._rank(name, role),
        )

    def _rank(self, name: str, role: Role) -> int:
        """Of a peer among those of its role that share experts; 0 where they do not."""
        if ranks_of(self.config, role) == 1:
            return 0
        return self._ranks[role].of(name, self._supervisor.present())

    def _follows(self, name: str, role: Role) -> bool:
        return follows(role, self._rank(name, role))

    def _started(self, name: str, identity: str, role: Role) -> None:
        self._identities[name], self._names[identity] = identity, name
        self.hub.expect(name, role, self._follows(name, role))

    def _ended(self, name: str, why: str) -> None:
        self._names.pop(self._identities.pop(name), None)
        self.hub.lost(name)
        if why and name in self._first:
            self._closing = True
            self.hub.end("the server could not start")
            self._fail(SilvaError(f"cannot start: {why}", where=name))
        elif why:
            log.error("%s cannot start, and is not tried again: %s", name, why)

    def _send(self, name: str, message: Message) -> None:
        identity = self._identities.get(name)
        if identity is not None and self._centre is not None:
            self._centre.send(identity, message)

    def _receive(self, identity: str, message: AnyMessage) -> None:
        name = self._names.get(peer_of(identity))
        if name is not None and isinstance(message, Hello):
            self._supervisor.serves(name)
            self._first.discard(name)
        if name is not None:  # else the last words of a process that has been replaced
            self.hub.receive(name, message)

    # Backend --------------------------------------------------------------------------------

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        """See Backend."""
        if self._closing:
            raise UnavailableError("the server is stopping")
        # Peers that are just starting, such as those in the place of dead ones, are waited for.
        if not {"prefill", "decode"} <= {p.role for p in self.hub.peers.values() if not p.follows}:
            raise UnavailableError("no prefill or no decode peer is left")
        self._check_size(request)
        async with contextlib.aclosing(self.hub.generate(request)) as outputs:
            async for output in outputs:
                yield output

    def complete(self, request: str) -> None:
        """See Backend."""
        self.hub.complete(request)

    def _check_size(self, request: Request) -> None:
        tokens = len(request.prompt) + request.sampling.max_tokens
        blocks = -(-tokens // self.config.kv.block_tokens)
        pools = [
            p.load.blocks_total for p in self.hub.peers.values() if p.role != "cache" and p.usable
        ]
        if pools and blocks > min(pools):
            raise UnservableError(
                f"{tokens} tokens of prompt and answer take {blocks} blocks, a peer has {min(pools)}"
            )

    def models(self) -> Sequence[ModelCard]:
        return self._catalogue.cards

    def model(self, name: str) -> ModelCard | None:
        return self._catalogue.find(name)

    def offer(self, cards: Sequence[ModelCard]) -> None:
        """See Backend."""
        self._catalogue = Catalogue(cards, self.config.unknown_client)

    def ready(self) -> bool:
        """Whether a peer of each computing role is there."""
        serving = {p.role for p in self.hub.peers.values() if p.serves}
        return not self._closing and {"prefill", "decode"} <= serving

    def busy(self) -> bool:
        """Whether requests wait or are answered."""
        return bool(self.hub.flights)

    def status(self) -> Status:
        return replace(overview(self.hub), roles=self._roles.status())

    async def scale(self, roles: Mapping[str, int]) -> None:
        """See Backend. Peers that do not serve are drained first, then the youngest; of those that
        follow another one none is left without it.
        """
        self._check_open()
        wanted = {_role(name): count for name, count in roles.items()}
        for role, count in wanted.items():
            least = 0 if role == "cache" else 1
            if not least <= count <= MOST_PEERS:
                remedy = f"{least} to {MOST_PEERS} are possible"
                raise ChangeRefusedError(f"{count} {role} peers", remedy=remedy)
        for role, count in wanted.items():
            self._check_ranks(role, count)
        more = {r: max(0, n - len(self._supervisor.names(r))) for r, n in wanted.items()}
        self._check_memory(more)
        for role, count in wanted.items():
            present = self._supervisor.names(role)
            present.sort(key=partial(self._spare, role))
            for _ in range(count - len(present)):
                self._supervisor.add(role)
            for extra in present[count:]:
                self._retire(extra)

    async def drain(self, peer: str) -> None:
        """See Backend."""
        self._check_open()
        self._check_leaves(peer)
        self._retire(peer)

    async def switch(self, peer: str, role: str) -> None:
        """See Backend. Another process takes the new role: the weights are mapped already."""
        self._check_open()
        new = _role(role)
        if self._known(peer).role == new:
            remedy = "name another role, or another peer"
            raise ChangeRefusedError(f"{peer} is a {role} peer already", remedy=remedy)
        self._check_leaves(peer)
        if len(self._supervisor.names(new)) >= MOST_PEERS:
            remedy = f"{MOST_PEERS} are possible; drain one of them first"
            raise ChangeRefusedError(f"no more {new} peers", remedy=remedy)
        self._check_ranks(new, len(self._supervisor.names(new)) + 1)
        self._check_memory({new: 1})
        self._retire(peer)
        self._supervisor.add(new)

    def _check_open(self) -> None:
        if self._closing:
            raise UnavailableError("the server is stopping", remedy="start another")

    def _check_memory(self, more: Mapping[Role, int]) -> None:
        """Raises ChangeRefusedError where the memory of so many more peers is not there. One that
        leaves has its own until it has left, one that is tried again later will want its own.
        """
        new, present = Counter(more), self._supervisor.roles()
        if not new.total():
            return
        try:
            for counts, room in ((new, available_bytes()), (new + present, self._room_bytes)):
                cache = counts["cache"]
                computing = counts.total() - cache
                check_memory(self.config, computing=computing, cache=cache, room_bytes=room)
        except ConfigError as error:
            remedy = "ask for fewer peers, or serve with a smaller --kv or --cache-ram"
            raise ChangeRefusedError(error.what, remedy=remedy) from error

    def _check_leaves(self, peer: str) -> None:
        """Raises UnknownPeerError, and ChangeRefusedError where nobody would serve without it."""
        known = self._known(peer)
        if known.state == "draining":
            remedy = "`silva status` lists it until it has finished what it runs"
            raise ChangeRefusedError(f"{peer} is leaving already", remedy=remedy)
        if known.role == "cache":
            return
        others = [name for name in self._supervisor.names(known.role) if name != peer]
        if not others:
            remedy = f"add another first: `silva scale {known.role}=2`"
            raise ChangeRefusedError(f"{peer} is the last {known.role} peer", remedy=remedy)
        if not known.follows and all(self._follows(name, known.role) for name in others):
            what = f"{peer} leads: the other {known.role} peers compute what it is asked for"
            raise ChangeRefusedError(what, remedy="name one of the others")
        if known.usable and not any(map(self._usable, others)):
            remedy = "wait until `silva status` calls another one ready"
            raise ChangeRefusedError(f"no {known.role} peer but {peer} serves", remedy=remedy)
        self._check_ranks(known.role, len(others))

    def _check_ranks(self, role: Role, count: int) -> None:
        """Raises ChangeRefusedError where so many peers of a role cannot share their experts."""
        there = self._supervisor.names(role)
        leaving = self._supervisor.roles()[role] - len(there)
        usable = sum(map(self._usable, there))
        present = len(there)
        check_count(self.config, role, count, present=present, usable=usable, leaving=leaving)

    def _known(self, peer: str) -> Peer:
        known = self.hub.peers.get(peer)
        if known is None:
            raise UnknownPeerError(f"no peer {peer[:64]!r}")
        return known

    def _usable(self, name: str) -> bool:
        """Not while no process can be had for it, for instance: the hub does not know it then."""
        peer = self.hub.peers.get(name)
        return peer is not None and peer.usable

    def _spare(self, role: Role, name: str) -> tuple[bool, bool]:
        """More the less the peer is needed where another one of its role is to leave."""
        return self._follows(name, role), not self._usable(name)

    def _retire(self, name: str) -> None:
        self._supervisor.let_go(name)
        peer = self.hub.peers.get(name)
        if peer is None:
            return
        starting = peer.state == "starting"
        self.hub.drain(name)
        if starting:  # it has nothing, and hears nothing yet
            self._supervisor.kill(name)
        else:
            self._chore(self._stop_when_drained(name))

    async def _stop_when_drained(self, name: str) -> None:
        await self.hub.drained(name, within_s=self.config.grace_s)
        self._send(name, Stop())
        await asyncio.sleep(LEAVE_S)
        self._supervisor.kill(name)


def _role(name: str) -> Role:
    if name not in get_args(Role):
        raise UnknownPeerError(f"no role {name[:64]!r}", remedy="prefill, decode or cache")
    return cast(Role, name)
