"""The picture of a pre-training run: loss and held-out accuracy, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib.figure import Figure


def draw_curve(curve: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write a PNG of the rows of `Pretrained.curve`; a dotted line marks each new image side."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    loss = figure.subplots()
    epochs = [row["epoch"] for row in curve]
    loss.plot(epochs, [row["loss"] for row in curve], color="tab:gray", label="training loss")
    loss.set(xlabel="epoch", ylabel="training loss (label-smoothed)")
    accuracy = loss.twinx()
    share = [100 * row["accuracy"] for row in curve]
    accuracy.plot(epochs, share, color="tab:green", marker=".", label="held-out top-1")
    accuracy.set(ylabel="held-out top-1 at the stage's side, %", ylim=(0, None))
    for before, after in pairwise(curve):
        if before["side"] != after["side"]:
            loss.axvline(after["epoch"] - 0.5, color="tab:gray", linestyle=":", linewidth=1)
            loss.text(after["epoch"] - 0.4, loss.get_ylim()[1], f"{after['side']:.0f} px", va="top")
    figure.legend(loc="lower left", bbox_to_anchor=(0.12, 0.16))
    scratch = path.with_name(f".{path.name}.tmp")
    figure.savefig(scratch, format="png", dpi=120)
    scratch.replace(path)
