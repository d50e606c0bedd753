"""Peak memory of `silva tune` with 10, 100 and 1,000 clients of five images each.

    python benchmarks/memory.py

One backbone is in memory whatever the number of clients, and their state lies on disk: the peak
should hardly grow. Peak is the greatest resident set of the process (getrusage), in bytes. A size
that was measured is kept; `--again` measures it anew.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import common
from hilora import add_options, make_jobs
from tuning import Job, Numbers, collect, public, run_job

RECIPE = "thousand-clients"
SIZES = (10, 100, 1000)
LIMIT_BYTES = 3 * 10**9
"""What 1,000 clients must stay under."""


def measure(job: Job, again: bool) -> Numbers:
    """Run a job from start to end; a run that was interrupted starts anew, since its peak counts."""
    try:
        run_job(job, again or job.unfinished)
    except RuntimeError as error:
        sys.exit(f"failed: {error}")
    numbers = collect(job)
    return {
        "peak_rss_bytes": numbers["peak_rss_bytes"],
        "wall_seconds": numbers["wall_seconds"],
        "commit": numbers["commit"],
        "clusters": numbers["clusters"],
        "clients": numbers["clients"],
        "rounds": numbers["rounds"],
        "folder_bytes": sum(f.stat().st_size for f in job.forest.rglob("*") if f.is_file()),
    }


def main() -> int:
    parser = common.make_parser(__doc__.splitlines()[0] if __doc__ else "")
    add_options(parser)
    parser.set_defaults(seeds=[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    arguments = parser.parse_args()
    circumstances = common.facts()
    print(common.heading(circumstances))
    print(f"seed      {arguments.seeds[0]}\nunits     bytes (10^6: MB), seconds\n")
    path = arguments.results / "memory.json"
    words = ["python benchmarks/memory.py --sizes", *map(str, arguments.sizes)]
    words += [f"--set {setting}" for setting in public(arguments.settings)]
    content: Numbers = {"benchmark": "memory", "command": " ".join(words), "recipe": RECIPE}
    content |= {"seed": arguments.seeds[0], "limit_bytes": LIMIT_BYTES, "units": "B, s"}
    content |= {**circumstances, "threads": 1, "sizes": {}}
    for size in arguments.sizes:
        settings = [*arguments.settings, f"data.clients={size}"]
        (job,) = make_jobs(arguments, RECIPE, settings, arguments.seeds[:1])
        job = replace(job, work=job.work / "memory")  # a run of another benchmark may be resumed
        row = content["sizes"][str(size)] = measure(job, arguments.again)
        megabytes = row["peak_rss_bytes"] / 1e6
        print(f"{size:6,} clients: peak {megabytes:7.0f} MB, {row['wall_seconds']:7.1f} s")
        common.write_json(path, content)
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
