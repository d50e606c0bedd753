"""A conversation over real peers: the next turn finds what was answered, and only its own does."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "faults"))

from serving_world import prompts, save_model, server, settings, settled

from silva.control.request import Output, Request, SamplingParams
from silva.serving.front import Front

GREEDY = SamplingParams(max_tokens=60, temperature=0.0, logprobs=2)
BLOCK = 16
TIE = 1e-4


async def heard(front: Front, request: Request) -> Output:
    """All outputs of a request as one."""
    outputs = [output async for output in front.generate(request)]
    tokens = tuple(token for output in outputs for token in output.tokens)
    logprobs = tuple(each for output in outputs for each in output.logprobs)
    return replace(outputs[-1], tokens=tokens, logprobs=logprobs)


async def cached(front: Front, objects: int) -> None:
    """Wait until the cache peers have so many blocks."""
    while front.status().cache.objects < objects:
        await asyncio.sleep(0.05)


def same(one: Output, other: Output) -> None:
    """The tie rule: equal up to the first two best tokens that are nearly as likely."""
    tokens = zip(one.tokens, other.tokens, strict=True)
    for (mine, yours), logprob in zip(tokens, one.logprobs, strict=True):
        (_, best), (_, second) = (*logprob.top, (0, 0.0), (0, -1.0))[:2]
        if mine != yours:
            assert best - second < TIE
            return


def test_the_next_turn_finds_the_answer_in_the_cache_and_nobody_else_does(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    question = prompts(1)[0][:40]

    async def scene() -> None:
        async with server(settings(tmp_path / "kv"), model) as front:
            first = Request("turn 1", question, GREEDY, namespace="alice")
            said = await heard(front, first)
            assert len(said.tokens) == 60 and said.cached_tokens == 0
            # the last token has no keys and values
            full = (len(question) + 60 - 1) // BLOCK
            await cached(front, full)
            await settled(front)
            more = (*question, *said.tokens, *prompts(2)[1][:5])
            turns = {
                name: await heard(front, Request(f"turn 2, {name}", more, GREEDY, namespace=name))
                for name in ("alice", "bob", "")
            }
            hits = {name: output.cached_tokens for name, output in turns.items()}
            assert hits == {"alice": full * BLOCK, "bob": 0, "": 0}
            # what the decode peer wrote serves as well as what the prefill peer computes
            same(turns["alice"], turns["bob"])
            await settled(front)

    asyncio.run(asyncio.wait_for(scene(), 240))
