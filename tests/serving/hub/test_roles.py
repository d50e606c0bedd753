"""How busy the roles are said to be, by what peers report and by their beats."""

from __future__ import annotations

import pytest

from silva.serving.config import RolesConfig
from silva.serving.hub.hub import Hub
from silva.serving.hub.roles import RoleWatch
from silva.serving.hub.settings import HubSettings
from silva.serving.wire.messages import Beat, Hello, Load, Role, Status

WINDOW_S = 4.0


class World:
    """A prefill and a decode peer, and half seconds that pass."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.hub = Hub(HubSettings(), lambda name, message: None, lambda: self.now_s)
        self.watch = RoleWatch(self.hub, RolesConfig(window_s=WINDOW_S), lambda: self.now_s)
        roles: tuple[Role, ...] = ("prefill", "decode")
        for role in roles:
            self.hub.expect(f"{role}-1", role)
            self.hub.receive(f"{role}-1", Hello(f"{role}-1", role, 1, load=Load(blocks_total=9)))
        self.step_s = 0.0
        self.watch.tick()

    def pass_by(
        self, seconds: float, *, step_s: float = 0.0, in_step_s: float | None = None
    ) -> list[float]:
        """Steps of `step_s` in every half second, or one long step that goes on, `in_step_s` old.

        How busy prefill was said to be at the end of each.
        """
        said = []
        for number in range(1, int(2 * seconds) + 1):
            self.now_s += 0.5
            if in_step_s is not None:
                self.hub.receive("prefill-1", Beat(in_step_s + 0.5 * number))
            else:
                self.step_s += step_s
                self.report()
            self.watch.tick()
            said.append(self.watch.status().busy.get("prefill", -1.0))
        return said

    def report(self) -> None:
        self.hub.receive("prefill-1", Status(Load(blocks_total=9), {"step_s": self.step_s}))


def test_a_prefill_peer_is_as_busy_as_its_steps_are_long() -> None:
    world = World()
    assert world.pass_by(WINDOW_S, step_s=0.25)[-1] == pytest.approx(0.5)
    assert world.pass_by(WINDOW_S)[-1] == 0.0


def test_a_step_that_goes_on_is_work() -> None:
    world = World()
    world.pass_by(WINDOW_S)
    world.pass_by(1.0)
    # it began within the window, and its report comes after this one and the next
    assert world.pass_by(WINDOW_S - 1.0, in_step_s=0.0)[-1] == pytest.approx(0.75)
    assert world.pass_by(WINDOW_S, in_step_s=WINDOW_S - 1.0)[-1] == pytest.approx(1.0)
    # what was counted while it went on is not counted again
    world.step_s += 2 * WINDOW_S - 1.0
    world.report()
    assert world.pass_by(WINDOW_S)[-1] == pytest.approx(0.0)


def test_a_turn_without_work_is_no_step() -> None:
    world = World()
    world.pass_by(WINDOW_S - 0.5)
    world.hub.receive("prefill-1", Beat(0.5))
    assert world.pass_by(0.5)[-1] == 0.0
