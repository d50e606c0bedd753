"""`silva forest probe`, `join` and `reload`: to a forest here, and to a server that answers for one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from calls import client_data, done, refused, silva
from fastapi.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))
sys.path.insert(0, str(Path(__file__).parents[1] / "serving" / "api"))

from api_fakes import FakeBackend
from forest_cases import BASE, make_headless

from silva.adapters.forest import Forest
from silva.adapters.probe_file import Probed, encode_probed
from silva.serving.api.app import create_app
from silva.serving.api.text import TextModel
from silva.serving.backend import ModelCard
from silva.serving.live_forest import LiveForest

URL = "http://127.0.0.1:8000"


def test_a_probe_alone_leads_where_the_data_lead(forest: Path, tmp_path: Path) -> None:
    data, probe = client_data(tmp_path / "new.npz"), tmp_path / "new.probe"
    words = ["--client", "new-1", "--data", data]
    printed = done("forest", "probe", forest, *words, "--out", probe)
    assert f"to {probe}" in printed
    joined = done("forest", "join", forest, "--client", "new-1", "--probe", probe)
    entry = Forest.load(forest).client("new-1")
    assert f"new-1: {entry.cluster}, version 2" in joined and "<- nearest" in joined
    assert (entry.leaf, entry.seen, entry.images) == (None, False, 15)
    done("forest", "remove", forest, "new-1")
    added = done("forest", "add", forest, *words)
    assert f"new-1: {entry.cluster}" in added
    similarities = [line.split()[:3] for line in joined.splitlines() if "similarity" in line]
    assert similarities == [line.split()[:3] for line in added.splitlines() if "similarity" in line]


def test_what_is_refused_writes_nothing(forest: Path, tmp_path: Path) -> None:
    data, probe = client_data(tmp_path / "new.npz"), tmp_path / "new.probe"
    words = ["forest", "probe", forest, "--data", data]
    done(*words, "--client", "new-1", "--out", probe)
    assert "already exists" in refused(tmp_path, *words, "--client", "new-1", "--out", probe)
    other = tmp_path / "other.probe"
    assert "not allowed" in refused(tmp_path, *words, "--client", "../x", "--out", other)
    nobody = ["forest", "join", "--client", "new-2", "--probe"]
    assert "one of FOREST and --url" in refused(tmp_path, *nobody, probe)
    assert "one of FOREST and --url" in refused(tmp_path, *nobody, probe, forest, "--url", URL)
    assert "is missing" in refused(forest, *nobody, tmp_path / "absent", forest)
    damaged = tmp_path / "damaged.probe"
    damaged.write_bytes(probe.read_bytes()[:-3])
    assert "not a safetensors file" in refused(forest, *nobody, damaged, forest)


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveForest]:
    """The forest of a server at URL, as far as `httpx.request` can tell."""
    live = LiveForest(make_headless(tmp_path / "served"), ModelCard("m", 0, 64), BASE.digest)
    app = create_app(
        FakeBackend(), cast(TextModel, SimpleNamespace(chat_template=None)), forest=live
    )
    with TestClient(app, base_url=URL, client=("127.0.0.1", 50000)) as client:

        def request(method: str, url: str, *, timeout: float, **rest: Any) -> object:
            return client.request(method, url, **rest)

        monkeypatch.setattr(httpx, "request", request)
        yield live


def test_a_client_joins_a_forest_that_is_served(live: LiveForest, tmp_path: Path) -> None:
    forest, probe = Forest.load(live.folder), tmp_path / "new.probe"
    probe.write_bytes(encode_probed(Probed(forest.signature("cluster-1"), 7), forest.manifest))
    words = ["forest", "join", "--url", URL, "--probe", probe]
    printed = done(*words, "--client", "new-1")
    assert "new-1: cluster-1, version 2" in printed and "ask for m@new-1" in printed
    assert Forest.load(live.folder).client("new-1").cluster == "cluster-1"
    result = silva(*words, "--client", "new-1")
    assert result.exit_code == 2 and "there already" in result.stderr


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(200, json={"clusters": 2}), "the answer has no 'version'"),
        (httpx.Response(404, json={"error": "not found"}), "the server answered 404"),
        (httpx.Response(200, text="<html>"), "no answer of a silva server"),
    ],
)
def test_another_server_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: httpx.Response, said: str
) -> None:
    monkeypatch.setattr(httpx, "request", lambda *_, **__: answer)
    assert said in refused(tmp_path, "forest", "reload")


def test_a_slow_server_may_still_do_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def slow(*_: object, **__: object) -> object:
        raise httpx.ReadTimeout("slow")

    monkeypatch.setattr(httpx, "request", slow)
    assert "may still do what it was asked" in refused(tmp_path, "forest", "reload", "--to", 1)


def test_a_server_follows_the_disk_and_goes_back(live: LiveForest, tmp_path: Path) -> None:
    done("forest", "remove", live.folder, "c-01")
    printed = done("forest", "reload")
    assert "is answered for: 2 clusters, 3 clients" in printed
    assert "m@c-01" not in {card.id for card in live.cards}
    version = live.told()["version"]
    assert f"version {version} is answered for" in done("forest", "reload", "--to", version)
    result = silva("forest", "reload", "--to", 99)
    assert result.exit_code == 2 and "no version 99" in result.stderr
