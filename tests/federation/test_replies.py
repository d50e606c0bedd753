from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import backbone, broken, huge, random_data, random_head, random_pairs, settings

from silva.adapters.tiers import Head, LoraPair
from silva.federation.classification import Classification
from silva.federation.client import Update, Work, train_client
from silva.federation.config import LocalConfig
from silva.federation.orthogonality import Frozen
from silva.federation.replies import BETAS, REACH, believable

IMAGES = 10


def task(**changes: object) -> Work:
    pairs = {n: replace(p, B=torch.zeros_like(p.B)) for n, p in random_pairs(1).items()}
    plain = Work("c", {}, pairs, random_head(1), scaling=2.0, epochs=2, seed=0)
    weights = {n: backbone().model.get_submodule(n).weight.detach() for n in pairs}
    return replace(plain, merged=weights, **changes)  # type: ignore[arg-type]


def trained(work: Work, local: LocalConfig) -> Update:
    return train_client(Classification(backbone().model, 4), random_data(2, IMAGES), work, local)


@pytest.mark.parametrize("rate", [1e-4, 1e-2, 1.0, 10.0])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_what_training_ends_in_is_believed_at_any_learning_rate(rate: float, decay: float) -> None:
    local = replace(settings().local, lr=rate, head_lr=rate, weight_decay=decay, clip=0.0)
    for work in (task(), task(max_steps=1), task(epochs=1, rate=0.1)):
        update = trained(work, local)
        assert update.finite() and believable(update, work, local, IMAGES)


def test_a_projection_and_parts_that_are_not_trained_are_believed() -> None:
    local = settings().local
    frozen = (Frozen({n: p.B for n, p in random_pairs(3).items()}, 1.0),)
    start = random_pairs(1)
    for work in (
        task(pairs=start, frozen=frozen, orthogonality="hard"),
        task(pairs=start, train_pairs=False),
        task(pairs=start, train_head=False),
    ):
        assert believable(trained(work, local), work, local, IMAGES)


def test_no_gradients_carry_a_number_farther_than_the_reach() -> None:
    """The worst gradients by Cauchy-Schwarz, g_i ~ (b1 / b2)^(t - i), nearly get there."""
    steps = 3000
    ratios = (BETAS[0] / BETAS[1]) ** torch.arange(steps - 1, -1, -1, dtype=torch.float64)
    for gradients, lowest in ((ratios, 0.95 * REACH), (torch.ones(steps).double(), 0.9)):
        number = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.AdamW([number], lr=1.0, weight_decay=0.0, eps=0.0)
        farthest = 0.0
        for gradient in gradients.clamp(min=1e-150):
            before = float(number.detach())
            number.grad = gradient.reshape(1)
            optimiser.step()
            farthest = max(farthest, abs(float(number.detach()) - before))
        assert lowest < farthest <= REACH


@pytest.mark.parametrize("part", ["factor", "head"])
@pytest.mark.parametrize("times", [20.0, 1e4, 1e20, float("nan"), float("inf")])
def test_what_training_cannot_reach_is_not_believed(part: str, times: float) -> None:
    local, work = settings().local, task()
    update = trained(work, local)
    if part == "head":
        moved = update.head.bias - work.head.bias
        bias = work.head.bias + times * moved.abs().max().clamp(min=local.head_lr) * 10
        spoilt = replace(update, head=Head(update.head.weight, bias))
    else:
        name, pair = next(iter(update.pairs.items()))
        spoilt = replace(update, pairs={**update.pairs, name: LoraPair(pair.B * times, pair.A)})
    assert believable(update, work, local, IMAGES)
    assert not believable(spoilt, work, local, IMAGES)


@pytest.mark.parametrize("images", [0, 9, 11, 10**12, -10, float("inf"), float("nan")])
def test_another_number_of_images_than_were_dealt_out_is_not_believed(images: float) -> None:
    local, work = settings().local, task()
    assert not believable(replace(trained(work, local), images=images), work, local, IMAGES)


@pytest.mark.parametrize("what", ["loss", "seconds", "seconds_compute"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_for_the_record_that_are_not_finite_are_not_believed(
    what: str, value: float
) -> None:
    local, work = settings().local, task()
    assert not believable(replace(trained(work, local), **{what: value}), work, local, IMAGES)


def test_a_reply_in_the_name_of_another_client_is_not_believed() -> None:
    local, work = settings().local, task()
    assert not believable(replace(trained(work, local), client="d"), work, local, IMAGES)


def test_frozen_parts_may_not_grow_at_all() -> None:
    local, work = settings().local, task(train_head=False)
    update = trained(work, local)
    louder = replace(update, head=Head(1.1 * update.head.weight, update.head.bias))
    assert not believable(louder, work, local, IMAGES)


def test_other_modules_and_shapes_are_not_believed() -> None:
    local, work = settings().local, task()
    update = trained(work, local)
    name, pair = next(iter(update.pairs.items()))
    fewer = {n: p for n, p in update.pairs.items() if n != name}
    wider = {**update.pairs, name: LoraPair(pair.B[:, :1], pair.A[:1])}
    for spoilt in (fewer, wider, {**update.pairs, "more": pair}):
        assert not believable(replace(update, pairs=spoilt), work, local, IMAGES)
    assert not believable(broken(update), work, local, IMAGES)
    assert not believable(huge(update), work, local, IMAGES)
