"""`silva status`, `scale`, `drain`, `switch`, `stop` against the real API over a made-up backend."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from calls import done, refused, silva
from fastapi.testclient import TestClient

from silva.control.admission import Admission
from silva.control.request import Output, Request
from silva.control.slo import Trade
from silva.serving.api.app import create_app
from silva.serving.api.keys import KeyRing, parse_key
from silva.serving.api.text import TextModel
from silva.serving.backend import (
    CacheStatus,
    ChangeRefusedError,
    ModelCard,
    PeerStatus,
    PoolStatus,
    Status,
    UnavailableError,
    UnknownPeerError,
)

URL = "http://127.0.0.1:8000"
ADMISSION = Admission(
    0.03,
    17,
    0.0284,
    1200.0,
    (
        Trade(0.0, 64, 0.09, 711.0, 0),
        Trade(0.03, 17, 0.0295, 576.0, 8),
        Trade(0.015, 0, 0.016, 0.0, 0),
    ),
)


class Peers:
    """A Backend that has two peers and remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.retries = 8

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        raise UnavailableError("this one does not answer")
        yield  # what makes it a generator

    def complete(self, request: str) -> None:
        pass

    def models(self) -> Sequence[ModelCard]:
        return ()

    def model(self, name: str) -> ModelCard | None:
        return None

    def offer(self, cards: Sequence[ModelCard]) -> None:
        pass

    def ready(self) -> bool:
        return True

    def status(self) -> Status:
        return Status(
            peers=(
                PeerStatus("cache-1", "cache", 4712, "dead"),
                PeerStatus("decode-1", "decode", 4711, "ready", 3, 2, 90, 100, admission=ADMISSION),
            ),
            pools={"cache": PoolStatus(1, 0), "decode": PoolStatus(1, 1, admission=ADMISSION)},
            cache=CacheStatus(objects=5, ram_bytes=7 << 20, disk_bytes=9 << 20, hits=3, misses=1),
            counters={"retries": self.retries},
        )

    async def scale(self, roles: Mapping[str, int]) -> None:
        if not set(roles) <= {"prefill", "decode", "cache"}:
            raise UnknownPeerError("no such role")
        if not 1 <= roles.get("decode", 1) <= 64:
            raise ChangeRefusedError(f"{roles['decode']} decode peers", remedy="1 to 64")
        self.told.append(("scale", dict(roles)))

    async def drain(self, peer: str) -> None:
        if peer != "decode-1":
            raise UnknownPeerError(f"no peer {peer!r}")
        self.told.append(("drain", peer))

    async def switch(self, peer: str, role: str) -> None:
        if (peer, role) == ("decode-1", "decode"):
            raise ChangeRefusedError(f"{peer} is a {role} peer already", remedy="name another role")
        self.told.append(("switch", peer, role))

    async def close(self, grace_s: float) -> None:
        pass


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peers]:
    """A server at URL as far as `httpx.request` can tell."""
    peers = Peers()
    with _client(peers) as client:
        monkeypatch.setattr(httpx, "request", _to(client))
        yield peers


def _client(peers: Peers, admin_keys: KeyRing | None = None) -> TestClient:
    app = create_app(
        peers, cast(TextModel, SimpleNamespace(chat_template=None)), admin_keys=admin_keys
    )
    return TestClient(app, base_url=URL, client=("127.0.0.1", 50000))


def _to(client: TestClient) -> Callable[..., object]:
    def request(method: str, url: str, *, timeout: float, **rest: Any) -> object:
        assert 0 < timeout < 60
        return client.request(method, url, **rest)

    return request


