"""A cache peer that leaves takes its RAM tier with it; what it had on disk is found by the others."""

from __future__ import annotations

import asyncio
from pathlib import Path

from serving_world import (
    answer,
    kill,
    request_of,
    run,
    save_model,
    server,
    settings,
    with_pools,
)

PROMPT = tuple(n % 250 for n in range(160))
FULL_BLOCKS = 160 // 16 - 1  # the last token of a prompt is always computed


def test_blocks_of_a_cache_peer_that_was_scaled_away_are_found(tmp_path: Path) -> None:
    model, kept = save_model(tmp_path / "model"), tmp_path / "kv"

    async def scene() -> None:
        async with server(with_pools(settings(kept), cache=3), model) as front:
            calm = await answer(front, request_of("first", PROMPT))
            while len(list(kept.rglob("*.kv"))) < FULL_BLOCKS:
                await asyncio.sleep(0.05)
            holders = {p.relative_to(kept).parts[0] for p in kept.rglob("*.kv")}
            assert len(holders) > 1  # the ring has dealt the keys out
            await front.scale({"cache": 1})
            while sum(p.role == "cache" for p in front.status().peers) > 1:
                await asyncio.sleep(0.02)
            await kill(front, "prefill")  # the next one has nothing in its own pool
            outputs = [o async for o in front.generate(request_of("second", PROMPT))]
            assert [t for o in outputs for t in o.tokens] == calm
            assert outputs[-1].cached_tokens == 16 * FULL_BLOCKS

    run(scene())
