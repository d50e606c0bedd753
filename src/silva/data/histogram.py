"""The picture of a partition: train rows of every client and class, ordered by true group."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from silva.data.nouns import Dataset, Partition

_MOST_CLIENT_LABELS = 80
_MOST_CLASS_LABELS = 120
_LONGEST_LABEL = 24


def class_counts(partition: Partition, dataset: Dataset) -> NDArray[np.int64]:
    """Train rows by client (in the partition's order) and class: int64 [clients, classes]."""
    classes = len(dataset.class_names)
    return np.stack(
        [np.bincount(dataset.labels[c.train], minlength=classes) for c in partition.clients]
    ).astype(np.int64)


def draw_histogram(
    partition: Partition,
    counts: NDArray[np.int64],
    class_names: tuple[str, ...],
    file: BinaryIO,
    unit: str = "images",
) -> None:
    """Draw `counts` [clients, classes] as a heat map into `file`, as PNG; `unit` is what they are of.

    Rows are ordered by group and, inside it, as in the partition; lines part the groups, and a
    client's label names its group and style and marks unseen clients with a star.
    """
    groups = np.array([client.group for client in partition.clients])
    order = np.argsort(groups, kind="stable")
    rows, columns = counts.shape
    width = min(5.0 + 0.16 * columns, 22.0)
    height = min(2.4 + 0.17 * rows, 18.0)
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(counts[order], aspect="auto", cmap="viridis", interpolation="nearest")
    figure.colorbar(image, ax=axes, label=f"train {unit}", shrink=0.8, pad=0.01)
    for border in np.flatnonzero(np.diff(groups[order])):
        axes.axhline(border + 0.5, color="white", linewidth=1.5)
    _label_clients(axes, partition, order)
    _label_classes(axes, class_names)
    axes.set_title(f"{partition.spec}: {rows} clients, {len(partition.unseen)} unseen (*)")
    figure.savefig(file, format="png", dpi=110)


def _label_clients(axes: Axes, partition: Partition, order: NDArray[np.int64]) -> None:
    axes.set_ylabel("client")
    if len(order) > _MOST_CLIENT_LABELS:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("client, ordered by group")
        return
    labels = []
    for client in (partition.clients[i] for i in order):
        parts = [client.name[:_LONGEST_LABEL] + ("*" if client.name in partition.unseen else "")]
        parts += [f"group {client.group}"] if client.group >= 0 else []
        parts += [client.style] if client.style else []
        labels.append(", ".join(parts))
    axes.set_yticks(range(len(order)), labels, fontsize=7)


def _label_classes(axes: Axes, class_names: tuple[str, ...]) -> None:
    axes.set_xlabel("class")
    if len(class_names) > _MOST_CLASS_LABELS:
        return
    # A dollar sign would switch matplotlib to mathematics.
    labels = [name[:_LONGEST_LABEL].replace("$", r"\$") for name in class_names]
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
