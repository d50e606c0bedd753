"""Clients join by their examples, and get a leaf beside the server that answers meanwhile."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hostile_bodies import CLIENTS
from image_world import World, close, told
from PIL import Image
from slow_tuner import SlowTuner

from silva.adapters.forest import Forest
from silva.adapters.probe_file import encode_probed
from silva.data.nouns import ImageDataset
from silva.data.sources import ArraySource
from silva.errors import HelperError
from silva.federation.addition import add_client, probe_client, settings_for
from silva.federation.material import Material, image_material
from silva.serving import tunings
from silva.serving.tunings import Tunings

ROWS = np.r_[0:5, 80:85]
"""Of the tiny data: five ants and five bees."""


def png(pixels: Any) -> str:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def examples() -> list[dict[str, str]]:
    held = tiny.arrays()
    return [
        {"image": png(held["images"][n]), "label": tiny.CLASSES[held["label"][n]]} for n in ROWS
    ]


def material(world: World) -> Material:
    """The same examples as data of whoever owns them."""
    held = tiny.arrays()
    source = ArraySource(held["images"][ROWS])
    data = ImageDataset(source, held["label"][ROWS].astype(np.int64), tiny.CLASSES)
    return image_material(world.backbone, data)


def sent(world: World, client: str, **more: Any) -> Any:
    body = {"examples": examples(), **more}
    return world.api.post(f"{CLIENTS}?client={client}", json=body)


def leaves(world: World) -> dict[str, Any]:
    shown = world.api.get("/admin/v1/forest").json()["leaves"]
    return {each["client"]: each for each in shown}


def until(world: World, true: Callable[[], bool]) -> None:
    """Let the server go on until something holds."""
    for _ in range(30_000):
        if true():
            return
        world.api._runner.run(asyncio.sleep(0.02))
    pytest.fail("it did not come to that")


def process_of(world: World, client: str) -> Any:
    return world.newcomers.tunings._known[client].process


def test_examples_lead_where_their_probe_leads(world: World) -> None:
    probed = probe_client(world.forest, "new-1", material(world), settings_for(world.forest, {}))
    answer = sent(world, "new-1").json()
    assert (answer["model"], answer["version"], answer["leaves"]) == ("vit@new-1", 2, [])
    close(told(world.asked("new-1", 0).json()["data"][0]), world.said(answer["cluster"], 0))
    entry = Forest.load(world.forest.folder).client("new-1")
    assert (entry.cluster, entry.leaf, entry.seen, entry.images) == (
        answer["cluster"],
        None,
        False,
        10,
    )
    world.api.request("DELETE", f"{CLIENTS}/new-1")
    by_probe = world.api.post(
        f"{CLIENTS}?client=new-1",
        content=encode_probed(probed, world.forest.manifest),
        headers={"content-type": "application/octet-stream"},
    ).json()
    assert by_probe["cluster"] == answer["cluster"]
    assert by_probe["similarities"] == answer["similarities"]


def test_the_leaf_is_the_one_that_add_gives(world: World, tmp_path: Path) -> None:
    answer = sent(world, "new-1", tune=True).json()
    assert [(each["client"], each["state"]) for each in answer["leaves"]] == [("new-1", "queued")]
    seen = set()

    def settled() -> bool:
        answered = world.asked("new-1", 0).json()
        seen.add(len(answered["path"]))
        return leaves(world)["new-1"]["state"] in ("live", "failed")

    until(world, settled)
    state = leaves(world)["new-1"]
    passes = settings_for(world.forest, {}).unseen_epochs
    assert state == {
        "client": "new-1",
        "state": "live",
        "done": passes,
        "passes": passes,
        "why": "",
    }
    assert seen <= {2, 3} and len(world.asked("new-1", 0).json()["path"]) == 3
    leaf = Forest.load(world.forest.folder).client("new-1").leaf
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        world.forest.remove("new-1")
        added = add_client(
            Forest.load(world.forest.folder),
            "new-1",
            material(world),
            settings_for(world.forest, {}),
            passes,
        )
    finally:
        torch.set_num_threads(threads)
    assert leaf is not None and added.forest.client("new-1").leaf == leaf


def begun(world: World, monkeypatch: pytest.MonkeyPatch) -> int:
    """The process that tunes a leaf for new-1, and will not come to an end."""
    monkeypatch.setattr(world.newcomers.tunings, "_tuner", SlowTuner())
    assert sent(world, "new-1", tune=True).status_code == 200
    until(world, lambda: leaves(world)["new-1"]["done"] == 1)
    pid: int = process_of(world, "new-1").pid
    return pid


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_tuner_that_is_killed_harms_nobody_and_can_be_asked_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = begun(world, monkeypatch)
    again = {"examples": examples()}
    assert world.api.post(f"{CLIENTS}/new-1/leaf", json=again).status_code == 409
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    assert os.sched_getscheduler(pid) == os.SCHED_IDLE
    before = sorted(world.forest.folder.rglob("*"))
    os.kill(pid, signal.SIGKILL)
    until(world, lambda: leaves(world)["new-1"]["state"] == "failed")
    state = leaves(world)["new-1"]
    assert "exit code -9" in state["why"] and (state["done"], state["passes"]) == (1, 3)
    assert sorted(world.forest.folder.rglob("*")) == before
    assert len(world.asked("new-1", 0).json()["path"]) == 2
    monkeypatch.undo()
    assert world.api.post(f"{CLIENTS}/new-1/leaf", json=again).status_code == 200
    until(world, lambda: leaves(world)["new-1"]["state"] == "live")
    assert len(world.asked("new-1", 0).json()["path"]) == 3
    assert world.api.post(f"{CLIENTS}/new-1/leaf", json=again).status_code == 409
    assert Forest.load(world.forest.folder).verify().sound


def test_a_client_that_is_erased_gets_no_leaf(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = begun(world, monkeypatch)
    assert world.api.request("DELETE", f"{CLIENTS}/new-1").status_code == 200
    until(world, lambda: gone(pid))
    assert leaves(world) == {} and world.asked("new-1", 0).status_code == 404
    assert world.api.post(f"{CLIENTS}/new-1/leaf", json={"examples": examples()}).status_code == 404
    assert "new-1" not in Forest.load(world.forest.folder).clients


def test_few_leaves_wait_and_a_server_that_stops_leaves_nothing_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = begun(world, monkeypatch)
    for n in range(2, tunings.MOST_UNFINISHED + 1):
        assert sent(world, f"new-{n}", tune=True).status_code == 200
    answer = sent(world, "one-more", tune=True)
    assert answer.status_code == 429 and "retry-after" in answer.headers
    assert "one-more" not in Forest.load(world.forest.folder).clients
    assert sent(world, "one-more").status_code == 200
    world.api.request("DELETE", f"{CLIENTS}/new-2")
    assert sent(world, "new-2", tune=True).status_code == 200
    known = [*world.newcomers.tunings._known.values()]
    before = sorted(world.forest.folder.rglob("*"))
    world.api._runner.run(world.newcomers.tunings.close())
    assert gone(pid) and leaves(world) == {}
    assert not any(len(tuning.examples) for tuning in known)
    assert sorted(world.forest.folder.rglob("*")) == before
    assert sent(world, "new-3", tune=True).status_code in (409, 503)
    assert sent(world, "new-9", tune=True).status_code == 503
    assert "new-9" not in Forest.load(world.forest.folder).clients


class Passes:
    """A tuner's process that asks leave for three passes and refuses then."""

    def __init__(self) -> None:
        self.left, self.gone = 3, 0

    def hear(self) -> tuple[int, int]:
        if not self.left:
            raise HelperError("enough")
        self.left -= 1
        return 2 - self.left, 3

    def go(self) -> None:
        self.gone += 1


def test_a_pass_waits_for_a_moment_without_requests(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for no longer than its patience: whoever is always busy still gets leaves."""
    asked: list[int] = []

    def busy() -> bool:
        asked.append(1)
        return len(asked) < 5

    mine = Tunings(world.live, SlowTuner(), busy, world.service.offer)
    tuning, process = tunings.Tuning(world.forest, "new-1", (), 0), Passes()

    def heard() -> None:
        with pytest.raises(HelperError, match="enough"):
            world.api._runner.run(mine._heard(tuning, process))  # type: ignore[arg-type]

    heard()
    assert (len(asked), process.gone, tuning.done, tuning.passes) == (5 + 2, 3, 2, 3)
    monkeypatch.setattr(mine, "_busy", lambda: True)
    monkeypatch.setattr(tunings, "PATIENCE_S", 0.01)
    process.left = 3
    heard()
    assert process.gone == 6
