from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import random_head, random_pair

from silva.adapters.tiers import LoraPair
from silva.federation.aggregate import mean_head, product_svd, relative_change, shares

METHODS = ("factored", "dense", "randomised")
SHAPES = [(12, 9), (9, 12), (16, 16), (40, 7)]


def mean_product(pairs: list[LoraPair], weights: list[float]) -> torch.Tensor:
    total = sum(w * (p.B.double() @ p.A.double()) for p, w in zip(pairs, weights, strict=True))
    assert isinstance(total, torch.Tensor)
    return total


def best_rank(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


@pytest.mark.parametrize("method", [*METHODS, "auto"])
@pytest.mark.parametrize(("p", "q"), SHAPES)
@pytest.mark.parametrize("clients", [2, 5])
def test_every_method_gives_the_best_rank_r_mean_product(
    method: str, p: int, q: int, clients: int
) -> None:
    pairs = [random_pair(n, p, q, rank=2) for n in range(clients)]
    weights = shares([3, 1, 4, 1, 5][:clients], "samples")
    found = product_svd(pairs, weights, 2, method=method)
    wanted = best_rank(mean_product(pairs, weights), 2)
    torch.testing.assert_close(found.pair.product().double(), wanted, atol=1e-5, rtol=1e-5)


def test_methods_agree_in_factors_and_energy() -> None:
    pairs = [random_pair(n, 30, 20, rank=4) for n in range(6)]
    weights = shares([1] * 6, "uniform")
    found = [product_svd(pairs, weights, 4, method=m) for m in METHODS]
    for other in found[1:]:
        torch.testing.assert_close(other.pair.B, found[0].pair.B, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(other.pair.A, found[0].pair.A, atol=1e-4, rtol=1e-4)
        assert other.trunc_energy == pytest.approx(found[0].trunc_energy, abs=1e-9)


def test_truncated_energy_is_what_is_lost() -> None:
    pairs = [random_pair(n) for n in range(4)]
    weights = shares([1] * 4, "uniform")
    found = product_svd(pairs, weights, 3)
    whole = mean_product(pairs, weights)
    lost = (whole - found.pair.product()).square().sum() / whole.square().sum()
    assert 0 < found.trunc_energy < 1
    assert found.trunc_energy == pytest.approx(float(lost), rel=1e-4)


def test_the_reset_puts_orthonormal_columns_in_B_and_scale_in_A() -> None:
    pair = product_svd([random_pair(1)], [1.0], 3).pair
    torch.testing.assert_close(pair.B.T @ pair.B, torch.eye(3), atol=1e-5, rtol=0)
    gram = pair.A @ pair.A.T
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()), atol=1e-4, rtol=0)
    largest = pair.B.gather(0, pair.B.abs().argmax(dim=0)[None])
    assert bool((largest > 0).all())


def test_a_balanced_split_has_the_same_product_and_shares_the_scale() -> None:
    pairs = [random_pair(n) for n in range(2)]
    paper = product_svd(pairs, [0.5, 0.5], 3).pair
    balanced = product_svd(pairs, [0.5, 0.5], 3, split="balanced").pair
    torch.testing.assert_close(balanced.product(), paper.product(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(balanced.B.norm(dim=0), balanced.A.norm(dim=1))


@pytest.mark.parametrize("method", METHODS)
def test_one_client_gets_its_own_product_back(method: str) -> None:
    pair = random_pair(3)
    found = product_svd([pair], [1.0], 3, method=method)
    torch.testing.assert_close(found.pair.product(), pair.product(), atol=1e-5, rtol=1e-5)
    assert found.trunc_energy < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_identical_clients_change_nothing(method: str) -> None:
    pair = product_svd([random_pair(3)], [1.0], 3).pair
    found = product_svd([pair] * 4, shares([5, 1, 1, 3], "samples"), 3, method=method)
    torch.testing.assert_close(found.pair.B, pair.B, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.pair.A, pair.A, atol=1e-4, rtol=1e-4)


@given(st.permutations(range(4)))
def test_the_order_of_clients_does_not_matter(order: list[int]) -> None:
    pairs, weights = [random_pair(n) for n in range(4)], shares([1, 2, 3, 4], "samples")
    plain = product_svd(pairs, weights, 3).pair
    turned = product_svd([pairs[n] for n in order], [weights[n] for n in order], 3).pair
    torch.testing.assert_close(turned.B, plain.B, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(turned.A, plain.A, atol=1e-4, rtol=1e-4)


def test_the_scaling_cancels() -> None:
    """Aggregating s B A and dividing by s is aggregating B A."""
    pairs = [random_pair(n) for n in range(3)]
    scaled = [LoraPair(B=p.B, A=2.0 * p.A) for p in pairs]
    weights = shares([1, 1, 1], "uniform")
    plain, twice = product_svd(pairs, weights, 3).pair, product_svd(scaled, weights, 3).pair
    torch.testing.assert_close(twice.B, plain.B, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(twice.A / 2, plain.A, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_mean_of_nothing_is_nothing_of_full_shape(method: str) -> None:
    empty = LoraPair(B=torch.zeros(12, 3), A=random_pair(0).A)
    found = product_svd([empty, empty], [0.5, 0.5], 3, method=method)
    assert found.pair.B.shape == (12, 3) and found.pair.A.shape == (3, 9)
    assert float(found.pair.product().norm()) == 0.0 and found.trunc_energy == 0.0


def test_a_rank_above_what_the_product_has_is_padded() -> None:
    pair = random_pair(0, 4, 2, rank=2)
    found = product_svd([pair], [1.0], 3).pair
    assert found.B.shape == (4, 3) and found.A.shape == (3, 2)
    torch.testing.assert_close(found.product(), pair.product(), atol=1e-5, rtol=1e-5)


def test_shares_sum_to_one() -> None:
    assert shares([10, 30], "samples") == [0.25, 0.75]
    assert shares([10, 30], "uniform") == [0.5, 0.5]
    assert sum(shares([7, 13, 19], "samples")) == pytest.approx(1.0)


def test_the_mean_head_is_weighted() -> None:
    one, other = random_head(1), random_head(2)
    mean = mean_head([one, other], [0.25, 0.75])
    torch.testing.assert_close(mean.weight, 0.25 * one.weight + 0.75 * other.weight)
    torch.testing.assert_close(mean.bias, 0.25 * one.bias + 0.75 * other.bias)


def test_relative_change_is_the_dense_frobenius_formula() -> None:
    new = {"x": random_pair(1), "y": random_pair(2, 5, 7)}
    old = {"x": random_pair(3), "y": random_pair(4, 5, 7)}
    change = sum(float((new[n].product() - old[n].product()).square().sum()) for n in new)
    before = sum(float(old[n].product().square().sum()) for n in old)
    assert relative_change(new, old) == pytest.approx((change / before) ** 0.5, rel=1e-5)


def test_relative_change_of_nothing() -> None:
    empty = {"x": LoraPair(B=torch.zeros(12, 3), A=random_pair(0).A)}
    some = {"x": random_pair(1)}
    assert relative_change(some, empty) == 1.0
    assert relative_change(empty, empty) == 0.0
    assert relative_change(some, some) < 1e-6
