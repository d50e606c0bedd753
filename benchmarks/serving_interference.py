"""Running streams while long prompts arrive: disaggregated against colocated, on the same cores.

    python benchmarks/serving_interference.py

Both servers are up the whole time and take turns: while one is loaded the other sleeps. A turn is a
closed loop of short prompts with long answers (the streams), alone and then with long prompts that
arrive at a constant rate and want one token. The load generator shares the cores with the servers.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import common
import serving
from serving import SMOLLM2, STORIES, Bench, Numbers

MODES = {"disaggregated": (), "colocated": ("--colocated",)}
LOAD: Numbers = {
    "model": SMOLLM2,
    "streams": 4,
    "stream_prompt": 32,
    "stream_answer": 96,
    "long_prompt": 768,
    "seconds_between": 6.0,
    "seconds": 30.0,
    "seconds_alone": 10.0,
    "repetitions": 3,
}
QUICK = LOAD | {"model": STORIES, "long_prompt": 300, "seconds": 6.0, "seconds_alone": 3.0}
QUICK |= {"repetitions": 1, "seconds_between": 1.0}


def streams(url: str, load: Numbers, seconds: float, seed: int) -> Any:
    """The closed loop of streams, as a configuration of `silva bench serve`."""
    from silva.config import build
    from silva.serving.bench.config import BenchConfig

    work = {"input": str(load["stream_prompt"]), "output": str(load["stream_answer"])}
    closed = {"arrival": "closed", "concurrency": load["streams"], "duration_s": seconds}
    tree = {"url": url, "seed": seed, "load": closed | {"warmup": 1}, "work": work}
    return build(BenchConfig, tree, "streams")


def prompts(url: str, load: Numbers, seed: int) -> Any:
    """The long prompts, likewise."""
    from silva.config import build
    from silva.serving.bench.config import BenchConfig

    rate = {"arrival": "constant", "rate": 1 / load["seconds_between"], "warmup": 0}
    work = {"input": str(load["long_prompt"]), "output": "1"}
    tree = {"url": url, "seed": seed, "load": rate | {"duration_s": load["seconds"]}, "work": work}
    return build(BenchConfig, tree, "prompts")


def turn(url: str, load: Numbers, seed: int) -> Numbers:
    """One turn of one server: streams alone, then streams and long prompts."""
    from silva.serving.bench.measure import summarise
    from silva.serving.bench.run import run

    async def both() -> list[Any]:
        return await asyncio.gather(
            run(streams(url, load, load["seconds"], seed + 1)), run(prompts(url, load, seed + 2))
        )

    alone = summarise(asyncio.run(run(streams(url, load, load["seconds_alone"], seed))))
    beside, long = map(summarise, asyncio.run(both()))
    for part in (alone, beside, long):
        if part.failed:
            sys.exit(f"requests failed: {part.failures}")
    return {
        "alone": gaps(alone),
        "beside": gaps(beside),
        "tokens_per_s": beside.output_tokens_per_s,
        "tokens_per_s_alone": alone.output_tokens_per_s,
        "long_ttft_ms": long.ttft_ms.p50,
        "long_answered": long.answered,
    }


def gaps(summary: Any) -> Numbers:
    """Milliseconds between the tokens of the streams."""
    spread = summary.inter_token_ms
    return {"count": spread.count, "p50": spread.p50, "p99": spread.p99, "max": spread.max}


def turns(bench: Bench, load: Numbers) -> dict[str, list[Numbers]]:
    """Turn and turn about; the order changes with every repetition."""
    path, found = bench.model(load["model"]), {mode: [] for mode in MODES}
    folder = bench.folder
    with (
        serving.serving(folder / "one", path, *MODES["disaggregated"]) as one,
        serving.serving(folder / "other", path, *MODES["colocated"]) as other,
    ):
        servers = {"disaggregated": one, "colocated": other}
        for number in range(load["repetitions"]):
            for mode in list(MODES)[:: -1 if number % 2 else 1]:
                seed = 10 * number
                work = lambda m=mode, s=seed: turn(servers[m].url, load, s)  # noqa: E731
                found[mode].append(bench.measure(f"{mode}, repetition {number}", work))
                row = found[mode][-1]
                print(
                    f"          p99 between tokens {row['beside']['p99']:.0f} ms "
                    f"(alone {row['alone']['p99']:.0f}), {row['tokens_per_s']:.0f} tokens/s, "
                    f"long prompts' first token {row['long_ttft_ms']:.0f} ms",
                    flush=True,
                )
    return found


def main() -> int:
    bench = Bench("interference", __doc__, "milliseconds; tokens a second; medians and ranges")
    load = QUICK if bench.quick else LOAD
    found = turns(bench, load)
    figures: Numbers = {}
    for mode, rows in found.items():
        figures[mode] = {
            "p99_ms": common.spread(row["beside"]["p99"] for row in rows),
            "p50_ms": common.spread(row["beside"]["p50"] for row in rows),
            "p99_alone_ms": common.spread(row["alone"]["p99"] for row in rows),
            "tokens_per_s": common.spread(row["tokens_per_s"] for row in rows),
            "tokens_per_s_alone": common.spread(row["tokens_per_s_alone"] for row in rows),
            "long_ttft_ms": common.spread(row["long_ttft_ms"] for row in rows),
        }
    pairs = list(zip(found["disaggregated"], found["colocated"], strict=True))
    ratios = {
        "p99": common.spread(a["beside"]["p99"] / b["beside"]["p99"] for a, b in pairs),
        "tokens_per_s": common.spread(a["tokens_per_s"] / b["tokens_per_s"] for a, b in pairs),
    }
    print(f"disaggregated / colocated: p99 {ratios['p99']['median']:.2f}")
    bench.publish({"load": load, "figures": figures, "disaggregated_to_colocated": ratios})
    return 0


if __name__ == "__main__":
    sys.exit(main())
