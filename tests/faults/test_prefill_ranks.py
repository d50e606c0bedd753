"""`silva serve --prefill-ep`: ranks that share each prompt are killed, leave and come meanwhile."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from rank_scene import Ranks, Scene, asked, save_model, served
from serving_world import VOCABULARY

from silva.experts import futex

pytestmark = pytest.mark.skipif(not futex.supported(), reason="needs Linux on x86-64")

RANKS = 4
LEADER = "prefill-1"
STREAMS, LONGEST, TOKENS = 24, 120, 6
SETTINGS = (
    "serve.experts.patience_s=100",
    "serve.step.chunk_tokens=16",
    "serve.step.most_running=8",
)
"""Each prompt takes many steps, so that ranks die in some of them."""
FEW = 0.1
"""So few of the clients read when something happens: the prompts of most are not computed yet."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    model = save_model(tmp_path_factory.mktemp("ranks") / "model")
    dice = random.Random(5)
    lengths = [dice.randint(LONGEST // 2, LONGEST) for _ in range(STREAMS)]
    prompts = [[dice.randrange(VOCABULARY) for _ in range(length)] for length in lengths]
    ranks, log = Ranks("prefill", "prefill-ep", RANKS), model.with_name("log")
    with served(model, log, ranks, asked(prompts, TOKENS), *SETTINGS) as scene:
        yield scene


def complete(scene: Scene, names: list[str]) -> None:
    """Wait until all these know each other."""
    scene.until(lambda: scene.ranks() == dict.fromkeys(names, RANKS))


def steps(scene: Scene) -> dict[str, int]:
    return {peer["name"]: peer["steps"] for peer in scene.peers()}


def test_all_ranks_share_all_steps(scene: Scene) -> None:
    assert all(h.ended and not h.error and len(h.tokens) == TOKENS for h in scene.calm), scene.calm
    assert scene.read() == scene.calm
    # Peers report twice a second. Who has no share in a step has heard of it too late.
    scene.until(lambda: steps(scene)[LEADER] >= STREAMS * LONGEST // 2 // 16, within_s=30.0)
    scene.until(lambda: min(steps(scene).values()) > 0.9 * steps(scene)[LEADER], within_s=30.0)


@pytest.mark.parametrize("victim", [LEADER, "prefill-2"])
def test_nothing_is_lost_with_a_rank_and_another_takes_its_place(scene: Scene, victim: str) -> None:
    before, names = scene.counters(), scene.names()

    def kill() -> None:
        scene.command.traces.note()
        (pid,) = (peer["pid"] for peer in scene.peers() if peer["name"] == victim)
        os.kill(pid, signal.SIGKILL)

    assert scene.read(kill, reading=FEW) == scene.calm
    complete(scene, names)
    shared = steps(scene)
    assert scene.read() == scene.calm
    # What the new process lacked it has read: it shares steps that continue older prefixes.
    scene.until(lambda: all(now > shared[name] for name, now in steps(scene).items()))
    after = scene.counters()
    assert after["failed"] == before["failed"] == 0
    # The request goes on where it was unless the leader has died, which alone knows of it.
    assert (after["retries"] > before["retries"]) == (victim == LEADER)


def test_a_rank_that_follows_may_leave_and_another_come(scene: Scene) -> None:
    names = scene.names()

    def leave() -> None:
        refused = scene.ask("drain", peer=LEADER)
        assert refused.status_code == 409 and "leads" in refused.text
        assert scene.ask("drain", peer=names[-1]).status_code == 200
        refused = scene.ask("drain", peer=names[-2])
        assert refused.status_code == 409 and "are possible" in refused.text

    assert scene.read(leave, reading=FEW) == scene.calm
    scene.until(lambda: scene.names() == names[:-1])
    assert scene.read() == scene.calm
    assert scene.ask("scale", roles={"prefill": RANKS}).status_code == 200
    complete(scene, [*names[:-1], f"prefill-{RANKS + 1}"])
    assert scene.read() == scene.calm
    assert scene.counters()["failed"] == 0
