"""The section Serving of docs/validation.md: what the tables and claims make of result files."""

from __future__ import annotations

import os
import pstats
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "tests"))

import claims_serving  # noqa: E402
import common  # noqa: E402
import render_serving  # noqa: E402
import serving  # noqa: E402
import serving_prefix  # noqa: E402
import serving_soak  # noqa: E402
import serving_target  # noqa: E402
import serving_throughput  # noqa: E402
from validation_cases import FACTS  # noqa: E402

from silva.serving.process_name import show_thread_as  # noqa: E402

STEP = {"steps": 100, "step_s": 10.0, "execute_s": 9.8, "model_s": 9.5, "batch": 31.0}
STEP |= {"front_s": 0.2, "transfer_s": 0.1}


def only(value: float) -> dict[str, Any]:
    return common.spread([value])


def tokens(equal: int = 50) -> dict[str, Any]:
    row = {"prompts": 50, "equal": equal, "ties": 1, "tokens_compared": 790, "cached_tokens": 9}
    row |= {"worst_logprob_difference": 3e-6, "preempted": 4}
    return {"models": {"smollm2": {"modes": {"colocated": row, "preempted": row}}}}


def prefix(
    computed: float = 512, other: float = 0, cached: int = 512, ram: float = 6.0, disk: float = 5.0
) -> dict[str, Any]:
    hit = {"miss_ttft_s": 0.6, "hit_ttft_s": 0.1, "ratio": 6.0, "cached_tokens": 512}
    parts = {
        "in_turn": hit | {"prefix_tokens_computed": 512},
        "together": {"prefix_tokens_computed": computed, "median_ttft_s": 0.7},
        "replaced": hit | {"ratio": ram},
        "restarted": hit | {"ratio": disk, "cached_tokens": cached},
        "other_key": {"cached_tokens_same_key": 512, "cached_tokens_other_key": other},
    }
    figures = {name: {k: only(v) for k, v in part.items()} for name, part in parts.items()}
    settings = {"requests": 32, "prefix_tokens": 512, "repetitions": 1, "model": "smollm2"}
    return {**settings, "figures": figures}


def interference(ratio: float = 0.5) -> dict[str, Any]:
    names = ("p99_ms", "p50_ms", "p99_alone_ms", "tokens_per_s", "tokens_per_s_alone")
    figures = {name: only(20.0) for name in (*names, "long_ttft_ms")}
    load = {"streams": 4, "stream_answer": 96, "long_prompt": 1024, "seconds_between": 4.0}
    return {
        "load": {**load, "model": "smollm2", "repetitions": 1},
        "figures": {"disaggregated": figures, "colocated": figures},
        "disaggregated_to_colocated": {"p99": only(ratio), "tokens_per_s": only(1.0)},
    }


def start(weights: int = 540) -> dict[str, Any]:
    modes = {mode: {"first_token_s": only(5.0)} for mode in ("disaggregated", "colocated")}
    peer = {"from_command_s": only(1.4), "from_request_s": only(0.9)}
    row = {"count": 1, "bytes": 900, "weights_bytes": weights, "weights_resident_bytes": 540}
    memory = {"processes": {"front": row}, "total": {**row}, "weights_file_bytes": 540}
    return {
        "model": "smollm2",
        "repetitions": 1,
        "limits": {"first_token_s": 8.0, "second_peer_s": 2.0},
        "figures": {**modes, "decode": peer, "prefill": peer},
        "memory": memory,
    }


def throughput(own: float = 90.0, error: str = "", **split: float) -> dict[str, Any]:
    ways = tuple(serving_throughput.SERVERS)
    found = {way: [{"tokens_per_s": own}] for way in ways}
    found["transformers, generate"] = [{"tokens_per_s": 60.0}]
    row = {"tokens_per_s": None, "error": error} if error else {"tokens_per_s": 40.0}
    found["transformers, continuous batching"] = [row]
    load = {"batch": 32, "requests": 64, "prompt": 64, "answer": 64, "model": "smollm2"}
    call = {"function": "f", "calls": 3, "own_share": 0.5, "cumulative_share": 0.6}
    content = serving_throughput.content(found, {way: [STEP | split] for way in ways})
    whole = {"load": load, "steps_load": serving_throughput.STEPS, "repetitions": 1}
    return {**content, **whole, "profile": [call], "front_profile": [call | {"function": "g"}]}


