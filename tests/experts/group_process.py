"""Ranks as processes, some killed and replaced: `group_process.py MODEL FOLDER VICTIM...`.

One is replaced when the others have finished without it; of several, when the others have seen that
they are too few.

Prints what happened as JSON. Ranks are forked from this process, which has imported all they need.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from group_cases import generate

from silva.experts.group import TooFewError
from silva.experts.meeting import Meeting
from silva.experts.ranked import RankedModel
from silva.experts.spread import Spread, load_ranked

RANKS, COUNT, KILL_AT = 4, 24, 5
SPREAD = Spread(RANKS, redundant=0, rebalance_s=0.0)
WAIT_S, QUIET_S = 300, 2.0


class Patient:
    """A rank's model that computes a pass again when enough ranks are there for it."""

    def __init__(self, ranked: RankedModel, news: threading.Event, told: Connection) -> None:
        self.logits = ranked.logits
        self._ranked, self._news, self._told = ranked, news, told

    def hidden(self, *given: Any) -> torch.Tensor:
        while True:
            try:
                return self._ranked.hidden(*given)
            except TooFewError:
                self._told.send(("too few", None))
                idle(self._ranked, self._news, self._ranked.group.enough)


def run_rank(rank: int, dies: bool, model: Path, folder: Path, told: Connection) -> None:
    torch.set_num_threads(1)
    news = threading.Event()
    ranked = load_ranked(model, rank, SPREAD, Meeting(folder, RANKS), news=news.set)
    told.send(("formed", None))

    def between(step: int) -> None:
        if step == KILL_AT:
            told.send(("under way", None))
            if dies:
                signal.pause()

    patient = Patient(ranked, news, told)
    tokens, _ = generate(patient, [rank + 1, 7], COUNT, between)
    told.send(("done", {"tokens": tokens, "repeated": ranked.repeated}))
    idle(ranked, news, told.poll)
    told.recv()
    # What is moved still goes on by itself; then nobody votes any more.
    seen, since_s = -1, 0.0

    def quiet() -> bool:
        nonlocal seen, since_s
        if ranked.group.number != seen:
            seen, since_s = ranked.group.number, time.monotonic()
        return time.monotonic() - since_s > QUIET_S

    idle(ranked, news, quiet)
    tables = ranked.group.tables
    told.send(("end", {"alive": sorted(ranked.group.alive()), "tables": tables.tolist()}))
    idle(ranked, news, told.poll)
    ranked.group.close()


def idle(ranked: RankedModel, news: threading.Event, over: Callable[[], bool]) -> None:
    """Take part in what others compute."""
    while not over():
        news.clear()
        if ranked.group.sleep():
            news.wait(0.1)
        else:
            with suppress(TooFewError):
                ranked.group.take_part()


def main(model: Path, folder: Path, victims: list[int]) -> dict[str, Any]:
    context = multiprocessing.get_context("fork")
    running: dict[int, tuple[Any, Connection]] = {}

    def start(rank: int, *, dies: bool) -> None:
        ours, theirs = context.Pipe()
        args = (rank, dies, model, folder, theirs)
        process = context.Process(target=run_rank, args=args, daemon=True)
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

    def replace() -> None:
        for rank in victims:
            start(rank, dies=False)
        for rank in victims:
            heard(rank, "formed")

    for rank in range(RANKS):
        start(rank, dies=rank in victims)
    for rank in range(RANKS):
        heard(rank, "formed")
    # The victims stand still between two passes: the others wait for their votes.
    for rank in victims:
        heard(rank, "under way")
    for rank in victims:
        os.kill(running[rank][0].pid, signal.SIGKILL)
    others = [rank for rank in range(RANKS) if rank not in victims]
    for rank in others:
        heard(rank, "under way")
    if len(victims) > 1:
        for rank in others:
            heard(rank, "too few")
        replace()
    done = {rank: heard(rank, "done") for rank in others}
    if len(victims) == 1:
        replace()
    for rank in victims:
        heard(rank, "under way")
    done |= {rank: heard(rank, "done") for rank in victims}
    for _, told in running.values():
        told.send("stop")
    ends = {rank: heard(rank, "end") for rank in sorted(running)}
    for _, told in running.values():
        told.send("leave")
    for process, _ in running.values():
        process.join(10)
    return {"done": done, "ends": ends}


if __name__ == "__main__":
    found = main(Path(sys.argv[1]), Path(sys.argv[2]), [int(word) for word in sys.argv[3:]])
    print(json.dumps(found))
