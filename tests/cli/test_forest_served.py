"""`silva forest join --data`, `leaf` and `served`: clients who send their examples to a server."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from calls import World, client_data, done, refused, silva
from fastapi.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parents[1] / "federation"))
import tiny

from silva.adapters.forest import Forest
from silva.config import build
from silva.federation.sent import ImageProber, ImageTuner
from silva.models.registry import load_backbone
from silva.serving.api.image_app import create_image_app
from silva.serving.api.schemas.forest import MAX_EXAMPLES
from silva.serving.backend import ModelCard
from silva.serving.config import ServeConfig
from silva.serving.images.launch import make_classifier, newcomers
from silva.serving.images.service import ImageService
from silva.serving.live_forest import LiveForest

URL = "http://127.0.0.1:8000"


@pytest.fixture
def served(world: World, forest: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The forest of a server of images at URL, as far as `httpx.request` can tell."""
    backbone, grown = load_backbone(str(world.vit)), Forest.load(forest)
    live = LiveForest(grown, ModelCard("vit", 0, 0), backbone.digest)
    classifier = make_classifier(backbone, build(ServeConfig, {}, "test"), grown)
    service = ImageService(classifier, live.cards, most_waiting=9)
    joining = newcomers(live, service, ImageProber(backbone), ImageTuner(backbone.id))
    app = create_image_app(service, grown.class_names, (), forest=live, newcomers=joining)
    with TestClient(app, base_url=URL, client=("127.0.0.1", 50000)) as client:

        def request(method: str, url: str, *, timeout: float, **rest: Any) -> object:
            return client.request(method, url, **rest)

        monkeypatch.setattr(httpx, "request", request)
        yield forest


def routed(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if "similarity" in line]


def test_who_sends_its_data_is_where_its_probe_leads(
    served: Path, world: World, tmp_path: Path
) -> None:
    data, other = client_data(tmp_path / "new.npz"), shutil.copytree(world.forest, tmp_path / "2")
    words = ["forest", "join", "--client", "new-1", "--data", data]
    there, here = done(*words, "--url", URL), done(*words, other)
    assert "new-1: cluster-" in there and "ask for vit@new-1" in there
    assert routed(there) == routed(here) and len(routed(there)) == 2
    entries = [Forest.load(folder).client("new-1") for folder in (served, other)]
    assert entries[0] == entries[1] and entries[0].images == 15
    result = silva(*words, "--url", URL)
    assert result.exit_code == 2 and "there already" in result.stderr


def test_a_leaf_is_tuned_beside_the_answers(served: Path, tmp_path: Path) -> None:
    data = client_data(tmp_path / "new.npz")
    words = ["--client", "new-1", "--data", data, "--url", URL]
    assert "its leaf is tuned" in done("forest", "join", *words, "--tune")
    for _ in range(30_000):
        if "leaf of new-1: live, pass 2 of 2" in done("forest", "served"):
            break
        time.sleep(0.02)
    assert Forest.load(served).client("new-1").leaf is not None
    result = silva("forest", "leaf", *words)
    assert result.exit_code == 2 and "has a leaf already" in result.stderr


def test_what_cannot_be_is_one_line(served: Path, tmp_path: Path) -> None:
    data = client_data(tmp_path / "new.npz")
    join = ["forest", "join", "--client", "new-1"]
    assert "one of --probe and --data" in refused(served, *join, "--url", URL)
    both = ["--data", data, "--probe", data]
    assert "one of --probe and --data" in refused(served, *join, *both, "--url", URL)
    assert "--leaf-epochs" in refused(served, *join, "--data", data, "--tune", served)
    strange = client_data(tmp_path / "strange.npz", ("ant", "bee", "cow", "yak"))
    done("forest", "join", "--client", "strange", "--data", strange, "--url", URL)
    strange = client_data(tmp_path / "strange.npz", ("yak", "bee", "cow", "dog"))
    message = refused(served, *join, "--data", strange, "--url", URL)
    assert "the label 'yak' is no class of the forest" in message
    leaf = ["forest", "leaf", "--data", data, "--url", URL, "--client"]
    assert "no client 'nobody'" in refused(served, *leaf, "nobody")
    assert "not allowed" in refused(served, *leaf, "../x")
    arrays = tiny.arrays()
    most = {name: arrays[name].repeat(9, axis=0) for name in ("images", "label")}
    tiny.np.savez(tmp_path / "many.npz", **most, class_names=arrays["class_names"])
    message = refused(served, *join, "--data", tmp_path / "many.npz", "--url", URL)
    assert f"a server takes {MAX_EXAMPLES}" in message
