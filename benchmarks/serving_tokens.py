"""Served greedy tokens against transformers, on prompts of real text, in every way of serving.

    python benchmarks/serving_tokens.py

Fifty prompts of 1 to 1,500 tokens (as far as the context reaches), all sent at once through the
API, with log-probabilities. Equal means: the same tokens up to the first position whose two best
logits lie within 1e-4 of each other (a tie), log-probabilities within 1e-4 up to there.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import serving
from serving import SMOLLM2, STORIES, Bench, Numbers

sys.path.insert(0, str(common.ROOT / "tests" / "serving" / "engine"))

MODELS = (STORIES, SMOLLM2)
TOKENS = 16
"""Of each answer."""
TOLERANCE = 1e-4
LONGEST = {SMOLLM2: 1500, STORIES: 480}
SMALL_KV = {SMOLLM2: "80MiB", STORIES: "1MiB"}
"""Room for the longest prompt and not much more: not for the second longest beside it."""
BLOCK_TOKENS = 16
MODES: dict[str, tuple[str, ...]] = {
    "disaggregated": (),
    "colocated": ("--colocated",),
    "chunked": ("--set", "serve.step.chunk_tokens=24", "--set", "serve.step.most_running=24"),
    "preempted": (
        *("--colocated", "--kv", "KV"),
        *("--set", "serve.kv.block_tokens=2", "--set", "serve.step.chunk_tokens=2048"),
    ),
    "tcp": ("--transfer", "tcp"),
}
AGAIN = {"disaggregated": "cached, own pool", "restarted": "cached, disk"}


def lengths(count: int, longest: int) -> list[int]:
    """From 1 to `longest`, each about as many times longer than the one before."""
    return [round(longest ** (n / (count - 1))) for n in range(count)]


def expected(folder: Path, prompts: Sequence[Sequence[int]]) -> list[Numbers]:
    """What transformers says, one prompt at a time."""
    import torch
    import transformers
    from engine_world import oracle

    transformers.utils.logging.disable_progress_bar()
    stock = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    stock.generation_config.eos_token_id = None
    found = []
    for number, prompt in enumerate(prompts):
        said = oracle(stock, prompt, TOKENS)
        found.append({"tokens": said.tokens, "logprobs": said.logprobs, "tie": said.tie})
        if number % 10 == 9:
            print(f"          transformers: {number + 1} of {len(prompts)}", flush=True)
    return found


def answers(
    url: str, model: str, prompts: Sequence[Sequence[int]], *, displace: bool = False
) -> list[Numbers]:
    """Tokens, log-probabilities and cached tokens of all prompts, sent at once.

    `displace`: the last one, the longest, is sent first; the others come while it runs, the longest
    of them first, and are more urgent.
    """
    import httpx

    async def main() -> list[Numbers]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=600, limits=limits, trust_env=False) as http:

            async def one(prompt: Sequence[int], priority: int = 0) -> Numbers:
                body = serving.completion(model, prompt, TOKENS, logprobs=1, priority=priority)
                response = await http.post(f"{url}/v1/completions", json=body)
                response.raise_for_status()
                return response.json()

            async def runs() -> bool:
                status = (await http.get(f"{url}/admin/v1/status")).json()
                return any(peer["running"] for peer in status["peers"])

            if not displace:
                return await asyncio.gather(*map(one, prompts))
            *rest, longest = prompts
            first = asyncio.create_task(one(longest, priority=1))
            while not first.done() and not await runs():
                await asyncio.sleep(0.005)
            said = await asyncio.gather(*map(one, reversed(rest)))
            return [*reversed(said), await first]

    return [
        {
            "tokens": body["choices"][0]["token_ids"],
            "logprobs": body["choices"][0]["logprobs"]["token_logprobs"],
            "cached": body["usage"]["prompt_tokens_details"]["cached_tokens"],
        }
        for body in asyncio.run(main())
    ]


def compare(said: Sequence[Numbers], wanted: Sequence[Numbers]) -> Numbers:
    """How many prompts agree, how many have ties, and the worst difference of log-probabilities."""
    equal, worst = 0, 0.0
    for own, other in zip(said, wanted, strict=True):
        until = other["tie"]
        same = own["tokens"][:until] == other["tokens"][:until]
        pairs = zip(own["logprobs"][:until], other["logprobs"][:until], strict=same)
        apart = max((abs(a - b) for a, b in pairs), default=0.0) if same else 0.0
        worst = max(worst, apart)
        equal += same and apart <= TOLERANCE and len(own["tokens"]) == TOKENS
    return {
        "prompts": len(said),
        "equal": equal,
        "ties": sum(other["tie"] < TOKENS for other in wanted),
        "tokens_compared": sum(other["tie"] for other in wanted),
        "worst_logprob_difference": worst,
        "cached_tokens": sum(own["cached"] for own in said),
    }


def totals(status: Numbers) -> Numbers:
    """What a server has done so far that tells one way of serving from another."""

    def of(name: str, *roles: str) -> int:
        return sum(peer[name] for peer in status["peers"] if peer["role"] in roles)

    return {
        "preempted": of("preempted", "decode", "both"),
        "prompt_steps": of("steps", "prefill"),
        "decode_steps": of("steps", "decode"),
        "blocks_from_cache_peers": status["cache"]["hits"],
    }


TRIED: dict[str, tuple[str, Callable[[Numbers], bool]]] = {
    "disaggregated": ("handed over", lambda row: row["decode_steps"] > 0),
    "tcp": ("handed over", lambda row: row["decode_steps"] > 0),
    # With a step or less for each prompt, none would have been cut.
    "chunked": ("chunked", lambda row: row["prompt_steps"] > row["prompts"]),
    "preempted": ("preempted", lambda row: row["preempted"] > 0),
    AGAIN["disaggregated"]: (
        "cached in the peer's own pool",
        lambda row: row["cached_tokens"] > BLOCK_TOKENS * row["blocks_from_cache_peers"],
    ),
    AGAIN["restarted"]: (
        "found on disk",
        lambda row: min(row["cached_tokens"], row["blocks_from_cache_peers"]) > 0,
    ),
}
"""By way of serving: what it is there for, and whether that happened."""


def failure(way: str, row: Numbers) -> str:
    """Why a way of serving does not pass; empty where it does.

    A way in which nothing happened that it is named for was not tried at all.
    """
    if row["equal"] < row["prompts"]:
        return f"{way}: {row['equal']} of {row['prompts']} equal"
    what, happened = TRIED.get(way, ("", lambda _: True))
    return "" if happened(row) else f"{way}: nothing was {what}"


class Case:
    """One model with its prompts and what transformers says to them."""

    def __init__(self, bench: Bench, model: str, count: int, longest: int) -> None:
        self.bench, self.model, self.path = bench, model, bench.model(model)
        folder = serving.folder_of(self.path)
        text = serving.Text(folder)
        self.prompts = [text.cut(n, size) for n, size in enumerate(lengths(count, longest))]
        key = f"{model}: transformers"
        self.wanted = bench.measure(key, lambda: {"said": expected(folder, self.prompts)})["said"]

    def judge(self, server: serving.Server, *, displace: bool = False) -> Numbers:
        before = totals(server.status())
        said = answers(server.url, self.model, self.prompts, displace=displace)
        # Peers report twice a second.
        time.sleep(1.0)
        spent = {name: n - before[name] for name, n in totals(server.status()).items()}
        return compare(said, self.wanted) | spent

    def run(self, mode: str) -> Numbers:
        """All results of one way of serving, and of a second pass where there is one."""
        options = [SMALL_KV[self.model] if o == "KV" else o for o in MODES[mode]]
        folder = self.bench.folder / "server"
        found: dict[str, Any] = {}
        with serving.serving(folder, self.path, *options) as server:
            found[mode] = self.judge(server, displace=mode == "preempted")
            if mode in AGAIN:
                found[AGAIN[mode]] = self.judge(server)
        if mode in AGAIN:
            with serving.serving(folder, self.path, *options, keep=True) as server:
                found[AGAIN["restarted"]] = self.judge(server)
        for name, row in found.items():
            print(
                f"          {self.model}, {name}: {row['equal']} of {row['prompts']} equal, "
                f"worst difference {row['worst_logprob_difference']:.1e}, "
                f"{row['cached_tokens']} cached, {row['preempted']} preempted"
            )
        return found


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--prompts", type=int, default=50, help="of lengths up to the longest")
    parser.add_argument(
        "--check", action="store_true", help="publish nothing; exit with 1 unless all ways pass"
    )


def main() -> int:
    bench = Bench("tokens", __doc__, "prompts; tokens; natural logarithms", add_options)
    chosen = bench.options.models
    count = 8 if bench.quick else bench.options.prompts
    models: Numbers = {}
    for model in chosen:
        longest = 60 if bench.quick else LONGEST[model]
        case = Case(bench, model, count, longest)
        modes: Numbers = {}
        for mode in MODES:
            modes |= bench.measure(f"{model}: {mode}", lambda m=mode, c=case: c.run(m))
        models[model] = {"longest_prompt": longest, "modes": modes}
    content = {"answer_tokens": TOKENS, "tolerance": TOLERANCE, "dtype": "float32"}
    if bench.options.check:
        ways = [way for entry in models.values() for way in entry["modes"].items()]
        failed = [why for way, row in ways if (why := failure(way, row))]
        print("\n".join(failed))
        return int(bool(failed))
    words = [] if tuple(chosen) == MODELS else [f"--models {' '.join(chosen)}"]
    words += [] if count == 50 else [f"--prompts {count}"]
    bench.publish({**content, "models": models}, *words)
    return 0


if __name__ == "__main__":
    sys.exit(main())
