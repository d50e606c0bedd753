"""Random lives of an engine against the plainest oracle: each answer is that of a run alone.

The runner of `control_world` refuses to read a position whose KV is not the one of the request's
own tokens, so that a block shared too early, with a stranger, or freed too soon fails at once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from control_world import IDENTITY, World, answer, ask
from hypothesis import given, settings
from hypothesis import strategies as st

from silva.control import fills, handover, scheduler
from silva.control.entry import Stage
from silva.control.integrity import check
from silva.control.request import Plan, Request
from silva.control.slo import LinearStepTime

SLOW = LinearStepTime(0.010, request_s=0.002, context_token_s=1e-5, prefill_token_s=0.0005)

ENGINES = st.fixed_dictionaries(
    {
        "blocks": st.sampled_from([8, 9, 10, 12, 16, 24]),
        "context_tokens": st.sampled_from([32, 32, 30, 25, 6]),
        "step_tokens": st.integers(6, 40),
        "max_running": st.integers(1, 6),
        "target_s": st.sampled_from([None, None, None, 0.001, 0.015, 0.03]),
        "drafts": st.sampled_from([0, 0, 1, 2]),
    }
).map(lambda e: {**e, "drafts": min(e["drafts"], e["step_tokens"] // e["max_running"] - 1)})
"""A pool of at most 96 tokens for requests of up to 32: blocks run out often."""


@dataclass(frozen=True)
class Asked:
    """How a request is drawn: prompts of few letters share prefixes all the time."""

    prompt: tuple[int, ...]
    answer: int
    priority: int
    namespace: str
    stop: int | None
    share: bool
    flag: bool


ASKED = st.builds(
    Asked,
    prompt=st.one_of(
        st.integers(1, 24).map(lambda n: tuple(range(n))),
        st.integers(1, 24).map(lambda n: (*range(n - n % 4), *range(100, 100 + n % 4))),
        st.lists(st.integers(0, 1), min_size=1, max_size=12).map(tuple),
    ),
    answer=st.integers(1, 28),
    priority=st.integers(0, 2),
    namespace=st.sampled_from(["", "", "", "x"]),
    stop=st.sampled_from([None, None, None, 1, 2, 5]),
    share=st.sampled_from([True, True, True, False]),
    flag=st.booleans(),
)

MOVES = st.lists(
    st.one_of(
        ASKED,
        ASKED,
        ASKED,
        st.tuples(st.just("step"), st.integers(1, 6)),
        st.tuples(st.just("cancel"), st.integers(0, 30)),
        st.tuples(st.just("cancel in flight"), st.integers(0, 30)),
        st.tuples(st.just("outside"), st.integers(0, 30)),
    ),
    min_size=16,
    max_size=40,
)


@dataclass
class Life:
    """One engine and all requests it was given; `move` does what was drawn."""

    world: World
    asked: dict[str, Asked] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)

    def request(self, name: str) -> Request:
        asked = self.asked[name]
        prompt = asked.prompt[: self.world.state.settings.context_tokens - 1]
        return ask(name, prompt, asked.answer, priority=asked.priority, namespace=asked.namespace)

    def move(self, move: Asked | tuple[str, int]) -> None:
        if isinstance(move, Asked):
            name = f"r{len(self.asked):02}"
            self.asked[name] = move
            self.add(name)
        elif move[0] == "step":
            for _ in range(move[1]):
                self.step()
        elif move[0] == "outside":
            self.outside(move[1])
        elif self.asked:
            name = list(self.asked)[move[1] % len(self.asked)]
            if move[0] == "cancel":
                self.cancel(name)
            else:
                self.step(name)
        check(self.world.state)

    def add(self, name: str) -> None:
        asked = self.asked[name]
        self.world.add(self.request(name), stop=asked.stop, share=asked.share)

    def cancel(self, name: str) -> None:
        if scheduler.cancel(self.world.state, name):
            self.cancelled.add(name)

    def step(self, cancel: str | None = None) -> None:
        plan = self.world.schedule()
        self.look_at(plan)
        if cancel is not None:
            self.cancel(cancel)
        self.world.finish_step(plan)

    def look_at(self, plan: Plan) -> None:
        """What must hold of every plan."""

    def outside(self, number: int) -> None:
        """Something that another peer does."""

    def end(self) -> None:
        """Everything ends, with the right answer, and nothing is left behind."""
        for _ in range(3000):
            if not self.world.state.entries:
                break
            self.step()
            for number in range(len(self.world.state.entries)):
                self.outside(number)
        assert not self.world.state.entries
        self.step()
        counts = self.world.state.counts()
        assert counts.blocks_used == 0 and counts.blocks_free == counts.blocks
        assert not self.world.runner.batch and not self.world.runner.tables
        assert self.world.ended.keys() == self.asked.keys() - self.cancelled
        for name in self.world.ended:
            self.compare(name)

    def compare(self, name: str) -> None:
        request, asked = self.request(name), self.asked[name]
        whole = answer(request, asked.stop)
        room = self.world.state.settings.context_tokens - len(request.prompt)
        assert self.world.said(name) == whole[:room]
        stopped = len(self.world.said(name)) == asked.stop
        assert self.world.ended[name].reason == ("stop" if stopped else "length")


class Ordered(Life):
    """Nobody is let in before one who is more urgent and waits too."""

    def look_at(self, plan: Plan) -> None:
        state = self.world.state
        waiting = [e.order for e in state.entries.values() if e.stage is Stage.WAITING]
        fresh = [chunk.request for chunk in plan.chunks] + list(plan.joined)
        for name in fresh:
            entry = state.entries[name]
            if entry.started_s == float(len(self.world.plans) - 1):
                assert all(entry.order < order for order in waiting)


class Meeting(Life):
    """Half of the requests come from, or go to, other peers; blocks come from cache peers."""

    def add(self, name: str) -> None:
        asked, request = self.asked[name], self.request(name)
        if asked.flag and asked.stop == 2 and asked.answer > 1 and self.fits(request):
            given = handover.reserve(
                self.world.state, request, IDENTITY.keys(request), self.world.step_time
            )
            if given is None:
                self.cancelled.add(name)
            else:
                self.world.runner.know(request)
                self.world.runner.stops[name] = 2
        else:
            hand_over = asked.stop == 5 and asked.flag
            self.world.add(
                request, stop=asked.stop, share=asked.share, lookup=asked.flag, hand_over=hand_over
            )

    def fits(self, request: Request) -> bool:
        limit = min(self.world.state.settings.context_tokens, 99)
        return len(request.prompt) + 1 < limit

    def outside(self, number: int) -> None:
        state = self.world.state
        for name, keys in fills.lookups(state):
            found = keys[: number % (len(keys) + 1)]
            self.write(name, [(keys.index(k), b) for k, b in fills.fill(state, name, found)])
        entries = list(state.entries.values())
        if not entries:
            return
        entry = entries[number % len(entries)] if number else entries[0]
        name = entry.request.id
        if entry.stage is Stage.HELD:
            assert handover.release(state, name)
            self.cancelled.add(name)
        elif entry.stage is Stage.RESERVED and number % 3:
            assert handover.abandon(state, name)
            self.cancelled.add(name)
        elif entry.stage is Stage.RESERVED:
            self.receive(name)
        elif entry.stage is Stage.FILLING and number % 2 == 0:
            self.write_all(name)
            fills.filled(state, name, list(entry.filling))
        elif entry.stage in (Stage.FILLING, Stage.LOOKING):
            fills.give_up(state, name)

    def receive(self, name: str) -> None:
        runner, entry = self.world.runner, self.world.state.entries[name]
        self.write(name, list(enumerate(entry.blocks))[entry.ready :])
        runner.tokens[name] += answer(entry.request)[:1]
        assert handover.commit(self.world.state, name) == (not entry.cancelled)

    def write_all(self, name: str) -> None:
        entry = self.world.state.entries[name]
        self.write(name, [(place, entry.blocks[place]) for place in entry.filling.values()])

    def write(self, name: str, places: list[tuple[int, int]]) -> None:
        """A transfer into blocks; places in the table of those looked up are not known yet."""
        runner, entry = self.world.runner, self.world.state.entries[name]
        for place, block in places:
            if entry.stage is Stage.FILLING and entry.blocks[place] != block:
                place = entry.blocks.index(block)
            for offset in range(4):
                position = 4 * place + offset
                if position < len(runner.tokens[name]):
                    runner.kv[block, offset] = runner.history(name, position)

    def compare(self, name: str) -> None:
        if not (self.asked[name].flag and self.asked[name].stop == 2):
            super().compare(name)
        else:
            assert self.world.said(name) == answer(self.request(name))[: len(self.world.said(name))]


def live(life: Life, moves: list[Asked | tuple[str, int]]) -> Life:
    for move in moves:
        life.move(move)
    life.end()
    return life


@settings(max_examples=80)
@given(ENGINES, MOVES)
def test_every_request_ends_as_if_it_were_alone(
    engine: dict[str, int], moves: list[Asked | tuple[str, int]]
) -> None:
    live(Ordered(World(SLOW, **engine)), moves)


@settings(max_examples=80)
@given(ENGINES, MOVES)
def test_the_same_with_other_peers(
    engine: dict[str, int], moves: list[Asked | tuple[str, int]]
) -> None:
    live(Meeting(World(SLOW, **engine)), moves)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", [Ordered, Meeting])
def test_a_busy_life(kind: type[Life], seed: int) -> None:
    """Drawn plainly: hypothesis prefers short lives, in which little is preempted or waits."""
    draw = random.Random(seed)
    life = kind(
        World(
            SLOW,
            blocks=draw.choice((8, 9, 11, 14, 20)),
            context_tokens=draw.choice((32, 28, 20)),
            step_tokens=draw.choice((6, 9, 16, 40)),
            max_running=draw.choice((2, 4, 6)),
            target_s=draw.choice((None, None, None, 0.02)),
        )
    )
    for _ in range(120):
        life.move(busy_move(draw))
    life.end()


def busy_move(draw: random.Random) -> Asked | tuple[str, int]:
    if draw.random() < 0.5:
        length, tail = draw.randint(1, 24), draw.randint(0, 6)
        prompt = (*range(length - length % 4), *(100 + draw.randint(0, 1) for _ in range(tail + 1)))
        return Asked(
            prompt,
            draw.randint(1, 28),
            draw.randint(0, 2),
            draw.choice(("", "", "x")),
            draw.choice((None, None, None, 1, 2, 5, 9)),
            draw.random() < 0.8,
            draw.random() < 0.5,
        )
    move = draw.choice(("step",) * 6 + ("cancel", "cancel in flight") + ("outside",) * 4)
    return (move, draw.randint(1, 3 if move == "step" else 90))


@settings(max_examples=20)
@given(ENGINES, MOVES)
def test_the_same_moves_make_the_same_plans(
    engine: dict[str, int], moves: list[Asked | tuple[str, int]]
) -> None:
    one, other = (live(Life(World(SLOW, **engine)), moves) for _ in range(2))
    assert one.world.plans == other.world.plans
