from __future__ import annotations

import pytest
import torch
from tiny import random_pair

from silva.adapters.subspace import overlap
from silva.adapters.tiers import LoraPair
from silva.federation.bases import FEATURES, of_feature, updated_means


def test_the_first_round_is_normalised_B_and_its_change() -> None:
    trained, start = {"m": random_pair(1)}, {"m": random_pair(2)}
    means = updated_means(None, trained, start, 0.9)
    assert set(means) == {f"{feature}/m" for feature in FEATURES}
    B, change = trained["m"].B, trained["m"].B - start["m"].B
    torch.testing.assert_close(means["B_ema/m"], B / B.norm())
    torch.testing.assert_close(means["dB_ema/m"], change / change.norm())
    assert set(of_feature(means, "dB_ema")) == {"m"}


def test_later_rounds_are_averaged_and_normalised() -> None:
    start = {"m": random_pair(0)}
    first = updated_means(None, {"m": random_pair(1)}, start, 0.5)
    second = updated_means(first, {"m": random_pair(2)}, start, 0.5)
    only = updated_means(None, {"m": random_pair(2)}, start, 0.5)
    for key in ("B_ema/m", "dB_ema/m"):
        assert float(second[key].norm()) == pytest.approx(1.0, abs=1e-5)
        assert overlap(second[key], first[key]) > overlap(only[key], first[key])
    direction = (first["dB_cos/m"] + only["dB_cos/m"]) / 2
    torch.testing.assert_close(second["dB_cos/m"], direction)


def test_the_direction_of_the_change_is_kept_for_value_projections() -> None:
    names = ("layers.0.attention.q_proj", "layers.0.attention.v_proj")
    trained = {name: random_pair(n) for n, name in enumerate(names)}
    start = {name: random_pair(n + 5) for n, name in enumerate(names)}
    assert set(of_feature(updated_means(None, trained, start, 0.9), "dB_cos")) == {names[1]}


def test_the_past_alone_counts_at_decay_one_and_not_at_all_at_zero() -> None:
    start = {"m": random_pair(0)}
    first = updated_means(None, {"m": random_pair(1)}, start, 0.5)
    kept = updated_means(first, {"m": random_pair(2)}, start, 1.0)
    torch.testing.assert_close(kept["B_ema/m"], first["B_ema/m"])
    fresh = updated_means(first, {"m": random_pair(2)}, start, 0.0)
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
