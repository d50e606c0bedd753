"""The plots of the clustering: client distances and the eigenvalues of the client graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from silva.federation.palette import CLUSTER_COLOURS, INK, NOTE, TIER_COLOURS
from silva.federation.record import Clustering, RunRecord

_FEWEST_EIGENVALUES = 30


def cluster_order(found: Clustering) -> list[int]:
    """Client indices by cluster, inside a cluster by true group, then as they came."""
    groups = found.true_groups or [0] * len(found.labels)
    return sorted(range(len(found.labels)), key=lambda i: (found.labels[i], groups[i], i))


def draw_distances(record: RunRecord, ax: Axes) -> None:
    """The matrix with clusters outlined; beside it the clusters, above it the true groups."""
    found = record.clustering
    assert found is not None
    order = cluster_order(found)
    count = len(order)
    distances = np.asarray(found.distances, dtype=np.float64)[np.ix_(order, order)]
    between = distances[~np.eye(count, dtype=bool)]
    low, high = np.nanpercentile(between, (0.5, 99.5))  # the diagonal's zeros would eat the scale
    image = ax.imshow(distances, cmap="viridis", vmin=low, vmax=high, interpolation="nearest")
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8, pad=0.02, extend="min")
    bar.set_label("subspace distance (0: same, 1: orthogonal)", fontsize=9)
    bar.locator = MaxNLocator(6)
    bar.update_ticks()
    bar.outline.set_visible(False)
    _draw_strip(ax, [found.labels[i] for i in order], vertical=True)
    ax.set_ylabel("cluster")
    title = f"Distances between {count} clients"
    if found.true_groups is not None:
        _draw_strip(ax, [found.true_groups[i] for i in order], vertical=False)
        ax.set_xlabel("true group")
    if found.ari is not None:
        title += f" (ARI {found.ari:.2f})"
    ax.set_title(title)
    for start, end, _ in _runs([found.labels[i] for i in order]):
        corner, side = (start - 0.5, start - 0.5), end - start
        ax.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="white", linewidth=1.6))
    ax.spines[:].set_visible(False)
    ax.set_xticks([])
    ax.set_yticks([])


def _draw_strip(ax: Axes, labels: Sequence[int], *, vertical: bool) -> None:
    """Coloured, numbered runs of labels along the matrix's left or lower edge."""
    count = len(labels)
    thick, gap = 0.045 * count, 0.015 * count
    across = -0.5 - gap - thick if vertical else count - 0.5 + gap
    for start, end, label in _runs(labels):
        colour = CLUSTER_COLOURS[label % len(CLUSTER_COLOURS)]
        along, length = start - 0.5, end - start
        corner: tuple[float, float] = (across, along)
        sides: tuple[float, float] = (thick, length)
        if not vertical:
            corner, sides = corner[::-1], sides[::-1]
        box = Rectangle(corner, *sides, facecolor=colour, edgecolor="white", linewidth=0.8)
        ax.add_patch(box)
        if length >= 0.03 * count:
            middle = (corner[0] + sides[0] / 2, corner[1] + sides[1] / 2)
            ink = "white" if sum(to_rgb(colour)) < 1.9 else INK
            ax.text(*middle, str(label), ha="center", va="center", fontsize=8, color=ink)
    if vertical:
        ax.set_xlim(across, count - 0.5)
    else:
        ax.set_ylim(across + thick, -0.5)


def _runs(labels: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(start, end, label) of every stretch of equal labels, end exclusive."""
    edges = [i for i in range(1, len(labels)) if labels[i] != labels[i - 1]]
    for start, end in zip([0, *edges], [*edges, len(labels)], strict=True):
        yield start, end, labels[start]


def draw_eigenvalues(record: RunRecord, ax: Axes) -> None:
    """Dots for the smallest eigenvalues, with a line behind the chosen K and the gap it leaves."""
    found = record.clustering
    assert found is not None
    values = found.eigenvalues[: max(_FEWEST_EIGENVALUES, found.k + 5)]
    count, total, k = len(values), len(found.eigenvalues), found.k
    x = np.arange(1, count + 1)
    colours = np.where(x <= k, TIER_COLOURS["cluster"], "#A6A6A6")
    if 1 < k < count:
        ax.axhspan(values[k - 1], values[k], color=TIER_COLOURS["cluster"], alpha=0.12, linewidth=0)
    ax.axvline(k + 0.5, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    ax.scatter(x, values, s=40, color=colours, zorder=3, clip_on=False)
    right = k < 0.7 * count
    label = ax.annotate(f"K = {k}", (k + 0.5, 0.98), (8 if right else -8, 0))
    label.xycoords, label.anncoords = ax.get_xaxis_transform(), "offset points"
    label.set(ha="left" if right else "right", va="top", fontsize=11, fontweight="bold")
    ax.set_title(f"Eigenvalues, K by {found.rule} on {found.feature}")
    ax.set_xlabel("index" if count == total else f"index (first {count} of {total})")
    ax.set_ylabel("eigenvalue of the normalised Laplacian")
    ax.set_xlim(0.3, count + 0.7)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set_ylim(top=ax.get_ylim()[1] + 0.1 * (max(values) - min(values)))
    _leave_out_zero(ax, values)
    ax.grid(axis="y")


def _leave_out_zero(ax: Axes, values: Sequence[float]) -> None:
    """The first eigenvalue is always zero: where it would flatten the others, say so instead."""
    rest = values[1:]
    reach = max(rest) - min(rest)
    if len(rest) < 3 or reach == 0.0 or min(rest) - values[0] < 2 * reach:
        return
    ax.set_ylim(min(rest) - 0.15 * reach, max(rest) + 0.25 * reach)
    ax.collections[-1].set_clip_on(True)
    note = "first eigenvalue: 0,\nbelow this axis"
    ax.text(0.98, 0.05, note, transform=ax.transAxes, ha="right", **NOTE)
