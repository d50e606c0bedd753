"""Settings of `silva bench serve`: one tree, filled from a TOML file and flags (`silva.config`)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from silva.config import setting
from silva.errors import ConfigError

CLOSED, TRACE = "closed", "trace"
FROM_TRACE = "trace"
"""As a distribution of lengths: those of the trace's rows."""
DEFAULT_LENGTHS = ("256", "64")
DEFAULT_REQUESTS = 100
"""Requests of a run that neither a count, a duration nor a trace ends."""


@dataclass(frozen=True)
class LoadConfig:
    """When requests are sent."""

    arrival: str = setting(
        "poisson",
        choices=("poisson", "bursty", "constant", TRACE, CLOSED),
        help="open loop: gaps between arrivals; closed: as many at a time as `concurrency`",
    )
    rate: float = setting(1.0, low=1e-6, high=1e6, help="arrivals a second")
    cv: float = setting(
        2.0, low=0.01, high=100.0, help="bursty: standard deviation of a gap, in mean gaps"
    )
    concurrency: int = setting(8, low=1, high=100_000, help="closed: requests under way")
    requests: int = setting(0, low=0, high=10_000_000, help="requests at most; 0: no limit")
    duration_s: float = setting(
        0.0, low=0.0, high=1e7, help="seconds in which requests start; 0: no limit"
    )
    speed: float = setting(1.0, low=1e-6, high=1e6, help="trace: so many times as fast")
    warmup: int = setting(4, low=0, high=100_000, help="requests before the measurement, in turn")


@dataclass(frozen=True)
class WorkConfig:
    """What requests ask. Lengths are "512", "uniform(1,900)", "lognormal(mean,cv,most)", "trace"."""

    input: str = setting("", help="prompt tokens; empty: the trace's, else 256")
    output: str = setting("", help="tokens of the answer; empty: the trace's, else 64")
    trace: str = setting("", help="JSONL as Mooncake's, or CSV as Azure's")
    prefix_tokens: int = setting(0, low=0, high=1_000_000, help="tokens put before the prompt")
    prefixes: int = setting(1, low=1, high=1_000_000, help="different prefixes, dealt at random")
    prefix_share: float = setting(1.0, low=0.0, high=1.0, help="requests that have a prefix")
    vocabulary_low: int = setting(20, low=0, high=2**31 - 2, help="smallest token id in prompts")
    vocabulary_high: int = setting(500, low=1, high=2**31 - 1, help="largest token id, exclusive")


@dataclass(frozen=True)
class TargetsConfig:
    """What counts as served well; 0: no target."""

    ttft_s: float = setting(0.0, low=0.0, high=1e5, help="seconds to the first token")
    tpot_s: float = setting(0.0, low=0.0, high=1e5, help="seconds for each token after the first")


@dataclass(frozen=True)
class BenchConfig:
    """One benchmark run, whole. API keys are not in it: it is written into the report."""

    url: str = setting("http://127.0.0.1:8000", help="where the server answers")
    model: str = setting("", help="model to ask; empty: the first that the server lists")
    endpoint: str = setting(
        "completions", choices=("completions", "chat"), help="/v1/completions or chat"
    )
    prompts: str = setting(
        "auto", choices=("auto", "tokens", "text"), help="token ids, or words where refused"
    )
    ignore_eos: bool = setting(True, help="answers of just the length asked, where accepted")
    timings: bool = setting(False, help="ask a server of silva where each answer's time went")
    timeout_s: float = setting(600.0, low=0.01, high=1e5, help="seconds until a request fails")
    seed: int = setting(0, low=0, high=2**63 - 1, help="decides schedule and prompts")
    load: LoadConfig = field(default_factory=LoadConfig)
    work: WorkConfig = field(default_factory=WorkConfig)
    targets: TargetsConfig = field(default_factory=TargetsConfig)


def settled(config: BenchConfig) -> BenchConfig:
    """`config` with what was left open filled in. ConfigError where settings contradict."""
    load, work = config.load, config.work
    if load.arrival == TRACE and not work.trace:
        raise ConfigError("arrivals of a trace need one", where="load.arrival", remedy="--trace")
    if not work.trace and FROM_TRACE in (work.input, work.output):
        raise ConfigError("lengths of a trace need one", where="work.input", remedy="--trace")
    if work.vocabulary_low >= work.vocabulary_high:
        raise ConfigError(
            f"no token ids from {work.vocabulary_low} up to {work.vocabulary_high}",
            where="work.vocabulary_high",
            remedy="choose a larger one",
        )
    if config.endpoint == "chat" and config.prompts == "tokens":
        raise ConfigError(
            "chat takes no token ids", where="prompts", remedy="use --endpoint completions"
        )
    wanted, answered = (FROM_TRACE, FROM_TRACE) if work.trace else DEFAULT_LENGTHS
    work = replace(work, input=work.input or wanted, output=work.output or answered)
    if not (load.requests or load.duration_s or work.trace):
        load = replace(load, requests=DEFAULT_REQUESTS)
    url = config.url.rstrip("/").removesuffix("/v1").rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url[:80]!r} is no URL", where="url", remedy="write http://HOST:PORT")
    return replace(config, url=url, load=load, work=work)
