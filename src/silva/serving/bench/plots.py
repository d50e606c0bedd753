"""The picture of a run: how latencies are distributed, and what happened over time."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from silva.serving.bench.measure import Array, Summary, gaps_s, running_over_time
from silva.serving.bench.run import Measured

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#808080"
"""Okabe and Ito's, told apart by every eye."""
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E8E8E8",
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "savefig.dpi": 130.0,
}
TIME_BINS = 60


def draw(found: Measured, summary: Summary) -> bytes:
    """PNG bytes; at least one request must have been answered."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.5, 8.0), layout="constrained")
        axes = figure.subplots(2, 2)
        _draw_waiting(found, axes[0, 0])
        _draw_tokens(found, axes[0, 1])
        _draw_course(found, summary, axes[1, 0])
        _draw_prompts(found, axes[1, 1])
        title = f"{found.model}   ·   {found.config.load.arrival}   ·   seed {found.config.seed}"
        figure.suptitle(title.replace("$", r"\$"), fontsize=12.5)
        sink = BytesIO()
        figure.savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()


def _draw_waiting(found: Measured, ax: Axes) -> None:
    good = [o for o in found.outcomes if o.good]
    _share_below(
        ax, np.array([o.ttft_s for o in good if o.ttft_s is not None]), BLUE, "first token"
    )
    _share_below(ax, np.array([o.end_to_end_s for o in good]), GREY, "whole answer")
    _target(ax, found.config.targets.ttft_s)
    _finish(ax, "Time to first token", "seconds after the request was due")


def _draw_tokens(found: Measured, ax: Axes) -> None:
    good = [o for o in found.outcomes if o.good]
    means = np.array([o.tpot_s for o in good if o.tpot_s is not None])
    gaps = gaps_s(good)
    _share_below(ax, 1e3 * gaps[gaps > 0], ORANGE, "between two tokens")
    _share_below(ax, 1e3 * means, GREEN, "mean of an answer (TPOT)")
    _target(ax, 1e3 * found.config.targets.tpot_s)
    _finish(ax, "Time per output token", "milliseconds")


def _share_below(ax: Axes, values: Array, colour: str, name: str) -> None:
    """The empirical distribution function."""
    if len(values):
        ax.ecdf(values, color=colour, label=name, linewidth=1.8)


def _target(ax: Axes, value: float) -> None:
    if value:
        ax.axvline(value, color=RED, linestyle="--", linewidth=1.2, label="target")


def _finish(ax: Axes, title: str, unit: str) -> None:
    ax.set_title(title)
    ax.set_xlabel(f"{unit} (logarithmic)")
    ax.set_ylabel("share of all")
    ax.set_xscale("log")
    _plain_numbers(ax.xaxis)
    ax.grid()
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best")


def _plain_numbers(axis: Axis) -> None:
    """0.2 and not 2 times a power of ten, at 1, 2 and 5."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _draw_course(found: Measured, summary: Summary, ax: Axes) -> None:
    """Tokens a second over the run, and how many requests were under way."""
    ax.set_title("Course of the run")
    ends = np.linspace(0.0, max(found.elapsed_s, 1e-9), TIME_BINS + 1)
    arrived = np.concatenate([np.empty(0), *(o.tokens_s for o in found.outcomes)])
    count, _ = np.histogram(arrived, ends)
    ax.stairs(count / np.diff(ends), ends, color=GREEN, fill=True, alpha=0.35)
    ax.set_xlabel("seconds")
    ax.set_ylabel("output tokens a second", color=GREEN)
    ax.grid()
    beside = ax.twinx()
    beside.spines["right"].set_visible(True)
    moments, running = running_over_time(found.outcomes)
    beside.step(moments, running, where="post", color=BLUE, linewidth=1.2)
    beside.set_ylim(0, 1.1 * max(summary.running_max, 1))
    beside.set_ylabel("requests under way", color=BLUE)


def _draw_prompts(found: Measured, ax: Axes) -> None:
    """Time to the first token over the prompt's length, by how much of it was cached."""
    ax.set_title("First token by length of the prompt")
    shown = [o for o in found.outcomes if o.good and o.ttft_s is not None]
    lengths = [o.prompt_tokens or o.planned.input_tokens for o in shown]
    share = [(o.cached_tokens or 0) / max(n, 1) for o, n in zip(shown, lengths, strict=True)]
    dots = ax.scatter(
        lengths, [o.ttft_s or 0.0 for o in shown], c=share, cmap="viridis", vmin=0, vmax=1, s=14
    )
    ax.figure.colorbar(dots, ax=ax, label="share of the prompt that was cached")
    ax.set_xlabel("prompt tokens")
    ax.set_ylabel("seconds (logarithmic)")
    ax.set_yscale("log")
    _plain_numbers(ax.yaxis)
    ax.grid()
