"""What folder levels mean, as people say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from silva.data.levels import are_levels, given_levels, is_split
from silva.errors import DataError


def given(labels: str, depth: int = 2) -> list[str]:
    def usable(named) -> bool:
        return "class" in named

    return given_levels(
        labels, depth, Path("there"), files="images", examples="split/class", usable=usable
    )


def test_each_level_has_its_word() -> None:
    assert given("split/class") == ["split", "class"]
    assert given("-/class/-", 3) == ["-", "class", "-"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("class", r"names 1 levels but images lie 2 deep.*\"-\""),
        ("class/class", "does not name folder levels.*split/class"),
        ("split/domain", "does not name folder levels"),
        ("../class", "does not name folder levels"),
        ("Class/class", "does not name folder levels"),
        ("/class", "does not name folder levels"),
        ("x" * 500 + "/class", "does not name folder levels"),
    ],
)
def test_what_names_no_levels_is_refused_in_a_line(labels: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as refused:
        given(labels)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("names", "split"),
    [
        ({"train", "test"}, True),
        ({"Train", "VAL"}, True),
        ({"test"}, False),
        ({"train", "cats"}, False),
        (set(), False),
    ],
)
def test_a_split_is_of_training_data_and_others_alone(names: set[str], split: bool) -> None:
    assert is_split(names) == split
    assert are_levels(names) == all(name.islower() for name in names)
