"""`silva forest join --data` and `leaf` to a server of a language model: a client's texts are sent."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from calls import done, refused
from fastapi.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parents[1] / "adapters"))
sys.path.insert(0, str(Path(__file__).parents[1] / "serving" / "api"))
sys.path.insert(0, str(Path(__file__).parents[1] / "serving" / "images"))

from api_fakes import FakeBackend
from forest_cases import BASE, make_headless
from slow_tuner import SlowTuner

from silva.adapters.forest import Forest
from silva.adapters.probe_file import Probed
from silva.data.sent_texts import SentTexts
from silva.serving.api.app import create_app
from silva.serving.api.schemas.forest import MAX_EXAMPLES
from silva.serving.api.text import TextModel
from silva.serving.backend import ModelCard
from silva.serving.live_forest import LiveForest
from silva.serving.newcomers import Newcomers
from silva.serving.tunings import Tunings

URL = "http://127.0.0.1:8000"


@dataclass
class NearProber:
    """Says that everybody is like cluster-1, and remembers what it was sent."""

    seen: list[SentTexts] = field(default_factory=list)

    def rows(self, forest: Forest, examples: SentTexts) -> int:
        self.seen.append(examples)
        return 7

    def probe(self, forest: Forest, client: str, examples: SentTexts) -> Probed:
        self.seen.append(examples)
        return Probed(forest.signature("cluster-1"), 7)


@pytest.fixture
def prober() -> NearProber:
    return NearProber()


@pytest.fixture
def served(
    tmp_path: Path, prober: NearProber, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LiveForest]:
    """The forest of a server of texts at URL, as far as `httpx.request` can tell."""
    live = LiveForest(make_headless(tmp_path / "served"), ModelCard("m", 0, 64), BASE.digest)
    backend = FakeBackend()
    joining = Newcomers(live, prober, Tunings(live, SlowTuner(), lambda: False, backend.offer))
    text = cast(TextModel, SimpleNamespace(chat_template=None))
    app = create_app(backend, text, forest=live, newcomers=joining)
    with TestClient(app, base_url=URL, client=("127.0.0.1", 50000)) as client:

        def request(method: str, url: str, *, timeout: float, **rest: Any) -> object:
            return client.request(method, url, **rest)

        monkeypatch.setattr(httpx, "request", request)
        yield live


def texts(folder: Path, **named: str) -> Path:
    for name, text in named.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".txt").write_text(text, encoding="utf-8")
    return folder


def test_a_folder_of_texts_is_sent_in_the_order_of_its_names(
    served: LiveForest, prober: NearProber, tmp_path: Path
) -> None:
    data = texts(tmp_path / "new", b="zwei", a="eins, ä", c="")
    printed = done("forest", "join", "--client", "new-1", "--data", data, "--url", URL)
    assert "new-1: cluster-1, version 2" in printed and "ask for m@new-1" in printed
    assert prober.seen == [SentTexts(("eins, ä", "zwei", ""))]
    assert Forest.load(served.folder).client("new-1").images == 7
    parts = texts(tmp_path / "parts", train__a="eins", test__a="zwei")
    printed = done("forest", "leaf", "--client", "new-1", "--data", parts, "--url", URL)
    assert "leaf of new-1:" in printed and prober.seen[-1] == SentTexts(("eins",))


def test_what_cannot_be_sent_is_one_line(served: LiveForest, tmp_path: Path) -> None:
    join = ["forest", "join", "--client", "new-1", "--url", URL, "--data"]

    def said(*words: object) -> str:
        return refused(served.folder, *join, *words)

    two = texts(tmp_path / "two", ann__a="eins", bob__a="zwei")
    assert "texts in 2 folders" in said(two)
    one = texts(tmp_path / "one", a="eins")
    assert "sent whole" in said(one, "--split", "0.2")
    assert "no such file" in said(tmp_path / "nowhere")
    (tmp_path / "none").mkdir()
    assert "no texts" in said(tmp_path / "none")
    many = texts(tmp_path / "many", **{f"t{n}": "x" for n in range(MAX_EXAMPLES + 1)})
    assert f"a server takes {MAX_EXAMPLES}" in said(many)


def test_a_server_without_newcomers_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"version": 1, "clusters": 2, "clients": 4, "parent": None}
    monkeypatch.setattr(httpx, "request", lambda *words, **more: httpx.Response(200, json=told))
    data = texts(tmp_path / "one", a="eins")
    message = refused(tmp_path, "forest", "join", "--client", "new-1", "--data", data, "--url", URL)
    assert "takes no examples" in message
