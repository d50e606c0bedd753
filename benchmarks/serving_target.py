"""What a target for the time per token costs: the batch that it holds, and the rate that is left.

    python benchmarks/serving_target.py

A closed loop of 32 streams at a server with one prefill and one decode peer, once without target and
once for each of 50, 30 and 15 ms, each on a server of its own, in turn, several times. The batch held
is the median of what the decode peer has running, as it tells twice a second, while all streams are
under way (`serving.Steady`); beside it the most that it had, and how many it said that it lets in. Time
per token is that of each answer, at the client, from its first token to its last: a wait between the
two peers counts.
"""

from __future__ import annotations

import statistics
import sys
import time

import serving
from serving import SMOLLM2, STORIES, Bench, Numbers

TARGETS_MS = (0, 50, 30, 15)
"""0: none."""
LOAD: Numbers = {"model": SMOLLM2, "streams": 32, "requests": 128, "prompt": 64, "answer": 64}
QUICK: Numbers = {"model": STORIES, "streams": 8, "requests": 64, "prompt": 16, "answer": 64}
REPETITIONS = 3


def decoding(server: serving.Server) -> Numbers:
    """What the decode peers run at this moment, and how many they say they let decode together."""
    pool = server.status()["pools"]["decode"]
    return {"running": pool["running"], "admitted": (pool["admission"] or {}).get("batch", 0)}


def turn(bench: Bench, path: str, load: Numbers, target_ms: int, seed: int) -> Numbers:
    """One server with this target, and the load on it."""
    options = ("--tpot-target", f"{target_ms}ms") if target_ms else ()
    with serving.serving(bench.folder / "server", path, *options) as server:
        summary, seen = serving.closed_loop(server, load, seed, lambda: decoding(server))
        time.sleep(1.0)  # peers report twice a second
        told = server.status()["pools"]["decode"]["admission"]
    tpot, ttft = summary.tpot_ms, summary.ttft_ms
    if tpot is None or ttft is None:
        sys.exit("no answer had two tokens")
    running = [each["running"] for each in seen]
    return {
        "batch": statistics.median(running),
        "most": max(running),
        "admitted": statistics.median(each["admitted"] for each in seen),
        "tpot_p50_ms": tpot.p50,
        "tpot_p99_ms": tpot.p99,
        "ttft_p50_ms": ttft.p50,
        "ttft_p99_ms": ttft.p99,
        "tokens_per_s": summary.output_tokens_per_s,
        "told": told,
    }


FIGURES = ("batch", "most", "admitted", "tpot_p50_ms", "tpot_p99_ms", "tokens_per_s")
FIGURES += ("ttft_p50_ms", "ttft_p99_ms")


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
                f"          target {target or 'none'}: batch {row['batch']:g} "
                f"({row['admitted']:g} let in), "
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
