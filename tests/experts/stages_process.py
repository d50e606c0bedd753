"""Ranks as processes that share steps, by both trades: `stages_process.py MODEL FOLDER`.

The last one is killed in a step, and replaced. Prints as JSON, by rank, what it sent by each trade, who
was left, and who is there in the end. Ranks are forked from this process, which has imported all
they need.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
import torch.distributed as dist
from group_process import idle
from torch import Tensor

from silva.experts.collective import CollectiveExchange
from silva.experts.meeting import Meeting
from silva.experts.ranked import RankedModel
from silva.experts.spread import Spread, load_ranked
from silva.experts.stages import StagedModel
from silva.experts.trade import CollectiveTrade
from silva.models.deepseek_loader import load_deepseek
from silva.models.latent import CausalLatents, LatentHeads

RANKS, LAST, EXPERTS, WAIT_S = 4, 3, 16, 300
SPREAD = Spread(RANKS, rebalance_s=0.0, staged=True)
LENGTHS = [9, 1, 4]
TOKENS = torch.tensor([5, 17, 3, 80, 1, 2, 3, 4, 5, 6, 44, 45, 9, 33])


class Killed(CausalLatents):
    """The memory of a rank that is killed in the second layer."""

    def __call__(self, layer: int, q: Tensor, latent: Tensor, heads: LatentHeads) -> Tensor:
        if layer == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(layer, q, latent, heads)


def logits(model: Any, memory: type[CausalLatents] = CausalLatents) -> Tensor:
    positions = torch.cat([torch.arange(n) for n in LENGTHS])
    with torch.inference_mode():
        return model.logits(model.hidden(TOKENS, positions, memory(LENGTHS)))


def twin(model: Path, rank: int, store: Path) -> StagedModel:
    """The same over torch.distributed."""
    file = dist.FileStore(str(store), RANKS)
    dist.init_process_group("gloo", store=file, rank=rank, world_size=RANKS)
    assert dist.group.WORLD is not None
    group, table = dist.group.WORLD, np.arange(EXPERTS).reshape(RANKS, -1)
    spread = load_deepseek(
        model,
        keeps=lambda layer, expert: expert in table[rank],
        exchange=lambda experts: CollectiveExchange(
            group, experts, dict.fromkeys(experts, table), total=EXPERTS
        ),
    )
    return StagedModel(spread, CollectiveTrade(group))


def run_rank(rank: int, model: Path, folder: Path, told: Connection) -> None:
    torch.set_num_threads(1)
    wanted, plain = logits(load_deepseek(model)), twin(model, rank, folder / "store")
    torch.testing.assert_close(logits(plain), wanted, atol=1e-4, rtol=1e-5)
    news = threading.Event()
    ranked = load_ranked(
        model, rank, SPREAD, Meeting(folder, RANKS), news=news.set, patience_s=WAIT_S
    )
    torch.testing.assert_close(logits(ranked), wanted, atol=1e-4, rtol=1e-5)
    staged = ranked.model
    assert isinstance(staged, StagedModel)
    sent = [{goods.name: n for goods, n in m.trade.traffic.items()} for m in (plain, staged)]
    told.send(sent)
    again = logits(ranked, Killed if rank == LAST else CausalLatents)
    torch.testing.assert_close(again, wanted, atol=1e-4, rtol=1e-5)
    told.send({"alive": sorted(ranked.group.alive()), "repeated": ranked.repeated})
    # Others may have to compute it again when this one has finished.
    go_on(ranked, news, told, wanted)


def run_another(model: Path, folder: Path, told: Connection) -> None:
    """In the place of the last rank."""
    torch.set_num_threads(1)
    wanted, news = logits(load_deepseek(model)), threading.Event()
    ranked = load_ranked(
        model, LAST, SPREAD, Meeting(folder, RANKS), news=news.set, patience_s=WAIT_S
    )
    staged = ranked.model
    assert isinstance(staged, StagedModel)
    staged.steps = 2
    told.send("joined")
    go_on(ranked, news, told, wanted)


def go_on(ranked: RankedModel, news: threading.Event, told: Connection, wanted: Tensor) -> None:
    """One step more, when all are there."""
    idle(ranked, news, told.poll)
    told.recv()
    torch.testing.assert_close(logits(ranked), wanted, atol=1e-4, rtol=1e-5)
    told.send(sorted(ranked.group.alive()))
    idle(ranked, news, told.poll)
    ranked.group.close()


def main(model: Path, folder: Path) -> dict[str, Any]:
    context = multiprocessing.get_context("fork")

    def start(work: Callable[..., None], *given: Any) -> tuple[Any, Connection]:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(*given, model, folder, theirs), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    def heard(told: Connection) -> Any:
        if not told.poll(WAIT_S):
            raise TimeoutError("a rank said nothing")
        return told.recv()

    running = [start(run_rank, rank) for rank in range(RANKS)]
    sent = [heard(told) for _, told in running]
    left = [heard(told) for _, told in running[:-1]]
    running[LAST][0].join(60)
    code, running[LAST] = running[LAST][0].exitcode, start(run_another)
    assert heard(running[LAST][1]) == "joined"
    for _, told in running:
        told.send("go on")
    ends = [heard(told) for _, told in running]
    for _, told in running:
        told.send("leave")
    for process, _ in running:
        process.join(60)
    codes = [code, *(process.exitcode for process, _ in running)]
    return {"sent": sent, "left": left, "ends": ends, "codes": codes}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
