from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_server import Running, Script

from silva.config import build, overlay
from silva.errors import ConfigError, DataError, ServingError
from silva.serving.bench.config import BenchConfig
from silva.serving.bench.measure import summarise
from silva.serving.bench.nouns import UNFINISHED
from silva.serving.bench.run import Measured, Progress, run

Start = Callable[..., Running]


def config(url: str, **flags: Any) -> BenchConfig:
    small = {"work.input": "12", "work.output": "3", "load.warmup": 1, "load.rate": 500.0}
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return build(BenchConfig, overlay({}, {**small, "url": url, **named}), "test")


def measured(url: str, *, keys: tuple[str, ...] = (), **flags: Any) -> Measured:
    return asyncio.run(run(config(url, **flags), keys))


@pytest.mark.parametrize("kind", ["poisson", "bursty", "constant", "closed"])
def test_a_whole_run(start: Start, kind: str) -> None:
    server = start(script=lambda n: Script(cached=4))
    found = measured(server.url, load__arrival=kind, load__requests=20, load__concurrency=3)
    assert found.model == "fake" and not found.interrupted
    assert sorted(o.planned.index for o in found.outcomes) == list(range(20))
    summary = summarise(found)
    assert (summary.answered, summary.failed, summary.tokens.output) == (20, 0, 60)
    assert summary.tokens.cached_share == pytest.approx(4 / 12)
    # One question and one warm-up request come before, and are not counted.
    assert len(server.fake.bodies) == 22
    assert kind != "closed" or server.fake.most_running <= 3


def test_the_same_seed_sends_the_same_requests(start: Start) -> None:
    bodies = []
    for seed in (5, 5, 6):
        server = start()
        flags = {"work__input": "uniform(1,30)", "work__prefix_tokens": 8, "load__requests": 10}
        measured(server.url, seed=seed, load__arrival="closed", load__concurrency=1, **flags)
        bodies.append(server.fake.bodies)
    assert bodies[0] == bodies[1] != bodies[2]


def test_a_stalled_server_is_charged_for_all_who_were_due(start: Start) -> None:
    """Nobody is answered before the last request has come: a loop that waits would never end."""
    server = start(script=lambda n: Script(hold=12 if n > 1 else 0))
    found = measured(server.url, load__arrival="constant", load__requests=10)
    assert [o.scheduled_s for o in sorted(found.outcomes, key=lambda o: o.planned.index)] == (
        pytest.approx([(n + 1) / 500 for n in range(10)])
    )
    assert server.fake.most_running == 10
    last_s = max(o.started_s for o in found.outcomes)
    assert all(o.scheduled_s + (o.ttft_s or 0.0) >= last_s for o in found.outcomes)


def test_errors_are_part_of_what_is_measured(start: Start) -> None:
    def script(number: int) -> Script:
        return Script(status=429 if number > 1 and number % 2 else 200)

    found = measured(start(script=script).url, load__requests=10)
    (failed,) = summarise(found).failures
    assert (failed.kind, failed.count, failed.example) == ("http 429", 5, "not now")


def test_keys_share_the_load(start: Start) -> None:
    server = start(keys=("alpha", "beta"))
    found = measured(server.url, keys=("alpha", "beta"), load__requests=40)
    assert {o.planned.key for o in found.outcomes} == {0, 1} and found.keys == 2
    callers = server.fake.callers[-40:]
    assert 8 < callers.count("alpha") < 32 and set(callers) == {"alpha", "beta"}
    assert "alpha" not in repr(found)


def test_a_trace_is_replayed_with_what_its_prompts_share(start: Start, tmp_path: Path) -> None:
    rows = [
        {"timestamp": 10 * n, "input_length": 600, "output_length": 2, "hash_ids": [0, n + 1]}
        for n in range(5)
    ]
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = start()
    flags = {"work__trace": str(trace), "work__input": "", "work__output": ""}
    found = measured(server.url, load__arrival="trace", load__speed=10.0, **flags)
    assert sorted(o.scheduled_s for o in found.outcomes) == pytest.approx(
        [n / 1e3 for n in range(5)]
    )
    prompts = [body["prompt"] for body in server.fake.bodies if len(body["prompt"]) == 600]
    assert len(prompts) == 5 and len({tuple(p[:512]) for p in prompts}) == 1
    assert len({tuple(p) for p in prompts}) == 5


def test_stopping_keeps_what_was_measured(start: Start) -> None:
    server = start(script=lambda n: Script(end="done" if n < 7 else "hang"))

    async def whole() -> Measured:
        stop = asyncio.Event()

        def watch(progress: Progress) -> None:
            if progress.done == 5:
                stop.set()

        flags = {"load__arrival": "closed", "load__concurrency": 2}
        given = config(server.url, load__requests=1000, **flags)
        return await run(given, stop=stop, on_progress=watch)

    found = asyncio.run(whole())
    assert found.interrupted
    errors = [o.error for o in found.outcomes]
    assert errors.count("") == 5 and errors.count(UNFINISHED) <= 2 and len(errors) < 8
    assert summarise(found).answered == 5


@pytest.mark.parametrize("stage", ["asking the server", "warm-up"])
def test_stopping_before_the_first_request(start: Start, stage: str) -> None:
    server = start(
        script=lambda n: Script(end="hang" if stage == "asking the server" or n else "done")
    )

    async def whole() -> Measured:
        stop = asyncio.Event()
        watched = []

        def watch(progress: Progress) -> None:
            watched.append(progress.stage)
            if progress.stage == stage:
                stop.set()

        return await run(config(server.url), stop=stop, on_progress=watch)

    found = asyncio.run(whole())
    assert found.interrupted and found.outcomes == []


def test_a_closed_loop_ends_with_the_clock(start: Start) -> None:
    server = start()
    flags = {"load__arrival": "closed", "load__concurrency": 2, "load__duration_s": 0.2}
    found = measured(server.url, **flags)
    assert found.outcomes and all(o.scheduled_s < 0.2 for o in found.outcomes)


def test_progress_goes_up_to_the_end(start: Start) -> None:
    seen: list[Progress] = []
    asyncio.run(run(config(start().url, load__requests=6), on_progress=seen.append))
    assert list(dict.fromkeys(p.stage for p in seen)) == ["asking the server", "warm-up", "load"]
    load = [p for p in seen if p.stage == "load"]
    assert [p.done for p in load] == list(range(7)) and {p.total for p in load} == {6}


def test_a_server_that_fails_the_warm_up_is_not_measured(start: Start) -> None:
    server = start(script=lambda n: Script(status=200 if n == 0 else 400))
    with pytest.raises(ServingError, match=r"every warm-up request failed.*http 400: not now"):
        measured(server.url, load__warmup=3)
    assert len(server.fake.bodies) == 4


def test_mistakes_are_found_before_the_server_is_asked(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"
    with pytest.raises(DataError, match="cannot be read"):
        measured(nobody, work__trace=str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match=r"work\.input"):
        measured(nobody, work__input="some")
    with pytest.raises(ServingError, match="no server answers"):
        measured(nobody)
