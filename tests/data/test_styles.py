from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from silva.data.styles import NOISE, STYLES, apply_style, check_style
from silva.errors import PartitionError

ROWS = np.array([3, 70, 5])
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("style", STYLES)
def test_a_style_keeps_shape_and_type_and_the_original(style: str) -> None:
    before = IMAGES.copy()
    styled = apply_style(IMAGES, style, ROWS)
    assert styled.shape == IMAGES.shape and styled.dtype == np.uint8
    np.testing.assert_array_equal(IMAGES, before)
    assert (styled != IMAGES).any() == bool(style)


@pytest.mark.parametrize("style", STYLES)
@given(order=st.permutations([0, 1, 2]), count=st.integers(0, 3))
def test_an_image_looks_the_same_whatever_is_loaded_beside_it(
    style: str, order: list[int], count: int
) -> None:
    chosen = order[:count]
    together = apply_style(IMAGES, style, ROWS)
    np.testing.assert_array_equal(
        apply_style(IMAGES[chosen], style, ROWS[chosen]), together[chosen]
    )


def test_inverting_and_turning_undo_themselves() -> None:
    for style, times in (("inverted", 2), ("rotated", 4), ("flipped", 2)):
        images = IMAGES
        for _ in range(times):
            images = apply_style(images, style, ROWS)
        np.testing.assert_array_equal(images, IMAGES)


def test_edges_see_a_step_and_nothing_in_a_flat_image() -> None:
    step = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    assert not apply_style(step, "edges", ROWS[:1]).any()
    step[:, :, 4:, 0] = 255
    edges = apply_style(step, "edges", ROWS[:1])
    assert (edges[0, :, 3:5, 0] == 255).all()
    assert not edges[..., 1:].any() and not edges[0, :, :3].any()


def test_noise_differs_between_images_and_has_the_stated_size() -> None:
    grey = np.full((2, 64, 64, 3), 128, dtype=np.uint8)
    noise = apply_style(grey, "noisy", np.array([0, 1])).astype(float) - 128
    assert (noise[0] != noise[1]).any()
    assert abs(noise.std() - NOISE) < 2 and abs(noise.mean()) < 2


def test_plain_means_no_style_and_an_unknown_one_lists_the_known() -> None:
    assert check_style("plain") == check_style("") == ""
    with pytest.raises(PartitionError, match="known are plain, inverted, edges"):
        apply_style(IMAGES, "sepia", ROWS)