def target(at_15: float = 4, tpot_ms: float = 14.0) -> dict[str, Any]:
    batches = {"0": 32.0, "50": 20.0, "30": 12.0, "15": at_15}
    rows = {}
    for name, batch in batches.items():
        row = {figure: only(tpot_ms) for figure in serving_target.FIGURES}
        rows[name] = row | {"batch": only(batch)}
    keys = ("target_s", "batch", "tpot_s", "tokens_per_s", "chunk_tokens")
    foreseen = [dict(zip(keys, row, strict=True)) for row in ((0.0, 64, 0.1, 640, 0),)]
    load = serving_target.LOAD
    return {"load": load, "repetitions": 1, "figures": rows, "foreseen": foreseen}


def soak(equal: int = 200, files: int = 0) -> dict[str, Any]:
    leg = {"answers": 200, "equal": equal, "failed": 0, "retries": 9, "blocks_returned": True}
    leg |= {"processes_left": 0, "files_left": files, "seconds": 60.0}
    leg |= {"kills": {"prefill": 20, "decode": 20, "cache": 10}}
    return serving_soak.totals([leg, leg], wanted=100)


def flood(told: int = 9000, first: int = 10**8, last: int = 10**8) -> dict[str, Any]:
    row = {"by_status": {"200": 1000, "429": 9000}, "refused_with_retry_after": told}
    row |= {"seconds": 4.0, "answered_afterwards": True, "rss_before_bytes": 10**8}
    row |= {"rss_after_bytes": 10**8, "rss_peak_bytes": 10**8}
    row |= {"requests": 10_000}
    return {"floods": [row | {"rss_peak_bytes": first}, row | {"rss_peak_bytes": last}]}


RESULTS = {
    "tokens": tokens(),
    "prefix": prefix(),
    "interference": interference(),
    "start": start(),
    "throughput": throughput(),
    "target": target(),
    "soak": soak(),
    "flood": flood(),
}


def write(folder: Path, name: str, content: dict[str, Any]) -> None:
    about = {**FACTS, "command": f"python benchmarks/serving_{name}.py"}
    common.write_json(folder / f"serving-{name}.json", {**about, **content})


def claim(folder: Path, words: str) -> tuple[str, str]:
    """What is said of the one claim that has these words, and whether it holds."""
    (row,) = (row[1:] for row in claims_serving.rows(folder, "-") if words in row[0])
    return row


def verdicts(folder: Path) -> dict[str, str]:
    return {claim: holds for claim, _, holds in claims_serving.rows(folder, "-")}


def test_every_benchmark_has_a_block_a_claim_and_a_command(tmp_path: Path) -> None:
    assert {f"serving-{name}" for name in RESULTS} == set(render_serving.BLOCKS)
    assert {name for name, _ in claims_serving.CLAIMS.values()} == set(RESULTS)
    for name in RESULTS:
        assert (ROOT / "benchmarks" / f"serving_{name}.py").is_file()
        assert f"serving_{name}.py" in render_serving.BLOCKS[f"serving-{name}"](tmp_path)


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_becomes_tables_of_even_width(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, RESULTS[name])
    text = render_serving.BLOCKS[f"serving-{name}"](tmp_path)
    for part in text.split("\n\n"):
        lines = [line for line in part.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1
    assert "2026-01-01, commit abc" in text


def test_all_claims_hold_of_good_results(tmp_path: Path) -> None:
    assert set(verdicts(tmp_path).values()) == {"-"}
    for name, content in RESULTS.items():
        write(tmp_path, name, content)
    assert set(verdicts(tmp_path).values()) == {"yes"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokens", tokens(equal=49)),
        ("prefix", prefix(computed=1024)),
        ("prefix", prefix(other=16)),
        ("prefix", prefix(cached=496)),
        ("prefix", prefix(ram=4.9)),
        ("prefix", prefix(disk=4.9)),
        ("interference", interference(ratio=1.1)),
        ("start", start(weights=1080)),
        ("throughput", throughput(own=50.0)),
        ("throughput", throughput(model_s=8.9)),
        ("target", target(at_15=32)),
        ("target", target(tpot_ms=15.5)),
        ("soak", soak(equal=199)),
        ("soak", soak(files=1)),
        ("flood", flood(told=8999)),
        ("flood", flood(last=2 * 10**8)),
        ("flood", flood(first=10**9, last=10**9)),
    ],
)
def test_a_claim_that_does_not_hold_says_no(
    tmp_path: Path, name: str, content: dict[str, Any]
) -> None:
    write(tmp_path, name, content)
    assert list(verdicts(tmp_path).values()).count("no") == 1


