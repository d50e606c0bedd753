"""Settings of `silva serve`."""

from __future__ import annotations

from dataclasses import dataclass, field

from silva.config import setting

GIB = 1 << 30

MOST_PEERS = 64
"""Of one role."""


@dataclass(frozen=True)
class PoolsConfig:
    """How many peers of each role."""

    prefill: int = setting(1, help="prefill peers", low=1, high=MOST_PEERS)
    decode: int = setting(1, help="decode peers", low=1, high=MOST_PEERS)
    cache: int = setting(1, help="cache peers; 0 for none", low=0, high=MOST_PEERS)


@dataclass(frozen=True)
class KvConfig:
    """Memory of keys and values."""

    block_tokens: int = setting(16, help="tokens in a block", low=1, high=512)
    peer_bytes: int = setting(
        GIB, help="bytes of blocks in one prefill or decode peer", low=1 << 20
    )
    cache_ram_bytes: int = setting(GIB, help="RAM tier of one cache peer", low=1 << 20)
    cache_disk_bytes: int = setting(4 * GIB, help="disk tier of one cache peer; 0: none", low=0)
    cache_folder: str = setting("", help="where the disk tier lies; empty: the cache folder")
    namespace_share: float = setting(
        1.0, help="most of a cache tier that one API key may fill", low=0.01, high=1.0
    )
    quotas: tuple[str, ...] = setting(
        (), help="the same for single API keys, as NAME=512MiB", empty=True
    )


@dataclass(frozen=True)
class StepConfig:
    """What one step of a peer may hold."""

    chunk_tokens: int = setting(256, help="prompt tokens computed in one step", low=1, high=65536)
    most_running: int = setting(64, help="requests in one decode batch", low=1, high=4096)
    tpot_target_s: float = setting(
        0.0, help="seconds per output token that the batch must hold; 0: none", low=0.0, high=60.0
    )


@dataclass(frozen=True)
class RolesConfig:
    """Whether the server itself moves peers between prefill and decode."""

    auto: bool = setting(
        False, help="move a peer to the other role when prompts or answers grow; off: never"
    )
    window_s: float = setting(
        10.0,
        help="seconds of load that are judged at once; three in a row must agree",
        low=0.5,
        high=3600.0,
    )


@dataclass(frozen=True)
class ExpertsConfig:
    """How experts are spread over ranks; see docs/experts.md."""

    ranks: int = setting(
        1,
        help="decode peers that share the experts; 1: each has all of them",
        low=1,
        high=MOST_PEERS,
    )
    prefill_ranks: int = setting(
        1,
        help="prefill peers that share the experts and compute each prompt together; 1: each has all "
        "experts, and prompts of its own",
        low=1,
        high=MOST_PEERS,
    )
    wire: str = setting("exact", help="how tokens travel to experts", choices=("exact", "int8"))
    redundant: int = setting(
        1, help="experts of each layer that a rank holds beside its share", low=0, high=1024
    )
    local_batch: int = setting(64, help="tokens that a rank sends at once", low=1, high=4096)
    rebalance_s: float = setting(
        60.0, help="seconds between two looks at the experts' load; 0: none", low=0.0, high=86400.0
    )
    overlap: str = setting(
        "auto",
        help="steps in two halves, one of which computes while the tokens of the other are on their "
        "way to experts: where that is faster, always, or never",
        choices=("auto", "on", "off"),
    )
    patience_s: float = setting(
        30.0,
        help="seconds after which a rank that the others wait for counts as dead",
        low=1.0,
        high=3600.0,
    )


@dataclass(frozen=True)
class ServeConfig:
    """Everything `silva serve` can be told, the HTTP side aside."""

    pools: PoolsConfig = field(default_factory=PoolsConfig)
    kv: KvConfig = field(default_factory=KvConfig)
    step: StepConfig = field(default_factory=StepConfig)
    roles: RolesConfig = field(default_factory=RolesConfig)
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    forest: str = setting("", help="folder of a forest whose clients are answered too; empty: none")
    unknown_client: str = setting(
        "error",
        help="a client that the forest does not know: refused, or answered by the root",
        choices=("error", "root"),
    )
    adapter_bytes: int = setting(
        GIB // 2, help="bytes of adapters that one computing peer keeps in memory", low=0
    )
    colocated: bool = setting(False, help="one process for prefill and decode, no peers")
    transfer: str = setting("shm", help="how blocks move", choices=("shm", "tcp"))
    dtype: str = setting("float32", help="arithmetic", choices=("float32", "bfloat16"))
    kernels: str = setting(
        "auto",
        help="attention to heads: compiled, in plain torch, or compiled where it was built",
        choices=("auto", "native", "portable"),
    )
    mtp: bool = setting(
        True, help="draft tokens, where a model brings a module for multi-token prediction"
    )
    threads: int = setting(
        0, help="threads of a computing peer; 0: share the cores", low=0, high=256
    )
    most_waiting: int = setting(512, help="requests that may wait", low=1, high=1_000_000)
    grace_s: float = setting(30.0, help="seconds to finish what runs when stopping", low=0.0)
    silence_s: float = setting(
        5.0, help="seconds after which a silent peer is no longer counted on", low=0.5, high=600.0
    )
    stuck_s: float = setting(
        120.0, help="seconds of one step after which a peer is ended", low=1.0, high=86400.0
    )
    start_s: float = setting(
        300.0,
        help="seconds after which a new process that does not serve is ended",
        low=1.0,
        high=86400.0,
    )
