"""What a simulation found: a row for each request, queues over time, and what sums them up."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silva.supernode.traces import Traffic

Floats = NDArray[np.float64]
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Sample:
    """The cluster at one moment."""

    time_s: float
    waiting: int
    running: int
    coming: int
    kv_share: float
    """Of the blocks of keys and values of all instances that are up, those that somebody holds."""


@dataclass
class Records:
    """One entry a request in order of arrival; NaN for what did not come to pass."""

    traffic: Traffic
    started_s: Floats
    first_token_s: Floats
    finished_s: Floats
    cached_tokens: NDArray[np.int64]
    attempts: NDArray[np.int64]
    samples: list[Sample] = field(default_factory=list)
    busy: dict[str, float] = field(default_factory=dict)
    """Share of the time that each instance computes."""
    links: dict[str, float] = field(default_factory=dict)
    """Share of the time that links carry something; see `silva.supernode.carried`."""
    moves: list[tuple[float, str, str]] = field(default_factory=list)
    """Changes of roles: when, which instance, and as what it went on."""
    steps: int = 0
    events: int = 0

    @staticmethod
    def empty(traffic: Traffic) -> Records:
        """Records of requests of which none has come yet."""
        count = len(traffic)
        nothing = [np.full(count, np.nan) for _ in range(3)]
        zeros = [np.zeros(count, dtype=np.int64) for _ in range(2)]
        return Records(traffic, nothing[0], nothing[1], nothing[2], zeros[0], zeros[1])

    @property
    def ttft_s(self) -> Floats:
        """Seconds from arrival to first token."""
        return self.first_token_s - self.traffic.arrival_s

    @property
    def tpot_s(self) -> Floats:
        """Seconds for each further token; NaN for answers of one."""
        more = np.where(self.traffic.output > 1, self.traffic.output - 1, np.nan)
        return (self.finished_s - self.first_token_s) / more

    @property
    def seconds(self) -> float:
        """From the first arrival to the last end."""
        ends = self.finished_s[~np.isnan(self.finished_s)]
        return float(ends.max()) if len(ends) else 0.0

    def goodput(self, ttft_s: float, tpot_s: float) -> float:
        """Requests a second that hold both targets."""
        tpot = np.nan_to_num(self.tpot_s, nan=0.0)
        good = (self.ttft_s <= ttft_s) & (tpot <= tpot_s) & ~np.isnan(self.finished_s)
        return float(good.sum()) / self.seconds if self.seconds else 0.0

    def summary(self) -> dict[str, Any]:
        """Plain JSON types: counts, rates, percentiles in ms, shares of time.

        "largest_queue" and "largest_kv_share" are the largest of the samples, each over all
        instances: peaks between samples, and of one instance, are not seen.
        """
        done = ~np.isnan(self.finished_s)
        seconds = self.seconds
        waits = [sample.waiting for sample in self.samples]
        return {
            "requests": len(self.traffic),
            "finished": int(done.sum()),
            "seconds": seconds,
            "requests_per_s": float(done.sum()) / seconds if seconds else 0.0,
            "output_tokens_per_s": float(self.traffic.output[done].sum()) / seconds
            if seconds
            else 0.0,
            "ttft_ms": _percentiles(self.ttft_s),
            "tpot_ms": _percentiles(self.tpot_s),
            "cached_tokens": int(self.cached_tokens.sum()),
            "largest_queue": max(waits, default=0),
            "largest_kv_share": max((sample.kv_share for sample in self.samples), default=0.0),
            "busy": self.busy,
            "links": self.links,
            "moves": [list(move) for move in self.moves],
            "steps": self.steps,
        }

    def write_parquet(self, path: Path) -> None:
        """One row a request; times in seconds from the first arrival."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {
            "arrival_s": self.traffic.arrival_s,
            "prompt_tokens": self.traffic.prompt,
            "output_tokens": self.traffic.output,
            "started_s": self.started_s,
            "first_token_s": self.first_token_s,
            "finished_s": self.finished_s,
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "cached_tokens": self.cached_tokens,
            "attempts": self.attempts,
        }
        pq.write_table(pa.table(columns), path)

    def write_queues(self, path: Path) -> None:
        """One row a sample: requests that wait, run, and are on the way, over all instances; and the
        share of the blocks that is held, of those that are up.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = ("time_s", "waiting", "running", "coming", "kv_share")
        columns = {name: [getattr(sample, name) for sample in self.samples] for name in names}
        pq.write_table(pa.table(columns), path)

    def write_summary(self, path: Path) -> None:
        """The summary as JSON."""
        path.write_text(json.dumps(self.summary(), indent=2))


def _percentiles(seconds: Floats) -> dict[str, float | None]:
    known = seconds[~np.isnan(seconds)]
    if not len(known):
        return {"mean": None, **{f"p{p}": None for p in PERCENTILES}}
    found = np.percentile(known, PERCENTILES) * 1e3
    named = {f"p{p}": float(value) for p, value in zip(PERCENTILES, found, strict=True)}
    return {"mean": float(known.mean() * 1e3), **named}
