"""The window of the load forgets what is old."""

from __future__ import annotations

import numpy as np
import pytest

from silva.control.placement_load import LoadWindow


def test_the_window_adds_up_and_forgets() -> None:
    window = LoadWindow(1, 2, span_s=10, parts=5)
    window.add(np.array([[1, 0]]), 0.0)
    window.add(np.array([[2, 5]]), 1.9)
    window.add(np.array([[4, 0]]), 5.0)
    assert window.load(9.9).tolist() == [[7, 5]]
    assert window.load(10.0).tolist() == [[4, 0]]
    assert window.load(100.0).tolist() == [[0, 0]]


def test_what_is_handed_out_is_a_copy() -> None:
    window = LoadWindow(1, 1, span_s=1)
    window.load(0.0)[0, 0] = 9
    assert window.load(0.0).tolist() == [[0]]


def test_counts_of_another_shape_or_sign_are_refused() -> None:
    window = LoadWindow(1, 2, span_s=1)
    for wrong in (np.ones((2, 1), int), np.array([[1, -1]])):
        with pytest.raises(ValueError, match="counts"):
            window.add(wrong, 0.0)
    with pytest.raises(ValueError, match="positive"):
        LoadWindow(1, 1, span_s=0)
