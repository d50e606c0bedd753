"""The instances of a cluster, made from a system: their pools, limits and step times."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from silva.control.mapping import Role
from silva.control.ranking import Ranking
from silva.control.slo import AIM
from silva.control.state import Settings
from silva.errors import ConfigError
from silva.supernode.balance import with_popularity
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
    """Instances by role; where `prefill` is empty, those of `decode` do both.

    Each takes requests as the server gives them to its peers: see `silva.control.mapping`. Tokens
    are those of the prompt and of what was said before.
    """

    prefill: list[Engine]
    decode: list[Engine]
    block_tokens: int
    first_prefill: int = 0
    """With changes of roles: so many of `prefill` begin as such; the others begin as decode, and the
    other way round. 0: all begin.
    """
    first_decode: int = 0

    def __post_init__(self) -> None:
        self._answers = Ranking(Role.DECODE, [_capacity(engine) for engine in self.decode])
        self._prompts = self._answers
        if self.prefill:
            self._prompts = Ranking(Role.PREFILL, [_capacity(engine) for engine in self.prefill])
        if self.first_prefill:
            for engine in self.prefill[self.first_prefill :] + self.decode[self.first_decode :]:
                self.drain(engine)
                engine.up = False

    @property
    def engines(self) -> list[Engine]:
        """All of them."""
        return [*self.prefill, *self.decode]

    def for_prompt(self, tokens: int) -> Engine | None:
        """Where a new request goes, which is counted there from now on; None: nobody is up."""
        number = self._prompts.choose(tokens)
        if number is None:
            return None
        self._prompts.add(number, tokens)
        return (self.prefill or self.decode)[number]

    def for_answer(self, tokens: int) -> Engine | None:
        """Where a computed prompt should go."""
        number = self._answers.choose(tokens)
        return None if number is None else self.decode[number]

    def expect(self, engine: Engine, tokens: int) -> None:
        """A decode instance has reserved room for a computed prompt."""
        self._answers.add(engine.number, tokens)

    def computed(self, engine: Engine, tokens: int) -> None:
        """A prefill instance has computed a prompt and holds it until it is fetched."""
        self._prompts.add(engine.number, -tokens, 0)

    def fetched(self, engine: Engine) -> None:
        """It holds it no longer."""
        self._prompts.add(engine.number, 0, -1)

    def over(self, engine: Engine, tokens: int) -> None:
        """A request is over on an instance, or its reservation is."""
        self._ranking(engine).add(engine.number, -tokens, -1)

    def lose(self, engine: Engine, now_s: float) -> None:
        """An instance loses all that it has and takes nothing until `restore`."""
        engine.lose(now_s)
        self.drain(engine)

    def drain(self, engine: Engine) -> None:
        """An instance takes nothing new. It may have something to end."""
        self._ranking(engine).withdraw(engine.number)

    def takes(self, engine: Engine) -> bool:
        """Whether an instance is given requests."""
        return self._ranking(engine).ready(engine.number)

    def restore(self, engine: Engine) -> None:
        """It is back, empty."""
        engine.reset()
        self._ranking(engine).reset(engine.number)

    def _ranking(self, engine: Engine) -> Ranking:
        return self._prompts if engine.hands_over else self._answers


def make_fleet(cluster: Cluster, system: System, traffic: Traffic) -> Fleet:
    """Empty instances. ConfigError for a model or a request that does not fit into one."""
    block_tokens = traffic.block_tokens if traffic.shared else BLOCK_TOKENS
    longest = int((traffic.prompt + traffic.output).max()) if len(traffic) else 1
    per_package = system.machine.die.per_package
    decode_packages = system.decode.dies / per_package
    prefill_packages = system.prefill.dies / per_package
    prefill_times, decode_times = step_times(cluster, system, traffic)
    others = (cluster.decode, cluster.prefill) if cluster.scale_window_s else (0, 0)
    prefill: list[Engine] = []
    running = int(cluster.batch_per_npu * decode_packages)
    step_tokens = running
    if cluster.prefill:
        batch = int(cluster.prefill_tokens_per_npu * prefill_packages)
        limits = _settings(system, False, longest, block_tokens, batch, min(batch, 1 << 16), None)
        prefill = [
            Engine("prefill", n, limits, prefill_times, hands_over=True)
            for n in range(cluster.prefill + others[0])
        ]
    else:
        step_tokens += int(cluster.prefill_tokens_per_npu * decode_packages)
    target = cluster.tpot_s or None
    limits = _settings(system, True, longest, block_tokens, step_tokens, running, target)
    count = cluster.decode + others[1]
    decode = [Engine("decode", n, limits, decode_times) for n in range(count)]
    return Fleet(prefill, decode, block_tokens, *reversed(others))


def step_times(
    cluster: Cluster, system: System, traffic: Traffic
) -> tuple[PrefillTimes, DecodeTimes]:
    """Step times of an instance of prefill and of one of decode, for prompts of the mean length."""
    per_package = system.machine.die.per_package
    length = min(_PROMPTS, key=lambda known: abs(known - traffic.mean_prompt))
    both = None if cluster.prefill else length
    ask = (cluster.mtp, cluster.acceptance)
    decode = with_popularity(system, cluster.expert_skew, decode=True)
    prefill = with_popularity(system, cluster.expert_skew, decode=False)
    return (
        prefill_table(prefill, length, system.prefill.dies / per_package),
        decode_table(decode, ask, system.decode.dies / per_package, both),
    )


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
        aim=AIM,
    )


def _capacity(engine: Engine) -> int:
    return engine.settings.blocks * engine.settings.block_tokens
