"""What is simulated: how many instances of which kind, their limits, and what fails."""

from __future__ import annotations

from dataclasses import dataclass

from silva.config import setting


@dataclass(frozen=True)
class Failure:
    """Something that is lost at some time, and comes back empty.

    An instance, of which a die or node takes all that have a part on it, or one plane of the second
    tier of switches, without which the links of all are slower.
    """

    role: str = setting(
        "decode",
        help="what is lost",
        choices=("prefill", "decode", "cache", "die", "node", "switch"),
    )
    instance: int = setting(0, help="which of them", low=0, high=10_000)
    at_s: float = setting(0.0, help="when it is lost", low=0, high=1e9)
    for_s: float = setting(60.0, help="seconds until it is back", low=0, high=1e9)


@dataclass(frozen=True)
class Cluster:
    """Instances and limits. A package is what a system counts batches by."""

    system: str = setting("cloudmatrix-infer", help="name or .toml file of a system")
    prefill: int = setting(
        6, help="prefill instances; 0: decode instances do both", low=0, high=10_000
    )
    decode: int = setting(1, help="decode instances", low=1, high=10_000)
    batch_per_npu: int = setting(96, help="most requests a package decodes", low=1, high=4096)
    prefill_tokens_per_npu: int = setting(
        16_384, help="most prompt tokens a package computes at once", low=16, high=1 << 20
    )
    tpot_s: float = setting(0.0, help="time a token to hold; 0: none", low=0, high=1e3)
    cache_gb: float = setting(0.0, help="memory of the context cache; 0: none", low=0, high=1e6)
    caches: int = setting(4, help="instances that share this memory", low=1, high=1000)
    cache_plane: str = setting("ub", help="plane to it", choices=("ub", "vpc"))
    model_cache: str = setting(
        "ems",
        help="from where an instance that comes back loads its model",
        choices=("none", "local", "ems"),
    )
    mtp: bool = setting(True, help="whether drafts are verified")
    acceptance: float = setting(0.7, help="share of drafts that hold", low=0, high=1)
    expert_skew: float = setting(
        0.0, help="exponent of the experts' popularity; 0: as the system says", low=0, high=3
    )
    scale_window_s: float = setting(
        0.0, help="seconds after which instances may change roles; 0: never", low=0, high=1e6
    )
    sample_s: float = setting(
        1.0, help="seconds between the first samples of queues", low=1e-3, high=1e6
    )
