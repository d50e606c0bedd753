"""What a target for the time per token costs: the batch that it holds, and the rate that is left.

    python benchmarks/serving_target.py

A closed loop of 32 streams at a server with one prefill and one decode peer, once without target and
once for each of 50, 30 and 15 ms, each on a server of its own, in turn, several times. The batch is
what the decode peer has running, as it tells twice a second: the 90th percentile, since warming up and
the load's end run fewer. Time per token is that of each answer, at the client.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import serving
from serving import SMOLLM2, STORIES, Bench, Numbers

TARGETS_MS = (0, 50, 30, 15)
"""0: none."""
LOAD: Numbers = {"model": SMOLLM2, "streams": 32, "requests": 128, "prompt": 64, "answer": 64}
QUICK: Numbers = {"model": STORIES, "streams": 8, "requests": 16, "prompt": 16, "answer": 32}
WATCH_S = 0.25
REPETITIONS = 3


class Watch:
    """How many requests the decode peers run while something happens."""

    def __init__(self, server: serving.Server) -> None:
        self._server, self._over = server, threading.Event()
        self._seen: list[int] = []
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(WATCH_S):
            self._seen.append(self._server.status()["pools"]["decode"]["running"])

    def stop(self) -> int:
        """The 90th percentile, before anything ran and after it left aside."""
        self._over.set()
        self._thread.join()
        ran = sorted(running for running in self._seen if running) or [0]
        return ran[9 * len(ran) // 10]


def turn(bench: Bench, path: str, load: Numbers, target_ms: int, seed: int) -> Numbers:
    """One server with this target, and the load on it."""
    from silva.config import build
    from silva.serving.bench.config import BenchConfig
    from silva.serving.bench.measure import summarise
    from silva.serving.bench.run import run

    closed = {"arrival": "closed", "concurrency": load["streams"], "requests": load["requests"]}
    work = {"input": str(load["prompt"]), "output": str(load["answer"])}
    options = ("--tpot-target", f"{target_ms}ms") if target_ms else ()
    with serving.serving(bench.folder / "server", path, *options) as server:
        tree = {"url": server.url, "seed": seed, "load": closed | {"warmup": 4}, "work": work}
        watch = Watch(server)
        summary = summarise(asyncio.run(run(build(BenchConfig, tree, "load"))))
        batch = watch.stop()
        time.sleep(1.0)  # peers report twice a second
        told = server.status()["pools"]["decode"]["admission"]
    tpot, ttft = summary.tpot_ms, summary.ttft_ms
    if summary.failed or tpot is None or ttft is None:
        sys.exit(f"requests failed: {summary.failures}")
    return {
        "batch": batch,
        "tpot_p50_ms": tpot.p50,
        "tpot_p99_ms": tpot.p99,
        "ttft_p50_ms": ttft.p50,
        "ttft_p99_ms": ttft.p99,
        "tokens_per_s": summary.output_tokens_per_s,
        "told": told,
    }


FIGURES = ("batch", "tpot_p50_ms", "tpot_p99_ms", "tokens_per_s", "ttft_p50_ms", "ttft_p99_ms")


def main() -> int:
    bench = Bench("target", __doc__, "requests; milliseconds; output tokens a second")
    load = QUICK if bench.quick else LOAD
    repetitions = 1 if bench.quick else REPETITIONS
    path = bench.model(load["model"])
    found: dict[int, list[Numbers]] = {target: [] for target in TARGETS_MS}
    for repetition in range(repetitions):
        for target in TARGETS_MS:
            row = bench.measure(
                f"target {target or 'none'} ms, {repetition + 1}",
                lambda t=target, r=repetition: turn(bench, path, load, t, r),
            )
            found[target].append(row)
            print(
                f"          target {target or 'none'}: batch {row['batch']}, "
                f"time per token {row['tpot_p50_ms']:.1f} ms (p99 {row['tpot_p99_ms']:.1f}), "
                f"{row['tokens_per_s']:.1f} tokens/s, first token {row['ttft_p50_ms']:.0f} ms",
                flush=True,
            )
    figures = {
        str(target): {name: serving.spread(row[name] for row in rows) for name in FIGURES}
        for target, rows in found.items()
    }
    # what the server without target said that each target would allow
    foreseen = found[0][-1]["told"]["trades"]
    bench.publish(
        {"load": load, "repetitions": repetitions, "figures": figures, "foreseen": foreseen}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
