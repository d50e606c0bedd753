"""Peers killed again and again under streams: is any answer lost or changed, is anything left behind?

    python benchmarks/serving_soak.py --kills 1000

A disaggregated server of stories260k answers without a pause; peers of random roles are ended with
SIGKILL at random moments. A leg is one life of the server: after its kills the blocks, processes and
files are counted. Legs that are done are kept, so a soak that was interrupted goes on with the next.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import serving
from serving import STORIES, Bench, Numbers

sys.path.insert(0, str(common.ROOT / "tests" / "faults"))

LEG = 50
WORKERS = 16
PAUSE_S = (0.05, 0.6)
ROLES = ("prefill", "decode", "cache")
POOLS = {"prefill": 2, "decode": 2, "cache": 1}
TOKENS = 24
PROMPTS = 20


async def leg(model: Path, folder: Path, number: int, kills: int) -> Numbers:
    """One life of a server with so many kills."""
    import serving_world as world

    dice = random.Random(number)
    asked = world.prompts(PROMPTS)
    found: Numbers = {"kills": dict.fromkeys(ROLES, 0), "answers": 0, "equal": 0, "failed": 0}
    over = asyncio.Event()
    config = world.with_pools(world.settings(folder / "kv"), **POOLS)
    async with world.server(config, model) as front:
        calm = await world.answers(front, asked, TOKENS)

        async def ask_on(worker: int) -> None:
            asking = random.Random(f"{number}/{worker}")
            for turn in range(sys.maxsize):
                if over.is_set():
                    return
                which = asking.randrange(PROMPTS)
                request = world.request_of(f"w{worker}-{turn}", asked[which], TOKENS)
                try:
                    heard = await world.answer(front, request)
                except Exception as error:
                    print(f"          failed: {error!r}", flush=True)
                    found["failed"] += 1
                    continue
                found["answers"] += 1
                found["equal"] += heard == calm[which]

        workers = [asyncio.create_task(ask_on(worker)) for worker in range(WORKERS)]
        for _ in range(kills):
            await asyncio.sleep(dice.uniform(*PAUSE_S))
            role = dice.choice(ROLES)
            await world.kill(front, role)
            found["kills"][role] += 1
        over.set()
        await asyncio.gather(*workers)
        await world.all_ready(front)
        found["blocks_returned"] = await returned(world, front)
        found["retries"] = front.status().counters["retries"]
    return found


async def returned(world: Any, front: Any) -> bool:
    """Whether all blocks are free once nothing runs."""
    try:
        await world.settled(front)
    except AssertionError as error:
        print(f"          {error}", flush=True)
        return False
    return True


def play(model: Path, number: int, kills: int) -> Numbers:
    """One leg in a process of its own, and what it left behind."""
    start = time.perf_counter()
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as cache,
        tempfile.TemporaryDirectory(prefix="soak-") as scratch,
    ):
        said = Path(cache) / "said.json"
        words = ("--leg", number, "--kills", kills, "--model", model, "--said", said)
        child = subprocess.Popen(
            [sys.executable, __file__, *map(str, words)],
            # The sockets of a server lie in the folder for temporary files.
            env=common.environment(1) | {"TMPDIR": scratch},
            start_new_session=True,
            preexec_fn=serving.end_with_parent,
        )
        if child.wait():
            sys.exit(f"leg {number} ended with {child.returncode}")
        found = common.read_json(said)
        found["processes_left"] = len(session(child.pid))
        found["files_left"] = sum(1 for _ in Path(scratch).rglob("*"))
    found["seconds"] = time.perf_counter() - start
    return found


def session(leader: int) -> list[int]:
    """Processes of a session that are alive, some seconds after it should have ended."""
    import psutil

    def alive() -> list[int]:
        return [pid for pid in psutil.pids() if pid != leader and _session_of(pid) == leader]

    for _ in range(50):
        if not alive():
            break
        time.sleep(0.1)
    return alive()


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=1000)
    for name in ("--leg", "--model", "--said"):  # of the process of one leg
        parser.add_argument(name, help=argparse.SUPPRESS)


def main() -> int:
    if "--leg" in sys.argv:
        parser = argparse.ArgumentParser()
        add_options(parser)
        one = parser.parse_args()
        folder = Path(one.said).parent
        found = asyncio.run(leg(Path(one.model), folder, int(one.leg), one.kills))
        common.write_json(Path(one.said), found)
        return 0
    bench = Bench("soak", __doc__, "counts; seconds", add_options)
    kills = 6 if bench.quick else bench.options.kills
    model = serving.folder_of(bench.model(STORIES))
    legs: list[Numbers] = []
    sizes = [min(LEG, kills - start) for start in range(0, kills, LEG)]
    for number, size in enumerate(sizes):
        work = lambda n=number, s=size: play(model, n, s)  # noqa: E731
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
    return {"model": STORIES, "pools": POOLS, "streams": WORKERS, "total": total}


if __name__ == "__main__":
    sys.exit(main())
