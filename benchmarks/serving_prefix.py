"""A prefix that many requests share: computed once, found after a restart, kept apart by API key.

    python benchmarks/serving_prefix.py

32 requests with a common prefix of 512 tokens and 16 of their own, one after another and all at
once, each repetition with another prefix. A miss is the first request after a prefix is new, a hit
each that follows it; both are alone on the server. Computed tokens are the prompts' less those that
`usage` calls cached.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import serving
from serving import SMOLLM2, STORIES, Bench, Numbers

PREFIX, OWN = 512, 16
KEYS = ("benchmark-key-a", "benchmark-key-b")
OPTIONS = tuple(w for n, key in enumerate(KEYS) for w in ("--api-key", f"key{n}={key}"))
WRITTEN_S = 3.0
"""For the cache peer to fetch the blocks and to write them."""


class World:
    """Requests of one model: a prefix by number, and so many that share it."""

    def __init__(self, bench: Bench, model: str, requests: int, prefix: int) -> None:
        self.model, self.path = model, bench.model(model)
        self.folder = bench.folder / "server"
        self.requests, self.prefix = requests, prefix
        self.text = serving.Text(serving.folder_of(self.path))

    def bodies(self, repetition: int) -> list[Numbers]:
        """Requests with a prefix that no other repetition has."""
        common = [*self.text.cut(1000 + repetition, self.prefix - 1), 40 + repetition][::-1]
        return [
            serving.completion(self.model, common + self.text.cut(n, OWN)[::-1], 1)
            for n in range(self.requests)
        ]

    def ask(self, server: serving.Server, bodies: Sequence[Numbers], key: int = 0) -> list[Any]:
        return serving.stream(server.url, bodies, KEYS, key)

    def computed(self, outcomes: Sequence[Any]) -> int:
        """Tokens of the prefix that were computed, of all requests together."""
        return sum(max(0, self.prefix - (outcome.cached_tokens or 0)) for outcome in outcomes)

    def in_turn(self, server: serving.Server, repetition: int) -> Numbers:
        outcomes = [self.ask(server, [body])[0] for body in self.bodies(repetition)]
        miss, hits = outcomes[0].ttft_s, [o.ttft_s for o in outcomes[1:]]
        return {
            "prefix_tokens_computed": self.computed(outcomes),
            "miss_ttft_s": miss,
            "hit_ttft_s": statistics.median(hits),
            "ratio": miss / statistics.median(hits),
        }

    def together(self, server: serving.Server, repetition: int) -> Numbers:
        outcomes = self.ask(server, self.bodies(repetition))
        times = [outcome.ttft_s for outcome in outcomes]
        return {
            "prefix_tokens_computed": self.computed(outcomes),
            "first_ttft_s": min(times),
            "median_ttft_s": statistics.median(times),
        }

    def restarted(self, server: serving.Server, repetition: int) -> Numbers:
        """The first request for a prefix that was computed before the restart."""
        outcome = self.ask(server, self.bodies(repetition)[:1])[0]
        return {"cached_tokens": outcome.cached_tokens or 0, "ttft_s": outcome.ttft_s}

    def other_key(self, server: serving.Server, repetition: int) -> Numbers:
        """What another API key finds of a prefix that the first one has."""
        body = self.bodies(repetition)[0]
        same = self.ask(server, [body])[0]
        other = self.ask(server, [body], key=1)[0]
        return {
            "cached_tokens_same_key": same.cached_tokens or 0,
            "cached_tokens_other_key": other.cached_tokens or 0,
        }

    def run(self, repetitions: int) -> Numbers:
        numbers = range(repetitions)
        before = ("in_turn", "together")
        found: Numbers = {name: [] for name in (*before, "restarted", "other_key")}
        with serving.serving(self.folder, self.path, *OPTIONS) as server:
            self.ask(server, [serving.completion(self.model, self.text.cut(77, 40), 4)])  # warm
            for n in numbers:
                found["in_turn"].append(self.in_turn(server, 2 * n))
                found["together"].append(self.together(server, 2 * n + 1))
            time.sleep(WRITTEN_S)
        with serving.serving(self.folder, self.path, *OPTIONS, keep=True) as server:
            self.ask(server, [serving.completion(self.model, self.text.cut(77, 40), 4)])
            for n in numbers:
                found["restarted"].append(self.restarted(server, 2 * n))
                found["other_key"].append(self.other_key(server, 2 * n))
        return found


def summary(found: Numbers) -> Numbers:
    """Medians over the repetitions."""
    figures: Numbers = {}
    for name, rows in found.items():
        figures[name] = {key: serving.spread(row[key] for row in rows) for key in rows[0]}
    return figures


def show(model: str, figures: Numbers) -> None:
    turn, restarted = figures["in_turn"], figures["restarted"]
    median: Callable[[Numbers, str], float] = lambda part, key: part[key]["median"]  # noqa: E731
    print(
        f"{model}: prefix tokens computed {median(turn, 'prefix_tokens_computed'):.0f} in turn, "
        f"{median(figures['together'], 'prefix_tokens_computed'):.0f} together; first token "
        f"{1e3 * median(turn, 'miss_ttft_s'):.0f} ms missed, "
        f"{1e3 * median(turn, 'hit_ttft_s'):.0f} ms hit, {median(turn, 'ratio'):.1f} times; "
        f"restarted {median(restarted, 'cached_tokens'):.0f} cached; another key "
        f"{median(figures['other_key'], 'cached_tokens_other_key'):.0f}"
    )


def main() -> int:
    bench = Bench("prefix", __doc__, "tokens, seconds; medians over repetitions")
    model, requests, prefix, repetitions = SMOLLM2, 32, PREFIX, 5
    if bench.quick:
        model, requests, prefix, repetitions = STORIES, 4, 64, 1
    world = World(bench, model, requests, prefix)
    found = bench.measure(f"{model}: shared prefix", lambda: world.run(repetitions))
    figures = summary(found)
    show(model, figures)
    settings = {"model": model, "requests": requests, "prefix_tokens": prefix, "own_tokens": OWN}
    bench.publish({**settings, "repetitions": repetitions, "figures": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
