"""Work for others: in order for each of them, and nobody waits for another."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from silva.serving.peers.lanes import Lanes


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    found = Lanes(2, "test")
    yield found
    found.close()


def test_one_that_waits_holds_up_only_its_own(lanes: Lanes) -> None:
    free, other, last = threading.Event(), threading.Event(), threading.Event()
    done: list[str] = []
    lanes.run("slow", lambda: (free.wait(60), done.append("slow 1")))  # type: ignore[arg-type]
    lanes.run("slow", lambda: (done.append("slow 2"), last.set()))  # type: ignore[arg-type]
    for number in range(3):
        lanes.run("quick", lambda number=number: done.append(f"quick {number}"))
    lanes.run("quick", other.set)
    assert other.wait(60)
    assert done == ["quick 0", "quick 1", "quick 2"]
    free.set()
    assert last.wait(60)
    assert done[3:] == ["slow 1", "slow 2"]


def test_work_that_fails_does_not_end_its_lane(lanes: Lanes) -> None:
    over = threading.Event()
    lanes.run("a", lambda: 1 // 0)
    lanes.run("a", over.set)
    assert over.wait(60)


def test_what_waits_when_it_closes_is_dropped(lanes: Lanes) -> None:
    begun, free, done = threading.Event(), threading.Event(), []
    lanes.run("a", lambda: (begun.set(), free.wait(60), done.append(1)))  # type: ignore[arg-type]
    assert begun.wait(60)
    lanes.run("a", lambda: done.append(2))
    closing = threading.Thread(target=lanes.close)
    closing.start()
    while not lanes._closed:
        begun.wait(0.01)
    lanes.run("b", lambda: done.append(3))
    free.set()
    closing.join(60)
    assert done == [1] and not closing.is_alive()
