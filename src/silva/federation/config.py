"""Settings of a tuning run: one frozen tree, filled from a TOML file and flags (`silva.config`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from silva.config import setting


@dataclass(frozen=True)
class AdapterConfig:
    """The low-rank pairs; every tier has the same rank (docs/tuning.md, section 1.1)."""

    rank: int = setting(8, low=1, high=256, help="rank r of every tier's pairs")
    alpha: float = setting(16.0, low=0.0, high=4096.0, help="scaling s = alpha / rank")
    targets: tuple[str, ...] = setting(
        ("q_proj", "v_proj"),
        choices=(
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "q_a_proj",
            "q_b_proj",
            "kv_a_proj_with_mqa",
        ),
        help="attention projections that carry a pair, in every block; left as it is, a model with "
        "latent attention takes its own of queries and latents",
    )


@dataclass(frozen=True)
class LocalConfig:
    """What one client does in one round."""

    epochs: int = setting(1, low=1, high=1000, help="local epochs a round")
    batch_size: int = setting(32, low=1, high=65536, help="images a step")
    lr: float = setting(2e-3, low=0.0, high=10.0, help="AdamW learning rate of the pairs")
    head_lr: float = setting(2e-3, low=0.0, high=10.0, help="AdamW learning rate of the head")
    weight_decay: float = setting(0.0, low=0.0, high=10.0, help="AdamW weight decay, head only")
    clip: float = setting(1.0, low=0.0, high=1e6, help="largest gradient norm; 0 for no clipping")
    matmul: str = setting(
        "float32",
        choices=("float32", "bfloat16"),
        help="type in which training multiplies by frozen weights; everything else is float32. "
        "bfloat16 is slow where `silva doctor` says so",
    )
    schedule: str = setting(
        "cosine", choices=("cosine", "constant"), help="learning rate over the rounds of a tier"
    )


@dataclass(frozen=True)
class TierConfig:
    """Rounds of one tier and its stop rule (section 1.3)."""

    rounds: int = setting(0, low=0, high=100_000, help="rounds at most; 0: a share of all rounds")
    tau: float = setting(0.0, low=0.0, high=10.0, help="stop when the relative change falls below")
    patience: int = setting(3, low=1, high=1000, help="rounds below tau before the tier stops")
    min_rounds: int = setting(5, low=1, high=100_000, help="rounds before the stop rule may act")


@dataclass(frozen=True)
class LeafConfig:
    """Local passes of the leaf tier, which has no stop rule: nothing is sent that could be saved."""

    rounds: int = setting(0, low=0, high=100_000, help="local passes; 0: a share of all rounds")
    rate: float = setting(
        0.3,
        low=0.0,
        high=100.0,
        help="learning rates of what a client trains alone, leaf or control, relative to [local]",
    )


@dataclass(frozen=True)
class OrthogonalityConfig:
    """Penalty on B between tiers (section 1.2)."""

    kind: str = setting(
        "soft",
        choices=("soft", "soft_normalised", "hard", "none"),
        help="soft: the paper's; soft_normalised: divided by |B|^2; hard: projection every step",
    )
    gamma_cluster: float = setting(0.1, low=0.0, high=1e6, help="weight of the root-x term")
    gamma_leaf: float = setting(0.1, low=0.0, high=1e6, help="weight of the cluster-leaf term")


@dataclass(frozen=True)
class ClusteringConfig:
    """LoRA-Subspace Adaptive Clustering (section 1.5)."""

    feature: str = setting(
        "auto",
        choices=("auto", "B_ema", "dB_ema", "dQ_ema", "dB_cos"),
        help="EMA of normalised B (paper), of its change, of that of queries alone, of the change's "
        "direction; auto: of the last two the one whose clusters score best, of the middle two where "
        "clients took part in different rounds",
    )
    rule: str = setting(
        "separation",
        choices=("eigengap", "local_scaling", "silhouette", "gap", "separation", "fixed"),
        help="how the number of clusters is chosen",
    )
    k: int = setting(0, low=0, high=100_000, help="number of clusters for the rule `fixed`")
    k_min: int = setting(
        2, low=2, high=100_000, help="fewest clusters the rules consider beside one"
    )
    k_max: int = setting(20, low=2, high=100_000, help="most clusters the rules consider")
    ema: float = setting(0.9, low=0.0, high=1.0, help="lambda, weight of the past in the EMA")
    skip_rounds: int = setting(
        2, low=0, high=1000, help="first rounds that the EMA of B leaves out"
    )
    min_size: int = setting(2, low=1, high=100_000, help="smaller clusters join the nearest one")


@dataclass(frozen=True)
class FederationConfig:
    """The cascade as a whole (section 1.3)."""

    rounds: int = setting(50, low=1, high=100_000, help="rounds of all tiers together")
    participation: float = setting(
        1.0, low=1e-4, high=1.0, help="share of clients a round, one client at least"
    )
    dropout: float = setting(0.0, low=0.0, high=0.99, help="chance that a client's reply is lost")
    weights: str = setting("samples", choices=("samples", "uniform"), help="pi_i in averages")
    head: str = setting(
        "tiered",
        choices=("tiered", "global", "local"),
        help="who owns the classifier: every tier, all clients together, or each client",
    )
    head_init: str = setting(
        "discriminant",
        choices=("discriminant", "zeros"),
        help="first head: linear discriminants from class sums that clients send once, or zero",
    )
    label_prior: str = setting(
        "estimated",
        choices=("estimated", "even"),
        help="how frequent the heads of clusters and clients take classes to be: as estimated from "
        "all clients' class counts, or all alike",
    )
    late: float = setting(
        0.0, low=0.0, high=0.9, help="share of training clients that join after the root stage"
    )
    measure_every: int = setting(
        5, low=0, high=100_000, help="rounds between accuracy measurements; 0: only at stage ends"
    )
    controls: tuple[str, ...] = setting(
        ("head_only",),
        choices=("head_only", "local_pair", "local_lora"),
        empty=True,
        help="methods without sharing to compare with, at equal local work",
    )
    aggregation: str = setting(
        "auto",
        choices=("auto", "factored", "dense", "randomised"),
        help="how the rank-r SVD of the mean product is computed; all agree",
    )
    split: str = setting(
        "paper", choices=("paper", "balanced"), help="(U, S V^T) or (U S^1/2, S^1/2 V^T)"
    )
    probe_steps: int = setting(20, low=1, high=10_000, help="steps of an unseen client's probe")
    unseen_epochs: int = setting(5, low=1, high=1000, help="leaf epochs of unseen clients at most")
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    local: LocalConfig = field(default_factory=LocalConfig)
    root: TierConfig = field(default_factory=TierConfig)
    cluster: TierConfig = field(default_factory=TierConfig)
    leaf: LeafConfig = field(default_factory=LeafConfig)
    orthogonality: OrthogonalityConfig = field(default_factory=OrthogonalityConfig)
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
