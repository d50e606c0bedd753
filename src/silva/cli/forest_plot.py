"""The picture of a forest, from left to right: root, clusters, clients by how good they are."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from silva.adapters.files import write_atomic
from silva.adapters.manifest import Manifest
from silva.federation.figures import figure_of, values_of

_MAX_LABELS = 80
_MAX_HEIGHT_INCHES = 24.0
Point = tuple[float, float]


def draw_forest(manifest: Manifest, path: Path) -> None:
    """Draw one version of a forest to a PNG; the colour is the figure of the longest path."""
    members = _members(manifest)
    order = [name for names in members.values() for name in names]
    rows = {name: float(-n) for n, name in enumerate(order)}
    places = {home: (1.0, _middle(names, rows)) for home, names in members.items() if home}
    root: Point = (0.0, _middle(order, rows))
    figure = Figure(figsize=(8, min(2 + 0.22 * len(order), _MAX_HEIGHT_INCHES)), layout="tight")
    axes = figure.add_subplot()
    for place in places.values():
        axes.plot(*zip(root, place, strict=True), color="0.75", linewidth=1.5, zorder=1)
    for name in order:
        above = places.get(manifest.clients[name].cluster or "", root)
        axes.plot(*zip(above, (2.0, rows[name]), strict=True), color="0.85", zorder=1)
    inner = {"root": root, **places}
    depths, heights = zip(*inner.values(), strict=True)
    axes.scatter(depths, heights, s=90, color="tab:brown", zorder=2)
    for name, (x, y) in inner.items():
        axes.annotate(name, (x, y), xytext=(0, 8), textcoords="offset points", ha="center")
    if order:
        measured = figure_of(manifest)
        values = [_last(values_of(manifest.clients[name], measured)) for name in order]
        dots = axes.scatter(
            [2.0] * len(order), [rows[name] for name in order], c=values,
            cmap="viridis" if measured.higher_is_better else "viridis_r",
            plotnonfinite=True, zorder=2,
        )  # fmt: skip
        figure.colorbar(dots, label=f"{measured.name} on the client's test {measured.examples}")
    if len(order) <= _MAX_LABELS:
        for name in order:
            axes.annotate(name, (2.0, rows[name]), xytext=(8, -3), textcoords="offset points")
    axes.set_xlim(-0.3, 2.6)
    axes.set_axis_off()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    write_atomic(path, picture.getvalue())


def _members(manifest: Manifest) -> dict[str, list[str]]:
    """Clients by cluster, "" for those below the root itself."""
    homes = sorted(manifest.clusters, key=lambda name: int(name.removeprefix("cluster-")))
    members: dict[str, list[str]] = {home: [] for home in [*homes, ""]}
    for name in sorted(manifest.clients):
        members[manifest.clients[name].cluster or ""].append(name)
    return members


def _middle(names: list[str], rows: dict[str, float]) -> float:
    return sum(rows[name] for name in names) / len(names) if names else 0.0


def _last(by_tier: Mapping[str, float]) -> float:
    tiers = ("leaf", "cluster", "root")
    return next((by_tier[t] for t in tiers if t in by_tier), float("nan"))
