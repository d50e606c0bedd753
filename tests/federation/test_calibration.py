"""One temperature for the first head, from images that it has not seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from silva.adapters.label_priors import even
from silva.adapters.tiers import Head
from silva.federation.calibration import (
    FOLDS,
    TEMPERATURES,
    cooled,
    dealt,
    possible_surprise,
    surprise,
    temperature,
)
from silva.federation.discriminants import discriminant_head, statistics_of


def images(clients: int, each: int, classes: int, size: int, seed: int = 0):
    """Features and labels of clients, from one Gaussian a class."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, size, generator=g) / 4
    for _ in range(clients):
        y = torch.randint(0, classes, (each,), generator=g)
        yield centres[y] + torch.randn(each, size, generator=g), y


def chosen(data, classes: int) -> float:
    parts = [statistics_of(x, y, classes) for x, y in data]
    folds = dealt(list(range(len(data))))

    def ask(fold: int, head: Head, known: torch.Tensor) -> torch.Tensor:
        rows = [surprise(head, *data[n], even(classes), known) for n in folds[fold]]
        return torch.stack(rows).sum(dim=0)

    return temperature([[parts[n] for n in fold] for fold in folds], ask)


@pytest.mark.parametrize("each", [6, 40])
def test_it_is_the_one_that_fits_images_of_others(each: int) -> None:
    """Few images make discriminants far too sure; new images of the same classes say how much."""
    data = list(images(10, each, 6, 48))
    head = discriminant_head([statistics_of(x, y, 6) for x, y in data])
    x, y = next(iter(images(1, 4000, 6, 48)))

    def loss(log_t: float) -> float:
        logits = (x @ head.weight.T + head.bias) / np.exp(log_t)
        return float(torch.nn.functional.cross_entropy(logits, y))

    best = float(np.exp(minimize_scalar(loss, bounds=(-2, 4), method="bounded").x))
    assert abs(np.log2(chosen(data, 6) / best)) < 1.01


def test_the_fewer_images_the_cooler() -> None:
    few, many = (chosen(list(images(10, each, 6, 48)), 6) for each in (6, 200))
    assert few > many >= 1 / 2


@pytest.mark.parametrize("clients", [0, 1])
def test_where_nobody_can_judge_the_head_stays_as_it_is(clients: int) -> None:
    assert chosen(list(images(clients, 5, 3, 4)), 3) == 1.0


def test_clients_who_share_no_class_do_not_judge_each_other() -> None:
    data = [(torch.randn(5, 4), torch.full((5,), n)) for n in range(3)]
    assert chosen(data, 3) == 1.0


def test_surprise_is_the_cross_entropy_of_the_cooled_head_under_the_prior() -> None:
    (x, y), prior = next(images(1, 30, 3, 5)), np.array([0.6, 0.3, 0.1])
    head = Head(torch.randn(3, 5), torch.randn(3))
    found = surprise(head, x, y, prior, torch.ones(3, dtype=torch.bool))
    for value, t in zip(found.tolist(), TEMPERATURES, strict=True):
        cool = cooled(head, t)
        scores = (x @ cool.weight.T + cool.bias).double() + torch.from_numpy(prior).log()
        wanted = torch.nn.functional.cross_entropy(scores, y, reduction="sum")
        assert value == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("spread", [0.1, 30.0])
def test_what_images_say_is_possible_and_what_none_can_say_is_not(spread: float) -> None:
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(30, 5, generator=g), torch.randint(0, 3, (30,), generator=g)
    head = Head(spread * torch.randn(3, 5, generator=g), spread * torch.randn(3, generator=g))
    longest, prior = float(x.norm(dim=1).max()), np.array([0.9, 0.09, 0.01])
    said = surprise(head, x, y, prior, torch.ones(3, dtype=torch.bool))
    assert possible_surprise(said, head, longest, 30, prior)
    assert not possible_surprise(said, head, longest, 0, prior)
    for wrong in (float("nan"), float("inf"), -1.0, 1e9):
        spoilt = said.clone()
        spoilt[-1] = wrong
        assert not possible_surprise(spoilt, head, longest, 30, prior)


@pytest.mark.parametrize("items", [0, 1, 3, 5, 12])
def test_everybody_is_dealt_to_one_fold(items: int) -> None:
    folds = dealt(list(range(items)))
    assert len(folds) == min(items, FOLDS) and all(folds)
    assert sorted(n for fold in folds for n in fold) == list(range(items))
