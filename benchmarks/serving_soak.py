"""Peers killed again and again under streams: is any answer lost or changed, is anything left behind?

    python benchmarks/serving_soak.py --kills 1000

The scene of tests/faults/kill_scene.py, played again and again: `silva serve` with stories260k, 200
streams over HTTP, and peers of random roles that are ended with SIGKILL while they are read. A leg
is one life of the server: after its kills the blocks are counted, the server is stopped, and what it
left is looked for. Legs that are done are kept, so a soak that was interrupted goes on with the next.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from pathlib import Path

import common
import serving
from serving import STORIES, Bench, Numbers

from silva.reality.process import end_with_parent

sys.path.insert(0, str(common.ROOT / "tests" / "faults"))

import kill_scene
from real_command import Command

LEG, STORM = 60, 15
"""Kills in one life of the server, and while 200 streams are read."""
ROLES = tuple(kill_scene.POOLS)


def leg(model: Path, number: int, kills: int) -> Numbers:
    """One life of a server with so many kills, and what it left behind."""
    start = time.perf_counter()
    dice = random.Random(number)
    found: Numbers = {"kills": dict.fromkeys(ROLES, 0), "answers": 0, "equal": 0, "failed": 0}
    options = kill_scene.OPTIONS
    command = Command(model, kill_scene.SETTINGS, end_with_parent, **options)
    try:
        calm = asyncio.run(kill_scene.undisturbed(command))
        for done in range(0, kills, STORM):
            victims = dice.choices(ROLES, k=min(STORM, kills - done))
            count(found, asyncio.run(kill_scene.storm(command, victims, dice)), calm)
        found["blocks_returned"] = returned(command)
        found["retries"] = command.status()["counters"]["retries"]
        if code := command.stop():
            sys.exit(f"the server of leg {number} ended with {code}")
        left = command.left()
    finally:
        command.close()
    for what in left:
        print(f"          left: {what}", flush=True)
    found["processes_left"] = sum(what.startswith("process ") for what in left)
    found["files_left"] = len(left) - found["processes_left"]
    found["seconds"] = time.perf_counter() - start
    return found


def count(found: Numbers, storm: kill_scene.Storm, calm: list[kill_scene.Heard]) -> None:
    """Add one storm to what was found."""
    wrong = storm.wrong(calm)
    for number, heard in wrong:
        print(f"          request {number}: {heard.error or heard}", flush=True)
    failed = sum(bool(heard.error) for _, heard in storm.heard)
    found["failed"] += failed
    found["answers"] += len(storm.heard) - failed
    found["equal"] += len(storm.heard) - len(wrong)
    for role, kills in storm.kills.items():
        found["kills"][role] += kills


def returned(command: Command) -> bool:
    """Whether all blocks are free once nothing runs."""
    try:
        command.settled()
    except AssertionError as error:
        print(f"          {error}", flush=True)
        return False
    return True


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=1000)


def main() -> int:
    os.environ.update(common.environment(1))
    bench = Bench("soak", __doc__, "counts; seconds", add_options)
    kills = 6 if bench.quick else bench.options.kills
    model = serving.folder_of(bench.model(STORIES))
    legs: list[Numbers] = []
    sizes = [min(LEG, kills - start) for start in range(0, kills, LEG)]
    for number, size in enumerate(sizes):
        work = lambda n=number, s=size: leg(model, n, s)  # noqa: E731
        found = bench.measure(f"leg {number} of {len(sizes)}, {size} kills", work)
        legs.append(found)
        print(
            f"          {found['equal']} of {found['answers']} answers equal, "
            f"{found['failed']} failed, {found['retries']} retries, blocks returned: "
            f"{found['blocks_returned']}, {found['seconds']:.0f} s",
            flush=True,
        )
        bench.publish(totals(legs, kills), f"--kills {kills}")
    return 0


def totals(legs: list[Numbers], wanted: int) -> Numbers:
    """All legs together, as many as there are so far."""
    names = ("answers", "equal", "failed", "retries", "processes_left", "files_left", "seconds")
    total: Numbers = {name: sum(leg[name] for leg in legs) for name in names}
    by_role = {role: sum(leg["kills"][role] for leg in legs) for role in ROLES}
    returned = sum(leg["blocks_returned"] for leg in legs)
    total |= {"kills": sum(by_role.values()), "kills_by_role": by_role}
    total |= {"kills_wanted": wanted, "legs": len(legs), "legs_with_all_blocks": returned}
    return {
        "model": STORIES,
        "pools": kill_scene.POOLS,
        "streams": kill_scene.STREAMS,
        "total": total,
    }


if __name__ == "__main__":
    sys.exit(main())
