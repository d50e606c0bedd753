"""What operators scrape: histograms of the phases, counters, and gauges of the backend's status.

No series is per model or per key: ten thousand clients would be ten thousand series.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from silva.serving.api.answer import Answer
from silva.serving.api.gate import Gate
from silva.serving.api.timings import TokenClock, durations_s
from silva.serving.backend import Serving, Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
    *(0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
_PHASES = {
    "queue": "from arrival to the start of the prompt's computation",
    "prefill": "computing the prompt",
    "transfer": "from the prompt computed to joining the decode batch",
    "first_decode": "from joining the batch to the first token that it gives",
}


class Metrics:
    """All series of one front, in a registry of its own."""

    def __init__(self, backend: Serving, gate: Gate) -> None:
        self.registry = registry = CollectorRegistry()

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"silva_{name}_seconds", text, buckets=_SECONDS, registry=registry)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"silva_{name}", text, labels, registry=registry)

        self._phases = {name: histogram(name, f"Seconds {text}") for name, text in _PHASES.items()}
        self._first = histogram("time_to_first_token", "Seconds from arrival to the first token")
        self._gap = histogram("inter_token", "Seconds between the tokens of an answer")
        self._total = histogram("answer", "Seconds from arrival to the last token")
        self._prompt = counter("prompt_tokens", "Tokens of prompts, once for each answer")
        self._cached = counter("cached_prompt_tokens", "Of those, taken from a cache")
        self._generated = counter("generated_tokens", "Tokens of answers")
        self._answers = counter("answers", "Answers by how they ended", ("end",))
        self._requests = counter("http_requests", "Requests by path and status", ("path", "status"))
        registry.register(_OfBackend(backend, gate))

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)

    def request(self, path: str, status: int) -> None:
        """An HTTP request was answered; `path` as the routes name it."""
        self._requests.labels(path, str(status)).inc()

    def answer(self, end: str, prompt: int, answer: Answer, clock: TokenClock) -> None:
        """An answer ended: by a `FinishReason`, or "cancelled", "refused" or "failed"."""
        self._answers.labels(end).inc()
        self._prompt.inc(prompt)
        self._cached.inc(answer.cached_tokens)
        self._generated.inc(answer.tokens)
        for name, seconds in durations_s(answer.phases).items():
            self._phases[name].observe(seconds)
        if clock.first_s is not None:
            self._first.observe(clock.first_s)
        for gap in clock.gaps_s:
            self._gap.observe(gap)
        if answer.finish is not None and clock.tokens_s:
            self._total.observe(clock.tokens_s[-1] - clock.arrival_s)


class _OfBackend(Collector):
    """Read when scraped, so that nothing has to be kept up to date."""

    def __init__(self, backend: Serving, gate: Gate) -> None:
        self._backend, self._gate = backend, gate

    def describe(self) -> list[Metric]:
        """Nothing: asking would need a status before the backend has one."""
        return []

    def collect(self) -> Iterator[Metric]:
        status = self._backend.status()
        yield _gauge("silva_ready", "1 while requests are served", float(self._backend.ready()))
        yield _gauge("silva_answers_open", "Answers under way", self._gate.answers)
        yield _gauge("silva_answers_waiting", "Of those, without a token", self._gate.waiting)
        yield _count("silva_refused", "Requests refused with 429 by the front", self._gate.refused)
        yield from _pools(status)
        yield from _admission(status)
        yield from _roles(status)
        cache = status.cache
        for name in ("objects", "ram_bytes", "disk_bytes"):
            text = f"Cache peers together: {name.replace('_', ' ')}"
            yield _gauge(f"silva_cache_{name}", text, getattr(cache, name))
        yield _count("silva_cache_hits", "Blocks found in cache peers", cache.hits)
        yield _count("silva_cache_misses", "Blocks not found there", cache.misses)
        for name, value in status.counters.items():
            yield _count(f"silva_backend_{name}", f"Backend: {name.replace('_', ' ')}", value)


def _pools(status: Status) -> Iterator[Metric]:
    peers = GaugeMetricFamily("silva_peers", "Peers", labels=["role", "state"])
    for key, number in Tally((peer.role, peer.state) for peer in status.peers).items():
        peers.add_metric(key, number)
    yield peers
    for name in ("queue", "running", "blocks_free", "blocks_total"):
        gauge = GaugeMetricFamily(f"silva_pool_{name}", f"Pool: {name}", labels=["role"])
        for role, pool in status.pools.items():
            gauge.add_metric([role], getattr(pool, name))
        yield gauge


def _admission(status: Status) -> Iterator[Metric]:
    """The target for time per token, what it lets in, and what it costs."""
    held = {role: p.admission for role, p in status.pools.items() if p.admission is not None}
    for name, field, text in (
        ("silva_tpot_target_seconds", "target_s", "Target for time per token; 0: none"),
        ("silva_tpot_seconds", "tpot_s", "Measured time per token, of the slowest peer"),
        ("silva_batch_admitted", "batch", "Requests that are let decode together"),
    ):
        gauge = GaugeMetricFamily(name, text, labels=["role"])
        for role, admission in held.items():
            gauge.add_metric([role], getattr(admission, field))
        yield gauge
    for name, field, text in (
        ("silva_trade_batch", "batch", "Batch that a target allows, by measured step times"),
        ("silva_trade_tokens_per_second", "tokens_per_s", "Tokens a second at that batch"),
    ):
        gauge = GaugeMetricFamily(name, text, labels=["role", "target_seconds"])
        for role, admission in held.items():
            for row in admission.trades:
                gauge.add_metric([role, f"{row.target_s:g}"], getattr(row, field))
        yield gauge


def _roles(status: Status) -> Iterator[Metric]:
    busy = GaugeMetricFamily("silva_role_busy", "Share of the last window", labels=["role"])
    for role, share in status.roles.busy.items():
        busy.add_metric([role], share)
    yield busy
    text = "Peers that the server itself moved, by the role they took"
    moves = CounterMetricFamily("silva_role_moves", text, labels=["to"])
    for role, number in status.roles.moves.items():
        moves.add_metric([role], number)
    yield moves


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _count(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
