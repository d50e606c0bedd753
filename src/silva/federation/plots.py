"""The plots of a run, as PNG bytes; what a record has no data for is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from silva.federation.figures import FIGURES
from silva.federation.palette import (
    DOWN_COLOUR,
    INK,
    NOTE,
    PAIR_COLOUR,
    STYLE,
    TIER_COLOURS,
    UP_COLOUR,
    plain,
    tier_colour,
)
from silva.federation.plots_clustering import draw_distances, draw_eigenvalues
from silva.federation.record import RunFacts, RunRecord
from silva.federation.summary import (
    CONTROL,
    TIERS,
    latest,
    leaf_epochs,
    stage_traffic,
    unseen_tiers,
    values_of,
)

_TICKS = {
    CONTROL: "head\nonly",
    "root": "root",
    "cluster": "cluster",
    "leaf": "leaf",
    "zero_leaf": "cluster",
}
_ABOVE_BANNERS = 24.0


@dataclass(frozen=True)
class Panel:
    """One plot: whether a record has its data, and how it is drawn into axes.

    "{figure}" in the name of its file stands for that of the record's figure.
    """

    file: str
    size: tuple[float, float]
    has_data: Callable[[RunRecord], bool]
    draw: Callable[[RunRecord, Axes], None]


def render_plots(
    record: RunRecord, facts: RunFacts, after: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, bytes]:
    """PNG bytes by file name, of the plots the record has data for, and the overview of them.

    `after` hears how many of how many plots are drawn.
    """
    with matplotlib.rc_context(STYLE):
        panels = [panel for panel in PANELS if panel.has_data(record)]
        plots, total = {}, len(panels) + bool(panels)
        for panel in panels:
            plots[panel.file.format(figure=record.figure)] = _alone(panel, record)
            after(len(plots), total)
        if panels:
            plots[OVERVIEW] = _together(panels, record, facts)
            after(total, total)
    return plots


def _alone(panel: Panel, record: RunRecord) -> bytes:
    figure = Figure(figsize=panel.size, layout="constrained")
    panel.draw(record, figure.add_subplot())
    return _png(figure)


def _together(panels: Sequence[Panel], record: RunRecord, facts: RunFacts) -> bytes:
    """Two rows of three when everything is there, fewer when something is not."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.14)
    figure = Figure(figsize=(5.6 * columns, 4.4 * rows + 0.5), layout=layout)
    grid = figure.add_gridspec(rows, columns, width_ratios=(1.2, 1.0, 1.0)[:columns])
    for i, panel in enumerate(panels):
        panel.draw(record, figure.add_subplot(grid[i // columns, i % columns]))
    parts = [facts.data, facts.partition, f"seed {facts.seed}"]
    figure.suptitle("   ·   ".join(plain(part) for part in parts if part), fontsize=12.5)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    sink = BytesIO()
    figure.savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()


# -- the figure per tier ---------------------------------------------------------------------------


def _draw_tiers(record: RunRecord, ax: Axes) -> None:
    """Seen clients' tiers to the left, unseen clients' to the right; one dot a client."""
    figure = FIGURES[record.figure]
    ax.set_title(f"{figure.title} per tier", pad=_ABOVE_BANNERS)
    groups: list[tuple[float, str, list[float]]] = []
    place = 0.0
    for title, seen, tiers in (
        ("seen clients", True, (CONTROL, *TIERS)),
        ("unseen clients", False, unseen_tiers(record)),
    ):
        measured = latest(record.measurements, seen=seen)
        present = [tier for tier in tiers if tier in measured]
        for i, tier in enumerate(present):
            groups.append((place + i, tier, values_of(measured[tier].values())))
        if present:
            _banner(ax, place + (len(present) - 1) / 2, title)
            place += len(present) + 0.5
    for x, tier, values in groups:
        mean = figure.number(float(np.mean(values)))
        _draw_distribution(ax, x, values, tier_colour(tier), mean, tail=figure.percentile)
    _centre(ax, [x for x, _, _ in groups], [_tick(tier) for _, tier, _ in groups])
    note = f"dot: a client  ·  line and number: mean  ·  tick: {figure.percentile}th percentile"
    ax.set_xlabel(note, **NOTE)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.06 * (high - low))  # room for the number on the highest violin
    _figure_axis(record, ax)


def _tick(tier: str) -> str:
    epochs = leaf_epochs(tier)
    return _TICKS.get(tier) or f"leaf\n{epochs} epoch{'' if epochs == 1 else 's'}"


def _figure_axis(record: RunRecord, ax: Axes) -> None:
    figure = FIGURES[record.figure]
    ax.set_ylabel(figure.axis)
    if figure.percent:
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    ax.grid(axis="y")


def _banner(ax: Axes, x: float, text: str) -> None:
    """A word above the axes, over the part of them it speaks of."""
    above = ax.annotate(
        text, (x, 1.0), (0, 4), xycoords=ax.get_xaxis_transform(), textcoords="offset points"
    )
    above.set(ha="center", va="bottom", **NOTE)


def _centre(ax: Axes, places: Sequence[float], names: Sequence[str], least: float = 4.0) -> None:
    """Ticks with names, and limits that keep a few groups from filling the whole width."""
    ax.set_xticks(places, names)
    middle, reach = (places[0] + places[-1]) / 2, max(places[-1] - places[0] + 1.1, least) / 2
    ax.set_xlim(middle - reach, middle + reach)
    ax.tick_params(axis="x", length=0, labelsize=9)


def _draw_distribution(
    ax: Axes, x: float, values: Sequence[float], colour: str, number: str, *, tail: int = 0
) -> None:
    """A violin at x with its values as dots, the mean as a line and, if asked, the percentile `tail`.

    number stands above the violin.
    """
    if len(values) > 1:
        violin: dict[str, Any] = ax.violinplot([values], [x], widths=0.86, showextrema=False)
        violin["bodies"][0].set(facecolor=colour, alpha=0.22, linewidth=0)
    size = 14.0 if len(values) <= 100 else 4.0
    ax.scatter(x + _swarm(values), values, s=size, color=colour, alpha=0.75, linewidths=0)
    mean = float(np.mean(values))
    ax.hlines(mean, x - 0.36, x + 0.36, color=INK, linewidth=1.8)
    if tail:
        low = float(np.percentile(values, tail))
        ax.hlines(low, x - 0.13, x + 0.13, color=INK, linewidth=1.4)
    above = ax.annotate(number, (x, max(values)), (0, 6), textcoords="offset points")
    above.set(ha="center", va="bottom", fontsize=9, fontweight="bold")


def _swarm(values: Sequence[float], bins: int = 40, width: float = 0.3) -> np.ndarray:
    """Sideways offsets [n] that lay values of the same height side by side, without chance."""
    heights = np.asarray(values, dtype=np.float64)
    reach = float(np.ptp(heights)) or 1.0
    level = np.floor((heights - heights.min()) / reach * (bins - 1)).astype(int)
    fullest = int(np.bincount(level).max())
    step = min(0.07, 2 * width / fullest)
    offsets = np.zeros(len(heights))
    for one in np.unique(level):
        members = np.flatnonzero(level == one)
        offsets[members] = (np.arange(len(members)) - (len(members) - 1) / 2) * step
    return offsets


# -- rounds ----------------------------------------------------------------------------------------


def figure_by_round(record: RunRecord, stage: str) -> list[tuple[int, list[float]]]:
    """Rounds of a stage with the figure of every seen client under the tier in training.

    A client that was not measured in a round (its cluster had stopped, it was not sampled) keeps
    its last value, so that the mean does not jump when the set of measured clients changes.
    """
    rows = [
        row
        for row in record.measurements
        if row.seen and row.total > 0 and row.tier == row.stage == stage
    ]
    known: dict[str, float] = {}
    course = []
    for count in sorted({row.round for row in rows}):
        known |= {row.client: row.value for row in rows if row.round == count}
        course.append((count, list(known.values())))
    return course


def _draw_rounds(record: RunRecord, ax: Axes) -> None:
    ax.set_title(f"{FIGURES[record.figure].title} over the rounds", pad=_ABOVE_BANNERS)
    for stage in TIERS:
        colour = TIER_COLOURS[stage]
        course = figure_by_round(record, stage)
        trained = [row.round for row in record.rounds if row.stage == stage]
        extent = trained or [count for count, _ in course]
        if not extent:
            continue
        start, end = min(extent) - 0.5, max(extent) + 0.5
        ax.axvspan(start, end, color=colour, alpha=0.09, linewidth=0)
        _banner(ax, (start + end) / 2, stage)
        if course:
            x = [count for count, _ in course]
            low, high = np.array([np.percentile(v, (10, 90)) for _, v in course]).T
            mean = [float(np.mean(values)) for _, values in course]
            ax.fill_between(x, low, high, color=colour, alpha=0.22, linewidth=0)
            ax.plot(x, mean, color=colour, linewidth=2.0, marker="o", markersize=3.5)
    ax.set_xlabel("round  (line: mean over clients, band: 10th to 90th percentile)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(x=0.01)
    _figure_axis(record, ax)


# -- subspaces and traffic -------------------------------------------------------------------------


def _draw_overlap(record: RunRecord, ax: Axes) -> None:
    ax.set_title("Subspace overlap between tiers")
    pairs = list(dict.fromkeys(row.pair for row in record.overlaps))
    for x, pair in enumerate(pairs):
        values = [row.overlap for row in record.overlaps if row.pair == pair]
        _draw_distribution(ax, x, values, PAIR_COLOUR, f"{np.mean(values):.3f}")
    _centre(ax, range(len(pairs)), [plain(pair) for pair in pairs], least=3.1)
    ax.set_ylim(0.0, 1.1 * ax.get_ylim()[1])
    ax.set_ylabel("mean cos² of principal angles (0: orthogonal)")
    ax.set_xlabel("dot: a client  ·  line and number: mean", **NOTE)
    ax.grid(axis="y")


def _draw_bytes(record: RunRecord, ax: Axes) -> None:
    ax.set_title("Bytes sent per stage, all clients")
    traffic = np.array([stage_traffic(record.rounds, stage) for stage in TIERS], dtype=np.float64)
    totals = traffic.sum(axis=1)
    scale, unit = _unit(float(totals.max()))
    up, down = traffic.T / scale
    x = np.arange(len(TIERS))
    ax.bar(x, up, width=0.56, color=UP_COLOUR, label="up: clients to server")
    ax.bar(x, down, width=0.56, bottom=up, color=DOWN_COLOUR, label="down: server to clients")
    for i, total in enumerate(totals / scale):
        text = f"{total:.3g} {unit}" if total else "nothing"
        ax.annotate(text, (i, total), (0, 4), textcoords="offset points", ha="center")
    ax.set_xticks(x, TIERS)
    ax.set_ylabel(f"sent ({unit})")
    ax.set_ylim(0.0, 1.25 * float(totals.max()) / scale)
    ax.legend(loc="upper left", ncols=2)
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="y")


def _unit(most: float) -> tuple[float, str]:
    """The decimal unit that keeps the largest number between 1 and 1000."""
    steps = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    return next(((scale, unit) for scale, unit in steps if most >= scale), (1.0, "bytes"))


PANELS = (
    Panel(
        "{figure}_by_tier.png",
        (8.4, 5.0),
        lambda r: any(latest(r.measurements, seen=seen) for seen in (True, False)),
        _draw_tiers,
    ),
    Panel(
        "{figure}_by_round.png",
        (8.4, 4.6),
        lambda r: any(figure_by_round(r, stage) for stage in TIERS),
        _draw_rounds,
    ),
    Panel(
        "client_distances.png",
        (6.6, 5.6),
        lambda r: r.clustering is not None and len(r.clustering.distances) > 1,
        draw_distances,
    ),
    Panel(
        "eigenvalues.png",
        (6.8, 4.4),
        lambda r: r.clustering is not None and len(r.clustering.eigenvalues) > 1,
        draw_eigenvalues,
    ),
    Panel("subspace_overlap.png", (6.2, 4.6), lambda r: bool(r.overlaps), _draw_overlap),
    Panel(
        "bytes_by_stage.png",
        (6.2, 4.4),
        lambda r: any(any(stage_traffic(r.rounds, stage)) for stage in TIERS),
        _draw_bytes,
    ),
)
OVERVIEW = "overview.png"


def plot_names(figure: str) -> tuple[str, ...]:
    """Files that a report on `figure` may have."""
    return (*(panel.file.format(figure=figure) for panel in PANELS), OVERVIEW)
