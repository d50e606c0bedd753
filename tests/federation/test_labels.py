"""Priors over classes, estimated from clients' counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import dirichlet_multinomial
from tiny import CLASSES, make_run, settings

from silva.adapters.label_priors import even
from silva.federation import labels
from silva.federation.cascade import grow_root
from silva.federation.labels import (
    LEAST,
    MOST,
    agree_on_labels,
    class_counts,
    concentration,
    estimate,
)


def drawn(s: float, classes: int, clients: int, images: int) -> np.ndarray:
    draw = np.random.default_rng(7)
    shares = draw.dirichlet(np.full(classes, s / classes), clients)
    return np.array([draw.multinomial(images, share) for share in shares], dtype=float)


@pytest.mark.parametrize("s", [0.5, 5.0, 50.0])
def test_the_concentration_is_found_that_counts_were_drawn_with(s: float) -> None:
    counts = drawn(s, 10, 400, 200)
    found = concentration(counts, np.tile(even(10), (400, 1)))
    assert found == pytest.approx(s, rel=0.15)


def test_no_other_concentration_makes_the_counts_more_probable() -> None:
    counts = drawn(3.0, 6, 30, 40)
    found = concentration(counts, np.tile(even(6), (30, 1)))

    def probable(s: float) -> float:
        spread = dirichlet_multinomial(np.full(6, s / 6), counts.sum(axis=1).astype(int))
        return float(spread.logpmf(counts.astype(int)).sum())

    assert all(probable(found) > probable(found * times) for times in (0.9, 1.1))


def test_clients_with_all_classes_alike_give_the_largest() -> None:
    counts = np.full((8, 10), 10.0)
    assert concentration(counts, np.tile(even(10), (8, 1))) > MOST / 2


def test_groups_of_different_classes_are_told_from_their_members() -> None:
    """Ten clients have evenly the first half of the classes, ten the second."""
    halves = np.repeat([[0.2] * 5 + [0.0] * 5, [0.0] * 5 + [0.2] * 5], 10, axis=0)
    draw = np.random.default_rng(3)
    counts = np.array([draw.multinomial(40, share) for share in halves], dtype=float)
    names = ["cluster-0"] * 10 + ["cluster-1"] * 10
    priors = estimate(counts, names)
    first, second = (priors.group(name, 10) for name in ("cluster-0", "cluster-1"))
    assert first[5:].max() < 1e-3 < 0.15 < first[:5].min()
    assert second[:5].max() < 1e-3 < 0.15 < second[5:].min()
    # What the others have makes a class likely that a member of few images lacks.
    own = np.array([2.0, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    assert priors.member("cluster-0", own)[2:5].min() > 1.5 * priors.alone(own)[2:5].min()
    alone = estimate(counts, [])
    assert not alone.groups and alone.of_clients == priors.of_clients
    assert alone.member(None, counts[0]) == pytest.approx(alone.alone(counts[0]))


def test_clusters_that_say_nothing_about_labels_are_taken_as_even() -> None:
    """Two members each, whose labels have nothing in common: their classes are theirs alone."""
    draw = np.random.default_rng(5)
    shares = draw.dirichlet(np.full(8, 0.25), 48)
    counts = np.array([draw.multinomial(50, share) for share in shares[:40]], dtype=float)
    priors = estimate(counts, [f"cluster-{n // 2}" for n in range(40)])
    group = np.array([priors.group(f"cluster-{n % 20}", 8) for n in range(8)])
    lost = -(shares[40:] * np.log(group)).sum(axis=1).mean()
    assert lost < np.log(8) + 0.02


def test_few_clients_rule_no_class_out() -> None:
    counts = np.zeros((3, 10))
    counts[:, 0] = 10.0
    priors = estimate(counts, ["cluster-0", "cluster-0", "cluster-1"])
    assert priors.of_clients == pytest.approx(LEAST, rel=1e-2)
    assert priors.alone(counts[0])[1:].min() > 1e-3
    assert priors.group("cluster-0", 10).min() > 1e-3


@pytest.mark.parametrize("wrong", [float("nan"), 1e9, -1.0])
def test_counts_that_are_not_of_a_clients_images_count_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    run = make_run(tmp_path, settings(root__rounds=1))
    grow_root(run)
    names = [c.name for c in run.partition.seen]
    run.state.labels = {name: n % 2 for n, name in enumerate(names)}
    reads = run.task.reads
    assert reads is not None
    honest = np.array([class_counts(reads, run.clients.train(n)) for n in names])
    turns = iter([np.full(len(CLASSES), wrong), *honest[1:]])
    monkeypatch.setattr(labels, "class_counts", lambda *given: next(turns))
    found, row = agree_on_labels(run), run.state.record.rounds[-1]
    honest[0] = 0
    assert found == estimate(honest, [f"cluster-{n % 2}" for n in range(len(names))])
    assert (row.participants, row.rejected) == (len(names) - 1, 1)


@pytest.mark.parametrize(("flags", "late"), [({"late": 0.4}, 2), ({"head_init": "zeros"}, 6)])
def test_only_those_tell_their_counts_who_have_not_yet(
    tmp_path: Path, flags: dict[str, object], late: int
) -> None:
    run = make_run(tmp_path, settings(root__rounds=1, **flags))
    grow_root(run)
    names = [c.name for c in run.partition.seen]
    run.state.labels = {name: n % 2 for n, name in enumerate(names)}
    priors, row = agree_on_labels(run), run.state.record.rounds[-1]
    assert priors is not None and run.task.reads is not None
    counts = np.array([class_counts(run.task.reads, run.clients.train(n)) for n in names])
    assert priors == estimate(counts, [f"cluster-{n % 2}" for n in range(len(names))])
    assert (row.stage, row.participants) == ("labels", len(names))
    assert row.bytes_up == 4 * len(CLASSES) * late
    assert row.bytes_down == 4 * (len(CLASSES) + 1) * len(names)
