"""Clients of a forest of texts join by their texts, probed and tuned on in processes of their own."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "api"), str(HERE / "images"), str(HERE.parent / "federation")]

from api_transport import Api  # noqa: E402
from hostile_bodies import CLIENTS, bodies, joins_or_changes_nothing, tries  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from slow_tuner import SlowTuner  # noqa: E402
from tiny_text import WINDOW, config, save_model, save_texts  # noqa: E402

from silva import api as public  # noqa: E402
from silva.adapters.forest import Forest  # noqa: E402
from silva.config import build  # noqa: E402
from silva.data import histogram  # noqa: E402
from silva.data.sent_texts import MAX_WINDOWS, training_texts  # noqa: E402
from silva.federation import report  # noqa: E402
from silva.federation.sent import TextProber, TextTuner  # noqa: E402
from silva.federation.tune import tune  # noqa: E402
from silva.models.text import load_text  # noqa: E402
from silva.serving import training_work  # noqa: E402
from silva.serving.api.app import create_app  # noqa: E402
from silva.serving.api.schemas.forest import MAX_EXAMPLES  # noqa: E402
from silva.serving.colocated import Colocated  # noqa: E402
from silva.serving.forest_cards import served_forest  # noqa: E402
from silva.serving.launch import LaunchConfig, live_forest, make_backend, newcomers  # noqa: E402
from silva.serving.live_forest import LiveForest  # noqa: E402
from silva.serving.newcomers import Newcomers  # noqa: E402
from silva.serving.training_process import TrainingProcess  # noqa: E402
from silva.serving.tunings import Tunings  # noqa: E402

FOREST = "/admin/v1/forest"


@dataclass
class World:
    """A served forest of texts, its API, and the folder of a client that it does not know."""

    forest: Path
    model: Path
    live: LiveForest
    newcomers: Newcomers[Any]
    api: Api
    texts: Path

    def join(self, client: str, **more: Any) -> Any:
        body = {"examples": examples(self.texts), **more}
        return self.api.post(f"{CLIENTS}?client={client}", json=body)

    def path(self, client: str) -> list[str]:
        body = {"model": f"tiny@{client}", "prompt": "red tree", "max_tokens": 2}
        assert self.api.post("/v1/completions", json=body).status_code == 200
        path: list[str] = self.api.get(f"/v1/models/tiny@{client}").json()["path"]
        return path

    def leaf(self, client: str) -> Any:
        shown = self.api.get(FOREST).json()["leaves"]
        return next((each for each in shown if each["client"] == client), None)

    def until(self, true: Callable[[], bool]) -> None:
        for _ in range(30_000):
            if true():
                return
            self.api._runner.run(asyncio.sleep(0.02))
        pytest.fail("it did not come to that")


def examples(folder: Path) -> list[dict[str, str]]:
    return [{"text": text} for text in training_texts(folder)]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and the forest that texts grew on it."""
    folder = tmp_path_factory.mktemp("grown")
    save_model(folder / "model")
    save_texts(folder / "texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "render_plots", lambda *_: {})
        patch.setattr(histogram, "draw_histogram", lambda *given: None)
        tune(config(folder), folder / "forest")
    return folder


@pytest.fixture
def world(grown: Path, tmp_path: Path) -> Iterator[World]:
    model, forest = grown / "model", Path(shutil.copytree(grown / "forest", tmp_path / "forest"))
    tree = {"serve": {"colocated": True, "threads": 1, "kv": {"peer_bytes": 1 << 22}}}
    launched = build(LaunchConfig, {"model": str(model), "name": "tiny", **tree}, "test")
    live = live_forest(launched, model, served_forest(forest))
    backend = make_backend(launched, model, lambda error: None, live)
    assert isinstance(backend, Colocated)
    joining = newcomers(live, backend, TextProber(model), TextTuner(model))
    api = Api(create_app(backend, load_text(model), forest=live, newcomers=joining))
    api._runner.run(backend.open())
    new = tmp_path / "new"
    save_texts(tmp_path / "others", clients=1, words=40)
    shutil.copytree(tmp_path / "others" / "ann-0", new)
    yield World(forest, model, live, joining, api, new)
    api._runner.run(joining.close())
    api._runner.run(backend.close(0.0))


def test_texts_lead_where_their_probe_leads_and_get_the_leaf_that_add_gives(
    world: World, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(world.forest, tmp_path / "other"))
    answer = world.join("new-1", tune=True)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["model"], told["version"], told["examples"]) == ("tiny@new-1", 2, "texts")
    forest = public.Forest.load(other)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        probe = forest.make_probe("new-1", str(world.texts), backbone=str(world.model))
        here = forest.join("new-1", probe)
        entry = here.forest.client("new-1")
        public.Forest.load(other).remove("new-1")
        added = public.Forest.load(other).add(
            "new-1", str(world.texts), leaf_epochs=1, backbone=str(world.model)
        )
    finally:
        torch.set_num_threads(threads)
    assert told["cluster"] == here.cluster
    assert told["similarities"] == pytest.approx(here.similarities, abs=1e-5)
    world.until(lambda: world.leaf("new-1")["state"] in ("live", "failed"))
    assert world.leaf("new-1") == {
        "client": "new-1",
        "state": "live",
        "done": 1,
        "passes": 1,
        "why": "",
    }
    tuned = Forest.load(world.forest).client("new-1")
    assert tuned.leaf == added.forest.client("new-1").leaf and tuned.images == entry.images
    assert len(world.path("new-1")) == 3
    again = {"examples": examples(world.texts)}
    assert world.api.post(f"{CLIENTS}/new-1/leaf", json=again).status_code == 409


