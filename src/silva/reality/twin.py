"""The server of this machine, simulated: the hub and the scheduler that it runs, a made-up clock.

Requests go through the server's own `Hub`; each peer here takes its messages between two steps, as
the real one does, and plans steps with `silva.control`. Only what a step takes comes from a profile
of the machine, and the cores are shared by all that runs at a time (`cores.py`). Cache peers keep
whatever they are given: traces that fill them are not for this.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from silva.control.prefix import CacheIdentity
from silva.control.request import Phases, Request, SamplingParams
from silva.control.state import Settings
from silva.errors import RunError
from silva.reality.cores import Cores, Task
from silva.reality.peers import DecodeTwin, PeerTwin, PrefillTwin
from silva.serving.config import ServeConfig
from silva.serving.hub.hub import Hub
from silva.serving.hub.settings import HubSettings
from silva.serving.wire.messages import Hello, Message
from silva.supernode.curve import Curve
from silva.supernode.profile import Profile, Table


@dataclass(frozen=True)
class Asked:
    """One request of a trace: when it is due, its prompt's tokens, and tokens of its answer."""

    at_s: float
    prompt: tuple[int, ...]
    output: int


@dataclass
class Answered:
    """When its tokens reached the client, and when it passed which point; seconds of the run."""

    asked: Asked
    tokens_s: list[float] = field(default_factory=list)
    phases: Phases = field(default_factory=Phases)


class Twin:
    """A world of one server. `seed` decides the jitter of its steps; None: every step is a median."""

    def __init__(
        self,
        profile: Profile,
        config: ServeConfig,
        settings: Settings,
        seed: int | None = 0,
    ) -> None:
        steps = profile.steps
        self.profile, self.config, self.settings = profile, config, settings
        self.cores = Cores(steps.cores, 2 * steps.threads / steps.cores)
        self.identity = CacheIdentity("0" * 64, config.dtype, settings.block_tokens)
        self.cached: set[bytes] = set()
        """Keys that the cache peers have."""
        self._rng = None if seed is None else np.random.default_rng(seed)
        self._ratios = {
            "prefill": _by_share(steps.prefill_jitter),
            "decode": _by_share(steps.decode_jitter),
        }
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        limits = HubSettings(block_tokens=settings.block_tokens, most_waiting=config.most_waiting)
        self.hub = Hub(limits, self._send, lambda: self.now_s)
        self.peers: dict[str, PeerTwin] = {}
        for number in range(1, config.pools.prefill + 1):
            self._begin(PrefillTwin(f"prefill-{number}", self))
        for number in range(1, config.pools.decode + 1):
            self._begin(DecodeTwin(f"decode-{number}", self))

    @property
    def now_s(self) -> float:
        """Seconds since the run began."""
        return self.cores.now_s

    def run(self, trace: Sequence[Asked]) -> list[Answered]:
        """What becomes of every request, in the order of the trace."""
        return asyncio.run(self._run(trace))

    async def _run(self, trace: Sequence[Asked]) -> list[Answered]:
        answers = [Answered(asked) for asked in trace]
        clients: set[asyncio.Task[None]] = set()

        def arrive(number: int) -> None:
            clients.add(asyncio.create_task(self._ask(number, answers[number])))

        delay_s = self.profile.server.arrive_ms / 1e3
        for number, asked in enumerate(trace):
            self.at(asked.at_s + delay_s, lambda n=number: arrive(n))  # type: ignore[misc]
        while True:
            # The hub speaks to its clients through queues: they are heard before time goes on.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            next_s = min(self._events[0][0] if self._events else math.inf, self.cores.next_s())
            if next_s == math.inf:
                break
            for task in self.cores.advance(next_s):
                task.end()
            while self._events and self._events[0][0] <= self.now_s:
                heapq.heappop(self._events)[2]()
        if not all(client.done() for client in clients):
            raise RunError("the simulated server stands still before all requests are answered")
        for client in clients:
            client.result()
        return answers

    async def _ask(self, number: int, answer: Answered) -> None:
        """A client: the times at which it reads its tokens."""
        server, asked = self.profile.server, answer.asked
        self.work(server.request_cpu_ms / 1e3)
        sampling = SamplingParams(max_tokens=asked.output, temperature=0.0)
        async for output in self.hub.generate(Request(str(number), asked.prompt, sampling)):
            read_s = self.now_s + server.first_ms / 1e3
            answer.tokens_s += [read_s] * len(output.tokens)
            answer.phases = output.phases

    # What peers ask of the world --------------------------------------------------------------

    def at(self, time_s: float, what: Callable[[], None]) -> None:
        """Do something at a time."""
        heapq.heappush(self._events, (max(time_s, self.now_s), next(self._numbers), what))

    def work(self, seconds: float, end: Callable[[], None] = lambda: None) -> None:
        """Occupy a core beside the engines."""
        if seconds > 0:
            self.cores.add(Task(seconds, end))
        else:
            self.at(self.now_s, end)

    def drawn(self, role: str) -> float:
        """A step's ratio to the median of its kind, one of those measured or between two of them.

        Drawn independently of other steps, which is an assumption: a machine that is slow for a
        while makes longer tails than this.
        """
        return 1.0 if self._rng is None else self._ratios[role].within(float(self._rng.random()))

    def _begin(self, peer: PeerTwin) -> None:
        self.peers[peer.name] = peer
        self.hub.expect(peer.name, peer.role)
        self.hub.receive(peer.name, Hello(peer.name, peer.role, 1, load=peer.load()))

    def _send(self, name: str, message: Message) -> None:
        self.peers[name].hear(message)


def _by_share(rows: Table) -> Curve:
    """The ratio that a share of the steps does not exceed."""
    shares, ratios = zip(*sorted(rows), strict=True)
    return Curve(shares, ratios)
