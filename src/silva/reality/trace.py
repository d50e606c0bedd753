"""The trace that a server and its model are both given: the load generator's own schedule."""

from __future__ import annotations

from dataclasses import dataclass

from silva.config import build, setting
from silva.errors import ConfigError
from silva.reality.twin import Asked
from silva.serving.bench.config import BenchConfig, settled
from silva.serving.bench.lengths import parse_lengths
from silva.serving.bench.prompts import Prompts
from silva.serving.bench.schedule import schedule
from silva.supernode.profile import Profile

_BUSY = 0.4
"""Share of the cores that traffic of no stated rate keeps busy, or of the prefill peers' time,
whichever is full first."""
_BATCH = 4
_SAMPLE = 1000


@dataclass(frozen=True)
class TraceConfig:
    """An open loop of Poisson arrivals. Lengths as `silva bench serve` reads them."""

    rate: float = setting(
        0.0, help="arrivals a second; 0: what keeps the machine fairly busy", low=0.0, high=1e6
    )
    duration_s: float = setting(90.0, help="seconds in which requests start", low=1.0, high=1e5)
    input: str = setting("uniform(32,256)", help="prompt tokens")
    output: str = setting("uniform(16,64)", help="tokens of an answer")
    seed: int = setting(0, help="decides arrivals, lengths and prompts", low=0, high=2**63 - 1)


def rate_for(config: TraceConfig, profile: Profile, prefill_peers: int) -> float:
    """Arrivals a second: those asked for, or a moderate load by the profile."""
    if config.rate:
        return config.rate
    steps, server = profile.steps, profile.server
    prompt, output = (_mean(text) for text in (config.input, config.output))
    prefill_s = steps.prefill_times.seconds([(int(prompt), 0)])
    decode_s = steps.decode_times.seconds(_BATCH, int(_BATCH * (prompt + output / 2))) / _BATCH
    other_s = server.request_cpu_ms / 1e3 + output * server.token_cpu_us / 1e6
    other_s += prompt * server.prompt_token_cpu_us / 1e6
    each_s = (prefill_s + output * decode_s) * steps.threads + other_s
    most = min(steps.cores / each_s, prefill_peers / prefill_s)
    return float(f"{_BUSY * most:.2g}")


def bench_config(config: TraceConfig, rate: float, url: str, vocabulary: int) -> BenchConfig:
    """The same as settings of the load generator."""
    tree = {
        "url": url,
        "seed": config.seed,
        "timings": True,
        "load": {"rate": rate, "duration_s": config.duration_s},
        "work": {
            "input": config.input,
            "output": config.output,
            "vocabulary_low": min(20, vocabulary - 2),
            "vocabulary_high": min(500, vocabulary),
        },
    }
    return settled(build(BenchConfig, tree, "trace"))


def asked(bench: BenchConfig) -> list[Asked]:
    """The requests, as the load generator will send them."""
    prompts = Prompts(bench.work, bench.seed)
    return [
        Asked(planned.at_s, tuple(prompts.tokens(planned)), planned.output_tokens)
        for planned in schedule(bench, [], 1)
    ]


def check_lengths(config: TraceConfig, rate: float, context_tokens: int) -> None:
    """ConfigError for a request that a server of this context would refuse, or cut."""
    planned = schedule(bench_config(config, rate, "http://127.0.0.1:1", 500), [], 1)
    longest = max((each.input_tokens + each.output_tokens for each in planned), default=0)
    if longest > context_tokens:
        what = f"a request of {longest:,} tokens, and the server holds {context_tokens:,}"
        remedy = "give a shorter --input or --output, or serve with more memory (kv.peer_bytes)"
        raise ConfigError(what, where="trace", remedy=remedy)


def _mean(lengths: str) -> float:
    import numpy as np

    return float(np.mean(parse_lengths(lengths, "trace").draw(np.random.default_rng(0), _SAMPLE)))
