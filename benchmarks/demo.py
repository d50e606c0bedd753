"""`silva demo --no-texts`: wall-clock seconds and peak memory, several runs, median and range.

    python benchmarks/demo.py --runs 3

Every run is a new process in a new folder that may use all cores of this one. Without texts, as on
a machine that has no SmolLM2 in its cache. Runs that are done
are kept, so a benchmark that was killed goes on with the next; other weights, another commit and
`--again` measure anew.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from pathlib import Path

import common
from tuning import Numbers, weights_digest

LIMITS = {"seconds": 240.0, "peak_rss_bytes": 2 * 10**9}
"""Four minutes and 2 GB on two cores."""


def measure(folder: Path, cores: int) -> Numbers:
    """One demo in an empty folder. Leaves the program with the end of its output if it fails."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log, source = folder / "log.txt", common.commit()
    outcome = common.run_child(
        [*common.silva_command(), "demo", "--no-texts", "--out", "forest"], log, cores, cwd=folder
    )
    if outcome.code:
        sys.exit(f"silva demo ended with {outcome.code}:\n{common.last_lines(log)}")
    summary = common.read_json(folder / "forest" / "report" / "summary.json")
    run = {
        "seconds": outcome.seconds,
        "peak_rss_bytes": outcome.peak_bytes,
        "commit": source,
        "weights": weights_digest(()),
        "summary": {name: summary[name] for name in ("tiers", "unseen", "clusters", "ari")},
    }
    common.write_json(folder / "run.json", run)
    return run


def kept(folder: Path) -> Numbers | None:
    """The run that an earlier benchmark left in `folder`, if it was of this commit and weights."""
    run: Numbers | None = common.read_json(folder / "run.json")
    now = {"commit": common.commit(), "weights": weights_digest(())}
    return run if run and {name: run.get(name) for name in now} == now else None


def main() -> int:
    parser = common.make_parser(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="measure all runs anew")
    arguments = parser.parse_args()
    circumstances = common.facts()
    cores = circumstances["machine"]["cores"]
    print(common.heading(circumstances))
    print(f"seed      0\nunits     seconds; bytes (10^6: MB); {cores} threads\n")
    runs = []
    for number in range(arguments.runs):
        folder = (arguments.work / "demo" / f"run-{number}").resolve()
        runs.append((None if arguments.again else kept(folder)) or measure(folder, cores))
        peak = runs[-1]["peak_rss_bytes"] / 1e6
        print(f"run {number}: {runs[-1]['seconds']:6.1f} s, peak {peak:6.0f} MB", flush=True)
    medians = {name: statistics.median(run[name] for run in runs) for name in LIMITS}
    print(f"median: {medians['seconds']:.1f} s, {medians['peak_rss_bytes'] / 1e6:.0f} MB")
    result: Numbers = {
        "benchmark": "demo",
        "command": f"python benchmarks/demo.py --runs {len(runs)}",
    }
    result |= {"seed": 0, "threads": cores, "limits": LIMITS, "units": "s, B"}
    path = arguments.results / "demo.json"
    common.write_json(path, {**result, **circumstances, "runs": runs, "median": medians})
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
