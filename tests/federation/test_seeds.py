from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from silva.federation.seeds import derive, generator

SEEDS = st.integers(0, 2**31)
LABELS = st.lists(st.one_of(st.integers(-5, 5), st.text(max_size=4)), max_size=4)


@given(SEEDS, LABELS)
def test_a_seed_fits_every_generator_and_depends_on_nothing_else(seed: int, labels: list) -> None:
    found = derive(seed, *labels)
    assert 0 <= found < 2**63
    assert found == derive(seed, *labels)


def test_every_label_and_its_place_count() -> None:
    seeds = [
        derive(0),
        derive(1),
        derive(0, "root"),
        derive(0, "root", 3),
        derive(0, 3, "root"),
        derive(0, "root", 4),
        derive(0, "root3"),
        derive(0, "ro", "ot", 3),
        derive(10, "root", 3),
    ]
    assert len(set(seeds)) == len(seeds)


def test_generators_of_one_purpose_draw_the_same_whatever_was_drawn_before() -> None:
    first = generator(5, "sample", 2).random(4).tolist()
    generator(5, "dropout", 2).random(100)
    assert generator(5, "sample", 2).random(4).tolist() == first
    assert generator(5, "dropout", 2).random(4).tolist() != first
