"""From the command to the first token, from `silva scale` to one more peer, and the memory of it all.

    python benchmarks/serving_start.py

The weights are converted and in the page cache. Memory is the proportional set size (Linux): a page
that several processes map counts for each of them by its share, so the sums are what is really used.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import common
import serving
from serving import SMOLLM2, STORIES, Bench, Numbers

MODES = {"disaggregated": (), "colocated": ("--colocated",)}
LIMITS = {"first_token_s": 8.0, "second_peer_s": 2.0}
PROMPT = 16
POLL_S = 0.01


def warm(folder: Path) -> None:
    """Read the weights once."""
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            while stream.read(1 << 24):
                pass


def first_token(bench: Bench, path: str, body: Numbers, options: tuple[str, ...]) -> Numbers:
    """Seconds from the start of the command to the address and to the first token."""
    with serving.serving(bench.folder / "server", path, *options) as server:
        announced_s = time.perf_counter() - server.started_s
        outcome = serving.stream(server.url, [body])[0]
        # The same clock: perf_counter.
        return {
            "announced_s": announced_s,
            "first_token_s": outcome.tokens_s[0] - server.started_s,
        }


def scaled(server: serving.Server, role: str, count: int) -> Numbers:
    """Seconds from the start of `silva scale`, and from its end, to one more ready peer."""
    command = [*common.silva_command(), "scale", f"{role}={count}", "--url", server.url]
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    asked_s = ready_s = None
    while ready_s is None:
        peers = server.status()["peers"]
        now_s = time.perf_counter() - start
        own = [peer["state"] for peer in peers if peer["role"] == role]
        asked_s = now_s if asked_s is None and len(own) == count else asked_s
        ready_s = now_s if own.count("ready") == count else None
        if now_s > serving.START_S:
            sys.exit(f"no {role} peer came")
        time.sleep(POLL_S)
    child.wait()
    return {"from_command_s": ready_s, "from_request_s": ready_s - asked_s}


def maps_of(pid: int) -> list[tuple[str, int, int]]:
    """Path, resident bytes and proportional bytes of each mapping of a process."""
    found, path = [], ""
    numbers: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if first.endswith(":"):
            numbers[first] = int(rest.split()[0]) * 1024 if rest.split()[-1] == "kB" else 0
            if first == "Pss:":
                found.append((path, numbers["Rss:"], numbers["Pss:"]))
        else:
            path = line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) == 6 else ""
    return found


def memory(server: serving.Server, weights: Path) -> Numbers:
    """Proportional bytes of every process of a server, and of the weights among them."""
    import psutil

    names = {peer["pid"]: peer["name"] for peer in server.status()["peers"]}
    names |= {server.process.pid: names.get(server.process.pid, "front")}
    processes: Numbers = {}
    for child in [server.process, *psutil.Process(server.process.pid).children(recursive=True)]:
        maps = maps_of(child.pid)
        own = [(rss, pss) for path, rss, pss in maps if path.startswith(str(weights))]
        name = names.get(child.pid, "helper")
        row = processes.setdefault(
            name, {"count": 0, "bytes": 0, "weights_bytes": 0, "weights_resident_bytes": 0}
        )
        row["count"] += 1
        row["bytes"] += sum(pss for _, _, pss in maps)
        row["weights_bytes"] += sum(pss for _, pss in own)
        row["weights_resident_bytes"] += sum(rss for rss, _ in own)
    total = {key: sum(row[key] for row in processes.values()) for key in row}
    files = sum(file.stat().st_size for file in weights.glob("*.safetensors"))
    return {"processes": processes, "total": total, "weights_file_bytes": files}


def grown(bench: Bench, path: str, folder: Path, body: Numbers, text: Any, times: int) -> Numbers:
    """One server: a second peer of each role, again and again, then its memory under load."""
    found: Numbers = {"decode": [], "prefill": []}
    with serving.serving(bench.folder / "server", path) as server:
        serving.stream(server.url, [body])
        for _ in range(times):
            for role in ("decode", "prefill"):
                found[role].append(scaled(server, role, 2))
                subprocess.run(
                    [*common.silva_command(), "scale", f"{role}=1", "--url", server.url],
                    stdout=subprocess.DEVNULL,
                    check=True,
                )
                while sum(p["role"] == role for p in server.status()["peers"]) > 1:
                    time.sleep(POLL_S)
        for role in ("decode", "prefill"):
            scaled(server, role, 2)
        bodies = [serving.completion(body["model"], text.cut(n, 64), 8) for n in range(8)]
        serving.stream(server.url, bodies)  # so that every peer has touched all weights
        found["memory"] = memory(server, folder)
    return found


def main() -> int:
    bench = Bench("start", __doc__, "seconds; bytes")
    model, times = (STORIES, 1) if bench.quick else (SMOLLM2, 5)
    path = bench.model(model)
    folder = serving.folder_of(path)
    warm(folder)
    text = serving.Text(folder)
    body = serving.completion(model, text.cut(1, PROMPT), 1)
    starts: Numbers = {mode: [] for mode in MODES}
    for number in range(times):
        for mode, options in MODES.items():
            work = lambda o=options: first_token(bench, path, body, o)  # noqa: E731
            starts[mode].append(bench.measure(f"start, {mode}, {number}", work))
            print(f"          first token after {starts[mode][-1]['first_token_s']:.2f} s")
    peers = bench.measure("peers", lambda: grown(bench, path, folder, body, text, times))
    content: Numbers = {"model": model, "repetitions": times, "limits": LIMITS, "figures": {}}
    for mode, rows in starts.items():
        content["figures"][mode] = {k: common.spread(row[k] for row in rows) for k in rows[0]}
    for role in ("decode", "prefill"):
        rows = peers[role]
        content["figures"][role] = {k: common.spread(row[k] for row in rows) for k in rows[0]}
        median = content["figures"][role]["from_command_s"]["median"]
        print(f"second {role} peer after {median:.2f} s")
    content["memory"] = peers["memory"]
    total = peers["memory"]["total"]
    print(
        f"memory {total['bytes'] / 1e6:.0f} MB, of them weights {total['weights_bytes'] / 1e6:.0f} "
        f"MB of a file of {peers['memory']['weights_file_bytes'] / 1e6:.0f} MB"
    )
    bench.publish(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
