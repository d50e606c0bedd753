"""Plots are drawn from whatever a record holds, and skipped where it holds nothing."""

from __future__ import annotations

import warnings
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from silva.federation.plots import OVERVIEW, figure_by_round, plot_names, render_plots
from silva.federation.plots_clustering import cluster_order, draw_distances, draw_eigenvalues
from silva.federation.record import (
    Accuracy,
    Clustering,
    Overlap,
    Perplexity,
    Round,
    RunFacts,
    RunRecord,
)

FACTS = RunFacts({}, 0, {}, 1, data="costs $5 and $6", partition="planted(2)")


def clustering(labels: list[int], groups: list[int] | None = None) -> Clustering:
    n = len(labels)
    distances = [[0.0 if i == j else 0.5 + 0.1 * abs(i - j) for j in range(n)] for i in range(n)]
    eigenvalues = np.linspace(0, 1, n).tolist()
    clients, k = [f"c-{i}" for i in range(n)], len(set(labels))
    return Clustering(clients, labels, distances, eigenvalues, k, "B_ema", "gap", [], groups, 0.5)


def round_of(stage: str, at: int, sent: int = 1000) -> Round:
    return Round(stage, -1, at, 2, 0, 0, 1.0, 0.1, 0.0, sent, sent, 1.0, 0.9)


def full_record() -> RunRecord:
    rows = [
        Accuracy(f"c-{i}", True, tier, tier, at, i + at, 12)
        for at, tier in enumerate(("root", "cluster", "leaf"), start=1)
        for i in range(4)
    ]
    rows += [Accuracy("u", False, t, "unseen", 3, 5, 12) for t in ("root", "zero_leaf", "after_1")]
    return RunRecord(
        measurements=rows,
        rounds=[round_of("root", 1), round_of("cluster", 2), round_of("leaf", 3, 0)],
        overlaps=[Overlap(f"c-{i}", "root-leaf", 0.01 * i) for i in range(4)],
        clustering=clustering([0, 1, 0, 1], [0, 1, 1, 1]),
    )


def size_of(png: bytes) -> tuple[int, int]:
    with Image.open(BytesIO(png)) as image:
        image.load()
        return image.size


def test_a_full_record_gives_every_plot_as_a_readable_png() -> None:
    steps: list[tuple[int, int]] = []
    plots = render_plots(full_record(), FACTS, lambda *step: steps.append(step))
    assert set(plots) == set(plot_names("accuracy"))
    assert steps == [(n + 1, len(plots)) for n in range(len(plots))]
    for png in plots.values():
        width, height = size_of(png)
        assert width > 600
        assert height > 400


def test_equal_input_gives_equal_pictures() -> None:
    only_clusters = RunRecord(clustering=clustering([0, 1, 1]))
    assert render_plots(only_clusters, FACTS) == render_plots(only_clusters, FACTS)


def test_an_empty_record_gives_no_plots() -> None:
    assert render_plots(RunRecord(), FACTS) == {}


def test_what_is_missing_is_left_out() -> None:
    plots = render_plots(RunRecord(overlaps=[Overlap("a", "root-leaf", 0.1)]), FACTS)
    assert set(plots) == {"subspace_overlap.png", OVERVIEW}


@pytest.mark.parametrize("clients", [1, 2, 3, 40])
def test_one_cluster_of_any_size_can_be_drawn(clients: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots = render_plots(RunRecord(clustering=clustering([0] * clients)), FACTS)
    assert ("eigenvalues.png" in plots) == ("client_distances.png" in plots) == (clients > 1)


def test_flat_values_can_be_drawn() -> None:
    rows = [Accuracy(f"c-{i}", True, "root", "root", 0, 0, 5) for i in range(3)]
    flat = replace(clustering([0, 0, 0, 0]), eigenvalues=[0.0] * 4, distances=[[0.0] * 4] * 4)
    overlaps = [Overlap("a", "root-leaf", 0.0), Overlap("b", "root-leaf", 0.0)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots = render_plots(RunRecord(rows, [], overlaps, clustering=flat), FACTS)
    assert len(plots) == 6


def test_more_clusters_than_colours_or_shown_eigenvalues() -> None:
    plots = render_plots(RunRecord(clustering=clustering(list(range(45)))), FACTS)
    assert max(size_of(plots["eigenvalues.png"])) < 2000


def test_clients_are_ordered_by_cluster_then_by_true_group() -> None:
    assert cluster_order(clustering([1, 0, 1, 0], [0, 1, 0, 0])) == [3, 1, 0, 2]
    assert cluster_order(clustering([1, 0, 1, 0])) == [1, 3, 0, 2]


def test_the_distance_matrix_is_reordered_on_both_sides() -> None:
    record = RunRecord(clustering=clustering([1, 0, 1]))
    axes = Figure().add_subplot()
    draw_distances(record, axes)
    shown = np.asarray(axes.images[0].get_array())
    expected = np.array([[0.0, 0.6, 0.6], [0.6, 0.0, 0.7], [0.6, 0.7, 0.0]])
    np.testing.assert_allclose(shown, expected)


def test_the_chosen_k_is_marked() -> None:
    axes = Figure().add_subplot()
    draw_eigenvalues(RunRecord(clustering=clustering([0, 1, 2, 2, 2])), axes)
    assert [text.get_text() for text in axes.texts] == ["K = 3"]
    assert [float(x) for x in np.asarray(axes.lines[0].get_xdata())] == [3.5, 3.5]


def test_a_client_keeps_its_last_value_in_rounds_that_skip_it() -> None:
    rows = [
        Accuracy("a", True, "cluster", "cluster", 4, 2, 10),
        Accuracy("b", True, "cluster", "cluster", 4, 6, 10),
        Accuracy("a", True, "cluster", "cluster", 5, 4, 10),
        Accuracy("a", True, "cluster", "leaf", 6, 9, 10),
        Accuracy("u", False, "cluster", "cluster", 5, 9, 10),
    ]
    course = figure_by_round(RunRecord(measurements=rows), "cluster")
    assert course == [(4, [0.2, 0.6]), (5, [0.4, 0.6])]


def test_plots_are_named_by_what_was_measured() -> None:
    rows = [
        Perplexity(f"c-{i}", True, tier, tier, at, loss=10.0 + i - at, total=10, bytes=30)
        for at, tier in enumerate(("root", "leaf"), start=1)
        for i in range(3)
    ]
    plots = render_plots(RunRecord(figure="perplexity", measurements=list(rows)), FACTS)
    assert set(plots) == {"perplexity_by_tier.png", "perplexity_by_round.png", OVERVIEW}
    assert set(plots) <= set(plot_names("perplexity"))
