"""What is asked of the model of the machine: one decode step, one prefill batch, one model load.

A package ("NPU" in the paper, a GPU elsewhere) is what batch sizes and rates are counted by.
"""

from __future__ import annotations

from dataclasses import dataclass

from silva.config import setting

_HUGE = 1e9


@dataclass(frozen=True)
class DecodeLoad:
    """A decode batch in its steady state: requests of all ages, prompts of one length."""

    batch_per_npu: float = setting(96.0, help="requests a package", low=1e-3, high=1e6)
    kv_len: float = setting(4096.0, help="tokens of the prompt", low=0, high=_HUGE)
    output_len: float = setting(256.0, help="tokens of the answer", low=0, high=_HUGE)
    mtp: bool = setting(True, help="whether drafts are verified")
    acceptance: float = setting(0.7, help="share of drafts that hold", low=0, high=1)
    microbatch: bool = setting(True, help="whether two halves of the batch overlap")

    @property
    def mean_kv(self) -> float:
        """Tokens in the cache of a request of middle age."""
        return self.kv_len + self.output_len / 2


@dataclass(frozen=True)
class PrefillLoad:
    """One batch of prompts of one length, some of each already in the context cache."""

    tokens_per_npu: float = setting(
        16384.0, help="prompt tokens a package, cached ones among them", low=1, high=_HUGE
    )
    prompt_len: float = setting(4096.0, help="tokens of a prompt", low=1, high=_HUGE)
    reuse: float = setting(0.0, help="share of them in the cache", low=0, high=0.999)
    cache: str = setting("none", help="plane to the cache", choices=("none", "ub", "vpc"))
    microbatch: bool = setting(True, help="whether two halves of the batch overlap")
    balance: str = setting("default", help="load of the experts", choices=("default", "perfect"))

    @property
    def cached(self) -> float:
        """Share of the tokens that need not be computed; without a cache, none."""
        return 0.0 if self.cache == "none" else self.reuse


@dataclass(frozen=True)
class ModelLoad:
    """Instances that load a model, or switch among several."""

    policy: str = setting("ems", help="where models wait", choices=("none", "local", "ems"))
    models: int = setting(1, help="models that take turns", low=1, high=10_000)
    instances: int = setting(1, help="instances that load at once", low=1, high=100_000)
