"""The instances of a cluster, made from a system: their pools, limits and step times."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from silva.control.state import Settings
from silva.errors import ConfigError
from silva.supernode.capacity import cache_tokens
from silva.supernode.cluster import Cluster
from silva.supernode.engine import Engine
from silva.supernode.steptime import DecodeTimes, PrefillTimes
from silva.supernode.system import System
from silva.supernode.traces import Traffic
from silva.supernode.workload import DecodeLoad, PrefillLoad

BLOCK_TOKENS = 512
"""Where the traffic says nothing of blocks that prompts share."""

_PROMPTS = (256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16_384.0, 32_768.0, 131_072.0)


@dataclass
class Fleet:
    """Instances by role; where `prefill` is empty, those of `decode` do both."""

    prefill: list[Engine]
    decode: list[Engine]
    block_tokens: int

    @property
    def engines(self) -> list[Engine]:
        """All of them."""
        return [*self.prefill, *self.decode]

    def for_prompt(self) -> Engine | None:
        """Where a new request goes: the instance that is up and has the fewest."""
        return _least_loaded(self.prefill or self.decode)

    def for_answer(self) -> Engine | None:
        """Where a computed prompt goes."""
        return _least_loaded(self.decode)


def make_fleet(cluster: Cluster, system: System, traffic: Traffic) -> Fleet:
    """Empty instances. ConfigError for a model or a request that does not fit into one."""
    block_tokens = traffic.block_tokens if traffic.shared else BLOCK_TOKENS
    longest = int((traffic.prompt + traffic.output).max()) if len(traffic) else 1
    per_package = system.machine.die.per_package
    decode_packages = system.decode.dies / per_package
    prefill_packages = system.prefill.dies / per_package
    length = min(_PROMPTS, key=lambda known: abs(known - traffic.mean_prompt))
    ask = (cluster.mtp, cluster.acceptance)
    prefill_times = prefill_table(system, length, prefill_packages)
    prefill: list[Engine] = []
    running = int(cluster.batch_per_npu * decode_packages)
    step_tokens = running
    if cluster.prefill:
        batch = int(cluster.prefill_tokens_per_npu * prefill_packages)
        limits = _settings(system, False, longest, block_tokens, batch, min(batch, 1 << 16), None)
        prefill = [
            Engine(f"prefill-{n}", limits, prefill_times, hands_over=True)
            for n in range(cluster.prefill)
        ]
        decode_times = decode_table(system, ask, decode_packages, None)
    else:
        step_tokens += int(cluster.prefill_tokens_per_npu * decode_packages)
        decode_times = decode_table(system, ask, decode_packages, length)
    target = cluster.tpot_s or None
    limits = _settings(system, True, longest, block_tokens, step_tokens, running, target)
    decode = [Engine(f"decode-{n}", limits, decode_times) for n in range(cluster.decode)]
    return Fleet(prefill, decode, block_tokens)


@lru_cache(maxsize=64)
def decode_table(
    system: System, ask: tuple[bool, float], packages: float, prompt_len: float | None
) -> DecodeTimes:
    """Step times of a decode instance; with those of prompts where it computes them too."""
    load = DecodeLoad(mtp=ask[0], acceptance=ask[1])
    both = None if prompt_len is None else prefill_table(system, prompt_len, packages)
    return DecodeTimes(system, load, packages, both)


@lru_cache(maxsize=64)
def prefill_table(system: System, prompt_len: float, packages: float) -> PrefillTimes:
    """Step times of a prefill instance."""
    return PrefillTimes(system, PrefillLoad(prompt_len=prompt_len), packages)


def _settings(
    system: System,
    decode: bool,
    longest: int,
    block_tokens: int,
    step_tokens: int,
    running: int,
    target_s: float | None,
) -> Settings:
    blocks = cache_tokens(system, decode) // block_tokens
    if -(-longest // block_tokens) > blocks:
        what = f"a request of {longest:,} tokens, but an instance holds {blocks * block_tokens:,}"
        raise ConfigError(what, where=system.name, remedy="take more dies or shorter requests")
    return Settings(
        blocks=blocks,
        context_tokens=longest,
        block_tokens=block_tokens,
        step_tokens=step_tokens,
        max_running=running,
        target_s=target_s,
    )


def _least_loaded(engines: Iterable[Engine]) -> Engine | None:
    up = [engine for engine in engines if engine.up]
    return min(up, key=lambda engine: engine.load) if up else None
