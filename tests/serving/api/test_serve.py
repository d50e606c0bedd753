"""The server as a process: its port, its signals, and an end that loses nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from api_fakes import MODEL, FakeBackend, FakeText, spoken
from api_server import Running

from silva.errors import SilvaError
from silva.serving.api.app import create_app
from silva.serving.api.serve import listen, url_of

BODY = {"model": MODEL, "prompt": "x", "stream": True, "max_tokens": 100}


def test_a_port_in_use() -> None:
    with listen("127.0.0.1", 0) as sock, pytest.raises(SilvaError, match="in use") as caught:
        listen("127.0.0.1", sock.getsockname()[1])
    assert "--port" in str(caught.value)


@pytest.mark.parametrize(
    ("host", "port"), [("no.such.host.invalid", 1), ("203.0.113.1", 0), ("127.0.0.1", 99999)]
)
def test_an_address_that_is_not_here(host: str, port: int) -> None:
    with pytest.raises(SilvaError):
        listen(host, port)


def test_the_address_that_is_announced() -> None:
    with listen("0.0.0.0", 0) as sock:
        assert url_of(sock) == f"http://127.0.0.1:{sock.getsockname()[1]}"


def test_stopping_finishes_what_runs(start: Callable[..., Running], backend: FakeBackend) -> None:
    server = start()
    gate = server.app.state.server.gate
    backend.script = lambda _: [(72,), lambda: gate.closed, *spoken("ello")]
    with httpx.Client(base_url=server.url, timeout=10) as http:
        with http.stream("POST", "/v1/completions", json=BODY) as stream:
            lines = stream.iter_lines()
            first = next(lines)
            server.ask_to_stop()
            rest = [first, *lines]
        assert rest[-2] == "data: [DONE]"
        assert sum('"text":"' in line for line in rest) == 6
    server.stop()
    assert backend.finished == 1
    assert len(backend.closed) == 1
    assert 0 < backend.closed[0] <= 5


def test_nothing_new_while_stopping(start: Callable[..., Running], backend: FakeBackend) -> None:
    seen = threading.Event()
    backend.script = lambda _: [(72,), seen.is_set, *spoken("ello")]
    server = start()
    with (
        httpx.Client(base_url=server.url, timeout=10) as http,
        http.stream("POST", "/v1/completions", json=BODY) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        server.ask_to_stop()
        while http.get("/ready").status_code == 200:
            pass
        assert http.post("/v1/completions", json=BODY).status_code == 503
        assert http.get("/health").status_code == 200
        seen.set()
        list(lines)


def test_what_does_not_finish_in_time_is_cancelled(backend: FakeBackend, text: FakeText) -> None:
    backend.script = lambda _: [(72,), 600.0, (73,)]
    server = Running(create_app(backend, text), backend, grace_s=0.2)
    with (
        httpx.Client(base_url=server.url, timeout=20) as http,
        http.stream("POST", "/v1/completions", json=BODY) as stream,
    ):
        lines = stream.iter_lines()  # dropped, it would close the stream
        next(lines)
        server.stop()
    assert (backend.open, backend.cancelled) == (0, 1)


PROGRAM = """
import asyncio, sys
sys.path.insert(0, {folder!r})
from api_fakes import FakeBackend, FakeText, spoken
from silva.serving.api.app import create_app
from silva.serving.api.serve import listen, serve

backend = FakeBackend(script=lambda _: [(72,), {pause}, *spoken("ello")])
app = create_app(backend, FakeText())
announce = lambda url: print(url, flush=True)
asyncio.run(serve(app, backend, listen("127.0.0.1", 0), grace_s=60, announce=announce))
print("ended", backend.finished, backend.cancelled, len(backend.closed))
"""


def run(pause: float) -> tuple[subprocess.Popen[str], str]:
    program = PROGRAM.format(folder=str(Path(__file__).parent), pause=pause)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_sigterm_finishes_what_runs() -> None:
    process, url = run(0.5)
    with httpx.stream("POST", f"{url}/v1/completions", json=BODY, timeout=20) as stream:
        lines = stream.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        assert list(lines)[-2] == "data: [DONE]"
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out.strip()) == (0, "ended 1 0 1")


def test_a_second_signal_does_not_wait() -> None:
    process, url = run(600.0)
    with httpx.stream("POST", f"{url}/v1/completions", json=BODY, timeout=60) as stream:
        lines = stream.iter_lines()  # dropped, it would close the stream
        next(lines)
        process.send_signal(signal.SIGINT)
        while httpx.get(f"{url}/ready").status_code == 200:
            pass
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out.strip()) == (0, "ended 0 1 1")