@pytest.fixture
def quick(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The same server, with probes made in its own process."""
    monkeypatch.setattr(world.newcomers, "_prober", TextProber(world.model))
    return world


def test_a_leaf_can_be_asked_for_later_and_an_erased_client_gets_none(
    quick: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick.newcomers.tunings, "_tuner", SlowTuner())
    assert quick.join("new-1").status_code == 200 and quick.leaf("new-1") is None
    assert len(quick.path("new-1")) == 2
    short = {"examples": [{"text": "red"}]}
    answer = quick.api.post(f"{CLIENTS}/new-1/leaf", json=short)
    assert answer.status_code == 400 and "less than a window" in answer.text
    body = {"examples": examples(quick.texts)}
    assert quick.api.post(f"{CLIENTS}/new-1/leaf", json=body).status_code == 200
    quick.until(lambda: quick.leaf("new-1")["done"] == 1)
    assert quick.api.request("DELETE", f"{CLIENTS}/new-1").status_code == 200
    assert quick.leaf("new-1") is None
    assert quick.api.post(f"{CLIENTS}/new-1/leaf", json=body).status_code == 404


def version(world: World) -> int:
    return Forest.load(world.forest).version


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "examples"),
        ({"examples": []}, "examples"),
        ({"examples": [{"text": "red"}] * (MAX_EXAMPLES + 1)}, "examples"),
        ({"examples": ["red tree"]}, "examples.0"),
        ({"examples": [{"text": 3}]}, "examples.0.text"),
        ({"examples": [{"image": "AAAA", "label": "ant"}]}, "examples.0"),
        ({"examples": [{"text": "red", "label": "ant"}]}, "label: is not a field"),
        ({"examples": [{"text": ""}]}, "less than a window"),
        ({"examples": [{"text": "red"}]}, "less than a window"),
        ({"examples": [{"text": "x" * (2 * WINDOW * MAX_WINDOWS)}]}, "a server takes"),
        ({"examples": [{"text": "red"}], "tune": 1}, "tune"),
    ],
)
def test_bad_texts_are_refused(quick: World, body: Any, said: str) -> None:
    answer = quick.api.post(f"{CLIENTS}?client=new-1", json=body)
    assert (answer.status_code, said in answer.text) == (400, True), answer.text
    assert version(quick) == 1
    assert quick.api.get("/v1/models/tiny@new-1").status_code == 404


def test_what_a_process_refuses_is_an_answer_and_one_that_dies_is_503(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {"examples": [{"text": "red"}]}
    answer = world.api.post(f"{CLIENTS}?client=new-1", json=short)
    assert answer.status_code == 400 and "less than a window" in answer.text
    begin = TrainingProcess.begin

    def killed(self: TrainingProcess, *work: Any) -> None:
        begin(self, *work)
        self.kill()

    monkeypatch.setattr(training_work.TrainingProcess, "begin", killed)
    answer = world.join("new-1")
    assert answer.status_code == 503 and "prober's process ended" in answer.text
    monkeypatch.undo()
    world.api._runner.run(world.newcomers.close())
    assert world.join("new-1").status_code == 503
    assert version(world) == 1


def test_a_passing_leaf_counts_windows(quick: World) -> None:
    seen: list[int] = []
    quick.newcomers.tunings = Tunings(quick.live, SlowTuner(), lambda: False, lambda cards: None)
    begin = quick.newcomers.tunings.begin

    def begun(forest: Forest, client: str, texts: Any, rows: int) -> None:
        seen.append(rows)
        begin(forest, client, texts, rows)

    quick.newcomers.tunings.begin = begun  # type: ignore[method-assign]
    assert quick.join("new-1", tune=True).status_code == 200
    assert seen == [Forest.load(quick.forest).client("new-1").images] and seen[0] > 2


letters = st.text(max_size=60) | st.sampled_from(["red tree bird " * 9, "\0" * 40, "</s>" * 30])


@tries(40)
@given(content=bodies(["text"], {"text": letters}))
def test_any_body_is_answered_and_a_refused_one_changes_nothing(
    quick: World, content: bytes
) -> None:
    joins_or_changes_nothing(quick.api, lambda: version(quick), content)
