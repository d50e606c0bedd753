"""A request can be followed through the log of the front and of every peer by its ids."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
from serving_world import save_model

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "x-request-id": "order-17"}
BODY = {"model": "tiny", "prompt": list(range(40)), "max_tokens": 8, "ignore_eos": True}


def test_its_ids_stand_in_the_log_of_the_front_and_of_every_peer(tmp_path: Path) -> None:
    model, log = save_model(tmp_path / "model"), tmp_path / "log.txt"
    program = "from silva.cli.main import run; run()"
    words = ["serve", str(model), "-v", "--port", "0", "--name", "tiny", "--kv", "4MiB"]
    words += ["--cache-ram", "1MiB", "--cache-disk", "0", "--set", "serve.threads=1"]
    with log.open("w") as written:
        server = subprocess.Popen(
            [sys.executable, "-c", program, *words],
            stdout=subprocess.PIPE,
            stderr=written,
            text=True,
            env=os.environ | {"SILVA_CACHE": str(tmp_path / "cache")},
        )
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        answer = httpx.post(f"{url}/completions", json=BODY, headers=HEADERS, timeout=120)
        assert answer.status_code == 200
        assert answer.headers["x-request-id"] == "order-17"
        refused = httpx.post(f"{url}/chat/completions", json=BODY, headers=HEADERS, timeout=120)
        assert refused.status_code == 400
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
    written_lines = log.read_text().splitlines()
    lines = [line for line in written_lines if TRACE in line and "order-17" in line]
    for peer, news in (
        ("front", "POST /v1/completions 200"),
        ("front", "POST /v1/chat/completions 400"),
        ("prefill-1", "taken, attempt 0, 40 tokens"),
        ("cache-1", "0 of 2 blocks are here"),
        ("prefill-1", "prefilled"),
        ("decode-1", "joined"),
        ("decode-1", "ended, length"),
    ):
        assert any(peer in line and news in line for line in lines), (peer, news)
    assert any("front [- -]" in line and "stopping" in line for line in written_lines)
