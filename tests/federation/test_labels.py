"""Priors over classes, estimated from clients' counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import dirichlet_multinomial
from tiny import CLASSES, make_run, settings

from silva.adapters.label_priors import even
from silva.federation.cascade import grow_root
from silva.federation.labels import MOST, agree_on_labels, class_counts, concentration, estimate


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
    assert priors.groups["cluster-1"] == counts[10:].sum(axis=0).astype(int).tolist()
    assert (
        priors.group("cluster-0", 10)[5:].max()
        < 1e-3
        < 0.1
        < priors.group("cluster-0", 10)[:5].min()
    )
    # Within a group clients are alike, among all they are not.
    assert priors.of_members > 100 * priors.of_clients
    assert priors.member("cluster-0", counts[0])[:5].min() > 0.15
    alone = estimate(counts, [])
    assert not alone.groups and alone.of_members == alone.of_clients == priors.of_clients
    assert alone.member(None, counts[0]) == pytest.approx(alone.alone(counts[0]))


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
    assert row.bytes_down == 4 * (len(CLASSES) + 2) * len(names)
