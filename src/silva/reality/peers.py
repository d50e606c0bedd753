"""Simulated peers: the messages, the scheduler and the order of things of the real ones.

    receive -> proceed -> step          (one at a time; messages wait while a step is computed)

`silva.serving.peers` has the real ones. These compute nothing: a step occupies the cores for as
long as the profile says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from silva.control import fills, handover, scheduler
from silva.control.admission import Admission, admission
from silva.control.handover import Reservation
from silva.control.measured import MeasuredStepTime
from silva.control.request import Output, Plan, Request, StepResult
from silva.control.scheduler import Update
from silva.control.state import State
from silva.reality.cores import Task
from silva.serving.peers.computing import STATUS_S
from silva.serving.wire.messages import (
    Cancel,
    HandOver,
    Joined,
    Load,
    Members,
    Message,
    Prefill,
    Prefilled,
    Reserve,
    Role,
    Status,
    Tokens,
)

if TYPE_CHECKING:
    from silva.reality.twin import Twin


class PeerTwin(ABC):
    """See the module."""

    role: ClassVar[Role]

    def __init__(self, name: str, world: Twin) -> None:
        self.name, self.world = name, world
        self.state = State(world.settings)
        self.learned = MeasuredStepTime()
        self._inbox: deque[Callable[[], None]] = deque()
        self._plan: Plan | None = None
        self._began_s = self._told_s = 0.0
        self._admission: Admission | None = None
        self._awake = False

    def load(self, told: Admission | None = None) -> Load:
        """What the peer tells the hub of itself, and what its target lets in, once that is known."""
        counts = self.state.counts()
        return Load(
            waiting=counts.waiting,
            running=counts.running,
            blocks_free=counts.blocks_free,
            blocks_used=counts.blocks_used,
            blocks_total=counts.blocks,
            most_running=told.batch if told else self.state.settings.max_running,
        )

    def hear(self, message: Message) -> None:
        """A message of the hub; looked at once no step is under way."""
        if not isinstance(message, Members):  # the cache here is one for all
            self.do(lambda: self.take(message))

    def do(self, what: Callable[[], None]) -> None:
        """Something that the peer's own thread does between two steps."""
        self._inbox.append(what)
        if not self._awake and self._plan is None:
            self._awake = True
            self.world.at(self.world.now_s, self._turn)

    def tell(self, message: Message) -> None:
        """To the hub."""
        self.world.hub.receive(self.name, message)  # type: ignore[arg-type]

    def _turn(self) -> None:
        """Between two steps, until the next one begins or there is nothing to do."""
        self._awake = False
        if self._plan is not None:
            return
        self._report()
        while True:
            while self._inbox:
                self._inbox.popleft()()
            self.proceed()
            plan = scheduler.schedule(self.state, self.world.now_s, self.learned)
            self.begun(fills.lookups(self.state))
            if plan.tokens:
                self._plan, self._began_s = plan, self.world.now_s
                work_s = self.seconds(plan) * self.world.drawn(self.role)
                threads = self.world.profile.steps.threads
                self.world.cores.add(
                    Task(work_s, self._ended, threads, self.name, self.beside(plan))
                )
                return
            if not plan.left and not self._inbox:
                return

    def _report(self) -> None:
        """Its load and, of decode, what its target lets in: as often as the real one says it."""
        if self.world.now_s - self._told_s < STATUS_S:
            return
        self._told_s = self.world.now_s
        if self.role == "decode":
            self._admission = admission(self.state, self.learned, 0.0, self._admission)
        self.tell(Status(self.load(self._admission), {}, self._admission))

    def _ended(self) -> None:
        plan, self._plan = self._plan, None
        assert plan is not None
        took_s = self.world.now_s - self._began_s
        self.learned.observe(*self.state.load(), took_s)
        decoding = [n for n, e in self.state.entries.items() if e.stage.name == "DECODING"]
        update = scheduler.update(self.state, StepResult(plan.step, took_s))
        self.computed(plan, decoding, update)
        self._turn()

    @abstractmethod
    def proceed(self) -> None:
        """Whatever can go on between two steps."""

    @abstractmethod
    def begun(self, lookups: Sequence[tuple[str, tuple[bytes, ...]]]) -> None:
        """Requests look for keys in the cache."""

    @abstractmethod
    def take(self, message: Message) -> None:
        """Act on a message of the hub."""

    @abstractmethod
    def seconds(self, plan: Plan) -> float:
        """What a step takes by itself."""

    @abstractmethod
    def beside(self, plan: Plan) -> float:
        """How many times as long beside a busy engine."""

    @abstractmethod
    def computed(self, plan: Plan, decoding: Sequence[str], update: Update) -> None:
        """A step is over."""


