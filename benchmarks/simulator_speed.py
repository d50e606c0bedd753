"""Requests a second that the simulator gets through on one core.

    python benchmarks/simulator_speed.py
    python benchmarks/simulator_speed.py --workloads dense --repeats 3

Three workloads: `dense`, a dense model of 70 billion parameters on instances that compute prompts
and answers; `split`, the same on prefill and decode instances; `hour`, an hour of 100 requests a
second, 2,048 tokens in and 500 out on average, on 256 packages of CloudMatrix384. Each run is a new
process with one thread. Reported are seconds of the processor, which other processes disturb less
than those of the clock, both without the tables of step times, which are made once; and the peak of
memory, which holds the traffic and a row of the result for each request.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    from silva.supernode.cluster import Cluster
    from silva.supernode.generate import Shape
    from silva.supernode.system import System

SEED = 0


@dataclass(frozen=True)
class Workload:
    """What is simulated, for how many seconds of traffic."""

    name: str
    system: System
    cluster: Cluster
    shape: Shape


def workload(name: str, seconds: float | None) -> Workload:
    """The workload of that name, for its own or another number of seconds."""
    from silva.supernode.cluster import Cluster
    from silva.supernode.generate import Shape
    from silva.supernode.system import load_system

    system = load_system("cloudmatrix-infer")
    if name == "hour":
        shape = Shape(rate=100.0, seconds=seconds or 3600.0, prompt=2048.0, output=500.0)
        return Workload(name, system, Cluster(prefill=6, decode=1), shape)
    one = {"overlap": "none", "drafts": 0, "tensor": 8, "dies": 8}
    dense = replace(
        system,
        name="dense",
        model="llama-3-70b",
        decode=replace(system.decode, shared_dies=0, **one),
        prefill=replace(system.prefill, sequence_group=1, **one),
    )
    shape = Shape(rate=40.0, seconds=seconds or 500.0, prompt=512.0, output=128.0)
    counts = {"dense": (0, 4), "split": (4, 2)}[name]
    cluster = Cluster(prefill=counts[0], decode=counts[1], batch_per_npu=64, mtp=False)
    return Workload(name, dense, cluster, shape)


def measure(name: str, seconds: float | None) -> dict[str, Any]:
    """One simulation in this process."""
    from silva.supernode.fleet import step_times
    from silva.supernode.generate import generate
    from silva.supernode.simulate import simulate

    asked = workload(name, seconds)
    traffic = generate(asked.shape, SEED)
    step_times(asked.cluster, asked.system, traffic)
    began, wall = time.process_time(), time.perf_counter()
    records = simulate(asked.cluster, traffic, (), asked.system)
    cpu_s, wall_s = time.process_time() - began, time.perf_counter() - wall
    summary = records.summary()
    return {
        "requests": len(traffic),
        "simulated_s": summary["seconds"],
        "cpu_s": cpu_s,
        "wall_s": wall_s,
        "requests_per_cpu_s": len(traffic) / cpu_s,
        "events": records.events,
        "steps": records.steps,
        "ttft_p99_ms": summary["ttft_ms"]["p99"],
        "tpot_p99_ms": summary["tpot_ms"]["p99"],
        "busy": summary["busy"],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def repeated(name: str, seconds: float | None, repeats: int, work: Path) -> dict[str, Any]:
    """Medians of several processes, and the spread of their rates."""
    runs = []
    work.mkdir(parents=True, exist_ok=True)
    for number in range(repeats):
        out = work / f"simulator-{name}-{number}.json"
        words = ["--child", name, "--out", str(out)]
        words += ["--seconds", str(seconds)] if seconds else []
        log = out.with_suffix(".log")
        done = common.run_child([sys.executable, __file__, *words], log, 1)
        if done.code:
            sys.exit(f"{name} failed:\n{common.last_lines(log)}")
        runs.append(common.read_json(out))
    found = dict(runs[0])
    for key in ("cpu_s", "wall_s", "requests_per_cpu_s", "peak_bytes"):
        found[key] = statistics.median(run[key] for run in runs)
    rates = [run["requests_per_cpu_s"] for run in runs]
    return {**found, "repeats": repeats, "slowest": min(rates), "fastest": max(rates)}


def main() -> None:
    """Measures, prints, and writes `simulator_speed.json`."""
    parser = common.make_parser(__doc__)
    names = ("dense", "split", "hour")
    parser.add_argument("--workloads", nargs="+", choices=names, default=list(names))
    parser.add_argument("--repeats", type=int, default=3, help="processes for each workload")
    parser.add_argument("--seconds", type=float, help="seconds of traffic instead of a workload's")
    parser.add_argument("--child", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        common.write_json(asked.out, measure(asked.child, asked.seconds))
        return
    circumstances = common.facts()
    print(common.heading(circumstances))
    found = {
        name: repeated(name, asked.seconds, asked.repeats, asked.work) for name in asked.workloads
    }
    print(f"\n{'':<8}{'requests':>10}{'CPU s':>9}{'wall s':>9}{'requests/CPU s':>16}{'MB':>7}")
    for name, row in found.items():
        print(
            f"{name:<8}{row['requests']:>10,}{row['cpu_s']:>9.1f}{row['wall_s']:>9.1f}"
            f"{row['requests_per_cpu_s']:>16,.0f}{row['peak_bytes'] / 1e6:>7.0f}"
        )
    words = " ".join(["python benchmarks/simulator_speed.py", *sys.argv[1:]])
    result = {**circumstances, "benchmark": "simulator_speed", "command": words, "seed": SEED}
    result["workloads"] = found
    common.write_json(asked.results / "simulator_speed.json", result)


if __name__ == "__main__":
    main()
