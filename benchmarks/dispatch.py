"""Dispatch and combine between expert ranks: bytes, latency, processor time, memory.

    python benchmarks/dispatch.py
    python benchmarks/dispatch.py --ranks 8 --hidden 7168 --tokens 128 --repeats 5
    python benchmarks/dispatch.py --quick

Ranks are processes of one thread each. Every rank sends its tokens to 8 of 32 experts, drawn evenly
with a fixed seed, and gets the weighted sums back. Experts give back what they are given, so that
nothing but the way there and back is measured. Three ways take turns within one run: the shared
memory of `silva.experts`, with exact tokens and with int8 ones, and its twin over all-to-alls of
torch.distributed (gloo), which sends exact ones. Seconds are those of one exchange by the clock, and
of the processor in all ranks together, helpers of the libraries among them.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    from torch import Tensor

    from silva.experts.exchange import SharedExchange
    from silva.experts.sizes import BufferSizes

    Exchange = Callable[[int, Tensor, Tensor, Tensor], Tensor]

SEED, EXPERTS, TOP_K = 0, 32, 8
TWIN = "torch.distributed"
PUBLISHED = {"ranks": 320, "local_batch": 96, "top_k": 8, "slots": 1, "hidden_size": 7168}
"""The deployment whose buffers are published: arXiv 2506.12708, section 4.2.1."""


@dataclass(frozen=True)
class Plan:
    """What is measured at one number of ranks."""

    ranks: int
    hidden: Sequence[int]
    tokens: Sequence[int]
    repeats: int
    seconds: float
    """Of one repetition of one way."""


def run_rank(rank: int, plan: Plan, store: str, told: Connection) -> None:
    """One rank's process; rank 0 tells what was found."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    file = dist.FileStore(store, plan.ranks)
    # A rank that has died must not keep the others, which are asked for nothing else.
    dist.init_process_group(
        "gloo", store=file, rank=rank, world_size=plan.ranks, timeout=timedelta(minutes=2)
    )
    found = [case(rank, plan, h, t) for h in plan.hidden for t in plan.tokens]
    if rank == 0:
        told.send(found)
    dist.barrier()
    dist.destroy_process_group()


def case(rank: int, plan: Plan, hidden: int, tokens: int) -> dict[str, Any]:
    """All ways at one size, in turns; the figures of the group, the same on every rank."""
    import torch

    source = torch.Generator().manual_seed(SEED * 1000 + rank)
    x = torch.randn(tokens, hidden, generator=source).to(torch.bfloat16)
    experts = torch.rand(tokens, EXPERTS, generator=source).topk(TOP_K).indices
    given = (x, experts, torch.rand(tokens, TOP_K, generator=source))
    ways, memory = exchanges(rank, plan.ranks, hidden, tokens)
    with torch.inference_mode():
        answers = {name: way(0, *given).float() for name, way in ways.items()}
        exact = x.float() * given[2].sum(dim=1, keepdim=True)
        worst = {
            name: float((made - exact).abs().max() / exact.abs().max())
            for name, made in answers.items()
        }
        rounds = {name: rounds_in(way, given, plan.seconds) for name, way in ways.items()}
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(plan.repeats):
            for name, way in ways.items():
                spent[name].append(timed(way, given, rounds[name]))
    shared = {name: way for name, way in ways.items() if name != TWIN}
    return {
        "ranks": plan.ranks,
        "hidden": hidden,
        "tokens": tokens,
        "memory": memory,
        "ways": {
            name: {
                "wall_s": common.spread([wall for wall, _ in runs]),
                "cpu_s": common.spread([cpu for _, cpu in runs]),
                "rounds": rounds[name],
                "worst_error": worst[name],
            }
            for name, runs in spent.items()
        },
        "bytes": {name: counted(way) for name, way in shared.items()},
        "ratio": {
            name: {
                clock: common.spread(
                    [t[n] / s[n] for t, s in zip(spent[TWIN], spent[name], strict=True)]
                )
                for n, clock in enumerate(("wall", "cpu"))
            }
            for name in shared
        },
    }


def exchanges(
    rank: int, ranks: int, hidden: int, tokens: int
) -> tuple[dict[str, Exchange], dict[str, dict[str, int]]]:
    """The ways by name, and how large a rank's memory of each is and should be."""
    import numpy as np
    import torch
    import torch.distributed as dist

    from silva.experts.collective import CollectiveExchange
    from silva.experts.exchange import SharedExchange
    from silva.experts.memory import OwnMemory
    from silva.experts.sizes import BufferSizes
    from silva.models.experts import ExpertWeights

    width = EXPERTS // ranks
    slots = {0: np.arange(EXPERTS).reshape(ranks, width)}
    ids = tuple(slots[0][rank].tolist())
    weights = torch.zeros(width, 0, hidden, dtype=torch.bfloat16)
    held = {0: ExpertWeights(ids, weights, weights.transpose(1, 2))}
    found: dict[str, Exchange] = {}
    memory: dict[str, dict[str, int]] = {}
    for wire in ("exact", "int8"):
        sizes = BufferSizes(ranks, tokens, TOP_K, width, hidden, 2, wire)
        own = OwnMemory(rank, sizes.total)
        members: list[Any] = [None] * ranks
        dist.all_gather_object(members, own.member)
        found[f"silva, {wire}"] = SharedExchange(
            sizes, own, members, held, slots, total=EXPERTS, run=returned
        )
        had = os.fstat(own.member.descriptor).st_size - sizes.control
        memory[f"silva, {wire}"] = {"bytes": had, "formula_bytes": formula(sizes)}
    group = dist.group.WORLD
    assert group is not None
    found[TWIN] = CollectiveExchange(group, held, slots, total=EXPERTS, run=returned)
    return found, memory


