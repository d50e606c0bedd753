"""Ranks as processes, one of which is killed and replaced: `group_process.py MODEL FOLDER`.

Prints what happened as JSON. Ranks are forked from this process, which has imported all they need.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from group_cases import generate

from silva.experts.meeting import Meeting
from silva.experts.spread import Spread, load_ranked

RANKS, VICTIM, COUNT, KILL_AT = 4, 0, 24, 5
"""The victim is the rank that leads."""
SPREAD = Spread(RANKS, redundant=0, rebalance_s=0.0)
WAIT_S = 300


def run_rank(rank: int, model: Path, folder: Path, told: Connection) -> None:
    torch.set_num_threads(1)
    news = threading.Event()
    ranked = load_ranked(model, rank, SPREAD, Meeting(folder, RANKS), news=news.set)
    told.send(("formed", None))

    def between(step: int) -> None:
        if step == KILL_AT:
            told.send(("under way", None))
            if rank == VICTIM:
                signal.pause()

    # One that joins late must not stop: it computes another prompt from the beginning.
    anew = ranked.group.seen > 0
    tokens, _ = generate(ranked, [rank + 1, 7], COUNT, (lambda step: None) if anew else between)
    told.send(("done", {"tokens": tokens, "repeated": ranked.repeated}))
    while not told.poll(0):
        news.clear()
        if ranked.group.sleep():
            news.wait(0.1)
        else:
            ranked.group.take_part()
    tables = ranked.group.tables
    told.send(("end", {"alive": sorted(ranked.group.alive()), "tables": tables.tolist()}))


def main(model: Path, folder: Path) -> dict[str, Any]:
    context = multiprocessing.get_context("fork")
    running: dict[int, tuple[Any, Connection]] = {}

    def start(rank: int) -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=run_rank, args=(rank, model, folder, theirs), daemon=True)
        process.start()
        theirs.close()
        running[rank] = (process, ours)

    def heard(rank: int, what: str) -> Any:
        told = running[rank][1]
        if not told.poll(WAIT_S):
            raise TimeoutError(f"rank {rank} did not say {what}")
        name, content = told.recv()
        assert name == what, (rank, name, what)
        return content

    for rank in range(RANKS):
        start(rank)
    for rank in range(RANKS):
        heard(rank, "formed")
    # The victim stands still between two passes: the others wait for its vote when it is killed.
    heard(VICTIM, "under way")
    os.kill(running[VICTIM][0].pid, signal.SIGKILL)
    others = [rank for rank in range(RANKS) if rank != VICTIM]
    for rank in others:
        heard(rank, "under way")
    done = {rank: heard(rank, "done") for rank in others}
    start(VICTIM)
    heard(VICTIM, "formed")
    done[VICTIM] = heard(VICTIM, "done")
    for _, told in running.values():
        told.send("stop")
    ends = {rank: heard(rank, "end") for rank in sorted(running)}
    for process, _ in running.values():
        process.join(10)
    return {"done": done, "ends": ends}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
