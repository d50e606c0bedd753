"""`silva serve --ep`: ranks that share experts are killed, leave and come while clients read."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from rank_scene import Ranks, Scene, asked, save_model, served
from serving_world import prompts

from silva.experts import futex

pytestmark = pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")

RANKS = 4
DECODE = Ranks("decode", "ep", RANKS)
LONG, SHORT = "serve.experts.patience_s=100", "serve.experts.patience_s=6"
SPLIT = "serve.experts.overlap=on"
"""Steps are in two halves when ranks die; else that is left to what was measured."""
STREAMS, TOKENS = 12, 64
ASKED = asked(prompts(STREAMS), TOKENS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("ranks") / "model")


@pytest.fixture(scope="module")
def scene(model: Path) -> Iterator[Scene]:
    with served(model, model.with_name("log"), DECODE, ASKED, LONG, SPLIT) as scene:
        yield scene


def test_all_streams_are_read_as_in_calm(scene: Scene) -> None:
    assert all(h.ended and not h.error and len(h.tokens) == TOKENS for h in scene.calm), scene.calm
    assert scene.read() == scene.calm
    assert scene.ranks() == dict.fromkeys(scene.names(), RANKS)


@pytest.mark.parametrize("count", [1, 2], ids=["one", "so many that the others are too few"])
def test_nothing_is_lost_with_ranks_and_others_take_their_places(scene: Scene, count: int) -> None:
    before, names = scene.counters(), scene.names()
    killed: list[int] = []

    def kill() -> None:
        scene.command.traces.note()
        for victim in sorted(scene.peers(), key=lambda peer: -peer["running"])[:count]:
            killed.append(names.index(victim["name"]))
            os.kill(victim["pid"], signal.SIGKILL)

    assert scene.read(kill) == scene.calm
    scene.until(lambda: scene.ranks() == dict.fromkeys(names, RANKS))
    assert scene.read() == scene.calm
    after = scene.counters()
    assert after["failed"] == 0 and after["retries"] > before["retries"]
    if count == 1:
        out = f"ranks {killed} are"
        assert scene.logged(f"{out} out; the last vote with them was", f"{out} in again after")


def test_one_rank_may_leave_and_another_come(scene: Scene) -> None:
    *others, last = scene.names()

    def leave() -> None:
        assert scene.ask("drain", peer=last).status_code == 200
        refused = scene.ask("drain", peer=others[0])
        assert refused.status_code == 409 and "are possible" in refused.text

    assert scene.read(leave) == scene.calm
    scene.until(lambda: scene.names() == others)
    assert scene.read() == scene.calm
    assert scene.ask("scale", roles={"decode": RANKS}).status_code == 200
    scene.until(lambda: scene.ranks() == dict.fromkeys([*others, "decode-5"], RANKS))
    assert scene.read() == scene.calm
    assert scene.counters()["failed"] == 0


def test_a_rank_that_was_taken_for_dead_ends_and_is_replaced(model: Path, tmp_path: Path) -> None:
    with served(model, tmp_path / "log", DECODE, ASKED, SHORT) as scene:
        names = scene.names()
        stopped: list[int] = []

        def stop() -> None:
            victim = max(scene.peers(), key=lambda peer: peer["running"])
            stopped.append(victim["pid"])
            os.kill(victim["pid"], signal.SIGSTOP)

        assert scene.read(stop) == scene.calm
        assert RANKS - 1 in scene.ranks().values()
        scene.command.traces.note()
        os.kill(stopped[0], signal.SIGCONT)
        scene.until(lambda: scene.ranks() == dict.fromkeys(names, RANKS))
        assert scene.logged("this process ends: rank", "was taken for dead by")
        assert stopped[0] not in [peer["pid"] for peer in scene.peers()]
        assert scene.read() == scene.calm