def returned(rows: Tensor, _counts: Tensor, _weights: object) -> Tensor:
    """An expert that gives back what it is given."""
    return rows


def formula(sizes: BufferSizes) -> int:
    """``ranks x max_tokens x msg_size`` for the way there and the way back, spelt out anew."""
    there = sizes.hidden_size + 512 if sizes.wire == "int8" else 2 * sizes.hidden_size
    messages = sizes.ranks * sizes.local_batch * min(sizes.top_k, sizes.slots)
    return messages * (there + 2 * sizes.hidden_size)


def rounds_in(way: Exchange, given: tuple[Tensor, ...], seconds: float) -> int:
    """How many exchanges take about so long, on all ranks the same."""
    import torch
    import torch.distributed as dist

    way(0, *given)
    wall, _ = timed(way, given, 5)
    rounds = torch.tensor([max(5, min(2000, int(seconds / wall)))])
    dist.broadcast(rounds, 0)
    return int(rounds)


def timed(way: Exchange, given: tuple[Tensor, ...], rounds: int) -> tuple[float, float]:
    """Seconds of one exchange: the slowest rank's by the clock, all ranks' of the processor."""
    import torch
    import torch.distributed as dist

    dist.barrier()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        way(0, *given)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    walls, cpus = torch.tensor([wall]), torch.tensor([cpu])
    dist.all_reduce(walls, dist.ReduceOp.MAX)
    dist.all_reduce(cpus, dist.ReduceOp.SUM)
    return float(walls) / rounds, float(cpus) / rounds


def counted(exchange: SharedExchange) -> dict[str, float]:
    """Bytes of the messages in other ranks' memory, by copy of a token."""
    there, back = exchange.traffic, exchange.sizes
    return {
        "dispatch": there.dispatch_bytes / max(1, there.tokens),
        "dispatch_formula": float(
            back.hidden_size + 512 if back.wire == "int8" else 2 * back.hidden_size
        ),
        "combine": there.combine_bytes / max(1, there.answers),
        "combine_formula": 2.0 * back.hidden_size,
    }


def published() -> dict[str, int]:
    """The sizes of buffers for the published deployment, computed and not allocated."""
    from silva.experts.sizes import BufferSizes

    sizes = BufferSizes(**PUBLISHED, item_bytes=2, wire="int8")
    return {"dispatch_bytes": sizes.dispatch, "combine_bytes": sizes.combine}


def measure(plan: Plan) -> list[dict[str, Any]]:
    """All sizes at one number of ranks, in processes of their own."""
    context = multiprocessing.get_context("fork")
    hears, says = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="silva-dispatch-") as folder:
        store = str(Path(folder) / "store")
        ranks = [
            context.Process(target=run_rank, args=(rank, plan, store, says), daemon=True)
            for rank in range(plan.ranks)
        ]
        for process in ranks:
            process.start()
        says.close()
        try:
            found: list[dict[str, Any]] = hears.recv()
        except EOFError:
            sys.exit(f"a rank of {plan.ranks} ended early; its error stands above")
        finally:
            for process in ranks:
                process.join(10)
                process.kill()
    return found


def shown(row: dict[str, Any]) -> str:
    """One case as a line for each way."""
    lines = []
    for name, way in row["ways"].items():
        ratio = row["ratio"].get(name)
        lines.append(
            f"EP {row['ranks']:<3}{row['tokens']:>4} x {row['hidden']:<6}{name:<19}"
            f"{1e3 * way['wall_s']['median']:>9.3f} ms {1e3 * way['cpu_s']['median']:>9.3f} CPU ms"
            + (
                f"   {ratio['wall']['median']:.2f} and {ratio['cpu']['median']:.2f} times less"
                if ratio
                else ""
            )
        )
    return "\n".join(lines)


def main() -> int:
    os.environ.update(common.environment(1))
    parser = common.make_parser(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8], choices=(2, 4, 8, 16))
    parser.add_argument("--hidden", type=int, nargs="+", default=[576, 7168])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 16, 128], help="of each rank")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a repetition of one way")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; nothing is published")
    asked = parser.parse_args()
    if asked.quick:
        asked.hidden, asked.tokens, asked.repeats, asked.seconds = [576], [1, 16], 2, 0.05
    import torch.distributed  # noqa: F401 - ranks are forked with what it has imported

    from silva.experts import collective, exchange  # noqa: F401

    circumstances = common.facts()
    print(common.heading(circumstances))
    print(f"seed      {SEED}\nunits     seconds of one exchange; {TOP_K} of {EXPERTS} experts\n")
    cases = []
    for ranks in asked.ranks:
        plan = Plan(ranks, asked.hidden, asked.tokens, asked.repeats, asked.seconds)
        for row in measure(plan):
            print(shown(row), flush=True)
            cases.append(row)
    usual = {name: parser.get_default(name) for name in ("ranks", "hidden", "tokens", "repeats")}
    words = [
        f"--{name} " + " ".join(map(str, value if isinstance(value, list) else [value]))
        for name, default in usual.items()
        if (value := getattr(asked, name)) != default
    ]
    command = " ".join(["python benchmarks/dispatch.py", *words])
    result = {"benchmark": "dispatch", "command": command, "seed": SEED, "units": "s; bytes"}
    result |= {"repeats": asked.repeats, "experts": EXPERTS, "top_k": TOP_K}
    result |= {"sizes": cases, "published": published()}
    path = (asked.work if asked.quick else asked.results) / "dispatch.json"
    common.write_json(path, {**circumstances, **result})
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