def test_status_as_a_table_and_as_json(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    printed = done("status")
    [row] = [line for line in printed.splitlines() if "decode-1" in line]
    for part in ("decode", "4711", "ready", "3", "2", "90 of 100"):
        assert part in row
    for part in ("2 of 17", "28.4"):
        assert part in row
    lines = printed.splitlines()
    [title] = [n for n, line in enumerate(lines) if "what a target" in line]
    assert "decode" in lines[title]
    rows = [line.split("│")[1:-1] for line in lines[title:] if "│" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["none", "64", "90.0", "711"],
        ["30 (set)", "17", "29.5", "576"],
        ["15", "cannot be held", "16.0", ""],
    ]
    assert "at 1,200 tokens of context" in printed
    assert "dead" in printed
    assert "5 blocks, 7 MiB in RAM, 9 MiB on disk, 3 of 4 lookups hit" in printed
    assert "retries 8" in printed
    status = json.loads(done("status", "--json"))
    assert [peer["name"] for peer in status["peers"]] == ["cache-1", "decode-1"]
    assert status["peers"][1]["admission"] == status["pools"]["decode"]["admission"]
    assert status["peers"][1]["admission"]["batch"] == 17
    assert status["peers"][0]["admission"] is None
    assert status["counters"] == {"retries": 8}


def test_watching_shows_every_change_until_ctrl_c(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "120"}.items():
        monkeypatch.setenv(name, value)  # a terminal: elsewhere the last page alone is printed
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt
        peers.retries += 1

    monkeypatch.setattr(time, "sleep", wait)
    result = silva("status", "--watch")
    assert result.exit_code == 130
    pages = [int(number) for number in re.findall(r"retries (\d+)", result.stdout)]
    assert list(dict.fromkeys(pages)) == [8, 9, 10]
    assert result.stdout.count("decode-1") == len(pages)
    assert waits == [1.0, 1.0, 1.0]
    assert "interrupted" in result.stderr and result.stderr.count("\n") == 2


def test_watching_ends_with_the_server(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> object:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(time, "sleep", lambda _: monkeypatch.setattr(httpx, "request", gone))
    result = silva("status", "--watch")
    assert result.exit_code == 2
    assert "decode-1" in result.stdout
    assert "no answer of a silva server (refused)" in result.stderr


def test_verbs_reach_the_backend_and_show_the_status(peers: Peers) -> None:
    assert "decode-1" in done("scale", "prefill=2", "decode=1", "cache=0")
    assert "decode-1" in done("drain", "decode-1", "--url", f"{URL}/")
    assert "decode-1" in done("switch", "decode-1", "prefill")
    assert peers.told == [
        ("scale", {"prefill": 2, "decode": 1, "cache": 0}),
        ("drain", "decode-1"),
        ("switch", "decode-1", "prefill"),
    ]


def test_stop_is_the_signal_that_ends_a_server(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: sent.append(number))
    assert done("stop") == "silva: the server finishes what it runs and stops\n"
    assert sent == [signal.SIGTERM]


def test_what_the_server_refuses_is_said_in_its_words(peers: Peers, tmp_path: Path) -> None:
    assert "no peer 'decode-9'" in refused(tmp_path, "drain", "decode-9")
    assert "0 decode peers; 1 to 64" in refused(tmp_path, "scale", "decode=0")
    assert peers.told == []


NO_NUMBERS = ["decode", "decode=", "decode=many", "decode=-1", "decode=²", f"decode={'9' * 5000}"]


@pytest.mark.parametrize("role", NO_NUMBERS)
def test_a_role_without_a_number_is_not_sent(peers: Peers, tmp_path: Path, role: str) -> None:
    assert "is no role and number; write decode=2" in refused(tmp_path, "scale", role)
    assert "names a role again" in refused(tmp_path, "scale", "decode=1", "decode=2")
    assert peers.told == []


@pytest.mark.parametrize("roles", [["decode=65"], ["decode=1025"], ["both=1"], ["x" * 65 + "=1"]])
def test_what_cannot_be_scaled_is_refused_by_the_server(
    peers: Peers, tmp_path: Path, roles: list[str]
) -> None:
    line = refused(tmp_path, "scale", *roles)
    assert line.startswith(f"silva: error: {URL}: ")
    assert peers.told == []


def test_a_change_that_is_refused_says_what_to_do(peers: Peers, tmp_path: Path) -> None:
    line = refused(tmp_path, "switch", "decode-1", "decode")
    assert "decode-1 is a decode peer already; name another role" in line
    assert peers.told == []


def test_an_admin_key_is_asked_for_and_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ring = KeyRing([parse_key("root=secret-of-root")])
    with _client(Peers(), ring) as client:
        monkeypatch.setattr(httpx, "request", _to(client))
        assert "missing or wrong admin key" in refused(tmp_path, "status")
        assert "decode-1" in done("status", "--admin-key", "secret-of-root")


@pytest.mark.parametrize("words", [["status"], ["scale", "decode=1"], ["drain", "x"], ["stop"]])
def test_no_server_is_one_line(tmp_path: Path, words: list[str]) -> None:
    with socket.socket() as free:  # bound and not listening: nobody answers, nobody else takes it
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        line = refused(tmp_path, *words, "--url", url)
    assert line.startswith(f"silva: error: {url}: no answer of a silva server (")
    assert line.endswith("; start one with `silva serve`, or name it with --url\n")


@pytest.mark.parametrize("url", ["not a url", "ftp://127.0.0.1", "http://[::1"])
def test_an_address_that_is_none_is_one_line(tmp_path: Path, url: str) -> None:
    assert "no answer of a silva server" in refused(tmp_path, "status", "--url", url)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(200, text="<html>"), "no answer of a silva server"),
        (httpx.Response(502, json={"error": {"message": "bad gateway"}}), "bad gateway"),
        (httpx.Response(500, json=[]), "the server answered 500"),
        (httpx.Response(404, json={"detail": "Not Found"}), "the server answered 404"),
        (httpx.Response(200, json={}), "the answer has status version None"),
        (httpx.Response(200, json=[1]), "the answer has status version None"),
        (httpx.Response(200, json={"version": 2}), "the answer has status version 2, this"),
    ],
)
def test_another_server_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: httpx.Response, said: str
) -> None:
    monkeypatch.setattr(httpx, "request", lambda *_, **__: answer)
    assert said in refused(tmp_path, "status")