def test_what_did_not_run_is_beaten_by_nobody(tmp_path: Path) -> None:
    write(tmp_path, "throughput", throughput(error="no_gpu"))
    found = {name: holds for name, holds in verdicts(tmp_path).items() if holds != "-"}
    assert {name for name, holds in found.items() if holds == "no"} == {
        name for name in found if "continuous batching" in name
    }
    assert "| no\\_gpu | - | - |" in render_serving.BLOCKS["serving-throughput"](tmp_path)


def test_claims_and_table_have_the_same_ratios(tmp_path: Path) -> None:
    """Taken within each repetition: a machine may be faster in one than in another."""
    speeds = {"silva, colocated": (70.0, 90.0, 40.0), "silva, disaggregated": (60.0, 80.0, 30.0)}
    speeds |= {serving.GENERATE: (100.0, 60.0, 50.0), serving.CONTINUOUS: (50.0, 40.0, 20.0)}
    found = {name: [{"tokens_per_s": each} for each in held] for name, held in speeds.items()}
    steps = {name: [STEP] for name in found if name.startswith("silva")}
    write(tmp_path, "throughput", throughput() | serving_throughput.content(found, steps))
    for words, said in (
        ("transformers' generate", "disaggregated 0.60 times, colocated 0.80 times"),
        ("/s than transformers' continuous", "disaggregated 1.50 times, colocated 2.00 times"),
    ):
        names = [name for name in claims_serving.CLAIMS if words in name and "plain" not in name]
        assert claim(tmp_path, names[0])[0] == said
    text = render_serving.BLOCKS["serving-throughput"](tmp_path)
    row, _ = [line for line in text.splitlines() if line.startswith("| silva, colocated |")]
    assert [cell.split()[0] for cell in row.split("|")[3:5]] == ["0.80", "2.00"]
    # What was not measured is no claim that fails.
    assert claim(tmp_path, "all in plain torch") == ("-", "-")


def test_each_kind_of_hit_has_a_row_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, "prefix", prefix(ram=5.5, disk=4.5))
    text = render_serving.BLOCKS["serving-prefix"](tmp_path)
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
    for kind, ratio in (
        ("own pool", 6.0),
        ("cache peer's memory", 5.5),
        ("cache peer's disk", 4.5),
    ):
        assert f"{ratio:.1f} ({ratio:.1f} to {ratio:.1f})" in rows[kind]


def test_a_hit_is_compared_with_the_miss_beside_it() -> None:
    def outcome(ttft_s: float, cached: int | None) -> SimpleNamespace:
        return SimpleNamespace(ttft_s=ttft_s, cached_tokens=cached)

    hits = [outcome(0.1, 512), outcome(0.2, 512), outcome(0.3, None)]
    assert serving_prefix.hit(outcome(1.0, 0), hits) == {
        "miss_ttft_s": 1.0,
        "hit_ttft_s": 0.2,
        "ratio": 5.0,
        "cached_tokens": 0,
    }


