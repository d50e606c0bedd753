"""How much of the spread over clients is that some have fewer classes, and so an easier task.

A client with few classes is predicted well by anything that knows its labels. Concentration of labels
is the sum of squared shares of the classes (Simpson's index), from 1 / classes to 1; what a straight
line through its logarithm leaves of the accuracies is spread that labels do not explain.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def label_spread(report: Path, data: Path) -> dict[str, dict[str, float]]:
    """By tier and control: spread over seen clients as a share of the mean, correlation of accuracy
    with the concentration of labels, and the spread (fraction) that labels do not explain."""
    concentration = concentrations(report / "partition.json", data)
    rows = [row for row in pq.read_table(report / "metrics.parquet").to_pylist() if row["seen"]]
    last = {(row["tier"], row["client"]): row["accuracy"] for row in rows}
    found = {}
    for tier in dict.fromkeys(row["tier"] for row in rows):
        pairs = [
            (np.log(concentration[client]), accuracy)
            for (name, client), accuracy in last.items()
            if name == tier
        ]
        if len(pairs) > 2:
            found[tier] = beside(*np.array(pairs).T)
    return found


def beside(labels: np.ndarray, accuracy: np.ndarray) -> dict[str, float]:
    """The three figures for one tier: both arrays have one entry a client."""
    line = np.polynomial.Polynomial.fit(labels, accuracy, 1)
    return {
        "relative": float(accuracy.std() / accuracy.mean()),
        "correlation": float(np.corrcoef(labels, accuracy)[0, 1]),
        "unexplained": float((accuracy - line(labels)).std()),
    }


def concentrations(partition: Path, data: Path) -> dict[str, float]:
    """Sum of squared shares of the classes among a client's training images, by client."""
    from silva.data.open import open_dataset

    labels = open_dataset(str(data)).labels
    found = {}
    for client in json.loads(partition.read_text())["clients"]:
        shares = np.bincount(labels[client["train"]]) / len(client["train"])
        found[client["name"]] = float((shares**2).sum())
    return found
