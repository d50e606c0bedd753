from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from silva.models.experts import ExpertWeights, LocalExperts, run_grouped, run_plain, weighted_sum


def some_experts(count: int = 5, hidden: int = 12, inner: int = 8) -> ExpertWeights:
    source = torch.Generator().manual_seed(0)
    return ExpertWeights(
        tuple(range(count)),
        torch.randn(count, 2 * inner, hidden, generator=source),
        torch.randn(count, hidden, inner, generator=source),
    )


@pytest.mark.parametrize("rows", [0, 1, 7, 40])
def test_grouped_equals_plain(rows: int) -> None:
    source = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 12, generator=source)
    # The experts 0 and 4 are never chosen.
    places = torch.randint(1, 4, (rows,), generator=source)
    weights = some_experts()
    torch.testing.assert_close(run_grouped(x, places, weights), run_plain(x, places, weights))


@pytest.mark.parametrize("form", ["grouped", "plain"])
def test_local_experts_are_the_formula(form: str) -> None:
    weights = some_experts()
    x = torch.randn(6, 12, generator=torch.Generator().manual_seed(1))
    experts = torch.tensor([[0, 1], [4, 2], [1, 1], [3, 0], [2, 4], [0, 3]])
    share = torch.rand(6, 2)
    expected = torch.zeros(6, 12)
    for t in range(6):
        for k in range(2):
            gate, up = (weights.gate_up[experts[t, k]] @ x[t]).chunk(2)
            expected[t] += share[t, k] * (weights.down[experts[t, k]] @ (F.silu(gate) * up))
    found = LocalExperts({3: weights}, form)(3, x, experts, share)
    torch.testing.assert_close(found, expected)


def test_no_tokens_are_no_work() -> None:
    found = LocalExperts({0: some_experts()})(
        0, torch.empty(0, 12), torch.empty(0, 2, dtype=torch.int64), torch.empty(0, 2)
    )
    assert found.shape == (0, 12)


def test_the_sum_is_in_float32_and_in_order() -> None:
    made = torch.tensor([[[1e8], [1.0], [-1e8]]])
    share = torch.ones(1, 3)
    assert weighted_sum(made, share, torch.bfloat16).dtype == torch.bfloat16
    assert weighted_sum(made, share, torch.float32).item() == 0.0
    assert weighted_sum(made[:, [0, 2, 1]], share, torch.float32).item() == 1.0


def test_experts_that_are_elsewhere_are_refused() -> None:
    weights = some_experts()
    with pytest.raises(ValueError, match="layer 2"):
        LocalExperts({2: ExpertWeights((0, 2), weights.gate_up[:2], weights.down[:2])})