def test_another_prefill_peer_takes_over_before_a_hit_of_the_cache_is_timed() -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    states = [
        ["ready"],
        ["ready", "starting"],
        ["ready", "ready"],
        ["draining", "ready"],
        ["ready"],
    ]

    class Server:
        def status(self) -> dict[str, Any]:
            now = states.pop(0)
            first = 1 + (len(told) == 2 and len(now) == 1)
            peers = [
                {"name": f"prefill-{first + n}", "role": "prefill", "state": state}
                for n, state in enumerate(now)
            ]
            return {"peers": [*peers, {"name": "cache-1", "role": "cache", "state": "ready"}]}

        def change(self, verb: str, **what: Any) -> None:
            told.append((verb, what))

    serving_prefix.replace_prefill(cast(serving.Server, Server()))
    assert told == [("scale", {"roles": {"prefill": 2}}), ("drain", {"peer": "prefill-1"})]
    assert not states


def test_policy_transfer_and_api_count_together(tmp_path: Path) -> None:
    write(tmp_path, "throughput", throughput())
    words = "policy, transfer and API together"
    assert claim(tmp_path, words) == (
        "policy 2.0 %, transfer 1.0 %, API 2.0 %, together 5.0 %",
        "yes",
    )
    for part in ({"execute_s": 9.5}, {"transfer_s": 0.3}, {"front_s": 0.4}):
        write(tmp_path, "throughput", throughput(**{"execute_s": 9.6, "transfer_s": 0.2} | part))
        each = serving_throughput.shares([STEP | {"execute_s": 9.6, "transfer_s": 0.2} | part])
        assert each["overhead"]["median"] == pytest.approx(
            sum(each[name]["median"] for name in ("policy", "transfer", "front"))
        )
    for part in ({"execute_s": 9.2, "model_s": 9.1}, {"transfer_s": 0.7}, {"front_s": 0.8}):
        write(tmp_path, "throughput", throughput(**part))
        assert claim(tmp_path, words)[1] == "no"


def test_processor_time_is_that_of_the_threads_of_a_name() -> None:
    def work() -> None:
        show_thread_as("transfer")
        while time.thread_time() < 0.05:
            pass
        ready.set()
        over.wait()

    ready, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    assert serving_throughput.seconds_of(os.getpid(), "silva-transfer") >= 0.04
    over.set()
    thread.join()
    # The system may list a thread for a moment after it was joined.
    end_s = time.monotonic() + 10
    while (left := serving_throughput.seconds_of(os.getpid(), "silva-transfer")) and (
        time.monotonic() < end_s
    ):
        time.sleep(0.01)
    assert left == 0


def test_a_full_load_is_looked_at_between_its_first_and_its_last_wave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving, "WATCH_S", 0.001)
    told, looks = SimpleNamespace(stage="load", done=0), threading.Semaphore(0)

    def look() -> dict[str, Any]:
        looks.release()
        return {"done": told.done}

    with serving.Steady(look, streams=2, requests=6) as steady:
        for done in range(7):
            told.done = done
            steady.progress(told)
            for _ in range(3 if 2 <= done <= 4 else 0):
                looks.acquire()
    assert {each["done"] for each in steady.seen} == {2, 3, 4}


def test_a_load_that_is_too_short_to_be_looked_at_ends_the_benchmark() -> None:
    with serving.Steady(dict, streams=2, requests=6) as steady:
        pass
    with pytest.raises(SystemExit, match="longer"):
        assert steady.seen


def test_a_profile_is_that_of_the_time_between_two_signals(tmp_path: Path) -> None:
    program = """
import os, signal, sys, profiled_front
def aside(): sum(range(10))
def meant(): sum(range(10))
profiled_front.listen(sys.argv[1])
aside()
os.kill(os.getpid(), signal.SIGUSR1)
meant()
os.kill(os.getpid(), signal.SIGUSR2)
aside()
"""
    file = tmp_path / "profile"
    folder = str(ROOT / "benchmarks")
    subprocess.run([sys.executable, "-c", program, str(file)], check=True, cwd=folder)
    names = {name for _, _, name in pstats.Stats(str(file)).stats}  # type: ignore[attr-defined]
    assert "meant" in names
    assert "aside" not in names
