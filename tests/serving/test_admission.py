"""A running server shows what its target for time per token lets in, and holds to it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

from serving_world import CARD, answer, request_of, run, save_model, server, settings

from silva.control.admission import OFFERED_S, Admission
from silva.serving.backend import Backend, Status
from silva.serving.colocated import Colocated

NEVER_HELD_S = 1e-6
STREAMS, TOKENS = 4, 100


def decoder(status: Status) -> Any:
    """The peer that decodes."""
    return next(peer for peer in status.peers if peer.role in ("decode", "both"))


async def ask(backend: Backend, name: str, number: int) -> None:
    request = request_of(name, tuple(range(number, number + 5)), tokens=TOKENS)
    assert len(await answer(backend, request)) == TOKENS  # type: ignore[arg-type]


async def crowd(backend: Backend, wanted: int) -> tuple[int, Admission]:
    """The most that were seen to run together, and what was told then; asks until it is `wanted`."""
    await ask(backend, "warm", 0)  # no step is known before: then nobody is kept out
    most: int = 0
    told: Admission | None = None
    for turn in range(20):
        asked = [asyncio.create_task(ask(backend, f"{turn}-{n}", n)) for n in range(STREAMS)]
        while not all(task.done() for task in asked):
            peer = decoder(backend.status())
            if peer.running >= most and peer.admission and peer.admission.trades:
                most, told = peer.running, peer.admission
            await asyncio.sleep(0.01)
        await asyncio.gather(*asked)
        if told is not None and most >= wanted:
            break
    assert told is not None
    return most, told


@pytest.mark.parametrize("colocated", [False, True])
def test_a_tight_target_admits_a_smaller_batch(tmp_path: Path, colocated: bool) -> None:
    model = save_model(tmp_path)

    async def scene(target_s: float, wanted: int) -> tuple[int, Admission]:
        config = settings(
            tmp_path, colocated=colocated, silence_s=60.0, step={"tpot_target_s": target_s}
        )
        if not colocated:
            async with server(config, model) as front:
                found = await crowd(front, wanted)
                pool = front.status().pools["decode"].admission
                assert pool is not None and pool.target_s == target_s
                return found
        one = Colocated(config, model, [CARD])
        await one.open()
        try:
            return await crowd(one, wanted)
        finally:
            await one.close(0.0)

    async def both() -> None:
        most, told = await scene(0.0, wanted=2)
        assert most >= 2
        assert (told.target_s, told.batch) == (0.0, 64)
        assert [row.target_s for row in told.trades] == [0.0, *OFFERED_S]
        assert told.trades[0].batch == 64
        assert all(row.tpot_s > 0 for row in told.trades)
        most, told = await scene(NEVER_HELD_S, wanted=1)
        assert (most, told.batch, told.target_s) == (1, 1, NEVER_HELD_S)
        assert (told.trades[-1].target_s, told.trades[-1].batch) == (NEVER_HELD_S, 0)

    run(both())
