"""A server that moves peers by itself: windows of made-up load, and what it does about them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import pytest
from front_stage import Stage, play

from silva.serving.api.gate import Gate
from silva.serving.api.metrics import Metrics
from silva.serving.api.settings import ApiSettings
from silva.serving.backend import ChangeRefusedError
from silva.serving.wire.messages import Load

BLOCKS = 100
LONG_PROMPTS, LONG_ANSWERS, BALANCED = (0.9, 0.1), (0.1, 0.9), (0.7, 0.7)
"""Share of the time that prefill peers compute, share of the decode peers' batches in use."""

Scene = Callable[[Stage], Coroutine[None, None, None]]
Shares = tuple[float, float]


class Traffic:
    """Plays what peers report while a load goes on."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.step_s: dict[str, float] = {}

    async def half_second(self, shares: Shares) -> None:
        """The peers that serve report; then the front looks."""
        s = self.stage
        s.now_s += 0.5
        for name, state in s.states().items():
            if state == "ready" and name.startswith("prefill"):
                self.step_s[name] = self.step_s.get(name, 0.0) + 0.5 * shares[0]
                load = Load(blocks_free=BLOCKS, blocks_total=BLOCKS, most_running=8)
                s.report(name, load, step_s=self.step_s[name])
            elif state == "ready" and name.startswith("decode"):
                free = round(BLOCKS * (1 - shares[1]))
                s.report(name, Load(blocks_free=free, blocks_total=BLOCKS, most_running=8))
        s.front.hub.traffic.arrived(100)
        s.front.hub.traffic.prefilled(100)
        s.front.hub.traffic.ended(10)
        await s.front._tick()

    async def windows(self, loads: Iterable[Shares]) -> list[str]:
        """Windows of a second each; the moves that came, carried out at once."""
        moves = []
        for shares in loads:
            for _ in range(2):
                before = self.stage.front.status().roles.moves
                await self.half_second(shares)
                after = self.stage.front.status().roles.moves
                moves += [role for role in after if after[role] > before[role]]
                self.carry_out()
        return moves

    def carry_out(self) -> None:
        """Those that drain leave, those that start serve."""
        s = self.stage
        for name, state in s.states().items():
            if state == "draining":
                s.processes.left(name)
            elif state == "starting":
                s.hello(name, blocks=BLOCKS)


def watch(
    monkeypatch: pytest.MonkeyPatch, scene: Scene, *, auto: bool = True, **pools: int
) -> None:
    pools = {"prefill": 3, "decode": 3, "cache": 1, **pools}
    play(monkeypatch, scene, pools=pools, roles={"auto": auto, "window_s": 1.0})


def serving(s: Stage) -> Traffic:
    s.hello(*s.states(), blocks=BLOCKS)
    return Traffic(s)


def roles(s: Stage) -> tuple[int, int]:
    names = list(s.states())
    return (
        sum(n.startswith("prefill") for n in names),
        sum(n.startswith("decode") for n in names),
    )


def test_peers_follow_the_load_in_each_direction(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(s: Stage) -> None:
        traffic = serving(s)
        assert await traffic.windows([BALANCED] * 20) == []
        assert await traffic.windows([LONG_PROMPTS] * 4) == ["prefill"]
        assert roles(s) == (4, 2)
        assert "the load has shifted: decode-3 goes to prefill" in caplog.text
        status = s.front.status().roles
        assert status.auto and status.last == "decode-3 to prefill"
        assert status.busy == pytest.approx({"prefill": 0.9, "decode": 0.1})
        assert await traffic.windows([LONG_ANSWERS] * 9) == ["decode"]
        assert roles(s) == (3, 3)
        assert s.front.status().roles.last == "prefill-4 to decode"

    with caplog.at_level(logging.WARNING, "silva.front"):
        watch(monkeypatch, scene)


def test_operators_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        traffic = serving(s)
        await traffic.windows([LONG_PROMPTS] * 4)
        shown = Metrics(s.front, Gate(ApiSettings(), lambda: s.now_s)).exposition().decode()
        assert 'silva_role_moves_total{to="prefill"} 1.0' in shown
        assert 'silva_role_moves_total{to="decode"} 0.0' in shown
        assert 'silva_role_busy{role="decode"} 0.' in shown

    watch(monkeypatch, scene)


@pytest.mark.parametrize("length", [1, 2])
def test_a_load_that_oscillates_moves_nobody(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    async def scene(s: Stage) -> None:
        traffic = serving(s)
        period = [LONG_PROMPTS] * length + [LONG_ANSWERS] * length
        assert await traffic.windows(period * 15) == []

    watch(monkeypatch, scene)


def test_one_that_oscillates_within_a_window_moves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        traffic = serving(s)
        for _ in range(40):
            await traffic.half_second(LONG_PROMPTS)
            await traffic.half_second(LONG_ANSWERS)
        assert s.front.status().roles.busy == pytest.approx({"prefill": 0.5, "decode": 0.5})
        assert roles(s) == (3, 3)

    watch(monkeypatch, scene)


@pytest.mark.parametrize("load", [LONG_PROMPTS, LONG_ANSWERS])
def test_one_of_each_role_stays(monkeypatch: pytest.MonkeyPatch, load: Shares) -> None:
    async def scene(s: Stage) -> None:
        traffic = serving(s)
        moves = await traffic.windows([load] * 60)
        assert len(moves) == 2
        assert min(roles(s)) == 1

    watch(monkeypatch, scene)


def test_it_is_off_unless_asked_for_and_shows_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        traffic = serving(s)
        assert await traffic.windows([LONG_PROMPTS] * 30) == []
        status = s.front.status().roles
        assert not status.auto and status.busy == pytest.approx({"prefill": 0.9, "decode": 0.1})

    watch(monkeypatch, scene, auto=False)


def test_nothing_moves_while_peers_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        traffic = serving(s)
        await s.front.drain("decode-3")
        for _ in range(30):  # it does not leave
            await traffic.half_second(LONG_PROMPTS)
        assert s.front.status().roles.busy == {}
        s.processes.left("decode-3")
        await s.front.scale({"prefill": 4})
        for _ in range(30):  # it does not serve yet
            await traffic.half_second(LONG_PROMPTS)
        assert roles(s) == (4, 2)
        s.hello("prefill-4", blocks=BLOCKS)
        s.front.hub.peers["prefill-1"].silent = True
        for _ in range(30):  # it is stopped
            await traffic.half_second(LONG_PROMPTS)
        assert s.front.status().roles.busy == {}
        s.report("prefill-1", Load())
        assert await traffic.windows([LONG_PROMPTS] * 4) == ["prefill"]

    watch(monkeypatch, scene)


def test_a_replaced_process_begins_a_window_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        traffic = serving(s)
        for number in range(30):
            await traffic.half_second(LONG_PROMPTS)
            # its steps are counted from zero again
            s.front.hub.peers["prefill-1"].pid = number + 2
        assert s.front.status().roles.busy == {}

    watch(monkeypatch, scene)


def test_a_move_that_is_refused_is_told_and_the_server_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(s: Stage) -> None:
        async def no(peer: str, role: str) -> None:
            raise ChangeRefusedError("not now", remedy="wait")

        monkeypatch.setattr(s.front, "switch", no)
        assert await serving(s).windows([LONG_PROMPTS] * 5) == []
        assert roles(s) == (3, 3)
        assert "decode-3 is not moved to prefill: not now; wait" in caplog.text

    watch(monkeypatch, scene)


def test_a_peer_in_one_long_step_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        serving(s)
        for _ in range(3):
            s.now_s += 0.5
            await s.front._tick()
        assert s.front.status().roles.busy["prefill"] == 1.0

    watch(monkeypatch, scene)


def test_decode_is_as_busy_as_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(s: Stage) -> None:
        serving(s)
        asked = [s.ask(f"r{n}") for n in range(6)]
        await s.settle()
        for name, flight in list(s.front.hub.flights.items())[:4]:
            s.prefilled(name, flight.prefill)
        for _ in range(3):
            s.now_s += 0.5
            await s.front._tick()
        # four of three batches of eight decode; those that are still computed do not count
        assert s.front.status().roles.busy["decode"] == pytest.approx(4 / 24)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    watch(monkeypatch, scene)


def test_a_colocated_server_has_nothing_to_move() -> None:
    from silva.config import build
    from silva.errors import ConfigError
    from silva.serving.launch import LaunchConfig, launch

    tree: dict[str, Any] = {"serve": {"colocated": True, "roles": {"auto": True}}}
    with pytest.raises(ConfigError, match=r"serve\.roles\.auto: one engine"):
        launch(build(LaunchConfig, tree, "test"), None)  # type: ignore[arg-type]
