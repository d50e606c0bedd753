"""`/admin/v1/forest`: versions and clients change what can be asked; a refusal changes nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from api_fakes import CONTEXT, FakeBackend, FakeText
from api_transport import Api

sys.path.insert(0, str(Path(__file__).parents[2] / "adapters"))
from forest_cases import BASE, files_of, make_headless

from silva.adapters.change import Change, NewClient
from silva.adapters.forest import Forest
from silva.adapters.probe_file import Probed, encode_probed
from silva.serving.api import listing
from silva.serving.api.app import create_app
from silva.serving.api.keys import KeyRing, parse_key
from silva.serving.backend import ModelCard
from silva.serving.live_forest import LiveForest

CARD = ModelCard("m", 0, CONTEXT)
URL = "/admin/v1/forest"
BYTES = {"content-type": "application/octet-stream"}


@pytest.fixture
def live(tmp_path: Path) -> LiveForest:
    return LiveForest(make_headless(tmp_path / "forest"), CARD, BASE.digest)


@pytest.fixture
def api(live: LiveForest, text: FakeText) -> Api:
    backend = FakeBackend()
    backend.offer(live.cards)
    return Api(create_app(backend, text, forest=live))


def names(api: Api) -> set[str]:
    return {each["id"] for each in api.get("/v1/models").json()["data"]}


def asked(api: Api, model: str) -> int:
    status: int = api.post("/v1/completions", json={"model": model, "prompt": "x"}).status_code
    return status


def probe_of(live: LiveForest, cluster: str) -> bytes:
    forest = Forest.load(live.folder)
    return encode_probed(Probed(forest.signature(cluster), 20), forest.manifest)


def joined(api: Api, client: str, content: bytes, **headers: str) -> Any:
    return api.post(f"{URL}/clients?client={client}", content=content, headers={**BYTES, **headers})


def test_what_is_answered_for(api: Api) -> None:
    assert api.get(URL).json() == {"version": 1, "parent": None, "clusters": 2, "clients": 4}
    assert {"m", "m@root", "m@cluster-1", "m@c-00", "m@u-00"} <= names(api)


def test_the_version_whole(api: Api) -> None:
    tree = api.get(f"{URL}/tree").json()
    assert (tree["version"], tree["parent"], tree["figure"]) == (1, None, "perplexity")
    homes = {each["name"]: [one["name"] for one in each["clients"]] for each in tree["clusters"]}
    assert homes == {"cluster-0": ["c-00", "c-02"], "cluster-1": ["c-01", "u-00"]}
    guest = tree["clusters"][1]["clients"][1]
    assert guest == {
        "name": "u-00",
        "leaf": False,
        "seen": False,
        "images": 0,
        "style": "noisy",
        "accuracy": {},
        "perplexity": {},
    }
    assert api.request("DELETE", f"{URL}/clients/u-00").status_code == 200
    tree = api.get(f"{URL}/tree").json()
    assert [one["name"] for one in tree["clusters"][1]["clients"]] == ["c-01"]
    assert f"{URL}/tree" in api.get("/openapi.json").json()["paths"]


def test_a_client_joins_by_its_probe_and_can_be_asked_at_once(api: Api, live: LiveForest) -> None:
    assert asked(api, "m@new") == 404
    answer = joined(api, "new", probe_of(live, "cluster-1"))
    assert answer.status_code == 200
    told = answer.json()
    assert (told["model"], told["cluster"], told["version"]) == ("m@new", "cluster-1", 2)
    assert told["similarities"]["cluster-1"] == pytest.approx(1.0)
    assert asked(api, "m@new") == 200
    card = api.get("/v1/models/m@new").json()
    assert card["parent"] == "m@cluster-1"
    assert card["path"] == api.get("/v1/models/m@cluster-1").json()["path"]


def test_versions_go_back_and_forth_and_follow_the_disk(api: Api, live: LiveForest) -> None:
    joined(api, "new", probe_of(live, "cluster-0"))
    assert api.post(URL, json={"version": 1}).json()["version"] == 1
    assert asked(api, "m@new") == 404
    assert api.post(URL, json={"version": 2}).json()["clients"] == 5
    assert asked(api, "m@new") == 200
    Forest.load(live.folder).commit(Change(clients={"later": NewClient(cluster="cluster-0")}))
    assert asked(api, "m@later") == 404
    assert api.post(URL, json={}).json()["version"] == 3
    assert asked(api, "m@later") == 200


def test_a_client_is_erased(api: Api, live: LiveForest) -> None:
    leaf = Forest.load(live.folder).client("c-01").leaf
    assert leaf is not None and asked(api, "m@c-01") == 200
    answer = api.request("DELETE", f"{URL}/clients/c-01")
    assert answer.status_code == 200 and answer.json()["clients"] == 3
    assert asked(api, "m@c-01") == 404 and not (live.folder / "objects" / leaf).exists()
    assert api.request("DELETE", f"{URL}/clients/c-01").status_code == 404


def test_what_is_refused_changes_nothing(api: Api, live: LiveForest) -> None:
    before, known = files_of(live.folder), names(api)
    probe = probe_of(live, "cluster-0")
    for client, content, status, said in (
        ("c-00", probe, 409, "there already"),
        ("..%2Fx", probe, 409, "not allowed"),
        ("", probe, 409, "not allowed"),
        ("x" * 300, probe, 409, "not allowed"),
        ("new", b"no probe", 409, "not a safetensors file"),
        ("new", probe[:-1], 409, "not a safetensors file"),
    ):
        answer = joined(api, client, content)
        assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True)
    assert joined(api, "new", probe, **{"content-type": "text/plain"}).status_code == 415
    assert api.post(URL, json={"version": 9}).status_code == 409
    assert api.post(URL, json={"version": 0}).status_code == 400
    assert api.request("DELETE", f"{URL}/clients/nobody").status_code == 404
    assert files_of(live.folder) == before and names(api) == known


def test_a_probe_that_is_too_large_is_refused(live: LiveForest, text: FakeText) -> None:
    from silva.serving.api.settings import ApiSettings

    small = Api(create_app(FakeBackend(), text, ApiSettings(max_body_bytes=1024), forest=live))
    assert joined(small, "new", b"x" * 1025).status_code == 413


def test_admin_keys_guard_every_verb(live: LiveForest, text: FakeText) -> None:
    keys = KeyRing([parse_key("boss=secret-of-boss", "test")])
    api = Api(create_app(FakeBackend(), text, forest=live, admin_keys=keys))
    probe = probe_of(live, "cluster-0")
    assert api.get(URL).status_code == 401 == api.get(f"{URL}/tree").status_code
    assert api.post(URL, json={}).status_code == 401
    assert joined(api, "new", probe).status_code == 401
    assert api.request("DELETE", f"{URL}/clients/c-01").status_code == 401
    right = {"authorization": "Bearer secret-of-boss"}
    assert api.get(URL, headers=right).status_code == 200
    assert joined(api, "new", probe, **right).status_code == 200


def test_without_a_forest_there_is_nothing_to_change(text: FakeText) -> None:
    assert Api(create_app(FakeBackend(), text)).get(URL).status_code == 404


def test_the_list_of_models_is_encoded_once_a_version(
    api: Api, live: LiveForest, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []

    def shown(card: ModelCard) -> dict[str, Any]:
        encoded.append(card.id)
        return {"id": card.id}

    monkeypatch.setattr(listing, "shown", shown)
    first, again = (api.get("/v1/models") for _ in range(2))
    assert first.content == again.content and len(encoded) == len(live.cards)
    assert first.headers["content-type"] == "application/json"
    assert joined(api, "new", probe_of(live, "cluster-1")).status_code == 200
    assert "m@new" in names(api)
    assert api.request("DELETE", f"{URL}/clients/new").status_code == 200
    assert "m@new" not in names(api)
