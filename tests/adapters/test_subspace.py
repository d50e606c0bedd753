from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from silva.adapters.subspace import (
    align,
    basis,
    direction_distances,
    distances,
    fix_signs,
    mean_overlap,
    overlap,
    unit,
)


def draw(seed: int, p: int = 24, r: int = 3) -> torch.Tensor:
    return torch.randn(p, r, generator=torch.Generator().manual_seed(seed))


def test_a_basis_is_orthonormal_and_spans_the_factor() -> None:
    factor = draw(0)
    u = basis(factor)
    torch.testing.assert_close(u.T @ u, torch.eye(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(u @ (u.T @ factor), factor, atol=1e-5, rtol=1e-5)
    assert torch.equal(basis(factor), u) and u.dtype == factor.dtype


def test_signs_are_fixed() -> None:
    u = draw(0)
    flipped = u * torch.tensor([1.0, -1.0, -1.0])
    assert torch.equal(fix_signs(u), fix_signs(flipped))
    assert torch.equal(fix_signs(torch.zeros(4, 2)), torch.zeros(4, 2))


def test_unit_leaves_what_has_no_direction() -> None:
    assert float(unit(draw(0)).norm()) == pytest.approx(1.0, abs=1e-6)
    assert torch.equal(unit(torch.zeros(4, 2)), torch.zeros(4, 2))


def test_aligning_undoes_a_rotation_and_keeps_the_span() -> None:
    factor = draw(0)
    turn = torch.linalg.qr(draw(1, 3, 3))[0]
    torch.testing.assert_close(align(factor @ turn, factor), factor, atol=1e-5, rtol=1e-5)
    assert overlap(align(factor, draw(2)), factor) == pytest.approx(1.0, abs=1e-6)


@given(st.integers(0, 10_000))
def test_overlap_is_blind_to_the_choice_of_basis(seed: int) -> None:
    x, y, turn = draw(seed), draw(seed + 1), draw(seed + 2, 3, 3)
    turn = turn + 3 * torch.eye(3)
    assert overlap(x, x @ turn) == pytest.approx(1.0, abs=1e-4)
    assert overlap(x, y) == pytest.approx(overlap(y, x), abs=1e-6)
    assert overlap(x @ turn, y) == pytest.approx(overlap(x, y), abs=1e-4)
    assert -1e-9 <= overlap(x, y) <= 1 + 1e-9


def test_orthogonal_spans_do_not_overlap() -> None:
    q = torch.linalg.qr(draw(0, 24, 6))[0]
    assert overlap(q[:, :3], q[:, 3:]) < 1e-9
    assert overlap(q[:, :4], q[:, 2:6]) == pytest.approx(0.5)


def test_mean_overlap_skips_modules_without_a_direction() -> None:
    x = {"a": draw(0), "b": draw(1), "c": draw(2)}
    y = {"a": x["a"], "b": torch.zeros(24, 3)}
    assert mean_overlap(x, y) == pytest.approx(1.0)
    assert mean_overlap(x, {}) == 0.0


def test_distances_are_zero_for_equal_spans_and_symmetric() -> None:
    turn = draw(9, 3, 3) + 3 * torch.eye(3)
    clients = [{"a": draw(0), "b": draw(1)}, {"a": draw(2), "b": draw(3)}]
    clients.append({name: factor @ turn for name, factor in clients[0].items()})
    found = distances(clients)
    assert found.shape == (3, 3) and np.array_equal(found, found.T)
    assert found[0, 2] < 1e-5 and not found.diagonal().any()
    assert found.min() >= 0 and found.max() <= 1
    wanted = 1 - mean_overlap(clients[0], clients[1])
    assert found[0, 1] == pytest.approx(wanted, abs=1e-5)


def test_random_spans_are_one_minus_r_over_p_apart() -> None:
    clients = [{"a": draw(n, 64, 4), "b": draw(100 + n, 64, 4)} for n in range(20)]
    found = distances(clients, backend="portable")
    apart = found[~np.eye(20, dtype=bool)]
    assert apart.mean() == pytest.approx(1 - 4 / 64, abs=0.01)


def test_modules_of_other_shapes_count_as_much() -> None:
    both = [{"k": draw(n), "q": draw(10 + n), "v": draw(20 + n, p=12)} for n in range(4)]
    alone = [distances([{m: f[m]} for f in both]) for m in ("k", "q", "v")]
    np.testing.assert_allclose(distances(both), np.mean(alone, axis=0), atol=1e-6)


def test_modules_where_anyone_has_no_direction_are_left_out() -> None:
    clients = [{"a": draw(0), "b": torch.zeros(24, 3)}, {"a": draw(0), "b": draw(1)}]
    assert distances(clients)[0, 1] < 1e-6
    nothing = [{"a": torch.zeros(24, 3)}] * 3
    assert np.array_equal(distances(nothing), 1 - np.eye(3))


def test_direction_distances_see_signs_and_single_columns() -> None:
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    turned = x[:, [1, 0, 2]]
    found = direction_distances([{"m": x}, {"m": 2 * x}, {"m": -x}, {"m": turned}, {"m": 0 * x}])
    assert found[0, 1] == pytest.approx(0.0, abs=1e-6)
    assert found[0, 2] == pytest.approx(1.0, abs=1e-6)
    assert 0.0 < found[0, 3] < 1.0 and found[0, 4] == pytest.approx(0.5)
    assert (found == found.T).all() and not found.diagonal().any()
