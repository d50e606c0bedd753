"""A prefix that many requests share: computed once, found wherever it lies, kept apart by API key.

    python benchmarks/serving_prefix.py

32 requests with a common prefix of 512 tokens and 16 of their own, one after another and all at
once, each repetition with another prefix. A miss is the first request with a new prefix, a hit one
that follows it; each is alone on the server, and both are asked of the same prefill peer. Hits are
of three kinds: from the prefill peer's own pool; from the cache peer's memory, after another prefill
peer has taken the place of the one that computed the prefix; from the cache peer's disk, after a
restart of the whole server. Computed tokens are the prompts' less those that `usage` calls cached.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import common
import serving
from serving import SMOLLM2, STORIES, Bench, Numbers

PREFIX, OWN = 512, 16
KEYS = ("benchmark-key-a", "benchmark-key-b")
OPTIONS = tuple(w for n, key in enumerate(KEYS) for w in ("--api-key", f"key{n}={key}"))
WRITTEN_S = 3.0
"""For the cache peer to fetch the blocks and to write them."""
POLL_S = 0.05


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

    def warm(self, server: serving.Server, number: int) -> None:
        """Let a process compute a prompt and a few tokens before anything is timed."""
        self.ask(server, [{**self.bodies(number)[0], "max_tokens": 4}])

    def in_turn(self, server: serving.Server, repetition: int) -> Numbers:
        outcomes = [self.ask(server, [body])[0] for body in self.bodies(repetition)]
        return {
            "prefix_tokens_computed": self.computed(outcomes),
            **hit(outcomes[0], outcomes[1:]),
        }

    def together(self, server: serving.Server, repetition: int) -> Numbers:
        outcomes = self.ask(server, self.bodies(repetition))
        times = [outcome.ttft_s for outcome in outcomes]
        return {
            "prefix_tokens_computed": self.computed(outcomes),
            "first_ttft_s": min(times),
            "median_ttft_s": statistics.median(times),
        }

    def from_cache(self, server: serving.Server, repetition: int, new: int) -> Numbers:
        """A prefix that the prefill peer does not know, but its cache peer, beside a `new` one."""
        miss = self.ask(server, self.bodies(new)[:1])[0]
        return hit(miss, self.ask(server, self.bodies(repetition)[:1]))

    def replaced(self, server: serving.Server, repetition: int, new: int) -> Numbers:
        """Another prefill peer asks the cache peer, which has the blocks in memory."""
        replace_prefill(server)
        self.warm(server, new + 1)
        return self.from_cache(server, repetition, new)

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
        numbers, kinds = range(repetitions), ("in_turn", "together", "replaced", "restarted")
        found: Numbers = {name: [] for name in (*kinds, "other_key")}
        new = itertools.count(2 * repetitions, 2)  # prefixes that nobody has asked for
        with serving.serving(self.folder, self.path, *OPTIONS) as server:
            self.warm(server, next(new))
            for n in numbers:
                found["in_turn"].append(self.in_turn(server, 2 * n))
                found["together"].append(self.together(server, 2 * n + 1))
            time.sleep(WRITTEN_S)
            for n in numbers:
                found["replaced"].append(self.replaced(server, 2 * n, next(new)))
            time.sleep(WRITTEN_S)
        with serving.serving(self.folder, self.path, *OPTIONS, keep=True) as server:
            self.warm(server, next(new))
            for n in numbers:
                found["restarted"].append(self.from_cache(server, 2 * n, next(new)))
                found["other_key"].append(self.other_key(server, 2 * n))
        return found


def hit(miss: Any, hits: Sequence[Any]) -> Numbers:
    """First tokens of a miss and of hits, and the fewest tokens that one of the hits had cached."""
    hit_s = statistics.median(each.ttft_s for each in hits)
    return {
        "miss_ttft_s": miss.ttft_s,
        "hit_ttft_s": hit_s,
        "ratio": miss.ttft_s / hit_s,
        "cached_tokens": min(each.cached_tokens or 0 for each in hits),
    }


def replace_prefill(server: serving.Server) -> None:
    """Let another process, with an empty pool, do what the only prefill peer does."""

    def prefills() -> dict[str, str]:
        peers = server.status()["peers"]
        return {peer["name"]: peer["state"] for peer in peers if peer["role"] == "prefill"}

    (old,) = prefills()
    server.change("scale", roles={"prefill": 2})
    until(lambda: list(prefills().values()) == ["ready", "ready"])
    server.change("drain", peer=old)
    until(lambda: old not in prefills())


def until(true: Callable[[], bool]) -> None:
    """Wait; leaves the program when that is in vain."""
    end_s = time.perf_counter() + serving.START_S
    while not true():
        if time.perf_counter() > end_s:
            sys.exit("no other prefill peer took over")
        time.sleep(POLL_S)


def summary(found: Numbers) -> Numbers:
    """Medians over the repetitions."""
    figures: Numbers = {}
    for name, rows in found.items():
        figures[name] = {key: common.spread(row[key] for row in rows) for key in rows[0]}
    return figures


KINDS = {
    "in_turn": "own pool",
    "replaced": "cache peer's memory",
    "restarted": "cache peer's disk",
}
"""Where a hit's blocks lie."""


def show(model: str, figures: Numbers) -> None:
    median: Callable[[str, str], float] = lambda part, key: figures[part][key]["median"]  # noqa: E731
    print(
        f"{model}: prefix tokens computed {median('in_turn', 'prefix_tokens_computed'):.0f} in turn, "
        f"{median('together', 'prefix_tokens_computed'):.0f} together; another key "
        f"{median('other_key', 'cached_tokens_other_key'):.0f} cached"
    )
    for part, kind in KINDS.items():
        print(
            f"  hit from the {kind}: {median(part, 'cached_tokens'):.0f} tokens; first token "
            f"{1e3 * median(part, 'miss_ttft_s'):.0f} ms missed, "
            f"{1e3 * median(part, 'hit_ttft_s'):.0f} ms hit, {median(part, 'ratio'):.1f} times"
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
