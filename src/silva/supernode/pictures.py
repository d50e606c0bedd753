"""A simulation as a picture: queues over time, and how long first and further tokens took."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np

from silva.supernode.records import Records


def draw_records(target: Path | IO[bytes], records: Records) -> None:
    """Queues over time, and the distributions of TTFT and TPOT."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    queues, first, further = figure.subplot_mosaic("AA;BC").values()
    times = [sample.time_s for sample in records.samples]
    for name in ("waiting", "running", "coming"):
        queues.plot(times, [getattr(sample, name) for sample in records.samples], label=name)
    queues.set_xlabel("seconds")
    queues.set_ylabel("requests")
    queues.legend()
    for axes, seconds, name in (
        (first, records.ttft_s, "time to the first token"),
        (further, records.tpot_s, "time a further token"),
    ):
        known = np.sort(seconds[~np.isnan(seconds)]) * 1e3
        axes.plot(known, (np.arange(len(known)) + 1) / max(1, len(known)))
        axes.set_xlabel(f"{name}, ms")
        axes.set_ylabel("share of requests")
        axes.grid(alpha=0.3)
    figure.savefig(target, format="png", dpi=120)
