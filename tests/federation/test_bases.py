from __future__ import annotations

import pytest
import torch
from tiny import random_pair
from torch import Tensor

from silva.adapters.subspace import overlap
from silva.adapters.tiers import LoraPair
from silva.federation.bases import FEATURES, of_feature, updated_means


def test_the_first_round_is_normalised_B_and_its_change() -> None:
    trained, start = {"m": random_pair(1)}, {"m": random_pair(2)}
    means = updated_means(None, trained, start, 0.9)
    kept = {key for key in means if not key.startswith("rounds/")}
    assert kept == {"B_ema/m", "dB_ema/m", "dB_cos/m"}
    B, change = trained["m"].B, trained["m"].B - start["m"].B
    torch.testing.assert_close(means["B_ema/m"], B / B.norm())
    torch.testing.assert_close(means["dB_ema/m"], change / change.norm())
    assert set(of_feature(means, "dB_ema")) == {"m"}


def rounds(decay: float, *trained: int) -> dict[str, Tensor]:
    """Running means after rounds that ended in the random pairs of these seeds, all from one start."""
    start, means = {"m": random_pair(0)}, None
    for seed in trained:
        means = updated_means(means, {"m": random_pair(seed)}, start, decay)
    assert means is not None
    return means


@pytest.mark.parametrize("decay", [0.5, 0.9, 1.0])
def test_rounds_are_weighted_by_their_age_and_the_first_is_none_of_its_own(decay: float) -> None:
    seeds = (1, 2, 3, 4)
    each = torch.stack([rounds(decay, seed)["dB_cos/m"] for seed in seeds])
    ages = torch.tensor([decay**3, decay**2, decay, 1.0])
    expected = (ages[:, None, None] * each).sum(0) / ages.sum()
    torch.testing.assert_close(rounds(decay, *seeds)["dB_cos/m"], expected)


def test_subspaces_are_averaged_too() -> None:
    first, both, second = rounds(0.5, 1), rounds(0.5, 1, 2), rounds(0.5, 2)
    for key in ("B_ema/m", "dB_ema/m"):
        assert overlap(both[key], first[key]) > overlap(second[key], first[key])
        assert overlap(both[key], second[key]) > overlap(first[key], second[key])


def test_the_first_rounds_count_for_the_change_of_B_alone() -> None:
    start = {"m": random_pair(0)}
    means = updated_means(None, {"m": random_pair(1)}, start, 0.9, subspaces=False)
    assert not of_feature(means, "B_ema")
    means = updated_means(means, {"m": random_pair(2)}, start, 0.9)
    torch.testing.assert_close(means["B_ema/m"], rounds(0.9, 2)["B_ema/m"])
    for key in ("dB_ema/m", "dB_cos/m"):
        torch.testing.assert_close(means[key], rounds(0.9, 1, 2)[key])


def test_values_tell_directions_and_queries_subspaces() -> None:
    names = ("layers.0.attention.q_proj", "layers.0.attention.v_proj")
    trained = {name: random_pair(n) for n, name in enumerate(names)}
    start = {name: random_pair(n + 5) for n, name in enumerate(names)}
    means = updated_means(None, trained, start, 0.9)
    assert set(of_feature(means, "dB_cos")) == {names[1]}
    assert set(of_feature(means, "dQ_ema")) == {names[0]}
    assert set(of_feature(means, "dB_ema")) == set(names)


def test_an_adapter_without_queries_or_values_has_all_features() -> None:
    means = updated_means(None, {"m": random_pair(1)}, {"m": random_pair(2)}, 0.9)
    assert all(set(of_feature(means, feature)) == {"m"} for feature in FEATURES)


def test_the_past_does_not_count_at_decay_zero() -> None:
    fresh = rounds(0.0, 1, 2)
    assert overlap(fresh["B_ema/m"], random_pair(2).B) == pytest.approx(1.0, abs=1e-5)


def test_a_reset_that_turns_the_basis_does_not_disturb_the_mean() -> None:
    pair, start = random_pair(1), {"m": LoraPair(torch.zeros(12, 3), random_pair(1).A)}
    turn = torch.diag(torch.tensor([1.0, -1.0, -1.0]))[[1, 0, 2]]
    first = updated_means(None, {"m": pair}, start, 0.5)
    turned = updated_means(first, {"m": LoraPair(pair.B @ turn, turn.T @ pair.A)}, start, 0.5)
    torch.testing.assert_close(turned["B_ema/m"], first["B_ema/m"], atol=1e-5, rtol=1e-5)


def test_no_direction_stays_no_direction() -> None:
    empty = {"m": LoraPair(torch.zeros(12, 3), random_pair(1).A)}
    means = updated_means(None, empty, empty, 0.9)
    assert not means["B_ema/m"].any() and not means["dB_ema/m"].any()
    later = updated_means(means, {"m": random_pair(1)}, empty, 0.9)
    assert overlap(later["B_ema/m"], random_pair(1).B) == pytest.approx(1.0, abs=1e-5)