class PrefillTwin(PeerTwin):
    """Computes prompts, in chunks, and holds their blocks until they are read."""

    role: ClassVar[Role] = "prefill"

    def take(self, message: Message) -> None:
        if isinstance(message, Cancel):
            handover.release(self.state, message.request)
            scheduler.cancel(self.state, message.request)
            return
        assert isinstance(message, Prefill)
        request = message.request
        # Between the front and the first step: messages, and a word with the cache peers.
        delay_s = self.world.profile.server.queue_ms / 1e3 / (2 if self._asks else 1)
        self.world.at(self.world.now_s + delay_s, lambda: self.do(lambda: self._add(request)))

    @property
    def _asks(self) -> bool:
        return self.world.config.pools.cache > 0

    def proceed(self) -> None:
        """Its messages are all that it waits for."""

    def _add(self, request: Request) -> None:
        keys = self.world.identity.keys(request)
        scheduler.add(self.state, request, keys, hand_over=True, lookup=self._asks)

    def begun(self, lookups: Sequence[tuple[str, tuple[bytes, ...]]]) -> None:
        delay_s = self.world.profile.server.queue_ms / 2e3
        for request, keys in lookups:
            found = [key for key in keys if key in self.world.cached]
            self.world.at(
                self.world.now_s + delay_s,
                lambda r=request, f=found: self.do(lambda: self._found(r, f)),  # type: ignore[misc]
            )

    def _found(self, request: str, found: Sequence[bytes]) -> None:
        keys = [key for key, _ in fills.fill(self.state, request, found)]
        if keys:
            tokens = len(keys) * self.state.settings.block_tokens
            seconds = tokens * self.world.profile.server.hand_over_token_us / 1e6
            self.world.work(
                seconds, lambda: self.do(lambda: fills.filled(self.state, request, keys))
            )

    def seconds(self, plan: Plan) -> float:
        chunks = [(chunk.stop - chunk.start, chunk.start) for chunk in plan.chunks]
        samples = any(chunk.samples for chunk in plan.chunks)
        profile = self.world.profile
        loop_s = profile.server.prefill_loop_s(plan.tokens)
        return profile.steps.prefill_times.seconds(chunks, samples) + loop_s

    def beside(self, plan: Plan) -> float:
        return self.world.profile.steps.prefill_times.beside(plan.tokens)

    def computed(self, plan: Plan, decoding: Sequence[str], update: Update) -> None:
        server, now_s = self.world.profile.server, self.world.now_s
        self.world.work(plan.tokens * server.prompt_token_cpu_us / 1e6)
        if self._asks:
            self.world.cached.update(block.key for block in update.stored)
        ended = {each.request: each for each in update.ended}
        for name in (*update.handed, *ended):
            over = ended.get(name)
            started_s = over.started_s if over else self.state.entries[name].started_s
            cached = over.cached_tokens if over else self.state.cached_tokens(name)
            self.world.work(server.token_cpu_us / 1e6)
            reason = over.reason if over else None
            self.tell(
                Prefilled(name, 0, 0, None, (), cached, started_s or now_s, now_s, finish=reason)
            )


class DecodeTwin(PeerTwin):
    """Reserves blocks, reads them from a prefill peer, and gives tokens."""

    role: ClassVar[Role] = "decode"

    def __init__(self, name: str, world: Twin) -> None:
        super().__init__(name, world)
        self._requests: dict[str, Request] = {}
        self._reserved: dict[str, Reservation | None] = {}
        self._ready: dict[str, None] = {}

    def take(self, message: Message) -> None:
        match message:
            case Reserve():
                self._requests[message.request.id] = message.request
                self._reserved[message.request.id] = None
            case HandOver():
                self._ready[message.request] = None
            case Cancel():
                scheduler.cancel(self.state, message.request)
            case _:
                raise TypeError(f"a decode peer was sent {type(message).__name__}")

    def proceed(self) -> None:
        for name in list(self._reserved):
            request = self._requests[name]
            if self._reserved[name] is None:
                keys = self.world.identity.keys(request)
                self._reserved[name] = handover.reserve(self.state, request, keys, self.learned)
            given = self._reserved[name]
            if given is None:
                return  # in order: a smaller one behind must not keep it out
            if name in self._ready:
                del self._ready[name], self._reserved[name]
                self._fetch(name, given)

    def begun(self, lookups: Sequence[tuple[str, tuple[bytes, ...]]]) -> None:
        """It adds no request that looks."""

    def _fetch(self, name: str, given: Reservation) -> None:
        server = self.world.profile.server
        tokens = (len(given.blocks) - given.ready) * self.state.settings.block_tokens
        seconds = server.hand_over_ms / 1e3 + tokens * server.hand_over_token_us / 1e6
        self.world.work(seconds, lambda: self.do(lambda: self._fetched(name)))

    def _fetched(self, name: str) -> None:
        if handover.commit(self.state, name):
            self.tell(Joined(name, 0))

    def seconds(self, plan: Plan) -> float:
        profile, load = self.world.profile, self.state.load()
        total_s = profile.server.decode_loop_ms / 1e3
        total_s += profile.steps.decode_times.seconds(load.decoding, load.context_tokens)
        if plan.chunks:  # of requests whose blocks were taken
            chunks = [(chunk.stop - chunk.start, chunk.start) for chunk in plan.chunks]
            total_s += profile.steps.prefill_times.seconds(chunks)
        return total_s

    def beside(self, plan: Plan) -> float:
        return self.world.profile.steps.decode_times.beside(max(1, plan.decoding))

    def computed(self, plan: Plan, decoding: Sequence[str], update: Update) -> None:
        ended = {each.request: each.reason for each in update.ended}
        given = [*decoding, *(chunk.request for chunk in plan.chunks if chunk.samples)]
        self.world.work(len(given) * self.world.profile.server.token_cpu_us / 1e6)
        outputs = tuple(Output(name, (0,), finish=ended.get(name)) for name in given)
        if outputs:
            self.tell(Tokens((0,) * len(outputs), outputs))
        for name in ended:
            self._requests.pop(name, None)
