"""`silva serve` under 200 streams over HTTP: peers are killed or stopped, a signal ends the server;
nothing is lost.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kill_scene import (
    DISTINCT,
    ENDS,
    LEAST_UNDER_WAY,
    OPTIONS,
    POOLS,
    SETTINGS,
    STREAMS,
    Admin,
    Heard,
    Storm,
    play,
    storm,
    under_way,
    undisturbed,
)
from real_command import Command

KILLS = 5
"""Of each role."""


@pytest.fixture
def command(trained: Path) -> Iterator[Command]:
    command = Command(trained, SETTINGS, **OPTIONS)
    yield command
    command.close()


def test_200_streams_are_whole_though_each_role_is_killed_five_times(command: Command) -> None:
    dice = random.Random(11)
    calm = asyncio.run(undisturbed(command))
    victims = [role for _ in range(KILLS) for role in dice.sample(list(POOLS), len(POOLS))]
    found = asyncio.run(storm(command, victims, dice))
    assert found.wrong(calm) == []
    assert len(found.heard) >= STREAMS
    assert found.kills == dict.fromkeys(POOLS, KILLS)
    assert min(found.streams_at_kills) >= LEAST_UNDER_WAY
    counters = command.settled()
    ends = {name: counters[name] for name in ENDS}
    assert ends == {"finished": DISTINCT + len(found.heard), "cancelled": 0, "failed": 0}
    assert counters["retries"] > 0
    # The command, those that fork and count for it, its peers, and one more for each kill.
    assert command.traces.processes > sum(POOLS.values()) + len(victims)
    assert command.traces.segments > 0
    assert command.stop() == 0
    assert command.left() == []


def nothing_lost(command: Command, found: Storm, calm: list[Heard]) -> dict[str, int]:
    """All streams are whole, all blocks free, and a server that is told to end leaves nothing."""
    assert found.wrong(calm) == []
    counters = command.settled()
    assert counters["finished"] == DISTINCT + len(found.heard)
    assert counters["failed"] == 0
    assert command.stop() == 0
    assert command.left() == []
    return counters


def test_200_streams_are_whole_though_peers_are_stopped_for_ten_seconds(command: Command) -> None:
    """One that computes prompts and one that decodes, at the same time."""

    def stop(admin: Admin, found: Storm) -> None:
        stopped = {role: admin.pids(role, "ready")[0] for role in ("prefill", "decode")}
        for pid in stopped.values():
            os.kill(pid, signal.SIGSTOP)
        time.sleep(10)
        for pid in stopped.values():
            os.kill(pid, signal.SIGCONT)
        for role, pid in stopped.items():
            while pid not in admin.pids(role, "ready"):
                pass

    calm = asyncio.run(undisturbed(command))
    found = asyncio.run(play(command, stop))
    counters = nothing_lost(command, found, calm)
    assert counters["retries"] > 0
    assert counters["cancelled"] == 0


def test_200_streams_are_whole_though_the_server_is_told_to_end(trained: Path) -> None:
    command = Command(trained, (*SETTINGS, "serve.grace_s=300"), **OPTIONS)

    def end(admin: Admin, found: Storm) -> None:
        found.over.set()
        # No request is on its way any more: one that came later would be refused.
        while (now := admin.counters())["requests"] < found.before + len(found.heard):
            pass
        found.streams_at_kills.append(under_way(now))
        command.traces.note()
        command.process.send_signal(signal.SIGTERM)

    try:
        calm = asyncio.run(undisturbed(command))
        found = asyncio.run(play(command, end))
        assert found.wrong(calm) == []
        assert found.streams_at_kills[0] > 0
        assert command.process.wait(60) == 0
        assert command.left() == []
    finally:
        command.close()
