"""A small world around the scheduler: a runner that checks plans, and a clock that stands still."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from silva.control import scheduler
from silva.control.integrity import check
from silva.control.prefix import CacheIdentity
from silva.control.request import FinishReason, Plan, Request, SamplingParams, StepResult
from silva.control.scheduler import Update
from silva.control.slo import LinearStepTime, StepTime
from silva.control.state import Settings, State

BLOCK = 4
IDENTITY = CacheIdentity("model", "float32", BLOCK)
FLAT = LinearStepTime(0.01)


def ask(
    name: str,
    prompt: int | tuple[int, ...],
    answer: int = 4,
    *,
    priority: int = 0,
    arrival_s: float = 0.0,
    namespace: str = "",
    emitted: tuple[int, ...] = (),
) -> Request:
    """A request for `answer` tokens after a prompt, given whole or by its length."""
    tokens = prompt if isinstance(prompt, tuple) else tuple(hash_tokens(name, prompt))
    return Request(
        name,
        tokens,
        SamplingParams(max_tokens=answer),
        arrival_s,
        priority,
        namespace,
        emitted=emitted,
    )


def hash_tokens(name: str, count: int) -> list[int]:
    """Tokens that no other name shares."""
    base = sum(ord(letter) * 256**place for place, letter in enumerate(name[:3])) % 2**31
    return [base + number for number in range(count)]


@dataclass
class Runner:
    """Remembers what a real runner would, and refuses plans that one could not carry out.

    `kv[block, offset]` is the history (hash of all tokens up to there) written there last; a request
    reads its whole table before it writes. Tokens it gives are a function of that history.
    """

    size: int = BLOCK
    stops: dict[str, int] = field(default_factory=dict)
    """Requests that sample an end token as their so manieth one."""
    requests: dict[str, Request] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    tables: dict[str, list[int]] = field(default_factory=dict)
    batch: dict[str, None] = field(default_factory=dict)
    kv: dict[tuple[int, int], int] = field(default_factory=dict)
    chains: dict[str, list[int]] = field(default_factory=dict)
    computed: int = 0
    """Positions computed so far, over all requests."""
    drafts: int = 0
    """Tokens guessed ahead of each decoding request; by the tokens before, none to all are right."""
    context: int = 64
    accepted: int = 0

    def know(self, request: Request) -> None:
        self.requests[request.id] = request
        self.tokens[request.id] = [*request.prompt, *request.emitted]
        self.chains[request.id] = []

    def run(self, plan: Plan) -> StepResult:
        for request in plan.left:
            self.tables.pop(request, None)
            self.batch.pop(request, None)
        assert set(plan.preempted) <= set(plan.left)
        for request, blocks in plan.blocks:
            self.tables.setdefault(request, []).extend(blocks)
        for request in plan.joined:
            assert request not in self.batch
            self.batch[request] = None
        assert len(self.batch) == plan.decoding
        chunks = {chunk.request: chunk for chunk in plan.chunks}
        assert len(chunks) == len(plan.chunks) and not chunks.keys() & self.batch.keys()
        assert plan.tokens == plan.decoding + sum(c.stop - c.start for c in plan.chunks)
        spans = [(r, len(self.tokens[r]) - 1, len(self.tokens[r])) for r in self.batch]
        spans += [(c.request, c.start, c.stop) for c in plan.chunks]
        # All read before any writes: within one step nobody sees what another one writes.
        for request, start, _ in spans:
            self._read(request, start)
        written = [place for span in spans for place in self._write(*span)]
        guessed = {request: self._guesses(request) for request in self.batch}
        written += [place for places in guessed.values() for place in places]
        assert len(set(written)) == len(written), "two requests write one place"
        self.computed += plan.tokens
        sampling = [*self.batch, *(c.request for c in plan.chunks if c.samples)]
        finished = dict(self._sample(sampling))
        more = dict(self._accept(guessed, finished)) if self.drafts else {}
        return StepResult(plan.step, 0.01, tuple(finished.items()), tuple(more.items()))

    def _guesses(self, request: str) -> list[tuple[int, int]]:
        """Where the KV of guessed tokens goes: as many as may all be right within the limit."""
        length, asked = len(self.tokens[request]), self.requests[request]
        limit = min(len(asked.prompt) + asked.sampling.max_tokens, self.context)
        count = max(0, min(self.drafts, limit - length - 1))
        table = self.tables[request]
        return [(table[p // self.size], p % self.size) for p in range(length, length + count)]

    def _accept(
        self, guessed: dict[str, list[tuple[int, int]]], finished: dict[str, FinishReason]
    ) -> Iterator[tuple[str, int]]:
        """Requests with right guesses and how many; the KV of wrong ones is nobody's."""
        for request, places in guessed.items():
            right = 0
            self.kv |= dict.fromkeys(places, -1)
            for place in places:
                if request in finished or sum(self.tokens[request]) % 3 == 0:
                    break
                position = len(self.tokens[request]) - 1
                self.kv[place] = self.history(request, position)
                finished |= dict(self._sample([request]))
                right += 1
            self.accepted += right
            if right:
                yield request, right

    def _read(self, request: str, start: int) -> None:
        table = self.tables[request]
        for position in range(start):
            place = (table[position // self.size], position % self.size)
            assert self.kv.get(place) == self.history(request, position), (
                f"{request} reads position {position}, which is not there"
            )

    def _write(self, request: str, start: int, stop: int) -> list[tuple[int, int]]:
        table = self.tables[request]
        places = []
        for position in range(start, stop):
            place = (table[position // self.size], position % self.size)
            self.kv[place] = self.history(request, position)
            places.append(place)
        return places

    def history(self, request: str, position: int) -> int:
        """What the KV of a position stands for: whose it is, and all tokens up to there."""
        chain = self.chains[request]
        while len(chain) <= position:
            last = chain[-1] if chain else hash(self.requests[request].namespace)
            chain.append(hash((last, self.tokens[request][len(chain)])))
        return chain[position]

    def _sample(self, sampling: list[str]) -> Iterator[tuple[str, FinishReason]]:
        for request in sampling:
            tokens = self.tokens[request]
            tokens.append(next_token(tokens))
            if len(tokens) - len(self.requests[request].prompt) == self.stops.get(request):
                yield (request, "stop")


def next_token(tokens: list[int]) -> int:
    """What the model of this world says after these tokens."""
    return sum(tokens) * 31 % 1_000_003


def answer(request: Request, stop: int | None = None) -> list[int]:
    """The answer of an undisturbed run, whatever the scheduler does."""
    tokens = [*request.prompt]
    most = min(request.sampling.max_tokens, stop or request.sampling.max_tokens)
    for _ in range(most):
        tokens.append(next_token(tokens))
    return tokens[len(request.prompt) :]


class World:
    """An engine: state and runner, one step at a time, everything checked between."""

    def __init__(self, step_time: StepTime = FLAT, **settings: int | float | None) -> None:
        chosen = {"blocks": 40, "context_tokens": 64, "block_tokens": BLOCK} | settings
        self.state = State(Settings(**chosen))  # type: ignore[arg-type]  # numbers, by their names
        self.step_time = step_time
        self.runner = Runner(
            drafts=self.state.settings.drafts, context=self.state.settings.context_tokens
        )
        self.plans: list[Plan] = []
        self.ended: dict[str, scheduler.Ended] = {}
        self.handed: list[str] = []

    def add(
        self, request: Request, *, stop: int | None = None, share: bool = True, **how: bool
    ) -> None:
        self.runner.know(request)
        if stop is not None:
            self.runner.stops[request.id] = stop
        scheduler.add(self.state, request, IDENTITY.keys(request) if share else (), **how)

    def schedule(self) -> Plan:
        plan = scheduler.schedule(self.state, float(len(self.plans)), self.step_time)
        check(self.state)
        assert plan.tokens <= self.state.settings.step_tokens
        self.plans.append(plan)
        return plan

    def step(self) -> Update:
        """One round of the loop; an empty update where there was nothing to compute."""
        plan = self.schedule()
        return self.finish_step(plan)

    def finish_step(self, plan: Plan) -> Update:
        result = self.runner.run(plan)
        if not plan.tokens:
            return Update()
        update = scheduler.update(self.state, result)
        check(self.state)
        for ended in update.ended:
            assert ended.request not in self.ended
            self.ended[ended.request] = ended
        self.handed += update.handed
        return update

    def run(self, most: int = 5000) -> None:
        """Until nothing is left that can go on by itself."""
        for _ in range(most):
            self.step()
            if not self.plans[-1].tokens and not self.state.joining:
                return
        raise AssertionError("it does not end")

    def said(self, request: str) -> list[int]:
        return self.runner.tokens[request][len(self.runner.requests[request].prompt) :]
