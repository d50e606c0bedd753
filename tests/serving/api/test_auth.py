"""API keys: who may ask for what, whose cache is shared, and who administers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from api_fakes import CLIENT, MODEL, FakeBackend, FakeText
from api_transport import Api

from silva.errors import ConfigError
from silva.serving.api.app import create_app
from silva.serving.api.keys import ApiKey, KeyRing, parse_key, read_keys

ALICE, BOB, ADMIN = "alice-secret", "bob-secret-1", "admin-secret"


@pytest.fixture
def keys() -> KeyRing:
    bob = parse_key(f"bob={BOB}")
    return KeyRing([parse_key(f"alice={ALICE}"), ApiKey("bob", bob.digest, CLIENT)])


@pytest.fixture
def api(backend: FakeBackend, text: FakeText, keys: KeyRing) -> Api:
    return Api(create_app(backend, text, keys=keys))


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def ask(api: Api, secret: str, model: str = MODEL) -> int:
    body = {"model": model, "prompt": "x"}
    return api.post("/v1/completions", json=body, headers=bearer(secret)).status_code


@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong-secret"), bearer(""), {"authorization": f"Basic {ALICE}"}]
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
def test_without_the_key_nothing_is_read(api: Api, headers: dict[str, str], path: str) -> None:
    answer = api.post(path, content=b"not even json", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"


def test_models_need_a_key_and_probes_do_not(api: Api) -> None:
    assert api.get("/v1/models").status_code == 401
    for path in ("/health", "/ready", "/metrics"):
        assert api.get(path).status_code == 200


def test_the_namespace_is_the_name_of_the_key(api: Api, backend: FakeBackend) -> None:
    assert ask(api, ALICE) == 200
    assert ask(api, BOB, CLIENT) == 200
    assert [r.namespace for r in backend.requests] == ["alice", "bob"]


def test_a_bound_key_opens_one_model_only(api: Api) -> None:
    assert ask(api, BOB, MODEL) == 404
    listed = api.get("/v1/models", headers=bearer(BOB)).json()["data"]
    assert [m["id"] for m in listed] == [CLIENT]
    assert api.get(f"/v1/models/{MODEL}", headers=bearer(BOB)).status_code == 404
    assert api.get(f"/v1/models/{CLIENT}", headers=bearer(BOB)).status_code == 200
    body = {"model": MODEL, "prompt": "x"}
    assert api.post("/tokenize", json=body, headers=bearer(BOB)).status_code == 404
    assert api.post("/tokenize", json={"prompt": "x"}, headers=bearer(BOB)).status_code == 200


def test_without_keys_everybody_may_ask(backend: FakeBackend, text: FakeText) -> None:
    assert ask(Api(create_app(backend, text)), "whatever") == 200
    assert backend.requests[0].namespace == ""


def test_admin_by_key(backend: FakeBackend, text: FakeText, keys: KeyRing) -> None:
    admin = KeyRing([parse_key(f"admin={ADMIN}")])
    api = Api(create_app(backend, text, keys=keys, admin_keys=admin), client=("10.0.0.9", 1))
    assert api.get("/admin/v1/status").status_code == 401
    assert api.get("/admin/v1/status", headers=bearer(ALICE)).status_code == 401
    assert api.get("/admin/v1/status", headers=bearer(ADMIN)).status_code == 200
    assert ask(api, ADMIN) == 401


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("127.0.0.1", {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"}, 200),
        ("::1", {"host": "[::1]:8000"}, 200),
        ("10.0.0.9", {}, 403),
        ("not an address", {}, 403),
        ("127.0.0.1", {"x-forwarded-for": "10.0.0.9"}, 403),
        ("127.0.0.1", {"host": "evil.example"}, 403),
        ("127.0.0.1", {"host": "[broken"}, 403),
        ("127.0.0.1", {"origin": "https://evil.example"}, 403),
        ("127.0.0.1", {"origin": "null"}, 403),
        ("127.0.0.1", {"origin": "http://[broken"}, 403),
    ],
)
def test_admin_without_a_key_is_for_this_machine(
    backend: FakeBackend, text: FakeText, address: str, headers: dict[str, str], status: int
) -> None:
    api = Api(create_app(backend, text), client=(address, 1))
    assert api.get("/admin/v1/status", headers=headers).status_code == status


def test_a_form_of_a_web_page_changes_nothing(backend: FakeBackend, text: FakeText) -> None:
    api = Api(create_app(backend, text))
    answer = api.post(
        "/admin/v1/drain", content=b'{"peer": "prefill-1"}', headers={"content-type": "text/plain"}
    )
    assert answer.status_code == 415
    assert backend.verbs == []


def test_a_file_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    digest = hashlib.sha256(BOB.encode()).hexdigest()
    path.write_text(f'[alice]\nkey = "{ALICE}"\n[bob]\nsha256 = "{digest}"\nmodel = "{CLIENT}"\n')
    with path.open("a") as file:
        file.write('cache = "512MiB"\n')
    ring = KeyRing(read_keys(path))
    alice, bob = ring.find(ALICE), ring.find(BOB)
    assert alice is not None and (alice.name, alice.model) == ("alice", "")
    assert bob is not None and (bob.name, bob.model) == ("bob", CLIENT)
    assert (alice.cache_bytes, bob.cache_bytes) == (None, 512 << 20)
    assert ring.find("") is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "alice = 3",
        '[alice]\nkey = "short"',
        '[alice]\nkey = "with a space"',
        "[alice]\nkey = 12345678",
        '[alice]\nkey = "long-enough"\nmodle = "x"',
        "[alice]",
        '[alice]\nkey = "long-enough"\ncache = "much"',
        '[alice]\nkey = "long-enough"\ncache = 512',
        '[alice]\nkey = "long-enough"\nsha256 = "00"',
        '[alice]\nsha256 = "00"',
        '["../alice"]\nkey = "long-enough"',
    ],
)
def test_a_wrong_file_of_keys(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_keys(path)
    assert "keys.toml" in str(caught.value)
    assert "long-enough" not in str(caught.value)


def test_keys_that_are_not_told_apart(keys: KeyRing) -> None:
    with pytest.raises(ConfigError, match="same name"):
        KeyRing([parse_key("a=secret-one"), parse_key("a=secret-two")])
    with pytest.raises(ConfigError, match="same secret"):
        KeyRing([parse_key("a=secret-one"), parse_key("b=secret-one")])
    with pytest.raises(ConfigError, match="NAME=SECRET"):
        parse_key("secret-one")
