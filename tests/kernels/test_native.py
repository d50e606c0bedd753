"""Both backends of every operator against a float64 oracle, and against each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from silva.errors import MissingExtraError
from silva.kernels import Backend, native, native_loaded, projector_overlap

BACKENDS: list[Backend] = ["portable", "auto"] + (["native"] if native_loaded() else [])
TOLERANCE = 1e-5


def orthonormal(shape: tuple[int, int, int, int], seed: int = 0) -> NDArray[np.float32]:
    """Random bases [n, m, p, r] with orthonormal columns."""
    draws = np.random.default_rng(seed).normal(size=shape)
    return np.linalg.qr(draws)[0].astype(np.float32)


def oracle(bases: NDArray[np.float32]) -> NDArray[np.float64]:
    """The definition, in double precision."""
    exact = bases.astype(np.float64)
    products = np.einsum("impa,jmpb->ijmab", exact, exact)
    return np.square(products).sum(axis=(3, 4)).mean(axis=2) / bases.shape[3]


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    clients=st.integers(1, 12),
    modules=st.integers(1, 3),
    rank=st.integers(1, 11),
    extra=st.integers(0, 30),
)
def test_overlap_is_its_definition(
    backend: Backend, clients: int, modules: int, rank: int, extra: int
) -> None:
    bases = orthonormal((clients, modules, rank + extra, rank))
    np.testing.assert_allclose(projector_overlap(bases, backend), oracle(bases), atol=TOLERANCE)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "shape", [(3, 2, 80, 60), (70, 1, 16, 1), (9, 2, 192, 8), (5, 1, 130, 64), (2, 1, 3, 3)]
)
def test_overlap_of_shapes_that_straddle_tiles(
    backend: Backend, shape: tuple[int, int, int, int]
) -> None:
    bases = orthonormal(shape)
    np.testing.assert_allclose(projector_overlap(bases, backend), oracle(bases), atol=TOLERANCE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_overlap_is_symmetric_repeatable_and_one_with_itself(backend: Backend) -> None:
    bases = orthonormal((13, 2, 24, 5))
    first = projector_overlap(bases, backend)
    assert np.array_equal(first, first.T)
    assert np.array_equal(first, projector_overlap(bases, backend))
    np.testing.assert_allclose(np.diag(first), 1.0, atol=TOLERANCE)
    assert first.dtype == np.float64


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_subspace_has_overlap_one_and_orthogonal_ones_zero(backend: Backend) -> None:
    basis = orthonormal((1, 1, 12, 8))[0, 0]
    turn = orthonormal((1, 1, 4, 4), seed=1)[0, 0]
    bases = np.stack([basis[:, :4], basis[:, :4] @ turn, basis[:, 4:]])[:, None]
    expected = [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(projector_overlap(bases, backend), expected, atol=TOLERANCE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_layouts_and_types_are_read_as_float32(backend: Backend) -> None:
    bases = orthonormal((4, 2, 10, 3))
    views = np.asfortranarray(bases.astype(np.float64))
    assert np.array_equal(projector_overlap(views, backend), projector_overlap(bases, backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_not_a_number_stays_with_its_client(backend: Backend) -> None:
    bases = orthonormal((5, 1, 10, 3))
    bases[1, 0, 2, 0] = np.nan
    bad = np.isnan(projector_overlap(bases, backend))
    assert bad[1].all()
    assert bad[:, 1].all()
    assert bad.sum() == 9


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(3, 4, 5), (0, 1, 4, 2), (2, 1, 4, 0), (2, 0, 4, 2)])
def test_wrong_shapes_are_refused(backend: Backend, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="bases must be"):
        projector_overlap(np.zeros(shape, np.float32), backend)


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="backend must be one of"):
        projector_overlap(orthonormal((2, 1, 4, 2)), "fast")  # type: ignore[arg-type]


def test_native_without_a_build_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_compiled", None)
    assert not native.native_loaded()
    bases = orthonormal((3, 1, 6, 2))
    with pytest.raises(MissingExtraError, match=r"C\+\+ compiler"):
        projector_overlap(bases, "native")
    np.testing.assert_allclose(projector_overlap(bases, "auto"), oracle(bases), atol=TOLERANCE)
