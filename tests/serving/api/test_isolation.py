"""A key that is bound to one client opens nothing else, whatever is asked with it."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
from api_fakes import CONTEXT, FakeBackend, FakeText
from api_transport import Api
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "adapters"))
from forest_cases import BASE, make_headless

from silva.control.prefix import CacheIdentity
from silva.serving.api.app import create_app
from silva.serving.api.keys import ApiKey, KeyRing
from silva.serving.backend import ModelCard
from silva.serving.live_forest import LiveForest

CLIENTS = ("c-00", "c-01", "c-02", "u-00")
OTHERS = ("m", "m@root", "m@cluster-0", "m@cluster-1", *(f"m@{client}" for client in CLIENTS))
TRICKS = (
    *("m@c-00/", "m@c-00 ", " m@c-00", "M@C-00", "m@c-00\x00", "m@../c-01", "m@c-00/../c-01"),
    *("m@", "@c-00", "c-00", "m@c-00@c-01", "m%40c-01", "m@c-0\u0660", "..", "/", "m@base"),
)
NAMES = st.one_of(st.sampled_from(OTHERS), st.sampled_from(TRICKS), st.text(max_size=24))
IDENTITY = CacheIdentity("model", "float32", 4)


class World:
    """A forest that is served, a key for every client, and one that opens everything."""

    def __init__(self, folder: Path) -> None:
        live = LiveForest(make_headless(folder), ModelCard("m", 0, CONTEXT), BASE.digest)
        self.backend = FakeBackend(answer="ok")
        self.backend.offer(live.cards)
        self.paths = {card.id: card.path for card in live.cards}
        bound = [ApiKey(f"of-{c}", secret(c), model=f"m@{c}") for c in CLIENTS]
        keys = KeyRing([*bound, ApiKey("all", secret("all"))])
        self.api = Api(create_app(self.backend, FakeText(), keys=keys, forest=live))

    def ask(self, who: str, path: str, **how: Any) -> Any:
        headers = {"authorization": f"Bearer secret-of-{who}"}
        if how:
            return self.api.post(path, json=how, headers=headers)
        return self.api.get(path, headers=headers)


def secret(who: str) -> str:
    return hashlib.sha256(f"secret-of-{who}".encode()).hexdigest()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("isolation") / "forest")


@given(who=st.sampled_from(CLIENTS), name=NAMES, tokens=st.lists(st.integers(0, 255), min_size=1))
@settings(max_examples=1000, suppress_health_check=list(HealthCheck), deadline=None)
def test_a_bound_key_reaches_its_own_path_and_namespace_or_nothing(
    world: World, who: str, name: str, tokens: list[int]
) -> None:
    asked = len(world.backend.requests)
    answer = world.ask(who, "/v1/completions", model=name, prompt=tokens, max_tokens=1)
    mine = f"m@{who}"
    if name != mine:
        assert answer.status_code in (400, 404) and len(world.backend.requests) == asked
        assert not any(
            other in answer.text for other in OTHERS if other != "m" and other not in name
        )
        return
    assert answer.status_code == 200
    request = world.backend.requests[-1]
    assert (request.path, request.namespace) == (world.paths[mine], f"of-{who}")
    own = set(IDENTITY.keys(request))
    for other in CLIENTS:
        if other != who:
            theirs = IDENTITY.root(world.paths[f"m@{other}"], f"of-{other}")
            assert theirs != IDENTITY.root(request.path, request.namespace) and theirs not in own


@pytest.mark.parametrize("who", CLIENTS)
def test_a_bound_key_sees_its_own_name_alone(world: World, who: str) -> None:
    listed = world.ask(who, "/v1/models").json()["data"]
    assert [each["id"] for each in listed] == [f"m@{who}"]
    for other in OTHERS:
        status = world.ask(who, f"/v1/models/{other}").status_code
        assert status == (200 if other == f"m@{who}" else 404)


def test_a_key_that_is_not_bound_opens_everything(world: World) -> None:
    listed = world.ask("all", "/v1/models").json()["data"]
    assert {each["id"] for each in listed} == set(OTHERS)
    for name in OTHERS:
        answer = world.ask("all", "/v1/completions", model=name, prompt="x", max_tokens=1)
        assert answer.status_code == 200
        assert world.backend.requests[-1].path == world.paths[name]
