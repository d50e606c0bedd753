"""`/` and `/console/...`: the package's own files, nothing else, with headers that keep out others."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from api_fakes import FakeBackend, FakeText
from api_transport import Api
from fastapi.testclient import TestClient
from forest_cases import BASE, make_headless
from PIL import Image

from silva.errors import ServingError
from silva.serving.api.app import create_app
from silva.serving.api.keys import KeyRing, parse_key
from silva.serving.backend import ModelCard
from silva.serving.console import routes
from silva.serving.console.files import FOLDER, page_files
from silva.serving.console.samples import Sample, sample_pictures
from silva.serving.live_forest import LiveForest

FILES = sorted(path.name for path in FOLDER.iterdir())


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(create_app(FakeBackend(), FakeText()))


@pytest.mark.parametrize("path", ["/", *(f"/console/{name}" for name in FILES)])
def test_every_file_is_sent_with_strict_headers(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200 and answer.content
    policy = dict(
        each.strip().split(" ", 1) for each in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'self'" and policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in str(policy) and "script-src" not in policy and "style-src" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    kind = kinds.get(Path(path).suffix, "text/html")
    assert answer.headers["content-type"].startswith(kind)


def test_a_browser_that_has_a_file_is_told_so(client: TestClient) -> None:
    first = client.get("/console/main.js")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/console/main.js", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304 and not again.content
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
    other = client.get("/console/main.js", headers={"if-none-match": '"another"'})
    assert other.status_code == 200
    assert client.get("/").headers["etag"] != first.headers["etag"]


@pytest.mark.parametrize(
    "path",
    [
        "/console/nothing.js",
        "/console/%2e%2e%2froutes.py",
        "/console/..%2f..%2fapp.py",
        "/console/routes.py",
        "/console//etc/passwd",
        "/console/%2fetc%2fpasswd",
        "/console/main.js%00",
        "/console/",
        "/console/sample/0",
        "/console/sample/-1",
        "/console/sample/x",
        "/console/sample/%2e%2e",
    ],
)
def test_nothing_else_is_sent(path: str) -> None:
    answer = Api(create_app(FakeBackend(), FakeText())).get(path)
    assert answer.status_code == 404 and answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "number", ["00", "1", "0" * 9 + "9", "0" * 5000, "9" * 5000, "+0", "0.0", "\u0660"]
)
def test_a_picture_is_sent_by_its_own_number_alone(
    number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "sample_pictures", lambda labels: (Sample("boot", b"png"),))
    api = Api(create_app(FakeBackend(), FakeText()))
    assert api.get("/console/sample/0").content == b"png"
    assert api.get(f"/console/sample/{number}").status_code == 404


def test_the_page_asks_for_nothing_outside_and_has_no_script_in_its_text() -> None:
    names = set(FILES)
    for name, file in page_files().items():
        text = file.content.decode()
        outside = set(re.findall(r"https?://[^\"'\s]+", text))
        assert outside <= {"http://www.w3.org/2000/svg"}, name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        for wanted in re.findall(r'from "\./([^"]+)"', text):
            assert wanted in names, f"{name} imports {wanted}"
    index = page_files()["index.html"].content.decode()
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", index)


def test_what_the_page_is_told_holds_no_secret(tmp_path: Path) -> None:
    plain = Api(create_app(FakeBackend(), FakeText(""))).get("/console/about").json()
    assert (plain["kind"], plain["chat"], plain["base"]) == ("text", False, "tiny")
    assert (plain["forest"], plain["api_keys"], plain["admin_keys"]) == (False, False, False)
    assert plain["samples"] == []
    forest = make_headless(tmp_path / "forest")
    guarded = create_app(
        FakeBackend(),
        FakeText(),
        keys=KeyRing([parse_key("alice=secret-of-alice", "test")]),
        admin_keys=KeyRing([parse_key("boss=secret-of-boss", "test")]),
        forest=LiveForest(forest, ModelCard("m", 0, 9), BASE.digest),
    )
    answer = Api(guarded).get("/console/about")
    found: dict[str, Any] = json.loads(answer.text)
    assert found["forest"] and found["api_keys"] and found["admin_keys"] and found["chat"]
    for secret in ("secret", "alice", "boss", str(tmp_path)):
        assert secret not in answer.text


def test_samples_are_for_forests_of_the_embedded_classes_alone() -> None:
    assert sample_pictures(()) == () == sample_pictures(("ant", "bee"))
    found = sample_pictures(("Bag", "Coat"))
    assert len({sample.label for sample in found}) == len(found) == 10
    for sample in found:
        assert Image.open(io.BytesIO(sample.png)).size == (28, 28)


def test_files_that_are_not_installed_are_told(tmp_path: Path) -> None:
    (tmp_path / "main.js").write_text("")
    with pytest.raises(ServingError, match="reinstall silva"):
        page_files(tmp_path)
