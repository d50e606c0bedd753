from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from calls import done, refused, silva

sys.path.insert(0, str(Path(__file__).parents[1] / "serving" / "bench"))
from bench_server import FakeOpenAI, Running, Script

SMALL = ["--input", "8", "--output", "3", "--warmup", "1"]


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """serve(script=...): the fake server, stopped after the test."""
    running = []

    def make(**script: Any) -> Running:
        running.append(Running(FakeOpenAI(**script)))
        return running[-1]

    yield make
    for server in running:
        server.stop()


def bench(server: Running, *words: object) -> list[object]:
    return ["bench", "serve", "--url", server.url, *SMALL, *words]


def test_the_table_and_the_files(serve: Callable[..., Running], tmp_path: Path) -> None:
    server, out = serve(), tmp_path / "out"
    words = ["--rate", 200, "--requests", 12, "--ttft-target", "10s", "--out", out]
    printed = done(*bench(server, *words))
    for part in ("fake at http", "time to first token", "12 of 12", "100.0% with", str(out)):
        assert part in printed
    report = json.loads((out / "report.json").read_text())
    assert report["loop"] == "open" and report["config"]["targets"]["ttft_s"] == 10.0
    assert len((out / "requests.jsonl").read_text().splitlines()) == 12
    assert "holds a report already" in refused(tmp_path, *bench(server, "--out", out))


def test_a_closed_loop_with_keys_as_json(serve: Callable[..., Running], tmp_path: Path) -> None:
    server = serve(keys=("secret-a", "secret-b"))
    keys = tmp_path / "keys"
    keys.write_text("secret-b\n\n")
    words = ["--concurrency", 2, "--requests", 20, "--key", "secret-a", "--keys-file", keys]
    printed = done(*bench(server, *words, "--json"))
    report = json.loads(printed)
    assert (report["loop"], report["keys"], report["summary"]["answered"]) == ("closed", 2, 20)
    assert set(server.fake.callers[-20:]) == {"secret-a", "secret-b"}
    assert "secret" not in printed


def test_a_trace_and_a_file_of_settings(serve: Callable[..., Running], tmp_path: Path) -> None:
    trace, settings = tmp_path / "trace.csv", tmp_path / "bench.toml"
    rows = "".join(f"2024-05-10 00:00:0{n},{n + 1},{n + 2}\n" for n in range(4))
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    settings.write_text("seed = 4\n[load]\nspeed = 50.0\nwarmup = 0\n")
    words = ["bench", "serve", "--url", serve().url, "--config", settings, "--trace", trace]
    report = json.loads(done(*words, "--set", "load.requests=3", "--json"))
    assert report["config"]["load"]["arrival"] == "trace" and report["config"]["seed"] == 4
    assert (report["summary"]["sent"], report["summary"]["tokens"]["prompt"]) == (3, 6)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--rate", 1, "--concurrency", 2], "--rate has no effect on arrivals of kind 'closed'"),
        (["--arrival", "bursty", "--concurrency", 2], "--concurrency has no effect"),
        (["--cv", 3], "--cv has no effect"),
        (["--speed", 3], "--speed has no effect"),
        (["--rate", 0], "load.rate"),
        (["--arrival", "sometimes"], "load.arrival"),
        (["--arrival", "trace"], "--trace"),
        (["--input", "long"], "work.input"),
        (["--duration", "soon"], "--duration"),
        (["--ttft-target", "fast"], "--ttft-target"),
        (["--trace", "absent.jsonl"], "absent.jsonl"),
        (["--keys-file", "absent"], "absent"),
        (["--key", "é"], "key 1"),
        (["--url", "somewhere"], "no URL"),
        (["--set", "load.speed"], "no setting"),
        (["--config", "absent.toml"], "absent.toml"),
        (["--url", "http://127.0.0.1:9"], "no server answers"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, words: list[object], what: str) -> None:
    assert what in refused(tmp_path, "bench", "serve", *words, "--out", tmp_path / "out")


def test_a_server_that_refuses_is_one_line(serve: Callable[..., Running], tmp_path: Path) -> None:
    server = serve(script=lambda n: Script(status=500))
    assert "refuses to answer" in refused(tmp_path, *bench(server))


def test_ctrl_c_reports_what_was_measured(serve: Callable[..., Running], tmp_path: Path) -> None:
    """The sixth request and those after it are never answered; then comes the signal."""
    server, out = serve(), tmp_path / "out"
    server.fake.script = lambda n: Script(end="done" if n < 7 else "hang")
    words = bench(server, "--concurrency", 2, "--requests", 50, "--out", out)
    command = [sys.executable, "-c", "from silva.cli.main import run; run()", *map(str, words)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    while len(server.fake.bodies) < 9:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "5 of 7 requests answered" in printed and "2 requests were under way" in printed
    assert errors.splitlines()[-1] == "silva: interrupted"
    report = json.loads((out / "report.json").read_text())
    assert report["interrupted"] and report["summary"]["unfinished"] == 2


def test_the_group_has_help() -> None:
    assert "serve" in silva("bench", "--help").stdout
    assert "--ttft-target" in silva("bench", "serve", "--help").stdout
