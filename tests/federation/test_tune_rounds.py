"""How the rounds of a run are shared out among its tiers."""

from __future__ import annotations

import pytest

from silva.errors import RunError
from silva.federation.config import FederationConfig, LeafConfig, TierConfig
from silva.federation.tune import with_rounds


def tiers_of(config: FederationConfig) -> list[int]:
    shared = with_rounds(config)
    tiers = [getattr(shared, tier).rounds for tier in ("root", "cluster", "leaf")]
    assert sum(tiers) == shared.rounds and with_rounds(shared) == shared
    return tiers


@pytest.mark.parametrize("rounds", [3, 4, 5, 10, 15, 25, 26, 50])
def test_rounds_are_shared_out_to_the_last(rounds: int) -> None:
    tiers = tiers_of(FederationConfig(rounds=rounds))
    assert sum(tiers) == rounds and min(tiers) >= 1
    assert all(abs(n - rounds * share) < 1 for n, share in zip(tiers, (0.3, 0.4, 0.3), strict=True))


def test_tiers_that_name_no_rounds_get_what_the_others_leave() -> None:
    assert tiers_of(FederationConfig(rounds=24, root=TierConfig(rounds=10))) == [10, 8, 6]
    one = {"root": TierConfig(rounds=40), "cluster": TierConfig(rounds=30)}
    assert tiers_of(FederationConfig(**one, leaf=LeafConfig(rounds=1))) == [40, 30, 1]


@pytest.mark.parametrize(("rounds", "root", "least"), [(2, 0, 3), (50, 49, 51)])
def test_too_few_rounds_are_an_error_with_the_least(rounds: int, root: int, least: int) -> None:
    with pytest.raises(RunError, match=f"choose {least} or more"):
        with_rounds(FederationConfig(rounds=rounds, root=TierConfig(rounds=root)))
